//! Commands on strings.

use std::str::FromStr as _;

use bigdecimal::{BigDecimal, RoundingMode};
use bytes::Bytes;

use super::arguments::{NOT_A_FLOAT, NOT_AN_INTEGER, SYNTAX, Unit, float, integer, is, must_fit, range};
use super::{Done, Read, Refusal, Write, refuse};
use crate::data::notice::Doing;
use crate::data::set::canonical_integer;
use crate::data::{ByteString, Change, Container as _, WrongType};

/// Cells that LCS compares, at most: it takes a word of memory for each, and a moment of everybody's time.
const LCS_CELLS_MAX: usize = 16 << 20;

pub(super) fn append(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let held = on.look::<ByteString>(&arguments[1])?.map_or(0, |held| held.len());
    must_fit(held + arguments[2].len())?;
    let len = on.update(&arguments[1], |held: &mut ByteString, _| {
        held.edit(|bytes| bytes.extend_from_slice(&arguments[2]));
        (!arguments[2].is_empty(), held.len())
    })?;
    on.out.count(len);
    Ok(())
}

pub(super) fn get(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    on.out.bulk_or_null(on.look::<ByteString>(&arguments[1])?.map(|value| &value[..]));
    Ok(())
}

pub(super) fn mget(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    on.out.array(arguments.len() - 1);
    for key in &arguments[1..] {
        // A key of another type has no string.
        on.out.bulk_or_null(on.look::<ByteString>(key).ok().flatten().map(|value| &value[..]));
    }
    Ok(())
}

pub(super) fn getdel(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let held = on.look::<ByteString>(&arguments[1])?.cloned();
    on.out.bulk_or_null(held.as_deref());
    if held.is_some() {
        on.keys.remove(&arguments[1], Change::Deleted);
    }
    Ok(())
}

pub(super) fn getset(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let held = on.look::<ByteString>(&arguments[1])?.cloned();
    put(on, &arguments[1], &arguments[2], 0)?;
    on.out.bulk_or_null(held.as_deref());
    Ok(())
}

pub(super) fn getex(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let end = match &arguments[2..] {
        [] => None,
        [option] if is(option, "persist") => Some(0),
        [option, time] => match Unit::of(option) {
            Some(unit) => Some(unit.later_end(time, on.now_ms, "getex")?),
            None => return refuse(SYNTAX),
        },
        _ => return refuse(SYNTAX),
    };
    let held = on.look::<ByteString>(&arguments[1])?.cloned();
    on.out.bulk_or_null(held.as_deref());
    let Some(expiry) = on.keys.get(&arguments[1], on.now_ms).map(|entry| entry.expires_at_ms) else {
        return Ok(());
    };
    match end {
        Some(end) if end != 0 && end <= on.now_ms => drop(on.keys.remove(&arguments[1], Change::Deleted)),
        Some(end) if end != expiry => on.keys.set_expiry(&arguments[1], end),
        _ => {}
    }
    Ok(())
}

pub(super) fn getrange(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (start, stop) = (integer(&arguments[2])?, integer(&arguments[3])?);
    let value = on.look::<ByteString>(&arguments[1])?.map_or(&[][..], |value| value);
    let (begin, len) = if start < 0 && stop < 0 && start > stop {
        (0, 0)
    } else {
        range(start, stop.max(-(value.len() as i64)), value.len())
    };
    on.out.bulk(&value[begin..begin + len]);
    Ok(())
}

pub(super) fn strlen(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    on.out.count(on.look::<ByteString>(&arguments[1])?.map_or(0, |held| held.len()));
    Ok(())
}

fn put(on: &mut Write<'_>, key: &[u8], value: &Bytes, expires_at_ms: u64) -> Done {
    must_fit(value.len())?;
    on.keys.put(key, ByteString::from(&value[..]).into(), expires_at_ms);
    Ok(())
}

pub(super) fn set(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let key = &arguments[1];
    let (mut if_absent, mut if_present, mut want_previous, mut keep) = (false, false, false, false);
    let mut end = None;
    let mut rest = arguments[3..].iter();
    while let Some(option) = rest.next() {
        match Unit::of(option) {
            Some(unit) if end.is_none() && !keep => {
                let time = rest.next().ok_or_else(|| Refusal::new(SYNTAX))?;
                end = Some((unit, time));
            }
            None if is(option, "nx") && !if_present => if_absent = true,
            None if is(option, "xx") && !if_absent => if_present = true,
            None if is(option, "get") => want_previous = true,
            None if is(option, "keepttl") && end.is_none() => keep = true,
            _ => return refuse(SYNTAX),
        }
    }
    let end = end.map(|(unit, time)| unit.later_end(time, on.now_ms, "set")).transpose()?;
    // It is looked for only where that makes a difference.
    let held = if if_absent || if_present || keep { on.keys.get(key, on.now_ms) } else { None };
    let (is_there, held_end) = (held.is_some(), held.map_or(0, |entry| entry.expires_at_ms));
    let previous = if want_previous { Some(on.look::<ByteString>(key)?.cloned()) } else { None };
    let is_met = !(if_absent && is_there || if_present && !is_there);
    if is_met {
        match end {
            // It is over already: the key is gone.
            Some(end) if end <= on.now_ms => {
                must_fit(arguments[2].len())?;
                on.keys.remove(key, Change::Deleted);
            }
            end => {
                put(on, key, &arguments[2], if keep { held_end } else { end.unwrap_or(0) })?;
                if end.is_some() {
                    on.keys.notices.note(Doing::EXPIRE, key);
                }
            }
        }
    }
    match previous {
        Some(previous) => on.out.bulk_or_null(previous.as_deref()),
        None if is_met => on.out.ok(),
        None => on.out.null(),
    }
    Ok(())
}

pub(super) fn setnx(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let is_new = on.keys.get(&arguments[1], on.now_ms).is_none();
    if is_new {
        put(on, &arguments[1], &arguments[2], 0)?;
    }
    on.out.flag(is_new);
    Ok(())
}

pub(super) fn setex(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    set_for(on, arguments, Unit { ms: 1000, is_relative: true }, "setex")
}

pub(super) fn psetex(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    set_for(on, arguments, Unit { ms: 1, is_relative: true }, "psetex")
}

fn set_for(on: &mut Write<'_>, arguments: &[Bytes], unit: Unit, command: &str) -> Done {
    let end = unit.later_end(&arguments[2], on.now_ms, command)?;
    put(on, &arguments[1], &arguments[3], end)?;
    on.keys.notices.note(Doing::EXPIRE, &arguments[1]);
    on.out.ok();
    Ok(())
}

fn pairs<'a>(arguments: &'a [Bytes], command: &str) -> Done<&'a [[Bytes; 2]]> {
    let (pairs, odd) = arguments[1..].as_chunks();
    if !odd.is_empty() {
        return refuse(format!("ERR wrong number of arguments for '{command}' command"));
    }
    pairs.iter().try_for_each(|[_, value]| must_fit(value.len()))?;
    Ok(pairs)
}

pub(super) fn mset(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    for [key, value] in pairs(arguments, "mset")? {
        put(on, key, value, 0)?;
    }
    on.out.ok();
    Ok(())
}

pub(super) fn msetnx(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let pairs = pairs(arguments, "msetnx")?;
    let is_met = pairs.iter().all(|[key, _]| on.keys.get(key, on.now_ms).is_none());
    if is_met {
        for [key, value] in pairs {
            put(on, key, value, 0)?;
        }
    }
    on.out.flag(is_met);
    Ok(())
}

pub(super) fn setrange(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let Ok(offset) = usize::try_from(integer(&arguments[2])?) else {
        return refuse("ERR offset is out of range");
    };
    let value = &arguments[3];
    let held = on.look::<ByteString>(&arguments[1])?.map_or(0, |held| held.len());
    if value.is_empty() {
        on.out.count(held);
        return Ok(());
    }
    must_fit(offset.saturating_add(value.len()))?;
    let len = on.update(&arguments[1], |held: &mut ByteString, _| {
        held.edit(|bytes| {
            if bytes.len() < offset + value.len() {
                bytes.resize(offset + value.len(), 0);
            }
            bytes[offset..offset + value.len()].copy_from_slice(value);
        });
        (true, held.len())
    })?;
    on.out.count(len);
    Ok(())
}

pub(super) fn incr(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    increment(on, &arguments[1], 1)
}

pub(super) fn decr(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    increment(on, &arguments[1], -1)
}

pub(super) fn incrby(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    increment(on, &arguments[1], integer(&arguments[2])?)
}

pub(super) fn decrby(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    match integer(&arguments[2])?.checked_neg() {
        Some(by) => increment(on, &arguments[1], by),
        None => refuse("ERR decrement would overflow"),
    }
}

fn increment(on: &mut Write<'_>, key: &[u8], by: i64) -> Done {
    let (before, end) = match on.keys.get(key, on.now_ms) {
        Some(entry) => {
            let value = ByteString::of(&entry.value).ok_or(WrongType)?;
            let before = canonical_integer(value).ok_or_else(|| Refusal::new(NOT_AN_INTEGER))?;
            (before, entry.expires_at_ms)
        }
        None => (0, 0),
    };
    let Some(after) = before.checked_add(by) else {
        return refuse("ERR increment or decrement would overflow");
    };
    on.keys.put(key, ByteString::from(itoa::Buffer::new().format(after).as_bytes()).into(), end);
    on.out.integer(after);
    Ok(())
}

/// Puts a value in the place of one, which keeps its time to live.
fn replace(on: &mut Write<'_>, key: &[u8], value: &[u8]) {
    let end = on.keys.get(key, on.now_ms).map_or(0, |entry| entry.expires_at_ms);
    on.keys.put(key, ByteString::from(value).into(), end);
}

pub(super) fn incrbyfloat(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let held = on.look::<ByteString>(&arguments[1])?;
    let after = sum(held.map_or(&b"0"[..], |value| value), &arguments[2], NOT_A_FLOAT)?;
    replace(on, &arguments[1], after.as_bytes());
    on.out.bulk(after.as_bytes());
    Ok(())
}

/// The sum of two numbers with 17 places behind the point, as Redis writes it. It is exact, where Redis' is not always.
pub(super) fn sum(held: &[u8], by: &[u8], no_number: &'static str) -> Done<String> {
    /// Source: `ld2string` with `LD_STR_HUMAN`.
    const PLACES: i64 = 17;
    let decimal = |text: &[u8], said: &'static str| -> Done<(f64, Option<BigDecimal>)> {
        let float = float(text).ok_or_else(|| Refusal::new(said))?;
        // Of 1e-1000000000 nothing is left; it must not be added as it is.
        let decimal = std::str::from_utf8(text)
            .ok()
            .filter(|_| float.is_finite() && (float == 0.0 || float.abs() > 1e-300))
            .and_then(|text| BigDecimal::from_str(text).ok())
            .map(|decimal| decimal.with_scale_round(PLACES + 1, RoundingMode::HalfEven));
        Ok((float, decimal))
    };
    let (held_float, held) = decimal(held, no_number)?;
    let (by_float, by) = decimal(by, NOT_A_FLOAT)?;
    if !(held_float + by_float).is_finite() {
        return refuse("ERR increment would produce NaN or Infinity");
    }
    let sum = held.unwrap_or_default() + by.unwrap_or_default();
    Ok(sum.with_scale_round(PLACES, RoundingMode::HalfEven).normalized().to_plain_string())
}

pub(super) fn lcs(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (mut want_length, mut want_places, mut with_lengths) = (false, false, false);
    let mut least = 0;
    let mut rest = arguments[3..].iter();
    while let Some(option) = rest.next() {
        if is(option, "len") {
            want_length = true;
        } else if is(option, "idx") {
            want_places = true;
        } else if is(option, "withmatchlen") {
            with_lengths = true;
        } else if is(option, "minmatchlen") {
            let Some(length) = rest.next() else { return refuse(SYNTAX) };
            least = usize::try_from(integer(length)?).unwrap_or(0);
        } else {
            return refuse(SYNTAX);
        }
    }
    if want_length && want_places {
        return refuse("ERR If you want both the length and indexes, please just use IDX.");
    }
    let said = |key: &Bytes| match on.look::<ByteString>(key) {
        Ok(value) => Ok(value.map_or(&[][..], |value| value)),
        Err(_) => refuse("ERR The specified keys must contain string values"),
    };
    let (a, b) = (said(&arguments[1])?, said(&arguments[2])?);
    let (rows, columns) = (a.len() + 1, b.len() + 1);
    if rows.saturating_mul(columns) > LCS_CELLS_MAX {
        return refuse(format!(
            "ERR Insufficient memory, transient memory for LCS exceeds LCS_CELLS_MAX = {LCS_CELLS_MAX}"
        ));
    }
    let mut lengths = vec![0_u32; rows * columns];
    for (row, x) in a.iter().enumerate() {
        for (column, y) in b.iter().enumerate() {
            lengths[(row + 1) * columns + column + 1] = if x == y {
                lengths[row * columns + column] + 1
            } else {
                lengths[row * columns + column + 1].max(lengths[(row + 1) * columns + column])
            };
        }
    }
    let length = lengths[rows * columns - 1] as usize;
    if want_length {
        on.out.count(length);
        return Ok(());
    }
    // Backwards, as Redis does: it tells the last match first.
    let mut common = Vec::with_capacity(length);
    let mut matches: Vec<((usize, usize), (usize, usize))> = Vec::new();
    let (mut row, mut column) = (a.len(), b.len());
    let mut open: Option<((usize, usize), (usize, usize))> = None;
    while row > 0 && column > 0 {
        if a[row - 1] == b[column - 1] {
            common.push(a[row - 1]);
            open = match open {
                Some(((start, end), (other, other_end))) if start == row && other == column => {
                    Some(((start - 1, end), (other - 1, other_end)))
                }
                before => {
                    matches.extend(before);
                    Some(((row - 1, row - 1), (column - 1, column - 1)))
                }
            };
            row -= 1;
            column -= 1;
        } else if lengths[(row - 1) * columns + column] > lengths[row * columns + column - 1] {
            row -= 1;
        } else {
            column -= 1;
        }
    }
    matches.extend(open);
    if !want_places {
        common.reverse();
        on.out.bulk(&common);
        return Ok(());
    }
    matches.retain(|((start, end), _)| end - start + 1 >= least);
    on.out.map(2);
    on.out.bulk(b"matches");
    on.out.array(matches.len());
    for ((start, end), (other, other_end)) in matches {
        on.out.array(if with_lengths { 3 } else { 2 });
        for (from, to) in [(start, end), (other, other_end)] {
            on.out.array(2);
            on.out.count(from);
            on.out.count(to);
        }
        if with_lengths {
            on.out.count(end - start + 1);
        }
    }
    on.out.bulk(b"len");
    on.out.count(length);
    Ok(())
}
