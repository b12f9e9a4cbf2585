//! Bytes of a key or of a string. Short ones are where they are looked for: without an allocation of their own, and without
//! another part of memory to wait for.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Bytes of the longest one that is short: with it, one takes three words, and a [`Value`](super::Value) no more.
const SHORT_BYTES_MAX: usize = 22;

/// Bytes from which on one is changed in place, and handed on without being copied.
const LARGE_BYTES: usize = 4 << 10;

/// See the module. A copy of one that is not short shares its bytes.
#[derive(Clone)]
pub struct ByteString(Held);

#[derive(Clone)]
enum Held {
    Short { len: u8, bytes: [u8; SHORT_BYTES_MAX] },
    Long(Arc<[u8]>),
    Large(Box<Bytes>),
}

impl ByteString {
    /// On their own, as they are sent to somebody.
    pub fn to_bytes(&self) -> Bytes {
        match self.shared() {
            Some(bytes) => bytes.clone(),
            None => Bytes::copy_from_slice(self),
        }
    }

    /// Those of a large one, which need not be copied.
    pub fn shared(&self) -> Option<&Bytes> {
        match &self.0 {
            Held::Short { .. } | Held::Long(_) => None,
            Held::Large(bytes) => Some(bytes),
        }
    }

    /// Bytes in memory beside its three words.
    pub fn allocated(&self) -> usize {
        Self::allocated_for(self.len())
    }

    /// Those of one with so many bytes.
    pub fn allocated_for(len: usize) -> usize {
        match len {
            0..=SHORT_BYTES_MAX => 0,
            // Two counts.
            len if len < LARGE_BYTES => len + 16,
            _ => len + size_of::<Bytes>(),
        }
    }

    /// Changes them: large ones in place, unless somebody else has them too.
    pub fn edit(&mut self, change: impl FnOnce(&mut BytesMut)) {
        let mut bytes = match std::mem::take(self).0 {
            Held::Large(bytes) => bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])),
            held => BytesMut::from(&Self(held)[..]),
        };
        change(&mut bytes);
        *self = bytes.freeze().into();
    }
}

impl Default for ByteString {
    fn default() -> Self {
        Self(Held::Short { len: 0, bytes: [0; SHORT_BYTES_MAX] })
    }
}

impl Deref for ByteString {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Short { len, bytes } => &bytes[..usize::from(*len).min(SHORT_BYTES_MAX)],
            Held::Long(bytes) => bytes,
            Held::Large(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for ByteString {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl From<&[u8]> for ByteString {
    fn from(slice: &[u8]) -> Self {
        let mut bytes = [0; SHORT_BYTES_MAX];
        match (u8::try_from(slice.len()), bytes.get_mut(..slice.len())) {
            (Ok(len), Some(place)) => {
                place.copy_from_slice(slice);
                Self(Held::Short { len, bytes })
            }
            _ if slice.len() < LARGE_BYTES => Self(Held::Long(slice.into())),
            _ => Self(Held::Large(Box::new(Bytes::copy_from_slice(slice)))),
        }
    }
}

/// Large ones are shared: what is still a part of the message that it came in is to be copied first.
impl From<Bytes> for ByteString {
    fn from(bytes: Bytes) -> Self {
        if bytes.len() < LARGE_BYTES { Self::from(&bytes[..]) } else { Self(Held::Large(Box::new(bytes))) }
    }
}

impl From<Vec<u8>> for ByteString {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl PartialEq for ByteString {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for ByteString {}

impl PartialOrd for ByteString {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByteString {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(other)
    }
}

impl Hash for ByteString {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for ByteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Bytes::copy_from_slice(self), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Entry, Value};

    #[test]
    fn it_is_what_it_was_made_of_and_small() {
        assert_eq!((size_of::<ByteString>(), size_of::<Value>(), size_of::<Entry>()), (24, 24, 48));
        for len in (0..64).chain([LARGE_BYTES - 5, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES * 2]) {
            let bytes: Vec<u8> = (0..len).map(|place| place as u8).collect();
            let mut string = ByteString::from(&bytes[..]);
            assert_eq!((&string[..], string.to_bytes()), (&bytes[..], Bytes::from(bytes.clone())));
            assert_eq!(string, ByteString::from(bytes.clone()));
            assert_eq!(string.shared().is_some(), bytes.len() >= LARGE_BYTES);
            assert_eq!(string.allocated() == 0, bytes.len() <= SHORT_BYTES_MAX);
            string.edit(|held| held.extend_from_slice(b"more"));
            assert_eq!(string[..], [&bytes[..], b"more"].concat());
            string.edit(|held| held.truncate(1));
            assert_eq!(string[..], bytes.iter().copied().chain(*b"more").take(1).collect::<Vec<_>>());
        }
    }
}
