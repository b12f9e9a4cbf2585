//! Keys in a snapshot: large values are cut into several items, so that no chunk is much larger than it should be.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use trimaran_proto::state::grid::item::Kind;
use trimaran_proto::state::grid::{self, Element, Item, LibraryFunction, StreamState};
use trimaran_replication::error::Stop;

use crate::data::access::Access;
use crate::data::dict::Blob;
use crate::data::hash::Hash;
use crate::data::library::{Libraries, Library, Registered};
use crate::data::list::List;
use crate::data::set::Set;
use crate::data::sorted_set::SortedSet;
use crate::data::stream::Stream;
use crate::data::{ByteString, Entry, Keys, Value};

/// About how many bytes of elements go into one item.
const ITEM_BYTES: usize = 512 << 10;

/// About how many bytes an item takes.
pub(super) fn size(item: &Item) -> usize {
    let elements: usize = item.elements.iter().map(element_size).sum();
    item.key.len() + item.value.len() + elements + 32
}

fn element_size(element: &Element) -> usize {
    let words: usize = element.words.iter().map(|word| word.len() + 4).sum();
    element.name.len() + element.value.len() + words + 16
}

/// Libraries of functions, for the head of a snapshot.
pub(super) fn libraries(libraries: &Libraries) -> Vec<grid::Library> {
    let function = |(name, registered): (&String, &Registered)| LibraryFunction {
        name: name.clone(),
        description: registered.description.clone(),
        flags: registered.flags.clone(),
    };
    let library = |(name, library): (&str, &Library)| grid::Library {
        name: name.to_owned(),
        code: library.code.clone(),
        functions: library.functions.iter().map(function).collect(),
    };
    libraries.iter().map(library).collect()
}

/// The same back.
pub(super) fn restore_libraries(saved: &[grid::Library]) -> Libraries {
    let mut libraries = Libraries::default();
    for library in saved {
        let function = |function: &LibraryFunction| {
            let (description, flags) = (function.description.clone(), function.flags.clone());
            (function.name.clone(), Registered { description, flags })
        };
        let functions = library.functions.iter().map(function).collect();
        // A copy of its own: it would keep the whole chunk in memory else.
        let code = Bytes::copy_from_slice(&library.code);
        // They had no function in common when they were saved.
        let _taken = libraries.insert(&library.name, Library { code, functions });
    }
    libraries
}

fn bytes(blob: &Blob) -> Bytes {
    Bytes::copy_from_slice(blob)
}

fn named(name: &Blob) -> Element {
    Element { name: bytes(name), ..Element::default() }
}

/// A key and its value, in as many items as it takes.
pub(super) fn items(key: &[u8], entry: &Entry) -> Vec<Item> {
    let first = |kind: Kind, layout: u32| Item {
        key: Bytes::copy_from_slice(key),
        version: entry.version,
        expires_at_ms: entry.expires_at_ms,
        kind: kind.into(),
        layout,
        ..Item::default()
    };
    match &entry.value {
        Value::String(value) => vec![Item { value: value.to_bytes(), ..first(Kind::String, 0) }],
        Value::List(list) => cut(first(Kind::List, 0), list.iter().map(named)),
        Value::Hash(hash) => {
            let fields = hash.iter().map(|(field, value)| Element {
                value: bytes(value),
                expires_at_ms: hash.end(field),
                ..named(field)
            });
            cut(first(Kind::Hash, hash.layout()), fields)
        }
        Value::Set(set) => cut(first(Kind::Set, set.layout()), set.iter().map(|member| named(&member))),
        Value::SortedSet(set) => {
            let members = set.iter().map(|(score, member)| Element { score: *score, ..named(member) });
            cut(first(Kind::SortedSet, set.layout()), members)
        }
        Value::Stream(stream) => {
            let state = Bytes::from(stream.state().encode_to_vec());
            let entries = stream.iter_chunks().map(|(begins, entry)| Element {
                begins,
                id: Some(entry.id.into()),
                words: entry.words.iter().map(bytes).collect(),
                ..Element::default()
            });
            cut(Item { value: state, ..first(Kind::Stream, 0) }, entries)
        }
    }
}

fn cut(first: Item, elements: impl Iterator<Item = Element>) -> Vec<Item> {
    let mut items = vec![first];
    let mut bytes = 0;
    for element in elements {
        let size = element_size(&element);
        // An element that is large itself has an item of its own.
        if bytes > 0
            && bytes + size > ITEM_BYTES
            && let Some(full) = items.last_mut()
        {
            full.goes_on = true;
            // The first has what is not an element.
            let next = Item { elements: Vec::new(), goes_on: false, value: Bytes::new(), ..full.clone() };
            items.push(next);
            bytes = 0;
        }
        bytes += size;
        if let Some(item) = items.last_mut() {
            item.elements.push(element);
        }
    }
    items
}

/// Puts items back as the values that they were cut from.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// A value of which more is to come.
    open: Option<Value>,
}

impl Restored {
    pub(super) fn take(&mut self, item: Item, keys: &mut Keys) -> Result<(), Stop> {
        let goes_on = item.goes_on;
        let (version, expires_at_ms) = (item.version, item.expires_at_ms);
        let key = item.key.clone();
        let value = more(self.open.take(), item)?;
        if goes_on {
            self.open = Some(value);
        } else {
            keys.restore(&key, Entry { value, version, expires_at_ms, access: Access::default() });
        }
        Ok(())
    }
}

fn more(open: Option<Value>, item: Item) -> Result<Value, Stop> {
    let unknown = || Stop::new("a value in a snapshot that this release does not know");
    let kind = Kind::try_from(item.kind).map_err(|_newer| unknown())?;
    let mut value = match (open, kind) {
        (Some(open), _) => open,
        // A value of its own: it would keep the whole chunk in memory else.
        (None, Kind::String) => return Ok(Value::String(ByteString::from(&item.value[..]))),
        (None, Kind::List) => List::default().into(),
        (None, Kind::Hash) => Hash::with_layout(item.layout).into(),
        (None, Kind::Set) => Set::with_layout(item.layout).into(),
        (None, Kind::SortedSet) => SortedSet::with_layout(item.layout).into(),
        (None, Kind::Stream) => {
            let state = StreamState::decode(item.value).map_err(|_newer| unknown())?;
            Stream::with_state(state).into()
        }
    };
    for element in item.elements {
        let name = &element.name[..];
        match &mut value {
            Value::String(_) => return Err(unknown()),
            Value::List(list) => Arc::make_mut(list).push_back(name.into()),
            Value::Hash(hash) => {
                let hash = Arc::make_mut(hash);
                hash.put(name, (*element.value).into());
                hash.set_end(name, element.expires_at_ms);
            }
            Value::Set(set) => Arc::make_mut(set).put(name),
            Value::SortedSet(set) => Arc::make_mut(set).put(element.score, name.into()),
            Value::Stream(stream) => {
                let words = element.words.iter().map(|word| (**word).into()).collect();
                Arc::make_mut(stream).restore(element.id.unwrap_or_default().into(), words, element.begins);
            }
        }
    }
    Ok(value)
}
