//! What a group replicates.

use bytes::Bytes;

use crate::error::Stop;

/// One committed command.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    /// The leader's clock when it proposed, milliseconds since 1970. Never goes back within a group; the only time
    /// that a machine may know.
    pub stamp_ms: u64,
    /// The command, as proposed.
    pub payload: &'a Bytes,
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
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Bytes>, Stop>;

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
