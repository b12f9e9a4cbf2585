//! Every limit of a function node by name.

use std::time::Duration;

/// Characters of a function's name: a label of a DNS name.
pub const NAME_LETTERS_MAX: usize = 63;

/// Bytes of a package, as it is sent. AWS Lambda takes 250 MB unpacked.
pub const PACKAGE_BYTES_MAX: u64 = 256 << 20;

/// Packages that a node receives at once; each is in memory until it is stored.
pub const DEPLOYMENTS_AT_ONCE: usize = 4;

/// How long a package may take to arrive.
pub const RECEIVE_MAX: Duration = Duration::from_secs(600);

/// Bytes of a package unpacked, and files in it.
pub const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Files of a package.
pub const PACKAGE_FILES_MAX: usize = 100_000;

/// Bytes of one stored piece of a package: an item of the database holds 400 KiB.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Pieces of a package that are read or written at once.
pub const CHUNKS_AT_ONCE: usize = 8;

/// Revisions of a function that are kept, the newest among them.
pub const REVISIONS_KEPT: u64 = 20;

/// Environment variables of a function, names and values together, bytes. As AWS Lambda has it.
pub const ENVIRONMENT_BYTES_MAX: usize = 4096;

/// Arguments of a command.
pub const COMMAND_WORDS_MAX: usize = 100;

/// Default and most of a request's time, from its first byte to the last of its response.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// Most time that a function may give a request.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Memory of a component and of a process, bytes.
pub const WASM_MEMORY_DEFAULT: u64 = 128 << 20;
/// Memory of a process, if nothing is said.
pub const PROCESS_MEMORY_DEFAULT: u64 = 512 << 20;
/// Least memory that can be asked for.
pub const MEMORY_MIN: u64 = 1 << 20;
/// Most memory that can be asked for.
pub const MEMORY_MAX: u64 = 32 << 30;

/// Requests at once in one process. Cloud Run's default and its most.
pub const CONCURRENCY_DEFAULT: u32 = 80;
/// Most that can be asked for.
pub const CONCURRENCY_MAX: u32 = 1000;

/// Instances of a component on one node.
pub const WASM_INSTANCES_DEFAULT: u32 = 100;
/// Instances of a process on one node.
pub const PROCESS_INSTANCES_DEFAULT: u32 = 10;
/// Most that can be asked for.
pub const INSTANCES_MAX: u32 = 1000;

/// Requests that wait for an instance of one function on one node.
pub const QUEUE_DEFAULT: u32 = 1000;
/// Most that can be asked for.
pub const QUEUE_MAX: u32 = 100_000;

/// How long an instance without requests is kept.
pub const IDLE_DEFAULT: Duration = Duration::from_secs(60);
/// Most that can be asked for.
pub const IDLE_MAX: Duration = Duration::from_secs(3600);

/// How long an instance may take until it listens.
pub const START_MAX: Duration = Duration::from_secs(60);

/// How long a process may take to end by itself. Cloud Run's grace.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// Bytes of a message of Invoke, and of everything else over gRPC.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Bytes of an HTTP request's head.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// How long half a head may take to become whole, and a connection may be idle.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(60);

/// HTTP connections at once.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Times that a request is offered to another instance because the one it was given to is gone.
pub const DELIVERIES_MAX: usize = 3;

/// How often the catalog is read again: how long another node's deployment or deletion may stay unseen.
pub const CATALOG_EVERY: Duration = Duration::from_millis(500);

/// How often instances without requests are looked for.
pub const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// Records of logs on their way into the database.
pub const LOG_RECORDS_WAITING_MAX: usize = 10_000;

/// How often they are written.
pub const LOG_FLUSH_EVERY: Duration = Duration::from_millis(200);

/// Bytes of records in one item.
pub const LOG_BATCH_BYTES: usize = 64 << 10;

/// Bytes of records of one function that a node writes between two flushes; what is beyond is counted and left out.
pub const LOG_FLUSH_BYTES_MAX: usize = 4 * LOG_BATCH_BYTES;

/// Bytes of a line; longer ones are cut into several.
pub const LOG_LINE_BYTES_MAX: usize = 16 << 10;

/// How long logs are kept.
pub const LOG_KEEP: Duration = Duration::from_secs(24 * 3600);

/// Records that one call of Logs answers with, if nothing is said, and at most.
pub const LOG_RECORDS_DEFAULT: usize = 1000;
/// Most that can be asked for.
pub const LOG_RECORDS_MAX: usize = 100_000;

/// How often a follower of logs looks for more.
pub const LOG_FOLLOW_EVERY: Duration = Duration::from_millis(300);

/// How often logs and packages that nobody needs are looked for.
pub const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(600);

/// A package without a function is removed when it was not asked for so long.
pub const PACKAGE_KEEP: Duration = Duration::from_secs(3600);
