//! Values that a client keeps itself until they change.
//!
//! A [`NearCache`] watches the changes of all keys with a prefix. What it has read it keeps until the watch tells that it is another
//! value, or for as long as was said at most; while the watch is not connected it keeps nothing and asks the grid. So what it answers
//! is behind by no more than changes are on their way: milliseconds, or until a broken connection is noticed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;
use trimaran_placement::token::{self, Token};
use trimaran_proto::api::grid::watch_event;

use crate::error::Error;
use crate::grid::Grid;
use crate::watch::Watch;

/// How long it is waited until all partitions are watched.
const BEGUN_MAX: Duration = Duration::from_secs(10);

/// Pause before the changes are watched anew.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of keys and values, and what it takes to keep them; of more, those go that are not read again.
    pub bytes_max: u64,
    /// How long a value is kept without being read again from the grid.
    pub age_max: Duration,
}

impl Default for Options {
    /// 64 MiB, a minute.
    fn default() -> Self {
        Self { bytes_max: 64 << 20, age_max: Duration::from_secs(60) }
    }
}

/// How often it had what it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// It did.
    pub hits: u64,
    /// It asked the grid.
    pub misses: u64,
}

/// Values of keys with a prefix. It ends with this.
#[derive(Debug)]
pub struct NearCache {
    grid: Grid,
    prefix: Bytes,
    age_max: Duration,
    shared: Arc<Shared>,
    hits: AtomicU64,
    misses: AtomicU64,
    _watching: DropGuard,
}

#[derive(Debug)]
struct Shared {
    kept: Mutex<Kept>,
    /// True while all changes are heard.
    hears: watch::Sender<bool>,
}

#[derive(Debug)]
struct Kept {
    values: Cache<Bytes, Held, Weight>,
    /// What is being read, by how many, and how often it has changed since the first of them began.
    reading: HashMap<Bytes, (usize, u64)>,
}

/// A value, and since when.
type Held = (Option<Bytes>, Instant);

/// What a value costs beside its bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// About how many bytes a value takes for which room is made beforehand.
const BYTES_EXPECTED: u64 = 1024;

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Bytes, Held> for Weight {
    fn weight(&self, key: &Bytes, (value, _): &Held) -> u64 {
        (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64 + ENTRY_OVERHEAD_BYTES
    }
}

impl Kept {
    fn forget(&mut self, key: &[u8]) {
        self.values.remove(key);
        if let Some((_, changes)) = self.reading.get_mut(key) {
            *changes += 1;
        }
    }

    fn forget_all(&mut self) {
        self.values.clear();
        self.reading.values_mut().for_each(|(_, changes)| *changes += 1);
    }
}

impl NearCache {
    /// Keeps values of keys with a prefix from now on; an empty one is that of all keys, whose changes are all sent here.
    ///
    /// Errors: [`Error::Unavailable`] if the changes cannot be watched.
    pub async fn begin(grid: &Grid, prefix: impl Into<Bytes>, options: Options) -> Result<Self, Error> {
        let prefix = prefix.into();
        let expected = usize::try_from(options.bytes_max / BYTES_EXPECTED).unwrap_or(usize::MAX);
        let values = Cache::with_weighter(expected, options.bytes_max, Weight);
        let kept = Mutex::new(Kept { values, reading: HashMap::new() });
        let shared = Arc::new(Shared { kept, hears: watch::Sender::new(false) });
        let stop = CancellationToken::new();
        let watching = follow(grid.clone(), prefix.clone(), Arc::clone(&shared));
        tokio::spawn(stop.clone().run_until_cancelled_owned(watching));
        let watching = stop.drop_guard();
        let mut hears = shared.hears.subscribe();
        if timeout(BEGUN_MAX, hears.wait_for(|hears| *hears)).await.is_err() {
            return Err(Error::Unavailable("changes are not watched".to_owned()));
        }
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        let (grid, age_max) = (grid.clone(), options.age_max);
        Ok(Self { grid, prefix, age_max, shared, hits, misses, _watching: watching })
    }

    /// The value of a key, kept or from the grid.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        let key = key.into();
        if !key.starts_with(&self.prefix) {
            return self.grid.get(key).await;
        }
        let changes = {
            let mut kept = self.shared.kept.lock();
            if let Some((value, since)) = kept.values.get(&key)
                && since.elapsed() < self.age_max
            {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(value.clone());
            }
            let (readers, changes) = kept.reading.entry(key.clone()).or_default();
            *readers += 1;
            *changes
        };
        self.misses.fetch_add(1, Ordering::Relaxed);
        let read = Reading { cache: self, key, changes };
        let since = Instant::now();
        let value = self.grid.get(read.key.clone()).await?;
        read.keep(&value, since);
        Ok(value)
    }

    /// Sets a key; whoever reads it here from then on sees that, or what came later.
    pub async fn set(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<u64, Error> {
        let key = key.into();
        let done = self.grid.set(key.clone(), value).await;
        self.shared.kept.lock().forget(&key);
        done
    }

    /// Deletes a key, likewise; false if there was none.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, Error> {
        let key = key.into();
        let done = self.grid.delete(key.clone()).await;
        self.shared.kept.lock().forget(&key);
        done
    }

    /// Forgets a key that was changed in another way.
    pub fn forget(&self, key: &[u8]) {
        self.shared.kept.lock().forget(key);
    }

    /// How often it had what it was asked for.
    pub fn counts(&self) -> Counts {
        Counts { hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }
}

/// A key that is being read: what changes meanwhile is not kept.
struct Reading<'a> {
    cache: &'a NearCache,
    key: Bytes,
    /// How often it had changed by then.
    changes: u64,
}

impl Reading<'_> {
    fn keep(self, value: &Option<Bytes>, since: Instant) {
        let shared = &self.cache.shared;
        let mut kept = shared.kept.lock();
        let is_same = kept.reading.get(&self.key).is_some_and(|(_, changes)| *changes == self.changes);
        if is_same && *shared.hears.borrow() {
            kept.values.insert(self.key.clone(), (value.clone(), since));
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut kept = self.cache.shared.kept.lock();
        if let Some(reading) = kept.reading.get_mut(&self.key) {
            reading.0 -= 1;
            if reading.0 == 0 {
                kept.reading.remove(&self.key);
            }
        }
    }
}

/// Forgets what changes, for ever.
async fn follow(grid: Grid, prefix: Bytes, shared: Arc<Shared>) {
    loop {
        let ended = match grid.watch(prefix.clone(), true, Vec::new()).await {
            Ok(watch) => hear(watch, &shared).await,
            Err(error) => error,
        };
        shared.hears.send_replace(false);
        shared.kept.lock().forget_all();
        debug!(error = %ended, "changes are watched anew");
        sleep(AGAIN_AFTER).await;
    }
}

/// Hears of changes until the watch ends, or has to look for another node: what changes meanwhile comes late.
async fn hear(mut changes: Watch, shared: &Shared) -> Error {
    // Tokens of which changes are heard, while not of all.
    let mut begun: Option<Vec<(Token, Token)>> = Some(Vec::new());
    loop {
        let events = match changes.next_of_this_node().await {
            Ok(events) => events,
            Err(error) => return error,
        };
        let mut kept = shared.kept.lock();
        for event in &events.events {
            if event.kind() != watch_event::Kind::Begin {
                kept.forget(&event.key);
            } else if let (Some(ranges), Some(position)) = (&mut begun, event.position.as_ref()) {
                ranges.push(match (position.first_token, position.last_token) {
                    (0, 0) => (Token(0), Token(u64::MAX)),
                    (first, last) => (Token(first), Token(last)),
                });
            }
        }
        drop(kept);
        if begun.as_mut().is_some_and(|ranges| token::are_all(ranges)) {
            begun = None;
            shared.hears.send_replace(true);
        }
    }
}
