//! One write-ahead log for all groups of a node: whatever is queued while the disk is busy goes out as one write and
//! one flush, so that many groups pay for a flush together (group commit).
//!
//! Invariants: a callback is called with success only after its records are on the medium (in [`Sync::Always`]);
//! records of one group keep their order; after a failed write or flush nothing is accepted any more.
//!
//! Layout: segments `<number in hex>.wal`. Each begins with a head and the small states of all groups, so that older
//! segments are needed for their entries only; each but the last ends with an end record. Where writes are not flushed,
//! full segments are, beside the writer; a write that must be flushed waits for all before it, so that what a loss of power
//! takes is an end of the log, and none of that. Heads say up to which segment everything is on the medium: what is missing
//! there is damage. A segment goes when all of its entries are purged, the oldest first; where entries
//! that are still needed hold back more than there is of them, they are written again at the tail.
//! Next: [`crate::format`] (the frame of a record), [`crate::faulty`] (the disk this is tested on).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::{BufMut as _, Bytes, BytesMut};
use tracing::{error, info};

use self::flusher::Flusher;
use self::live::{Live, Place};
use self::recovery::{Found, decode_append, encode_append, encode_state, kind, read_all};
use crate::disk::{Disk, DiskFile};
use crate::{Error, format, with_causes};

mod live;

mod recovery;

mod flusher;

/// Version of the format; in the head of every segment.
const VERSION: u16 = 1;

/// Requests that wait for the writer; more wait in `submit`, which is the back-pressure on the groups.
const QUEUE_MAX: usize = 4096;

/// Bytes written and flushed at once.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Segments of garbage that are always put up with.
const GARBAGE_SEGMENTS: u64 = 8;

const ZEROS_BYTES: usize = 1 << 20;

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
    /// What was needed here was written again, and is on the medium with this one.
    moved_to: Option<u64>,
}

impl Segment {
    fn new(number: u64) -> Self {
        Self { number, live_bytes: 0, moved_to: None }
    }
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
    /// Flushes full segments, where writes are not flushed.
    flusher: Option<Flusher>,
    /// The log says that segments up to this one are on the medium.
    claimed: u64,
}

fn segment_name(number: u64) -> String {
    format!("{number:016x}.wal")
}

impl Writer {
    fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Recovered), Error> {
        let Found { numbers, recovered, mut groups } = recovery::read(&disk, &options)?;
        let segments: VecDeque<Segment> = numbers.iter().copied().map(Segment::new).collect();
        for (&group, held) in &recovered.groups {
            let live = groups.entry(group).or_default();
            live.states.clone_from(&held.states);
            live.purged = held.purged;
        }

        let last = numbers.last().copied().unwrap_or_default();
        let number = last + 1;
        let flusher = match options.sync {
            Sync::Always => None,
            Sync::Never => Some(
                Flusher::start(Arc::clone(&disk), last)
                    .map_err(|source| Error::io("start the flusher of", "wal", source))?,
            ),
        };
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
            flusher,
            claimed: last,
        };
        writer.count_live();
        writer.begin_segment(number)?;
        // The name too, also where writes are not flushed: a group that asks for it must find its segment again.
        writer.disk.sync_dir().map_err(|source| Error::io("flush", writer.disk.describe("."), source))?;
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
        let number = self.number();
        let must_flush = std::mem::take(&mut self.must_flush) || self.options.sync == Sync::Always;
        if must_flush && let Some(flusher) = &self.flusher {
            // What is promised here counts only if nothing before it can be missing, and the log must be able to tell
            // what was lost with the power from what is damaged.
            flusher.wait(number - 1)?;
            if self.claimed < number - 1 {
                recovery::encode_head(&mut self.buffer, number, number - 1);
                self.claimed = number - 1;
            }
        }
        let name = segment_name(number);
        self.current
            .write_at(&self.buffer, self.offset)
            .map_err(|source| Error::io("write", self.disk.describe(&name), source))?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        if must_flush {
            self.current.sync().map_err(|source| Error::io("flush", self.disk.describe(&name), source))?;
        }
        Ok(())
    }

    /// Segments up to this one are on the medium.
    fn flushed(&self) -> Result<u64, Error> {
        self.flusher.as_ref().map_or_else(|| Ok(self.number()), Flusher::flushed)
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
            let current = self
                .disk
                .open(&name)
                .map_err(|source| Error::io("create", self.disk.describe(&name), source))?;
            let full = std::mem::replace(&mut self.current, current);
            match &self.flusher {
                Some(flusher) => flusher.flush(number, full)?,
                None => self
                    .disk
                    .sync_dir()
                    .map_err(|source| Error::io("flush", self.disk.describe("."), source))?,
            }
            self.begin_segment(next)?;
            self.flush()?;
            if self.is_mostly_garbage() {
                self.rewrite_oldest()?;
            }
        }
        self.collect()
    }

    fn begin_segment(&mut self, number: u64) -> Result<(), Error> {
        self.segments.push_back(Segment::new(number));
        self.offset = 0;
        self.claimed = self.flushed()?.min(number - 1);
        recovery::encode_head(&mut self.buffer, number, self.claimed);
        for (&group, live) in &self.groups {
            format::put(&mut self.buffer, number, kind::PURGE, group, |out| out.put_u64_le(live.purged));
            for (&slot, value) in &live.states {
                encode_state(&mut self.buffer, number, group, slot, value);
            }
        }
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
        let flushed = self.flushed()?;
        let is_over = |segment: &Segment| {
            segment.live_bytes == 0 && segment.moved_to.is_none_or(|number| number <= flushed)
        };
        while self.segments.len() > 1 && self.segments.front().is_some_and(is_over) {
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
        let kept = || self.segments.iter().filter(|segment| segment.moved_to.is_none());
        let live_bytes: u64 = kept().map(|segment| segment.live_bytes).sum();
        kept().count() as u64 * self.options.segment_bytes
            > GARBAGE_SEGMENTS * self.options.segment_bytes + 2 * live_bytes
    }

    /// Copies what is still needed of the oldest segment to the tail; it goes when that is on the medium.
    fn rewrite_oldest(&mut self) -> Result<(), Error> {
        let mut kept = self.segments.iter().filter(|segment| segment.moved_to.is_none());
        let Some(oldest) = kept.next().map(|segment| segment.number) else { return Ok(()) };
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
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.number == oldest) {
            segment.live_bytes = 0;
            segment.moved_to = Some(number);
        }
        self.flush()?;
        info!(segment = oldest, entries, bytes = moved, "moved old entries to the end of the log");
        Ok(())
    }
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
