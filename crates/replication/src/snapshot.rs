//! Snapshots: what a replica that fell behind gets instead of entries, and what the log is cut behind.
//!
//! A snapshot is a run of chunks: first replication's own (the clock, remembered replies), then the machine's. It is
//! kept whole in memory, in a file (written aside and renamed, each chunk with its checksum), or nowhere: a machine
//! that is itself on disk makes one when somebody asks.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use prost::Message as _;
use trimaran_proto::state::log as state;
use trimaran_storage::disk::{Disk, DiskFile};
use trimaran_storage::format;
use trimaran_storage::progress::Progress;

use crate::codec;
use crate::error::Stop;
use crate::machine::SnapshotChunks;
use crate::types::SnapshotMeta;

/// Kinds of the records in a snapshot's file. Fixed for ever.
const KIND_META: u8 = 1;
const KIND_CHUNK: u8 = 2;
const KIND_END: u8 = 3;

/// The chunks of a snapshot, wherever they are. Clones are the same.
#[derive(Clone)]
pub(crate) enum Chunks {
    /// In memory.
    Whole(Arc<Vec<Bytes>>),
    /// In a file that is complete.
    File(Stored),
    /// Made while they are read, once.
    Live(Arc<Mutex<Option<SnapshotChunks>>>),
}

impl Chunks {
    /// The chunks in order.
    pub(crate) fn read(&self) -> SnapshotChunks {
        match self {
            Self::Whole(chunks) => {
                let chunks = Arc::clone(chunks);
                Box::new((0..chunks.len()).map(move |position| Ok(chunks[position].clone())))
            }
            Self::File(stored) => Box::new(stored.chunks()),
            Self::Live(once) => once.lock().take().unwrap_or_else(|| {
                Box::new(std::iter::once(Err(Stop::new("a snapshot that was made for one reader"))))
            }),
        }
    }
}

/// A snapshot in a file.
#[derive(Clone)]
pub(crate) struct Stored {
    file: Arc<dyn DiskFile>,
    name: String,
    group: u64,
    /// The name that it has until it is the group's.
    aside: Option<String>,
}

impl Stored {
    fn chunks(&self) -> impl Iterator<Item = Result<Bytes, Stop>> + Send + 'static {
        let (stored, mut at, mut ended) = (self.clone(), 0, false);
        let mut progress = Progress::new("reading a snapshot", self.file.len().unwrap_or(0));
        std::iter::from_fn(move || {
            while !ended {
                match stored.record(at) {
                    Ok((KIND_META, _, used)) => at += used,
                    Ok((KIND_CHUNK, payload, used)) => {
                        at += used;
                        progress.add(used);
                        return Some(Ok(payload));
                    }
                    Ok((KIND_END, ..)) => ended = true,
                    Ok(_) => {
                        ended = true;
                        return Some(Err(Stop::new(stored.damaged(at).to_string())));
                    }
                    Err(error) => {
                        ended = true;
                        return Some(Err(Stop::new(error.to_string())));
                    }
                }
            }
            None
        })
    }

    /// Kind, payload and length of the record at an offset.
    fn record(&self, at: u64) -> io::Result<(u8, Bytes, u64)> {
        let mut header = [0; format::HEADER_BYTES];
        self.file.read_at(&mut header, at)?;
        let bytes = format::record_bytes(&header).ok_or_else(|| self.damaged(at))?;
        let mut record = vec![0; bytes];
        self.file.read_at(&mut record, at)?;
        let record = Bytes::from(record);
        let (found, used) = format::get(&record, self.group).ok_or_else(|| self.damaged(at))?;
        Ok((found.kind, record.slice_ref(found.payload), used as u64))
    }

    fn damaged(&self, at: u64) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged at byte {at}", self.name))
    }

    /// What the snapshot is of. Reads all of it, so that damage is found before anything is replaced.
    fn check(&self) -> io::Result<SnapshotMeta> {
        let mut meta = None;
        let mut at = 0;
        let mut progress = Progress::new("checking a snapshot", self.file.len()?);
        loop {
            let (kind, payload, used) = match self.record(at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(self.damaged(at)),
                other => other?,
            };
            match kind {
                KIND_META => {
                    let stored = state::SnapshotMeta::decode(payload).map_err(io::Error::other)?;
                    meta = Some(codec::get_snapshot_meta(&stored).map_err(io::Error::other)?);
                }
                KIND_CHUNK => progress.add(used),
                KIND_END => return meta.ok_or_else(|| self.damaged(at)),
                _ => return Err(self.damaged(at)),
            }
            at += used;
        }
    }
}

/// Where the newest snapshot of each group is kept.
#[derive(Clone)]
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    /// One after the other becomes a group's: which is the newer one is looked at in between.
    adopting: Arc<Mutex<()>>,
}

fn file_name(group: u64) -> String {
    format!("{group}.snapshot")
}

/// Where a snapshot comes from. One may be received while another one is made: each is written by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Another replica sends it.
    Received,
    /// It is made here.
    Made,
}

impl Origin {
    const ALL: [Self; 2] = [Self::Received, Self::Made];

    fn name(self, group: u64) -> String {
        match self {
            Self::Received => format!("{group}.incoming"),
            Self::Made => format!("{group}.making"),
        }
    }
}

impl Store {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, adopting: Arc::default() }
    }

    /// Begins to write a snapshot aside; there is at most one unfinished one of a group and an origin.
    pub(crate) fn write(&self, group: u64, origin: Origin, meta: &SnapshotMeta) -> io::Result<Writer> {
        let aside = origin.name(group);
        let file = self.disk.open(&aside)?;
        file.set_len(0)?;
        let stored = Stored { file, name: self.disk.describe(&aside), group, aside: Some(aside) };
        let mut writer = Writer { stored, at: 0 };
        writer.record(KIND_META, &codec::put_snapshot_meta(meta).encode_to_vec())?;
        Ok(writer)
    }

    /// While it is held no other snapshot becomes its group's.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.adopting.lock()
    }

    /// Gives up a snapshot that is not the group's.
    pub(crate) fn discard(&self, stored: Stored) -> io::Result<()> {
        stored.aside.map_or(Ok(()), |aside| self.disk.remove(&aside))
    }

    /// Makes a finished snapshot the group's; when this returns it survives a loss of power.
    pub(crate) fn adopt(&self, stored: Stored) -> io::Result<Stored> {
        if let Some(aside) = &stored.aside {
            self.disk.rename(aside, &file_name(stored.group))?;
            self.disk.sync_dir()?;
        }
        Ok(Stored { name: self.disk.describe(&file_name(stored.group)), aside: None, ..stored })
    }

    /// The group's snapshot, if there is one.
    pub(crate) fn load(&self, group: u64) -> io::Result<Option<(SnapshotMeta, Stored)>> {
        let name = file_name(group);
        if !self.disk.list()?.contains(&name) {
            return Ok(None);
        }
        let file = self.disk.open(&name)?;
        let stored = Stored { file, name: self.disk.describe(&name), group, aside: None };
        Ok(Some((stored.check()?, stored)))
    }

    /// Forgets the group's snapshot.
    pub(crate) fn remove(&self, group: u64) -> io::Result<()> {
        let aside = Origin::ALL.map(|origin| origin.name(group));
        for name in aside.into_iter().chain([file_name(group)]) {
            match self.disk.remove(&name) {
                Err(refused) if refused.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        self.disk.sync_dir()
    }
}

/// A snapshot that is being written.
pub(crate) struct Writer {
    stored: Stored,
    at: u64,
}

impl Writer {
    pub(crate) fn chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.record(KIND_CHUNK, chunk)
    }

    /// Ends it, durably.
    pub(crate) fn finish(mut self) -> io::Result<Stored> {
        self.record(KIND_END, &[])?;
        self.stored.file.sync()?;
        Ok(self.stored)
    }

    fn record(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut record = BytesMut::with_capacity(payload.len() + format::HEADER_BYTES);
        format::put(&mut record, self.stored.group, kind, self.stored.group, |out| out.put_slice(payload));
        self.stored.file.write_at(&record, self.at)?;
        self.at += record.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use trimaran_storage::faulty::FaultyDisk;

    use super::*;
    use crate::types::{Membership, Place, StoredMembership, log_id};

    #[test]
    fn a_snapshot_comes_back_unless_it_is_damaged() {
        let disk = FaultyDisk::new();
        let open = || Store::new(Arc::new(disk.clone()));
        let store = open();
        let places = BTreeMap::from([(1, Place { node: 4 })]);
        let membership = Membership::new(vec![[1].into()], places).unwrap();
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(2, 9)),
            last_membership: StoredMembership::new(Some(log_id(1, 1)), membership),
        };
        let write = |store: &Store, chunks: [&'static [u8]; 2]| {
            let mut writer = store.write(7, Origin::Made, &meta).unwrap();
            chunks.iter().for_each(|chunk| writer.chunk(chunk).unwrap());
            writer.finish().unwrap()
        };
        let read = |chunks: Chunks| chunks.read().map(Result::unwrap).collect::<Vec<_>>();
        store.adopt(write(&store, [b"a", b"bc"])).unwrap();
        // One that never came to its end is no snapshot.
        store.write(7, Origin::Made, &meta).unwrap().chunk(b"unfinished").unwrap();
        disk.lose_power(|| false);
        let store = open();
        let (loaded_meta, loaded) = store.load(7).unwrap().unwrap();
        assert_eq!(loaded_meta, meta);
        assert_eq!(read(Chunks::File(loaded.clone())), ["a", "bc"]);
        assert!(store.load(8).unwrap().is_none());
        // A reader goes on with the one it began with.
        let begun = Chunks::File(loaded);
        store.adopt(write(&store, [b"d", b"e"])).unwrap();
        assert_eq!(read(begun), ["a", "bc"]);
        // One is made while another one is received.
        let mut received = store.write(7, Origin::Received, &meta).unwrap();
        received.chunk(b"f").unwrap();
        let made = write(&store, [b"g", b"h"]);
        received.chunk(b"i").unwrap();
        store.adopt(made).unwrap();
        received.chunk(b"j").unwrap();
        assert_eq!(read(Chunks::File(store.load(7).unwrap().unwrap().1)), ["g", "h"]);
        store.adopt(received.finish().unwrap()).unwrap();
        assert_eq!(read(Chunks::File(store.load(7).unwrap().unwrap().1)), ["f", "i", "j"]);
        disk.damage("7.snapshot", 40);
        assert!(store.load(7).is_err());
        store.remove(7).unwrap();
        assert!(store.load(7).unwrap().is_none());
    }
}
