//! The node's engine, as all partitions of the node share it: rows stand by their tokens, and belong to one partition at a
//! time. A split hands them over within one machine; a merge takes them from a replica that may still be at work, and
//! behind: from then on that one writes none.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::Notify;
use trimaran_storage::engine::Engine;

/// The engine, and which partitions have lost their rows here to others.
pub struct Shared {
    engine: Arc<dyn Engine>,
    /// Held for reading by whoever writes rows, until they are written.
    taken: RwLock<BTreeSet<u64>>,
    /// Partitions with something that waits for indexes since they were asked for.
    waiting: Mutex<BTreeSet<u64>>,
    announced: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("taken", &*self.taken.read()).finish_non_exhaustive()
    }
}

impl Shared {
    /// All partitions that have rows in an engine need the same one.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, taken: RwLock::default(), waiting: Mutex::default(), announced: Notify::new() }
    }

    /// Says that something waits for indexes in a partition.
    pub fn announce(&self, partition: u64) {
        self.waiting.lock().insert(partition);
        self.announced.notify_one();
    }

    /// Partitions with something new that waits for indexes; waits until there is one. For one caller.
    pub async fn announced(&self) -> BTreeSet<u64> {
        loop {
            let waiting = std::mem::take(&mut *self.waiting.lock());
            if !waiting.is_empty() {
                return waiting;
            }
            self.announced.notified().await;
        }
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
