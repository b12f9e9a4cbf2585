//! What a group replicates.

use bytes::Bytes;

use crate::error::Stop;

/// One committed command.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    /// The leader's clock when it proposed, milliseconds since 1970. Never goes back within a group, but may
    /// jump ahead with another leader.
    pub stamp_ms: u64,
    /// The group's own time, milliseconds since it began: it only passes, as fast as it does while somebody leads. For what must
    /// last as long as was said, and need not end at a time of day.
    pub passed_ms: u64,
    /// The command, as proposed.
    pub payload: &'a Bytes,
}

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was carried out, or the machine says why it could not be. A retry gets the same.
    Done(Bytes),
    /// Nothing was done, since the machine does not have what it is about (any more): not remembered, so that the same
    /// request can be carried out where that is.
    Elsewhere(Bytes),
}

impl Reply {
    /// For the caller.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Done(bytes) | Self::Elsewhere(bytes) => bytes,
        }
    }
}

/// Encoded state at one index, produced in pieces of about a mebibyte, off the path of writes.
pub type SnapshotChunks = Box<dyn Iterator<Item = Result<Bytes, Stop>> + Send>;

/// Makes durable what was committed before it was asked for; blocks.
pub type Persist = Box<dyn FnOnce() -> Result<(), Stop> + Send>;

/// A state machine: the same commands in the same order give the same state and the same replies, on every replica
/// and on every run. No clock, no randomness, no I/O but its own store.
pub trait Machine: Send + Sync + 'static {
    /// True if the state is on disk and survives the process, see [`Machine::commit`].
    const DURABLE: bool = false;

    /// Applies a run of committed commands; one reply each, in order.
    ///
    /// A command that cannot be carried out is a reply, never an error. An error stops this copy of the group: for a
    /// failed disk or a command of a newer release, which this copy must not guess at.
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Reply>, Stop>;

    /// First and last token that it has, both inclusive.
    fn tokens(&self) -> (u64, u64) {
        (0, u64::MAX)
    }

    /// About how many bytes it holds.
    fn bytes(&self) -> u64 {
        0
    }

    /// The token at which a split would leave about half of its bytes on each side, if that is known.
    fn middle(&self) -> Option<u64> {
        None
    }

    /// Gives up the tokens from `at` on, which is behind the first one and not behind the last, and returns the machine
    /// of the new group `group` that has them. Nothing else may take time here that grows with what is given up.
    ///
    /// A durable machine writes the new one's part, `remember` included, in the batch of the next
    /// [`Machine::commit`]: both are there afterwards, or none is.
    fn split(&mut self, _at: u64, _group: u64, _remember: Remember) -> Result<Self, Stop>
    where
        Self: Sized,
    {
        Err(Stop::new("a machine that cannot be split"))
    }

    /// A split at `at`, behind everything that it has: it began with the range that the group has by now, and reads the log
    /// from when that was wider.
    fn split_behind(&mut self, _at: u64) -> Result<(), Stop> {
        Ok(())
    }

    /// What it answers to a command that is about something it does not have, see [`Reply::Elsewhere`].
    fn elsewhere(&self) -> Bytes {
        Bytes::new()
    }

    /// Says whether another group is to get everything. While that is so no command comes, and whoever reads is to be told
    /// that it is elsewhere. What it has stays as it is, and [`Machine::tokens`] too.
    fn freeze(&mut self, _frozen: bool) {}

    /// Takes over what the machine of the group behind it had: the tokens behind its own last one, with the state that
    /// [`Machine::snapshot`] gave there. Small enough for one entry of the log.
    ///
    /// The other group had a time of its own; this one's is `passed_ms` now, see [`Committed`].
    ///
    /// A durable machine writes it in the batch of the next [`Machine::commit`], before which nothing else comes.
    fn merge(&mut self, _chunks: &mut SnapshotChunks, _passed_ms: u64) -> Result<(), Stop> {
        Err(Stop::new("a machine that cannot be merged"))
    }

    /// Likewise, where the tokens of the other one are not next to what this has: as with [`Machine::split_behind`], they have gone to
    /// others since.
    fn merge_behind(&mut self, _chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        Ok(())
    }

    /// The state as it is now; called between runs. What it returns is encoded while later runs are applied.
    fn snapshot(&self) -> SnapshotChunks;

    /// Replaces the state by a snapshot. A durable machine first notes, durably, that it is being replaced: until the
    /// next [`Machine::commit`], [`Machine::recover`] says [`Recovered::Interrupted`].
    fn restore(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop>;

    /// Ends some runs: a durable machine writes what they changed and what replication wants to remember, in one
    /// batch. It need not survive a loss of power before [`Machine::persist`]: the log has it.
    fn commit(&mut self, _remember: Remember) -> Result<(), Stop> {
        Ok(())
    }

    /// What the last commit said, for a durable machine that is opened again.
    fn recover(&mut self) -> Result<Recovered, Stop> {
        Ok(Recovered::Nothing)
    }

    /// This copy was removed from its group: everything of it that is on disk goes. Nothing is called afterwards.
    fn forget(&mut self) -> Result<(), Stop> {
        Ok(())
    }

    /// Makes everything committed durable, before the log behind it is cut.
    fn persist(&self) -> Persist {
        Box::new(|| Ok(()))
    }
}

/// What replication keeps with the state of a durable machine. Opaque to the machine.
#[derive(Clone, Debug, Default)]
pub struct Remember {
    /// Replaces what was here before.
    pub applied: Bytes,
    /// Replies that a retry may still ask for, by a number that grows.
    pub answered: Vec<(u64, Bytes)>,
    /// Those with a smaller number are not needed any more.
    pub forget_below: u64,
}

/// What a machine finds on its disk.
#[derive(Clone, Debug)]
pub enum Recovered {
    /// It is new.
    Nothing,
    /// It was being replaced by a snapshot, which is to be given to it again.
    Interrupted,
    /// The state of the last commit that survived.
    Applied {
        /// As given.
        applied: Bytes,
        /// As given, in order; those to be forgotten may be among them.
        answered: Vec<Bytes>,
    },
}
