//! Which segment has the newest copy of what is still needed.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

/// Where the newest copy of an entry is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) bytes: u64,
}

/// What the writer remembers of a group: enough to know which segment still matters.
#[derive(Default)]
pub(super) struct Live {
    /// Of each entry, from `first` on.
    pub(super) places: VecDeque<Place>,
    pub(super) first: u64,
    pub(super) states: BTreeMap<u8, Bytes>,
    pub(super) purged: u64,
}

impl Live {
    /// Notes where the entry at `index` is now; returns the places of entries that this replaces.
    pub(super) fn place(&mut self, index: u64, place: Place) -> Vec<Place> {
        if self.places.is_empty() {
            self.first = index;
        }
        let end = self.first + self.places.len() as u64;
        if index == end {
            self.places.push_back(place);
            return Vec::new();
        }
        if index < self.first || index > end {
            // A snapshot replaced everything before.
            let dropped = std::mem::take(&mut self.places).into();
            self.first = index;
            self.places.push_back(place);
            return dropped;
        }
        self.relocate(index, place).into_iter().collect()
    }

    pub(super) fn segment_of(&self, index: u64) -> Option<u64> {
        let position = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.places.get(position).map(|place| place.segment)
    }

    /// Notes that an entry is elsewhere; returns where it was.
    pub(super) fn relocate(&mut self, index: u64, place: Place) -> Option<Place> {
        let position = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.places.get_mut(position).map(|before| std::mem::replace(before, place))
    }

    pub(super) fn truncate(&mut self, index: u64) -> Vec<Place> {
        let keep = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        if keep >= self.places.len() { Vec::new() } else { self.places.split_off(keep).into() }
    }

    pub(super) fn purge(&mut self, index: u64) -> Vec<Place> {
        self.purged = self.purged.max(index);
        if index < self.first {
            return Vec::new();
        }
        let count = usize::try_from(index + 1 - self.first).unwrap_or(usize::MAX).min(self.places.len());
        self.first += count as u64;
        self.places.drain(..count).collect()
    }
}
