//! Reads the log: what it holds, and where it ends.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tracing::warn;

use super::live::{Live, Place};
use super::{Options, Recovered, VERSION, segment_name};
use crate::Error;
use crate::disk::{Disk, DiskFile};
use crate::format::{self, HEADER_BYTES};
use crate::progress::Progress;

/// What a record is about.
pub(super) mod kind {
    pub(in crate::wal) const HEAD: u8 = 1;
    pub(in crate::wal) const APPEND: u8 = 2;
    pub(in crate::wal) const TRUNCATE: u8 = 3;
    pub(in crate::wal) const STATE: u8 = 4;
    pub(in crate::wal) const PURGE: u8 = 5;
    pub(in crate::wal) const REMOVE: u8 = 6;
    pub(in crate::wal) const END: u8 = 7;
}

/// What was found.
pub(super) struct Found {
    /// The numbers of the segments, all of which are whole, ended and on the medium by now.
    pub(super) numbers: Vec<u64>,
    pub(super) recovered: Recovered,
    pub(super) groups: HashMap<u64, Live>,
}

/// Reads all segments, and ends the last one where its last whole record ends: what follows was never acknowledged, or
/// was not promised to survive what happened.
pub(super) fn read(disk: &Arc<dyn Disk>, options: &Options) -> Result<Found, Error> {
    let names = disk.list().map_err(|source| Error::io("list", disk.describe("."), source))?;
    let mut numbers: Vec<u64> = Vec::new();
    for name in &names {
        if let Some(number) = name.strip_suffix(".wal").and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            numbers.push(number);
        } else if name.ends_with(".spare") {
            disk.remove(name).map_err(|source| Error::io("remove", disk.describe(name), source))?;
        }
    }
    numbers.sort_unstable();

    let (mut recovered, mut groups) = (Recovered::default(), HashMap::new());
    let mut progress = Progress::new("reading the log", numbers.len() as u64 * options.segment_bytes);
    let mut read: Vec<u64> = Vec::new();
    for (position, &number) in numbers.iter().enumerate() {
        let later = &numbers[position + 1..];
        if let Some(&before) = read.last()
            && number != before + 1
        {
            // Segments are removed from the oldest on, and never from the middle: its name did not reach the medium.
            cut(disk, before + 1, 0, &numbers[position..])?;
            break;
        }
        let name = segment_name(number);
        let file = disk.open(&name).map_err(|source| Error::io("open", disk.describe(&name), source))?;
        let bytes = read_all(&*file).map_err(|source| Error::io("read", disk.describe(&name), source))?;
        let replayed = replay(&bytes, number, &mut recovered, &mut groups)
            .map_err(|found| Error::TooNew { path: disk.describe(&name), found, newest: VERSION })?;
        progress.add(options.segment_bytes);
        read.push(number);
        if !replayed.ended {
            cut(disk, number, replayed.end, later)?;
            let mut end = BytesMut::new();
            format::put(&mut end, number, kind::END, 0, |_| ());
            file.write_at(&end, replayed.end)
                .map_err(|source| Error::io("seal", disk.describe(&name), source))?;
        }
        // A process that died may have left what the operating system still has in memory.
        file.sync().map_err(|source| Error::io("flush", disk.describe(&name), source))?;
        if !replayed.ended {
            break;
        }
    }
    Ok(Found { numbers: read, recovered, groups })
}

/// Removes the segments behind one that is not whole, or not there. Errors if it was on the medium once: then it is damaged.
fn cut(disk: &Arc<dyn Disk>, number: u64, end: u64, later: &[u64]) -> Result<(), Error> {
    for &later in later {
        let name = segment_name(later);
        let file = disk.open(&name).map_err(|source| Error::io("open", disk.describe(&name), source))?;
        let bytes = read_all(&*file).map_err(|source| Error::io("read", disk.describe(&name), source))?;
        let mut at = 0;
        while let Some((record, used)) = format::get(&bytes[at..], later) {
            at += used;
            if record.kind == kind::HEAD && claim(record.payload, later) >= number {
                return Err(Error::Damaged {
                    path: disk.describe(&segment_name(number)),
                    offset: end,
                    what: "records are missing before the next segment".into(),
                });
            }
        }
    }
    // The last one first: if this is interrupted, what is left is cut again.
    for &later in later.iter().rev() {
        let name = segment_name(later);
        disk.remove(&name).map_err(|source| Error::io("remove", disk.describe(&name), source))?;
        disk.sync_dir().map_err(|source| Error::io("flush", disk.describe("."), source))?;
        warn!(segment = later, "removed: the one before it did not reach the medium in time");
    }
    Ok(())
}

/// Says in a segment that all of those up to another one are on the medium.
pub(super) fn encode_head(buffer: &mut BytesMut, number: u64, flushed: u64) {
    format::put(buffer, number, kind::HEAD, 0, |out| {
        out.put_u16_le(VERSION);
        out.put_u64_le(flushed);
    });
}

struct Replayed {
    /// Where the last whole record ends.
    end: u64,
    /// An end record was found.
    ended: bool,
}

/// Segments up to which everything is on the medium, as a head says: the number of the last one. A head of a release
/// that flushed each segment before the next one says so by being there.
fn claim(mut payload: &[u8], number: u64) -> u64 {
    payload.advance(payload.len().min(2));
    payload.try_get_u64_le().unwrap_or_else(|_short| number.saturating_sub(1))
}

/// Applies the records of one segment. Error: the version found, if it is too new.
fn replay(
    bytes: &[u8],
    number: u64,
    recovered: &mut Recovered,
    groups: &mut HashMap<u64, Live>,
) -> Result<Replayed, u16> {
    let mut at = 0;
    let mut ended = false;
    while let Some((record, used)) = format::get(&bytes[at..], number) {
        at += used;
        let mut payload = record.payload;
        match record.kind {
            kind::HEAD => {
                let version = if payload.len() >= 2 { payload.get_u16_le() } else { u16::MAX };
                if version > VERSION {
                    return Err(version);
                }
            }
            kind::APPEND => {
                if let Some((index, entry)) = decode_append(payload) {
                    let group = recovered.groups.entry(record.group).or_default();
                    if index > group.purged {
                        let hole = group.entries.last_key_value().is_some_and(|(&last, _)| index > last + 1);
                        if hole {
                            group.entries.clear();
                        }
                        group.entries.insert(index, Bytes::copy_from_slice(entry));
                        let place = Place { segment: number, bytes: used as u64 };
                        groups.entry(record.group).or_default().place(index, place);
                    }
                }
            }
            kind::TRUNCATE if payload.len() == 8 => {
                let index = payload.get_u64_le();
                recovered.groups.entry(record.group).or_default().entries.split_off(&index);
                groups.entry(record.group).or_default().truncate(index);
            }
            kind::STATE if !payload.is_empty() => {
                let slot = payload.get_u8();
                let group = recovered.groups.entry(record.group).or_default();
                group.states.insert(slot, Bytes::copy_from_slice(payload));
            }
            kind::PURGE if payload.len() == 8 => {
                let index = payload.get_u64_le();
                let group = recovered.groups.entry(record.group).or_default();
                group.purged = group.purged.max(index);
                group.entries = group.entries.split_off(&(index + 1));
                groups.entry(record.group).or_default().purge(index);
            }
            kind::REMOVE => {
                recovered.groups.remove(&record.group);
                groups.remove(&record.group);
            }
            kind::END => {
                ended = true;
                break;
            }
            // A checksummed record of an unknown kind can only come from a newer release.
            _ => return Err(VERSION + 1),
        }
    }
    Ok(Replayed { end: at as u64, ended })
}

pub(super) fn encode_append(buffer: &mut BytesMut, seed: u64, group: u64, index: u64, entry: &[u8]) {
    buffer.reserve(HEADER_BYTES + 8 + entry.len());
    format::put(buffer, seed, kind::APPEND, group, |out| {
        out.put_u64_le(index);
        out.put_slice(entry);
    });
}

pub(super) fn decode_append(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (index, entry) = payload.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*index), entry))
}

pub(super) fn encode_state(buffer: &mut BytesMut, seed: u64, group: u64, slot: u8, value: &[u8]) {
    format::put(buffer, seed, kind::STATE, group, |out| {
        out.put_u8(slot);
        out.put_slice(value);
    });
}

pub(super) fn read_all(file: &dyn DiskFile) -> std::io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}
