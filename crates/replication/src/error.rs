//! What can go wrong, by what the caller can do.

use trimaran_net::status::{Class, Classified};
use trimaran_proto::api::error::ErrorDetail;

/// This copy of the group stops. Other copies go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("this copy stops: {reason}")]
pub struct Stop {
    /// Why, for the operator.
    pub reason: String,
}

impl Stop {
    /// With a reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// Who leads, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its replica id.
    pub replica: u64,
    /// Its node.
    pub node: u64,
}

/// Why a proposal or a read was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Not carried out. Ask the leader, or anybody if it is not known yet.
    #[error("group {group} is led elsewhere")]
    NotLeader {
        /// The group.
        group: u64,
        /// Where to go.
        leader: Option<Leader>,
    },
    /// Not carried out. This leader cannot reach a majority now; try again soon.
    #[error("group {group} has no majority at the moment")]
    NoQuorum {
        /// The group.
        group: u64,
    },
    /// It may have been carried out or may yet be: retry with the same request id.
    #[error("the outcome in group {group} is not known: {reason}")]
    Unknown {
        /// The group.
        group: u64,
        /// What happened.
        reason: &'static str,
    },
    /// Not carried out. Too many proposals wait already.
    #[error("group {group} has {limit} = {max} proposals waiting")]
    Busy {
        /// The group.
        group: u64,
        /// Name of the limit.
        limit: &'static str,
        /// The limit.
        max: usize,
    },
    /// Not carried out, and never will be.
    #[error("a command of {bytes} bytes exceeds {limit} = {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// Name of the limit.
        limit: &'static str,
        /// The limit, bytes.
        max: usize,
    },
    /// This copy has stopped for good; the reason is for the operator. Others go on, and what was on its way may be carried out
    /// by them: retry with the same request id.
    #[error("group {group} has stopped on this node: {reason}")]
    Stopped {
        /// The group.
        group: u64,
        /// Why.
        reason: String,
    },
    /// The group could not be opened or its members not be changed.
    #[error("group {group}: {action} failed: {reason}")]
    Refused {
        /// The group.
        group: u64,
        /// What was tried.
        action: &'static str,
        /// Why not.
        reason: String,
    },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::NotLeader { .. } => Class::Elsewhere,
            Self::NoQuorum { .. } => Class::Later,
            Self::Unknown { .. } | Self::Stopped { .. } => Class::Unknown,
            Self::Busy { .. } => Class::Exhausted,
            Self::TooLarge { .. } => Class::Invalid,
            Self::Refused { .. } => Class::Broken,
        }
    }

    fn detail(&self) -> ErrorDetail {
        let code = match self {
            Self::NotLeader { .. } => "NOT_LEADER",
            Self::NoQuorum { .. } => "NO_QUORUM",
            Self::Unknown { .. } => "OUTCOME_UNKNOWN",
            Self::Busy { .. } => "BUSY",
            Self::TooLarge { .. } => "TOO_LARGE",
            Self::Stopped { .. } => "GROUP_STOPPED",
            Self::Refused { .. } => "GROUP_REFUSED",
        };
        ErrorDetail { code: code.into(), ..ErrorDetail::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller that gave up here would take the end of one copy for the end of the group.
    #[test]
    fn a_copy_that_stopped_is_no_refusal() {
        let stopped = Error::Stopped { group: 2, reason: "No space left on device".into() };
        assert_eq!(stopped.class(), Class::Unknown);
        assert_eq!(stopped.detail().code, "GROUP_STOPPED");
    }
}
