//! Changes of a partition, remembered for a while, so that a watch can begin where another one ended.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use trimaran_placement::token::{self, Token};
use trimaran_proto::state::grid::change::Kind;
use trimaran_proto::state::grid::{self, Changes, Gap};
use trimaran_replication::error::Stop;

use crate::data::{Change, Event};
use crate::limits::{EVENTS_BYTES_KEPT, EVENTS_BYTES_MERGED, EVENTS_KEPT};

/// Ranges of keys of which more is forgotten than of others; beyond that, as much is forgotten of all.
const GAPS_KEPT: usize = 64;

/// The newest changes of a partition. Clones share them.
#[derive(Clone, Debug)]
pub struct Events {
    kept: Arc<Mutex<Kept>>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    bytes: usize,
    /// Changes up to this version are not remembered.
    forgotten: u64,
    /// Keys of which more is forgotten.
    gaps: Vec<Gap>,
    newest: u64,
    /// How often it has changed which keys these are the changes of.
    generation: u64,
}

/// The keys whose changes are asked for: by their tokens, both inclusive, as of a generation.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The first token.
    pub first: Token,
    /// The last one.
    pub last: Token,
    /// When it was last found out that they are here, and how they came here.
    pub generation: u64,
}

/// Why there are no changes to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHere {
    /// They are not remembered any more.
    Compacted {
        /// The oldest version that a watch can still go on from.
        oldest: u64,
    },
    /// Keys have come or gone meanwhile: it is to be found out again where the watch is.
    OtherKeys,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Arc::default(), newest: watch::Sender::new(0) }
    }
}

fn size(event: &Event) -> usize {
    let value = match &event.change {
        Change::Set(value) => value.len(),
        Change::Updated | Change::Deleted | Change::Expired => 0,
    };
    event.key.len() + value + 64
}

impl Events {
    /// Adds changes, in order, and wakes the watches.
    pub(crate) fn tell(&self, events: Vec<Event>) {
        let Some(newest) = events.last().map(|event| event.version) else { return };
        let mut kept = self.kept.lock();
        for event in events {
            kept.bytes += size(&event);
            kept.events.push_back(event);
        }
        kept.newest = newest;
        kept.forget();
        drop(kept);
        self.newest.send_replace(newest);
    }

    /// Leaves the changes of the keys from `at` on to the partition that gets them, so that a watch can go on there.
    pub(crate) fn split(&self, at: Token) -> Self {
        let mut kept = self.kept.lock();
        let slot = token::slot_of(at);
        let events = std::mem::take(&mut kept.events).into_iter();
        let (goes, stays): (VecDeque<Event>, VecDeque<Event>) =
            events.partition(|event| token::slot(&event.key) >= slot);
        let bytes = goes.iter().map(size).sum();
        kept.events = stays;
        kept.bytes -= bytes;
        kept.generation += 1;
        let mut gaps = Vec::new();
        kept.gaps.retain_mut(|gap| {
            if gap.last_token >= at.0 {
                gaps.push(Gap { first_token: gap.first_token.max(at.0), ..*gap });
                gap.last_token = at.0.wrapping_sub(1);
            }
            gap.first_token < at.0
        });
        let (forgotten, newest) = (kept.forgotten, kept.newest);
        drop(kept);
        self.wake();
        let split = Kept { events: goes, bytes, forgotten, gaps, newest, generation: 0 };
        Self { kept: Arc::new(Mutex::new(split)), newest: watch::Sender::new(newest) }
    }

    /// Takes over the changes of the keys with the tokens `behind`, which come here with a version; those here have the
    /// tokens `own`.
    pub(crate) fn merge(
        &self,
        changes: Changes,
        (own, behind): ((Token, Token), (Token, Token)),
        version: u64,
    ) -> Result<(), Stop> {
        let Changes { forgotten, changes, gaps } = changes;
        let changes = changes.into_iter().map(event).collect::<Result<Vec<Event>, Stop>>()?;
        let mut kept = self.kept.lock();
        kept.bytes += changes.iter().map(size).sum::<usize>();
        kept.events.extend(changes);
        kept.events.make_contiguous().sort_by_key(|event| event.version);
        let here = kept.forgotten;
        let gap = |(first, last): (Token, Token), version| Gap {
            first_token: first.0,
            last_token: last.0,
            version,
        };
        kept.gaps.extend(gaps.into_iter().chain([gap(own, here), gap(behind, forgotten)]));
        kept.forgotten = here.min(forgotten);
        kept.newest = version;
        kept.generation += 1;
        kept.forget();
        kept.join_gaps();
        drop(kept);
        self.newest.send_replace(version);
        Ok(())
    }

    /// The newest changes, as many as go along when the partition becomes part of another one.
    pub(crate) fn newest_changes(&self) -> Changes {
        let kept = self.kept.lock();
        let mut forgotten = kept.forgotten;
        let mut bytes = 0;
        let mut changes = Vec::new();
        for event in kept.events.iter().rev() {
            bytes += size(event);
            if bytes > EVENTS_BYTES_MERGED {
                forgotten = event.version;
                break;
            }
            changes.push(change(event));
        }
        // Changes of one version stay together.
        changes.retain(|change| change.version > forgotten);
        changes.reverse();
        Changes { forgotten, changes, gaps: kept.gaps.clone() }
    }

    /// Wakes the watches: something else has changed for them.
    pub(crate) fn wake(&self) {
        self.newest.send_modify(|_newest| ());
    }

    /// A snapshot has replaced everything up to this version.
    pub(crate) fn forget_until(&self, version: u64) {
        let mut kept = self.kept.lock();
        let generation = kept.generation + 1;
        *kept = Kept { forgotten: version, newest: version, generation, ..Kept::default() };
        drop(kept);
        self.newest.send_replace(version);
    }

    /// The newest version, as it changes.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// How often it has changed which keys these are the changes of.
    pub fn generation(&self) -> u64 {
        self.kept.lock().generation
    }

    /// About `count` changes after `version` of keys that `wanted` takes, and the version up to which they are
    /// complete.
    pub fn after(
        &self,
        version: u64,
        asked: Asked,
        count: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<(Vec<Event>, u64), NotHere> {
        let kept = self.kept.lock();
        if kept.generation != asked.generation {
            return Err(NotHere::OtherKeys);
        }
        let gaps = kept.gaps.iter();
        let gaps = gaps.filter(|gap| gap.first_token <= asked.last.0 && asked.first.0 <= gap.last_token);
        let forgotten = gaps.map(|gap| gap.version).fold(kept.forgotten, u64::max);
        if version < forgotten {
            return Err(NotHere::Compacted { oldest: forgotten });
        }
        let from = kept.events.partition_point(|event| event.version <= version);
        let mut found: Vec<Event> = Vec::new();
        for event in kept.events.range(from..) {
            // Two partitions that became one may both have had a version: it is complete with both.
            if let Some(last) =
                found.last().filter(|last| found.len() >= count && last.version < event.version)
            {
                let upto = last.version;
                return Ok((found, upto));
            }
            if wanted(&event.key) {
                found.push(event.clone());
            }
        }
        Ok((found, kept.newest.max(version)))
    }
}

impl Kept {
    /// Forgets the oldest changes, if they are too many.
    fn forget(&mut self) {
        while self.events.len() > EVENTS_KEPT || self.bytes > EVENTS_BYTES_KEPT {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.forgotten = oldest.version;
        }
    }

    /// Leaves out gaps that are part of others.
    fn join_gaps(&mut self) {
        let is_part = |part: &Gap, of: &Gap| {
            of.first_token <= part.first_token
                && part.last_token <= of.last_token
                && part.version <= of.version
        };
        for gap in std::mem::take(&mut self.gaps) {
            if gap.version > self.forgotten && !self.gaps.iter().any(|kept| is_part(&gap, kept)) {
                self.gaps.retain(|kept| !is_part(kept, &gap));
                self.gaps.push(gap);
            }
        }
        if self.gaps.len() > GAPS_KEPT {
            self.forgotten = self.gaps.drain(..).map(|gap| gap.version).fold(self.forgotten, u64::max);
        }
    }
}

fn change(event: &Event) -> grid::Change {
    let kind = match &event.change {
        Change::Set(value) => Kind::Set(value.clone()),
        Change::Updated => Kind::Updated(true),
        Change::Deleted => Kind::Deleted(true),
        Change::Expired => Kind::Expired(true),
    };
    grid::Change { version: event.version, key: event.key.clone(), kind: Some(kind) }
}

fn event(change: grid::Change) -> Result<Event, Stop> {
    let kind = match change.kind {
        Some(Kind::Set(value)) => Change::Set(value),
        Some(Kind::Updated(_)) => Change::Updated,
        Some(Kind::Deleted(_)) => Change::Deleted,
        Some(Kind::Expired(_)) => Change::Expired,
        None => return Err(Stop::new("a change of the grid that this release does not know")),
    };
    Ok(Event { version: change.version, key: change.key, change: kind })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn event(version: u64) -> Event {
        Event { version, key: Bytes::from(format!("k{}", version % 3)), change: Change::Deleted }
    }

    fn asked(generation: u64) -> Asked {
        Asked { first: Token(0), last: Token(u64::MAX), generation }
    }

    #[test]
    fn a_watch_gets_every_change_after_its_version_or_is_told_that_it_cannot() {
        let events = Events::default();
        events.tell((1..=10).map(event).collect());
        let (found, upto) = events.after(4, asked(0), 100, |key| key == b"k0").unwrap();
        assert_eq!(found.iter().map(|event| event.version).collect::<Vec<_>>(), [6, 9]);
        assert_eq!(upto, 10);
        let (found, upto) = events.after(0, asked(0), 2, |_| true).unwrap();
        assert_eq!((found.len(), upto), (2, 2));
        events.tell((11..=(EVENTS_KEPT as u64 + 20)).map(event).collect());
        assert_eq!(events.after(4, asked(0), 1, |_| true), Err(NotHere::Compacted { oldest: 20 }));
        assert!(events.after(20, asked(0), 1, |_| true).is_ok());
    }
}
