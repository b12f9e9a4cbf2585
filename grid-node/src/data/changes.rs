//! Changes in the order in which they were made, packed one behind the other: some are written with every command, and few
//! are ever read, so that one costs a copy of its bytes and no allocation.

use bytes::Bytes;

use super::{Change, Event};

/// A value that is longer is shared with the key, not copied.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// Bytes of memory that are kept for the next ones.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Version, kind, length of the key, length of the value or its place among the long ones.
const HEAD_BYTES: usize = 8 + 1 + 4 + 4;

/// What a change counts for beside its key and value.
const OVERHEAD_BYTES: usize = 64;

const SET: u8 = 0;
const SET_LONG: u8 = 1;
const UPDATED: u8 = 2;
const DELETED: u8 = 3;
const EXPIRED: u8 = 4;

/// Some changes, those of one version beside each other.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    packed: Vec<u8>,
    /// Where each begins.
    starts: Vec<usize>,
    /// Values that are not copied.
    long: Vec<Bytes>,
    bytes: usize,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// The partition's version after it.
    pub version: u64,
    /// The key.
    pub key: &'a [u8],
    kind: u8,
    /// Of what it counts for.
    value: &'a [u8],
    shared: Option<&'a Bytes>,
}

impl Packed<'_> {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.key.len() + self.value.len()
    }

    /// On its own.
    pub fn event(&self) -> Event {
        let change = match self.kind {
            SET | SET_LONG => {
                Change::Set(self.shared.map_or_else(|| Bytes::copy_from_slice(self.value), Bytes::clone))
            }
            DELETED => Change::Deleted,
            EXPIRED => Change::Expired,
            _ => Change::Updated,
        };
        Event { version: self.version, key: Bytes::copy_from_slice(self.key), change }
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().unwrap_or([0; N])
}

impl Changes {
    /// Adds one behind the others.
    pub fn push(&mut self, version: u64, key: &[u8], change: &Change) {
        let kind = match change {
            Change::Set(value) => return self.set(version, key, value, Some(value)),
            Change::Updated => UPDATED,
            Change::Deleted => DELETED,
            Change::Expired => EXPIRED,
        };
        self.write(version, key, kind, &[], None);
    }

    /// Adds that a key has a value now; a long one may be shared with it.
    pub fn set(&mut self, version: u64, key: &[u8], value: &[u8], shared: Option<&Bytes>) {
        let shared = shared.filter(|_| value.len() > COPIED_BYTES_MAX);
        let kind = if shared.is_some() { SET_LONG } else { SET };
        self.write(version, key, kind, value, shared);
    }

    /// Adds one of others.
    pub fn take(&mut self, other: Packed<'_>) {
        let Packed { version, key, kind, value, shared } = other;
        self.write(version, key, kind, value, shared);
    }

    fn write(&mut self, version: u64, key: &[u8], kind: u8, value: &[u8], shared: Option<&Bytes>) {
        // Lengths are those of keys and short values; a place is below the number of changes.
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        self.starts.push(self.packed.len());
        self.packed.reserve(HEAD_BYTES + key.len() + value.len().min(COPIED_BYTES_MAX));
        self.packed.extend_from_slice(&version.to_le_bytes());
        self.packed.push(kind);
        self.packed.extend_from_slice(&narrow(key.len()));
        match shared {
            Some(shared) => {
                self.packed.extend_from_slice(&narrow(self.long.len()));
                self.long.push(shared.clone());
                self.packed.extend_from_slice(key);
            }
            None => {
                self.packed.extend_from_slice(&narrow(value.len()));
                self.packed.extend_from_slice(key);
                self.packed.extend_from_slice(value);
            }
        }
        self.bytes += OVERHEAD_BYTES + key.len() + value.len();
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// About how many bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets all of them, and keeps the memory, unless they were very many (FLUSHALL).
    pub fn clear(&mut self) {
        if self.packed.capacity() > KEPT_BYTES_MAX {
            *self = Self::default();
            return;
        }
        self.packed.clear();
        self.starts.clear();
        self.long.clear();
        self.bytes = 0;
    }

    /// The version of the last one.
    pub fn last_version(&self) -> Option<u64> {
        self.starts.last().map(|&start| self.version_at(start))
    }

    fn version_at(&self, start: usize) -> u64 {
        u64::from_le_bytes(number(&self.packed, start))
    }

    fn at(&self, start: usize) -> Packed<'_> {
        let head = self.packed.get(start..start + HEAD_BYTES).unwrap_or(&[0; HEAD_BYTES]);
        let kind = head[8];
        let length = u32::from_le_bytes(number(head, 9)) as usize;
        let value = u32::from_le_bytes(number(head, 13)) as usize;
        let behind = self.packed.get(start + HEAD_BYTES..).unwrap_or_default();
        let (key, behind) = behind.split_at_checked(length).unwrap_or_default();
        let shared = self.long.get(value).filter(|_| kind == SET_LONG);
        let value = match shared {
            Some(shared) => shared,
            None => behind.get(..value).unwrap_or_default(),
        };
        Packed { version: u64::from_le_bytes(number(head, 0)), key, kind, value, shared }
    }

    /// All, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Packed<'_>> {
        self.starts.iter().map(|&start| self.at(start))
    }

    /// Those behind a version.
    pub fn after(&self, version: u64) -> impl Iterator<Item = Packed<'_>> {
        let from = self.starts.partition_point(|&start| self.version_at(start) <= version);
        self.starts[from..].iter().map(|&start| self.at(start))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..COPIED_BYTES_MAX * 2)
                .prop_map(|value| Change::Set(value.into())),
            Just(Change::Updated),
            Just(Change::Deleted),
            Just(Change::Expired),
        ]
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(
            given in proptest::collection::vec((0..3_u64, proptest::collection::vec(any::<u8>(), 0..20), change()), 0..40),
            after in 0..60_u64,
        ) {
            let (mut changes, mut expected, mut version) = (Changes::default(), Vec::new(), 0);
            for (more, key, change) in given {
                version += more;
                changes.push(version, &key, &change);
                expected.push(Event { version, key: key.into(), change });
            }
            let mut others = Changes::default();
            changes.iter().for_each(|packed| others.take(packed));
            for changes in [&changes, &others] {
                prop_assert_eq!(changes.iter().map(|packed| packed.event()).collect::<Vec<_>>(), expected.clone());
                let behind: Vec<Event> = changes.after(after).map(|packed| packed.event()).collect();
                let expected: Vec<Event> = expected.iter().filter(|event| event.version > after).cloned().collect();
                prop_assert_eq!(behind, expected);
                prop_assert_eq!(changes.bytes(), changes.iter().map(|packed| packed.bytes()).sum::<usize>());
            }
        }
    }
}
