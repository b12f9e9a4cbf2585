//! Commands on hashes.

use std::borrow::Cow;

use bytes::Bytes;

use super::arguments::{SYNTAX, blob, integer, is, must_fit, number};
use super::key::{Page, scan_options};
use super::set::{Sample, sample};
use super::string::sum;
use super::{Done, Read, Write, matches, refuse};
use crate::data::hash::Hash;
use crate::data::set::canonical_integer;

/// A hash as it is now: without the fields that have ended.
pub(super) fn look<'a>(on: &Read<'a>, key: &[u8]) -> Done<Option<Cow<'a, Hash>>> {
    let Some(hash) = on.look::<Hash>(key)? else { return Ok(None) };
    if !hash.has_ended(on.now_ms) {
        return Ok(Some(Cow::Borrowed(hash)));
    }
    let mut hash = hash.clone();
    hash.reap(on.now_ms);
    Ok((!hash.is_empty()).then_some(Cow::Owned(hash)))
}

fn pairs<'a>(arguments: &'a [Bytes], command: &str) -> Done<&'a [[Bytes; 2]]> {
    let (pairs, odd) = arguments[2..].as_chunks();
    if !odd.is_empty() {
        return refuse(format!("ERR wrong number of arguments for '{command}' command"));
    }
    Ok(pairs)
}

fn put(on: &mut Write<'_>, key: &[u8], pairs: &[[Bytes; 2]]) -> Done<usize> {
    pairs.iter().try_for_each(|[field, value]| must_fit(field.len().max(value.len())))?;
    on.update(key, |hash: &mut Hash, encodings| {
        let mut fresh = 0;
        for [field, value] in pairs {
            fresh += usize::from(hash.insert(field, blob(value), encodings));
            hash.set_end(field, 0);
        }
        (true, fresh)
    })
}

pub(super) fn hset(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let fresh = put(on, &arguments[1], pairs(arguments, "hset")?)?;
    on.out.count(fresh);
    Ok(())
}

pub(super) fn hmset(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    put(on, &arguments[1], pairs(arguments, "hmset")?)?;
    on.out.ok();
    Ok(())
}

pub(super) fn hsetnx(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    must_fit(arguments[2].len().max(arguments[3].len()))?;
    let is_new = on.update(&arguments[1], |hash: &mut Hash, encodings| {
        let is_new = hash.get(&arguments[2]).is_none();
        if is_new {
            hash.insert(&arguments[2], blob(&arguments[3]), encodings);
        }
        (is_new, is_new)
    })?;
    on.out.flag(is_new);
    Ok(())
}

pub(super) fn hget(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let hash = look(on, &arguments[1])?;
    on.out.bulk_or_null(hash.as_ref().and_then(|hash| hash.get(&arguments[2])).map(|value| &value[..]));
    Ok(())
}

pub(super) fn hmget(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let hash = look(on, &arguments[1])?;
    on.out.array(arguments.len() - 2);
    for field in &arguments[2..] {
        on.out.bulk_or_null(hash.as_ref().and_then(|hash| hash.get(field)).map(|value| &value[..]));
    }
    Ok(())
}

pub(super) fn hgetall(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let hash = look(on, &arguments[1])?;
    on.out.map(hash.as_ref().map_or(0, |hash| hash.len()));
    for (field, value) in hash.iter().flat_map(|hash| hash.iter()) {
        on.out.bulk(field);
        on.out.bulk(value);
    }
    Ok(())
}

pub(super) fn hkeys(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let hash = look(on, &arguments[1])?;
    on.out.array(hash.as_ref().map_or(0, |hash| hash.len()));
    hash.iter().flat_map(|hash| hash.iter()).for_each(|(field, _)| on.out.bulk(field));
    Ok(())
}

pub(super) fn hvals(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let hash = look(on, &arguments[1])?;
    on.out.array(hash.as_ref().map_or(0, |hash| hash.len()));
    hash.iter().flat_map(|hash| hash.iter()).for_each(|(_, value)| on.out.bulk(value));
    Ok(())
}

pub(super) fn hlen(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    on.out.count(look(on, &arguments[1])?.map_or(0, |hash| hash.len()));
    Ok(())
}

pub(super) fn hstrlen(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let hash = look(on, &arguments[1])?;
    on.out.count(hash.as_ref().and_then(|hash| hash.get(&arguments[2])).map_or(0, |value| value.len()));
    Ok(())
}

pub(super) fn hexists(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let hash = look(on, &arguments[1])?;
    on.out.flag(hash.is_some_and(|hash| hash.get(&arguments[2]).is_some()));
    Ok(())
}

pub(super) fn hdel(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let removed = on.update(&arguments[1], |hash: &mut Hash, _| {
        let removed = arguments[2..].iter().filter(|field| hash.remove(field).is_some()).count();
        (removed > 0, removed)
    })?;
    on.out.count(removed);
    Ok(())
}

pub(super) fn hincrby(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let by = integer(&arguments[3])?;
    let field = &arguments[2];
    let after = on.update(&arguments[1], |hash: &mut Hash, encodings| {
        let before = match hash.get(field).map(|value| canonical_integer(value)) {
            None => 0,
            Some(Some(before)) => before,
            Some(None) => return (false, refuse("ERR hash value is not an integer")),
        };
        let Some(after) = before.checked_add(by) else {
            return (false, refuse("ERR increment or decrement would overflow"));
        };
        hash.insert(field, blob(itoa::Buffer::new().format(after).as_bytes()), encodings);
        (true, Ok(after))
    })??;
    on.out.integer(after);
    Ok(())
}

pub(super) fn hincrbyfloat(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    if !number(&arguments[3])?.is_finite() {
        return refuse("ERR value is NaN or Infinity");
    }
    let field = &arguments[2];
    let after = on.update(&arguments[1], |hash: &mut Hash, encodings| {
        let before = hash.get(field).cloned().unwrap_or_else(|| blob(b"0"));
        match sum(&before, &arguments[3], "ERR hash value is not a float") {
            Ok(after) => {
                hash.insert(field, blob(after.as_bytes()), encodings);
                (true, Ok(after))
            }
            Err(refusal) => (false, Err(refusal)),
        }
    })??;
    on.out.bulk(after.as_bytes());
    Ok(())
}

pub(super) fn hrandfield(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let with_values = match arguments.get(3) {
        None => false,
        Some(option) if is(option, "withvalues") && arguments.len() == 4 => true,
        Some(_) => return refuse(SYNTAX),
    };
    let wanted = arguments.get(2).map(|wanted| Sample::of(wanted, with_values)).transpose()?;
    let Some(hash) = look(on, &arguments[1])? else {
        match wanted {
            Some(_) => on.out.array(0),
            None => on.out.null(),
        }
        return Ok(());
    };
    let Some(wanted) = wanted else {
        let place = on.random.below(hash.len());
        on.out.bulk_or_null(hash.at(place).map(|(field, _)| &field[..]));
        return Ok(());
    };
    let places = sample(&mut on.random, wanted, hash.len());
    if with_values {
        on.out.pairs(places.len());
    } else {
        on.out.array(places.len());
    }
    for (field, value) in places.into_iter().filter_map(|place| hash.at(place)) {
        on.out.bulk(field);
        if with_values {
            on.out.bulk(value);
        }
    }
    Ok(())
}

pub(super) fn hscan(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let page = scan_options(&arguments[2..], &["novalues"])?;
    let Page { cursor, count, pattern, flags, .. } = &page;
    let hash = look(on, &arguments[1])?;
    let (found, next) = hash.as_ref().map_or((Vec::new(), 0), |hash| hash.scan(*cursor, *count));
    let wanted = |field: &[u8]| pattern.as_ref().is_none_or(|pattern| matches(pattern, field));
    on.out.array(2);
    on.out.bulk(next.to_string().as_bytes());
    let elements = found.into_iter().filter(|(field, _)| wanted(field)).flat_map(|(field, value)| {
        let value = flags.is_empty().then_some(value);
        [Some(field), value].into_iter().flatten()
    });
    on.out.counted(elements, |out, element| out.bulk(element));
    Ok(())
}
