//! A disk in memory that loses what was not synced, tears what it keeps, and fails when told to.
//!
//! For tests of everything that claims to survive a loss of power. It is part of the library, not of one test,
//! because every store of every crate is tried on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};

/// Unit in which an unsynced write may be kept or lost, bytes: a sector.
const SECTOR: usize = 512;

/// The disk. Clones share one medium; each is for one life of what uses it, and dead once the power was lost.
#[derive(Default)]
pub struct FaultyDisk {
    medium: Arc<Mutex<Medium>>,
    /// When it was cloned; `None` = whoever takes the power away.
    power: Option<u64>,
}

impl Clone for FaultyDisk {
    fn clone(&self) -> Self {
        let power = Some(self.medium.lock().power);
        Self { medium: Arc::clone(&self.medium), power }
    }
}

#[derive(Default)]
struct Medium {
    files: BTreeMap<u64, Contents>,
    /// Names as the running system sees them.
    names: BTreeMap<String, u64>,
    /// Names as they will be after a loss of power.
    durable_names: BTreeMap<String, u64>,
    next_file: u64,
    syncs: u64,
    fail_after_syncs: Option<u64>,
    /// Grows with each loss of power: handles from before are dead.
    power: u64,
}

#[derive(Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

struct Handle {
    medium: Arc<Mutex<Medium>>,
    file: u64,
    power: u64,
}

impl FaultyDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn alive(&self) -> io::Result<parking_lot::MutexGuard<'_, Medium>> {
        let medium = self.medium.lock();
        if self.power.is_some_and(|power| power != medium.power) {
            return Err(io::Error::other("the power went away since this disk was taken into use"));
        }
        Ok(medium)
    }

    /// Takes the power away: of each sector that was written but not synced, `keep` decides whether it made it to
    /// the medium; names not synced are gone. Files open before give errors from now on.
    pub fn lose_power(&self, mut keep: impl FnMut() -> bool) {
        let mut medium = self.medium.lock();
        let medium = &mut *medium;
        medium.power += 1;
        medium.fail_after_syncs = None;
        medium.names = medium.durable_names.clone();
        for contents in medium.files.values_mut() {
            for sector in std::mem::take(&mut contents.dirty) {
                let (start, end) = (sector * SECTOR, ((sector + 1) * SECTOR).min(contents.now.len()));
                if start < end && keep() {
                    if contents.durable.len() < end {
                        contents.durable.resize(end, 0);
                    }
                    contents.durable[start..end].copy_from_slice(&contents.now[start..end]);
                }
            }
            contents.now = contents.durable.clone();
        }
    }

    /// Lets the next `count` syncs succeed and every later one fail.
    pub fn fail_after_syncs(&self, count: u64) {
        let mut medium = self.medium.lock();
        medium.fail_after_syncs = Some(medium.syncs + count);
    }

    /// Flips one bit of a file, as a failing medium would.
    pub fn damage(&self, name: &str, offset: usize) {
        let mut medium = self.medium.lock();
        let Some(file) = medium.names.get(name).copied() else { return };
        if let Some(contents) = medium.files.get_mut(&file) {
            for copy in [&mut contents.now, &mut contents.durable] {
                if let Some(byte) = copy.get_mut(offset) {
                    *byte ^= 1;
                }
            }
        }
    }

    /// How often a file was synced so far.
    pub fn syncs(&self) -> u64 {
        self.medium.lock().syncs
    }
}

impl Disk for FaultyDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut medium = self.alive()?;
        let file = match medium.names.get(name) {
            Some(&file) => file,
            None => {
                medium.next_file += 1;
                let file = medium.next_file;
                medium.names.insert(name.to_owned(), file);
                medium.files.insert(file, Contents::default());
                file
            }
        };
        let power = medium.power;
        Ok(Arc::new(Handle { medium: Arc::clone(&self.medium), file, power }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.alive()?.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut medium = self.alive()?;
        let file = medium.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        medium.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.alive()?.names.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut medium = self.alive()?;
        medium.count_sync()?;
        medium.durable_names = medium.names.clone();
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        format!("faulty:{name}")
    }
}

impl Medium {
    fn count_sync(&mut self) -> io::Result<()> {
        if self.fail_after_syncs.is_some_and(|limit| self.syncs >= limit) {
            return Err(io::Error::other("planned failure of a sync"));
        }
        self.syncs += 1;
        Ok(())
    }
}

impl Handle {
    fn with<T>(&self, act: impl FnOnce(&mut Medium, u64) -> io::Result<T>) -> io::Result<T> {
        let mut medium = self.medium.lock();
        if medium.power != self.power {
            return Err(io::Error::other("the power went away after this file was opened"));
        }
        act(&mut medium, self.file)
    }

    fn contents<T>(&self, act: impl FnOnce(&mut Contents) -> io::Result<T>) -> io::Result<T> {
        self.with(|medium, file| act(medium.files.entry(file).or_default()))
    }
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        self.contents(|contents| Ok(contents.now.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        self.contents(|contents| {
            let from = contents.now.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(from);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        self.contents(|contents| {
            let end = start + bytes.len();
            if contents.now.len() < end {
                contents.now.resize(end, 0);
            }
            contents.now[start..end].copy_from_slice(bytes);
            contents.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|medium, file| {
            medium.count_sync()?;
            let contents = medium.files.entry(file).or_default();
            contents.dirty.clear();
            contents.durable = contents.now.clone();
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.contents(|contents| {
            contents.now.resize(len, 0);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_synced_survives() {
        let disk = FaultyDisk::new();
        let file = disk.open("a").unwrap();
        disk.sync_dir().unwrap();
        file.write_at(b"kept", 0).unwrap();
        file.sync().unwrap();
        file.write_at(b"lost", 0).unwrap();
        disk.open("b").unwrap();
        disk.lose_power(|| false);
        assert!(file.sync().is_err(), "a handle from before the cut is dead");
        assert_eq!(disk.list().unwrap(), ["a"]);
        let mut buffer = [0; 4];
        disk.open("a").unwrap().read_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"kept");
    }
}
