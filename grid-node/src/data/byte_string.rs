//! Bytes of a key or of a string. Short ones are where they are looked for: without an allocation of their own, and without
//! another part of memory to wait for.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::{Bytes, BytesMut};

/// Bytes of the longest one that is short: with it, one is as large as one that is shared.
const SHORT_BYTES_MAX: usize = 23;

/// See the module. A copy of a long one shares its bytes.
#[derive(Clone)]
pub struct ByteString(Held);

#[derive(Clone)]
enum Held {
    Short { len: u8, bytes: [u8; SHORT_BYTES_MAX] },
    Long(Bytes),
}

impl ByteString {
    /// On their own, as they are sent to somebody.
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Held::Short { .. } => Bytes::copy_from_slice(self),
            Held::Long(bytes) => bytes.clone(),
        }
    }

    /// What is shared already, if it is.
    pub fn shared(&self) -> Option<&Bytes> {
        match &self.0 {
            Held::Short { .. } => None,
            Held::Long(bytes) => Some(bytes),
        }
    }

    /// Changes them: in place, unless they are short or somebody else has them too.
    pub fn edit(&mut self, change: impl FnOnce(&mut BytesMut)) {
        let mut bytes = match std::mem::take(self).0 {
            Held::Short { len, bytes } => BytesMut::from(&bytes[..usize::from(len).min(SHORT_BYTES_MAX)]),
            Held::Long(bytes) => bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])),
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
            _ => Self(Held::Long(Bytes::copy_from_slice(slice))),
        }
    }
}

/// Long ones are shared: what is still a part of the message that it came in is to be copied first.
impl From<Bytes> for ByteString {
    fn from(bytes: Bytes) -> Self {
        if bytes.len() > SHORT_BYTES_MAX { Self(Held::Long(bytes)) } else { Self::from(&bytes[..]) }
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

    #[test]
    fn it_is_what_it_was_made_of_and_no_larger_than_one_that_is_shared() {
        assert_eq!(size_of::<ByteString>(), size_of::<Bytes>());
        for len in 0..64_u8 {
            let bytes: Vec<u8> = (0..len).collect();
            let mut string = ByteString::from(&bytes[..]);
            assert_eq!((&string[..], string.to_bytes()), (&bytes[..], Bytes::from(bytes.clone())));
            assert_eq!(string, ByteString::from(bytes.clone()));
            assert_eq!(string.shared().is_some(), bytes.len() > SHORT_BYTES_MAX);
            string.edit(|held| held.extend_from_slice(b"more"));
            assert_eq!(string[..], [&bytes[..], b"more"].concat());
            string.edit(|held| held.truncate(1));
            assert_eq!(string[..], bytes.iter().copied().chain(*b"more").take(1).collect::<Vec<_>>());
        }
    }
}
