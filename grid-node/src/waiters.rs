//! Who waits for an element of a key of a partition, and whose turn it is when there is one.
//!
//! It is kept by every copy, beside the keys, and is not agreed on: only the leader's is asked. A turn is no element: who
//! has one takes an element by a command of its own, as everybody does, and leaves; then it is the next one's turn, if
//! there is still something. One after the other, so that the longest waiting gets the first element, as in Redis, even
//! where it is at another node; but nobody is waited for that does not come.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::data::stream::Id;
use crate::data::{Keys, Value};
use crate::limits::WAITING_MAX;

/// What somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// An element of a list.
    List,
    /// A member of a sorted set.
    SortedSet,
    /// An entry of a stream behind the last one seen, of each key in turn. It is taken from nobody.
    Entry(Vec<Id>),
    /// An entry of a stream that no consumer of the group has had; or the end of the group.
    News(Bytes),
    /// That somebody is no longer in the queue of the semaphore with that name. It is taken from nobody: the semaphore has an
    /// order of its own.
    Permit(Bytes),
    /// That the semaphore with that name is no longer as at a version; 0 = nobody had anything to do with it.
    Change(u64),
}

impl Awaited {
    /// True if there is something under a key, which is that of a place among those that are waited for.
    fn is_there(&self, keys: &Keys, (place, key): (usize, &[u8]), now_ms: u64) -> bool {
        match self {
            Self::Permit(holder) => {
                return keys.semaphore(key).is_none_or(|semaphore| !semaphore.has_waiting(holder));
            }
            Self::Change(version) => {
                return keys.semaphore(key).map_or(0, |semaphore| semaphore.version()) != *version;
            }
            Self::List | Self::SortedSet | Self::Entry(_) | Self::News(_) => {}
        }
        match (self, keys.get(key, now_ms).map(|entry| &entry.value)) {
            (Self::List, Some(Value::List(_))) | (Self::SortedSet, Some(Value::SortedSet(_))) => true,
            (Self::Entry(seen), Some(Value::Stream(stream))) => {
                let newest = stream.iter().next_back().map(|entry| entry.id);
                newest.is_some_and(|newest| seen.get(place).is_none_or(|seen| newest > *seen))
            }
            (Self::News(group), Some(Value::Stream(stream))) => {
                let newest = stream.iter().next_back().map(|entry| entry.id);
                stream.group(group).is_none_or(|group| newest.is_some_and(|newest| newest > group.last))
            }
            // The group is gone with its stream: who waits is to be told.
            (Self::News(_), _) => true,
            _ => false,
        }
    }

    /// True if who has its turn takes away what the next one waits for.
    fn takes(&self) -> bool {
        !matches!(self, Self::Entry(_) | Self::Permit(_) | Self::Change(_))
    }
}

/// What a place in the queue has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Not yet.
    #[default]
    Waits,
    /// There is, or was just now, an element.
    Has,
    /// The keys may be elsewhere by now: ask again who has them.
    Gone,
}

/// How long who has a turn may take before the next one has one too.
const TURN_MAX_MS: u64 = 1000;

/// A place is named by when its owner began to wait, and a number.
type PlaceId = (u64, u64);

/// The queue of one partition.
#[derive(Debug, Default)]
pub struct Waiters {
    queue: Mutex<Queue>,
    /// Places, so that a partition in which nobody waits pays nothing.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    by_key: HashMap<Bytes, BTreeMap<PlaceId, Arc<Place>>>,
    next: u64,
}

#[derive(Debug)]
struct Place {
    awaited: Awaited,
    keys: Vec<Bytes>,
    turn: watch::Sender<Turn>,
    /// When it got its turn.
    has_since_ms: AtomicU64,
}

/// A place in the queue.
#[derive(Debug)]
pub struct Ticket {
    id: PlaceId,
    keys: Vec<Bytes>,
    turn: watch::Receiver<Turn>,
}

impl Ticket {
    /// Returns when it has come to something.
    pub async fn turn(&mut self) -> Turn {
        match self.turn.wait_for(|turn| *turn != Turn::Waits).await {
            Ok(turn) => *turn,
            Err(_gone) => Turn::Gone,
        }
    }
}

impl Waiters {
    /// Takes a place for an element of any of the keys, as of somebody who has waited since a time. It may be its turn
    /// at once. `None` if too many wait already.
    pub fn enter(
        &self,
        keys: &Keys,
        names: &[Bytes],
        awaited: Awaited,
        since_ms: u64,
        now_ms: u64,
    ) -> Option<Ticket> {
        let mut queue = self.queue.lock();
        if self.count.load(Ordering::Relaxed) >= WAITING_MAX {
            return None;
        }
        queue.next += 1;
        let id = (since_ms, queue.next);
        let (turn, told) = watch::channel(Turn::Waits);
        let place = Arc::new(Place { awaited, keys: names.to_vec(), turn, has_since_ms: AtomicU64::new(0) });
        for name in names {
            queue.by_key.entry(name.clone()).or_default().insert(id, Arc::clone(&place));
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        for name in names {
            queue.give(keys, name, now_ms);
        }
        Some(Ticket { id, keys: names.to_vec(), turn: told })
    }

    /// Gives a place up. If it had a turn, the next one has it.
    pub fn leave(&self, keys: &Keys, ticket: &Ticket, now_ms: u64) {
        let mut queue = self.queue.lock();
        let mut was_there = false;
        for name in &ticket.keys {
            if let Some(places) = queue.by_key.get_mut(name) {
                was_there |= places.remove(&ticket.id).is_some();
                if places.is_empty() {
                    queue.by_key.remove(name);
                }
            }
        }
        if was_there {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        for name in &ticket.keys {
            queue.give(keys, name, now_ms);
        }
    }

    /// Looks whether somebody does not take its turn.
    pub fn look(&self, keys: &Keys, ticket: &Ticket, now_ms: u64) {
        let mut queue = self.queue.lock();
        for name in &ticket.keys {
            queue.give(keys, name, now_ms);
        }
    }

    /// Gives turns for what has changed.
    pub(crate) fn tell(&self, keys: &Keys, now_ms: u64) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut queue = self.queue.lock();
        for change in keys.changes.iter() {
            queue.give(keys, change.key, now_ms);
        }
        for name in &keys.changed_semaphores {
            queue.give(keys, name, now_ms);
        }
    }

    /// Sends everybody away: keys have come or gone.
    pub(crate) fn disperse(&self) {
        let mut queue = self.queue.lock();
        for place in queue.by_key.drain().flat_map(|(_, places)| places.into_values()) {
            place.turn.send_replace(Turn::Gone);
        }
        self.count.store(0, Ordering::Relaxed);
    }
}

impl Queue {
    /// Gives a turn to the longest waiting for a key, if there is an element and nobody is about to take it.
    fn give(&mut self, keys: &Keys, name: &[u8], now_ms: u64) {
        let Some(places) = self.by_key.get(name) else { return };
        let is_busy = |place: &Arc<Place>| {
            place.awaited.takes()
                && *place.turn.borrow() == Turn::Has
                && now_ms < place.has_since_ms.load(Ordering::Relaxed) + TURN_MAX_MS
        };
        let mut is_taken = places.values().any(is_busy);
        for place in places.values().filter(|place| *place.turn.borrow() == Turn::Waits) {
            let at = place.keys.iter().position(|key| key == name).unwrap_or(0);
            if (is_taken && place.awaited.takes()) || !place.awaited.is_there(keys, (at, name), now_ms) {
                continue;
            }
            is_taken |= place.awaited.takes();
            place.has_since_ms.store(now_ms, Ordering::Relaxed);
            place.turn.send_replace(Turn::Has);
        }
    }
}

#[cfg(test)]
mod tests {
    use trimaran_placement::token::Token;

    use super::*;
    use crate::data::list::List;

    fn keys(elements: usize) -> Keys {
        let mut keys = Keys::new(Token(0), Token(u64::MAX));
        let mut list = List::default();
        (0..elements).for_each(|_| list.push_back(b"e"[..].into()));
        if elements > 0 {
            keys.put(b"k", list.into(), 0);
        }
        keys
    }

    fn turn(ticket: &Ticket) -> Turn {
        *ticket.turn.borrow()
    }

    #[test]
    fn one_after_the_other_has_a_turn_and_the_longest_waiting_first() {
        let waiters = Waiters::default();
        let name = [Bytes::from_static(b"k")];
        let enter = |keys: &Keys, since_ms| waiters.enter(keys, &name, Awaited::List, since_ms, 0).unwrap();
        let late = enter(&keys(0), 20);
        let early = enter(&keys(0), 10);
        let of_sets = waiters.enter(&keys(0), &name, Awaited::SortedSet, 1, 0).unwrap();
        let one = keys(1);
        waiters.tell(&one, 0);
        assert_eq!((turn(&early), turn(&late), turn(&of_sets)), (Turn::Has, Turn::Waits, Turn::Waits));
        // It goes without having taken the element.
        waiters.leave(&one, &early, 0);
        assert_eq!(turn(&late), Turn::Has);
        // Who comes back has its place again, but it is another one's turn, until that one takes too long.
        let another = enter(&one, 5);
        assert_eq!(turn(&another), Turn::Waits);
        waiters.look(&one, &another, TURN_MAX_MS);
        assert_eq!(turn(&another), Turn::Has);
        waiters.disperse();
        assert_eq!((turn(&late), turn(&of_sets)), (Turn::Gone, Turn::Gone));
        waiters.leave(&one, &late, 0);
        assert_eq!(waiters.count.load(Ordering::Relaxed), 0);
    }
}
