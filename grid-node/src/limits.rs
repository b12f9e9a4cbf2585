//! Every limit of the grid by name. Fronts name them in their refusals.

use std::time::Duration;

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 65_536;

/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// Arguments of one command.
pub const ARGUMENTS_MAX: usize = 65_536;

/// Bytes of an inline RESP command (one typed by hand).
pub const INLINE_BYTES_MAX: usize = 65_536;

/// Bytes of one RESP request with all of its arguments, and of the body of one over HTTP.
pub const REQUEST_BYTES_MAX: usize = 32 << 20;

/// Bytes of one gRPC message with keys of a backup: they become as many entries of the log as there are partitions in it.
pub const IMPORT_BYTES_MAX: usize = 32 << 20;

/// Partitions of this node that are exported at once; more wait.
pub const EXPORTS_MAX: usize = 4;

/// How long who reads an export may take for one chunk: slots that are written to meanwhile are in memory twice.
pub const UNREAD_EXPORT_MAX: Duration = Duration::from_secs(60);

/// Bytes of one gRPC message.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// RESP connections at once, and as many over HTTP.
pub const CONNECTIONS_MAX: usize = 10_000;

/// How long half a request may take to become whole.
pub const HALF_REQUEST_MAX: Duration = Duration::from_secs(30);

/// How long an HTTP connection may be idle between two requests.
pub const IDLE_HTTP_MAX: Duration = Duration::from_secs(60);

/// How long a RESP client may take to read its answers.
pub const UNREAD_ANSWER_MAX: Duration = Duration::from_secs(60);

/// Commands taken from one RESP connection at once, and most of one pipeline over HTTP.
pub const PIPELINE_COMMANDS_MAX: usize = 1024;

/// Bytes of the arguments of commands that go together, unless a single one has more: in them a partition does nothing else.
pub const PIPELINE_BYTES_MAX: usize = 256 << 10;

/// Keys of one page of a scan.
pub const SCAN_COUNT_MAX: u32 = 10_000;

/// Keys of a page where the caller names no number.
pub const SCAN_COUNT_DEFAULT: u32 = 100;

/// How long a request is tried at changing leaders before it is given up.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Changes of a partition that a watch can go back to.
pub const EVENTS_KEPT: usize = 65_536;

/// Bytes of the values among them.
pub const EVENTS_BYTES_KEPT: usize = 64 << 20;

/// Bytes of the newest changes that go along when a partition becomes part of another one.
pub const EVENTS_BYTES_MERGED: usize = 1 << 20;

/// Positions that a watch may go on from.
pub const POSITIONS_MAX: usize = 16_384;

/// Times that keys of a partition have come to it or to one before it, which it remembers.
pub const ORIGINS_KEPT: usize = 256;

/// How long a watch that a copy cannot go on with waits for one that does not answer.
pub const WATCH_PATIENCE: Duration = Duration::from_secs(10);

/// Keys that one command of the leader removes because they are due.
pub const REAP_KEYS_MAX: usize = 1024;

/// How often the leader looks for keys that are due.
pub const REAP_EVERY: Duration = Duration::from_millis(100);

/// Keys that one command of the leader removes to make room.
pub const EVICTED_KEYS_MAX: usize = 1024;

/// Keys that are looked at for each that goes (`maxmemory-samples`).
pub const EVICTION_SAMPLES_DEFAULT: usize = 5;

/// How often it is looked whether there is still room, if nobody asks for some.
pub const EVICT_EVERY: Duration = Duration::from_millis(100);

/// How long the leaders of other partitions are given before more is removed here.
pub const EVICT_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// How long a command waits for room.
pub const ROOM_PATIENCE: Duration = Duration::from_millis(100);

/// Elements that one command takes at random where one may come again.
pub const SAMPLE_MAX: usize = 1 << 20;

/// Commands between MULTI and EXEC.
pub const QUEUED_COMMANDS_MAX: usize = 65_536;

/// Bytes of their arguments: they are one entry of the log.
pub const QUEUED_BYTES_MAX: usize = 32 << 20;

/// Instructions of one script: some tenths of a second, in which nobody else is served by the partition.
pub const SCRIPT_INSTRUCTIONS_MAX: u64 = 50_000_000;

/// Bytes of memory of one script.
pub const SCRIPT_MEMORY_MAX: usize = 128 << 20;

/// How deep tables in an answer of a script may be nested.
pub const SCRIPT_REPLY_DEPTH_MAX: usize = 64;

/// Scripts that a node remembers for EVALSHA, and bytes of them.
pub const SCRIPTS_KEPT: usize = 10_000;

/// Bytes of those.
pub const SCRIPTS_BYTES_KEPT: usize = 64 << 20;

/// Entries that one read of a stream returns where none are counted.
pub const STREAM_READ_MAX: usize = 1 << 20;

/// Chunks of a stream that are trimmed at once where it is not said how many entries (`XADD … MAXLEN ~`).
pub const STREAM_TRIM_LIMIT_CHUNKS: usize = 100;

/// Clients that wait for elements of one partition's keys.
pub const WAITING_MAX: usize = 65_536;

/// Bytes of the name of a lock or a semaphore.
pub const SEMAPHORE_NAME_BYTES_MAX: usize = 1024;

/// Bytes of a holder's name.
pub const HOLDER_BYTES_MAX: usize = 256;

/// Bytes of what a holder says to others.
pub const HOLDER_VALUE_BYTES_MAX: usize = 4096;

/// Permits of a semaphore.
pub const PERMITS_MAX: u32 = 65_536;

/// A lease, least and most, milliseconds: a shorter one ends between two looks of the leader, a longer one is none.
pub const LEASE_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;

/// Bytes of what is told of one semaphore, of who holds permits and who waits: it is one message, also for clients that take no larger
/// one than 4 MiB, and one piece of a snapshot. Some 30,000 of the SDK's holders.
pub const SEMAPHORE_BYTES_MAX: usize = 3 << 20;

/// How long a place in it is kept for somebody who does not ask again.
pub const PLACE_KEPT: Duration = Duration::from_secs(30);

/// After which time who waits for permits is answered, to ask again.
pub const ACQUIRE_ANSWERED_AFTER: Duration = Duration::from_secs(10);

/// Bytes of messages that wait for one client that has subscribed (`client-output-buffer-limit pubsub`): one that reads more
/// slowly is disconnected.
pub const SUBSCRIBER_BYTES_MAX: usize = 32 << 20;

/// Bytes of messages that wait for another node: if there are more it hears of none of them, and begins anew.
pub const LISTENER_BYTES_MAX: usize = 256 << 20;

/// Runs of commands whose events wait to be told to subscribers.
pub const NOTICES_WAITING_MAX: usize = 16_384;

/// Keys that clients of a node may have (`tracking-table-max-keys`): if there are more, some are told to be invalid.
pub const TRACKED_KEYS_MAX: usize = 1_000_000;

/// Channels and patterns that one client has subscribed to.
pub const SUBSCRIPTIONS_MAX: usize = 65_536;

/// Namespaces of a cluster.
pub const NAMESPACES_MAX: usize = 1000;

/// Libraries of functions.
pub const LIBRARIES_MAX: usize = 1024;

/// Bytes of their code: they are in the head of every snapshot.
pub const LIBRARIES_BYTES_MAX: usize = 16 << 20;

/// Users of a cluster.
pub const USERS_MAX: usize = 10_000;

/// Bytes of the rules of one user.
pub const USER_RULES_BYTES_MAX: usize = 64 << 10;

/// Entries of ACL LOG, if nothing else is told (`acllog-max-len`), and at most.
pub const ACCESS_LOG_ENTRIES_DEFAULT: u64 = 128;

/// At most.
pub const ACCESS_LOG_ENTRIES_MAX: u64 = 65_536;

/// Bytes that the compressed strings of one value may become (RESTORE): a small one could fill the memory of every replica else.
pub const RESTORED_BYTES_MAX: usize = 64 << 20;
