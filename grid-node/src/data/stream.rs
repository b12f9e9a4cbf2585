//! Streams: entries with ids that grow, and groups of consumers who share them out among themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trimaran_proto::state::grid::{StreamConsumer, StreamGroup, StreamId, StreamPending, StreamState};

use super::dict::Blob;
use super::{ELEMENT_OVERHEAD_BYTES, Encodings, Value};

/// What an entry takes beside its words.
const ENTRY_OVERHEAD_BYTES: usize = 48;

/// What an entry that is not acknowledged, or a consumer, takes.
const PENDING_BYTES: usize = 128;

/// The id of an entry: milliseconds, and a number within them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Since 1970, as a rule.
    pub ms: u64,
    /// Within the millisecond.
    pub sequence: u64,
}

impl Id {
    /// The least: of no entry.
    pub const MIN: Self = Self { ms: 0, sequence: 0 };

    /// The greatest.
    pub const MAX: Self = Self { ms: u64::MAX, sequence: u64::MAX };

    /// The next one.
    pub fn next(self) -> Option<Self> {
        match self.sequence.checked_add(1) {
            Some(sequence) => Some(Self { sequence, ..self }),
            None => Some(Self { ms: self.ms.checked_add(1)?, sequence: 0 }),
        }
    }

    /// The one before.
    pub fn previous(self) -> Option<Self> {
        match self.sequence.checked_sub(1) {
            Some(sequence) => Some(Self { sequence, ..self }),
            None => Some(Self { ms: self.ms.checked_sub(1)?, sequence: u64::MAX }),
        }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.sequence)
    }
}

impl From<StreamId> for Id {
    fn from(id: StreamId) -> Self {
        Self { ms: id.ms, sequence: id.sequence }
    }
}

impl From<Id> for StreamId {
    fn from(id: Id) -> Self {
        Self { ms: id.ms, sequence: id.sequence }
    }
}

/// An entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its id.
    pub id: Id,
    /// Fields and values in turn.
    pub words: Arc<[Blob]>,
}

/// A stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stream {
    chunks: Vec<Arc<Vec<Entry>>>,
    len: usize,
    bytes: usize,
    /// The id of the entry that was added last, which may be deleted.
    pub last: Id,
    /// The greatest id of an entry that was deleted, not trimmed.
    pub max_deleted: Id,
    /// Entries that were ever added.
    pub added: u64,
    groups: BTreeMap<Blob, Group>,
}

/// A group of consumers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// The last entry that one of them has had.
    pub last: Id,
    /// How many of all entries ever added they have had; `None` where that cannot be known.
    pub read: Option<u64>,
    /// Entries that were given out and not acknowledged.
    pub pending: BTreeMap<Id, Pending>,
    /// Who takes entries.
    pub consumers: BTreeMap<Blob, Consumer>,
}

/// An entry that was given out.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// To whom.
    pub consumer: Blob,
    /// When, for the last time.
    pub delivered_ms: u64,
    /// How often.
    pub count: u64,
}

/// One of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Consumer {
    /// When it was heard last.
    pub seen_ms: u64,
    /// When it got something last; 0 = never.
    pub active_ms: u64,
    /// What it has and has not acknowledged.
    pub pending: BTreeSet<Id>,
}

impl Group {
    /// The consumer of a name, which is made if there is none.
    pub fn consumer(&mut self, name: &[u8], now_ms: u64) -> &mut Consumer {
        let consumer = self.consumers.entry(name.into()).or_default();
        consumer.seen_ms = now_ms;
        consumer
    }

    /// Gives an entry to a consumer, whoever had it.
    pub fn give(&mut self, id: Id, consumer: &[u8], delivered_ms: u64, count: u64) {
        let name: Blob = consumer.into();
        let before = self.pending.insert(id, Pending { consumer: Blob::clone(&name), delivered_ms, count });
        if let Some(before) = before.and_then(|before| self.consumers.get_mut(&before.consumer)) {
            before.pending.remove(&id);
        }
        if let Some(consumer) = self.consumers.get_mut(&name) {
            consumer.pending.insert(id);
        }
    }

    /// An entry is done, or is not to be had any more. False if it was not given out.
    pub fn settle(&mut self, id: Id) -> bool {
        let Some(pending) = self.pending.remove(&id) else { return false };
        if let Some(consumer) = self.consumers.get_mut(&pending.consumer) {
            consumer.pending.remove(&id);
        }
        true
    }

    fn bytes(&self) -> usize {
        (self.pending.len() + self.consumers.len() + 1) * PENDING_BYTES
    }
}

fn size(words: &[Blob]) -> usize {
    ENTRY_OVERHEAD_BYTES + words.iter().map(|word| word.len() + ELEMENT_OVERHEAD_BYTES).sum::<usize>()
}

impl Stream {
    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.bytes + self.groups.values().map(Group::bytes).sum::<usize>()
    }

    /// Chunks of entries.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Adds an entry, whose id is behind the last one.
    pub fn add(&mut self, id: Id, words: Arc<[Blob]>, encodings: &Encodings) {
        self.last = id;
        self.added += 1;
        self.append(Entry { id, words }, encodings.stream_node_max_entries);
    }

    /// Puts an entry of a snapshot back, as the first of a chunk or in that of the one before: what is trimmed by whole
    /// chunks must be the same everywhere.
    pub fn restore(&mut self, id: Id, words: Arc<[Blob]>, begins: bool) {
        self.append(Entry { id, words }, if begins { 1 } else { 0 });
    }

    fn append(&mut self, entry: Entry, chunk_entries: usize) {
        self.len += 1;
        self.bytes += size(&entry.words);
        match self.chunks.last_mut() {
            // 0 = as many as there are.
            Some(chunk) if chunk_entries == 0 || chunk.len() < chunk_entries => {
                Arc::make_mut(chunk).push(entry)
            }
            _ => self.chunks.push(Arc::new(vec![entry])),
        }
    }

    /// All entries, and of each whether it is the first of its chunk.
    pub fn iter_chunks(&self) -> impl Iterator<Item = (bool, &Entry)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().enumerate().map(|(at, entry)| (at == 0, entry)))
    }

    fn place(&self, id: Id) -> (usize, usize) {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|last| last.id < id));
        let place = self.chunks.get(chunk).map_or(0, |chunk| chunk.partition_point(|entry| entry.id < id));
        (chunk, place)
    }

    /// The entry of an id.
    pub fn get(&self, id: Id) -> Option<&Entry> {
        let (chunk, place) = self.place(id);
        self.chunks.get(chunk)?.get(place).filter(|entry| entry.id == id)
    }

    /// The first entry.
    pub fn first(&self) -> Option<&Entry> {
        self.chunks.first()?.first()
    }

    /// All entries.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// Entries from one id to another, both inclusive.
    pub fn range(&self, first: Id, last: Id) -> impl Iterator<Item = &Entry> {
        let (chunk, place) = self.place(first);
        let entries = self.chunks.iter().skip(chunk).flat_map(|chunk| chunk.iter()).skip(place);
        entries.take_while(move |entry| entry.id <= last)
    }

    /// The same from the last one down.
    pub fn range_down(&self, first: Id, last: Id) -> impl Iterator<Item = &Entry> {
        let (chunk, place) = self.place(last);
        let is_there =
            self.chunks.get(chunk).and_then(|chunk| chunk.get(place)).is_some_and(|entry| entry.id == last);
        let here = self.chunks.get(chunk).map_or(&[][..], |chunk| &chunk[..place + usize::from(is_there)]);
        let before = self.chunks[..chunk].iter().rev().flat_map(|chunk| chunk.iter().rev());
        here.iter().rev().chain(before).take_while(move |entry| entry.id >= first)
    }

    /// Deletes an entry; false if there is none.
    pub fn delete(&mut self, id: Id) -> bool {
        let (chunk, place) = self.place(id);
        if self.chunks.get(chunk).and_then(|chunk| chunk.get(place)).is_none_or(|entry| entry.id != id) {
            return false;
        }
        let entries = Arc::make_mut(&mut self.chunks[chunk]);
        let entry = entries.remove(place);
        if entries.is_empty() {
            self.chunks.remove(chunk);
        }
        self.len -= 1;
        self.bytes -= size(&entry.words);
        self.max_deleted = self.max_deleted.max(id);
        true
    }

    /// Removes entries from the begin while `goes` says so of one, `most` at most. If it is about whole chunks only,
    /// those of which every entry goes. How many.
    pub fn trim(&mut self, goes: impl Fn(usize, &Entry) -> bool, whole_chunks: bool, most: usize) -> usize {
        let mut removed = 0;
        while let Some(chunk) = self.chunks.first() {
            let left = self.len;
            let count = chunk.iter().enumerate().take_while(|(at, entry)| goes(left - at, entry)).count();
            let all = count == chunk.len();
            if count == 0 || (whole_chunks && !all) || removed + count > most {
                break;
            }
            let bytes: usize = chunk[..count].iter().map(|entry| size(&entry.words)).sum();
            if all {
                self.chunks.remove(0);
            } else if let Some(chunk) = self.chunks.first_mut() {
                Arc::make_mut(chunk).drain(..count);
            }
            self.bytes -= bytes;
            self.len -= count;
            removed += count;
            if !all {
                break;
            }
        }
        removed
    }

    /// The groups.
    pub fn groups(&self) -> &BTreeMap<Blob, Group> {
        &self.groups
    }

    /// A group.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name)
    }

    /// A group, to be changed.
    pub fn group_mut(&mut self, name: &[u8]) -> Option<&mut Group> {
        self.groups.get_mut(name)
    }

    /// A new group; false if there is one of the name.
    pub fn create_group(&mut self, name: &[u8], last: Id, read: Option<u64>) -> bool {
        if self.groups.contains_key(name) {
            return false;
        }
        self.groups.insert(name.into(), Group { last, read, ..Group::default() });
        true
    }

    /// Removes a group; false if there is none.
    pub fn remove_group(&mut self, name: &[u8]) -> bool {
        self.groups.remove(name).is_some()
    }

    /// True if an entry from an id on was deleted.
    pub fn has_gap_from(&self, id: Id) -> bool {
        self.len > 0 && self.max_deleted != Id::MIN && id <= self.max_deleted
    }

    /// How many entries were ever added up to an id, where that is known. Source:
    /// `streamEstimateDistanceFromFirstEverEntry` of Redis 7.2.
    pub fn added_up_to(&self, id: Id) -> Option<u64> {
        if self.added == 0 {
            return Some(0);
        }
        if (self.len == 0 && id <= self.last) || id == self.last {
            return Some(self.added);
        }
        let first = self.first()?.id;
        if id > self.last || self.max_deleted >= first {
            return None;
        }
        let trimmed = self.added - self.len as u64;
        match id.cmp(&first) {
            std::cmp::Ordering::Less => Some(trimmed),
            std::cmp::Ordering::Equal => Some(trimmed + 1),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// What it has beside its entries.
    pub fn state(&self) -> StreamState {
        let groups = self.groups.iter().map(|(name, group)| {
            let names: Vec<&Blob> = group.consumers.keys().collect();
            let place = |name: &Blob| u32::try_from(names.binary_search(&name).unwrap_or(0)).unwrap_or(0);
            StreamGroup {
                name: name.to_vec().into(),
                last: Some(group.last.into()),
                read: group.read,
                consumers: group
                    .consumers
                    .iter()
                    .map(|(name, consumer)| StreamConsumer {
                        name: name.to_vec().into(),
                        seen_ms: consumer.seen_ms,
                        active_ms: consumer.active_ms,
                    })
                    .collect(),
                pending: group
                    .pending
                    .iter()
                    .map(|(id, pending)| StreamPending {
                        id: Some((*id).into()),
                        consumer: place(&pending.consumer),
                        delivered_ms: pending.delivered_ms,
                        count: pending.count,
                    })
                    .collect(),
            }
        });
        StreamState {
            last: Some(self.last.into()),
            max_deleted: Some(self.max_deleted.into()),
            added: self.added,
            groups: groups.collect(),
        }
    }

    /// A stream without entries that has this.
    pub fn with_state(state: StreamState) -> Self {
        let id = |id: Option<StreamId>| Id::from(id.unwrap_or_default());
        let mut stream = Self {
            last: id(state.last),
            max_deleted: id(state.max_deleted),
            added: state.added,
            ..Self::default()
        };
        for saved in state.groups {
            let mut group = Group { last: id(saved.last), read: saved.read, ..Group::default() };
            let names: Vec<Blob> = saved.consumers.iter().map(|consumer| (*consumer.name).into()).collect();
            for (name, consumer) in names.iter().zip(&saved.consumers) {
                let StreamConsumer { seen_ms, active_ms, .. } = *consumer;
                group
                    .consumers
                    .insert(Blob::clone(name), Consumer { seen_ms, active_ms, pending: BTreeSet::new() });
            }
            for pending in saved.pending {
                let name = usize::try_from(pending.consumer).ok().and_then(|place| names.get(place));
                if let Some(name) = name {
                    group.give(id(pending.id), name, pending.delivered_ms, pending.count);
                }
            }
            stream.groups.insert((*saved.name).into(), group);
        }
        stream
    }
}

impl From<Stream> for Value {
    fn from(stream: Stream) -> Self {
        Self::Stream(Arc::new(stream))
    }
}
