//! What readers see of the rows: one version, whatever is written meanwhile, and who keeps which version readable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use trimaran_storage::engine::{Engine, Order, Range};

use super::{Current, Row, StorageError, damaged_row, get_current, in_space, keyed};

/// Rows of the present read before the history of the same range is looked at.
const PAGE_ROWS: usize = 256;

/// Who reads which version, and how much history there is for them.
#[derive(Debug, Default)]
pub(super) struct Pins {
    versions: Mutex<BTreeMap<u64, usize>>,
    /// Superseded versions in the engine; counted before they are written.
    history: AtomicUsize,
}

impl Pins {
    /// Superseded versions are about to be written.
    pub(super) fn count(&self, versions: usize) {
        self.history.fetch_add(versions, Ordering::SeqCst);
    }

    /// Superseded versions are removed.
    pub(super) fn forget(&self, versions: usize) {
        self.history.fetch_sub(versions, Ordering::SeqCst);
    }

    /// True if no superseded version is left.
    #[cfg(test)]
    pub(super) fn is_forgotten(&self) -> bool {
        self.history.load(Ordering::SeqCst) == 0
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.versions.lock().first_key_value().map(|(version, _)| *version)
    }

    pub(super) fn newest(&self) -> Option<u64> {
        self.versions.lock().last_key_value().map(|(version, _)| *version)
    }
}

/// Keeps one version readable.
#[derive(Debug)]
struct Pin {
    pins: Arc<Pins>,
    version: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut versions = self.pins.versions.lock();
        if let Some(count) = versions.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                versions.remove(&self.version);
            }
        }
    }
}

/// The rows of a partition at one version. Clones are the same.
///
/// The engine has no snapshots, so a reader looks at the present first and at the history behind it: a row that was
/// overwritten or removed since has its old version there, written in the batch that superseded it.
#[derive(Clone)]
pub struct View {
    engine: Arc<dyn Engine>,
    pin: Arc<Pin>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("version", &self.pin.version).finish_non_exhaustive()
    }
}

impl View {
    pub(super) fn new(engine: Arc<dyn Engine>, pins: &Arc<Pins>, version: u64) -> Self {
        *pins.versions.lock().entry(version).or_default() += 1;
        Self { engine, pin: Arc::new(Pin { pins: Arc::clone(pins), version }) }
    }

    /// What is written later has a greater version.
    pub fn version(&self) -> u64 {
        self.pin.version
    }

    fn has_history(&self) -> bool {
        self.pin.pins.history.load(Ordering::SeqCst) > 0
    }

    /// A row.
    pub fn get(&self, row: &Bytes) -> Result<Option<Current>, StorageError> {
        match get_current(&*self.engine, row)? {
            Some(current) if current.version <= self.pin.version => Ok(Some(current)),
            _ if !self.has_history() => Ok(None),
            _ => {
                // The first that was superseded after this version; it counts if it was written before.
                let behind = keyed(b'H', &[row, &(self.pin.version + 1).to_be_bytes()]);
                let end = keyed(b'H', &[row, &u64::MAX.to_be_bytes()]);
                let Some(pair) = self.engine.scan(Range::new(behind, end), Order::Ascending).next() else {
                    return Ok(None);
                };
                let old = Current::decode(&pair?.1).ok_or_else(damaged_row)?;
                Ok((old.version <= self.pin.version).then_some(old))
            }
        }
    }

    /// The rows of a range with their versions and items, in order.
    pub fn scan(
        &self,
        range: Range,
        order: Order,
    ) -> impl Iterator<Item = Result<Row, StorageError>> + Send + use<> {
        let view = self.clone();
        let mut rest = Some(range);
        let mut page = Vec::new().into_iter();
        std::iter::from_fn(move || {
            loop {
                if let Some(found) = page.next() {
                    return Some(Ok(found));
                }
                match view.page(rest.take()?, order) {
                    Ok((rows, more)) => {
                        page = rows.into_iter();
                        rest = more;
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// Some rows from the front of a range, and what remains of it.
    fn page(&self, range: Range, order: Order) -> Result<(Vec<Row>, Option<Range>), StorageError> {
        let version = self.pin.version;
        let mut rows = Vec::new();
        let mut count = 0;
        let mut last = None;
        for pair in self.engine.scan(in_space(b'C', &range), order).take(PAGE_ROWS) {
            let (key, stored) = pair?;
            let row = key.slice(1..);
            let current = Current::decode(&stored).ok_or_else(damaged_row)?;
            count += 1;
            last = Some(row.clone());
            if current.version <= version {
                rows.push((row, current.version, current.item));
            }
        }
        let last = last.filter(|_| count == PAGE_ROWS);
        // What this page is about, the last row with all of its history included, and what comes behind.
        let (seen, rest) = match (&last, order) {
            (None, _) => (range, None),
            (Some(last), Order::Ascending) => {
                let behind = keyed_after(last);
                let seen = Range::new(range.start, behind.clone());
                (seen, Some(Range { start: behind, end: range.end }))
            }
            (Some(last), Order::Descending) => {
                let seen = Range { start: last.clone(), end: range.end };
                (seen, Some(Range::new(range.start, last.clone())))
            }
        };
        if self.has_history() {
            self.add_history(&seen, &mut rows)?;
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            rows.dedup_by(|a, b| a.0 == b.0);
            if order == Order::Descending {
                rows.reverse();
            }
        }
        Ok((rows, rest.filter(|rest| !rest.is_empty())))
    }

    fn add_history(&self, range: &Range, rows: &mut Vec<Row>) -> Result<(), StorageError> {
        let version = self.pin.version;
        for pair in self.engine.scan(in_space(b'H', range), Order::Ascending) {
            let (key, stored) = pair?;
            let Some(row_end) = key.len().checked_sub(8) else { continue };
            let until = key.last_chunk::<8>().map_or(0, |until| u64::from_be_bytes(*until));
            let old = Current::decode(&stored).ok_or_else(damaged_row)?;
            if old.version <= version && version < until {
                rows.push((key.slice(1..row_end), old.version, old.item));
            }
        }
        Ok(())
    }
}

/// The smallest bytes behind a row and everything that begins with it. Only its own history does: no row is the
/// beginning of another.
fn keyed_after(row: &Bytes) -> Bytes {
    trimaran_storage::engine::after_prefix(row).unwrap_or_else(|| row.clone())
}
