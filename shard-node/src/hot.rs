//! Which partition keys of a table are asked for the most: a sample of what this node is asked as the leader of partitions,
//! counted by "Space-Saving" (Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data
//! Streams", ICDT 2005). Counts fade: half of what was asked is forgotten after a minute.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use trimaran_placement::token::Token;

use crate::key::parse_head;
use crate::keyspace::{self, Kind};

/// Requests of which one is counted.
pub const SAMPLE_EVERY: u64 = 16;

/// Partition keys of a table, or of an index, that are counted. One that has more than so much of a table's requests is among
/// them, however many others there are.
const COUNTERS: usize = 64;

/// After how long a request counts half.
const HALF_LIFE_MS: f64 = 60_000.0;

/// How often counts fade, milliseconds.
const FADE_EVERY_MS: u64 = 1000;

/// What is left of a table's counts when it is forgotten.
const FORGOTTEN: f64 = 0.01;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// To read.
    Read,
    /// To write.
    Write,
}

/// Requests by what they ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Reads.
    pub reads: f64,
    /// Writes.
    pub writes: f64,
}

impl Rates {
    fn count(&mut self, asked: Asked) {
        match asked {
            Asked::Read => self.reads += 1.0,
            Asked::Write => self.writes += 1.0,
        }
    }

    /// Of both.
    pub fn sum(self) -> f64 {
        self.reads + self.writes
    }

    /// So many times as much.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { reads: self.reads * factor, writes: self.writes * factor }
    }

    /// Of both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { reads: self.reads + other.reads, writes: self.writes + other.writes }
    }
}

/// A partition key that is asked for much.
#[derive(Clone, Debug, PartialEq)]
pub struct HotKey {
    /// What it is spread by.
    pub token: Token,
    /// A row of it: one that was asked for.
    pub row: Bytes,
    /// A second, at least.
    pub rates: Rates,
}

/// What a table, or one of its indexes, was asked here.
#[derive(Clone, Debug, PartialEq)]
pub struct HotRows {
    /// Which, see [`crate::keyspace`].
    pub keyspace: u64,
    /// A second, for all of its keys.
    pub rates: Rates,
    /// The hottest first.
    pub keys: Vec<HotKey>,
}

/// Counts for a node.
#[derive(Debug, Default)]
pub struct Hot {
    asked: AtomicU64,
    sketches: Mutex<BTreeMap<u64, Sketch>>,
}

impl Hot {
    /// Notes that so many rows were asked for together. Most of the time that costs no more than counting; `row` is asked for
    /// those of a sample.
    pub fn note(
        &self,
        asked: Asked,
        count: usize,
        row: impl Fn(usize) -> Option<Bytes>,
        now_ms: impl FnOnce() -> u64,
    ) {
        let before = self.asked.fetch_add(count as u64, Ordering::Relaxed);
        // Every sixteenth is counted, wherever among the others it stands.
        let first = (SAMPLE_EVERY - 1) - before % SAMPLE_EVERY;
        if first >= count as u64 {
            return;
        }
        let now_ms = now_ms();
        for at in (first as usize..count).step_by(SAMPLE_EVERY as usize) {
            let Some(row) = row(at) else { continue };
            let Some((keyspace, token)) = parse_head(&row) else { continue };
            if matches!(keyspace::kind(keyspace), Some(Kind::Items | Kind::Index)) {
                let mut sketches = self.sketches.lock();
                let sketch = sketches.entry(keyspace).or_insert_with(|| Sketch::new(now_ms));
                sketch.fade(now_ms);
                sketch.count(asked, token, &row);
            }
        }
    }

    /// What a table and its indexes were asked here lately; tables that were asked nothing lately are forgotten.
    pub fn of_table(&self, table: u64, now_ms: u64) -> Vec<HotRows> {
        let mut sketches = self.sketches.lock();
        sketches.retain(|_, sketch| {
            sketch.fade(now_ms);
            sketch.rates.sum() > FORGOTTEN
        });
        let of_table = sketches.iter().filter(|(keyspace, _)| keyspace::table(**keyspace) == table);
        of_table.map(|(&keyspace, sketch)| sketch.told(keyspace, now_ms)).collect()
    }
}

#[derive(Debug)]
struct Counter {
    row: Bytes,
    /// Counted since it has its place.
    rates: Rates,
    /// What the one before it had counted: so much more may have been asked for this one.
    over: f64,
}

impl Counter {
    fn most(&self) -> f64 {
        self.rates.sum() + self.over
    }
}

#[derive(Debug)]
struct Sketch {
    counters: BTreeMap<Token, Counter>,
    rates: Rates,
    since_ms: u64,
    faded_ms: u64,
}

impl Sketch {
    fn new(now_ms: u64) -> Self {
        Self { counters: BTreeMap::new(), rates: Rates::default(), since_ms: now_ms, faded_ms: now_ms }
    }

    fn fade(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.faded_ms);
        if passed_ms < FADE_EVERY_MS {
            return;
        }
        self.faded_ms = now_ms;
        let left = (-(passed_ms as f64) / HALF_LIFE_MS).exp2();
        self.rates = self.rates.times(left);
        for counter in self.counters.values_mut() {
            counter.rates = counter.rates.times(left);
            counter.over *= left;
        }
    }

    fn count(&mut self, asked: Asked, token: Token, row: &[u8]) {
        self.rates.count(asked);
        if let Some(counter) = self.counters.get_mut(&token) {
            counter.rates.count(asked);
            return;
        }
        let mut over = 0.0;
        if self.counters.len() == COUNTERS {
            let least =
                self.counters.iter().min_by(|(_, one), (_, other)| one.most().total_cmp(&other.most()));
            if let Some((&least, counter)) = least {
                over = counter.most();
                self.counters.remove(&least);
            }
        }
        // A copy: the row is a slice of a whole message.
        let mut counter = Counter { row: Bytes::copy_from_slice(row), rates: Rates::default(), over };
        counter.rates.count(asked);
        self.counters.insert(token, counter);
    }

    fn told(&self, keyspace: u64, now_ms: u64) -> HotRows {
        // What a steady rate of one a second has left after this time: the integral over what each second has.
        let fades_ms = HALF_LIFE_MS / std::f64::consts::LN_2;
        let since_ms = now_ms.saturating_sub(self.since_ms).max(FADE_EVERY_MS) as f64;
        let left = fades_ms / 1000.0 * (1.0 - (-since_ms / fades_ms).exp());
        let a_second = |rates: Rates| rates.times(SAMPLE_EVERY as f64 / left);
        let mut keys: Vec<HotKey> = self
            .counters
            .iter()
            .map(|(&token, counter)| HotKey {
                token,
                row: counter.row.clone(),
                rates: a_second(counter.rates),
            })
            .collect();
        keys.sort_by(|one, other| other.rates.sum().total_cmp(&one.rates.sum()));
        HotRows { keyspace, rates: a_second(self.rates), keys }
    }
}

/// What several nodes told, as one: hottest first, `limit` at most of each.
pub fn together(told: impl IntoIterator<Item = HotRows>, limit: usize) -> Vec<HotRows> {
    let mut found: BTreeMap<u64, (Rates, BTreeMap<Token, HotKey>)> = BTreeMap::new();
    for rows in told {
        let (rates, keys) = found.entry(rows.keyspace).or_default();
        *rates = rates.plus(rows.rates);
        for key in rows.keys {
            // A leader before and one now both know of it.
            let known = keys.get(&key.token).map(|known| known.rates).unwrap_or_default();
            keys.insert(key.token, HotKey { rates: known.plus(key.rates), ..key });
        }
    }
    let rows = found.into_iter().map(|(keyspace, (rates, keys))| {
        let mut keys: Vec<HotKey> = keys.into_values().collect();
        keys.sort_by(|one, other| other.rates.sum().total_cmp(&one.rates.sum()));
        keys.truncate(limit);
        HotRows { keyspace, rates, keys }
    });
    rows.collect()
}

#[cfg(test)]
mod tests;
