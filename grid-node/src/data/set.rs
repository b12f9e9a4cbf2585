//! Sets: members, each once.

use std::sync::Arc;

use super::dict::{Blob, Dict};
use super::{ELEMENT_OVERHEAD_BYTES, Encodings, Value};

/// Bytes of an element of an `intset`.
const INTEGER_BYTES: usize = 8;

/// A set.
#[derive(Clone, Debug)]
pub struct Set {
    members: Members,
    bytes: usize,
}

#[derive(Clone, Debug)]
enum Members {
    /// Integers only, in their order.
    Intset(Vec<i64>),
    /// Few and short ones, in the order in which they came.
    Listpack(Vec<Blob>),
    /// The others.
    Table(Dict<()>),
}

impl Default for Set {
    fn default() -> Self {
        Self { members: Members::Intset(Vec::new()), bytes: 0 }
    }
}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

/// The integer that bytes say in the one way in which Redis writes it.
pub fn canonical_integer(bytes: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    (itoa::Buffer::new().format(number).as_bytes() == bytes).then_some(number)
}

fn blob(number: i64) -> Blob {
    itoa::Buffer::new().format(number).as_bytes().into()
}

impl Set {
    /// One that is laid out as a snapshot says: 0 = integers, 1 = a list, else two more than the bits of the table.
    pub fn with_layout(layout: u32) -> Self {
        let members = match layout {
            0 => Members::Intset(Vec::new()),
            1 => Members::Listpack(Vec::new()),
            more => Members::Table(Dict::with_bits(more - 2)),
        };
        Self { members, bytes: 0 }
    }

    /// See [`Set::with_layout`].
    pub fn layout(&self) -> u32 {
        match &self.members {
            Members::Intset(_) => 0,
            Members::Listpack(_) => 1,
            Members::Table(table) => table.bits() + 2,
        }
    }

    /// Members.
    pub fn len(&self) -> usize {
        match &self.members {
            Members::Intset(numbers) => numbers.len(),
            Members::Listpack(list) => list.len(),
            Members::Table(table) => table.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// As OBJECT ENCODING calls it.
    pub fn encoding(&self) -> &'static str {
        match &self.members {
            Members::Intset(_) => "intset",
            Members::Listpack(_) => "listpack",
            Members::Table(_) => "hashtable",
        }
    }

    /// True if it is one.
    pub fn contains(&self, member: &[u8]) -> bool {
        match &self.members {
            Members::Intset(numbers) => {
                canonical_integer(member).is_some_and(|number| numbers.binary_search(&number).is_ok())
            }
            Members::Listpack(list) => list.iter().any(|held| **held == *member),
            Members::Table(table) => table.get(member).is_some(),
        }
    }

    /// Adds a member; true if it is new.
    pub fn insert(&mut self, member: &[u8], encodings: &Encodings) -> bool {
        if self.contains(member) {
            return false;
        }
        match &self.members {
            Members::Intset(numbers) => {
                let fits = numbers.len() < encodings.set_max_intset_entries;
                if canonical_integer(member).is_none() || !fits {
                    let is_small = numbers.len() < encodings.set_max_listpack_entries
                        && member.len() <= encodings.set_max_listpack_value
                        // Of digits and a sign there are twenty at most.
                        && (encodings.set_max_listpack_value >= 20
                            || numbers.iter().all(|number| blob(*number).len() <= encodings.set_max_listpack_value));
                    self.lay_out(is_small);
                }
            }
            Members::Listpack(list) => {
                if list.len() >= encodings.set_max_listpack_entries
                    || member.len() > encodings.set_max_listpack_value
                {
                    self.lay_out(false);
                }
            }
            Members::Table(_) => {}
        }
        self.put(member);
        true
    }

    /// Adds a new member, however it is laid out.
    pub fn put(&mut self, member: &[u8]) {
        match &mut self.members {
            Members::Intset(numbers) => {
                if let Some(number) = canonical_integer(member)
                    && let Err(place) = numbers.binary_search(&number)
                {
                    numbers.insert(place, number);
                    self.bytes += INTEGER_BYTES;
                }
                return;
            }
            Members::Listpack(list) => list.push(member.into()),
            Members::Table(table) => {
                table.insert(member.into(), ());
            }
        }
        self.bytes += member.len() + ELEMENT_OVERHEAD_BYTES;
    }

    fn lay_out(&mut self, as_list: bool) {
        let members: Vec<Blob> = self.iter().collect();
        self.members = if as_list { Members::Listpack(Vec::new()) } else { Members::Table(Dict::default()) };
        self.bytes = 0;
        for member in members {
            self.put(&member);
        }
    }

    /// Removes a member; true if it was one.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        let found = match &mut self.members {
            Members::Intset(numbers) => {
                let place = canonical_integer(member).and_then(|number| numbers.binary_search(&number).ok());
                if let Some(place) = place {
                    numbers.remove(place);
                    self.bytes -= INTEGER_BYTES;
                }
                return place.is_some();
            }
            Members::Listpack(list) => match list.iter().position(|held| **held == *member) {
                Some(place) => {
                    list.remove(place);
                    true
                }
                None => false,
            },
            Members::Table(table) => table.remove(member).is_some(),
        };
        if found {
            self.bytes -= member.len() + ELEMENT_OVERHEAD_BYTES;
        }
        found
    }

    /// All members, in their order.
    pub fn iter(&self) -> impl Iterator<Item = Blob> {
        let (numbers, list, table) = match &self.members {
            Members::Intset(numbers) => (Some(numbers), None, None),
            Members::Listpack(list) => (None, Some(list), None),
            Members::Table(table) => (None, None, Some(table)),
        };
        let numbers = numbers.into_iter().flatten().map(|number| blob(*number));
        let list = list.into_iter().flatten().cloned();
        let table = table.into_iter().flat_map(|table| table.iter().map(|(name, ())| name.clone()));
        numbers.chain(list).chain(table)
    }

    /// The member at a place in that order.
    pub fn at(&self, place: usize) -> Option<Blob> {
        match &self.members {
            Members::Intset(numbers) => numbers.get(place).map(|number| blob(*number)),
            Members::Listpack(list) => list.get(place).cloned(),
            Members::Table(table) => table.at(place).map(|(name, ())| name.clone()),
        }
    }

    /// A page of a scan, see [`Dict::scan`]; a small set is one page.
    pub fn scan(&self, cursor: u64, count: usize) -> (Vec<Blob>, u64) {
        match &self.members {
            Members::Table(table) => {
                let (found, next) = table.scan(cursor, count);
                (found.into_iter().map(|(name, ())| name.clone()).collect(), next)
            }
            Members::Intset(_) | Members::Listpack(_) => (self.iter().collect(), 0),
        }
    }
}

impl From<Set> for Value {
    fn from(set: Set) -> Self {
        Self::Set(Arc::new(set))
    }
}
