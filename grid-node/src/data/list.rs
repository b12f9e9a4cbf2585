//! Lists: elements in chunks, so that both ends are near, the middle is not far, and a snapshot shares what is not
//! written to.

use std::collections::VecDeque;
use std::sync::Arc;

use super::dict::Blob;
use super::{ELEMENT_OVERHEAD_BYTES, Encodings, Value};

/// Elements of a chunk, at most.
const CHUNK_ELEMENTS: usize = 128;

/// Bytes that a list of the default size may have and still be a `listpack`.
const LISTPACK_BYTES: usize = 8 << 10;

type Chunk = VecDeque<Blob>;

/// A list.
#[derive(Clone, Debug, Default)]
pub struct List {
    chunks: VecDeque<Arc<Chunk>>,
    len: usize,
    bytes: usize,
}

impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl List {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// As OBJECT ENCODING calls it: by the size that it has now.
    pub fn encoding(&self, encodings: &Encodings) -> &'static str {
        let limit = encodings.list_max_listpack_size;
        let payload = self.bytes - self.len * ELEMENT_OVERHEAD_BYTES + self.len * 2;
        let is_small = match usize::try_from(limit) {
            Ok(elements) => self.len <= elements,
            // -1 = 4 KiB, -2 = 8 KiB … -5 = 64 KiB.
            Err(_negative) => payload <= (LISTPACK_BYTES / 4) << limit.unsigned_abs().min(5),
        };
        if is_small { "listpack" } else { "quicklist" }
    }

    /// Adds an element at the front.
    pub fn push_front(&mut self, element: Blob) {
        self.added(&element);
        match self.chunks.front_mut() {
            Some(chunk) if chunk.len() < CHUNK_ELEMENTS => Arc::make_mut(chunk).push_front(element),
            _ => self.chunks.push_front(Arc::new(Chunk::from([element]))),
        }
    }

    /// Adds an element at the back.
    pub fn push_back(&mut self, element: Blob) {
        self.added(&element);
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK_ELEMENTS => Arc::make_mut(chunk).push_back(element),
            _ => self.chunks.push_back(Arc::new(Chunk::from([element]))),
        }
    }

    /// Takes the first element.
    pub fn pop_front(&mut self) -> Option<Blob> {
        let chunk = Arc::make_mut(self.chunks.front_mut()?);
        let element = chunk.pop_front()?;
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        self.removed(&element);
        Some(element)
    }

    /// Takes the last element.
    pub fn pop_back(&mut self) -> Option<Blob> {
        let chunk = Arc::make_mut(self.chunks.back_mut()?);
        let element = chunk.pop_back()?;
        if chunk.is_empty() {
            self.chunks.pop_back();
        }
        self.removed(&element);
        Some(element)
    }

    fn added(&mut self, element: &Blob) {
        self.len += 1;
        self.bytes += element.len() + ELEMENT_OVERHEAD_BYTES;
    }

    fn removed(&mut self, element: &Blob) {
        self.len -= 1;
        self.bytes -= element.len() + ELEMENT_OVERHEAD_BYTES;
    }

    /// The chunk in which an index lies, and the place in it.
    fn place(&self, index: usize) -> Option<(usize, usize)> {
        if index >= self.len {
            return None;
        }
        if index < self.len / 2 {
            let mut rest = index;
            for (at, chunk) in self.chunks.iter().enumerate() {
                if rest < chunk.len() {
                    return Some((at, rest));
                }
                rest -= chunk.len();
            }
        } else {
            let mut end = self.len;
            for (at, chunk) in self.chunks.iter().enumerate().rev() {
                let begin = end - chunk.len();
                if index >= begin {
                    return Some((at, index - begin));
                }
                end = begin;
            }
        }
        None
    }

    /// The element at an index.
    pub fn get(&self, index: usize) -> Option<&Blob> {
        let (chunk, place) = self.place(index)?;
        self.chunks[chunk].get(place)
    }

    /// Replaces the element at an index. False if there is none.
    pub fn set(&mut self, index: usize, element: Blob) -> bool {
        let Some((chunk, place)) = self.place(index) else { return false };
        self.added(&element);
        let before = std::mem::replace(&mut Arc::make_mut(&mut self.chunks[chunk])[place], element);
        self.removed(&before);
        true
    }

    /// Puts an element before the one at an index, or at the end.
    pub fn insert(&mut self, index: usize, element: Blob) {
        let Some((at, place)) = self.place(index) else { return self.push_back(element) };
        self.added(&element);
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        chunk.insert(place, element);
        if chunk.len() > CHUNK_ELEMENTS {
            let second = chunk.split_off(CHUNK_ELEMENTS / 2);
            self.chunks.insert(at + 1, Arc::new(second));
        }
    }

    /// Removes the element at an index.
    pub fn remove(&mut self, index: usize) -> Option<Blob> {
        let (at, place) = self.place(index)?;
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        let element = chunk.remove(place)?;
        if chunk.is_empty() {
            self.chunks.remove(at);
        }
        self.removed(&element);
        Some(element)
    }

    /// Elements from an index on.
    pub fn iter_from(&self, index: usize) -> impl Iterator<Item = &Blob> {
        let (chunk, place) = self.place(index).unwrap_or((self.chunks.len(), 0));
        self.chunks.iter().skip(chunk).flat_map(|chunk| chunk.iter()).skip(place)
    }

    /// All elements; from both ends.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Blob> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }
}

impl From<List> for Value {
    fn from(list: List) -> Self {
        Self::List(Arc::new(list))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sequence(operations in proptest::collection::vec((0..7_u8, any::<u16>()), 1..1500)) {
            let mut list = List::default();
            let mut model: Vec<Blob> = Vec::new();
            for (kind, number) in operations {
                let element: Blob = number.to_string().into_bytes().into();
                let index = usize::from(number) % (model.len() + 1);
                match kind {
                    0 => { list.push_front(element.clone()); model.insert(0, element); }
                    1 | 2 => { list.push_back(element.clone()); model.push(element); }
                    3 => { list.insert(index, element.clone()); model.insert(index, element); }
                    4 => prop_assert_eq!(list.remove(index), (index < model.len()).then(|| model.remove(index))),
                    5 => prop_assert_eq!(list.pop_back(), model.pop()),
                    _ => {
                        let there = index < model.len();
                        prop_assert_eq!(list.set(index, element.clone()), there);
                        if there { model[index] = element; }
                    }
                }
                prop_assert_eq!(list.get(index), model.get(index));
                prop_assert_eq!(list.len(), model.len());
            }
            prop_assert!(list.iter().eq(model.iter()));
            let middle = model.len() / 2;
            prop_assert!(list.iter_from(middle).eq(model[middle..].iter()));
            prop_assert!(list.iter().rev().eq(model.iter().rev()));
            let bytes: usize = model.iter().map(|element| element.len() + ELEMENT_OVERHEAD_BYTES).sum();
            prop_assert_eq!(list.bytes(), bytes);
        }
    }
}
