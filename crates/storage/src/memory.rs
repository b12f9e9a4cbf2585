//! The engine in memory: for development, and what the others are compared with.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::Error;
use crate::engine::{Batch, Engine, Kind, Order, Pair, Pairs, Range};

/// Pairs copied under one lock by a scan, so that writes get in between.
const PAGE: usize = 256;

/// Ordered bytes in memory.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    pairs: RwLock<BTreeMap<Bytes, Bytes>>,
}

impl Engine for MemoryEngine {
    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.pairs.read().get(key).cloned())
    }

    fn scan(&self, range: Range, order: Order) -> Pairs<'_> {
        let start = Bound::Included(range.start.clone());
        let end = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = if range.is_empty() { None } else { Some((start, end)) };
        Box::new(Pages { engine: self, order, rest, page: Vec::new().into_iter() })
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        batch.check()?;
        let mut pairs = self.pairs.write();
        for (key, value) in batch.into_writes() {
            match value {
                Some(value) => pairs.insert(key, value),
                None => pairs.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

struct Pages<'a> {
    engine: &'a MemoryEngine,
    order: Order,
    rest: Option<(Bound<Bytes>, Bound<Bytes>)>,
    page: std::vec::IntoIter<(Bytes, Bytes)>,
}

impl Iterator for Pages<'_> {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        if self.page.len() == 0 {
            let (start, end) = self.rest.take()?;
            let pairs = self.engine.pairs.read();
            let found = pairs.range((start.clone(), end.clone()));
            let copy = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
            let page: Vec<_> = match self.order {
                Order::Ascending => found.take(PAGE).map(copy).collect(),
                Order::Descending => found.rev().take(PAGE).map(copy).collect(),
            };
            if let (PAGE, Some((last, _))) = (page.len(), page.last()) {
                let beyond = Bound::Excluded(last.clone());
                let more = match self.order {
                    Order::Ascending => (beyond, end),
                    Order::Descending => (start, beyond),
                };
                // A range between two equal exclusive bounds is a panic in the standard library, not an empty one.
                self.rest = Some(more).filter(|(start, end)| match (start, end) {
                    (Bound::Excluded(a) | Bound::Included(a), Bound::Excluded(b)) => a < b,
                    _ => true,
                });
            }
            self.page = page.into_iter();
        }
        self.page.next().map(Ok)
    }
}
