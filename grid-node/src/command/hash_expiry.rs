//! Commands on the times to live of the fields of hashes. Source: Redis 7.4.

use bytes::Bytes;

use super::arguments::{Unit, integer, is, lower};
use super::hash::look;
use super::{Done, Read, Refusal, Write, refuse};
use crate::data::hash::Hash;

/// There is no such field.
const NO_FIELD: i64 = -2;
/// It ends never.
const NEVER: i64 = -1;
/// The condition was not met.
const NOT_MET: i64 = 0;
/// Done.
const SET: i64 = 1;
/// The time was over: the field is gone.
const DELETED: i64 = 2;

/// `FIELDS n field …` at the end of a command.
fn fields(rest: &[Bytes]) -> Done<&[Bytes]> {
    let [word, count, fields @ ..] = rest else {
        return refuse("ERR Mandatory argument FIELDS is missing or not at the right position");
    };
    if !is(word, "fields") {
        return refuse("ERR Mandatory argument FIELDS is missing or not at the right position");
    }
    let count = integer(count).ok().and_then(|count| usize::try_from(count).ok());
    match count {
        None | Some(0) => refuse("ERR Parameter `numFields` should be greater than 0"),
        Some(count) if count != fields.len() => {
            refuse("ERR The `numfields` parameter must match the number of arguments")
        }
        Some(_) => Ok(fields),
    }
}

pub(super) fn hexpire(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    expire(on, arguments, Unit { ms: 1000, is_relative: true }, "hexpire")
}

pub(super) fn hpexpire(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    expire(on, arguments, Unit { ms: 1, is_relative: true }, "hpexpire")
}

pub(super) fn hexpireat(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    expire(on, arguments, Unit { ms: 1000, is_relative: false }, "hexpireat")
}

pub(super) fn hpexpireat(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    expire(on, arguments, Unit { ms: 1, is_relative: false }, "hpexpireat")
}

fn expire(on: &mut Write<'_>, arguments: &[Bytes], unit: Unit, command: &str) -> Done {
    let invalid = || Refusal::new(format!("ERR invalid expire time in '{command}' command"));
    let end = unit.end(&arguments[2], on.now_ms, command)?;
    let is_negative = arguments[2].first() == Some(&b'-');
    let end = u64::try_from(end).ok().filter(|end| !is_negative && *end < 1 << 46).ok_or_else(invalid)?;
    let (option, rest) = match &arguments[3..] {
        [word, rest @ ..] if ["nx", "xx", "gt", "lt"].iter().any(|option| is(word, option)) => {
            (Some(lower(word)), rest)
        }
        rest => (None, rest),
    };
    let fields = fields(rest)?;
    if on.look::<Hash>(&arguments[1])?.is_none() {
        on.out.array(fields.len());
        fields.iter().for_each(|_| on.out.integer(NO_FIELD));
        return Ok(());
    }
    let now_ms = on.now_ms;
    let results = on.update(&arguments[1], |hash: &mut Hash, _| {
        let mut set = |field: &Bytes| {
            if hash.get(field).is_none() {
                return NO_FIELD;
            }
            let held = hash.end(field);
            let is_met = match option.as_deref() {
                Some("nx") => held == 0,
                Some("xx") => held != 0,
                // Never is later than every time.
                Some("gt") => held != 0 && end > held,
                Some("lt") => held == 0 || end < held,
                _ => true,
            };
            if !is_met {
                return NOT_MET;
            }
            if end <= now_ms {
                hash.remove(field);
                return DELETED;
            }
            hash.set_end(field, end);
            SET
        };
        let results: Vec<i64> = fields.iter().map(&mut set).collect();
        (results.iter().any(|result| [SET, DELETED].contains(result)), results)
    })?;
    on.out.array(results.len());
    results.into_iter().for_each(|result| on.out.integer(result));
    Ok(())
}

pub(super) fn hpersist(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let fields = fields(&arguments[2..])?;
    let results = on.update(&arguments[1], |hash: &mut Hash, _| {
        let mut persist = |field: &Bytes| {
            if hash.get(field).is_none() {
                NO_FIELD
            } else if hash.end(field) == 0 {
                NEVER
            } else {
                hash.set_end(field, 0);
                SET
            }
        };
        let results: Vec<i64> = fields.iter().map(&mut persist).collect();
        (results.contains(&SET), results)
    })?;
    on.out.array(results.len());
    results.into_iter().for_each(|result| on.out.integer(result));
    Ok(())
}

pub(super) fn httl(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let now_ms = on.now_ms;
    told(on, arguments, move |end| (end.saturating_sub(now_ms)).div_ceil(1000))
}

pub(super) fn hpttl(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let now_ms = on.now_ms;
    told(on, arguments, move |end| end.saturating_sub(now_ms))
}

pub(super) fn hexpiretime(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    told(on, arguments, |end| end.div_ceil(1000))
}

pub(super) fn hpexpiretime(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    told(on, arguments, |end| end)
}

fn told(on: &mut Read<'_>, arguments: &[Bytes], say: impl Fn(u64) -> u64) -> Done {
    let fields = fields(&arguments[2..])?;
    let hash = look(on, &arguments[1])?;
    on.out.array(fields.len());
    for field in fields {
        let held = hash.as_ref().filter(|hash| hash.get(field).is_some());
        on.out.integer(match held.map(|hash| hash.end(field)) {
            None => NO_FIELD,
            Some(0) => NEVER,
            Some(end) => i64::try_from(say(end)).unwrap_or(i64::MAX),
        });
    }
    Ok(())
}
