//! What a partition of the grid holds: keys by slot, each with a value, a version and maybe a time to live.
//!
//! One file a data type ([`string`]), with its commands; [`key`] has the commands that know no type. A new type is a
//! variant of [`Value`] and a file. Nothing here knows a clock: `now_ms` is the stamp of the command, or the leader's
//! time for a read.

use std::collections::BTreeSet;

use bytes::Bytes;
use hashbrown::HashMap;
use trimaran_placement::token::{self, Token};
use trimaran_proto::state::grid::Expiry;
use trimaran_proto::state::grid::expiry::When;

pub mod string;

pub mod key;

/// A value of one of the data types.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Bytes, or a counter written as decimal digits.
    String(Bytes),
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// The partition's version when it was last changed.
    pub version: u64,
    /// Since 1970; 0 = never.
    pub expires_at_ms: u64,
}

impl Entry {
    /// True once the time to live is over: the key counts as absent, whether it is still in memory or not.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= now_ms
    }
}

/// What changed, for watches.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The key has this value now.
    Set(Bytes),
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
    /// By slot, from the slot of `first` on: a slot is what moves and what a scan steps through.
    slots: Vec<HashMap<Box<[u8]>, Entry>>,
    /// Keys with a time to live, soonest first.
    due: BTreeSet<(u64, Box<[u8]>)>,
    version: u64,
    count: usize,
    bytes: usize,
    /// Changes since they were last taken.
    events: Vec<Event>,
}

/// What a key costs in memory beside its bytes and its value's: its place in the table, two allocations.
const ENTRY_OVERHEAD_BYTES: usize = 112;

impl Keys {
    /// No keys yet, for a range of tokens that begins and ends with a slot.
    pub fn new(first: Token, last: Token) -> Self {
        let slots = usize::from(token::slot_of(last) - token::slot_of(first)) + 1;
        Self {
            first,
            last,
            slots: vec![HashMap::new(); slots],
            due: BTreeSet::new(),
            version: 0,
            count: 0,
            bytes: 0,
            events: Vec::new(),
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
        slot.get(key).filter(|entry| !entry.is_due(now_ms))
    }

    /// Where a key's slot is; `None` for a key of another partition.
    fn position(&self, key: &[u8]) -> Option<usize> {
        token::slot(key).checked_sub(token::slot_of(self.first)).map(usize::from)
    }

    /// Puts a value and returns the new version.
    fn put(&mut self, key: &[u8], value: Value, expires_at_ms: u64) -> u64 {
        let Some(position) = self.position(key).filter(|&position| position < self.slots.len()) else {
            // The router never sends a key here that is not of this partition.
            return self.version;
        };
        self.version += 1;
        let Value::String(bytes) = &value;
        self.events.push(Event {
            version: self.version,
            key: Bytes::copy_from_slice(key),
            change: Change::Set(bytes.clone()),
        });
        self.bytes += bytes.len();
        let entry = Entry { value, version: self.version, expires_at_ms };
        let slot = &mut self.slots[position];
        let before = match slot.get_mut(key) {
            Some(held) => Some(std::mem::replace(held, entry)),
            None => slot.insert(key.into(), entry),
        };
        match before {
            Some(before) => self.forget(key, &before),
            None => {
                self.count += 1;
                self.bytes += key.len() + ENTRY_OVERHEAD_BYTES;
            }
        }
        if expires_at_ms != 0 {
            self.due.insert((expires_at_ms, key.into()));
        }
        self.version
    }

    /// Removes a key.
    fn remove(&mut self, key: &[u8], change: Change) -> Option<Entry> {
        let position = self.position(key)?;
        let before = self.slots.get_mut(position)?.remove(key)?;
        self.version += 1;
        self.count -= 1;
        self.bytes -= key.len() + ENTRY_OVERHEAD_BYTES;
        self.forget(key, &before);
        self.events.push(Event { version: self.version, key: Bytes::copy_from_slice(key), change });
        Some(before)
    }

    /// Takes a replaced or removed entry out of the account.
    fn forget(&mut self, key: &[u8], before: &Entry) {
        let Value::String(bytes) = &before.value;
        self.bytes -= bytes.len();
        if before.expires_at_ms != 0 {
            self.due.remove(&(before.expires_at_ms, key.into()));
        }
    }

    /// Gives a key another time to live. Its value stays, so no event is told.
    fn set_expiry(&mut self, key: &[u8], expires_at_ms: u64) {
        let Some(position) = self.position(key) else { return };
        let Some(entry) = self.slots.get_mut(position).and_then(|slot| slot.get_mut(key)) else { return };
        self.version += 1;
        entry.version = self.version;
        let before = std::mem::replace(&mut entry.expires_at_ms, expires_at_ms);
        if before != 0 {
            self.due.remove(&(before, key.into()));
        }
        if expires_at_ms != 0 {
            self.due.insert((expires_at_ms, key.into()));
        }
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

    /// Changes since this was last called.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// All entries in slot order, for a snapshot: keys are copied, values shared.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.slots.iter().flat_map(|slot| slot.iter().map(|(key, entry)| (&**key, entry)))
    }

    /// Puts an entry of a snapshot back as it was.
    pub fn restore(&mut self, key: &[u8], entry: Entry) {
        let version = self.version;
        let (value_version, expires_at_ms) = (entry.version, entry.expires_at_ms);
        self.put(key, entry.value, expires_at_ms);
        if let Some(position) = self.position(key)
            && let Some(held) = self.slots.get_mut(position).and_then(|slot| slot.get_mut(key))
        {
            held.version = value_version;
        }
        self.version = version;
        self.events.clear();
    }

    /// Sets the version that a snapshot had.
    pub fn restore_version(&mut self, version: u64) {
        self.version = version;
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
