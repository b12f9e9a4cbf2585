//! A value of any type as Redis writes it. It is written in the layouts that every Redis reads; those of small and of old
//! values are read. Source: `rdbSaveObject`, `rdbLoadObject`.

use std::borrow::Cow;

use bytes::Bytes;
use trimaran_proto::state::grid::{StreamConsumer, StreamGroup, StreamPending, StreamState};

use super::super::Done;
use super::packed::{Element, Elements, intset, listpack, put_listpack, ziplist};
use super::{Reader, bad, put_length, put_string};
use crate::data::hash::Hash;
use crate::data::list::List;
use crate::data::set::{Set, canonical_integer};
use crate::data::sorted_set::SortedSet;
use crate::data::stream::{Entry, Id, Stream};
use crate::data::{ByteString, Encodings, Value};
use crate::limits::VALUE_BYTES_MAX;

const STRING: u8 = 0;
const LIST: u8 = 1;
const SET: u8 = 2;
const SORTED_SET_OLD: u8 = 3;
const HASH: u8 = 4;
const SORTED_SET: u8 = 5;
const LIST_ZIPLIST: u8 = 10;
const SET_INTSET: u8 = 11;
const SORTED_SET_ZIPLIST: u8 = 12;
const HASH_ZIPLIST: u8 = 13;
const LIST_QUICKLIST: u8 = 14;
const STREAM_1: u8 = 15;
const HASH_LISTPACK: u8 = 16;
const SORTED_SET_LISTPACK: u8 = 17;
const LIST_QUICKLIST_2: u8 = 18;
const STREAM_2: u8 = 19;
const SET_LISTPACK: u8 = 20;
const STREAM_3: u8 = 21;
/// Fields with times to live.
const HASH_EXPIRING: u8 = 24;
const HASH_LISTPACK_EXPIRING: u8 = 25;

/// A node of a list that is one element, not a listpack of several.
const PLAIN: u64 = 1;

/// An entry of a stream that was deleted; one with the fields of the first in its listpack.
const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

/// Versions of the format: of Redis 5, which knows the plain layouts, 7.2 (streams as they are written here) and 7.4 (fields
/// with times to live).
const PLAIN_VERSION: u16 = 9;
const STREAM_VERSION: u16 = 11;
const EXPIRING_VERSION: u16 = 12;

/// Writes a value, its type first. Returns the version of the format that knows it.
pub(in super::super) fn write(value: &Value, out: &mut Vec<u8>) -> u16 {
    let version = match value {
        Value::Stream(_) => STREAM_VERSION,
        Value::Hash(hash) if hash.next_end() != 0 => EXPIRING_VERSION,
        _ => PLAIN_VERSION,
    };
    match value {
        Value::String(bytes) => {
            out.push(STRING);
            put_string(out, bytes);
        }
        Value::List(list) => {
            out.push(LIST);
            put_length(out, list.len() as u64);
            list.iter().for_each(|element| put_string(out, element));
        }
        Value::Set(set) => {
            out.push(SET);
            put_length(out, set.len() as u64);
            set.iter().for_each(|member| put_string(out, &member));
        }
        Value::SortedSet(set) => {
            out.push(SORTED_SET);
            put_length(out, set.len() as u64);
            for (score, member) in set.iter() {
                put_string(out, member);
                out.extend(score.to_le_bytes());
            }
        }
        Value::Hash(hash) => write_hash(hash, out),
        Value::Stream(stream) => write_stream(stream, out),
    }
    version
}

fn write_hash(hash: &Hash, out: &mut Vec<u8>) {
    let first_end = hash.next_end();
    if first_end == 0 {
        out.push(HASH);
        put_length(out, hash.len() as u64);
        for (field, value) in hash.iter() {
            put_string(out, field);
            put_string(out, value);
        }
        return;
    }
    out.push(HASH_EXPIRING);
    out.extend(first_end.to_le_bytes());
    put_length(out, hash.len() as u64);
    for (field, value) in hash.iter() {
        // Behind the first one that ends, from 1 on; 0 = never.
        let end = hash.end(field);
        put_length(out, if end == 0 { 0 } else { end - first_end + 1 });
        put_string(out, field);
        put_string(out, value);
    }
}

fn put_raw_id(out: &mut Vec<u8>, id: Id) {
    out.extend(id.ms.to_be_bytes());
    out.extend(id.sequence.to_be_bytes());
}

fn put_id(out: &mut Vec<u8>, id: Id) {
    put_length(out, id.ms);
    put_length(out, id.sequence);
}

/// A listpack of one entry: how many there are and how many were deleted, the fields of the first, then the entries.
fn entry_listpack(entry: &Entry) -> Vec<u8> {
    let number = |number: usize| Element::Number(number as i64);
    let mut elements = vec![number(1), number(0), number(entry.words.len() / 2)];
    let (fields, values): (Vec<_>, Vec<_>) =
        entry.words.as_chunks::<2>().0.iter().map(|[f, v]| (f, v)).unzip();
    elements.extend(fields.iter().map(|field| Element::Text(field)));
    elements.push(number(0));
    let before = elements.len();
    elements.extend([Element::Number(SAME_FIELDS), number(0), number(0)]);
    elements.extend(values.iter().map(|value| Element::Text(value)));
    // To go back by.
    elements.push(number(elements.len() - before));
    put_listpack(&elements)
}

fn write_stream(stream: &Stream, out: &mut Vec<u8>) {
    out.push(STREAM_3);
    put_length(out, stream.len() as u64);
    for entry in stream.iter() {
        let mut id = Vec::new();
        put_raw_id(&mut id, entry.id);
        put_string(out, &id);
        put_string(out, &entry_listpack(entry));
    }
    put_length(out, stream.len() as u64);
    put_id(out, stream.last);
    put_id(out, stream.first().map_or(Id::MIN, |entry| entry.id));
    put_id(out, stream.max_deleted);
    put_length(out, stream.added);
    put_length(out, stream.groups().len() as u64);
    for (name, group) in stream.groups() {
        put_string(out, name);
        put_id(out, group.last);
        // -1 = not known.
        put_length(out, group.read.unwrap_or(u64::MAX));
        put_length(out, group.pending.len() as u64);
        for (id, pending) in &group.pending {
            put_raw_id(out, *id);
            out.extend(pending.delivered_ms.to_le_bytes());
            put_length(out, pending.count);
        }
        put_length(out, group.consumers.len() as u64);
        for (name, consumer) in &group.consumers {
            put_string(out, name);
            out.extend(consumer.seen_ms.to_le_bytes());
            // -1 = never.
            let active_ms = if consumer.active_ms == 0 { u64::MAX } else { consumer.active_ms };
            out.extend(active_ms.to_le_bytes());
            put_length(out, consumer.pending.len() as u64);
            consumer.pending.iter().for_each(|id| put_raw_id(out, *id));
        }
    }
}

/// Reads a value with its type in front of it. Fields that have ended by now are left out.
pub(in super::super) fn read(reader: &mut Reader<'_>, now_ms: u64, encodings: &Encodings) -> Done<Value> {
    let value = match reader.byte()? {
        STRING => Value::String(ByteString::from(&*fit(reader.string()?)?)),
        kind @ (LIST | LIST_ZIPLIST | LIST_QUICKLIST | LIST_QUICKLIST_2) => list(reader, kind)?.into(),
        kind @ (SET | SET_INTSET | SET_LISTPACK) => {
            let packed;
            let members = match kind {
                SET => strings(reader, 1)?,
                SET_INTSET => {
                    packed = reader.string()?;
                    intset(&packed)?
                }
                _ => {
                    packed = reader.string()?;
                    listpack(&packed)?
                }
            };
            let mut set = Set::default();
            for member in members {
                if !set.insert(&fit(member)?, encodings) {
                    return Err(bad());
                }
            }
            set.into()
        }
        kind @ (SORTED_SET | SORTED_SET_OLD | SORTED_SET_ZIPLIST | SORTED_SET_LISTPACK) => {
            sorted_set(reader, kind, encodings)?.into()
        }
        kind @ (HASH | HASH_ZIPLIST | HASH_LISTPACK | HASH_EXPIRING | HASH_LISTPACK_EXPIRING) => {
            let mut hash = hash(reader, kind, encodings)?;
            hash.reap(now_ms);
            hash.into()
        }
        kind @ (STREAM_1 | STREAM_2 | STREAM_3) => stream(reader, kind, encodings)?.into(),
        _ => return Err(bad()),
    };
    if reader.is_empty() { Ok(value) } else { Err(bad()) }
}

/// Refuses what no element may be as long as.
fn fit(string: Cow<'_, [u8]>) -> Done<Cow<'_, [u8]>> {
    if string.len() > VALUE_BYTES_MAX { Err(bad()) } else { Ok(string) }
}

fn strings<'a>(reader: &mut Reader<'a>, of_each: usize) -> Done<Elements<'a>> {
    let count = reader.count()?;
    (0..count * of_each).map(|_| fit(reader.string()?)).collect()
}

fn list(reader: &mut Reader<'_>, kind: u8) -> Done<List> {
    let mut list = List::default();
    let mut push =
        |elements: Elements<'_>| elements.iter().for_each(|element| list.push_back((**element).into()));
    match kind {
        LIST => push(strings(reader, 1)?),
        LIST_ZIPLIST => push(ziplist(&reader.string()?)?),
        _ => {
            for _ in 0..reader.count()? {
                let is_plain = kind == LIST_QUICKLIST_2 && reader.length()? == PLAIN;
                let node = fit(reader.string()?)?;
                match kind {
                    _ if is_plain => push(vec![node]),
                    LIST_QUICKLIST_2 => push(listpack(&node)?),
                    _ => push(ziplist(&node)?),
                }
            }
        }
    }
    if list.is_empty() { Err(bad()) } else { Ok(list) }
}

fn score(text: &[u8]) -> Done<f64> {
    let score = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    score.filter(|score: &f64| !score.is_nan()).ok_or_else(bad)
}

/// A score as it was written before version 8 of the format.
fn old_score(reader: &mut Reader<'_>) -> Done<f64> {
    match reader.byte()? {
        254 => Ok(f64::INFINITY),
        255 => Ok(f64::NEG_INFINITY),
        253 => Err(bad()),
        length => score(reader.bytes(usize::from(length))?),
    }
}

fn sorted_set(reader: &mut Reader<'_>, kind: u8, encodings: &Encodings) -> Done<SortedSet> {
    let mut set = SortedSet::default();
    let mut add = |member: &[u8], score: f64| match set.insert(member, score, encodings) {
        None if !score.is_nan() => Ok(()),
        _ => Err(bad()),
    };
    if [SORTED_SET, SORTED_SET_OLD].contains(&kind) {
        for _ in 0..reader.count()? {
            let member = fit(reader.string()?)?;
            let score = if kind == SORTED_SET { reader.f64()? } else { old_score(reader)? };
            add(&member, score)?;
        }
        return Ok(set);
    }
    let packed = reader.string()?;
    let elements = if kind == SORTED_SET_ZIPLIST { ziplist(&packed)? } else { listpack(&packed)? };
    let (pairs, []) = elements.as_chunks::<2>() else { return Err(bad()) };
    for [member, text] in pairs {
        add(member, score(text)?)?;
    }
    Ok(set)
}

fn hash(reader: &mut Reader<'_>, kind: u8, encodings: &Encodings) -> Done<Hash> {
    let mut hash = Hash::default();
    let mut add = |field: &[u8], value: &[u8], end: u64| {
        let is_new = hash.insert(field, value.into(), encodings);
        hash.set_end(field, end);
        if is_new { Ok(()) } else { Err(bad()) }
    };
    match kind {
        HASH => {
            let words = strings(reader, 2)?;
            words.as_chunks().0.iter().try_for_each(|[field, value]| add(field, value, 0))?;
        }
        HASH_EXPIRING => {
            let first_end = reader.u64()?;
            for _ in 0..reader.count()? {
                let end = match reader.length()? {
                    0 => 0,
                    behind => first_end.checked_add(behind - 1).ok_or_else(bad)?,
                };
                let (field, value) = (fit(reader.string()?)?, fit(reader.string()?)?);
                add(&field, &value, end)?;
            }
        }
        HASH_LISTPACK_EXPIRING => {
            let _first_end = reader.u64()?;
            let packed = reader.string()?;
            let elements = listpack(&packed)?;
            let (triples, []) = elements.as_chunks::<3>() else { return Err(bad()) };
            for [field, value, end] in triples {
                let end = canonical_integer(end).and_then(|end| u64::try_from(end).ok()).ok_or_else(bad)?;
                add(field, value, end)?;
            }
        }
        _ => {
            let packed = reader.string()?;
            let elements = if kind == HASH_ZIPLIST { ziplist(&packed)? } else { listpack(&packed)? };
            let (pairs, []) = elements.as_chunks::<2>() else { return Err(bad()) };
            pairs.iter().try_for_each(|[field, value]| add(field, value, 0))?;
        }
    }
    if hash.is_empty() { Err(bad()) } else { Ok(hash) }
}

fn raw_id(bytes: &[u8]) -> Done<Id> {
    let (ms, sequence) = bytes.split_at_checked(8).ok_or_else(bad)?;
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).map_err(|_short| bad());
    Ok(Id { ms: number(ms)?, sequence: number(sequence)? })
}

fn id(reader: &mut Reader<'_>) -> Done<Id> {
    Ok(Id { ms: reader.length()?, sequence: reader.length()? })
}

/// The entries of one listpack, behind the id that they are counted from.
fn entries(first: Id, packed: &[u8], stream: &mut Vec<Entry>) -> Done {
    let elements = listpack(packed)?;
    let mut rest = elements.iter();
    let number = |rest: &mut std::slice::Iter<'_, Cow<'_, [u8]>>| {
        rest.next().and_then(|element| canonical_integer(element)).ok_or_else(bad)
    };
    let (count, deleted) = (number(&mut rest)?, number(&mut rest)?);
    let fields = usize::try_from(number(&mut rest)?).map_err(|_negative| bad())?;
    let same: Vec<&Cow<'_, [u8]>> = rest.by_ref().take(fields).collect();
    // Behind the fields of the first entry is a zero.
    number(&mut rest)?;
    for _ in 0..count.checked_add(deleted).ok_or_else(bad)? {
        let flags = number(&mut rest)?;
        let (ms, sequence) = (number(&mut rest)?, number(&mut rest)?);
        let id = Id {
            ms: first.ms.checked_add_signed(ms).ok_or_else(bad)?,
            sequence: first.sequence.wrapping_add_signed(sequence),
        };
        let has_same = flags & SAME_FIELDS != 0;
        let count = if has_same {
            same.len()
        } else {
            usize::try_from(number(&mut rest)?).map_err(|_negative| bad())?
        };
        let mut words = Vec::with_capacity(count.min(elements.len()) * 2);
        for at in 0..count {
            let field = if has_same { same.get(at).copied() } else { rest.next() };
            let (field, value) = (field.ok_or_else(bad)?, rest.next().ok_or_else(bad)?);
            words.extend([(**field).into(), (**value).into()]);
        }
        // To go back by.
        number(&mut rest)?;
        if flags & DELETED == 0 {
            stream.push(Entry { id, words: words.into() });
        }
    }
    Ok(())
}

fn stream(reader: &mut Reader<'_>, kind: u8, encodings: &Encodings) -> Done<Stream> {
    let mut read = Vec::new();
    for _ in 0..reader.count()? {
        let first = raw_id(&reader.string()?)?;
        entries(first, &reader.string()?, &mut read)?;
    }
    if !read.is_sorted_by(|a, b| a.id < b.id) {
        return Err(bad());
    }
    let count = reader.length()?;
    let last = id(reader)?;
    if count != read.len() as u64 || read.last().is_some_and(|newest| newest.id > last) {
        return Err(bad());
    }
    let mut state = StreamState { last: Some(last.into()), added: count, ..StreamState::default() };
    if kind >= STREAM_2 {
        let _first = id(reader)?;
        state.max_deleted = Some(id(reader)?.into());
        state.added = reader.length()?;
    }
    for _ in 0..reader.count()? {
        state.groups.push(group(reader, kind)?);
    }
    let mut stream = Stream::with_state(state);
    let mut of_chunk = 0;
    for Entry { id, words } in read {
        let begins = of_chunk == 0;
        of_chunk = (of_chunk + 1) % encodings.stream_node_max_entries.max(1);
        stream.restore(id, words, begins);
    }
    Ok(stream)
}

fn group(reader: &mut Reader<'_>, kind: u8) -> Done<StreamGroup> {
    let name = Bytes::from(reader.string()?.into_owned());
    let mut group = StreamGroup { name, last: Some(id(reader)?.into()), ..StreamGroup::default() };
    if kind >= STREAM_2 {
        group.read = Some(reader.length()?).filter(|read| *read != u64::MAX);
    }
    let mut pending = std::collections::BTreeMap::new();
    for _ in 0..reader.count()? {
        let id = raw_id(reader.bytes(16)?)?;
        pending.insert(id, (reader.u64()?, reader.length()?));
    }
    for place in 0..reader.count()? {
        let name = Bytes::from(reader.string()?.into_owned());
        let seen_ms = reader.u64()?;
        let active_ms = if kind >= STREAM_3 { reader.u64()? } else { seen_ms };
        let active_ms = if active_ms == u64::MAX { 0 } else { active_ms };
        group.consumers.push(StreamConsumer { name, seen_ms, active_ms });
        for _ in 0..reader.count()? {
            let id = raw_id(reader.bytes(16)?)?;
            // One that is not among those of the group, or that another consumer has.
            let (delivered_ms, count) = pending.remove(&id).ok_or_else(bad)?;
            let consumer = u32::try_from(place).map_err(|_many| bad())?;
            group.pending.push(StreamPending { id: Some(id.into()), consumer, delivered_ms, count });
        }
    }
    if pending.is_empty() { Ok(group) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::dict::Blob;

    fn back(value: &Value) -> Value {
        let mut out = Vec::new();
        let version = write(value, &mut out);
        super::super::seal(&mut out, version);
        read(&mut Reader::sealed(&out).unwrap(), 0, &Encodings::default()).unwrap()
    }

    #[test]
    fn values_of_every_type_come_back() {
        let encodings = Encodings::default();
        let blob = |text: &str| Blob::from(text.as_bytes());
        let mut list = List::default();
        let (mut set, mut sorted, mut hash) = (Set::default(), SortedSet::default(), Hash::default());
        for number in 0..300 {
            let text = format!("element {number}");
            list.push_back(blob(&text));
            set.insert(text.as_bytes(), &encodings);
            sorted.insert(text.as_bytes(), f64::from(number) / 3.0, &encodings);
            hash.insert(text.as_bytes(), blob(&text), &encodings);
        }
        hash.set_end(b"element 7", 5000);
        hash.set_end(b"element 8", 6000);
        let mut stream = Stream::default();
        for number in 1..200_u64 {
            let words: Arc<[Blob]> = [blob("field"), blob(&number.to_string())].into();
            stream.add(Id { ms: number / 2, sequence: number }, words, &encodings);
        }
        stream.create_group(b"group", Id { ms: 3, sequence: 7 }, None);
        if let Some(group) = stream.group_mut(b"group") {
            group.consumer(b"one", 9).active_ms = 8;
            group.give(Id { ms: 1, sequence: 2 }, b"one", 77, 3);
        }
        let values: [Value; 6] = [
            Value::String(ByteString::from(&b"text"[..])),
            list.into(),
            set.into(),
            sorted.into(),
            hash.into(),
            stream.into(),
        ];
        for value in &values {
            assert_eq!(&back(value), value);
        }
    }

    /// Answers of DUMP of a Redis 7.0: small values in their compact layouts, and compressed ones.
    const OF_REDIS: &[(&str, &str)] = &[
        ("int", "00c1c7cf0a0067eda236b4db26d0"),
        ("text", "00c3094064016161e057000161610a00e8a3b507b06df271"),
        ("list", "1201021b1b000000060082653003000182653103c3e80282653203c7d002ff0a00c636b63308b8d8a6"),
        ("ints", "0bc3182004080000000320030390eefeff40000001200be00000200c0a00960fe96c257475a0"),
        ("zset", "111a1a0000000600816202dffe0281610283312e35048163020301ff0a00e5c16814373f6b4e"),
        ("hash", "10121200000004008166028176028167021101ff0a007ea570b011c84d31"),
        (
            "stream",
            "130110000000000000000100000000000000014078780000002b000501010102018166028167020001020100010001010181\
         7802050102010101000102018278780305010301020100010301837878780405010201030100010401847878787805050102\
         010401000105018578787878780605010001080108010101856f7468657206856669656c64060601ff050909010103010601\
         0167020181ffffffffffffffff0200000000000000010000000000000001725dd317a2010000010000000000000002000000\
         0000000001725dd317a201000001020163725dd317a201000002000000000000000100000000000000010000000000000002\
         00000000000000010469646c65725dd317a2010000000a0014a8c7fa1b489473",
        ),
    ];

    #[test]
    fn what_redis_has_written_is_read() {
        for (name, digits) in OF_REDIS {
            let payload: Vec<u8> = digits
                .as_bytes()
                .chunks_exact(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            let mut reader = Reader::sealed(&payload).unwrap();
            let value = read(&mut reader, 0, &Encodings::default()).unwrap();
            let text = |blob: &[u8]| String::from_utf8_lossy(blob).into_owned();
            match (*name, &value) {
                ("int", Value::String(bytes)) => assert_eq!(&bytes[..], b"-12345"),
                ("text", Value::String(bytes)) => assert_eq!(bytes[..], [b'a'; 100]),
                ("list", Value::List(list)) => {
                    let elements: Vec<String> = list.iter().map(|element| text(element)).collect();
                    assert_eq!(elements, ["e0", "0", "e1", "1000", "e2", "2000"]);
                }
                ("ints", Value::Set(set)) => {
                    assert!(set.contains(b"-70000") && set.contains(b"1099511627776") && set.len() == 3);
                }
                ("zset", Value::SortedSet(set)) => {
                    let members: Vec<(f64, String)> =
                        set.iter().map(|(score, member)| (*score, text(member))).collect();
                    let expected = [(-2.0, "b"), (1.5, "a"), (3.0, "c")];
                    assert_eq!(members, expected.map(|(score, member)| (score, member.to_owned())));
                }
                ("hash", Value::Hash(hash)) => {
                    assert_eq!(
                        (hash.get(b"f").map(|v| text(v)), hash.get(b"g").map(|v| text(v))),
                        (Some("v".to_owned()), Some("17".to_owned()))
                    );
                }
                ("stream", Value::Stream(stream)) => {
                    let ids: Vec<String> = stream.iter().map(|entry| entry.id.to_string()).collect();
                    assert_eq!(ids, ["1-1", "2-1", "4-1", "5-1", "9-9"]);
                    let words = stream.get(Id { ms: 4, sequence: 1 }).unwrap().words.clone();
                    assert_eq!(
                        words.iter().map(|word| text(word)).collect::<Vec<_>>(),
                        ["f", "4", "g", "xxxx"]
                    );
                    let group = stream.group(b"g").unwrap();
                    assert_eq!((group.pending.len(), group.consumers.len()), (2, 2));
                }
                (name, value) => panic!("{name}: {value:?}"),
            }
            assert_eq!(back(&value), value, "{name}");
        }
    }
}
