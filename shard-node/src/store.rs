//! The rows of one partition in the node's engine, and what is kept beside them.
//!
//! A row has its newest version under `C · row`. The version that it supersedes is kept, under `H · row · until`, only
//! while a reader that is older holds a pin: so old states can be read without paying for them when nobody does, and
//! a scan of the present never steps over dead versions (docs/decisions/0007). Everything that one run of commands
//! changes, and what replication wants to remember with it, is one batch.
//!
//! Keys, one byte of space first: `C` rows, `H` history, `A` what replication said last and the state, `D` answered
//! requests, `T` counts of tables, `X` dropped tables, `R` "is being restored".

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use parking_lot::Mutex;
use trimaran_placement::token::Token;
use trimaran_storage::engine::{Batch, Engine, Order, Range};

use crate::key::{parse_head, token_range};
use crate::limits::HISTORY_REMOVED_MAX;

type StorageError = trimaran_storage::Error;

/// Rows of the present read before the history of the same range is looked at.
const PAGE_ROWS: usize = 256;

/// Rows removed with one batch when a copy is replaced.
const WIPE_ROWS: usize = 4096;

/// Low bits of a version: versions of one millisecond.
const VERSION_COUNTER_BITS: u32 = 20;

/// What an item counts for in its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Items.
    pub items: u64,
    /// Bytes that they count for.
    pub bytes: u64,
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

/// Who reads which version, and how much history there is for them.
#[derive(Debug, Default)]
struct Pins {
    versions: Mutex<BTreeMap<u64, usize>>,
    /// Superseded versions in the engine; counted before they are written.
    history: AtomicUsize,
}

impl Pins {
    fn oldest(&self) -> Option<u64> {
        self.versions.lock().first_key_value().map(|(version, _)| *version)
    }

    fn newest(&self) -> Option<u64> {
        self.versions.lock().last_key_value().map(|(version, _)| *version)
    }
}

/// Keeps one version readable.
#[derive(Debug)]
struct Pin {
    pins: Arc<Pins>,
    version: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut versions = self.pins.versions.lock();
        if let Some(count) = versions.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                versions.remove(&self.version);
            }
        }
    }
}

/// The rows of one partition.
pub struct Store {
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
    stats: BTreeMap<u64, Stats>,
    stats_changed: BTreeSet<u64>,
    dropped: BTreeSet<u64>,
    /// Numbers of the answered requests in the engine.
    answered: VecDeque<u64>,
    restoring: bool,
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
    pub fn new(engine: Arc<dyn Engine>, partition: u64, first: Token, last: Token) -> Self {
        Self {
            engine,
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
        if self.engine.get(&self.own(b'R', &[]))?.is_some() {
            return Ok(Found::Interrupted);
        }
        let Some(mut applied) = self.engine.get(&self.own(b'A', &[]))? else { return Ok(Found::Nothing) };
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
            let (key, mut value) = pair?;
            let table = key.last_chunk::<8>().ok_or_else(|| damaged("the counts of a table"))?;
            let mut count = || value.try_get_u64().map_err(|_short| damaged("the counts of a table"));
            self.stats.insert(u64::from_be_bytes(*table), Stats { items: count()?, bytes: count()? });
        }
        for pair in self.engine.scan(self.own_range(b'X'), Order::Ascending) {
            let (key, _) = pair?;
            let table = key.last_chunk::<8>().ok_or_else(|| damaged("a dropped table"))?;
            self.dropped.insert(u64::from_be_bytes(*table));
        }
        // The readers that needed history are gone.
        self.wipe_rows(b'H')?;
        Ok(Found::Committed { applied, answered })
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
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A row as the command that was begun sees it.
    pub fn get(&self, row: &Bytes) -> Result<Option<Current>, StorageError> {
        match self.fresh.get(row) {
            Some(fresh) => Ok(fresh.clone()),
            None => get_current(&*self.engine, row),
        }
    }

    /// Writes (`Some`) or removes a row; `before` is what [`Store::get`] said.
    pub fn set(&mut self, row: &Bytes, before: Option<&Current>, item: Option<Stored>) {
        if let Some(before) = before {
            self.keep(row, before);
        }
        self.count(row, before.map(|before| &before.item), item.as_ref());
        let key = keyed(b'C', &[row]);
        match &item {
            Some(item) => self.batch.put(key, Current::encode(self.version, item)),
            None => self.batch.delete(key),
        }
        let version = self.version;
        self.fresh.insert(row.clone(), item.map(|item| Current { version, item }));
    }

    /// Keeps a version that is superseded now, if somebody may still read it.
    fn keep(&mut self, row: &Bytes, before: &Current) {
        if self.pins.newest().is_none_or(|newest| newest < before.version) {
            return;
        }
        let key = keyed(b'H', &[row, &self.version.to_be_bytes()]);
        // Counted first: who sees the new row in the engine looks for the old one.
        self.pins.history.fetch_add(1, Ordering::SeqCst);
        self.batch.put(key.clone(), Current::encode(before.version, &before.item));
        self.history.push_back((self.version, key));
    }

    fn count(&mut self, row: &Bytes, before: Option<&Stored>, after: Option<&Stored>) {
        let Some((table, _)) = parse_head(row) else { return };
        let stats = self.stats.entry(table).or_default();
        let bytes = |item: &Stored| u64::from(item.size);
        stats.items = stats.items + u64::from(after.is_some()) - u64::from(before.is_some());
        stats.bytes = stats.bytes + after.map_or(0, bytes) - before.map_or(0, bytes);
        self.stats_changed.insert(table);
    }

    /// What a table counts here.
    pub fn stats(&self, table: u64) -> Stats {
        self.stats.get(&table).copied().unwrap_or_default()
    }

    /// Marks a table as dropped: nothing of it is written from now on.
    pub fn drop_table(&mut self, table: u64) {
        self.dropped.insert(table);
        self.batch.put(self.own(b'X', &table.to_be_bytes()), Bytes::new());
        self.stats.remove(&table);
        self.stats_changed.remove(&table);
        self.batch.delete(self.own(b'T', &table.to_be_bytes()));
    }

    /// True if a table was dropped.
    pub fn is_dropped(&self, table: u64) -> bool {
        self.dropped.contains(&table)
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
            let stats = self.stats(table);
            let mut value = BytesMut::new();
            value.put_u64(stats.items);
            value.put_u64(stats.bytes);
            batch.put(self.own(b'T', &table.to_be_bytes()), value.freeze());
        }
        if self.restoring {
            batch.delete(self.own(b'R', &[]));
        }
        let removed = self.forget_history(&mut batch);
        self.engine.write(batch)?;
        self.pins.history.fetch_sub(removed, Ordering::SeqCst);
        self.restoring = false;
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
        let version = self.version;
        *self.pins.versions.lock().entry(version).or_default() += 1;
        View {
            engine: Arc::clone(&self.engine),
            pin: Arc::new(Pin { pins: Arc::clone(&self.pins), version }),
        }
    }

    /// Tables with items here, and the newest version, for a snapshot.
    pub fn tables(&self) -> Vec<(u64, Stats)> {
        self.stats.iter().map(|(&table, &stats)| (table, stats)).collect()
    }

    /// Begins to replace everything: durably noted, then everything is removed.
    pub fn begin_restore(&mut self) -> Result<(), StorageError> {
        let mut mark = Batch::default();
        mark.put(self.own(b'R', &[]), Bytes::new());
        self.engine.write(mark)?;
        self.engine.flush()?;
        self.restoring = true;
        self.wipe_rows(b'C')?;
        self.wipe_rows(b'H')?;
        for space in *b"ADTX" {
            self.wipe(&self.own_range(space))?;
        }
        self.fresh.clear();
        self.batch = Batch::default();
        self.history.clear();
        self.pins.history.store(0, Ordering::SeqCst);
        self.stats.clear();
        self.stats_changed.clear();
        self.dropped.clear();
        self.answered.clear();
        Ok(())
    }

    /// Removes everything of this partition. Interrupted, it is to be called again.
    pub fn forget(&mut self) -> Result<(), StorageError> {
        self.begin_restore()?;
        let mut mark = Batch::default();
        mark.delete(self.own(b'R', &[]));
        self.engine.write(mark)?;
        self.engine.flush()
    }

    /// Takes over what a snapshot says beside the rows.
    pub fn restore_head(&mut self, version: u64, tables: Vec<(u64, Stats)>, dropped: Vec<u64>) {
        self.version = version;
        self.stats_changed.extend(tables.iter().map(|(table, _)| *table));
        self.stats.extend(tables);
        for table in dropped {
            self.drop_table(table);
        }
    }

    /// Writes rows of a snapshot at once.
    pub fn restore_rows(&mut self, rows: impl Iterator<Item = Row>) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        for (row, version, item) in rows {
            batch.put(keyed(b'C', &[&row]), Current::encode(version, &item));
        }
        self.engine.write(batch)
    }

    /// Removes this partition's part of a space of rows, of every table that has rows there.
    fn wipe_rows(&self, space: u8) -> Result<(), StorageError> {
        let mut table = 0_u64;
        loop {
            let rest = Range::new(keyed(space, &[&table.to_be_bytes()]), vec![space + 1]);
            let Some(pair) = self.engine.scan(rest, Order::Ascending).next() else { return Ok(()) };
            let (key, _) = pair?;
            let Some((found, _)) = parse_head(&key[1..]) else { return Ok(()) };
            self.wipe(&in_space(space, &token_range(found, self.first, self.last)))?;
            table = found + 1;
        }
    }

    fn wipe(&self, range: &Range) -> Result<(), StorageError> {
        while remove_some(&*self.engine, range, WIPE_ROWS)? == WIPE_ROWS {}
        Ok(())
    }
}

/// Removes at most `max` pairs of a range. Returns how many.
fn remove_some(engine: &dyn Engine, range: &Range, max: usize) -> Result<usize, StorageError> {
    let mut batch = Batch::default();
    for pair in engine.scan(range.clone(), Order::Ascending).take(max) {
        batch.delete(pair?.0);
    }
    let removed = batch.len();
    engine.write(batch)?;
    Ok(removed)
}

/// Removes some rows of a table that was dropped in this range of tokens. Returns how many; 0 = none are left.
pub fn sweep(
    engine: &dyn Engine,
    table: u64,
    tokens: (Token, Token),
    max: usize,
) -> Result<usize, StorageError> {
    remove_some(engine, &in_space(b'C', &token_range(table, tokens.0, tokens.1)), max)
}

fn get_current(engine: &dyn Engine, row: &[u8]) -> Result<Option<Current>, StorageError> {
    let Some(stored) = engine.get(&keyed(b'C', &[row]))? else { return Ok(None) };
    Current::decode(&stored).map(Some).ok_or_else(damaged_row)
}

fn damaged_row() -> StorageError {
    StorageError::Damaged { path: "a row".to_owned(), offset: 0, what: "it is too short".to_owned() }
}

/// The rows of a partition at one version. Clones are the same.
///
/// The engine has no snapshots, so a reader looks at the present first and at the history behind it: a row that was
/// overwritten or removed since has its old version there, written in the batch that superseded it.
#[derive(Clone)]
pub struct View {
    engine: Arc<dyn Engine>,
    pin: Arc<Pin>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("version", &self.pin.version).finish_non_exhaustive()
    }
}

impl View {
    fn has_history(&self) -> bool {
        self.pin.pins.history.load(Ordering::SeqCst) > 0
    }

    /// A row.
    pub fn get(&self, row: &Bytes) -> Result<Option<Stored>, StorageError> {
        match get_current(&*self.engine, row)? {
            Some(current) if current.version <= self.pin.version => Ok(Some(current.item)),
            _ if !self.has_history() => Ok(None),
            _ => {
                // The first that was superseded after this version; it counts if it was written before.
                let behind = keyed(b'H', &[row, &(self.pin.version + 1).to_be_bytes()]);
                let end = keyed(b'H', &[row, &u64::MAX.to_be_bytes()]);
                let Some(pair) = self.engine.scan(Range::new(behind, end), Order::Ascending).next() else {
                    return Ok(None);
                };
                let old = Current::decode(&pair?.1).ok_or_else(damaged_row)?;
                Ok((old.version <= self.pin.version).then_some(old.item))
            }
        }
    }

    /// The rows of a range with their versions and items, in order.
    pub fn scan(
        &self,
        range: Range,
        order: Order,
    ) -> impl Iterator<Item = Result<Row, StorageError>> + Send + use<> {
        let view = self.clone();
        let mut rest = Some(range);
        let mut page = Vec::new().into_iter();
        std::iter::from_fn(move || {
            loop {
                if let Some(found) = page.next() {
                    return Some(Ok(found));
                }
                match view.page(rest.take()?, order) {
                    Ok((rows, more)) => {
                        page = rows.into_iter();
                        rest = more;
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// Some rows from the front of a range, and what remains of it.
    fn page(&self, range: Range, order: Order) -> Result<(Vec<Row>, Option<Range>), StorageError> {
        let version = self.pin.version;
        let mut rows = Vec::new();
        let mut count = 0;
        let mut last = None;
        for pair in self.engine.scan(in_space(b'C', &range), order).take(PAGE_ROWS) {
            let (key, stored) = pair?;
            let row = key.slice(1..);
            let current = Current::decode(&stored).ok_or_else(damaged_row)?;
            count += 1;
            last = Some(row.clone());
            if current.version <= version {
                rows.push((row, current.version, current.item));
            }
        }
        let last = last.filter(|_| count == PAGE_ROWS);
        // What this page is about, the last row with all of its history included, and what comes behind.
        let (seen, rest) = match (&last, order) {
            (None, _) => (range, None),
            (Some(last), Order::Ascending) => {
                let behind = keyed_after(last);
                let seen = Range::new(range.start, behind.clone());
                (seen, Some(Range { start: behind, end: range.end }))
            }
            (Some(last), Order::Descending) => {
                let seen = Range { start: last.clone(), end: range.end };
                (seen, Some(Range::new(range.start, last.clone())))
            }
        };
        if self.has_history() {
            self.add_history(&seen, &mut rows)?;
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            rows.dedup_by(|a, b| a.0 == b.0);
            if order == Order::Descending {
                rows.reverse();
            }
        }
        Ok((rows, rest.filter(|rest| !rest.is_empty())))
    }

    fn add_history(&self, range: &Range, rows: &mut Vec<Row>) -> Result<(), StorageError> {
        let version = self.pin.version;
        for pair in self.engine.scan(in_space(b'H', range), Order::Ascending) {
            let (key, stored) = pair?;
            let Some(row_end) = key.len().checked_sub(8) else { continue };
            let until = key.last_chunk::<8>().map_or(0, |until| u64::from_be_bytes(*until));
            let old = Current::decode(&stored).ok_or_else(damaged_row)?;
            if old.version <= version && version < until {
                rows.push((key.slice(1..row_end), old.version, old.item));
            }
        }
        Ok(())
    }
}

/// The smallest bytes behind a row and everything that begins with it. Only its own history does: no row is the
/// beginning of another.
fn keyed_after(row: &Bytes) -> Bytes {
    trimaran_storage::engine::after_prefix(row).unwrap_or_else(|| row.clone())
}

#[cfg(test)]
mod tests;
