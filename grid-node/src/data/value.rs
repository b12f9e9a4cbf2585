//! A value of one of the data types.

use std::sync::Arc;

use super::hash::Hash;
use super::list::List;
use super::set::{Set, canonical_integer};
use super::sorted_set::SortedSet;
use super::stream::Stream;
use super::{ByteString, Encodings};

/// Bytes of a string that OBJECT ENCODING calls `embstr`.
const EMBEDDED_BYTES: usize = 44;

/// A value of one of the data types. The large ones are shared with snapshots.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Bytes, or a counter written as decimal digits.
    String(ByteString),
    /// Elements in the order in which they were pushed.
    List(Arc<List>),
    /// Values by field.
    Hash(Arc<Hash>),
    /// Members.
    Set(Arc<Set>),
    /// Members by score.
    SortedSet(Arc<SortedSet>),
    /// Entries in the order in which they were added.
    Stream(Arc<Stream>),
}

/// The key holds a value of another type than the command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongType;

/// A data type that commands change in place.
pub trait Container: Default + Clone + Into<Value> {
    /// The value as one of this type.
    fn of(value: &Value) -> Option<&Self>;

    /// Likewise, to be changed.
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
}

macro_rules! container {
    ($type:ident) => {
        impl Container for $type {
            fn of(value: &Value) -> Option<&Self> {
                match value {
                    Value::$type(held) => Some(held),
                    _ => None,
                }
            }

            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                match value {
                    Value::$type(held) => Some(Arc::make_mut(held)),
                    _ => None,
                }
            }
        }
    };
}

container!(List);
container!(Hash);
container!(Set);
container!(SortedSet);
container!(Stream);

impl Container for ByteString {
    fn of(value: &Value) -> Option<&Self> {
        match value {
            Value::String(held) => Some(held),
            _ => None,
        }
    }

    fn of_mut(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::String(held) => Some(held),
            _ => None,
        }
    }
}

impl From<ByteString> for Value {
    fn from(bytes: ByteString) -> Self {
        Self::String(bytes)
    }
}

impl Value {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::String(bytes) => bytes.allocated(),
            Self::List(list) => list.bytes(),
            Self::Hash(hash) => hash.bytes(),
            Self::Set(set) => set.bytes(),
            Self::SortedSet(set) => set.bytes(),
            Self::Stream(stream) => stream.bytes(),
        }
    }

    /// True for a container with nothing in it, which no key leads to. A string may be empty, and a stream.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::String(_) | Self::Stream(_) => false,
            Self::List(list) => list.is_empty(),
            Self::Hash(hash) => hash.is_empty(),
            Self::Set(set) => set.is_empty(),
            Self::SortedSet(set) => set.is_empty(),
        }
    }

    /// When the next part of it ends, milliseconds since 1970; 0 = none does.
    pub fn next_end(&self) -> u64 {
        match self {
            Self::Hash(hash) => hash.next_end(),
            _ => 0,
        }
    }

    /// As TYPE calls it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::String(_) => "string",
            Self::List(_) => "list",
            Self::Hash(_) => "hash",
            Self::Set(_) => "set",
            Self::SortedSet(_) => "zset",
            Self::Stream(_) => "stream",
        }
    }

    /// As OBJECT ENCODING calls it.
    pub fn encoding(&self, encodings: &Encodings) -> &'static str {
        match self {
            Self::String(bytes) if canonical_integer(bytes).is_some() => "int",
            Self::String(bytes) if bytes.len() <= EMBEDDED_BYTES => "embstr",
            Self::String(_) => "raw",
            Self::List(list) => list.encoding(encodings),
            Self::Hash(hash) => hash.encoding(),
            Self::Set(set) => set.encoding(),
            Self::SortedSet(set) => set.encoding(),
            Self::Stream(_) => "stream",
        }
    }
}
