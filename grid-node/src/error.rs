//! What can go wrong with a request to the grid, by what the caller can do.

use trimaran_net::status::{Class, Classified};
use trimaran_proto::api::error::ErrorDetail;

/// Why a request was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Change the request: a field is out of its limit.
    #[error("{field} has {actual}, the limit {limit} is {max}")]
    Limit {
        /// The field, e.g. "key".
        field: &'static str,
        /// Name of the limit.
        limit: &'static str,
        /// What was sent.
        actual: u64,
        /// What is allowed.
        max: u64,
    },
    /// Change the request: a field makes no sense.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The key holds something that the operation cannot work on.
    #[error("{0}")]
    Operand(&'static str),
    /// Keys of one atomic command lie in different partitions: give them a common hash tag.
    #[error("keys of one request lie in different partitions")]
    CrossSlot,
    /// There is no memory for more, and nothing may be evicted: delete something, or raise `maxmemory`.
    #[error("the partition's leader has no memory for more (maxmemory)")]
    Full,
    /// The namespace has no memory left of its quota: delete some of its keys, or raise it.
    #[error("namespace '{namespace}' takes its quota of {max} bytes of memory")]
    NamespaceFull {
        /// Its name.
        namespace: String,
        /// Its quota, bytes.
        max: u64,
    },
    /// The namespace was asked more than its quota lets through: try again later.
    #[error("namespace '{namespace}' is asked more than its quota of {max} operations per second")]
    Throttled {
        /// Its name.
        namespace: String,
        /// Its quota, keys per second.
        max: u64,
    },
    /// The lease is over, or was given back: acquire it again.
    #[error("the holding of the lock or semaphore is over")]
    LeaseLost,
    /// Others have named another number of permits for the same semaphore, or the holder itself another one to take.
    #[error(
        "permits: others have named another number for this semaphore, or the holder another one to take"
    )]
    PermitsDiffer,
    /// What is to be restored is no value that is known: take the backup with this release, or upgrade the nodes.
    #[error("an item of the chunk is no value that this release knows")]
    Malformed,
    /// A value that is restored in parts was changed by somebody else in between: restore it again with `replace`.
    #[error("the key was changed by somebody else while it was restored")]
    ChangedMeanwhile,
    /// A watch cannot go back that far.
    #[error("changes up to version {oldest} of partition {partition} are not remembered any more")]
    Compacted {
        /// The partition.
        partition: u64,
        /// The oldest version to go on from.
        oldest: u64,
    },
    /// Ask another node.
    #[error("partition {partition} is not on this node")]
    Elsewhere {
        /// The partition.
        partition: u64,
        /// A node that has it, if known.
        address: String,
    },
    /// A majority of the partition's copies is gone for good.
    #[error("partition {partition} is lost: a majority of its copies in memory is gone")]
    PartitionLost {
        /// The partition.
        partition: u64,
    },
    /// Upgrade the nodes that do not know it.
    #[error("there are nodes of a release in the cluster that does not know this yet: upgrade them all")]
    NotKnownYet,
    /// Try again later: whoever leads the cluster could not be asked to agree on it.
    #[error("the cluster has not agreed on it: {0}")]
    NotAgreed(String),
    /// The node has not joined its cluster yet, or is stopping.
    #[error("the node does not take requests yet")]
    NotReady,
    /// It may have been carried out; retry with the same request id.
    #[error("no leader of partition {partition} answered in time")]
    TimedOut {
        /// The partition.
        partition: u64,
    },
    /// From the group.
    #[error(transparent)]
    Replication(#[from] trimaran_replication::Error),
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Limit { .. } | Self::Invalid { .. } | Self::CrossSlot | Self::Malformed => Class::Invalid,
            Self::Operand(_)
            | Self::Compacted { .. }
            | Self::LeaseLost
            | Self::PermitsDiffer
            | Self::ChangedMeanwhile => Class::Conflict,
            Self::Elsewhere { .. } => Class::Elsewhere,
            Self::PartitionLost { .. } => Class::Broken,
            Self::NotReady | Self::NotKnownYet | Self::NotAgreed(_) => Class::Later,
            Self::Full | Self::NamespaceFull { .. } | Self::Throttled { .. } => Class::Exhausted,
            Self::TimedOut { .. } => Class::Unknown,
            Self::Replication(inner) => inner.class(),
        }
    }

    fn detail(&self) -> ErrorDetail {
        let code = match self {
            Self::Limit { .. } => "LIMIT_EXCEEDED",
            Self::Invalid { .. } => "INVALID_REQUEST",
            Self::Operand(_) => "WRONG_OPERAND",
            Self::CrossSlot => "CROSS_SLOT",
            Self::LeaseLost => "LEASE_LOST",
            Self::PermitsDiffer => "PERMITS_DIFFER",
            Self::Malformed => "MALFORMED_VALUE",
            Self::ChangedMeanwhile => "KEY_CHANGED",
            Self::Compacted { .. } => "REVISION_COMPACTED",
            Self::Elsewhere { .. } => "WRONG_NODE",
            Self::PartitionLost { .. } => "PARTITION_LOST",
            Self::NotReady => "NOT_READY",
            Self::NotAgreed(_) => "CLUSTER_NOT_READY",
            Self::NotKnownYet => "NOT_KNOWN_YET",
            Self::Full => "OUT_OF_MEMORY",
            Self::NamespaceFull { .. } => "NAMESPACE_FULL",
            Self::Throttled { .. } => "THROTTLED",
            Self::TimedOut { .. } => "TIMED_OUT",
            Self::Replication(inner) => return inner.detail(),
        };
        let leader_address = match self {
            Self::Elsewhere { address, .. } => address.clone(),
            _ => String::new(),
        };
        ErrorDetail { code: code.into(), leader_address, ..ErrorDetail::default() }
    }
}
