//! Changes of a partition, remembered for a while, so that a watch can begin where another one ended.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::data::{Change, Event};
use crate::limits::{EVENTS_BYTES_KEPT, EVENTS_KEPT};

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
    newest: u64,
}

/// The changes asked for are not remembered any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The oldest version that a watch can still go on from.
    pub oldest: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Arc::default(), newest: watch::Sender::new(0) }
    }
}

fn size(event: &Event) -> usize {
    let value = match &event.change {
        Change::Set(value) => value.len(),
        Change::Deleted | Change::Expired => 0,
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
        while kept.events.len() > EVENTS_KEPT || kept.bytes > EVENTS_BYTES_KEPT {
            let Some(oldest) = kept.events.pop_front() else { break };
            kept.bytes -= size(&oldest);
            kept.forgotten = oldest.version;
        }
        drop(kept);
        self.newest.send_replace(newest);
    }

    /// The changes of those keys that `goes` takes, for the partition that gets them: so that a watch can go on there.
    pub(crate) fn of(&self, goes: impl Fn(&[u8]) -> bool) -> Self {
        let kept = self.kept.lock();
        let events: VecDeque<Event> = kept.events.iter().filter(|event| goes(&event.key)).cloned().collect();
        let bytes = events.iter().map(size).sum();
        let (forgotten, newest) = (kept.forgotten, kept.newest);
        drop(kept);
        let kept = Kept { events, bytes, forgotten, newest };
        Self { kept: Arc::new(Mutex::new(kept)), newest: watch::Sender::new(newest) }
    }

    /// Wakes the watches: something else has changed for them.
    pub(crate) fn wake(&self) {
        self.newest.send_modify(|_newest| ());
    }

    /// A snapshot has replaced everything up to this version.
    pub(crate) fn forget_until(&self, version: u64) {
        let mut kept = self.kept.lock();
        *kept = Kept { forgotten: version, newest: version, ..Kept::default() };
        drop(kept);
        self.newest.send_replace(version);
    }

    /// The newest version, as it changes.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Up to `count` changes after `version` of keys that `wanted` takes, and the version up to which they are
    /// complete.
    pub fn after(
        &self,
        version: u64,
        count: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<(Vec<Event>, u64), Compacted> {
        let kept = self.kept.lock();
        if version < kept.forgotten {
            return Err(Compacted { oldest: kept.forgotten });
        }
        let from = kept.events.partition_point(|event| event.version <= version);
        let mut found = Vec::new();
        for event in kept.events.range(from..) {
            if wanted(&event.key) {
                found.push(event.clone());
                if found.len() == count {
                    return Ok((found, event.version));
                }
            }
        }
        Ok((found, kept.newest.max(version)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn event(version: u64) -> Event {
        Event { version, key: Bytes::from(format!("k{}", version % 3)), change: Change::Deleted }
    }

    #[test]
    fn a_watch_gets_every_change_after_its_version_or_is_told_that_it_cannot() {
        let events = Events::default();
        events.tell((1..=10).map(event).collect());
        let (found, upto) = events.after(4, 100, |key| key == b"k0").unwrap();
        assert_eq!(found.iter().map(|event| event.version).collect::<Vec<_>>(), [6, 9]);
        assert_eq!(upto, 10);
        let (found, upto) = events.after(0, 2, |_| true).unwrap();
        assert_eq!((found.len(), upto), (2, 2));
        events.tell((11..=(EVENTS_KEPT as u64 + 20)).map(event).collect());
        assert_eq!(events.after(4, 1, |_| true), Err(Compacted { oldest: 20 }));
        assert!(events.after(20, 1, |_| true).is_ok());
    }
}
