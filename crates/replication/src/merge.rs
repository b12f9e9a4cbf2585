//! A group takes over everything that the group behind it has.
//!
//! Two groups cannot agree on one entry, so there are three steps, each an entry of one log. The group behind freezes:
//! from there on it carries nothing out, and its state is what it is. That state, small enough for it, is an entry of the
//! other group's log, and every replica applies it at the same place. Whether it comes to that is decided there too, once
//! for each merge, by the first entry about it: so a merge can be given up without asking who may have gone on with it.
//! Then the frozen group thaws. Replicas of the two need not be on the same nodes.
//! Source: CockroachDB, `docs/tech-notes` on range merges ("subsume"), which moves replicas together first instead.

use bytes::Bytes;

use crate::codec;
use crate::error::Error;
use crate::group::{COMMAND_BYTES_MAX, Group};
use crate::machine::Machine;
use crate::types::RangeChange;

/// What a group may hold at most, bytes, to become part of another one: it is in one entry of that one's log.
pub const MERGE_BYTES_MAX: u64 = 8 << 20;

/// The same with everything that goes with it, answered requests above all, encoded.
const STATE_BYTES_MAX: usize = COMMAND_BYTES_MAX / 2;

/// What is decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Its number: later merges have greater ones.
    pub merge: u64,
    /// First token of the group behind.
    pub first: u64,
    /// What that group has, as [`Group::freeze`] returns it. Empty = it stays what it is.
    pub state: Vec<Bytes>,
}

impl Merge {
    pub(crate) fn bytes(&self) -> usize {
        self.state.iter().map(Bytes::len).sum()
    }
}

/// How a merge was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Its number.
    pub merge: u64,
    /// True if the group has become the larger one.
    pub taken: bool,
}

impl<M: Machine> Group<M> {
    /// Has the group carry nothing out any more, and returns its state, once it is applied here.
    ///
    /// Errors: [`Error::Refused`] if it is too large, or a later merge has begun; else as of [`Group::propose`]. It may be
    /// asked for again.
    pub async fn freeze(&self, merge: u64) -> Result<Vec<Bytes>, Error> {
        let refused = |reason: String| Error::Refused { group: self.inner.id, action: "freeze", reason };
        let bytes = self.read_now(Machine::bytes);
        if bytes > MERGE_BYTES_MAX {
            return Err(refused(format!(
                "it holds {bytes} bytes, more than MERGE_BYTES_MAX = {MERGE_BYTES_MAX}"
            )));
        }
        let agreed = self.propose_change(RangeChange::Freeze(merge)).await?;
        let late = || refused("a later merge has begun".to_owned());
        agreed.ok_or_else(late)?;
        let chunks = {
            let state = self.inner.state.read();
            state.is_frozen_for(merge).then(|| state.chunks())
        };
        let chunks = chunks.ok_or_else(late)?;
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = 0;
            let mut read = Vec::new();
            for chunk in chunks {
                let chunk = chunk.map_err(|stop| stop.to_string())?;
                bytes += chunk.len();
                if bytes > STATE_BYTES_MAX {
                    return Err(format!("its state is larger than STATE_BYTES_MAX = {STATE_BYTES_MAX}"));
                }
                read.push(chunk);
            }
            Ok(read)
        });
        read.await.unwrap_or_else(|panicked| Err(panicked.to_string())).map_err(refused)
    }

    /// Ends what [`Group::freeze`] began, if it was for this merge. Only when it is known that the merge was decided against:
    /// what another group has taken over would be changed in two places.
    pub async fn thaw(&self, merge: u64) -> Result<(), Error> {
        self.propose_change(RangeChange::Thaw(merge)).await.map(drop)
    }

    /// Decides a merge, and returns how it was decided, once that is applied here: by the first entry about it, which may
    /// be an earlier one than this.
    ///
    /// Errors: as of [`Group::propose`]; [`Error::Refused`] if a later one is decided already.
    pub async fn merge(&self, merge: Merge) -> Result<Merged, Error> {
        let number = merge.merge;
        let decided = self.propose_change(RangeChange::Merge(merge)).await?.and_then(codec::decode_merged);
        decided.filter(|decided| decided.merge == number).ok_or_else(|| Error::Refused {
            group: self.inner.id,
            action: "merge",
            reason: "a later merge is decided already".to_owned(),
        })
    }

    /// The merge for which this replica knows its group to be frozen.
    pub fn frozen_for(&self) -> Option<u64> {
        self.inner.state.read().frozen_for()
    }

    /// How the last merge was decided, as far as this replica knows.
    pub fn last_merge(&self) -> Option<Merged> {
        self.inner.state.read().last_merge()
    }
}
