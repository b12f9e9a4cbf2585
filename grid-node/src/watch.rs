//! Changes of a partition, remembered for a while, so that a watch can begin where another one ended.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use trimaran_placement::token::{self, Token};
use trimaran_proto::state::grid::change::Kind;
use trimaran_proto::state::grid::{self, Changes, Gap};
use trimaran_replication::error::Stop;

use crate::data::changes::{self as packed, Packed};
use crate::data::{Change, Event};
use crate::limits::{EVENTS_BYTES_KEPT, EVENTS_BYTES_MERGED, EVENTS_KEPT};

/// Ranges of keys of which more is forgotten than of others; beyond that, as much is forgotten of all.
const GAPS_KEPT: usize = 64;

/// About how many bytes of changes are forgotten together.
const BLOCK_BYTES: usize = 64 << 10;

/// The newest changes of a partition. Clones share them.
#[derive(Clone, Debug)]
pub struct Events {
    kept: Arc<Mutex<Kept>>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first; none is empty. They are forgotten one after the other.
    blocks: VecDeque<packed::Changes>,
    /// One that was forgotten, for its memory.
    spare: Option<packed::Changes>,
    count: usize,
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

impl Events {
    /// Adds changes, in order, and wakes the watches.
    pub(crate) fn tell(&self, changes: &packed::Changes) {
        let Some(newest) = changes.last_version() else { return };
        let mut kept = self.kept.lock();
        changes.iter().for_each(|change| kept.push(change));
        kept.newest = newest;
        kept.forget();
        drop(kept);
        self.newest.send_replace(newest);
    }

    /// Leaves the changes of the keys from `at` on to the partition that gets them, so that a watch can go on there.
    pub(crate) fn split(&self, at: Token) -> Self {
        let mut kept = self.kept.lock();
        let slot = token::slot_of(at);
        let mut goes = Kept::default();
        kept.count = 0;
        kept.bytes = 0;
        for block in std::mem::take(&mut kept.blocks) {
            for change in block.iter() {
                if token::slot(change.key) >= slot { goes.push(change) } else { kept.push(change) }
            }
        }
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
        let split = Kept { forgotten, gaps, newest, ..goes };
        Self { kept: Arc::new(Mutex::new(split)), newest: watch::Sender::new(newest) }
    }

    /// Takes over the changes of the keys with the tokens `behind`, which come here with a version; those here have the
    /// tokens `own`.
    pub(crate) fn merge(
        &self,
        changes: Changes,
        (own_tokens, behind): ((Token, Token), (Token, Token)),
        version: u64,
    ) -> Result<(), Stop> {
        let Changes { forgotten, changes, gaps } = changes;
        let more = changes.into_iter().map(event).collect::<Result<Vec<Event>, Stop>>()?;
        let mut kept = self.kept.lock();
        let own: Vec<Event> = kept.all().map(|change| change.event()).collect();
        let mut all: Vec<Event> = own.into_iter().chain(more).collect();
        all.sort_by_key(|event| event.version);
        kept.blocks.clear();
        kept.count = 0;
        kept.bytes = 0;
        for event in &all {
            kept.tail().push(event.version, &event.key, &event.change);
            kept.count += 1;
        }
        kept.bytes = kept.blocks.iter().map(packed::Changes::bytes).sum();
        let here = kept.forgotten;
        let gap = |(first, last): (Token, Token), version| Gap {
            first_token: first.0,
            last_token: last.0,
            version,
        };
        kept.gaps.extend(gaps.into_iter().chain([gap(own_tokens, here), gap(behind, forgotten)]));
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
        for packed in kept.all().rev() {
            bytes += packed.bytes();
            if bytes > EVENTS_BYTES_MERGED {
                forgotten = packed.version;
                break;
            }
            changes.push(change(packed.event()));
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
        let is_before = |block: &packed::Changes| block.last_version().is_some_and(|last| last <= version);
        let from = kept.blocks.partition_point(is_before);
        let mut found: Vec<Event> = Vec::new();
        for packed in kept.blocks.range(from..).flat_map(|block| block.after(version)) {
            // Two partitions that became one may both have had a version: it is complete with both.
            if let Some(last) =
                found.last().filter(|last| found.len() >= count && last.version < packed.version)
            {
                let upto = last.version;
                return Ok((found, upto));
            }
            if wanted(packed.key) {
                found.push(packed.event());
            }
        }
        Ok((found, kept.newest.max(version)))
    }
}

impl Kept {
    /// All, oldest first.
    fn all(&self) -> impl DoubleEndedIterator<Item = Packed<'_>> {
        self.blocks.iter().flat_map(packed::Changes::iter)
    }

    /// The block that the next change belongs to.
    fn tail(&mut self) -> &mut packed::Changes {
        if self.blocks.back().is_none_or(|block| block.bytes() >= BLOCK_BYTES) {
            self.blocks.push_back(self.spare.take().unwrap_or_default());
        }
        let last = self.blocks.len() - 1;
        &mut self.blocks[last]
    }

    fn push(&mut self, change: Packed<'_>) {
        self.count += 1;
        self.bytes += change.bytes();
        self.tail().take(change);
    }

    /// Forgets the oldest changes, if they are too many.
    fn forget(&mut self) {
        while let Some(oldest) = self.blocks.front()
            && (self.count - oldest.len() >= EVENTS_KEPT || self.bytes > EVENTS_BYTES_KEPT)
            && let Some(mut oldest) = self.blocks.pop_front()
        {
            self.count -= oldest.len();
            self.bytes -= oldest.bytes();
            self.forgotten = oldest.last_version().unwrap_or(self.forgotten);
            oldest.clear();
            self.spare = Some(oldest);
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

fn change(event: Event) -> grid::Change {
    let kind = match event.change {
        Change::Set(value) => Kind::Set(value),
        Change::Updated => Kind::Updated(true),
        Change::Deleted => Kind::Deleted(true),
        Change::Expired => Kind::Expired(true),
    };
    grid::Change { version: event.version, key: event.key, kind: Some(kind) }
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
    use std::ops::RangeInclusive;

    use bytes::Bytes;

    use super::*;

    /// Those of some versions, each of one of three keys.
    fn changes(versions: RangeInclusive<u64>) -> packed::Changes {
        let mut changes = packed::Changes::default();
        for version in versions {
            changes.push(version, format!("k{}", version % 3).as_bytes(), &Change::Deleted);
        }
        changes
    }

    fn asked(generation: u64) -> Asked {
        Asked { first: Token(0), last: Token(u64::MAX), generation }
    }

    #[test]
    fn a_watch_gets_every_change_after_its_version_or_is_told_that_it_cannot() {
        let events = Events::default();
        events.tell(&changes(1..=10));
        let (found, upto) = events.after(4, asked(0), 100, |key| key == b"k0").unwrap();
        assert_eq!(found.iter().map(|event| event.version).collect::<Vec<_>>(), [6, 9]);
        assert_eq!(upto, 10);
        let (found, upto) = events.after(0, asked(0), 2, |_| true).unwrap();
        assert_eq!((found.len(), upto), (2, 2));
        let newest = EVENTS_KEPT as u64 * 2;
        events.tell(&changes(11..=newest));
        let Err(NotHere::Compacted { oldest }) = events.after(4, asked(0), 1, |_| true) else {
            panic!("it has forgotten nothing")
        };
        assert!((4..=newest - EVENTS_KEPT as u64).contains(&oldest), "{oldest}");
        let behind = NotHere::Compacted { oldest };
        assert_eq!(events.after(oldest - 1, asked(0), 1, |_| true), Err(behind));
        let (found, _) = events.after(oldest, asked(0), usize::MAX, |_| true).unwrap();
        assert!(found.iter().map(|event| event.version).eq(oldest + 1..=newest));
    }

    #[test]
    fn long_values_are_forgotten_by_their_bytes() {
        let events = Events::default();
        let value = Change::Set(Bytes::from(vec![0; EVENTS_BYTES_KEPT / 4]));
        for version in 1..=10 {
            let mut changes = packed::Changes::default();
            changes.push(version, b"k", &value);
            events.tell(&changes);
        }
        assert_eq!(events.after(0, asked(0), 1, |_| true), Err(NotHere::Compacted { oldest: 7 }));
        assert_eq!(events.after(7, asked(0), 10, |_| true).unwrap().0.len(), 3);
    }
}
