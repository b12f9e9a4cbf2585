//! Hashes: values by field, some of which have a time to live.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::dict::{Blob, Dict};
use super::{ELEMENT_OVERHEAD_BYTES, Encodings, Value};

/// A hash.
#[derive(Clone, Debug)]
pub struct Hash {
    fields: Fields,
    /// When fields end: most hashes have none that does.
    ends: Option<Box<Ends>>,
    bytes: usize,
}

/// Milliseconds since 1970, both ways.
#[derive(Clone, Debug, Default, PartialEq)]
struct Ends {
    of_field: BTreeMap<Blob, u64>,
    soonest: BTreeSet<(u64, Blob)>,
}

#[derive(Clone, Debug)]
enum Fields {
    /// Few and short ones, in the order in which they came.
    Listpack(Vec<(Blob, Blob)>),
    /// The others.
    Table(Dict<Blob>),
}

impl Default for Hash {
    fn default() -> Self {
        Self { fields: Fields::Listpack(Vec::new()), ends: None, bytes: 0 }
    }
}

impl PartialEq for Hash {
    fn eq(&self, other: &Self) -> bool {
        self.ends == other.ends && self.iter().eq(other.iter())
    }
}

impl Hash {
    /// One that is laid out as a snapshot says: 0 = as a list, else one more than the bits of the table.
    pub fn with_layout(layout: u32) -> Self {
        match layout.checked_sub(1) {
            None => Self::default(),
            Some(bits) => Self { fields: Fields::Table(Dict::with_bits(bits)), ..Self::default() },
        }
    }

    /// See [`Hash::with_layout`].
    pub fn layout(&self) -> u32 {
        match &self.fields {
            Fields::Listpack(_) => 0,
            Fields::Table(table) => table.bits() + 1,
        }
    }

    /// Fields, those that have ended but are still in memory included.
    pub fn len(&self) -> usize {
        match &self.fields {
            Fields::Listpack(list) => list.len(),
            Fields::Table(table) => table.len(),
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
        match (&self.fields, &self.ends) {
            (Fields::Listpack(_), None) => "listpack",
            (Fields::Listpack(_), Some(_)) => "listpackex",
            (Fields::Table(_), _) => "hashtable",
        }
    }

    /// The value of a field.
    pub fn get(&self, field: &[u8]) -> Option<&Blob> {
        match &self.fields {
            Fields::Listpack(list) => list.iter().find(|(name, _)| **name == *field).map(|(_, value)| value),
            Fields::Table(table) => table.get(field),
        }
    }

    /// Puts a value; true if the field is new. A time to live that it has stays.
    pub fn insert(&mut self, field: &[u8], value: Blob, encodings: &Encodings) -> bool {
        if let Fields::Listpack(list) = &self.fields {
            let is_short = field.len() <= encodings.hash_max_listpack_value
                && value.len() <= encodings.hash_max_listpack_value;
            let is_new = || !list.iter().any(|(name, _)| **name == *field);
            if !is_short || (list.len() >= encodings.hash_max_listpack_entries && is_new()) {
                self.become_table();
            }
        }
        self.put(field, value)
    }

    /// The same, however it is laid out.
    pub fn put(&mut self, field: &[u8], value: Blob) -> bool {
        self.bytes += value.len();
        let before = match &mut self.fields {
            Fields::Listpack(list) => match list.iter_mut().find(|(name, _)| **name == *field) {
                Some((_, held)) => Some(std::mem::replace(held, value)),
                None => {
                    list.push((field.into(), value));
                    None
                }
            },
            Fields::Table(table) => match table.get_mut(field) {
                Some(held) => Some(std::mem::replace(held, value)),
                None => table.insert(field.into(), value),
            },
        };
        match &before {
            Some(before) => self.bytes -= before.len(),
            None => self.bytes += field.len() + 2 * ELEMENT_OVERHEAD_BYTES,
        }
        before.is_none()
    }

    fn become_table(&mut self) {
        if let Fields::Listpack(list) = &mut self.fields {
            let mut table = Dict::default();
            for (name, value) in std::mem::take(list) {
                table.insert(name, value);
            }
            self.fields = Fields::Table(table);
        }
    }

    /// Removes a field and returns its value.
    pub fn remove(&mut self, field: &[u8]) -> Option<Blob> {
        let (_, value) = match &mut self.fields {
            Fields::Listpack(list) => {
                let at = list.iter().position(|(name, _)| **name == *field)?;
                list.remove(at)
            }
            Fields::Table(table) => table.remove(field)?,
        };
        self.bytes -= field.len() + value.len() + 2 * ELEMENT_OVERHEAD_BYTES;
        self.set_end(field, 0);
        Some(value)
    }

    /// Fields and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&Blob, &Blob)> {
        let (list, table) = match &self.fields {
            Fields::Listpack(list) => (Some(list), None),
            Fields::Table(table) => (None, Some(table)),
        };
        let list = list.into_iter().flatten().map(|(name, value)| (name, value));
        list.chain(table.into_iter().flat_map(Dict::iter))
    }

    /// The field at a place in that order.
    pub fn at(&self, place: usize) -> Option<(&Blob, &Blob)> {
        match &self.fields {
            Fields::Listpack(list) => list.get(place).map(|(name, value)| (name, value)),
            Fields::Table(table) => table.at(place),
        }
    }

    /// A page of a scan, see [`Dict::scan`]; a small hash is one page.
    pub fn scan(&self, cursor: u64, count: usize) -> (Vec<(&Blob, &Blob)>, u64) {
        match &self.fields {
            Fields::Listpack(_) => (self.iter().collect(), 0),
            Fields::Table(table) => table.scan(cursor, count),
        }
    }

    /// When a field ends, milliseconds since 1970; 0 = never.
    pub fn end(&self, field: &[u8]) -> u64 {
        self.ends.as_ref().and_then(|ends| ends.of_field.get(field).copied()).unwrap_or(0)
    }

    /// Sets when a field ends; 0 = never.
    pub fn set_end(&mut self, field: &[u8], at_ms: u64) {
        if at_ms == 0 && self.ends.is_none() {
            return;
        }
        let ends = self.ends.get_or_insert_default();
        if let Some((field, before)) = ends.of_field.remove_entry(field) {
            self.bytes -= field.len() + 2 * ELEMENT_OVERHEAD_BYTES;
            ends.soonest.remove(&(before, field));
        }
        if at_ms != 0 {
            let field: Blob = field.into();
            self.bytes += field.len() + 2 * ELEMENT_OVERHEAD_BYTES;
            ends.soonest.insert((at_ms, field.clone()));
            ends.of_field.insert(field, at_ms);
        } else if ends.of_field.is_empty() {
            self.ends = None;
        }
    }

    /// When the next field ends; 0 = none does.
    pub fn next_end(&self) -> u64 {
        self.ends.as_ref().and_then(|ends| ends.soonest.first()).map_or(0, |(at_ms, _)| *at_ms)
    }

    /// True if a field has ended that is still in memory.
    pub fn has_ended(&self, now_ms: u64) -> bool {
        self.next_end() != 0 && self.next_end() <= now_ms
    }

    /// Removes the fields that have ended; true if there were any.
    pub fn reap(&mut self, now_ms: u64) -> bool {
        let mut any = false;
        while self.has_ended(now_ms) {
            let Some((_, field)) = self.ends.as_ref().and_then(|ends| ends.soonest.first()).cloned() else {
                break;
            };
            self.remove(&field);
            any = true;
        }
        any
    }
}

impl From<Hash> for Value {
    fn from(hash: Hash) -> Self {
        Self::Hash(Arc::new(hash))
    }
}
