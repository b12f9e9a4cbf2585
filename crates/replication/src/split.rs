//! A group gives up the end of its range to a new one.
//!
//! The split is an entry of the group's log: every replica applies it at the same place, and then has the new group's
//! replica beside its own, all of them with the same state, as if they had got one snapshot. No data is sent, and none
//! is copied. A replica that gets past that place by a snapshot has no part of the new group; it gets it as any replica
//! does that comes later. Source: CockroachDB, `docs/tech-notes/range-splits`; TiKV, "Multi-raft: region split".

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};
use tokio::time::timeout;

use crate::apply::State;
use crate::batch;
use crate::codec;
use crate::error::{Error, Stop};
use crate::group::{Group, Member};
use crate::machine::Machine;
use crate::types::{Batch, Callback, Config, RangeChange};

/// What is agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// First token of the new group.
    pub at: u64,
    /// Its id.
    pub group: u64,
    /// Its replicas, one beside each of the old group's.
    pub members: Vec<Member>,
}

/// This node's part of a new group, from which its replica is opened.
pub struct Seed<M> {
    pub(crate) state: State<M>,
    /// While it is held, the old group's log is not cut: only from there can this come again.
    pub(crate) _kept: Option<Arc<OwnedRwLockReadGuard<()>>>,
}

impl<M> std::fmt::Debug for Seed<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seed").finish_non_exhaustive()
    }
}

impl<M: Machine> Seed<M> {
    /// Removes a part that does not belong here.
    pub async fn forget(self) -> Result<(), Stop> {
        let Self { state: State { mut machine, .. }, _kept } = self;
        let forgotten = tokio::task::spawn_blocking(move || machine.forget()).await;
        forgotten.unwrap_or_else(|panicked| Err(Stop::new(panicked.to_string())))
    }
}

/// Seeds that were not taken yet, by group.
pub(crate) type Seeds<M> = Arc<Mutex<HashMap<u64, Seed<M>>>>;

impl<M: Machine> Group<M> {
    /// Splits the group, and returns with what was agreed once it is applied here. If the last split was one towards the
    /// same group, that is what counts, and nothing else happens.
    ///
    /// Errors: as of [`Group::propose`]; after [`Error::Unknown`] it may be asked for again.
    pub async fn split(&self, split: Split) -> Result<Split, Error> {
        let reply = self.propose_change(RangeChange::Split(split)).await?;
        let agreed = reply.and_then(codec::decode_split);
        agreed.ok_or_else(|| Error::Refused {
            group: self.inner.id,
            action: "split",
            reason: "the token is not within the group's range".to_owned(),
        })
    }

    /// Has the group agree on a change of its range. The reply is what was agreed; `None` = it does not come to that.
    pub(crate) async fn propose_change(&self, change: RangeChange) -> Result<Option<Bytes>, Error> {
        let group = self.inner.id;
        self.in_use().await;
        let (reply, answer) = oneshot::channel();
        let respond = move |outcome: ClientWriteResult<Config>| {
            let outcome = outcome.map_err(|refused| batch::error(group, refused));
            // Whoever asked may have given up; it is carried out all the same.
            let _gone = reply.send(outcome.map(|response| response.data));
        };
        // A hybrid clock, as of every entry.
        let stamp_ms = self.inner.clock.now_ms().max(self.stamp_ms());
        let passed_ms = Some(self.passed_ms());
        let batch = Batch { stamp_ms, passed_ms, commands: Arc::default(), change: Some(Arc::new(change)) };
        let respond = Callback(Box::new(respond));
        self.inner.raft.client_write_ff(batch, Some(respond)).await.map_err(|_fatal| self.stopped())?;
        let replies: Vec<Bytes> = match timeout(self.inner.proposal_timeout, answer).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_dropped)) => return Err(Error::Unknown { group, reason: "the group stopped" }),
            Err(_elapsed) => {
                return Err(Error::Unknown { group, reason: "no majority answered in time" });
            }
        };
        Ok(replies.into_iter().next())
    }

    /// This node's part of a new group, once: after that it is for whoever has it.
    pub fn take_seed(&self, group: u64) -> Option<Seed<M>> {
        self.inner.seeds.lock().remove(&group)
    }

    /// The new groups of which there is a part that was not taken yet.
    pub fn seeds(&self) -> Vec<u64> {
        self.inner.seeds.lock().keys().copied().collect()
    }

    /// All of them.
    pub fn take_seeds(&self) -> HashMap<u64, Seed<M>> {
        std::mem::take(&mut self.inner.seeds.lock())
    }

    /// True if the machine, or a part that was not taken yet, has any of these tokens, both ends inclusive.
    pub fn has_any_of(&self, first: u64, last: u64) -> bool {
        let state = self.inner.state.read();
        let overlaps = |(own_first, own_last): (u64, u64)| {
            own_first <= own_last && own_first <= last && first <= own_last
        };
        // Parts are put there under the same lock.
        let seeds = self.inner.seeds.lock();
        overlaps(state.machine.tokens()) || seeds.values().any(|seed| overlaps(seed.state.machine.tokens()))
    }

    /// Asks the others to elect this replica, without waiting for their patience to end. For a group that was never led.
    pub async fn campaign(&self) -> Result<(), Error> {
        self.in_use().await;
        self.inner.raft.trigger().elect(true).await.map_err(|_fatal| self.stopped())
    }
}
