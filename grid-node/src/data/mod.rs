//! What a partition of the grid holds: keys by slot, each with a value, a version and maybe a time to live.
//!
//! One file a data type ([`string`], [`list`], [`hash`], [`set`], [`sorted_set`], [`stream`]); [`key`] has what knows no type, [`dict`]
//! is below the large ones. A new type is a variant of [`Value`] and a file; its commands are in [`crate::command`].
//! Nothing here knows a clock: `now_ms` is the stamp of the command, or the leader's time for a read.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use trimaran_placement::token::{self, Token};
use trimaran_proto::state::grid::Expiry;
use trimaran_proto::state::grid::expiry::When;

pub mod dict;

pub mod string;

pub mod list;

pub mod hash;

pub mod set;

pub mod sorted_set;

pub mod stream;

pub mod key;

pub mod access;

pub mod byte_string;

pub mod changes;

pub mod library;

pub mod notice;

pub mod semaphore;

pub mod tally;

mod encodings;
mod table;
mod value;

use access::Access;
pub use byte_string::ByteString;
use changes::Changes;
pub use encodings::Encodings;
use library::Libraries;
use notice::{Classes, Doing, Notices};
use semaphore::Semaphore;
use table::Table;
use tally::Tally;
pub use value::{Container, Value, WrongType};

/// What a key leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// The partition's version when it was last changed.
    pub version: u64,
    /// Since 1970; 0 = never.
    pub expires_at_ms: u64,
    /// When it was used.
    pub access: Access,
}

impl Entry {
    /// True once the time to live is over: the key counts as absent, whether it is still in memory or not.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= now_ms
    }

    /// When there is something to be removed: the key, or a field of its hash; 0 = never.
    fn next_end(&self) -> u64 {
        match (self.expires_at_ms, self.value.next_end()) {
            (0, end) | (end, 0) => end,
            (one, other) => one.min(other),
        }
    }
}

/// What changed, for watches.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The key has this value now.
    Set(Bytes),
    /// The key has another value, which is not told: it is long, or no string.
    Updated,
    /// The key was deleted.
    Deleted,
    /// The key's time to live was over.
    Expired,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The partition's version after it.
    pub version: u64,
    /// The key.
    pub key: Bytes,
    /// What happened.
    pub change: Change,
}

/// The keys of one partition.
#[derive(Debug)]
pub struct Keys {
    first: Token,
    last: Token,
    /// By slot, from the slot of `first` on: a slot is what a split cuts between and what a scan steps through. A snapshot
    /// shares them; who writes to one that is shared has a copy of it made first.
    slots: Vec<Arc<Slot>>,
    /// Keys with a time to live, soonest first.
    due: BTreeSet<(u64, Box<[u8]>)>,
    version: u64,
    count: usize,
    bytes: usize,
    /// Changes since they were last forgotten.
    pub changes: Changes,
    /// What clients are to be told of them.
    pub notices: Notices,
    /// Functions that clients have loaded; the same in every partition.
    pub libraries: Libraries,
    /// There is no memory for more: what may need some is refused.
    pub is_full: bool,
    /// The stamp of the command that is being carried out, for what eviction chooses by.
    pub clock_ms: u64,
    /// The partition's own time at the command that is being carried out: leases last by it.
    pub passed_ms: u64,
    /// Semaphores of which a lease or a place ends, soonest first.
    due_semaphores: BTreeSet<(u64, Box<[u8]>)>,
    /// Those that are not as they were when this was last forgotten.
    pub changed_semaphores: Vec<Bytes>,
    /// What the keys of some namespaces take, if somebody wants to know.
    tally: Mutex<Option<Arc<Tally>>>,
}

/// The keys of one slot.
#[derive(Clone, Debug, Default)]
struct Slot {
    entries: Table<Entry>,
    /// By name: they are no keys.
    semaphores: BTreeMap<Box<[u8]>, Arc<Semaphore>>,
    /// About how many they take.
    bytes: usize,
}

/// What an element costs in memory beside its bytes: its three words, and where it is not short its allocation with two counts.
/// About: short ones are in those words, and take less.
pub const ELEMENT_OVERHEAD_BYTES: usize = 32;

/// A string that is longer is not told whole when a part of it is changed: it would be told whole for every bit.
const TOLD_BYTES_MAX: usize = 4 << 10;

/// A split leaves each part at least one such share of the bytes, or is none.
const LEAST_PART: usize = 10;

/// Keys that are looked for at the same time: about as many as a processor can wait for.
const REACHED_TOGETHER: usize = 32;

/// Has the processor fetch what is looked for soon. Each step needs the one before, but not those of the other keys.
fn reach(places: &[(&Slot, &[u8])]) {
    if places.len() > 1 {
        black_box(places.iter().map(|(slot, _)| slot.bytes).fold(0, usize::wrapping_add));
        black_box(places.iter().filter(|(slot, key)| slot.entries.contains_key(key)).count());
    }
}

/// About how many bytes a key takes with its value.
fn bytes_of_entry(key: &[u8], entry: &Entry) -> usize {
    key_bytes(key) + table::OVERHEAD_BYTES + entry.value.bytes()
}

/// What a key has allocated.
fn key_bytes(key: &[u8]) -> usize {
    ByteString::allocated_for(key.len())
}

impl Keys {
    /// No keys yet, for a range of tokens that begins and ends with a slot.
    pub fn new(first: Token, last: Token) -> Self {
        let slots = usize::from(token::slot_of(last) - token::slot_of(first)) + 1;
        Self {
            first,
            last,
            slots: vec![Arc::default(); slots],
            due: BTreeSet::new(),
            version: 0,
            count: 0,
            bytes: 0,
            changes: Changes::default(),
            notices: Notices::default(),
            libraries: Libraries::default(),
            is_full: false,
            clock_ms: 0,
            passed_ms: 0,
            due_semaphores: BTreeSet::new(),
            changed_semaphores: Vec::new(),
            tally: Mutex::default(),
        }
    }

    /// Grows by one with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Keys in memory, those that are due but not yet removed included.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Those that end some time, or have a field that does.
    pub fn with_end(&self) -> usize {
        self.due.len()
    }

    /// About how many bytes the keys and values take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The range of tokens.
    pub fn range(&self) -> (Token, Token) {
        (self.first, self.last)
    }

    /// The entry of a key, unless it is due.
    pub fn get(&self, key: &[u8], now_ms: u64) -> Option<&Entry> {
        let slot = self.slots.get(self.position(key)?)?;
        slot.entries.get(key).filter(|entry| !entry.is_due(now_ms))
    }

    /// About how many bytes a key takes with its value.
    pub fn bytes_of(&self, key: &[u8], now_ms: u64) -> Option<usize> {
        Some(self.bytes_of_entry(key, self.get(key, now_ms)?))
    }

    /// The same of one that was found.
    pub fn bytes_of_entry(&self, key: &[u8], entry: &Entry) -> usize {
        bytes_of_entry(key, entry)
    }

    /// What the keys of some namespaces take, if that is counted.
    pub fn tally(&self) -> Option<Arc<Tally>> {
        self.tally.lock().clone()
    }

    /// From now on that is counted in this one; what is there already has to be counted besides.
    pub fn begin_tally(&self, tally: Tally) -> Arc<Tally> {
        let tally = Arc::new(tally);
        *self.tally.lock() = Some(Arc::clone(&tally));
        tally
    }

    fn note_in_tally(&mut self, key: &[u8], keys: i64, bytes: i64) {
        if let Some(tally) = self.tally.get_mut() {
            tally.note(key, keys, bytes);
        }
    }

    /// Keys of the slot that begins with a token.
    pub fn count_in(&self, slot: Token) -> usize {
        let position = token::slot_of(slot).checked_sub(token::slot_of(self.first)).map(usize::from);
        position.and_then(|position| self.slots.get(position)).map_or(0, |slot| slot.entries.len())
    }

    /// True if the key belongs here.
    pub fn has_place_for(&self, key: &[u8]) -> bool {
        self.position(key).is_some()
    }

    /// True if all keys belong here. Those of several commands are looked for together beforehand: the processor waits for
    /// the memory that they are in at the same time, where it would wait for one after the other else. Source: "memory access
    /// amortization" of Valkey 8.0.
    pub fn have_places_for<'a>(&self, keys: impl IntoIterator<Item = &'a Bytes>) -> bool {
        let mut places: SmallVec<[(&Slot, &[u8]); REACHED_TOGETHER]> = SmallVec::new();
        for key in keys {
            let Some(position) = self.position(key) else { return false };
            if places.len() == REACHED_TOGETHER {
                reach(&places);
                places.clear();
            }
            places.push((&self.slots[position], key));
        }
        reach(&places);
        true
    }

    /// Where a key's slot is; `None` for a key of another partition.
    fn position(&self, key: &[u8]) -> Option<usize> {
        let position = usize::from(token::slot(key).checked_sub(token::slot_of(self.first))?);
        (position < self.slots.len()).then_some(position)
    }

    /// Puts a value and returns the new version.
    pub fn put(&mut self, key: &[u8], value: Value, expires_at_ms: u64) -> u64 {
        let Some(position) = self.position(key) else {
            // The machine has refused it.
            return self.version;
        };
        self.version += 1;
        match &value {
            Value::String(bytes) => self.changes.set(self.version, key, bytes, bytes.shared()),
            _ => self.changes.push(self.version, key, &Change::Updated),
        }
        let slot = Arc::make_mut(&mut self.slots[position]);
        let mut added = value.bytes();
        let mut entry =
            Entry { value, version: self.version, expires_at_ms, access: Access::new(self.clock_ms) };
        let next_end = entry.next_end();
        let before = match slot.entries.get_mut(key) {
            Some(held) => {
                // A key that gets another value is used as often as it was.
                std::mem::swap(&mut entry.access, &mut held.access);
                entry.access.note(self.clock_ms);
                Some(std::mem::replace(held, entry))
            }
            None => {
                slot.entries.insert_new(key.into(), entry);
                None
            }
        };
        if before.is_none() {
            self.count += 1;
            added += key_bytes(key) + table::OVERHEAD_BYTES;
            self.notices.note(Doing::NEW, key);
        }
        self.notices.changed(key);
        slot.bytes += added;
        self.bytes += added;
        self.note_in_tally(key, i64::from(before.is_none()), added as i64);
        if let Some(before) = before {
            self.forget(position, key, &before);
        }
        if next_end != 0 {
            self.due.insert((next_end, key.into()));
        }
        self.version
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &[u8], change: Change) -> Option<Entry> {
        let position = self.position(key)?;
        if !self.slots[position].entries.contains_key(key) {
            return None;
        }
        let slot = Arc::make_mut(&mut self.slots[position]);
        let (_, before) = slot.entries.remove(key)?;
        let removed = key_bytes(key) + table::OVERHEAD_BYTES;
        slot.bytes -= removed;
        self.bytes -= removed;
        self.version += 1;
        self.count -= 1;
        self.note_in_tally(key, -1, -(removed as i64));
        self.forget(position, key, &before);
        self.notices.removed(key, change == Change::Expired);
        self.changes.push(self.version, key, &change);
        Some(before)
    }

    /// Takes a replaced or removed entry out of the account.
    fn forget(&mut self, position: usize, key: &[u8], before: &Entry) {
        let bytes = before.value.bytes();
        Arc::make_mut(&mut self.slots[position]).bytes -= bytes;
        self.bytes -= bytes;
        self.note_in_tally(key, 0, -(bytes as i64));
        let next_end = before.next_end();
        if next_end != 0 {
            self.due.remove(&(next_end, key.into()));
        }
    }

    /// Changes the value of a key that is there in place. What `change` says first is whether it did; a value that is empty
    /// then is removed. `None` if there is no such key.
    pub(crate) fn edit<R>(&mut self, key: &[u8], change: impl FnOnce(&mut Value) -> (bool, R)) -> Option<R> {
        let position = self.position(key)?;
        let slot = Arc::make_mut(&mut self.slots[position]);
        let entry = slot.entries.get_mut(key)?;
        let (bytes, end) = (entry.value.bytes(), entry.next_end());
        let (changed, result) = change(&mut entry.value);
        let (bytes_now, end_now) = (entry.value.bytes(), entry.next_end());
        slot.bytes = slot.bytes + bytes_now - bytes;
        self.bytes = self.bytes + bytes_now - bytes;
        if let Some(tally) = self.tally.get_mut() {
            tally.note(key, 0, bytes_now as i64 - bytes as i64);
        }
        if end != end_now {
            self.due.remove(&(end, key.into()));
            if end_now != 0 {
                self.due.insert((end_now, key.into()));
            }
        }
        if !changed {
            return Some(result);
        }
        self.notices.changed(key);
        if entry.value.is_gone() {
            self.remove(key, Change::Deleted);
            return Some(result);
        }
        self.version += 1;
        entry.version = self.version;
        match &entry.value {
            Value::String(value) if value.len() <= TOLD_BYTES_MAX => {
                self.changes.set(self.version, key, value, value.shared())
            }
            _ => self.changes.push(self.version, key, &Change::Updated),
        }
        Some(result)
    }

    /// Changes a value of one type in place; one that is not there is made by it, if it has something in it then. What
    /// `change` says first is whether it did change something.
    pub fn update<T: Container, R>(
        &mut self,
        key: &[u8],
        now_ms: u64,
        change: impl FnOnce(&mut T) -> (bool, R),
    ) -> Result<R, WrongType> {
        let mut held = self.get(key, now_ms);
        if held.is_some_and(|entry| matches!(entry.value, Value::Hash(_))) {
            self.reap_fields(key, now_ms);
            held = self.get(key, now_ms);
        }
        if let Some(entry) = held {
            entry.access.note(now_ms);
        } else {
            let mut fresh = T::default();
            let (_, result) = change(&mut fresh);
            let value: Value = fresh.into();
            if !value.is_gone() {
                self.put(key, value, 0);
            }
            return Ok(result);
        }
        let changed = self.edit(key, |value| match T::of_mut(value) {
            Some(held) => {
                let (changed, result) = change(held);
                (changed, Ok(result))
            }
            None => (false, Err(WrongType)),
        });
        // It is there, as was seen just now.
        changed.unwrap_or(Err(WrongType))
    }

    /// The value of a key as one type; `None` if there is no such key.
    pub fn look<T: Container>(&self, key: &[u8], now_ms: u64) -> Result<Option<&T>, WrongType> {
        match self.get(key, now_ms) {
            None => Ok(None),
            Some(entry) => {
                entry.access.note(now_ms);
                T::of(&entry.value).map(Some).ok_or(WrongType)
            }
        }
    }

    /// Removes the fields of a hash that have ended; what is left is what everybody has seen since. The key is removed
    /// with its last field.
    pub(crate) fn reap_fields(&mut self, key: &[u8], now_ms: u64) {
        let has_ended = |entry: &Entry| matches!(&entry.value, Value::Hash(hash) if hash.has_ended(now_ms));
        if self.get(key, now_ms).is_some_and(has_ended) {
            let before = self.notices.announce(Doing::FIELD_EXPIRED);
            self.edit(key, |value| match value {
                Value::Hash(hash) => (Arc::make_mut(hash).reap(now_ms), ()),
                _ => (false, ()),
            });
            self.notices.announce(before);
        }
    }

    /// Gives a key another time to live. Its value stays, so no event is told.
    pub(crate) fn set_expiry(&mut self, key: &[u8], expires_at_ms: u64) {
        let Some(position) = self.position(key) else { return };
        let Some(entry) = Arc::make_mut(&mut self.slots[position]).entries.get_mut(key) else { return };
        self.version += 1;
        entry.version = self.version;
        entry.access.note(self.clock_ms);
        self.notices.note(if expires_at_ms == 0 { Doing::PERSIST } else { Doing::EXPIRE }, key);
        let before = entry.next_end();
        entry.expires_at_ms = expires_at_ms;
        let now = entry.next_end();
        if before != 0 {
            self.due.remove(&(before, key.into()));
        }
        if now != 0 {
            self.due.insert((now, key.into()));
        }
    }

    /// Says of a key when it was used, and how often.
    pub(crate) fn was_used(&mut self, key: &[u8], used_ms: u64, frequency: Option<u8>) {
        if let Some(position) = self.position(key)
            && let Some(entry) = Arc::make_mut(&mut self.slots[position]).entries.get_mut(key)
        {
            entry.access = Access::of(used_ms, frequency);
        }
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        let mut keys: Vec<ByteString> =
            self.slots.iter().flat_map(|slot| slot.entries.iter()).map(|(key, _)| key.clone()).collect();
        // In the same order everywhere, so that each change has the same version.
        keys.sort_unstable();
        // As Redis, which tells clients of none of them.
        let wanted = self.notices.want(Classes::NONE);
        for key in &keys {
            self.remove(key, Change::Deleted);
        }
        self.notices.want(wanted);
    }

    /// All keys that are not due, in slot order.
    pub fn iter(&self, now_ms: u64) -> impl Iterator<Item = (&[u8], &Entry)> {
        let entries = self.slots.iter().flat_map(|slot| slot.entries.iter());
        entries.filter(move |(_, entry)| !entry.is_due(now_ms)).map(|(key, entry)| (&**key, entry))
    }

    /// A key by a random number, whether it is due or not. Not the same on every replica.
    pub fn some(&self, random: u64) -> Option<(&[u8], &Entry)> {
        if self.count == 0 {
            return None;
        }
        let first = usize::try_from(random % self.slots.len() as u64).unwrap_or(0);
        let (before, from) = self.slots.split_at(first);
        let slot = from.iter().chain(before).find(|slot| !slot.entries.is_empty())?;
        let place = usize::try_from((random >> 32) % slot.entries.len() as u64).unwrap_or(0);
        slot.entries.at(place).map(|(key, entry)| (&**key, entry))
    }

    /// Keys with a time to live, soonest first.
    pub fn soonest(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.due.iter().filter_map(|(_, key)| self.volatile(key))
    }

    /// Of those, one by a random number.
    pub fn some_volatile(&self, random: u64) -> Option<(&[u8], &Entry)> {
        let (first, last) = (self.due.first()?.0, self.due.last()?.0);
        let from = first + random % (last - first + 1);
        let place: (u64, Box<[u8]>) = (from, Box::default());
        let behind = self.due.range(place..).filter_map(|(_, key)| self.volatile(key));
        // Of the next few, so that one behind a gap is not taken each time.
        let next: SmallVec<[(&[u8], &Entry); 8]> = behind.take(8).collect();
        next.get(usize::try_from((random >> 32) % next.len().max(1) as u64).unwrap_or(0)).copied()
    }

    /// A key that has a time to live itself, not only a field of it.
    fn volatile(&self, key: &[u8]) -> Option<(&[u8], &Entry)> {
        let (key, entry) = self.slots.get(self.position(key)?)?.entries.get_key_value(key)?;
        (entry.expires_at_ms != 0).then_some((&**key, entry))
    }

    /// A key by a random number: first a slot, then one of its keys, so that not each is as likely. `None` if there is none
    /// that is not due.
    pub fn any(&self, random: u64, now_ms: u64) -> Option<&[u8]> {
        if self.count == 0 {
            return None;
        }
        // The order within a slot is not the same on every replica; that of the bytes is.
        let first = usize::try_from(random % self.slots.len() as u64).unwrap_or(0);
        let (before, from) = self.slots.split_at(first);
        from.iter().chain(before).find_map(|slot| {
            let mut keys: Vec<&[u8]> = slot
                .entries
                .iter()
                .filter(|(_, entry)| !entry.is_due(now_ms))
                .map(|(key, _)| &**key)
                .collect();
            keys.sort_unstable();
            let count = keys.len() as u64;
            (count > 0).then(|| keys[usize::try_from((random >> 32) % count).unwrap_or(0)])
        })
    }

    /// Keys that are due, soonest first, at most `count`.
    pub fn due(&self, now_ms: u64, count: usize) -> Vec<Bytes> {
        self.due
            .iter()
            .take_while(|(at_ms, _)| *at_ms <= now_ms)
            .take(count)
            .map(|(_, key)| Bytes::copy_from_slice(key))
            .collect()
    }

    /// All entries in slot order, as they are now: what is written later is not seen. Nothing is copied for it, but each
    /// slot that is written to meanwhile.
    pub fn entries(&self) -> Entries {
        Entries { slots: self.slots.clone() }
    }

    /// The first token of the slot up to which about half of the bytes are; `None` if one slot has almost all of them, or
    /// there are none.
    pub fn middle(&self) -> Option<Token> {
        let half = self.bytes / 2;
        let mut sum = 0;
        let (at, _) = self.slots.iter().enumerate().find(|(_, slot)| {
            sum += slot.bytes;
            sum > half
        })?;
        // Before or behind that slot, whichever leaves the parts more alike.
        let before = sum - self.slots[at].bytes;
        let (at, left) = if half - before < sum - half { (at, before) } else { (at + 1, sum) };
        let slot = u16::try_from(at).ok()?.checked_add(token::slot_of(self.first))?;
        let least = self.bytes / LEAST_PART;
        (left >= least && self.bytes - left >= least && left > 0).then(|| token::slot_start(slot))
    }

    /// Gives up the slots from the one that begins at `at`.
    pub fn split(&mut self, at: Token) -> Self {
        let position = usize::from(token::slot_of(at) - token::slot_of(self.first));
        let slots = self.slots.split_off(position.min(self.slots.len()));
        let count: usize = slots.iter().map(|slot| slot.entries.len()).sum();
        let bytes: usize = slots.iter().map(|slot| slot.bytes).sum();
        let due = std::mem::take(&mut self.due);
        let is_before = |(_, key): &(u64, Box<[u8]>)| token::slot(key) < token::slot_of(at);
        let (stays, goes) = due.into_iter().partition(is_before);
        self.due = stays;
        let due = std::mem::take(&mut self.due_semaphores);
        let (stays, semaphores_go) = due.into_iter().partition(is_before);
        self.due_semaphores = stays;
        let last = std::mem::replace(&mut self.last, Token(at.0 - 1));
        self.count -= count;
        self.bytes -= bytes;
        *self.tally.get_mut() = None;
        Self {
            first: at,
            last,
            slots,
            due: goes,
            version: self.version,
            count,
            bytes,
            changes: Changes::default(),
            notices: Notices::default(),
            libraries: self.libraries.clone(),
            is_full: self.is_full,
            clock_ms: self.clock_ms,
            passed_ms: self.passed_ms,
            due_semaphores: semaphores_go,
            changed_semaphores: Vec::new(),
            tally: Mutex::default(),
        }
    }

    /// Takes over the keys of the partition behind. Versions go on behind both, and leases last as long as they would have.
    pub fn merge(&mut self, mut behind: Self) {
        behind.keep_leases(self.passed_ms);
        let Self { last, slots, due, version, count, bytes, libraries, is_full, due_semaphores, .. } = behind;
        self.is_full |= is_full;
        self.last = last;
        self.slots.extend(slots);
        self.libraries.merge(libraries);
        self.due.extend(due);
        self.due_semaphores.extend(due_semaphores);
        self.version = self.version.max(version) + 1;
        self.count += count;
        self.bytes += bytes;
        *self.tally.get_mut() = None;
    }

    /// The version is at least this one from now on.
    pub fn advance_to(&mut self, version: u64) {
        self.version = self.version.max(version);
    }

    /// Puts an entry of a snapshot back as it was.
    pub fn restore(&mut self, key: &[u8], entry: Entry) {
        let version = self.version;
        let (value_version, expires_at_ms) = (entry.version, entry.expires_at_ms);
        self.put(key, entry.value, expires_at_ms);
        if let Some(position) = self.position(key)
            && let Some(held) = Arc::make_mut(&mut self.slots[position]).entries.get_mut(key)
        {
            held.version = value_version;
        }
        self.version = version;
        self.changes.clear();
    }

    /// Sets the version that a snapshot had.
    pub fn restore_version(&mut self, version: u64) {
        self.version = version;
    }
}

/// The entries of a partition at one version.
#[derive(Debug)]
pub struct Entries {
    slots: Vec<Arc<Slot>>,
}

impl Entries {
    /// Those of the slot at a place, counted from the partition's first; `None` behind the last.
    pub fn slot(&self, place: usize) -> Option<impl Iterator<Item = (&[u8], &Entry)>> {
        let slot = self.slots.get(place)?;
        Some(slot.entries.iter().map(|(key, entry)| (&**key, entry)))
    }

    /// The semaphores of that slot.
    pub fn semaphores(&self, place: usize) -> impl Iterator<Item = (&[u8], &Semaphore)> {
        let slot = self.slots.get(place).into_iter();
        slot.flat_map(|slot| slot.semaphores.iter().map(|(name, semaphore)| (&**name, &**semaphore)))
    }
}

/// When a key expires, told by a command whose stamp is `now_ms`; `held` is what it has now (0 = never).
fn expires_at(expiry: Option<&Expiry>, now_ms: u64, held: u64) -> u64 {
    match expiry.and_then(|expiry| expiry.when) {
        None | Some(When::Never(_)) => 0,
        Some(When::Keep(_)) => held,
        Some(When::InMs(ms)) => now_ms.saturating_add(ms),
        // In the past is due at once, but 0 would mean never.
        Some(When::AtMs(ms)) => ms.max(1),
    }
}
