//! Names with what they lead to, one behind the other, and where each is: the keys of a slot, the fields of a part of a hash.
//!
//! A hash table keeps between an eighth and more than half of its places free, and there are many small ones of them: with entries of
//! nine words that is half of a cache's memory. Here only the index does, with two bytes a place; entries grow by a quarter. The index
//! of many is small enough to be near when it is looked into.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{ByteString, Entry};

/// What an entry costs in memory beside what it and its key have allocated: its place, of which an eighth is free on the average,
/// and its mark in the index, of which a third is.
pub(super) const OVERHEAD_BYTES: usize = size_of::<(ByteString, Entry)>() * 9 / 8 + 3 * 3 / 2;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Table<V> {
    entries: Vec<(ByteString, V)>,
    index: Index,
    hashes: DefaultHashBuilder,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { entries: Vec::new(), index: Index::default(), hashes: DefaultHashBuilder::default() }
    }
}

/// Places of entries by their names' hashes: two bytes are enough for almost all.
#[derive(Clone, Debug)]
enum Index {
    Small(HashTable<u16>),
    Large(HashTable<u32>),
}

impl Default for Index {
    fn default() -> Self {
        Self::Small(HashTable::new())
    }
}

/// Entries from which on those that are not used are given back.
const SHRINKS_FROM: usize = 16;

fn hash(hashes: &DefaultHashBuilder, key: &[u8]) -> u64 {
    hashes.hash_one(key)
}

impl Index {
    fn find(&self, hash: u64, mut is: impl FnMut(usize) -> bool) -> Option<usize> {
        match self {
            Self::Small(places) => places.find(hash, |&at| is(at.into())).map(|&at| at.into()),
            Self::Large(places) => places.find(hash, |&at| is(at as usize)).map(|&at| at as usize),
        }
    }

    /// Adds a place, where there may be so many more; `hash_of` says the hashes of those that it has.
    fn insert(&mut self, hash: u64, at: usize, hash_of: impl Fn(usize) -> u64) {
        match (&mut *self, u16::try_from(at)) {
            (Self::Small(places), Ok(at)) => {
                places.insert_unique(hash, at, |&at| hash_of(at.into()));
            }
            (Self::Small(places), Err(_many)) => {
                let mut large = HashTable::with_capacity(places.len() + 1);
                for &at in places.iter() {
                    large.insert_unique(hash_of(at.into()), u32::from(at), |&at| hash_of(at as usize));
                }
                *self = Self::Large(large);
                self.insert(hash, at, hash_of);
            }
            (Self::Large(places), _) => {
                // More of them than that do not fit in memory.
                let at = u32::try_from(at).unwrap_or(u32::MAX);
                places.insert_unique(hash, at, |&at| hash_of(at as usize));
            }
        }
    }

    fn remove(&mut self, hash: u64, mut is: impl FnMut(usize) -> bool) -> Option<usize> {
        match self {
            Self::Small(places) => {
                places.find_entry(hash, |&at| is(at.into())).ok().map(|found| found.remove().0.into())
            }
            Self::Large(places) => {
                places.find_entry(hash, |&at| is(at as usize)).ok().map(|found| found.remove().0 as usize)
            }
        }
    }

    /// What was at one place is at another, which is the lower one.
    fn moved(&mut self, hash: u64, from: usize, to: usize) {
        match self {
            Self::Small(places) => {
                if let (Some(at), Ok(to)) =
                    (places.find_mut(hash, |&at| usize::from(at) == from), u16::try_from(to))
                {
                    *at = to;
                }
            }
            Self::Large(places) => {
                if let (Some(at), Ok(to)) =
                    (places.find_mut(hash, |&at| at as usize == from), u32::try_from(to))
                {
                    *at = to;
                }
            }
        }
    }

    fn shrink(&mut self, hash_of: impl Fn(usize) -> u64) {
        match self {
            Self::Small(places) => places.shrink_to_fit(|&at| hash_of(at.into())),
            Self::Large(places) => places.shrink_to_fit(|&at| hash_of(at as usize)),
        }
    }
}

impl<V> Table<V> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where a name is.
    pub(super) fn place(&self, name: &[u8]) -> Option<usize> {
        let entries = &self.entries;
        self.index
            .find(hash(&self.hashes, name), |at| entries.get(at).is_some_and(|(held, _)| **held == *name))
    }

    /// What a name leads to.
    pub(super) fn get(&self, name: &[u8]) -> Option<&V> {
        self.get_key_value(name).map(|(_, entry)| entry)
    }

    /// The name with it.
    pub(super) fn get_key_value(&self, name: &[u8]) -> Option<(&ByteString, &V)> {
        self.at(self.place(name)?)
    }

    /// What a name leads to, to be changed.
    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut V> {
        let place = self.place(name)?;
        self.at_mut(place)
    }

    pub(super) fn contains_key(&self, name: &[u8]) -> bool {
        self.place(name).is_some()
    }

    /// Adds a name that is not there.
    pub(super) fn insert_new(&mut self, name: ByteString, entry: V) {
        let Self { entries, index, hashes } = self;
        if entries.len() == entries.capacity() {
            entries.reserve_exact((entries.len() / 4).max(1));
        }
        let at = entries.len();
        index.insert(hash(hashes, &name), at, |at| entries.get(at).map_or(0, |(name, _)| hash(hashes, name)));
        entries.push((name, entry));
    }

    /// Removes a name; the last one comes to its place.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<(ByteString, V)> {
        let Self { entries, index, hashes } = self;
        let is = |at: usize| entries.get(at).is_some_and(|(held, _)| **held == *name);
        let at = index.remove(hash(hashes, name), is)?;
        let removed = entries.swap_remove(at);
        if let Some((moved, _)) = entries.get(at) {
            index.moved(hash(hashes, moved), entries.len(), at);
        }
        if entries.capacity() >= SHRINKS_FROM && entries.len() < entries.capacity() / 4 {
            entries.shrink_to(entries.len() * 2);
            index.shrink(|at| entries.get(at).map_or(0, |(name, _)| hash(hashes, name)));
        }
        Some(removed)
    }

    /// All of them: in the order in which they came, but for those that came to the place of one that went.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ByteString, &V)> {
        self.entries.iter().map(|(name, entry)| (name, entry))
    }

    /// The one at a place, counted in that order.
    pub(super) fn at(&self, place: usize) -> Option<(&ByteString, &V)> {
        self.entries.get(place).map(|(name, entry)| (name, entry))
    }

    /// What that one leads to, to be changed.
    pub(super) fn at_mut(&mut self, place: usize) -> Option<&mut V> {
        self.entries.get_mut(place).map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn put(table: &mut Table<u64>, key: &[u8], version: u64) {
        match table.get_mut(key) {
            Some(held) => *held = version,
            None => table.insert_new(key.into(), version),
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(operations in proptest::collection::vec((0..5_u8, 0..300_u32), 1..3000)) {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            for (version, (kind, number)) in (1..).zip(operations) {
                let key = number.to_string().into_bytes();
                if kind < 2 {
                    let removed = table.remove(&key).map(|(_, version)| version);
                    prop_assert_eq!(removed, model.remove(&key));
                } else {
                    put(&mut table, &key, version);
                    model.insert(key.clone(), version);
                }
                prop_assert_eq!(table.get(&key).copied(), model.get(&key).copied());
            }
            let all: BTreeMap<Vec<u8>, u64> = table.iter().map(|(key, version)| (key.to_vec(), *version)).collect();
            prop_assert_eq!(table.len(), model.len());
            prop_assert_eq!(all, model);
        }
    }

    #[test]
    fn a_slot_may_have_more_keys_than_two_bytes_count_and_gives_memory_back() {
        const MANY: u32 = 70_000;
        let mut table = Table::default();
        for number in 0..MANY {
            put(&mut table, &number.to_le_bytes(), number.into());
        }
        assert!(matches!(table.index, Index::Large(_)));
        let found = (0..MANY).all(|number| table.get(&number.to_le_bytes()) == Some(&u64::from(number)));
        assert!(found && table.len() == MANY as usize);
        for number in 100..MANY {
            assert_eq!(table.remove(&number.to_le_bytes()).unwrap().1, u64::from(number));
        }
        assert!((0..100_u32).all(|number| table.contains_key(&number.to_le_bytes())));
        assert!(table.entries.capacity() <= 400, "{}", table.entries.capacity());
    }
}
