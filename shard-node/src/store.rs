//! The rows of one partition in the node's engine, and what is kept beside them.
//!
//! A row has its newest version under `C · row`. The version that it supersedes is kept, under `H · row · until`, only
//! while a reader that is older holds a pin: so old states can be read without paying for them when nobody does, and
//! a scan of the present never steps over dead versions (docs/decisions/0007). Everything that one run of commands
//! changes, and what replication wants to remember with it, is one batch.
//!
//! Keys, one byte of space first: `C` rows, `H` history, `A` what replication said last and the state, `D` answered
//! requests, `T` counts of tables, `X` dropped tables, `S` what follows from writes to tables, `G` the range of tokens and
//! the partitions that are part of this one by now, `R` "is being restored", `P` and `Q` rows that are kept aside, and up
//! to which token (`aside`). Rows stand by
//! their tokens, whatever partition has them: a split moves none. What rows are, items or what is kept beside them, is in
//! [`crate::keyspace`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use trimaran_placement::token::Token;
use trimaran_proto::state::shard::{SetSchema, TableStats};
use trimaran_storage::engine::{Batch, Engine, Order, Range};

use crate::key::parse_head;
use crate::keyspace::{self, Kind};
use crate::limits::HISTORY_REMOVED_MAX;
use crate::past;
use crate::stream::Shard;
use crate::table::Table;

type StorageError = trimaran_storage::Error;

/// Low bits of a version: versions of one millisecond.
const VERSION_COUNTER_BITS: u32 = 20;

/// Milliseconds since 1970 of a version.
pub fn stamp_ms(version: u64) -> u64 {
    version >> VERSION_COUNTER_BITS
}

/// The first version of a millisecond.
pub fn version_at(stamp_ms: u64) -> u64 {
    stamp_ms << VERSION_COUNTER_BITS
}

/// A row as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// When it was written.
    pub version: u64,
    /// What it holds.
    pub item: Stored,
}

/// A stored item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes that it counts for.
    pub size: u32,
    /// As [`crate::item::encode_item`] wrote it.
    pub bytes: Bytes,
}

impl Current {
    fn decode(stored: &Bytes) -> Option<Self> {
        let mut rest = stored.clone();
        let version = rest.try_get_u64().ok()?;
        let size = rest.try_get_u32().ok()?;
        Some(Self { version, item: Stored { size, bytes: rest } })
    }

    fn encode(version: u64, item: &Stored) -> Bytes {
        let mut stored = BytesMut::with_capacity(12 + item.bytes.len());
        stored.put_u64(version);
        stored.put_u32(item.size);
        stored.put_slice(&item.bytes);
        stored.freeze()
    }
}

/// A row with when it was written and what it holds.
pub type Row = (Bytes, u64, Stored);

/// A key of a space.
fn keyed(space: u8, parts: &[&[u8]]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.put_u8(space);
    parts.iter().for_each(|part| key.put_slice(part));
    key.freeze()
}

fn in_space(space: u8, range: &Range) -> Range {
    let end = match &range.end {
        Some(end) => keyed(space, &[end]),
        None => Bytes::copy_from_slice(&[space + 1]),
    };
    Range::new(keyed(space, &[&range.start]), end)
}

/// The rows of one partition.
pub struct Store {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    partition: u64,
    first: Token,
    last: Token,
    version: u64,
    pins: Arc<Pins>,
    /// Written since the last commit.
    fresh: HashMap<Bytes, Option<Current>>,
    batch: Batch,
    /// Superseded versions by when they were superseded.
    history: VecDeque<(u64, Bytes)>,
    stats: BTreeMap<u64, Counts>,
    stats_changed: BTreeSet<u64>,
    dropped: BTreeSet<u64>,
    /// Numbers of the answered requests in the engine.
    answered: VecDeque<u64>,
    restoring: bool,
    /// The engine does not know of the range yet.
    tokens_changed: bool,
    /// Partitions that became part of this one, oldest first.
    absorbed: Vec<u64>,
    /// What the next commit takes over.
    merging: Option<Merging>,
    /// Rows of tokens behind the last one, up to this one, are kept aside.
    aside: Option<Token>,
    /// What follows from writes to tables, by table: of those from whose writes anything follows.
    schemas: BTreeMap<u64, Arc<Table>>,
    /// The rows of intents of transactions, as they are in the engine.
    intents: BTreeMap<Bytes, Current>,
    /// Rows for indexes that the command that was begun has written.
    waiting: u16,
    /// Something waits for indexes since the last commit.
    is_waiting: bool,
    /// The shards of streams that go on, by their rows.
    shards: BTreeMap<Bytes, Shard>,
    /// Changes that the command that was begun has put into streams.
    changes: u16,
    /// When something was removed last, by a hash of its row. Not the same on every replica: it only says that a row which
    /// is not there may have been there meanwhile.
    removed: Box<[u64; REMOVED_KINDS]>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("partition", &self.partition).finish_non_exhaustive()
    }
}

/// What [`Store::open`] found.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A copy that was being replaced.
    Interrupted,
    /// What was committed last.
    Committed {
        /// What replication said.
        applied: Bytes,
        /// Answered requests in order.
        answered: Vec<Bytes>,
    },
}

impl Store {
    /// An empty one; [`Store::open`] reads what the engine has.
    pub fn new(shared: Arc<Shared>, partition: u64, first: Token, last: Token) -> Self {
        Self {
            engine: Arc::clone(shared.engine()),
            shared,
            partition,
            first,
            last,
            version: 0,
            pins: Arc::default(),
            fresh: HashMap::new(),
            batch: Batch::default(),
            history: VecDeque::new(),
            stats: BTreeMap::new(),
            stats_changed: BTreeSet::new(),
            dropped: BTreeSet::new(),
            answered: VecDeque::new(),
            restoring: false,
            tokens_changed: true,
            absorbed: Vec::new(),
            merging: None,
            aside: None,
            schemas: BTreeMap::new(),
            intents: BTreeMap::new(),
            waiting: 0,
            is_waiting: false,
            shards: BTreeMap::new(),
            changes: 0,
            removed: Box::new([0; REMOVED_KINDS]),
        }
    }

    fn own(&self, space: u8, rest: &[u8]) -> Bytes {
        keyed(space, &[&self.partition.to_be_bytes(), rest])
    }

    fn own_range(&self, space: u8) -> Range {
        Range::prefix(&self.own(space, &[]))
    }

    /// Reads what the engine has of this partition.
    pub fn open(&mut self) -> Result<Found, StorageError> {
        let given = (self.first, self.last);
        self.read_tokens()?;
        let founded = self.aside.take();
        if self.engine.get(&self.own(b'R', &[]))?.is_some() {
            return Ok(Found::Interrupted);
        }
        let Some(mut applied) = self.engine.get(&self.own(b'A', &[]))? else {
            if self.first <= self.last {
                (self.first, self.last) = given;
                self.aside = founded;
            }
            self.write_tokens()?;
            return Ok(Found::Nothing);
        };
        self.read_aside()?;
        let damaged = |what: &str| StorageError::Damaged {
            path: format!("partition {}", self.partition),
            offset: 0,
            what: what.to_owned(),
        };
        self.version = applied.try_get_u64().map_err(|_short| damaged("its version"))?;
        let mut answered = Vec::new();
        for pair in self.engine.scan(self.own_range(b'D'), Order::Ascending) {
            let (key, value) = pair?;
            let number = key.last_chunk::<8>().ok_or_else(|| damaged("an answered request"))?;
            self.answered.push_back(u64::from_be_bytes(*number));
            answered.push(value);
        }
        for pair in self.engine.scan(self.own_range(b'T'), Order::Ascending) {
            let (key, value) = pair?;
            let table = key.last_chunk::<8>().ok_or_else(|| damaged("the counts of a table"))?;
            let counts = Counts::decode(value).ok_or_else(|| damaged("the counts of a table"))?;
            self.stats.insert(u64::from_be_bytes(*table), counts);
        }
        for pair in self.engine.scan(self.own_range(b'X'), Order::Ascending) {
            let (key, _) = pair?;
            let table = key.last_chunk::<8>().ok_or_else(|| damaged("a dropped table"))?;
            self.dropped.insert(u64::from_be_bytes(*table));
        }
        for pair in self.engine.scan(self.own_range(b'S'), Order::Ascending) {
            let (key, value) = pair?;
            let table =
                key.last_chunk::<8>().ok_or_else(|| damaged("what follows from writes to a table"))?;
            let table = u64::from_be_bytes(*table);
            let schema = SetSchema::decode(value).ok().and_then(decode_schema);
            let schema = schema.ok_or_else(|| damaged("what follows from writes to a table"))?;
            self.schemas.insert(table, Arc::new(schema));
        }
        self.read_beside()?;
        self.forget_removals();
        // The readers that needed history are gone.
        self.wipe_rows(b'H')?;
        Ok(Found::Committed { applied, answered })
    }

    /// The range that this copy really has: its descriptor may know of a split that it has not come to yet.
    fn read_tokens(&mut self) -> Result<(), StorageError> {
        if let Some(mut tokens) = self.engine.get(&self.own(b'G', &[]))?
            && let (Ok(first), Ok(last)) = (tokens.try_get_u64(), tokens.try_get_u64())
        {
            (self.first, self.last, self.tokens_changed) = (Token(first), Token(last), false);
            self.absorbed = std::iter::from_fn(|| tokens.try_get_u64().ok()).collect();
        }
        Ok(())
    }

    /// Says durably what the range is, as soon as there is one: whoever takes it over finds it.
    fn write_tokens(&mut self) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        batch.put(self.own(b'G', &[]), self.encode_tokens());
        self.note_aside(&mut batch);
        self.tokens_changed = false;
        self.engine.write(batch)
    }

    /// Gives up the rows of the tokens from `at` on to the partition `partition`, in the batch of the next
    /// [`Store::commit`], with what replication wants to remember there. The rows stay where they are; how many of each
    /// table go is estimated.
    pub fn split(
        &mut self,
        at: Token,
        partition: u64,
        applied: &[u8],
        answered: Vec<(u64, Bytes)>,
    ) -> Result<Self, StorageError> {
        self.split_shards(at)?;
        let share = (self.last.0 - at.0) as f64 / (self.last.0 - self.first.0) as f64;
        let mut new = Self::new(Arc::clone(&self.shared), partition, at, self.last);
        new.absorbed.clone_from(&self.absorbed);
        // Whoever reads rows that go now goes on reading them as they are.
        new.pins = Arc::clone(&self.pins);
        new.version = self.version;
        new.tokens_changed = false;
        (self.last, self.tokens_changed) = (Token(at.0 - 1), true);
        let goes = |key: &Bytes| parse_head(&key[1..]).is_some_and(|(_, token)| token >= at);
        let history = std::mem::take(&mut self.history);
        (new.history, self.history) = history.into_iter().partition(|(_, key)| goes(key));
        let batch = &mut self.batch;
        for (&table, counts) in &mut self.stats {
            let part = counts.share(share);
            counts.add(-part.stats.items.cast_signed(), -part.stats.bytes.cast_signed());
            counts.is_estimated = true;
            self.stats_changed.insert(table);
            new.stats.insert(table, part);
            batch.put(new.own(b'T', &table.to_be_bytes()), part.encode());
        }
        new.schemas.clone_from(&self.schemas);
        for (table, schema) in &new.schemas {
            batch.put(new.own(b'S', &table.to_be_bytes()), encode_schema(schema).encode_to_vec());
        }
        let intents = std::mem::take(&mut self.intents);
        let goes = |row: &Bytes| parse_head(row).is_some_and(|(_, token)| token >= at);
        (new.intents, self.intents) = intents.into_iter().partition(|(row, _)| goes(row));
        let shards = std::mem::take(&mut self.shards);
        (new.shards, self.shards) = shards.into_iter().partition(|(row, _)| goes(row));
        new.removed.clone_from(&self.removed);
        new.dropped.clone_from(&self.dropped);
        for table in &new.dropped {
            batch.put(new.own(b'X', &table.to_be_bytes()), Bytes::new());
        }
        batch.put(new.own(b'A', &[]), [&new.version.to_be_bytes(), applied].concat());
        batch.put(new.own(b'G', &[]), new.encode_tokens());
        for (number, request) in answered {
            batch.put(new.own(b'D', &number.to_be_bytes()), request);
            new.answered.push_back(number);
        }
        Ok(new)
    }

    fn encode_tokens(&self) -> Bytes {
        let absorbed = self.absorbed.iter().copied();
        let numbers = [self.first.0, self.last.0].into_iter().chain(absorbed);
        numbers.flat_map(u64::to_be_bytes).collect::<Vec<u8>>().into()
    }

    /// The partition.
    pub fn partition(&self) -> u64 {
        self.partition
    }

    /// Partitions that became part of this one, oldest first.
    pub fn absorbed(&self) -> &[u64] {
        &self.absorbed
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// First and last token, both inclusive.
    pub fn tokens(&self) -> (Token, Token) {
        (self.first, self.last)
    }

    /// Begins a command: what it writes has a version of its own, never before an earlier one, at `stamp_ms` or as
    /// soon after as is possible.
    pub fn begin(&mut self, stamp_ms: u64) {
        self.version = (self.version + 1).max(stamp_ms << VERSION_COUNTER_BITS);
        (self.waiting, self.changes) = (0, 0);
    }

    /// The command that was begun follows from something of this version: it is later. (A hybrid logical clock; Kulkarni et
    /// al., "Logical Physical Clocks", 2014.)
    pub fn follow(&mut self, version: u64) {
        self.version = self.version.max(version.saturating_add(1));
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A row as the command that was begun sees it.
    pub fn get(&self, row: &Bytes) -> Result<Option<Current>, StorageError> {
        match self.fresh.get(row) {
            Some(fresh) => Ok(fresh.clone()),
            None if self.is_aside(row) => self.get_aside(row),
            None => get_current(&*self.engine, row),
        }
    }

    /// Writes (`Some`) or removes a row; `before` is what [`Store::get`] said.
    pub fn set(&mut self, row: &Bytes, before: Option<&Current>, item: Option<Stored>) {
        let is_aside = self.is_aside(row);
        if !is_aside {
            if let Some(before) = before {
                self.keep(row, before);
            }
            self.count(row, before.map(|before| &before.item), item.as_ref());
        }
        if let Some(before) = before
            && before.version < self.version
            && self.has_history(row)
        {
            let (place, past) = past::superseded(row, before, self.version);
            self.set(&place, None, Some(past));
        }
        let version = self.version;
        if item.is_none() {
            self.removed[removed_kind(row)] = version;
        }
        match parse_head(row).and_then(|(table, _)| keyspace::kind(table)) {
            Some(Kind::Intents) => match &item {
                Some(item) => {
                    self.intents.insert(row.clone(), Current { version, item: item.clone() });
                }
                None => {
                    self.intents.remove(row);
                }
            },
            Some(Kind::Shards) => self.remember_shard(row, item.as_ref().map(|item| &*item.bytes)),
            _ => {}
        }
        let key = if is_aside { self.place_aside(row) } else { keyed(b'C', &[row]) };
        match &item {
            Some(item) => self.batch.put(key, Current::encode(self.version, item)),
            None => self.batch.delete(key),
        }
        self.fresh.insert(row.clone(), item.map(|item| Current { version, item }));
    }

    /// Keeps a version that is superseded now, if somebody may still read it.
    fn keep(&mut self, row: &Bytes, before: &Current) {
        if self.pins.newest().is_none_or(|newest| newest < before.version) {
            return;
        }
        let key = keyed(b'H', &[row, &self.version.to_be_bytes()]);
        // Counted first: who sees the new row in the engine looks for the old one.
        self.pins.count(1);
        self.batch.put(key.clone(), Current::encode(before.version, &before.item));
        self.history.push_back((self.version, key));
    }

    fn count(&mut self, row: &Bytes, before: Option<&Stored>, after: Option<&Stored>) {
        let Some((table, _)) = parse_head(row) else { return };
        let bytes = |item: Option<&Stored>| item.map_or(0, |item| i64::from(item.size));
        let items = i64::from(after.is_some()) - i64::from(before.is_some());
        self.stats.entry(table).or_default().add(items, bytes(after) - bytes(before));
        self.stats_changed.insert(table);
    }

    /// Adds what somebody has counted to what was estimated, once.
    pub fn correct(&mut self, table: u64, items: i64, bytes: i64) {
        if let Some(counts) = self.stats.get_mut(&table).filter(|counts| counts.is_estimated) {
            counts.add(items, bytes);
            counts.is_estimated = false;
            self.stats_changed.insert(table);
        }
    }

    /// Tables whose counts are estimated, with what is thought of them; it may wrap around.
    pub fn estimated(&self) -> Vec<(u64, Stats)> {
        let estimated = self.stats.iter().filter(|(_, counts)| counts.is_estimated);
        estimated.map(|(&table, counts)| (table, counts.stats)).collect()
    }

    /// About how many bytes there are, but those of streams: they are all at one token, and no split takes them apart.
    pub fn bytes(&self) -> u64 {
        let is_spread = |rows: u64| !matches!(keyspace::kind(rows), Some(Kind::Changes | Kind::Shards));
        let spread = self.stats.iter().filter(|(rows, _)| is_spread(**rows));
        spread.map(|(_, counts)| counts.told().bytes).sum()
    }

    /// What a table counts here.
    pub fn stats(&self, table: u64) -> Stats {
        self.stats.get(&table).copied().unwrap_or_default().told()
    }

    /// Marks a table as dropped: nothing of it is written from now on.
    pub fn drop_table(&mut self, table: u64) {
        self.dropped.insert(table);
        self.batch.put(self.own(b'X', &table.to_be_bytes()), Bytes::new());
        let gone: Vec<u64> = self.stats.keys().copied().filter(|&rows| is_of(rows, table)).collect();
        for rows in gone {
            self.stats.remove(&rows);
            self.stats_changed.remove(&rows);
            self.batch.delete(self.own(b'T', &rows.to_be_bytes()));
        }
        if self.schemas.remove(&table).is_some() {
            self.batch.delete(self.own(b'S', &table.to_be_bytes()));
        }
        self.intents.retain(|row, _| parse_head(row).is_none_or(|(rows, _)| !is_of(rows, table)));
        self.shards.retain(|row, _| parse_head(row).is_none_or(|(rows, _)| !is_of(rows, table)));
    }

    /// True if a table, or an index, was dropped.
    pub fn is_dropped(&self, table: u64) -> bool {
        self.dropped.contains(&table) || self.dropped.contains(&keyspace::table(table))
    }

    /// Tables that were dropped.
    pub fn dropped(&self) -> Vec<u64> {
        self.dropped.iter().copied().collect()
    }

    /// Writes everything since the last commit as one batch.
    pub fn commit(
        &mut self,
        applied: &[u8],
        answered: Vec<(u64, Bytes)>,
        forget_below: u64,
    ) -> Result<(), StorageError> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.put(self.own(b'A', &[]), [&self.version.to_be_bytes(), applied].concat());
        for (number, request) in answered {
            batch.put(self.own(b'D', &number.to_be_bytes()), request);
            self.answered.push_back(number);
        }
        while self.answered.front().is_some_and(|&number| number < forget_below) {
            if let Some(number) = self.answered.pop_front() {
                batch.delete(self.own(b'D', &number.to_be_bytes()));
            }
        }
        for table in std::mem::take(&mut self.stats_changed) {
            let counts = self.stats.get(&table).copied().unwrap_or_default();
            batch.put(self.own(b'T', &table.to_be_bytes()), counts.encode());
        }
        if self.tokens_changed {
            batch.put(self.own(b'G', &[]), self.encode_tokens());
        }
        if self.restoring {
            batch.delete(self.own(b'R', &[]));
        }
        let removed = self.forget_history(&mut batch);
        match self.merging.take() {
            Some(merging) => self.write_merged(merging, batch)?,
            None => {
                let shared = Arc::clone(&self.shared);
                let taken = shared.writing();
                if taken.contains(&self.partition) {
                    // No row of the batch counts any more.
                    self.give_up();
                    batch = Batch::default();
                    batch.put(self.own(b'A', &[]), [&self.version.to_be_bytes(), applied].concat());
                    batch.put(self.own(b'G', &[]), self.encode_tokens());
                }
                self.engine.write(batch)?;
            }
        }
        self.pins.forget(removed);
        if std::mem::take(&mut self.is_waiting) {
            self.shared.announce(self.partition);
        }
        (self.restoring, self.tokens_changed) = (false, false);
        self.fresh.clear();
        Ok(())
    }

    /// Removes superseded versions that nobody can read any more.
    fn forget_history(&mut self, batch: &mut Batch) -> usize {
        let oldest = self.pins.oldest().unwrap_or(u64::MAX);
        let mut removed = 0;
        while removed < HISTORY_REMOVED_MAX && self.history.front().is_some_and(|(until, _)| *until <= oldest)
        {
            if let Some((_, key)) = self.history.pop_front() {
                batch.delete(key);
                removed += 1;
            }
        }
        removed
    }

    /// The rows as they are committed now, for as long as it is held.
    pub fn view(&self) -> View {
        View::new(Arc::clone(&self.engine), &self.pins, self.version)
    }

    /// Tables with items here, and the newest version, for a snapshot.
    pub fn tables(&self) -> Vec<TableStats> {
        let told = |(&table, counts): (&u64, &Counts)| TableStats {
            table,
            items: counts.stats.items,
            bytes: counts.stats.bytes,
            estimated: counts.is_estimated,
        };
        self.stats.iter().map(told).collect()
    }
}

fn get_current(engine: &dyn Engine, row: &[u8]) -> Result<Option<Current>, StorageError> {
    let Some(stored) = engine.get(&keyed(b'C', &[row]))? else { return Ok(None) };
    Current::decode(&stored).map(Some).ok_or_else(damaged_row)
}

fn damaged_row() -> StorageError {
    StorageError::Damaged { path: "a row".to_owned(), offset: 0, what: "it is too short".to_owned() }
}

mod aside;
mod beside;
mod counts;
mod merge;
mod replace;
mod shards;
mod shared;
mod view;

use beside::{REMOVED_KINDS, removed_kind};
pub(crate) use beside::{decode_schema, encode_schema};
use counts::Counts;
pub use counts::Stats;
use replace::is_of;
pub use replace::sweep;

use merge::Merging;
pub use shared::Shared;
use view::Pins;
pub use view::View;

#[cfg(test)]
mod tests;
