//! Items: what tables hold. Attribute values of DynamoDB's ten types, their sizes and their stored form.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::error::Invalid;
use crate::number::Number;

/// Attributes by name.
pub type Item = BTreeMap<String, Value>;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    S(String),
    /// An exact decimal number.
    N(Number),
    /// Bytes.
    B(Bytes),
    /// Truth.
    Bool(bool),
    /// Nothing, which is something.
    Null,
    /// Values in order.
    L(Vec<Value>),
    /// Values by name.
    M(Item),
    /// A set of texts; never empty.
    Ss(BTreeSet<String>),
    /// A set of numbers; never empty.
    Ns(BTreeSet<Number>),
    /// A set of byte strings; never empty.
    Bs(BTreeSet<Bytes>),
}

/// The types of values, named as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// Text.
    S,
    /// Number.
    N,
    /// Bytes.
    B,
    /// Truth.
    Bool,
    /// Nothing.
    Null,
    /// List.
    L,
    /// Map.
    M,
    /// Set of texts.
    Ss,
    /// Set of numbers.
    Ns,
    /// Set of byte strings.
    Bs,
}

const TYPES: [(Type, &str); 10] = [
    (Type::S, "S"),
    (Type::N, "N"),
    (Type::B, "B"),
    (Type::Bool, "BOOL"),
    (Type::Null, "NULL"),
    (Type::L, "L"),
    (Type::M, "M"),
    (Type::Ss, "SS"),
    (Type::Ns, "NS"),
    (Type::Bs, "BS"),
];

impl Type {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|(candidate, _)| *candidate == self).map_or("", |(_, name)| name)
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        TYPES.iter().find(|(_, candidate)| *candidate == name).map(|(found, _)| *found)
    }

    /// Its number in stored bytes. Fixed for ever.
    pub(crate) fn tag(self) -> u8 {
        match self {
            Self::S => 1,
            Self::N => 2,
            Self::B => 3,
            Self::Bool => 4,
            Self::Null => 5,
            Self::L => 6,
            Self::M => 7,
            Self::Ss => 8,
            Self::Ns => 9,
            Self::Bs => 10,
        }
    }

    pub(crate) fn from_tag(tag: u8) -> Option<Self> {
        TYPES.iter().map(|(candidate, _)| *candidate).find(|candidate| candidate.tag() == tag)
    }
}

impl Value {
    /// Which of the types it has.
    pub fn kind(&self) -> Type {
        match self {
            Self::S(_) => Type::S,
            Self::N(_) => Type::N,
            Self::B(_) => Type::B,
            Self::Bool(_) => Type::Bool,
            Self::Null => Type::Null,
            Self::L(_) => Type::L,
            Self::M(_) => Type::M,
            Self::Ss(_) => Type::Ss,
            Self::Ns(_) => Type::Ns,
            Self::Bs(_) => Type::Bs,
        }
    }

    /// Bytes that it counts for, as DynamoDB reckons ("Item sizes and formats").
    pub fn size(&self) -> usize {
        match self {
            Self::S(text) => text.len(),
            Self::N(number) => number_size(*number),
            Self::B(bytes) => bytes.len(),
            Self::Bool(_) | Self::Null => 1,
            Self::L(values) => 3 + values.iter().map(|value| 1 + value.size()).sum::<usize>(),
            Self::M(map) => 3 + map.iter().map(|(name, value)| 1 + name.len() + value.size()).sum::<usize>(),
            Self::Ss(texts) => texts.iter().map(String::len).sum(),
            Self::Ns(numbers) => numbers.iter().map(|&number| number_size(number)).sum(),
            Self::Bs(set) => set.iter().map(Bytes::len).sum(),
        }
    }

    /// How deep lists and maps are nested in it; 0 for a value that is neither.
    pub fn depth(&self) -> usize {
        match self {
            Self::L(values) => 1 + values.iter().map(Self::depth).max().unwrap_or(0),
            Self::M(map) => 1 + map.values().map(Self::depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Appends its stored form: a tag, then lengths and contents. Fixed for ever.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.kind().tag());
        match self {
            Self::S(text) => put_bytes(out, text.as_bytes()),
            Self::N(number) => number.encode(out),
            Self::B(bytes) => put_bytes(out, bytes),
            Self::Bool(truth) => out.put_u8(u8::from(*truth)),
            Self::Null => {}
            Self::L(values) => {
                put_length(out, values.len());
                values.iter().for_each(|value| value.encode(out));
            }
            Self::M(map) => encode_item(map, out),
            Self::Ss(texts) => {
                put_length(out, texts.len());
                texts.iter().for_each(|text| put_bytes(out, text.as_bytes()));
            }
            Self::Ns(numbers) => {
                put_length(out, numbers.len());
                numbers.iter().for_each(|number| number.encode(out));
            }
            Self::Bs(set) => {
                put_length(out, set.len());
                set.iter().for_each(|bytes| put_bytes(out, bytes));
            }
        }
    }

    /// Takes a stored value from the front of `bytes`.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, Malformed> {
        let kind = Type::from_tag(take_u8(bytes)?).ok_or(Malformed("a value of an unknown type"))?;
        Ok(match kind {
            Type::S => Self::S(take_text(bytes)?),
            Type::N => Self::N(take_number(bytes)?),
            Type::B => Self::B(take_bytes(bytes)?),
            Type::Bool => Self::Bool(take_u8(bytes)? != 0),
            Type::Null => Self::Null,
            Type::L => {
                let count = take_length(bytes)?;
                Self::L((0..count).map(|_| Self::decode(bytes)).collect::<Result<_, _>>()?)
            }
            Type::M => Self::M(decode_item(bytes)?),
            Type::Ss => {
                let count = take_length(bytes)?;
                Self::Ss((0..count).map(|_| take_text(bytes)).collect::<Result<_, _>>()?)
            }
            Type::Ns => {
                let count = take_length(bytes)?;
                Self::Ns((0..count).map(|_| take_number(bytes)).collect::<Result<_, _>>()?)
            }
            Type::Bs => {
                let count = take_length(bytes)?;
                Self::Bs((0..count).map(|_| take_bytes(bytes)).collect::<Result<_, _>>()?)
            }
        })
    }
}

/// A set of these values, as requests give them: not empty, none twice. `kind` is what DynamoDB calls it.
pub fn set<T: Ord + std::fmt::Display>(kind: &str, values: Vec<T>) -> Result<BTreeSet<T>, Invalid> {
    let invalid =
        |what: String| Err(Invalid::new(format!("One or more parameter values were invalid: {what}")));
    if values.is_empty() {
        return invalid(format!("An {kind} set  may not be empty"));
    }
    let count = values.len();
    let shown = || values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let all = if count <= SHOWN_MAX { shown() } else { format!("{count} values") };
    let set: BTreeSet<T> = values.into_iter().collect();
    if set.len() < count {
        return invalid(format!("Input collection [{all}] contains duplicates."));
    }
    Ok(set)
}

/// Values of a set that are shown in a refusal.
const SHOWN_MAX: usize = 32;

/// Two digits a byte, and one for the exponent; one more for a sign.
fn number_size(number: Number) -> usize {
    number.digits().div_ceil(2) as usize + 1 + usize::from(number < Number::ZERO)
}

/// Bytes that an item counts for: names and values.
pub fn size(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value.size()).sum()
}

/// Appends the stored form of an item.
pub fn encode_item(item: &Item, out: &mut BytesMut) {
    put_length(out, item.len());
    for (name, value) in item {
        put_bytes(out, name.as_bytes());
        value.encode(out);
    }
}

/// Takes a stored item from the front of `bytes`.
pub fn decode_item(bytes: &mut Bytes) -> Result<Item, Malformed> {
    let count = take_length(bytes)?;
    (0..count).map(|_| Ok((take_text(bytes)?, Value::decode(bytes)?))).collect()
}

/// Stored bytes that are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored bytes are malformed: {0}")]
pub struct Malformed(pub(crate) &'static str);

pub(crate) fn put_length(out: &mut BytesMut, mut length: usize) {
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.put_slice(bytes);
}

pub(crate) fn take_u8(bytes: &mut Bytes) -> Result<u8, Malformed> {
    bytes.try_get_u8().map_err(|_short| Malformed("it ends too early"))
}

pub(crate) fn take_length(bytes: &mut Bytes) -> Result<usize, Malformed> {
    let mut length = 0_usize;
    for shift in (0..35).step_by(7) {
        let byte = take_u8(bytes)?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(length);
        }
    }
    Err(Malformed("a length that has no end"))
}

pub(crate) fn take_bytes(bytes: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = take_length(bytes)?;
    if length > bytes.len() {
        return Err(Malformed("it ends too early"));
    }
    Ok(bytes.split_to(length))
}

pub(crate) fn take_text(bytes: &mut Bytes) -> Result<String, Malformed> {
    let text = take_bytes(bytes)?;
    String::from_utf8(text.into()).map_err(|_bad| Malformed("a text that is not UTF-8"))
}

fn take_number(bytes: &mut Bytes) -> Result<Number, Malformed> {
    let (number, used) = Number::decode(bytes).ok_or(Malformed("a number"))?;
    bytes.advance(used);
    Ok(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        let number =
            (any::<i64>(), -20..20_i32).prop_map(|(m, e)| format!("{m}e{e}").parse::<Number>().unwrap());
        let bytes = prop::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from);
        let leaf = prop_oneof![
            "[a-zäλ]{0,8}".prop_map(Value::S),
            number.clone().prop_map(Value::N),
            bytes.clone().prop_map(Value::B),
            any::<bool>().prop_map(Value::Bool),
            Just(Value::Null),
            prop::collection::btree_set("[a-z]{0,5}", 1..4).prop_map(Value::Ss),
            prop::collection::btree_set(number, 1..4).prop_map(Value::Ns),
            prop::collection::btree_set(bytes, 1..4).prop_map(Value::Bs),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::L),
                prop::collection::btree_map("[a-z]{0,4}", inner, 0..5).prop_map(Value::M),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_stored_value_comes_back_and_a_cut_one_does_not(value in any_value()) {
            let mut out = BytesMut::new();
            value.encode(&mut out);
            let stored = out.freeze();
            let mut rest = stored.clone();
            prop_assert_eq!(Value::decode(&mut rest), Ok(value));
            prop_assert!(rest.is_empty());
            for end in 0..stored.len() {
                prop_assert!(Value::decode(&mut stored.slice(..end)).is_err());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(0..16_u8, 0..64)) {
            let _any = Value::decode(&mut Bytes::from(bytes));
        }
    }

    #[test]
    fn the_stored_form_is_the_one_of_version_1() {
        let mut out = BytesMut::new();
        let item = Item::from([
            ("a".to_owned(), Value::S("x".into())),
            ("b".to_owned(), Value::L(vec![Value::Bool(true), Value::Null])),
        ]);
        encode_item(&item, &mut out);
        assert_eq!(&out[..], [2, 1, b'a', 1, 1, b'x', 1, b'b', 6, 2, 4, 1, 5]);
        assert_eq!(size(&item), 1 + 1 + 1 + 3 + 2 + 2);
    }
}
