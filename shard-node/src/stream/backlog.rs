//! What is read of a stream's shards and not told yet, and in which order it can be told.
//!
//! The parts of a transaction are in as many shards as its items have partitions, each where it was carried out there, and
//! two transactions need not stand in the same order in two shards unless they wrote the same item. So what is read waits
//! here until all of its transaction is there, and what comes behind it goes past if it is about other items. Where a
//! reader is, is then more than a place in each shard: also which changes behind it are told already.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;
use trimaran_placement::token::Token;
use trimaran_proto::internal::shard as wire;
use trimaran_proto::state::shard::change::Event;

use super::{Sequence, Shard, ShardId};
use crate::error::Invalid;
use crate::limits::{FOLLOW_BUFFER, PAGE_BYTES_MAX, TOGETHER_MAX};
use crate::op::encode;
use crate::op::get_records::{Position, Record, Records};

/// Changes that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// One, or those of a transaction that changed something.
    pub records: Vec<Record>,
    /// The transaction, if it is one with several writes to the table.
    pub transaction: Option<Bytes>,
    /// False of a transaction of which a part did not come.
    pub is_whole: bool,
}

/// What was read of a shard.
#[derive(Debug, Default)]
struct Tail {
    /// Where to read on.
    from: Option<Sequence>,
    /// Read, and not all told.
    read: VecDeque<Read>,
    /// Nothing more is to be read.
    is_read: bool,
    /// Those that follow it have been taken up.
    is_followed: bool,
    /// Told before, by whoever made the cursor.
    told: HashSet<Sequence>,
}

#[derive(Debug)]
struct Read {
    record: Record,
    /// What tells its item from others; empty = of no item.
    item: Bytes,
    at: Instant,
    is_told: bool,
}

impl Read {
    /// The transaction, if others are to be told with this.
    fn transaction(&self) -> Option<(&Bytes, u32)> {
        let (id, writes) = self.record.transaction.as_ref()?;
        (*writes > 1).then_some((id, *writes))
    }
}

impl Tail {
    fn cut(&mut self) {
        while self.read.front().is_some_and(|read| read.is_told) {
            self.read.pop_front();
        }
    }

    /// True if it has nothing more to say.
    fn is_done(&self) -> bool {
        self.is_read && self.is_followed && self.read.is_empty()
    }
}

/// What is here of a transaction.
#[derive(Default)]
struct Waiting {
    /// All that it has.
    writes: u32,
    here: u32,
    /// Of those, how many no other change of their item stands before.
    free: u32,
    /// One is here for long.
    is_old: bool,
    bytes: usize,
}

impl Waiting {
    fn is_whole(&self) -> bool {
        self.here >= self.writes
    }

    /// What a part did not come of for long is told without it, or nothing behind it would ever be.
    fn is_ready(&self) -> bool {
        self.here == self.free && (self.is_whole() || self.is_old)
    }
}

/// Bytes of what some changes have of their items.
fn bytes(told: &[Told]) -> usize {
    told.iter().flat_map(|told| &told.records).map(Record::size).sum()
}

/// The shards of a stream that somebody reads.
#[derive(Debug, Default)]
pub struct Backlog {
    tails: BTreeMap<ShardId, Tail>,
}

impl Backlog {
    /// To read from these places on.
    pub fn at(places: impl IntoIterator<Item = Position>) -> Self {
        let tail = |position: Position| Tail { from: position.from, ..Tail::default() };
        Self { tails: places.into_iter().map(|place| (place.shard, tail(place))).collect() }
    }

    /// Where somebody was who has told everything up to then.
    pub fn resume(shards: Vec<wire::StreamCursorShard>) -> Result<Self, Invalid> {
        let sequence = |version, place: u32| -> Result<Sequence, Invalid> {
            let place = u16::try_from(place).map_err(|_large| Invalid::new("cursor: it is damaged"))?;
            Ok(Sequence { version, place })
        };
        let mut tails = BTreeMap::new();
        for shard in shards {
            let id = ShardId { begun: shard.begun, first: Token(shard.first_token) };
            let told = shard.told.into_iter().map(|told| sequence(told.version, told.place));
            let tail = Tail {
                from: shard.version.map(|version| sequence(version, shard.place)).transpose()?,
                is_followed: shard.followed,
                told: told.collect::<Result<_, _>>()?,
                ..Tail::default()
            };
            tails.insert(id, tail);
        }
        Ok(Self { tails })
    }

    /// Where somebody may go on who has got everything that was told.
    pub fn cursor(&self) -> Vec<wire::StreamCursorShard> {
        let place = |sequence: Sequence| wire::StreamPlace {
            version: sequence.version,
            place: sequence.place.into(),
        };
        let shard = |(id, tail): (&ShardId, &Tail)| {
            let left = tail.read.iter().find(|read| !read.is_told).map(|read| read.record.sequence);
            let from = left.or(tail.from);
            let told = tail.read.iter().filter(|read| read.is_told).map(|read| read.record.sequence);
            let told = told.chain(tail.told.iter().copied());
            wire::StreamCursorShard {
                first_token: id.first.0,
                begun: id.begun,
                version: from.map(|from| from.version),
                place: from.map_or(0, |from| from.place.into()),
                told: told.filter(|told| from.is_none_or(|from| *told > from)).map(place).collect(),
                followed: tail.is_followed,
            }
        };
        self.tails.iter().map(shard).collect()
    }

    /// True if the stream has ended, and all of it is told.
    pub fn is_over(&self) -> bool {
        self.tails.is_empty()
    }

    /// Where to read on, of those shards that have room.
    pub fn wanted(&self) -> Vec<Position> {
        // Of a cursor: what was left of a shard comes before anything of those that follow it.
        let is_left = |tail: &Tail| tail.is_followed && !tail.is_read;
        let left = self.tails.iter().find(|(_, tail)| is_left(tail)).map(|(&id, _)| id);
        let has_room = |tail: &Tail| !tail.is_read && tail.read.len() < FOLLOW_BUFFER;
        let wanted = self.tails.iter().filter(|(_, tail)| has_room(tail));
        let wanted = wanted.filter(|(id, _)| left.is_none_or(|left| left == **id));
        wanted.map(|(&shard, tail)| Position { shard, from: tail.from }).collect()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.tails.values().flat_map(|tail| &tail.read).map(|read| read.record.size()).sum()
    }

    /// Takes in what was read in a shard, from where it was wanted on. True if there is something new.
    pub fn add(&mut self, shard: ShardId, found: Records, now: Instant) -> bool {
        let Some(tail) = self.tails.get_mut(&shard) else { return false };
        let is_news = !found.records.is_empty();
        for record in found.records {
            let is_told = tail.told.remove(&record.sequence);
            let item =
                if record.event == Event::Unchanged { Bytes::new() } else { encode(&record.key).bytes };
            tail.read.push_back(Read { record, item, at: now, is_told });
        }
        match found.next {
            Some(next) => tail.from = next.from,
            None => tail.is_read = true,
        }
        tail.cut();
        is_news
    }

    /// True if shards are read to their ends and those that follow them are not taken up yet.
    pub fn has_ended(&self) -> bool {
        self.tails.values().any(|tail| tail.is_read && !tail.is_followed)
    }

    /// Takes up the shards that follow those that are read to their ends, out of all shards of the stream. What is not told
    /// yet of those is told first, item by item.
    pub fn take_up(&mut self, shards: &[Shard]) {
        let ended = self.tails.iter().filter(|(_, tail)| tail.is_read && !tail.is_followed);
        let ended: HashSet<ShardId> = ended.map(|(&id, _)| id).collect();
        for shard in shards {
            if shard.parent.is_some_and(|parent| ended.contains(&parent)) {
                self.tails.entry(shard.id).or_default();
            }
        }
        for parent in ended {
            if let Some(tail) = self.tails.get_mut(&parent) {
                tail.is_followed = true;
            }
        }
        self.tails.retain(|_, tail| !tail.is_done());
    }

    /// What can be told of what is read, about a page of it.
    pub fn tell(&mut self, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        loop {
            self.tell_single(&mut told);
            let ready = if bytes(&told) < PAGE_BYTES_MAX { self.ready(now) } else { Vec::new() };
            if ready.is_empty() {
                break;
            }
            self.tell_transactions(&ready, &mut told);
        }
        self.tails.values_mut().for_each(Tail::cut);
        self.tails.retain(|_, tail| !tail.is_done());
        told
    }

    /// Everything that does not wait for a transaction, nor for a change of its item that does. Shards come behind those that
    /// they follow, so an item's changes come in order.
    fn tell_single(&mut self, told: &mut Vec<Told>) {
        let mut waiting: HashSet<Bytes> = HashSet::new();
        let mut room = PAGE_BYTES_MAX.saturating_sub(bytes(told));
        for read in self.tails.values_mut().flat_map(|tail| &mut tail.read).filter(|read| !read.is_told) {
            if waiting.contains(&read.item) {
                continue;
            }
            if read.transaction().is_some() {
                if !read.item.is_empty() {
                    waiting.insert(read.item.clone());
                }
                continue;
            }
            if room == 0 {
                return;
            }
            room = room.saturating_sub(read.record.size());
            read.is_told = true;
            if read.record.event != Event::Unchanged {
                told.push(Told { records: vec![read.record.clone()], transaction: None, is_whole: true });
            }
        }
    }

    /// The transactions that are there, or have been waited for long enough, and whether all of each is there; about a page
    /// of them. No two are about one item, so none waits for another.
    fn ready(&self, now: Instant) -> Vec<(Bytes, bool)> {
        let mut first: HashSet<&Bytes> = HashSet::new();
        let mut found: HashMap<&Bytes, Waiting> = HashMap::new();
        let mut order = Vec::new();
        for read in self.tails.values().flat_map(|tail| &tail.read).filter(|read| !read.is_told) {
            let is_first = read.item.is_empty() || first.insert(&read.item);
            let Some((id, writes)) = read.transaction() else { continue };
            let waiting = found.entry(id).or_insert_with(|| {
                order.push(id);
                Waiting { writes, ..Waiting::default() }
            });
            waiting.here += 1;
            waiting.free += u32::from(is_first);
            waiting.is_old |= now.duration_since(read.at) >= TOGETHER_MAX;
            waiting.bytes += read.record.size();
        }
        let (mut ready, mut bytes) = (Vec::new(), 0);
        for id in order {
            let Some(waiting) = found.get(id).filter(|waiting| waiting.is_ready()) else { continue };
            if bytes >= PAGE_BYTES_MAX {
                break;
            }
            bytes += waiting.bytes;
            ready.push((id.clone(), waiting.is_whole()));
        }
        ready
    }

    fn tell_transactions(&mut self, ready: &[(Bytes, bool)], told: &mut Vec<Told>) {
        let places: HashMap<&Bytes, usize> = ready.iter().map(|(id, _)| id).zip(0..).collect();
        let mut records: Vec<Vec<Record>> = vec![Vec::new(); ready.len()];
        for read in self.tails.values_mut().flat_map(|tail| &mut tail.read).filter(|read| !read.is_told) {
            let Some(&place) = read.transaction().and_then(|(id, _)| places.get(id)) else { continue };
            read.is_told = true;
            if read.record.event != Event::Unchanged {
                records[place].push(read.record.clone());
            }
        }
        for ((id, is_whole), records) in ready.iter().zip(records) {
            if !records.is_empty() {
                told.push(Told { records, transaction: Some(id.clone()), is_whole: *is_whole });
            }
        }
    }
}

#[cfg(test)]
mod tests;
