//! What can go wrong with a cluster, by what the caller can do.

use trimaran_net::status::{Class, Classified};
use trimaran_proto::api::error::ErrorDetail;

/// Why a cluster operation was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ask the leader of the meta group.
    #[error("this node does not lead the meta group")]
    NotLeader {
        /// Its address, if known.
        leader_address: Option<String>,
    },
    /// Not decided yet; try again.
    #[error("the cluster is not ready: {0}")]
    NotReady(String),
    /// The cluster refuses the request for good.
    #[error("{REFUSED}{0}")]
    Refused(String),
    /// The node's own files cannot be used.
    #[error("cannot {action} {path}")]
    Identity {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A seed's name or address is no good.
    #[error("seed {seed} is not usable: {reason}")]
    Seed {
        /// As given.
        seed: String,
        /// Why.
        reason: String,
    },
    /// The node cannot go on with what it has; it ends.
    #[error("this node cannot go on: {0}")]
    Failed(String),
    /// Agreement failed.
    #[error("the meta group does not answer")]
    Replication(#[from] trimaran_replication::Error),
}

const REFUSED: &str = "refused by the cluster: ";

impl Error {
    /// What another node refused, in its words.
    pub(crate) fn refused_again(message: &str) -> Self {
        Self::Refused(message.strip_prefix(REFUSED).unwrap_or(message).to_owned())
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::NotLeader { .. } => Class::Elsewhere,
            Self::NotReady(_) => Class::Later,
            Self::Refused(_) => Class::Conflict,
            Self::Identity { .. } | Self::Seed { .. } | Self::Failed(_) => Class::Broken,
            Self::Replication(inner) => inner.class(),
        }
    }

    fn detail(&self) -> ErrorDetail {
        let code = match self {
            Self::NotLeader { .. } => "NOT_LEADER",
            Self::NotReady(_) => "CLUSTER_NOT_READY",
            Self::Refused(_) => "CLUSTER_REFUSED",
            Self::Identity { .. } => "IDENTITY_UNUSABLE",
            Self::Seed { .. } => "SEED_UNUSABLE",
            Self::Failed(_) => "GROUP_STOPPED",
            Self::Replication(inner) => return inner.detail(),
        };
        let leader_address = match self {
            Self::NotLeader { leader_address } => leader_address.clone().unwrap_or_default(),
            _ => String::new(),
        };
        ErrorDetail { code: code.into(), leader_address, ..ErrorDetail::default() }
    }
}
