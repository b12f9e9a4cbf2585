//! Keys to bytes that sort as keys do: `table · token · partition key · sort key`. Fixed for ever.
//!
//! Texts and bytes are written with every 0 as 0 255 and end with 0 1, numbers end themselves: so no key is the
//! beginning of another one of its table, and what begins with a prefix stands together.

use bytes::{BufMut as _, Bytes, BytesMut};
use trimaran_placement::token::{self, Token};
use trimaran_storage::engine::{Range, after_prefix};

use crate::error::Invalid;
use crate::expression::{Comparator, SortCondition};
use crate::item::{Item, Type, Value};
use crate::number::Number;
use crate::table::{Index, KeyAttribute, Table};

/// Where an item stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// What decides on its partition.
    pub token: Token,
    /// Its row.
    pub row: Bytes,
}

/// Bytes of the table and the token.
pub const HEAD_BYTES: usize = 16;

/// How the keys of a table, or of one of its indexes, become rows.
#[derive(Clone, Debug)]
pub struct Layout<'a> {
    /// The first eight bytes of its rows, see [`crate::keyspace`].
    pub keyspace: u64,
    /// What tokens are reckoned with: a local index's entries stand where their items do.
    hashed: u64,
    /// What rows are spread by.
    pub partition_key: &'a KeyAttribute,
    /// What rows of one partition key are sorted by.
    pub sort_key: Option<&'a KeyAttribute>,
    /// Of an index: what tells entries of the same key apart.
    rest: Vec<&'a KeyAttribute>,
}

impl<'a> Layout<'a> {
    /// Of the items.
    pub fn of_table(table: &'a Table) -> Self {
        Self {
            keyspace: table.id,
            hashed: table.id,
            partition_key: &table.partition_key,
            sort_key: table.sort_key.as_ref(),
            rest: Vec::new(),
        }
    }

    /// Of the entries of an index.
    pub fn of_index(table: &'a Table, index: &'a Index) -> Self {
        let keyspace = index.keyspace(table.id);
        Self {
            keyspace,
            hashed: if index.local { table.id } else { keyspace },
            partition_key: &index.partition_key,
            sort_key: index.sort_key.as_ref(),
            rest: if index.local {
                table.sort_key.iter().collect()
            } else {
                table.key_attributes().collect()
            },
        }
    }

    /// Every attribute that a row is made of, once.
    pub fn attributes(&self) -> Vec<&'a KeyAttribute> {
        let mut found: Vec<&KeyAttribute> = vec![self.partition_key];
        for attribute in self.sort_key.into_iter().chain(self.rest.iter().copied()) {
            if !found.iter().any(|known| known.name == attribute.name) {
                found.push(attribute);
            }
        }
        found
    }

    /// What the rows of one partition key begin with.
    pub fn prefix(&self, partition: &Value) -> (Token, BytesMut) {
        let mut encoded = BytesMut::new();
        encode(partition, &mut encoded);
        let token = token::shard(self.hashed, &encoded);
        let mut row = head(self.keyspace, token);
        row.put_slice(&encoded);
        (token, row)
    }

    /// The value of the partition key that a row was made of.
    pub fn partition_of(&self, row: &[u8]) -> Option<Value> {
        let encoded = row.get(HEAD_BYTES..)?;
        Some(match self.partition_key.kind {
            Type::N => Value::N(Number::decode(encoded)?.0),
            Type::S => Value::S(String::from_utf8(unescape(encoded)?).ok()?),
            _ => Value::B(unescape(encoded)?.into()),
        })
    }

    /// The row of an item, or of a key, that has been checked; `None` if an attribute is missing or of another type, which
    /// keeps it out of an index.
    pub fn row(&self, key: &Item) -> Option<RowKey> {
        let value = |attribute: &KeyAttribute| {
            key.get(&attribute.name).filter(|value| value.kind() == attribute.kind)
        };
        let (token, mut row) = self.prefix(value(self.partition_key)?);
        for attribute in self.sort_key.into_iter().chain(self.rest.iter().copied()) {
            encode(value(attribute)?, &mut row);
        }
        Some(RowKey { token, row: row.freeze() })
    }
}

/// The row of a key whose attributes have been checked against the table.
pub fn row_key(table: &Table, key: &Item) -> Result<RowKey, Invalid> {
    let mismatch = || Invalid::new("The provided key element does not match the schema");
    Layout::of_table(table).row(key).ok_or_else(mismatch)
}

/// The row of an item of a table that stands where another row does.
pub fn row_at<'v>(table: u64, token: Token, key: impl Iterator<Item = &'v Value>) -> Bytes {
    let mut row = head(table, token);
    key.for_each(|value| encode(value, &mut row));
    row.freeze()
}

/// Table and token.
pub fn head(table: u64, token: Token) -> BytesMut {
    let mut head = BytesMut::with_capacity(64);
    head.put_u64(table);
    head.put_u64(token.0);
    head
}

/// Table and token of a row.
pub fn parse_head(row: &[u8]) -> Option<(u64, Token)> {
    let (table, rest) = row.split_first_chunk::<8>()?;
    let token = rest.first_chunk::<8>()?;
    Some((u64::from_be_bytes(*table), Token(u64::from_be_bytes(*token))))
}

/// The rows of a table with tokens from `first` to `last`, both inclusive.
pub fn token_range(table: u64, first: Token, last: Token) -> Range {
    let end = match last.0.checked_add(1) {
        Some(next) => head(table, Token(next)).freeze(),
        None => Bytes::copy_from_slice(&(table + 1).to_be_bytes()),
    };
    Range::new(head(table, first).freeze(), end)
}

/// The rows of a partition key for whose sort key a condition holds.
pub fn sort_range(prefix: &[u8], condition: Option<&SortCondition>) -> Range {
    let all = Range::prefix(prefix);
    let at = |value: &Value| {
        let mut row = BytesMut::from(prefix);
        encode(value, &mut row);
        row.freeze()
    };
    // Behind everything that has this sort key, which ends itself.
    let behind = |value: &Value| after_prefix(&at(value));
    let (start, end) = (all.start.clone(), all.end.clone());
    match condition {
        None => all,
        Some(SortCondition::Compare(comparator, value)) => match comparator {
            Comparator::Equal | Comparator::NotEqual => Range { start: at(value), end: behind(value) },
            Comparator::Less => Range { start, end: Some(at(value)) },
            Comparator::LessOrEqual => Range { start, end: behind(value) },
            Comparator::Greater => Range { start: behind(value).unwrap_or(start), end },
            Comparator::GreaterOrEqual => Range { start: at(value), end },
        },
        Some(SortCondition::Between(low, high)) => Range { start: at(low), end: behind(high) },
        Some(SortCondition::BeginsWith(beginning)) => {
            let mut row = BytesMut::from(prefix);
            match beginning {
                Value::S(text) => escape(text.as_bytes(), &mut row),
                Value::B(bytes) => escape(bytes, &mut row),
                // Refused where the condition is checked against the table.
                other => encode(other, &mut row),
            }
            Range::prefix(&row)
        }
    }
}

fn encode(value: &Value, out: &mut BytesMut) {
    match value {
        Value::S(text) => {
            escape(text.as_bytes(), out);
            out.put_slice(&END);
        }
        Value::B(bytes) => {
            escape(bytes, out);
            out.put_slice(&END);
        }
        Value::N(number) => number.encode(out),
        // No key attribute has another type; the table's check has refused it.
        other => out.put_u8(other.kind().tag()),
    }
}

fn escape(bytes: &[u8], out: &mut BytesMut) {
    for piece in bytes.split_inclusive(|&byte| byte == 0) {
        out.put_slice(piece);
        if piece.last() == Some(&0) {
            out.put_u8(255);
        }
    }
}

/// What was escaped, up to its end.
fn unescape(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = encoded.iter();
    loop {
        match rest.next()? {
            0 => match rest.next()? {
                255 => bytes.push(0),
                1 => return Some(bytes),
                _ => return None,
            },
            &byte => bytes.push(byte),
        }
    }
}

/// Before everything that may follow a 0.
const END: [u8; 2] = [0, 1];

/// Whether a value may stand for a key attribute in a condition.
pub fn check_type(name: &str, expected: Type, value: &Value) -> Result<(), Invalid> {
    if value.kind() == expected {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "One or more parameter values were invalid: Condition parameter type does not match schema type; key: {name}"
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::expression::evaluate::order;

    fn table(sort_kind: Type) -> Table {
        let partition_key = KeyAttribute { name: "pk".into(), kind: Type::S };
        let sort_key = KeyAttribute { name: "sk".into(), kind: sort_kind };
        Table { id: 7, ..Table::new("t".into(), partition_key, Some(sort_key)) }
    }

    fn row(pk: &str, sk: Value) -> Bytes {
        let key = Item::from([("pk".into(), Value::S(pk.into())), ("sk".into(), sk.clone())]);
        row_key(&table(sk.kind()), &key).unwrap().row
    }

    #[test]
    fn the_encoding_is_the_one_of_version_1() {
        let row = row("a\0b", Value::S("c".into()));
        assert_eq!(parse_head(&row).unwrap().0, 7);
        assert_eq!(parse_head(&row).unwrap().1, token::shard(7, b"a\0\xffb\0\x01"));
        assert_eq!(&row[HEAD_BYTES..], b"a\0\xffb\0\x01c\0\x01");
    }

    fn sort_values() -> impl Strategy<Value = (Value, Value)> {
        let bytes = || prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(2), Just(255)], 1..5);
        let number =
            || (any::<i32>(), -3..3).prop_map(|(m, e)| Value::N(format!("{m}e{e}").parse().unwrap()));
        prop_oneof![
            (bytes(), bytes()).prop_map(|(a, b)| (Value::B(a.into()), Value::B(b.into()))),
            ("[\0-\u{3}a]{1,4}", "[\0-\u{3}a]{1,4}").prop_map(|(a, b)| (Value::S(a), Value::S(b))),
            (number(), number()),
        ]
    }

    proptest! {
        #[test]
        fn the_partition_key_is_read_from_a_row((key, other) in sort_values()) {
            let partition_key = KeyAttribute { name: "pk".into(), kind: key.kind() };
            let sort_key = KeyAttribute { name: "sk".into(), kind: other.kind() };
            let table = Table { id: 7, ..Table::new("t".into(), partition_key, Some(sort_key)) };
            let item = Item::from([("pk".into(), key.clone()), ("sk".into(), other)]);
            let layout = Layout::of_table(&table);
            let row = layout.row(&item).unwrap().row;
            prop_assert_eq!(layout.partition_of(&row), Some(key));
            prop_assert_eq!(layout.partition_of(&row[..HEAD_BYTES]), None);
        }

        #[test]
        fn rows_sort_as_sort_keys_do_and_ranges_hold_what_conditions_say((a, b) in sort_values()) {
            let (row_a, row_b) = (row("p", a.clone()), row("p", b.clone()));
            let expected = order(&a, &b).unwrap();
            prop_assert_eq!(row_a.cmp(&row_b), expected);
            let (_, prefix) = Layout::of_table(&table(a.kind())).prefix(&Value::S("p".into()));
            let within = |condition: SortCondition| {
                let range = sort_range(&prefix, Some(&condition));
                range.start <= row_a && range.end.is_none_or(|end| row_a < end)
            };
            use Comparator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
            for (comparator, holds) in [
                (Equal, expected.is_eq()),
                (Less, expected.is_lt()),
                (LessOrEqual, expected.is_le()),
                (Greater, expected.is_gt()),
                (GreaterOrEqual, expected.is_ge()),
            ] {
                prop_assert_eq!(within(SortCondition::Compare(comparator, b.clone())), holds);
            }
            prop_assert_eq!(within(SortCondition::Between(b.clone(), b.clone())), expected.is_eq());
            let begins = match (&a, &b) {
                (Value::S(a), Value::S(b)) => a.starts_with(b.as_str()),
                (Value::B(a), Value::B(b)) => a.starts_with(b),
                _ => return Ok(()),
            };
            prop_assert_eq!(within(SortCondition::BeginsWith(b)), begins);
        }
    }
}
