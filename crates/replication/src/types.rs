//! The one openraft configuration of all groups, and the few names of it that the other files use.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::alias::{CommittedLeaderIdOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::impls::leader_id_std;
use openraft::raft::responder::Responder;

use crate::merge::Merge;
use crate::session::RequestId;
use crate::split::Split;

/// Where a replica lives. Its address is in the node's address book, so that it can change without a log entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) node: u64,
}

/// Commands that one leader proposed at once: the payload of an entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch {
    pub(crate) stamp_ms: u64,
    /// The group's own time; `None` = of an older release.
    pub(crate) passed_ms: Option<u64>,
    pub(crate) commands: Arc<[Command]>,
    /// Then there are no commands.
    pub(crate) change: Option<Arc<RangeChange>>,
}

/// A change of what tokens the group has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RangeChange {
    /// Another group gets the end of the range.
    Split(Split),
    /// Nothing is carried out any more, for this merge.
    Freeze(u64),
    /// That merge did not come about.
    Thaw(u64),
    /// What the group behind had is part of this one, or will not be.
    Merge(Merge),
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) request_id: Option<RequestId>,
    pub(crate) payload: Bytes,
}

impl Batch {
    pub(crate) fn bytes(&self) -> usize {
        let commands = self.commands.iter().map(|command| command.payload.len() + COMMAND_OVERHEAD_BYTES);
        let merged = match self.change.as_deref() {
            Some(RangeChange::Merge(merge)) => merge.bytes(),
            _ => 0,
        };
        commands.sum::<usize>() + merged
    }
}

/// What a command costs in a log beyond its payload.
pub(crate) const COMMAND_OVERHEAD_BYTES: usize = 64;

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands at {}", self.commands.len(), self.stamp_ms)
    }
}

/// One configuration for every group: opaque batches in, opaque replies out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Config;

impl openraft::RaftTypeConfig for Config {
    type D = Batch;
    type R = Vec<Bytes>;
    type NodeId = u64;
    type Node = Place;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Batch, u64, Place>;
    type Entry = openraft::Entry<CommittedLeaderId, Self::Payload>;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder<T>
        = Callback<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Calls back when an entry is answered, without a task that waits.
pub(crate) struct Callback<T>(pub(crate) Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> Responder<Config, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

pub(crate) type LogId = LogIdOf<Config>;
pub(crate) type Vote = VoteOf<Config>;
pub(crate) type Entry = openraft::alias::EntryOf<Config>;
pub(crate) type Membership = openraft::Membership<u64, Place>;
pub(crate) type StoredMembership = StoredMembershipOf<Config>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<Config>;
pub(crate) type CommittedLeaderId = CommittedLeaderIdOf<Config>;

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}
