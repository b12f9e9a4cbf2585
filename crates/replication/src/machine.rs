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
pub type SnapshotChunks = Box<dyn Iterator<Item = Bytes> + Send>;

/// A state machine: the same commands in the same order give the same state and the same replies, on every replica
/// and on every run. No clock, no randomness, no I/O but its own store.
pub trait Machine: Send + Sync + 'static {
    /// Applies a run of committed commands; one reply each, in order.
    ///
    /// A command that cannot be carried out is a reply, never an error. An error stops this copy of the group: for a
    /// failed disk or a command of a newer release, which this copy must not guess at.
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Bytes>, Stop>;

    /// The state as it is now; called between runs. What it returns is encoded while later runs are applied.
    fn snapshot(&self) -> SnapshotChunks;

    /// Replaces the state by a snapshot.
    fn restore(&mut self, chunks: &mut dyn Iterator<Item = Bytes>) -> Result<(), Stop>;
}
