//! Snapshots: what a replica that fell behind gets instead of entries, and what the log is cut behind.
//!
//! A snapshot is a list of chunks; the first is replication's own (remembered replies, the clock), the others are the
//! machine's. On disk it is one file, written aside and renamed, each chunk with its checksum.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use trimaran_proto::state::log as state;
use trimaran_storage::disk::{self, Disk};
use trimaran_storage::format;

use crate::codec;
use crate::types::SnapshotMeta;

/// Chunks of a snapshot, shared.
pub(crate) type Chunks = Arc<Vec<Bytes>>;

/// Kinds of the records in a snapshot's file. Fixed for ever.
const KIND_META: u8 = 1;
const KIND_CHUNK: u8 = 2;
const KIND_END: u8 = 3;

/// Where the newest snapshot of each group is kept.
#[derive(Clone)]
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
}

fn file_name(group: u64) -> String {
    format!("{group}.snapshot")
}

impl Store {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk }
    }

    /// Replaces the group's snapshot; when this returns it survives a loss of power.
    pub(crate) fn save(&self, group: u64, meta: &SnapshotMeta, chunks: &[Bytes]) -> io::Result<()> {
        let size: usize = chunks.iter().map(|chunk| chunk.len() + format::HEADER_BYTES).sum();
        let mut contents = BytesMut::with_capacity(size + 1024);
        format::put(&mut contents, group, KIND_META, group, |out| {
            out.put_slice(&codec::put_snapshot_meta(meta).encode_to_vec());
        });
        for chunk in chunks {
            format::put(&mut contents, group, KIND_CHUNK, group, |out| out.put_slice(chunk));
        }
        format::put(&mut contents, group, KIND_END, group, |_| ());
        disk::replace(&*self.disk, &file_name(group), &contents)
    }

    /// The group's snapshot, if there is one.
    pub(crate) fn load(&self, group: u64) -> io::Result<Option<(SnapshotMeta, Vec<Bytes>)>> {
        let name = file_name(group);
        let Some(contents) = disk::read(&*self.disk, &name)? else { return Ok(None) };
        let contents = Bytes::from(contents);
        let damaged = || {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", self.disk.describe(&name)))
        };
        let mut meta = None;
        let mut chunks = Vec::new();
        let mut at = 0;
        while let Some((record, used)) = format::get(&contents[at..], group) {
            match record.kind {
                KIND_META => {
                    let stored = state::SnapshotMeta::decode(record.payload).map_err(io::Error::other)?;
                    meta = Some(codec::get_snapshot_meta(&stored).map_err(io::Error::other)?);
                }
                KIND_CHUNK => chunks.push(contents.slice_ref(record.payload)),
                KIND_END => return meta.map(|meta| Some((meta, chunks))).ok_or_else(damaged),
                _ => return Err(damaged()),
            }
            at += used;
        }
        Err(damaged())
    }

    /// Forgets the group's snapshot.
    pub(crate) fn remove(&self, group: u64) -> io::Result<()> {
        let name = file_name(group);
        match self.disk.remove(&name) {
            Err(refused) if refused.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| self.disk.sync_dir()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use trimaran_storage::faulty::FaultyDisk;

    use super::*;
    use crate::types::{Membership, Place, StoredMembership, log_id};

    #[test]
    fn a_saved_snapshot_survives_a_loss_of_power_and_damage_is_noticed() {
        let disk = FaultyDisk::new();
        let store = Store::new(Arc::new(disk.clone()));
        let places = BTreeMap::from([(1, Place { node: 4 })]);
        let membership = Membership::new(vec![[1].into()], places).unwrap();
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(2, 9)),
            last_membership: StoredMembership::new(Some(log_id(1, 1)), membership),
        };
        let chunks = vec![Bytes::from_static(b"a"), Bytes::from_static(b"bc")];
        store.save(7, &meta, &chunks).unwrap();
        disk.lose_power(|| false);
        let (loaded_meta, loaded) = store.load(7).unwrap().unwrap();
        assert_eq!((loaded_meta, loaded), (meta, chunks));
        assert!(store.load(8).unwrap().is_none());
        disk.damage("7.snapshot", 40);
        assert!(store.load(7).is_err());
        store.remove(7).unwrap();
        assert!(store.load(7).unwrap().is_none());
    }
}
