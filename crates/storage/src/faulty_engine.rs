//! An engine in memory that loses what was not flushed, and fails when told to: [`crate::faulty`] one storey up.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::Error;
use crate::engine::{Batch, Engine, Kind, Order, Pairs, Range};
use crate::memory::MemoryEngine;

/// The engine. Clones share one medium.
#[derive(Clone, Debug, Default)]
pub struct FaultyEngine {
    medium: Arc<Mutex<Medium>>,
}

#[derive(Debug, Default)]
struct Medium {
    now: Arc<MemoryEngine>,
    durable: MemoryEngine,
    /// Written, not flushed, in order.
    pending: Vec<Batch>,
    /// Writes and flushes that still succeed.
    left: Option<u64>,
}

impl FaultyEngine {
    /// Takes the power away: the first `kept` of the batches that were not flushed survive, the others never were.
    /// Returns how many there were.
    pub fn lose_power(&self, kept: usize) -> usize {
        let mut medium = self.medium.lock();
        let pending = std::mem::take(&mut medium.pending);
        let count = pending.len();
        let mut survivors = pending.into_iter().take(kept);
        let applied = survivors.try_for_each(|batch| medium.durable.write(batch));
        let copied = applied.and_then(|()| copy(&medium.durable));
        // Both are memory: they refuse only keys that `write` refused before.
        medium.now = Arc::new(copied.unwrap_or_default());
        medium.left = None;
        count
    }

    /// Lets the next `count` writes and flushes succeed and every later one fail, until the power is lost.
    pub fn fail_after(&self, count: u64) {
        self.medium.lock().left = Some(count);
    }

    fn spend(medium: &mut Medium) -> Result<(), Error> {
        match &mut medium.left {
            Some(0) => Err(Error::Poisoned("the engine was told to fail".to_owned())),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn copy(from: &MemoryEngine) -> Result<MemoryEngine, Error> {
    let mut batch = Batch::default();
    for pair in from.scan(Range { start: Bytes::new(), end: None }, Order::Ascending) {
        let (key, value) = pair?;
        batch.put(key, value);
    }
    let to = MemoryEngine::default();
    to.write(batch)?;
    Ok(to)
}

impl Engine for FaultyEngine {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let now = Arc::clone(&self.medium.lock().now);
        now.get(key)
    }

    fn scan(&self, range: Range, order: Order) -> Pairs<'_> {
        let now = Arc::clone(&self.medium.lock().now);
        let pairs: Vec<_> = now.scan(range, order).collect();
        Box::new(pairs.into_iter())
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let mut medium = self.medium.lock();
        Self::spend(&mut medium)?;
        medium.now.write(batch.clone())?;
        medium.pending.push(batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        let mut medium = self.medium.lock();
        Self::spend(&mut medium)?;
        let pending = std::mem::take(&mut medium.pending);
        pending.into_iter().try_for_each(|batch| medium.durable.write(batch))
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
