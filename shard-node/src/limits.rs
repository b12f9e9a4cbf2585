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

/// Rows of a deleted table that are removed at once.
pub const SWEEP_ROWS_MAX: usize = 1000;

/// How often a node looks for rows of deleted tables.
pub const SWEEP_EVERY: Duration = Duration::from_secs(2);
