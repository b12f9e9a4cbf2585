//! One write-ahead log for all groups of a node: whatever is queued while the disk is busy goes out as one write and
//! one flush, so that many groups pay for a flush together (group commit).
//!
//! Invariants: a callback is called with success only after its records are on the medium (in [`Sync::Always`]);
//! records of one group keep their order; after a failed write or flush nothing is accepted any more.
//!
//! Layout: segments `<number in hex>.wal`. Each begins with a head and the small states of all groups, so that older
//! segments are needed for their entries only; each but the last ends with an end record that was flushed before
//! anything went to the next one. A segment goes when all of its entries are purged, the oldest first; where entries
//! that are still needed hold back more than there is of them, they are written again at the tail.
//! Next: [`crate::format`] (the frame of a record), [`crate::faulty`] (the disk this is tested on).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tracing::{error, info};

use crate::disk::{Disk, DiskFile};
use crate::format::{self, HEADER_BYTES};
use crate::progress::Progress;
use crate::{Error, with_causes};

/// Version of the format; in the head of every segment.
const VERSION: u16 = 1;

/// Requests that wait for the writer; more wait in `submit`, which is the back-pressure on the groups.
const QUEUE_MAX: usize = 4096;

/// Bytes written and flushed at once.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Segments of garbage that are always put up with.
const GARBAGE_SEGMENTS: u64 = 8;

const ZEROS_BYTES: usize = 1 << 20;

mod kind {
    pub(super) const HEAD: u8 = 1;
    pub(super) const APPEND: u8 = 2;
    pub(super) const TRUNCATE: u8 = 3;
    pub(super) const STATE: u8 = 4;
    pub(super) const PURGE: u8 = 5;
    pub(super) const REMOVE: u8 = 6;
    pub(super) const END: u8 = 7;
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// After an fdatasync: survives a loss of power.
    Always,
    /// When the operating system has it: survives the death of the process. Groups that ask for it are flushed all the
    /// same, and so is every full segment.
    Never,
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a write counts as done.
    pub sync: Sync,
    /// Size of a segment, bytes. Filled with zeros beforehand, which halves what a flush writes.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { sync: Sync::Always, segment_bytes: 16 << 20 }
    }
}

/// One change of one group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The entry at `index`.
    Append {
        /// Its place.
        index: u64,
        /// What it is; opaque here.
        entry: Bytes,
    },
    /// Entries from `index` on are gone.
    Truncate {
        /// First one gone.
        index: u64,
    },
    /// A small value under a small number, replacing the one before (a vote, say).
    State {
        /// Which.
        slot: u8,
        /// What it is now; opaque here.
        value: Bytes,
    },
    /// Entries up to `index` are not needed any more.
    Purge {
        /// Last one gone.
        index: u64,
    },
    /// The whole group is gone.
    Remove,
}

/// What the log held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Per group.
    pub groups: HashMap<u64, Group>,
}

/// What the log held of one group.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Entries by index, without a hole.
    pub entries: BTreeMap<u64, Bytes>,
    /// Small values by slot.
    pub states: BTreeMap<u8, Bytes>,
    /// Last purged index; 0 = none.
    pub purged: u64,
}

type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

enum Request {
    Write { group: u64, ops: Vec<Op>, flush: bool, done: Done },
    Stop,
}

/// The log. Dropping it writes what is queued and stops the writer.
pub struct Wal {
    requests: SyncSender<Request>,
    writer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal").finish_non_exhaustive()
    }
}

impl Wal {
    /// Opens the log in a folder and reads all of it. A torn end is cut off: nothing in it was acknowledged.
    ///
    /// Errors: [`Error::Damaged`] if bytes that were flushed have changed, [`Error::TooNew`], [`Error::Io`].
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Recovered), Error> {
        let (writer, recovered) = Writer::open(disk, options)?;
        let (requests, queue) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("wal".into())
            .spawn(move || writer.run(&queue))
            .map_err(|source| Error::io("start the writer of", "wal", source))?;
        Ok((Self { requests, writer: Some(thread) }, recovered))
    }

    /// Queues changes of one group and returns; `done` is called from the writer's thread. Waits only while
    /// `QUEUE_MAX` requests are queued already.
    pub fn submit(&self, group: u64, ops: Vec<Op>, done: impl FnOnce(Result<(), Error>) + Send + 'static) {
        self.send(group, ops, false, Box::new(done));
    }

    /// The same, and on the medium before `done` is called, whatever the log's [`Sync`].
    pub fn submit_flushed(
        &self,
        group: u64,
        ops: Vec<Op>,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        self.send(group, ops, true, Box::new(done));
    }

    fn send(&self, group: u64, ops: Vec<Op>, flush: bool, done: Done) {
        if let Err(refused) = self.requests.send(Request::Write { group, ops, flush, done })
            && let Request::Write { done, .. } = refused.0
        {
            done(Err(Error::Poisoned("the writer has stopped".into())));
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        // A writer that has stopped already needs no telling.
        let _gone = self.requests.send(Request::Stop);
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            error!("the log's writer panicked");
        }
    }
}

struct Segment {
    number: u64,
    /// Of entries whose newest copy is here.
    live_bytes: u64,
}

/// Where the newest copy of an entry is.
#[derive(Clone, Copy)]
struct Place {
    segment: u64,
    bytes: u64,
}

/// What the writer remembers of a group: enough to know which segment still matters.
#[derive(Default)]
struct Live {
    /// Of each entry, from `first` on.
    places: VecDeque<Place>,
    first: u64,
    states: BTreeMap<u8, Bytes>,
    purged: u64,
}

struct Writer {
    disk: Arc<dyn Disk>,
    options: Options,
    segments: VecDeque<Segment>,
    current: Arc<dyn DiskFile>,
    offset: u64,
    groups: HashMap<u64, Live>,
    buffer: BytesMut,
    poisoned: Option<String>,
    /// Something in the buffer has to be on the medium before it counts as done.
    must_flush: bool,
    /// The next segment's file, being filled with zeros by a thread of its own.
    prepared: Option<Receiver<std::io::Result<String>>>,
}

fn segment_name(number: u64) -> String {
    format!("{number:016x}.wal")
}

impl Writer {
    fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Recovered), Error> {
        let names = disk.list().map_err(|source| Error::io("list", disk.describe("."), source))?;
        let mut numbers: Vec<u64> = Vec::new();
        for name in &names {
            if let Some(number) = name.strip_suffix(".wal").and_then(|hex| u64::from_str_radix(hex, 16).ok())
            {
                numbers.push(number);
            } else if name.ends_with(".spare") {
                disk.remove(name).map_err(|source| Error::io("remove", disk.describe(name), source))?;
            }
        }
        numbers.sort_unstable();

        let mut recovered = Recovered::default();
        let mut groups: HashMap<u64, Live> = HashMap::new();
        let mut segments: VecDeque<Segment> = VecDeque::new();
        let mut progress = Progress::new("reading the log", numbers.len() as u64 * options.segment_bytes);
        for (position, &number) in numbers.iter().enumerate() {
            let last = position + 1 == numbers.len();
            let name = segment_name(number);
            let file = disk.open(&name).map_err(|source| Error::io("open", disk.describe(&name), source))?;
            let bytes = read_all(&*file).map_err(|source| Error::io("read", disk.describe(&name), source))?;
            let replayed = replay(&bytes, number, &mut recovered, &mut groups)
                .map_err(|found| Error::TooNew { path: disk.describe(&name), found, newest: VERSION })?;
            progress.add(options.segment_bytes);
            if !replayed.ended && !last {
                return Err(Error::Damaged {
                    path: disk.describe(&name),
                    offset: replayed.end,
                    what: "records are missing before the next segment".into(),
                });
            }
            if !replayed.ended {
                // Seal it where the last whole record ends: what follows was never acknowledged.
                let mut end = BytesMut::new();
                format::put(&mut end, number, kind::END, 0, |_| ());
                file.write_at(&end, replayed.end)
                    .and_then(|()| file.sync())
                    .map_err(|source| Error::io("seal", disk.describe(&name), source))?;
            }
            segments.push_back(Segment { number, live_bytes: 0 });
        }
        for (&group, held) in &recovered.groups {
            let live = groups.entry(group).or_default();
            live.states.clone_from(&held.states);
            live.purged = held.purged;
        }

        let number = numbers.last().map_or(1, |last| last + 1);
        let name = segment_name(number);
        let current = disk.open(&name).map_err(|source| Error::io("create", disk.describe(&name), source))?;
        let mut writer = Self {
            disk,
            options,
            segments,
            current,
            offset: 0,
            groups,
            buffer: BytesMut::new(),
            poisoned: None,
            must_flush: false,
            prepared: None,
        };
        writer.count_live();
        writer.begin_segment(number)?;
        writer.flush()?;
        writer.collect()?;
        Ok((writer, recovered))
    }

    fn count_live(&mut self) {
        let mut count: HashMap<u64, u64> = HashMap::new();
        for place in self.groups.values().flat_map(|live| &live.places) {
            *count.entry(place.segment).or_insert(0) += place.bytes;
        }
        for segment in &mut self.segments {
            segment.live_bytes = count.get(&segment.number).copied().unwrap_or(0);
        }
    }

    fn run(mut self, queue: &Receiver<Request>) {
        let mut waiting: Vec<Done> = Vec::new();
        while let Ok(first) = queue.recv() {
            let mut stop = false;
            let mut next = Some(first);
            while let Some(request) = next.take() {
                match request {
                    Request::Stop => stop = true,
                    Request::Write { group, ops, flush, done } => {
                        self.must_flush |= flush;
                        for op in ops {
                            self.put(group, op);
                        }
                        waiting.push(done);
                    }
                }
                if stop || self.buffer.len() >= BATCH_BYTES_MAX {
                    break;
                }
                next = queue.try_recv().ok();
            }
            self.commit(&mut waiting);
            if stop {
                return;
            }
        }
    }

    /// Writes the buffer, flushes, tells everybody who waits, then cleans up.
    fn commit(&mut self, waiting: &mut Vec<Done>) {
        let outcome = self.flush();
        if let Err(failure) = &outcome {
            error!(error = %failure, "the log takes no more writes");
            self.poisoned = Some(with_causes(failure));
        }
        for done in waiting.drain(..) {
            done(match &self.poisoned {
                None => Ok(()),
                Some(reason) => Err(Error::Poisoned(reason.clone())),
            });
        }
        if self.poisoned.is_none()
            && let Err(failure) = self.turn_over()
        {
            error!(error = %failure, "the log takes no more writes");
            self.poisoned = Some(with_causes(&failure));
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        if let Some(reason) = &self.poisoned {
            return Err(Error::Poisoned(reason.clone()));
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let name = segment_name(self.number());
        self.current
            .write_at(&self.buffer, self.offset)
            .map_err(|source| Error::io("write", self.disk.describe(&name), source))?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        if self.options.sync == Sync::Always || std::mem::take(&mut self.must_flush) {
            self.current.sync().map_err(|source| Error::io("flush", self.disk.describe(&name), source))?;
        }
        Ok(())
    }

    fn number(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.number)
    }

    /// Puts one change in the buffer and keeps account of which segment has what.
    fn put(&mut self, group: u64, op: Op) {
        let number = self.number();
        let live = self.groups.entry(group).or_default();
        match op {
            Op::Append { index, entry } => {
                let before = self.buffer.len();
                encode_append(&mut self.buffer, number, group, index, &entry);
                let bytes = (self.buffer.len() - before) as u64;
                let dropped = live.place(index, Place { segment: number, bytes });
                self.release(&dropped);
                if let Some(segment) = self.segments.back_mut() {
                    segment.live_bytes += bytes;
                }
            }
            Op::Truncate { index } => {
                format::put(&mut self.buffer, number, kind::TRUNCATE, group, |out| out.put_u64_le(index));
                let dropped = live.truncate(index);
                self.release(&dropped);
            }
            Op::State { slot, value } => {
                encode_state(&mut self.buffer, number, group, slot, &value);
                live.states.insert(slot, value);
            }
            Op::Purge { index } => {
                format::put(&mut self.buffer, number, kind::PURGE, group, |out| out.put_u64_le(index));
                let dropped = live.purge(index);
                self.release(&dropped);
            }
            Op::Remove => {
                format::put(&mut self.buffer, number, kind::REMOVE, group, |_| ());
                let dropped: Vec<Place> =
                    self.groups.remove(&group).map(|live| live.places.into()).unwrap_or_default();
                self.release(&dropped);
            }
        }
    }

    fn release(&mut self, dropped: &[Place]) {
        for place in dropped {
            // Segment numbers rise; the deque is short.
            if let Some(segment) = self.segments.iter_mut().find(|segment| segment.number == place.segment) {
                segment.live_bytes = segment.live_bytes.saturating_sub(place.bytes);
            }
        }
    }

    /// Starts the next segment when this one is full; removes segments nobody needs.
    fn turn_over(&mut self) -> Result<(), Error> {
        if self.offset >= self.options.segment_bytes {
            let number = self.number();
            format::put(&mut self.buffer, number, kind::END, 0, |_| ());
            self.must_flush = true;
            self.flush()?;
            let next = number + 1;
            let name = segment_name(next);
            if let Some(prepared) = self.prepared.take() {
                let spare = prepared
                    .recv()
                    .map_err(|_gone| std::io::Error::other("the thread that prepares segments died"))
                    .and_then(|outcome| outcome)
                    .map_err(|source| Error::io("prepare", self.disk.describe(&name), source))?;
                self.disk
                    .rename(&spare, &name)
                    .map_err(|source| Error::io("rename", self.disk.describe(&spare), source))?;
            }
            self.current = self
                .disk
                .open(&name)
                .map_err(|source| Error::io("create", self.disk.describe(&name), source))?;
            self.begin_segment(next)?;
            self.flush()?;
            if self.is_mostly_garbage() {
                self.rewrite_oldest()?;
            }
        }
        self.collect()
    }

    fn begin_segment(&mut self, number: u64) -> Result<(), Error> {
        self.segments.push_back(Segment { number, live_bytes: 0 });
        self.offset = 0;
        format::put(&mut self.buffer, number, kind::HEAD, 0, |out| out.put_u16_le(VERSION));
        for (&group, live) in &self.groups {
            format::put(&mut self.buffer, number, kind::PURGE, group, |out| out.put_u64_le(live.purged));
            for (&slot, value) in &live.states {
                encode_state(&mut self.buffer, number, group, slot, value);
            }
        }
        // The name too, also where writes are not flushed: a group that asks for it must find its segment again.
        self.disk.sync_dir().map_err(|source| Error::io("flush", self.disk.describe("."), source))?;
        if self.options.sync == Sync::Always {
            self.prepare_next(number + 1)?;
        }
        Ok(())
    }

    /// Fills the next segment with zeros on another thread: a flush into existing blocks writes half as much as one
    /// that makes the file longer.
    fn prepare_next(&mut self, number: u64) -> Result<(), Error> {
        let (tell, prepared) = sync_channel(1);
        let disk = Arc::clone(&self.disk);
        let bytes = self.options.segment_bytes;
        std::thread::Builder::new()
            .name("wal-prepare".into())
            .spawn(move || {
                let name = format!("{number:016x}.spare");
                let outcome = fill_with_zeros(&*disk, &name, bytes).map(|()| name);
                // Nobody listens once the log is closed.
                let _closed = tell.send(outcome);
            })
            .map_err(|source| Error::io("prepare", self.disk.describe("wal"), source))?;
        self.prepared = Some(prepared);
        Ok(())
    }

    /// Removes segments from the oldest on while none of their entries is needed.
    fn collect(&mut self) -> Result<(), Error> {
        while self.segments.len() > 1 && self.segments.front().is_some_and(|segment| segment.live_bytes == 0)
        {
            let Some(segment) = self.segments.pop_front() else { break };
            let name = segment_name(segment.number);
            self.disk
                .remove(&name)
                .map_err(|source| Error::io("remove", self.disk.describe(&name), source))?;
        }
        Ok(())
    }

    /// True if more of the log is garbage than is needed: then writing again what is needed is paid for by what goes, and
    /// the log stays below thrice what is needed (and a little).
    fn is_mostly_garbage(&self) -> bool {
        let live_bytes: u64 = self.segments.iter().map(|segment| segment.live_bytes).sum();
        self.segments.len() as u64 * self.options.segment_bytes
            > GARBAGE_SEGMENTS * self.options.segment_bytes + 2 * live_bytes
    }

    /// Copies what is still needed of the oldest segment to the tail, and removes it.
    fn rewrite_oldest(&mut self) -> Result<(), Error> {
        let Some(oldest) = self.segments.front().map(|segment| segment.number) else { return Ok(()) };
        let name = segment_name(oldest);
        let io = |source| Error::io("read", self.disk.describe(&name), source);
        let bytes = Bytes::from(self.disk.open(&name).and_then(|file| read_all(&*file)).map_err(io)?);
        let number = self.number();
        let (mut at, mut entries, mut moved) = (0, 0_u64, 0);
        while let Some((record, used)) = format::get(&bytes[at..], oldest) {
            if record.kind == kind::APPEND
                && let Some((index, entry)) = decode_append(record.payload)
                && let Some(live) = self.groups.get_mut(&record.group)
                && live.segment_of(index) == Some(oldest)
            {
                let before = self.buffer.len();
                encode_append(&mut self.buffer, number, record.group, index, entry);
                let bytes = (self.buffer.len() - before) as u64;
                live.relocate(index, Place { segment: number, bytes });
                moved += bytes;
                entries += 1;
            }
            at += used;
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.live_bytes += moved;
        }
        // The place that they were in was flushed, and goes.
        self.must_flush = true;
        self.flush()?;
        if let Some(segment) = self.segments.front_mut() {
            segment.live_bytes = 0;
        }
        info!(segment = oldest, entries, bytes = moved, "moved old entries to the end of the log");
        Ok(())
    }
}

impl Live {
    /// Notes where the entry at `index` is now; returns the places of entries that this replaces.
    fn place(&mut self, index: u64, place: Place) -> Vec<Place> {
        if self.places.is_empty() {
            self.first = index;
        }
        let end = self.first + self.places.len() as u64;
        if index == end {
            self.places.push_back(place);
            return Vec::new();
        }
        if index < self.first || index > end {
            // A snapshot replaced everything before.
            let dropped = std::mem::take(&mut self.places).into();
            self.first = index;
            self.places.push_back(place);
            return dropped;
        }
        self.relocate(index, place).into_iter().collect()
    }

    fn segment_of(&self, index: u64) -> Option<u64> {
        let position = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.places.get(position).map(|place| place.segment)
    }

    /// Notes that an entry is elsewhere; returns where it was.
    fn relocate(&mut self, index: u64, place: Place) -> Option<Place> {
        let position = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.places.get_mut(position).map(|before| std::mem::replace(before, place))
    }

    fn truncate(&mut self, index: u64) -> Vec<Place> {
        let keep = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        if keep >= self.places.len() { Vec::new() } else { self.places.split_off(keep).into() }
    }

    fn purge(&mut self, index: u64) -> Vec<Place> {
        self.purged = self.purged.max(index);
        if index < self.first {
            return Vec::new();
        }
        let count = usize::try_from(index + 1 - self.first).unwrap_or(usize::MAX).min(self.places.len());
        self.first += count as u64;
        self.places.drain(..count).collect()
    }
}

struct Replayed {
    /// Where the last whole record ends.
    end: u64,
    /// An end record was found.
    ended: bool,
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

fn encode_append(buffer: &mut BytesMut, seed: u64, group: u64, index: u64, entry: &[u8]) {
    buffer.reserve(HEADER_BYTES + 8 + entry.len());
    format::put(buffer, seed, kind::APPEND, group, |out| {
        out.put_u64_le(index);
        out.put_slice(entry);
    });
}

fn decode_append(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (index, entry) = payload.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*index), entry))
}

fn encode_state(buffer: &mut BytesMut, seed: u64, group: u64, slot: u8, value: &[u8]) {
    format::put(buffer, seed, kind::STATE, group, |out| {
        out.put_u8(slot);
        out.put_slice(value);
    });
}

fn read_all(file: &dyn DiskFile) -> std::io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn fill_with_zeros(disk: &dyn Disk, name: &str, bytes: u64) -> std::io::Result<()> {
    let file = disk.open(name)?;
    let zeros = vec![0; ZEROS_BYTES];
    let mut at = 0;
    while at < bytes {
        let count = usize::try_from((bytes - at).min(ZEROS_BYTES as u64)).unwrap_or(ZEROS_BYTES);
        file.write_at(&zeros[..count], at)?;
        at += count as u64;
    }
    file.sync()
}

#[cfg(test)]
mod tests;
