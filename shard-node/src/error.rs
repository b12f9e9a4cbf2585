//! What can go wrong with a request to the database, by what the caller can do.

use trimaran_net::status::{Class, Classified};
use trimaran_proto::api::error::ErrorDetail;

use crate::item::Item;
use crate::throttle::{Limit, Throttled};

/// A request that has to be changed. The text is DynamoDB's, where DynamoDB has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Invalid {
    /// With the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<crate::number::Error> for Invalid {
    fn from(error: crate::number::Error) -> Self {
        Self(error.to_string())
    }
}

/// Why a transaction was not carried out, as far as one of its items says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reason {
    /// DynamoDB's; `None` if it was not this item.
    pub code: Option<&'static str>,
    /// For people.
    pub message: String,
    /// The item as it is, if it was asked for.
    pub item: Option<Item>,
}

impl Reason {
    /// The table is asked too much.
    pub fn of(throttled: &Throttled) -> Self {
        let code = match throttled.limit {
            Limit::Provisioned => "ProvisionedThroughputExceeded",
            Limit::MaxOnDemand | Limit::Node => "ThrottlingError",
        };
        Self { code: Some(code), message: throttled.to_string(), item: None }
    }
}

fn codes(reasons: &[Reason]) -> String {
    reasons.iter().map(|reason| reason.code.unwrap_or("None")).collect::<Vec<_>>().join(", ")
}

/// Why a request was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Change the request.
    #[error(transparent)]
    Validation(#[from] Invalid),
    /// The condition does not hold; nothing was changed.
    #[error("The conditional request failed")]
    ConditionFailed {
        /// The item as it is, if it was asked for.
        item: Option<Item>,
    },
    /// There is no such table.
    #[error("Requested resource not found: Table: {table} not found")]
    TableNotFound {
        /// Its name.
        table: String,
    },
    /// The table was deleted while the request was on its way; look it up again.
    #[error("the table was deleted meanwhile")]
    TableDropped,
    /// There is no such index of the table.
    #[error("Requested resource not found: Index: {0} not found")]
    IndexNotFound(String),
    /// There is no such stream, or no such shard of it.
    #[error("Requested resource not found: Stream: {0} not found")]
    StreamNotFound(String),
    /// There is no such key of the DynamoDB API.
    #[error("there is no access key {0}")]
    AccessKeyNotFound(String),
    /// Changes that were to be read are older than a day and not there any more; begin with the oldest that is.
    #[error("The operation attempted to read past the oldest stream record in a shard")]
    Trimmed,
    /// What items were at that moment is not there (any more).
    #[error("table {table} can be read as of {oldest_ms} milliseconds since 1970 or later")]
    HistoryTrimmed {
        /// The table.
        table: String,
        /// As of when it can be read.
        oldest_ms: u64,
    },
    /// Ask for another one, behind the change that was read last.
    #[error("The shard iterator has expired. Shard iterators are valid for 15 minutes.")]
    IteratorExpired,
    /// More than DynamoDB would do at once.
    #[error("{0}")]
    LimitExceeded(String),
    /// The table is there already, or is not ready for this.
    #[error("{0}")]
    TableInUse(String),
    /// A transaction has a hold of the item, for longer than was waited; retry.
    #[error("Transaction is ongoing for the item")]
    Held,
    /// Some nodes of the cluster have an older release, which does not know this.
    #[error("some nodes of the cluster are of an older release that does not know this; upgrade them first")]
    NotAgreed,
    /// A transaction was not carried out, see each of its reasons.
    #[error("Transaction cancelled, please refer cancellation reasons for specific reasons [{}]", codes(.0))]
    Cancelled(Vec<Reason>),
    /// The idempotency token was used for another transaction.
    #[error("An error occurred: the idempotency token was used with other parameters")]
    TokenReused,
    /// A transaction with this idempotency token is under way.
    #[error("a transaction with this idempotency token is under way")]
    InProgress,
    /// A limit of the cluster.
    #[error("{limit} = {max} is reached")]
    Limit {
        /// Its name.
        limit: &'static str,
        /// The limit.
        max: usize,
    },
    /// A table, an index or a node was asked more than it may be; try again later.
    #[error("{0}")]
    Throttled(Box<Throttled>),
    /// Ask another node.
    #[error("partition {partition} is not on this node")]
    Elsewhere {
        /// The partition.
        partition: u64,
    },
    /// A majority of the partition's copies is gone for good.
    #[error("partition {partition} is lost: a majority of its copies is gone")]
    Lost {
        /// The partition.
        partition: u64,
    },
    /// The node has not joined its cluster yet, or is stopping.
    #[error("the node does not take requests yet")]
    NotReady,
    /// It may have been carried out; retry with the same request id.
    #[error("no leader of partition {partition} answered in time")]
    TimedOut {
        /// The partition.
        partition: u64,
    },
    /// The disk failed under a read.
    #[error("this node cannot read its data: {0}")]
    Storage(String),
    /// From the meta group, which keeps the tables.
    #[error("the tables are not known or cannot be changed now: {0}")]
    Cluster(#[source] std::sync::Arc<trimaran_cluster::Error>),
    /// From the group.
    #[error(transparent)]
    Replication(#[from] trimaran_replication::Error),
}

impl From<trimaran_cluster::Error> for Error {
    fn from(error: trimaran_cluster::Error) -> Self {
        Self::Cluster(std::sync::Arc::new(error))
    }
}

impl From<trimaran_storage::Error> for Error {
    fn from(error: trimaran_storage::Error) -> Self {
        Self::Storage(error.to_string())
    }
}

impl From<crate::item::Malformed> for Error {
    fn from(error: crate::item::Malformed) -> Self {
        Self::Storage(error.to_string())
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Validation(_) => Class::Invalid,
            Self::TableNotFound { .. }
            | Self::TableDropped
            | Self::IndexNotFound(_)
            | Self::StreamNotFound(_)
            | Self::AccessKeyNotFound(_) => Class::NotFound,
            Self::ConditionFailed { .. }
            | Self::TableInUse(_)
            | Self::Held
            | Self::Cancelled(_)
            | Self::TokenReused
            | Self::Trimmed
            | Self::HistoryTrimmed { .. }
            | Self::IteratorExpired => Class::Conflict,
            Self::Limit { .. } | Self::LimitExceeded(_) | Self::Throttled(_) => Class::Exhausted,
            Self::Elsewhere { .. } => Class::Elsewhere,
            Self::NotReady | Self::NotAgreed | Self::InProgress => Class::Later,
            Self::TimedOut { .. } => Class::Unknown,
            Self::Storage(_) | Self::Lost { .. } => Class::Broken,
            Self::Cluster(inner) => inner.class(),
            Self::Replication(inner) => inner.class(),
        }
    }

    fn detail(&self) -> ErrorDetail {
        let code = match self {
            Self::Validation(_) => "VALIDATION",
            Self::ConditionFailed { .. } => "CONDITION_FAILED",
            Self::TableNotFound { .. } | Self::TableDropped => "TABLE_NOT_FOUND",
            Self::IndexNotFound(_) => "INDEX_NOT_FOUND",
            Self::StreamNotFound(_) => "STREAM_NOT_FOUND",
            Self::AccessKeyNotFound(_) => "ACCESS_KEY_NOT_FOUND",
            Self::Trimmed => "STREAM_TRIMMED",
            Self::HistoryTrimmed { .. } => "HISTORY_TRIMMED",
            Self::IteratorExpired => "ITERATOR_EXPIRED",
            Self::LimitExceeded(_) => "LIMIT_EXCEEDED",
            Self::TableInUse(_) => "TABLE_IN_USE",
            Self::Held => "TRANSACTION_CONFLICT",
            Self::NotAgreed => "CLUSTER_NOT_READY",
            Self::Cancelled(_) => "TRANSACTION_CANCELLED",
            Self::TokenReused => "IDEMPOTENCY_TOKEN_REUSED",
            Self::InProgress => "TRANSACTION_IN_PROGRESS",
            Self::Limit { .. } => "LIMIT_EXCEEDED",
            Self::Throttled(_) => "THROTTLED",
            Self::Elsewhere { .. } => "WRONG_NODE",
            Self::NotReady => "NOT_READY",
            Self::TimedOut { .. } => "TIMED_OUT",
            Self::Storage(_) => "STORAGE_UNREADABLE",
            Self::Lost { .. } => "PARTITION_LOST",
            Self::Cluster(inner) => return inner.detail(),
            Self::Replication(inner) => return inner.detail(),
        };
        ErrorDetail { code: code.into(), ..ErrorDetail::default() }
    }
}
