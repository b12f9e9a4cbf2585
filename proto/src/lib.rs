//! The messages on the wire, in the log and on disk. Generated from the `.proto` files beside this crate.
//!
//! `api` is stable for users, `internal` across one rolling upgrade, `state` for ever.

/// The generated modules, nested as the packages are.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/generated.rs"));
}

/// What users call.
pub mod api {
    pub use crate::generated::trimaran::backup::v1 as backup;
    pub use crate::generated::trimaran::cluster::v1 as cluster;
    pub use crate::generated::trimaran::coordination::v1 as coordination;
    pub use crate::generated::trimaran::database::v1 as database;
    pub use crate::generated::trimaran::error::v1 as error;
    pub use crate::generated::trimaran::functions::v1 as functions;
    pub use crate::generated::trimaran::grid::v1 as grid;
    pub use crate::generated::trimaran::namespaces::v1 as namespaces;
    pub use crate::generated::trimaran::placement::v1 as placement;
}

/// What nodes say to each other.
pub mod internal {
    pub use crate::generated::trimaran::internal::cluster::v1 as cluster;
    pub use crate::generated::trimaran::internal::replication::v1 as replication;
    pub use crate::generated::trimaran::internal::shard::v1 as shard;
}

/// What is kept in logs and snapshots.
pub mod state {
    pub use crate::generated::trimaran::state::backup::v1 as backup;
    pub use crate::generated::trimaran::state::functions::v1 as functions;
    pub use crate::generated::trimaran::state::grid::v1 as grid;
    pub use crate::generated::trimaran::state::log::v1 as log;
    pub use crate::generated::trimaran::state::meta::v1 as meta;
    pub use crate::generated::trimaran::state::shard::v1 as shard;
}

/// All descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
