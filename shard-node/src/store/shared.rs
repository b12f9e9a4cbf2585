//! The node's engine, as all partitions of the node share it: rows stand by their tokens, and belong to one partition at a
//! time. A split hands them over within one machine; a merge takes them from a replica that may still be at work, and
//! behind: from then on that one writes none.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};
use trimaran_storage::engine::Engine;

/// The engine, and which partitions have lost their rows here to others.
pub struct Shared {
    engine: Arc<dyn Engine>,
    /// Held for reading by whoever writes rows, until they are written.
    taken: RwLock<BTreeSet<u64>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("taken", &*self.taken.read()).finish_non_exhaustive()
    }
}

impl Shared {
    /// All partitions that have rows in an engine need the same one.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, taken: RwLock::default() }
    }

    pub(super) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    pub(super) fn is_taken(&self, partition: u64) -> bool {
        self.taken.read().contains(&partition)
    }

    /// While it is held, nobody's rows are taken.
    pub(super) fn writing(&self) -> RwLockReadGuard<'_, BTreeSet<u64>> {
        self.taken.read()
    }

    /// From when this returns on, none of these writes rows any more.
    pub(super) fn take(&self, partitions: &[u64]) {
        self.taken.write().extend(partitions);
    }
}
