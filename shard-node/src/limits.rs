//! Every limit of the database by name. Those that users of DynamoDB know have its values.
//!
//! Source: DynamoDB developer guide, "Service, account, and table quotas".

use std::time::Duration;

/// Bytes of an item, names and values.
pub const ITEM_BYTES_MAX: usize = 400 << 10;

/// Bytes of a partition key's value.
pub const PARTITION_KEY_BYTES_MAX: usize = 2048;

/// Bytes of a sort key's value.
pub const SORT_KEY_BYTES_MAX: usize = 1024;

/// Lists and maps inside of each other.
pub const NESTING_MAX: usize = 32;

/// Bytes of a PartiQL statement.
pub const STATEMENT_BYTES_MAX: usize = 8192;

/// Statements of one BatchExecuteStatement.
pub const STATEMENTS_MAX: usize = 25;

/// Bytes of an expression's text.
pub const EXPRESSION_BYTES_MAX: usize = 4096;

/// Operators and functions of one expression.
pub const EXPRESSION_OPERATORS_MAX: usize = 300;

/// Parentheses and functions inside of each other; what keeps a recursion off the end of the stack.
pub const EXPRESSION_DEPTH_MAX: usize = 64;

/// Operands of IN.
pub const IN_OPERANDS_MAX: usize = 100;

/// Bytes of items read for one page, before they are filtered.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// Keys of one BatchGetItem.
pub const BATCH_GET_KEYS_MAX: usize = 100;

/// Bytes of items that one BatchGetItem answers with; what is beyond comes back as unprocessed.
pub const BATCH_GET_BYTES_MAX: usize = 16 << 20;

/// Writes of one BatchWriteItem.
pub const BATCH_WRITE_REQUESTS_MAX: usize = 25;

/// Parts of a parallel scan.
pub const SEGMENTS_MAX: u32 = 1_000_000;

/// Names of one answer of ListTables.
pub const LIST_TABLES_MAX: u32 = 100;

/// Pages of a stream that wait for somebody to take them, while another one is read.
pub const PAGES_AHEAD: usize = 1;

/// How long capacity that nobody asks for is saved up, of tables, indexes and nodes whose throughput is limited.
pub const CAPACITY_SAVED: Duration = Duration::from_secs(300);

/// Hot keys of a table that are told if nobody says how many.
pub const HOT_KEYS_DEFAULT: u32 = 10;

/// Hot keys of a table that are told, as many as are counted.
pub const HOT_KEYS_MAX: u32 = 64;

/// Tables of a cluster.
pub const TABLES_MAX: usize = 2500;

/// Bytes of an HTTP request's body.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// Bytes of one gRPC message.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How long half an HTTP request may take to become whole.
pub const HALF_REQUEST_MAX: Duration = Duration::from_secs(30);

/// How long an HTTP connection may be idle.
pub const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(300);

/// HTTP connections at once.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Reads on threads of their own, queries and scans, at once.
pub const SCANS_MAX: usize = 64;

/// Superseded versions that are removed with one commit, at most.
pub const HISTORY_REMOVED_MAX: usize = 4096;

/// For how long a table's items can be read as they were, at most.
pub const HISTORY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How much longer superseded versions are there than they may be asked for: what is being read does not go meanwhile, and clocks differ.
pub const HISTORY_SLACK: Duration = Duration::from_secs(60);

/// How often partitions are looked at for superseded versions whose time is over, at least.
pub const HISTORY_LOOK_EVERY: Duration = Duration::from_secs(10);

/// Superseded versions that are looked at at once, and the pause behind them.
pub const HISTORY_PAGE: usize = 10_000;

/// See [`HISTORY_PAGE`].
pub const HISTORY_PAUSE: Duration = Duration::from_millis(50);

/// Superseded versions that are removed with one command.
pub const HISTORY_TRIM_ROWS: usize = 1024;

/// Rows of a deleted table that are removed at once.
pub const SWEEP_ROWS_MAX: usize = 1000;

/// Secondary indexes of a table that have its partition key.
pub const LOCAL_INDEXES_MAX: usize = 5;

/// Secondary indexes of a table that have other keys.
pub const GLOBAL_INDEXES_MAX: usize = 20;

/// Attributes that all indexes of a table name to have beside keys.
pub const PROJECTED_ATTRIBUTES_MAX: usize = 100;

/// Changes carried to global indexes at once, from one partition.
pub const PROPAGATED_MAX: usize = 256;

/// Partitions that carry changes to global indexes at once, on a node.
pub const PROPAGATIONS_MAX: usize = 16;

/// How often partitions are looked at for changes that wait for indexes, beside when they say so.
pub const PROPAGATE_EVERY: Duration = Duration::from_secs(1);

/// How often partitions are looked at for what has done its duty.
pub const TIDY_EVERY: Duration = Duration::from_secs(30);

/// Attempts to change the definition of a table that others change too.
pub const DEFINE_ATTEMPTS: usize = 32;

/// How long an index that is filled waits for what it does not have yet, before that is looked at anew.
pub const FILLED_PAUSE: Duration = Duration::from_millis(20);

/// Expired items that are removed with one command.
pub const EXPIRE_ROWS: usize = 256;

/// Rows that are looked at at once for those whose time has come, and the pause behind them.
pub const EXPIRE_PAGE: usize = 2000;

/// See [`EXPIRE_PAGE`].
pub const EXPIRE_PAUSE: Duration = Duration::from_millis(100);

/// How long an index remembers that it does not have an entry any more.
pub const REMOVED_KEPT: Duration = Duration::from_secs(600);

/// Items that are looked at at once for an index that is being made.
pub const BACKFILL_ROWS: usize = 256;

/// Actions of a transaction.
pub const ACTIONS_MAX: usize = 100;

/// Bytes of the items of a transaction.
pub const TRANSACTION_BYTES_MAX: usize = 4 << 20;

/// How old a transaction may be when it is decided on.
pub const TRANSACTION_MAX: Duration = Duration::from_secs(600);

/// How long a transaction's idempotency token is remembered.
pub const RECORDS_KEPT: Duration = Duration::from_secs(600);

/// How long it is remembered that a transaction was decided against: longer than one may be old.
pub const REFUSALS_KEPT: Duration = Duration::from_secs(3600);

/// How long a write waits for transactions that have a hold of its item.
pub const HELD_MAX: Duration = Duration::from_secs(3);

/// From when on a transaction is decided against by whoever meets it: its coordinator is gone.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(2);

/// Decided transactions whose items are being written, of those that this node was asked for.
pub const RESOLVING_MAX: usize = 1024;

/// Attempts to read many items as they were at one moment.
pub const SNAPSHOT_ATTEMPTS: usize = 16;

/// How often a node looks at each partition that it leads for items whose time has come; with many items it takes longer.
pub const EXPIRE_EVERY: Duration = Duration::from_secs(10);

/// How long a stream has a change; and how long it is there after it ended.
pub const STREAM_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Changes whose time is over that are removed from a stream with one command.
pub const STREAM_TRIM_ROWS: usize = 1024;

/// Changes of one answer of GetRecords.
pub const STREAM_RECORDS_MAX: u32 = 1000;

/// Shards of one answer of DescribeStream, and streams of one of ListStreams.
pub const STREAM_PAGE_MAX: u32 = 100;

/// Shards of a stream that are read at once for one who follows it.
pub const FOLLOW_AT_ONCE: usize = 16;

/// Changes of one shard that are read ahead for one who follows a stream, before a page is asked for once more.
pub const FOLLOW_BUFFER: usize = 1000;

/// Bytes that are read ahead for one who follows a stream, over all shards, before nothing more is asked for.
pub const FOLLOW_BYTES: usize = 32 << 20;

/// How long one who follows a stream waits before it is looked at again, where nothing is new.
pub const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// How long the parts of a transaction that are there wait for the others.
pub const TOGETHER_MAX: Duration = Duration::from_secs(10);

/// Answers that wait for one who follows a stream.
pub const FOLLOW_WAITING_MAX: usize = 4;

/// How long a shard iterator is good for.
pub const ITERATOR_KEPT: Duration = Duration::from_secs(15 * 60);

/// Characters of a shard iterator.
pub const ITERATOR_BYTES_MAX: usize = 2048;

/// How long what a copy had is kept in view for a checksum.
pub const CHECKSUM_KEPT: Duration = Duration::from_secs(120);

/// How long a copy may take to come to where a checksum is asked of.
pub const CHECKSUM_MAX: Duration = Duration::from_secs(10);

/// Keys of the DynamoDB API that a cluster has.
pub const ACCESS_KEYS_MAX: usize = 1000;

/// Bytes of what is said of whose a key is.
pub const ACCESS_KEY_NOTE_BYTES_MAX: usize = 256;

/// How far the time of a signature may be from a node's own.
pub const SIGNATURE_SKEW: Duration = Duration::from_secs(15 * 60);

/// Tags of a table.
pub const TAGS_MAX: usize = 50;

/// How often a node looks for rows of deleted tables.
pub const SWEEP_EVERY: Duration = Duration::from_secs(2);
