//! What one instance may use, and what all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wasmtime::ResourceLimiter;

/// Elements of all tables of an instance.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 200_000;

/// Core instances, memories and tables of one component. Python needs nine core instances.
pub(crate) const PARTS_MAX: u32 = 40;

/// Handles (requests, bodies, streams) that a guest holds at once.
pub(crate) const RESOURCES_MAX: usize = 10_000;

/// Bytes of headers in one collection, as they are in memory.
pub(crate) const HEADER_BYTES_MAX: usize = 128 << 10;

/// Bytes that a guest hands to the host in one call: names, values, items.
pub(crate) const HOST_CALL_BYTES_MAX: usize = 16 << 20;

/// Random bytes asked for at once.
pub(crate) const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// Bytes of one log line; longer ones are cut into several.
pub(crate) const LOG_LINE_BYTES_MAX: usize = 16 << 10;

/// How often a running guest is asked to let others run, and whether its time is over.
pub(crate) const TICK: Duration = Duration::from_millis(2);

/// What an instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all linear memories of an instance together.
    pub memory_bytes: usize,
    /// From the start of the call to the end of the guest.
    pub time: Duration,
}

/// Counts and refuses memory. What it counted outlives the instance.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory_bytes_max: usize,
    used: Arc<MemoryUse>,
}

/// Bytes of memory that an instance has, which is also the most it had: memories do not shrink.
#[derive(Debug, Default)]
pub(crate) struct MemoryUse {
    bytes: AtomicUsize,
    refused: AtomicUsize,
}

impl MemoryUse {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) > 0
    }
}

impl Limiter {
    pub(crate) fn new(memory_bytes_max: usize) -> (Self, Arc<MemoryUse>) {
        let used = Arc::new(MemoryUse::default());
        (Self { memory_bytes_max, used: Arc::clone(&used) }, used)
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = self.used.bytes() + desired.saturating_sub(current);
        if bytes > self.memory_bytes_max {
            self.used.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        self.used.bytes.store(bytes, Ordering::Relaxed);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_count_together() {
        let (mut limiter, used) = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 50, None).unwrap());
        assert!(limiter.memory_growing(60, 100, None).unwrap());
        assert_eq!((used.bytes(), used.was_refused()), (100, true));
    }
}
