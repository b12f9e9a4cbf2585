//! The engine on fjall, a log-structured merge tree. Why it is the default: docs/decisions/0006.

use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::Error;
use crate::engine::{Batch, Engine, Kind, Order, Pairs, Poison, Range};

/// Bytes of its own write-ahead log: what has to be read again when it is opened. (280 MB took 5 s.)
const JOURNAL_BYTES: u64 = 64 << 20;

/// Bytes of blocks kept in memory.
const CACHE_BYTES: u64 = 128 << 20;

/// Bytes of writes kept in memory before they are sorted into a file.
const MEMTABLE_BYTES: u64 = 16 << 20;

/// Threads that merge files.
const WORKERS: usize = 2;

/// Ordered bytes in fjall.
pub struct FjallEngine {
    database: Database,
    pairs: Keyspace,
    path: String,
    poison: Poison,
}

impl std::fmt::Debug for FjallEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallEngine").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FjallEngine {
    /// Opens a folder, making it if it is not there.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.display().to_string();
        let failed = |error| failed("open", &path, error);
        let database = Database::builder(folder)
            .max_journaling_size(JOURNAL_BYTES)
            .cache_size(CACHE_BYTES)
            .worker_threads(WORKERS)
            .open()
            .map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let pairs = database.keyspace("pairs", options).map_err(failed)?;
        Ok(Self { database, pairs, path, poison: Poison::default() })
    }

    fn failed(&self, action: &'static str, error: fjall::Error) -> Error {
        failed(action, &self.path, error)
    }
}

fn failed(action: &'static str, path: &str, error: fjall::Error) -> Error {
    Error::io(action, path, std::io::Error::other(error))
}

impl Engine for FjallEngine {
    fn kind(&self) -> Kind {
        Kind::Fjall
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let found = self.pairs.get(key).map_err(|error| self.failed("read", error))?;
        Ok(found.map(Bytes::from))
    }

    fn scan(&self, range: Range, order: Order) -> Pairs<'_> {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let found = match range.end {
            Some(end) => self.pairs.range(range.start..end),
            None => self.pairs.range(range.start..),
        };
        let pair = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner().map_err(|error| self.failed("read", error))?;
            Ok((Bytes::from(key), Bytes::from(value)))
        };
        match order {
            Order::Ascending => Box::new(found.map(pair)),
            Order::Descending => Box::new(found.rev().map(pair)),
        }
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        batch.check()?;
        self.poison.check()?;
        let mut write = self.database.batch();
        for (key, value) in batch.into_writes() {
            match value {
                Some(value) => write.insert(&self.pairs, key, value),
                None => write.remove(&self.pairs, key),
            }
        }
        self.poison.keep(write.commit().map_err(|error| self.failed("write", error)))
    }

    fn flush(&self) -> Result<(), Error> {
        self.poison.check()?;
        let flushed = self.database.persist(PersistMode::SyncAll);
        self.poison.keep(flushed.map_err(|error| self.failed("flush", error)))
    }

    fn disk_bytes(&self) -> u64 {
        // A figure for people: where it cannot be had, none.
        self.database.disk_space().unwrap_or(0)
    }
}
