//! Commands that know no data type, and what the others share about keys.

use bytes::Bytes;

use super::arguments::{NOT_AN_INTEGER, SYNTAX, Unit, integer, is, lower};
use super::{Done, Read, Refusal, Write, matches, refuse, serialized};
use crate::data::notice::Doing;
use crate::data::set::canonical_integer;
use crate::data::{Change, Entry, Value};

/// Puts a value in the place of whatever was there; an empty one leaves no key.
pub(super) fn replace(on: &mut Write<'_>, key: &[u8], value: Value) {
    if !value.is_gone() {
        on.keys.put(key, value, 0);
    } else if on.keys.get(key, on.now_ms).is_some() {
        on.keys.remove(key, Change::Deleted);
    }
}

pub(super) fn del(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let mut removed = 0;
    for key in &arguments[1..] {
        if on.keys.get(key, on.now_ms).is_some() {
            on.keys.remove(key, Change::Deleted);
            removed += 1;
        }
    }
    on.out.integer(removed);
    Ok(())
}

pub(super) fn exists(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let is_there = |key: &&Bytes| on.keys.get(key, on.now_ms).is_some();
    on.out.count(arguments[1..].iter().filter(is_there).count());
    Ok(())
}

pub(super) fn touch(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let is_there = |key: &&Bytes| {
        let entry = on.keys.get(key, on.now_ms);
        entry.inspect(|entry| entry.access.note(on.now_ms)).is_some()
    };
    on.out.count(arguments[1..].iter().filter(is_there).count());
    Ok(())
}

pub(super) fn type_(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    on.out.simple(on.keys.get(&arguments[1], on.now_ms).map_or("none", |entry| entry.value.type_name()));
    Ok(())
}

pub(super) fn expire(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    expire_at(on, arguments, Unit { ms: 1000, is_relative: true }, "expire")
}

pub(super) fn pexpire(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    expire_at(on, arguments, Unit { ms: 1, is_relative: true }, "pexpire")
}

pub(super) fn expireat(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    expire_at(on, arguments, Unit { ms: 1000, is_relative: false }, "expireat")
}

pub(super) fn pexpireat(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    expire_at(on, arguments, Unit { ms: 1, is_relative: false }, "pexpireat")
}

fn expire_at(on: &mut Write<'_>, arguments: &[Bytes], unit: Unit, command: &str) -> Done {
    let end = unit.end(&arguments[2], on.now_ms, command)?;
    let (mut if_none, mut if_any, mut if_later, mut if_earlier) = (false, false, false, false);
    for option in &arguments[3..] {
        let flag = match lower(option).as_str() {
            "nx" => &mut if_none,
            "xx" => &mut if_any,
            "gt" => &mut if_later,
            "lt" => &mut if_earlier,
            _ => return refuse(format!("ERR Unsupported option {}", String::from_utf8_lossy(option))),
        };
        *flag = true;
    }
    if if_none && (if_any || if_later || if_earlier) {
        return refuse("ERR NX and XX, GT or LT options at the same time are not compatible");
    }
    if if_later && if_earlier {
        return refuse("ERR GT and LT options at the same time are not compatible");
    }
    let key = &arguments[1];
    let Some(held) = on.keys.get(key, on.now_ms).map(|entry| entry.expires_at_ms) else {
        on.out.integer(0);
        return Ok(());
    };
    let is_over = u64::try_from(end).is_ok_and(|end| end <= on.now_ms) || end <= 0;
    let end = u64::try_from(end).unwrap_or(1).max(1);
    // Never is later than every time.
    let is_unmet = if_none && held != 0
        || if_any && held == 0
        || if_later && (held == 0 || end <= held)
        || if_earlier && held != 0 && end >= held;
    let is_met = !is_unmet;
    if is_met && is_over {
        on.keys.remove(key, Change::Deleted);
    } else if is_met {
        on.keys.set_expiry(key, end);
    }
    on.out.flag(is_met);
    Ok(())
}

pub(super) fn persist(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let ends = on.keys.get(&arguments[1], on.now_ms).is_some_and(|entry| entry.expires_at_ms != 0);
    if ends {
        on.keys.set_expiry(&arguments[1], 0);
    }
    on.out.flag(ends);
    Ok(())
}

/// -2 = no such key, -1 = never.
fn told(on: &mut Read<'_>, key: &[u8], say: impl Fn(u64, u64) -> u64) -> Done {
    on.out.integer(match on.keys.get(key, on.now_ms).map(|entry| entry.expires_at_ms) {
        None => -2,
        Some(0) => -1,
        Some(end) => i64::try_from(say(end, on.now_ms)).unwrap_or(i64::MAX),
    });
    Ok(())
}

pub(super) fn ttl(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    // To the nearest second, as Redis does.
    told(on, &arguments[1], |end, now| (end.saturating_sub(now) + 500) / 1000)
}

pub(super) fn pttl(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    told(on, &arguments[1], |end, now| end.saturating_sub(now))
}

pub(super) fn expiretime(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    told(on, &arguments[1], |end, _| (end + 500) / 1000)
}

pub(super) fn pexpiretime(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    told(on, &arguments[1], |end, _| end)
}

fn held(on: &Write<'_>, key: &[u8]) -> Option<Entry> {
    on.keys.get(key, on.now_ms).cloned()
}

/// Gives what was held under one key another one.
fn move_to(on: &mut Write<'_>, from: &[u8], to: &[u8], entry: Entry) {
    on.keys.notices.announce(Doing::RENAME_FROM);
    on.keys.remove(from, Change::Deleted);
    on.keys.notices.announce(Doing::RENAME_TO);
    on.keys.put(to, entry.value, entry.expires_at_ms);
}

pub(super) fn rename(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let Some(entry) = held(on, &arguments[1]) else { return refuse("ERR no such key") };
    if arguments[1] != arguments[2] {
        move_to(on, &arguments[1], &arguments[2], entry);
    }
    on.out.ok();
    Ok(())
}

pub(super) fn renamenx(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let Some(entry) = held(on, &arguments[1]) else { return refuse("ERR no such key") };
    let is_free = held(on, &arguments[2]).is_none();
    if is_free {
        move_to(on, &arguments[1], &arguments[2], entry);
    }
    on.out.flag(is_free);
    Ok(())
}

pub(super) fn copy(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let mut replaces = false;
    let mut rest = &arguments[3..];
    while let Some((option, more)) = rest.split_first() {
        rest = more;
        if is(option, "replace") {
            replaces = true;
        } else if let (true, [database, more @ ..]) = (is(option, "db"), rest) {
            if integer(database)? != 0 {
                return refuse("ERR DB index is out of range: there is database 0 only");
            }
            rest = more;
        } else {
            return refuse(SYNTAX);
        }
    }
    if arguments[1] == arguments[2] {
        return refuse("ERR source and destination objects are the same");
    }
    let copied = match held(on, &arguments[1]) {
        Some(entry) if replaces || held(on, &arguments[2]).is_none() => {
            on.keys.put(&arguments[2], entry.value, entry.expires_at_ms);
            true
        }
        _ => false,
    };
    on.out.flag(copied);
    Ok(())
}

pub(super) fn keys(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let found = on.keys.iter(on.now_ms).map(|(key, _)| key).filter(|key| matches(&arguments[1], key));
    on.out.counted(found, |out, key| out.bulk(key));
    Ok(())
}

pub(super) fn dbsize(on: &mut Read<'_>, _arguments: &[Bytes]) -> Done {
    on.out.count(on.keys.len());
    Ok(())
}

pub(super) fn randomkey(on: &mut Read<'_>, _arguments: &[Bytes]) -> Done {
    let random = on.random.number();
    on.out.bulk_or_null(on.keys.any(random, on.now_ms));
    Ok(())
}

pub(super) fn flush(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    match &arguments[1..] {
        [] => {}
        // It is done at once in either case: nobody sees a part of it.
        [option] if is(option, "sync") || is(option, "async") => {}
        _ => return refuse(SYNTAX),
    }
    on.keys.clear();
    on.out.ok();
    Ok(())
}

pub(super) fn object(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let [_, command, key] = arguments else {
        return refuse("ERR wrong number of arguments for 'object' command");
    };
    let entry = on.keys.get(key, on.now_ms);
    match (lower(command).as_str(), entry) {
        ("encoding" | "refcount", None) => on.out.null(),
        ("encoding", Some(entry)) => on.out.bulk(entry.value.encoding(on.encodings).as_bytes()),
        ("refcount", Some(_)) => on.out.integer(1),
        ("freq" | "idletime", None) => on.out.null(),
        ("freq", Some(entry)) => on.out.integer(i64::from(entry.access.frequency(on.now_ms))),
        ("idletime", Some(entry)) => {
            on.out.integer(i64::try_from(entry.access.idle_s(on.now_ms)).unwrap_or(i64::MAX));
        }
        (name, _) => return refuse(format!("ERR unknown subcommand '{name}'. Try OBJECT HELP.")),
    }
    Ok(())
}

pub(super) fn memory(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let [_, command, key, ..] = arguments else { return refuse("ERR unknown subcommand. Try MEMORY HELP.") };
    if !is(command, "usage") {
        return refuse("ERR unknown subcommand. Try MEMORY HELP.");
    }
    match &arguments[3..] {
        [] => {}
        [option, samples] if is(option, "samples") && integer(samples)? >= 0 => {}
        _ => return refuse(SYNTAX),
    }
    match on.keys.bytes_of(key, on.now_ms) {
        Some(bytes) => on.out.count(bytes),
        None => on.out.null(),
    }
    Ok(())
}

/// What a page of a scan is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// Where to go on.
    pub(crate) cursor: u64,
    /// About how many.
    pub(crate) count: usize,
    /// Which.
    pub(crate) pattern: Option<Bytes>,
    /// Of which type.
    pub(crate) kind: Option<String>,
    /// Words that were said, of those that may be.
    pub(crate) flags: Vec<String>,
}

/// `cursor [MATCH pattern] [COUNT count]`, and words that have no value.
pub(crate) fn scan_options(arguments: &[Bytes], flags: &[&str]) -> Done<Page> {
    options(arguments, flags, false)
}

/// The same for SCAN, which also takes `[TYPE type]`.
pub(crate) fn key_scan_options(arguments: &[Bytes]) -> Done<Page> {
    options(arguments, &[], true)
}

fn options(arguments: &[Bytes], flags: &[&str], of_keys: bool) -> Done<Page> {
    let cursor = std::str::from_utf8(&arguments[0]).ok().and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or_else(|| Refusal::new("ERR invalid cursor"))?;
    let mut page = Page { cursor, count: 10, pattern: None, kind: None, flags: Vec::new() };
    let mut rest = &arguments[1..];
    while let Some((option, more)) = rest.split_first() {
        let option = lower(option);
        rest = more;
        if flags.contains(&option.as_str()) {
            page.flags.push(option);
            continue;
        }
        let Some((value, more)) = rest.split_first() else { return refuse(SYNTAX) };
        rest = more;
        match option.as_str() {
            "match" => page.pattern = Some(value.clone()),
            "count" => match canonical_integer(value) {
                Some(count) if count >= 1 => page.count = usize::try_from(count).unwrap_or(usize::MAX),
                Some(_) => return refuse(SYNTAX),
                None => return refuse(NOT_AN_INTEGER),
            },
            "type" if of_keys => page.kind = Some(lower(value)),
            _ => return refuse(SYNTAX),
        }
    }
    Ok(page)
}

pub(super) fn dump(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let Some(entry) = on.keys.get(&arguments[1], on.now_ms) else {
        on.out.null();
        return Ok(());
    };
    let mut dumped = Vec::with_capacity(entry.value.bytes());
    let version = serialized::write_value(&entry.value, &mut dumped);
    serialized::seal(&mut dumped, version);
    on.out.bulk(&dumped);
    Ok(())
}

pub(super) fn restore(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let (key, payload) = (&arguments[1], &arguments[3]);
    let (mut replaces, mut is_absolute) = (false, false);
    let (mut used_ms, mut frequency) = (on.now_ms, None);
    let mut rest = &arguments[4..];
    loop {
        rest = match rest {
            [] => break,
            [word, more @ ..] if is(word, "replace") => {
                replaces = true;
                more
            }
            [word, more @ ..] if is(word, "absttl") => {
                is_absolute = true;
                more
            }
            [word, value, more @ ..] if is(word, "idletime") || is(word, "freq") => {
                let value = integer(value)?;
                if value < 0 {
                    return refuse("ERR Invalid IDLETIME value, must be >= 0");
                }
                if is(word, "freq") && value > 255 {
                    return refuse("ERR Invalid FREQ value, must be >= 0 and <= 255");
                }
                let value = value.unsigned_abs();
                match is(word, "freq") {
                    true => frequency = u8::try_from(value).ok(),
                    false => used_ms = on.now_ms.saturating_sub(value.saturating_mul(1000)),
                }
                more
            }
            _ => return refuse(SYNTAX),
        };
    }
    if !replaces && on.keys.get(key, on.now_ms).is_some() {
        return refuse("BUSYKEY Target key name already exists.");
    }
    let Ok(ttl) = u64::try_from(integer(&arguments[2])?) else {
        return refuse("ERR Invalid TTL value, must be >= 0");
    };
    let mut reader = serialized::Reader::sealed(payload)?;
    let value = serialized::read_value(&mut reader, on.now_ms, on.encodings)?;
    let end = if ttl == 0 || is_absolute { ttl } else { on.now_ms.saturating_add(ttl) };
    if end != 0 && end <= on.now_ms || value.is_gone() {
        // It is over already.
        if on.keys.get(key, on.now_ms).is_some() {
            on.keys.remove(key, Change::Deleted);
        }
    } else {
        on.keys.put(key, value, end);
        on.keys.was_used(key, used_ms, frequency);
    }
    on.out.ok();
    Ok(())
}
