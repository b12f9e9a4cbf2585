//! Ordered bytes: what a state machine on disk keeps its data in.
//!
//! An engine promises little, so that many can be one: atomic batches, reads that see every batch written before,
//! and a flush after which everything written before survives a loss of power. It has no snapshots (sled has none);
//! who needs an old state keeps old versions. Every engine passes `conformance`.
//! Next: `memory`, `fjall`, `sled`, `faulty_engine`.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::disk::{self, Disk as _, RealDisk};
use crate::fjall::FjallEngine;
use crate::memory::MemoryEngine;
use crate::sled::SledEngine;
use crate::{Error, with_causes};

/// Largest key, bytes: the smallest limit of all engines (fjall's 65,535). The smallest key has one byte.
pub const KEY_BYTES_MAX: usize = 65_535;

/// A pair, or why it could not be read.
pub type Pair = Result<(Bytes, Bytes), Error>;

/// Pairs in the order of a scan.
pub type Pairs<'a> = Box<dyn Iterator<Item = Pair> + Send + 'a>;

/// A store of ordered bytes.
pub trait Engine: Send + Sync + 'static {
    /// Which one.
    fn kind(&self) -> Kind;

    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// The pairs of a range. A key that is not written while the scan lasts is seen exactly once; one that is may be
    /// seen before or after.
    fn scan(&self, range: Range, order: Order) -> Pairs<'_>;

    /// Carries out a batch, all of it or nothing, also after a crash. Durable only after [`Engine::flush`]; batches
    /// that survive a crash without it are a prefix of those written.
    fn write(&self, batch: Batch) -> Result<(), Error>;

    /// Makes every batch that was written before durable.
    fn flush(&self) -> Result<(), Error>;

    /// Bytes used on disk, about; 0 in memory.
    fn disk_bytes(&self) -> u64;
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest key first.
    Ascending,
    /// Largest key first.
    Descending,
}

/// Keys from one on, up to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// First key, inclusive.
    pub start: Bytes,
    /// Where it ends, exclusive; `None` = at the last key.
    pub end: Option<Bytes>,
}

impl Range {
    /// Keys with `start <= key < end`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Some(end.into()) }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: Bytes::copy_from_slice(prefix), end: after_prefix(prefix) }
    }

    /// True if no key can be in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// The smallest key behind all that begin with `prefix`; `None` if there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let kept = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end.into())
}

/// Writes that happen together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    writes: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    /// Sets a key. The last word on a key counts.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push((key.into(), Some(value.into())));
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.push((key.into(), None));
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(crate) fn into_writes(self) -> Vec<(Bytes, Option<Bytes>)> {
        self.writes
    }

    /// Refuses keys that some engine could not take.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (key, _) in &self.writes {
            if key.is_empty() {
                return Err(Error::EmptyKey);
            }
            if key.len() > KEY_BYTES_MAX {
                return Err(Error::TooLarge { bytes: key.len(), limit: "KEY_BYTES_MAX", max: KEY_BYTES_MAX });
            }
        }
        Ok(())
    }
}

/// The engines there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A tree in memory: gone with the process.
    Memory,
    /// A log-structured merge tree; the default, see docs/decisions/0006.
    #[default]
    Fjall,
    /// A log-structured B-tree, with the fsync that its own flush lacks.
    Sled,
}

impl Kind {
    /// As in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Fjall => "fjall",
            Self::Sled => "sled",
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Memory, Self::Fjall, Self::Sled]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("{name:?} is no storage engine; there are fjall, sled, memory"))
    }
}

/// Says which engine wrote a folder, and in which format of ours.
const MARK: &str = "ENGINE";

/// Opens the engine in a folder, making it if it is not there. A folder of another engine is refused.
pub fn open(kind: Kind, folder: &Path) -> Result<Arc<dyn Engine>, Error> {
    if kind == Kind::Memory {
        return Ok(Arc::new(MemoryEngine::default()));
    }
    let io = |source| Error::io("open", folder.display(), source);
    let disk = RealDisk::open(folder).map_err(io)?;
    let wanted = format!("{} 1\n", kind.name());
    match disk::read(&disk, MARK).map_err(io)? {
        None => disk::replace(&disk, MARK, wanted.as_bytes()).map_err(io)?,
        Some(found) if found == wanted.as_bytes() => {}
        Some(found) => {
            return Err(Error::Damaged {
                path: disk.describe(MARK),
                offset: 0,
                what: format!(
                    "the folder was written by engine {:?}, this is {:?}",
                    String::from_utf8_lossy(&found).trim_end(),
                    wanted.trim_end()
                ),
            });
        }
    }
    let data = folder.join(kind.name());
    Ok(match kind {
        Kind::Sled => Arc::new(SledEngine::open(&data)?),
        Kind::Fjall | Kind::Memory => Arc::new(FjallEngine::open(&data)?),
    })
}

/// Remembers the first failure to write: what comes after it cannot be trusted.
#[derive(Debug, Default)]
pub(crate) struct Poison(OnceLock<String>);

impl Poison {
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.0.get().map_or(Ok(()), |reason| Err(Error::Poisoned(reason.clone())))
    }

    pub(crate) fn keep<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &outcome {
            // The first failure is the one that explains the others.
            let _first = self.0.set(with_causes(error));
        }
        outcome
    }
}
