//! Entries by name, for values that are large: hashes, sets, members of sorted sets.
//!
//! The entries are in shards by the first bits of their names' hash. A snapshot shares the shards, so that a write beside
//! one copies a shard at most, never all entries. A shard keeps its entries in the order in which they came (with the
//! last one in the place of one that went), and a snapshot gives them back in that order: what is chosen at random by
//! its place is the same on every replica, whoever was filled by a snapshot.
//!
//! The hash that chooses shards is the same everywhere and so is known to an attacker, but the one within a shard is not:
//! names of one shard make that one large, never slow.

use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::ByteString;
use super::table::Table;

/// The bytes of a name or of an element: short ones are where they are looked for, longer ones are counted, so that a copy of many
/// costs no allocation each.
pub type Blob = ByteString;

type Shard<V> = Table<V>;

/// Entries that a shard has before there are twice as many shards.
const SHARD_ENTRIES: usize = 256;

/// Shards are at most 2 to the power of this.
const BITS_MAX: u32 = 24;

/// See the module.
#[derive(Clone, Debug)]
pub struct Dict<V> {
    shards: Vec<Arc<Shard<V>>>,
    bits: u32,
    len: usize,
}

impl<V> Default for Dict<V> {
    fn default() -> Self {
        Self { shards: vec![Arc::default()], bits: 0, len: 0 }
    }
}

fn hash(name: &[u8]) -> u64 {
    XxHash3_64::oneshot(name)
}

impl<V: Clone> Dict<V> {
    /// With as many shards as one had, so that the entries find the same places again.
    pub fn with_bits(bits: u32) -> Self {
        let bits = bits.min(BITS_MAX);
        Self { shards: vec![Arc::default(); 1 << bits], bits, len: 0 }
    }

    /// The number of shards, as a power of two.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn place(&self, name: &[u8]) -> usize {
        // A shift by all bits is none.
        hash(name).checked_shr(u64::BITS - self.bits).map_or(0, |place| place as usize)
    }

    /// The entry of a name.
    pub fn get(&self, name: &[u8]) -> Option<&V> {
        self.shards[self.place(name)].get(name)
    }

    /// Name and entry.
    pub fn get_entry(&self, name: &[u8]) -> Option<(&Blob, &V)> {
        self.shards[self.place(name)].get_key_value(name)
    }

    /// The entry of a name, to be changed.
    pub fn get_mut(&mut self, name: &[u8]) -> Option<&mut V> {
        let place = self.place(name);
        let at = self.shards[place].place(name)?;
        Arc::make_mut(&mut self.shards[place]).at_mut(at)
    }

    /// Puts an entry, and returns the one before.
    pub fn insert(&mut self, name: Blob, value: V) -> Option<V> {
        let place = self.place(&name);
        let shard = Arc::make_mut(&mut self.shards[place]);
        if let Some(held) = shard.get_mut(&name) {
            return Some(std::mem::replace(held, value));
        }
        shard.insert_new(name, value);
        self.len += 1;
        if self.len > self.shards.len() * SHARD_ENTRIES && self.bits < BITS_MAX {
            self.grow();
        }
        None
    }

    /// Removes an entry.
    pub fn remove(&mut self, name: &[u8]) -> Option<(Blob, V)> {
        let place = self.place(name);
        if !self.shards[place].contains_key(name) {
            return None;
        }
        let removed = Arc::make_mut(&mut self.shards[place]).remove(name)?;
        self.len -= 1;
        Some(removed)
    }

    fn grow(&mut self) {
        self.bits += 1;
        let shift = u64::BITS - self.bits;
        let shards = std::mem::take(&mut self.shards);
        for shard in shards {
            let mut halves = [Shard::default(), Shard::default()];
            for (name, value) in shard.iter() {
                let half = (hash(name) >> shift) as usize & 1;
                halves[half].insert_new(name.clone(), value.clone());
            }
            self.shards.extend(halves.map(Arc::new));
        }
    }

    /// All entries, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&Blob, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// The entry at a place, counted in the order of [`Dict::iter`].
    pub fn at(&self, mut place: usize) -> Option<(&Blob, &V)> {
        for shard in &self.shards {
            if place < shard.len() {
                return shard.at(place);
            }
            place -= shard.len();
        }
        None
    }

    /// About `count` entries from a cursor on, and where to go on; 0 = that was all. What is there from the begin to
    /// the end of a scan is returned, whatever comes and goes meanwhile, and once.
    pub fn scan(&self, cursor: u64, count: usize) -> (Vec<(&Blob, &V)>, u64) {
        // Cursors have a bit less than hashes: there are clients who take them for signed numbers.
        let position = |name: &[u8]| hash(name) >> 1;
        let start = (cursor << 1).checked_shr(u64::BITS - self.bits).map_or(0, |place| place as usize);
        let mut found = Vec::new();
        for shard in self.shards.iter().skip(start) {
            let mut here: Vec<(u64, (&Blob, &V))> = shard
                .iter()
                .map(|entry| (position(entry.0), entry))
                .filter(|(at, _)| *at >= cursor)
                .collect();
            here.sort_unstable_by_key(|(at, _)| *at);
            let mut rest = here.into_iter().peekable();
            while let Some((at, entry)) = rest.next() {
                found.push(entry);
                // Never between two of one hash: the cursor could not tell them apart.
                if found.len() >= count && rest.peek().is_none_or(|(next, _)| *next != at) {
                    return (found, if at == u64::MAX >> 1 { 0 } else { at + 1 });
                }
            }
        }
        (found, 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn blob(number: u32) -> Blob {
        number.to_string().into_bytes().into()
    }

    proptest! {
        /// It holds what a map holds; who is filled in its order has the same order from then on.
        #[test]
        fn it_is_a_map_with_an_order_of_its_own(operations in proptest::collection::vec((0..3_u8, 0..2000_u32), 1..3000)) {
            let mut dict = Dict::default();
            let mut model = BTreeMap::new();
            let mut copy: Option<Dict<u32>> = None;
            for (at, (kind, number)) in operations.into_iter().enumerate() {
                let name = blob(number);
                if kind == 0 {
                    prop_assert_eq!(dict.remove(&name).map(|(_, value)| value), model.remove(&name));
                } else {
                    prop_assert_eq!(dict.insert(name.clone(), at as u32), model.insert(name.clone(), at as u32));
                }
                if let Some(copy) = &mut copy {
                    if kind == 0 { copy.remove(&name); } else { copy.insert(name, at as u32); }
                } else if at == 1000 {
                    let mut filled = Dict::with_bits(dict.bits());
                    for (name, value) in dict.iter() { filled.insert(name.clone(), *value); }
                    copy = Some(filled);
                }
            }
            prop_assert_eq!(dict.len(), model.len());
            prop_assert_eq!(dict.iter().map(|(name, value)| (name.clone(), *value)).collect::<BTreeMap<_, _>>(), model);
            if let Some(copy) = copy {
                prop_assert!(copy.iter().eq(dict.iter()));
            }
        }
    }

    #[test]
    fn a_scan_finds_what_stays_once_while_it_grows() {
        let mut dict = Dict::default();
        for number in 0..500 {
            dict.insert(blob(number), number);
        }
        let mut seen = BTreeMap::new();
        let mut cursor = 0;
        let mut fresh = 500;
        loop {
            let (found, next) = dict.scan(cursor, 7);
            for (name, _) in found {
                *seen.entry(name.clone()).or_insert(0) += 1;
            }
            if next == 0 {
                break;
            }
            cursor = next;
            for _ in 0..20 {
                dict.insert(blob(fresh), fresh);
                fresh += 1;
            }
        }
        assert!((0..500).all(|number| seen[&blob(number)] == 1));
    }
}
