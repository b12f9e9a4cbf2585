//! Commands on the bits of strings.

use bytes::Bytes;

use super::arguments::{SYNTAX, integer, is, lower, must_fit};
use super::{Done, Read, Refusal, Write, refuse};
use crate::data::{ByteString, Change};
use crate::limits::VALUE_BYTES_MAX;

/// Where a bit is: in a string that is not too long.
fn bit_offset(argument: &[u8]) -> Done<usize> {
    let text = "ERR bit offset is not an integer or out of range";
    let offset = integer(argument).ok().and_then(|offset| usize::try_from(offset).ok());
    offset.filter(|offset| offset / 8 < VALUE_BYTES_MAX).ok_or_else(|| Refusal::new(text))
}

fn bit_of(bytes: &[u8], at: usize) -> bool {
    bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1)
}

pub(super) fn setbit(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let at = bit_offset(&arguments[2])?;
    let bit = match &arguments[3][..] {
        b"0" => false,
        b"1" => true,
        _ => return refuse("ERR bit is not an integer or out of range"),
    };
    must_fit(at / 8 + 1)?;
    let before = on.update(&arguments[1], |held: &mut ByteString, _| {
        let before = bit_of(held, at);
        let grows = held.len() <= at / 8;
        if before != bit || grows {
            held.edit(|bytes| {
                if grows {
                    bytes.resize(at / 8 + 1, 0);
                }
                let mask = 1 << (7 - at % 8);
                if bit {
                    bytes[at / 8] |= mask;
                } else {
                    bytes[at / 8] &= !mask;
                }
            });
        }
        (before != bit || grows, before)
    })?;
    on.out.flag(before);
    Ok(())
}

pub(super) fn getbit(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let at = bit_offset(&arguments[2])?;
    on.out.flag(on.look::<ByteString>(&arguments[1])?.is_some_and(|value| bit_of(value, at)));
    Ok(())
}

/// The bits from the first to the last of a range that is named in bytes or in bits; `None` if it has none.
fn bit_range(start: i64, stop: i64, in_bits: bool, bytes: usize) -> Option<(usize, usize)> {
    let total = i64::try_from(if in_bits { bytes * 8 } else { bytes }).ok()?;
    let from_end = |at: i64| (if at < 0 { at.saturating_add(total) } else { at }).max(0);
    let (start, stop) = (from_end(start), from_end(stop).min(total - 1));
    if start > stop {
        return None;
    }
    let unit = if in_bits { 1 } else { 8 };
    Some((usize::try_from(start * unit).ok()?, usize::try_from((stop + 1) * unit - 1).ok()?))
}

fn in_bits(unit: Option<&Bytes>) -> Done<bool> {
    match unit {
        None => Ok(false),
        Some(unit) if is(unit, "byte") => Ok(false),
        Some(unit) if is(unit, "bit") => Ok(true),
        Some(_) => refuse(SYNTAX),
    }
}

pub(super) fn bitcount(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let range = match &arguments[2..] {
        [] => None,
        [start, stop] | [start, stop, _] => {
            Some((integer(start)?, integer(stop)?, in_bits(arguments.get(4))?))
        }
        _ => return refuse(SYNTAX),
    };
    let value = on.look::<ByteString>(&arguments[1])?.map_or(&[][..], |value| value);
    let (start, stop, in_bits) = range.unwrap_or((0, -1, false));
    // Before the string, one is not the other's end; BITPOS takes both for its begin.
    let is_reversed = start < 0 && stop < 0 && start > stop;
    let range = bit_range(start, stop, in_bits, value.len()).filter(|_| !is_reversed);
    let Some((first, last)) = range else {
        on.out.integer(0);
        return Ok(());
    };
    let ones: usize = value[first / 8..=last / 8].iter().map(|byte| byte.count_ones() as usize).sum();
    // Without the bits before the first and behind the last.
    let before = (first / 8 * 8..first).filter(|at| bit_of(value, *at)).count();
    let behind = (last + 1..(last / 8 + 1) * 8).filter(|at| bit_of(value, *at)).count();
    on.out.count(ones - before - behind);
    Ok(())
}

pub(super) fn bitpos(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let bit = match integer(&arguments[2])? {
        0 => false,
        1 => true,
        _ => return refuse("ERR The bit argument must be 1 or 0."),
    };
    if arguments.len() > 6 {
        return refuse(SYNTAX);
    }
    let start = arguments.get(3).map(|start| integer(start)).transpose()?.unwrap_or(0);
    let stop = arguments.get(4).map(|stop| integer(stop)).transpose()?;
    let in_bits = in_bits(arguments.get(5))?;
    let Some(value) = on.look::<ByteString>(&arguments[1])? else {
        // An absent string is zeros without end.
        on.out.integer(if bit { -1 } else { 0 });
        return Ok(());
    };
    let Some((first, last)) = bit_range(start, stop.unwrap_or(-1), in_bits, value.len()) else {
        on.out.integer(-1);
        return Ok(());
    };
    let skipped = if bit { 0x00 } else { 0xff };
    let mut at = first;
    while at <= last {
        if at.is_multiple_of(8) && at + 7 <= last && value[at / 8] == skipped {
            at += 8;
        } else if bit_of(value, at) == bit {
            on.out.count(at);
            return Ok(());
        } else {
            at += 1;
        }
    }
    // Behind the string are zeros, unless its end was named.
    if !bit && stop.is_none() {
        on.out.count(value.len() * 8);
    } else {
        on.out.integer(-1);
    }
    Ok(())
}

pub(super) fn bitop(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let (to, from) = (&arguments[2], &arguments[3..]);
    let operation = lower(&arguments[1]);
    let combine: fn(u8, u8) -> u8 = match operation.as_str() {
        "and" => |a, b| a & b,
        "or" => |a, b| a | b,
        "xor" => |a, b| a ^ b,
        "not" if from.len() == 1 => |a, _| a,
        "not" => return refuse("ERR BITOP NOT must be called with a single source key."),
        _ => return refuse(SYNTAX),
    };
    let mut values = Vec::with_capacity(from.len());
    for key in from {
        values.push(on.look::<ByteString>(key)?.cloned().unwrap_or_default());
    }
    let len = values.iter().map(|held| held.len()).max().unwrap_or(0);
    let byte = |value: &[u8], at: usize| value.get(at).copied().unwrap_or(0);
    let mut result: Vec<u8> = (0..len).map(|at| byte(&values[0], at)).collect();
    for value in &values[1..] {
        for (at, held) in result.iter_mut().enumerate() {
            *held = combine(*held, byte(value, at));
        }
    }
    if operation == "not" {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    if len == 0 {
        if on.keys.get(to, on.now_ms).is_some() {
            on.keys.remove(to, Change::Deleted);
        }
    } else {
        on.keys.put(to, ByteString::from(result).into(), 0);
    }
    on.out.count(len);
    Ok(())
}

/// An integer of some bits, with a sign or not.
#[derive(Clone, Copy, Debug)]
struct Field {
    signed: bool,
    bits: u32,
    at: usize,
}

impl Field {
    fn parse(kind: &[u8], at: &[u8]) -> Done<Self> {
        let text = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";
        let (signed, digits) = match kind.split_first() {
            Some((b'i', digits)) => (true, digits),
            Some((b'u', digits)) => (false, digits),
            _ => return refuse(text),
        };
        let bits = integer(digits).ok().and_then(|bits| u32::try_from(bits).ok());
        let Some(bits) = bits.filter(|bits| (1..=if signed { 64 } else { 63 }).contains(bits)) else {
            return refuse(text);
        };
        // `#n` is the n-th of such integers.
        let at = match at.strip_prefix(b"#") {
            Some(count) => integer(count).ok().and_then(|count| count.checked_mul(i64::from(bits))),
            None => integer(at).ok(),
        };
        let at = at.and_then(|at| usize::try_from(at).ok());
        let fits = |at: &usize| at.checked_add(bits as usize).is_some_and(|end| end <= VALUE_BYTES_MAX * 8);
        match at.filter(fits) {
            Some(at) => Ok(Self { signed, bits, at }),
            None => refuse("ERR bit offset is not an integer or out of range"),
        }
    }

    fn get(self, bytes: &[u8]) -> i64 {
        let mut value: u64 = 0;
        for at in self.at..self.at + self.bits as usize {
            value = value << 1 | u64::from(bit_of(bytes, at));
        }
        self.wrapped(value)
    }

    /// The number that the lowest bits are.
    fn wrapped(self, value: u64) -> i64 {
        let unused = u64::BITS - self.bits;
        if self.signed { (value << unused) as i64 >> unused } else { (value << unused >> unused) as i64 }
    }

    fn set(self, bytes: &mut [u8], value: i64) {
        for place in 0..self.bits as usize {
            let at = self.at + place;
            let mask = 1 << (7 - at % 8);
            if value as u64 >> (self.bits as usize - 1 - place) & 1 == 1 {
                bytes[at / 8] |= mask;
            } else {
                bytes[at / 8] &= !mask;
            }
        }
    }

    /// A value that may be too large, as the field has it; `None` if it must not be written.
    fn fit(self, value: i128, overflow: Overflow) -> Option<i64> {
        let (least, most) = if self.signed {
            (-(1_i128 << (self.bits - 1)), (1_i128 << (self.bits - 1)) - 1)
        } else {
            (0, (1_i128 << self.bits) - 1)
        };
        if (least..=most).contains(&value) {
            return i64::try_from(value).ok();
        }
        match overflow {
            Overflow::Wrap => Some(self.wrapped(value as u64)),
            Overflow::Saturate => i64::try_from(value.clamp(least, most)).ok(),
            Overflow::Fail => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Get(Field),
    Set(Field, i64, Overflow),
    Add(Field, i64, Overflow),
}

fn steps(arguments: &[Bytes]) -> Done<Vec<Step>> {
    let mut steps = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut rest = &arguments[2..];
    loop {
        rest = match rest {
            [] => return Ok(steps),
            [word, kind, more @ ..] if is(word, "overflow") => {
                overflow = match lower(kind).as_str() {
                    "wrap" => Overflow::Wrap,
                    "sat" => Overflow::Saturate,
                    "fail" => Overflow::Fail,
                    _ => return refuse("ERR Invalid OVERFLOW type specified"),
                };
                more
            }
            [word, kind, at, more @ ..] if is(word, "get") => {
                steps.push(Step::Get(Field::parse(kind, at)?));
                more
            }
            [word, kind, at, value, more @ ..] if is(word, "set") => {
                steps.push(Step::Set(Field::parse(kind, at)?, integer(value)?, overflow));
                more
            }
            [word, kind, at, by, more @ ..] if is(word, "incrby") => {
                steps.push(Step::Add(Field::parse(kind, at)?, integer(by)?, overflow));
                more
            }
            _ => return refuse(SYNTAX),
        };
    }
}

pub(super) fn bitfield(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let steps = steps(arguments)?;
    let written = |step: &Step| match step {
        Step::Get(_) => None,
        Step::Set(field, ..) | Step::Add(field, ..) => Some((field.at + field.bits as usize).div_ceil(8)),
    };
    let Some(len) = steps.iter().filter_map(written).max() else {
        return read_fields(&mut on.reading(), arguments, &steps);
    };
    let results = on.update(&arguments[1], |held: &mut ByteString, _| {
        let mut changed = held.len() < len;
        let mut results = Vec::with_capacity(steps.len());
        held.edit(|bytes| {
            bytes.resize(bytes.len().max(len), 0);
            for step in &steps {
                let (field, overflow) = match *step {
                    Step::Get(field) => {
                        results.push(Some(field.get(bytes)));
                        continue;
                    }
                    Step::Set(field, _, overflow) | Step::Add(field, _, overflow) => (field, overflow),
                };
                let before = field.get(bytes);
                let after = match *step {
                    Step::Add(_, by, _) => field.fit(i128::from(before) + i128::from(by), overflow),
                    // What has a sign is taken for what has none, bit by bit.
                    Step::Set(_, value, _) if field.signed => field.fit(i128::from(value), overflow),
                    Step::Set(_, value, _) => field.fit(i128::from(value as u64), overflow),
                    Step::Get(_) => Some(before),
                };
                if let Some(after) = after {
                    field.set(bytes, after);
                    changed |= after != before;
                }
                results.push(after.map(|after| if matches!(step, Step::Add(..)) { after } else { before }));
            }
        });
        (changed, results)
    })?;
    on.out.array(results.len());
    for result in results {
        match result {
            Some(value) => on.out.integer(value),
            None => on.out.null(),
        }
    }
    Ok(())
}

pub(super) fn bitfield_ro(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let steps = steps(arguments)?;
    if steps.iter().any(|step| !matches!(step, Step::Get(_))) {
        return refuse("ERR BITFIELD_RO only supports the GET subcommand");
    }
    read_fields(on, arguments, &steps)
}

fn read_fields(on: &mut Read<'_>, arguments: &[Bytes], steps: &[Step]) -> Done {
    let value = on.look::<ByteString>(&arguments[1])?.map_or(&[][..], |value| value);
    on.out.array(steps.len());
    for step in steps {
        if let Step::Get(field) = step {
            on.out.integer(field.get(value));
        }
    }
    Ok(())
}
