//! Trees as they stand in the log: a tag, then the parts. Tags are fixed for ever; new ones are added, none reused.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{Assigned, Comparator, Condition, Operand, Path, Source, Step, Update};
use crate::item::{Malformed, Type, Value, put_bytes, put_length, take_length, take_text, take_u8};

/// The stored form of a condition; empty for none.
pub fn encode_condition(condition: Option<&Condition>) -> Bytes {
    let mut out = BytesMut::new();
    if let Some(condition) = condition {
        put_condition(&mut out, condition);
    }
    out.freeze()
}

/// Reads what [`encode_condition`] wrote.
pub fn decode_condition(mut stored: Bytes) -> Result<Option<Condition>, Malformed> {
    if stored.is_empty() { Ok(None) } else { take_condition(&mut stored).map(Some) }
}

/// The stored form of an update.
pub fn encode_update(update: &Update) -> Bytes {
    let mut out = BytesMut::new();
    put_all(&mut out, &update.set, |out, (path, assigned)| {
        put_path(out, path);
        put_assigned(out, assigned);
    });
    put_all(&mut out, &update.remove, put_path);
    for section in [&update.add, &update.delete] {
        put_all(&mut out, section, |out, (path, value)| {
            put_path(out, path);
            value.encode(out);
        });
    }
    out.freeze()
}

/// Reads what [`encode_update`] wrote.
pub fn decode_update(mut stored: Bytes) -> Result<Update, Malformed> {
    let from = &mut stored;
    let with_value = |from: &mut Bytes| Ok((take_path(from)?, Value::decode(from)?));
    Ok(Update {
        set: take_all(from, |from| Ok((take_path(from)?, take_assigned(from)?)))?,
        remove: take_all(from, take_path)?,
        add: take_all(from, with_value)?,
        delete: take_all(from, with_value)?,
    })
}

/// The stored form of a projection.
pub fn encode_paths(paths: &[Path]) -> Bytes {
    let mut out = BytesMut::new();
    put_all(&mut out, paths, put_path);
    out.freeze()
}

/// Reads what [`encode_paths`] wrote.
pub fn decode_paths(mut stored: Bytes) -> Result<Vec<Path>, Malformed> {
    take_all(&mut stored, take_path)
}

fn put_all<T>(out: &mut BytesMut, all: &[T], put: impl Fn(&mut BytesMut, &T)) {
    put_length(out, all.len());
    all.iter().for_each(|one| put(out, one));
}

fn take_all<T>(
    from: &mut Bytes,
    mut take: impl FnMut(&mut Bytes) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = take_length(from)?;
    (0..count).map(|_| take(from)).collect()
}

fn put_path(out: &mut BytesMut, path: &Path) {
    put_bytes(out, path.name.as_bytes());
    put_all(out, &path.steps, |out, step| match step {
        Step::Name(name) => {
            out.put_u8(1);
            put_bytes(out, name.as_bytes());
        }
        Step::Index(index) => {
            out.put_u8(2);
            out.put_u32(*index);
        }
    });
}

fn take_path(from: &mut Bytes) -> Result<Path, Malformed> {
    let name = take_text(from)?;
    let steps = take_all(from, |from| match take_u8(from)? {
        1 => Ok(Step::Name(take_text(from)?)),
        2 => {
            let mut index = 0;
            for _ in 0..4 {
                index = index << 8 | u32::from(take_u8(from)?);
            }
            Ok(Step::Index(index))
        }
        _ => Err(Malformed("a step of an unknown kind")),
    })?;
    Ok(Path { name, steps })
}

fn put_operand(out: &mut BytesMut, operand: &Operand) {
    match operand {
        Operand::Path(path) => {
            out.put_u8(1);
            put_path(out, path);
        }
        Operand::Value(value) => {
            out.put_u8(2);
            value.encode(out);
        }
        Operand::Size(path) => {
            out.put_u8(3);
            put_path(out, path);
        }
    }
}

fn take_operand(from: &mut Bytes) -> Result<Operand, Malformed> {
    match take_u8(from)? {
        1 => take_path(from).map(Operand::Path),
        2 => Value::decode(from).map(Operand::Value),
        3 => take_path(from).map(Operand::Size),
        _ => Err(Malformed("an operand of an unknown kind")),
    }
}

const COMPARATORS: [Comparator; 6] = [
    Comparator::Equal,
    Comparator::NotEqual,
    Comparator::Less,
    Comparator::LessOrEqual,
    Comparator::Greater,
    Comparator::GreaterOrEqual,
];

fn put_condition(out: &mut BytesMut, condition: &Condition) {
    match condition {
        Condition::Compare(a, comparator, b) => {
            out.put_u8(1);
            // Each stands in the list.
            out.put_u8(COMPARATORS.iter().position(|one| one == comparator).unwrap_or_default() as u8);
            put_operand(out, a);
            put_operand(out, b);
        }
        Condition::Between(value, low, high) => {
            out.put_u8(2);
            [value, low, high].into_iter().for_each(|operand| put_operand(out, operand));
        }
        Condition::In(value, among) => {
            out.put_u8(3);
            put_operand(out, value);
            put_all(out, among, put_operand);
        }
        Condition::Exists(path) => {
            out.put_u8(4);
            put_path(out, path);
        }
        Condition::NotExists(path) => {
            out.put_u8(5);
            put_path(out, path);
        }
        Condition::HasType(path, kind) => {
            out.put_u8(6);
            put_path(out, path);
            out.put_u8(kind.tag());
        }
        Condition::BeginsWith(a, b) => {
            out.put_u8(7);
            put_operand(out, a);
            put_operand(out, b);
        }
        Condition::Contains(a, b) => {
            out.put_u8(8);
            put_operand(out, a);
            put_operand(out, b);
        }
        Condition::And(parts) => {
            out.put_u8(9);
            put_all(out, parts, put_condition);
        }
        Condition::Or(parts) => {
            out.put_u8(10);
            put_all(out, parts, put_condition);
        }
        Condition::Not(inner) => {
            out.put_u8(11);
            put_condition(out, inner);
        }
    }
}

fn take_condition(from: &mut Bytes) -> Result<Condition, Malformed> {
    Ok(match take_u8(from)? {
        1 => {
            let comparator =
                *COMPARATORS.get(usize::from(take_u8(from)?)).ok_or(Malformed("an unknown comparator"))?;
            Condition::Compare(take_operand(from)?, comparator, take_operand(from)?)
        }
        2 => Condition::Between(take_operand(from)?, take_operand(from)?, take_operand(from)?),
        3 => Condition::In(take_operand(from)?, take_all(from, take_operand)?),
        4 => Condition::Exists(take_path(from)?),
        5 => Condition::NotExists(take_path(from)?),
        6 => {
            let path = take_path(from)?;
            Condition::HasType(path, Type::from_tag(take_u8(from)?).ok_or(Malformed("an unknown type"))?)
        }
        7 => Condition::BeginsWith(take_operand(from)?, take_operand(from)?),
        8 => Condition::Contains(take_operand(from)?, take_operand(from)?),
        9 => Condition::And(take_all(from, take_condition)?),
        10 => Condition::Or(take_all(from, take_condition)?),
        11 => Condition::Not(Box::new(take_condition(from)?)),
        _ => return Err(Malformed("a condition of an unknown kind")),
    })
}

fn put_assigned(out: &mut BytesMut, assigned: &Assigned) {
    match assigned {
        Assigned::One(one) => {
            out.put_u8(1);
            put_source(out, one);
        }
        Assigned::Sum(a, b) => {
            out.put_u8(2);
            put_source(out, a);
            put_source(out, b);
        }
        Assigned::Difference(a, b) => {
            out.put_u8(3);
            put_source(out, a);
            put_source(out, b);
        }
    }
}

fn take_assigned(from: &mut Bytes) -> Result<Assigned, Malformed> {
    Ok(match take_u8(from)? {
        1 => Assigned::One(take_source(from)?),
        2 => Assigned::Sum(take_source(from)?, take_source(from)?),
        3 => Assigned::Difference(take_source(from)?, take_source(from)?),
        _ => return Err(Malformed("an assignment of an unknown kind")),
    })
}

fn put_source(out: &mut BytesMut, source: &Source) {
    match source {
        Source::Path(path) => {
            out.put_u8(1);
            put_path(out, path);
        }
        Source::Value(value) => {
            out.put_u8(2);
            value.encode(out);
        }
        Source::IfNotExists(path, otherwise) => {
            out.put_u8(3);
            put_path(out, path);
            put_source(out, otherwise);
        }
        Source::ListAppend(a, b) => {
            out.put_u8(4);
            put_source(out, a);
            put_source(out, b);
        }
    }
}

fn take_source(from: &mut Bytes) -> Result<Source, Malformed> {
    Ok(match take_u8(from)? {
        1 => Source::Path(take_path(from)?),
        2 => Source::Value(Value::decode(from)?),
        3 => Source::IfNotExists(take_path(from)?, Box::new(take_source(from)?)),
        4 => Source::ListAppend(Box::new(take_source(from)?), Box::new(take_source(from)?)),
        _ => return Err(Malformed("a source of an unknown kind")),
    })
}
