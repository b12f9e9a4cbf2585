//! Commands on streams and their entries. [`group`]: on groups of consumers; [`info`]: what XINFO tells.

use std::sync::Arc;

use bytes::Bytes;

use super::arguments::{NOT_AN_INTEGER, SYNTAX, blob, integer, is};
use super::reply::Answer;
use super::{Done, Read, Refusal, Write, refuse};
use crate::data::notice::{Classes, Doing};
use crate::data::set::canonical_integer;
use crate::data::stream::{Entry, Id, Stream};
use crate::limits::{STREAM_READ_MAX, STREAM_TRIM_LIMIT_CHUNKS};

pub(super) mod group;
pub(super) mod info;

/// Said of what should be an id.
const NO_ID: &str = "ERR Invalid stream ID specified as stream command argument";

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?
        .parse()
        .ok()
}

/// An id, of which the sequence may be left out.
fn id(argument: &[u8], sequence: u64) -> Done<Id> {
    let (ms, rest) = match memchr::memchr(b'-', argument) {
        Some(dash) => (&argument[..dash], Some(&argument[dash + 1..])),
        None => (argument, None),
    };
    let ms = number(ms);
    let sequence = rest.map_or(Some(sequence), number);
    match (ms, sequence) {
        (Some(ms), Some(sequence)) => Ok(Id { ms, sequence }),
        _ => refuse(NO_ID),
    }
}

/// An end of a range: `-`, `+`, an id, or `(` and an id that is not in it.
fn range_id(argument: &[u8], is_first: bool) -> Done<Id> {
    let (excluded, digits) = match argument.strip_prefix(b"(") {
        Some(digits) => (true, digits),
        None => (false, argument),
    };
    let found = match digits {
        b"-" if !excluded => Id::MIN,
        b"+" if !excluded => Id::MAX,
        digits => id(digits, if is_first { 0 } else { u64::MAX })?,
    };
    if !excluded {
        return Ok(found);
    }
    if is_first {
        found.next().ok_or_else(|| Refusal::new("ERR invalid start ID for the interval"))
    } else {
        found.previous().ok_or_else(|| Refusal::new("ERR invalid end ID for the interval"))
    }
}

fn say_id(out: &mut Answer, id: Id) {
    out.bulk(id.to_string().as_bytes());
}

fn say_entry(out: &mut Answer, entry: &Entry) {
    out.array(2);
    say_id(out, entry.id);
    out.array(entry.words.len());
    entry.words.iter().for_each(|word| out.bulk(word));
}

/// What is trimmed.
#[derive(Clone, Copy, Debug)]
struct Trim {
    most: Option<usize>,
    least_id: Option<Id>,
    /// Whole chunks only, as is cheapest.
    about: bool,
    limit: Option<usize>,
}

impl Trim {
    /// `MAXLEN | MINID [= | ~] threshold [LIMIT count]` at the begin of arguments, and what follows.
    fn parse(arguments: &[Bytes]) -> Done<Option<(Self, &[Bytes])>> {
        let Some((word, mut rest)) = arguments.split_first() else { return Ok(None) };
        let by_length = is(word, "maxlen");
        if !by_length && !is(word, "minid") {
            return Ok(None);
        }
        let mut trim = Self { most: None, least_id: None, about: false, limit: None };
        if let [how, more @ ..] = rest
            && [&b"="[..], b"~"].contains(&&how[..])
        {
            trim.about = how == "~";
            rest = more;
        }
        let Some((threshold, more)) = rest.split_first() else { return refuse(SYNTAX) };
        rest = more;
        if by_length {
            let most = integer(threshold)?;
            match usize::try_from(most) {
                Ok(most) => trim.most = Some(most),
                Err(_negative) => return refuse("ERR The MAXLEN argument must be >= 0."),
            }
        } else {
            trim.least_id = Some(id(threshold, 0)?);
        }
        if let [word, limit, more @ ..] = rest
            && is(word, "limit")
        {
            match usize::try_from(integer(limit)?) {
                Ok(limit) => trim.limit = Some(limit),
                Err(_negative) => return refuse("ERR The LIMIT argument must be >= 0."),
            }
            if !trim.about {
                return refuse("ERR syntax error, LIMIT cannot be used without the special ~ option");
            }
            rest = more;
        }
        Ok(Some((trim, rest)))
    }

    fn apply(self, stream: &mut Stream, chunk_entries: usize) -> usize {
        let goes = |left: usize, entry: &Entry| match (self.most, self.least_id) {
            (Some(most), _) => left > most,
            (None, Some(least)) => entry.id < least,
            (None, None) => false,
        };
        let limit = match self.limit {
            None if self.about => STREAM_TRIM_LIMIT_CHUNKS.saturating_mul(chunk_entries.max(1)),
            None | Some(0) => usize::MAX,
            Some(limit) => limit,
        };
        stream.trim(goes, self.about, limit)
    }
}

pub(super) fn xadd(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let (mut create, mut trim) = (true, None);
    let mut rest = &arguments[2..];
    loop {
        if let [word, more @ ..] = rest
            && is(word, "nomkstream")
        {
            create = false;
            rest = more;
        } else if let Some((parsed, more)) = Trim::parse(rest)? {
            if trim.replace(parsed).is_some() {
                return refuse(
                    "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
                );
            }
            rest = more;
        } else {
            break;
        }
    }
    let Some((wanted, words)) = rest.split_first() else {
        return refuse("ERR wrong number of arguments for 'xadd' command");
    };
    if words.is_empty() || !words.len().is_multiple_of(2) {
        return refuse("ERR wrong number of arguments for 'xadd' command");
    }
    let wanted = match &wanted[..] {
        b"*" => None,
        wanted => Some(match wanted.strip_suffix(b"-*") {
            Some(ms) => (number(ms).ok_or_else(|| Refusal::new(NO_ID))?, None),
            None => {
                let id = id(wanted, 0)?;
                if id == Id::MIN {
                    return refuse("ERR The ID specified in XADD must be greater than 0-0");
                }
                (id.ms, Some(id.sequence))
            }
        }),
    };
    let Some(held) =
        on.look::<Stream>(&arguments[1])?.map(|stream| stream.last).or_else(|| create.then_some(Id::MIN))
    else {
        on.out.null();
        return Ok(());
    };
    let small = "ERR The ID specified in XADD is equal or smaller than the target stream top item";
    let spent = "ERR The stream has exhausted the last possible ID, unable to add more items";
    let behind = || held.next().ok_or_else(|| Refusal::new(spent));
    let id = match wanted {
        _ if held == Id::MAX => return refuse(spent),
        None if on.now_ms > held.ms => Id { ms: on.now_ms, sequence: 0 },
        None => behind()?,
        Some((ms, Some(sequence))) => Id { ms, sequence },
        Some((ms, None)) if ms == held.ms => behind()?,
        Some((ms, None)) => Id { ms, sequence: 0 },
    };
    if id <= held || wanted.is_some_and(|(ms, _)| ms < id.ms) {
        return refuse(small);
    }
    let words: Arc<[_]> = words.iter().map(|word| blob(word)).collect();
    let trimmed = on.update(&arguments[1], |stream: &mut Stream, encodings| {
        stream.add(id, words, encodings);
        (true, trim.map_or(0, |trim| trim.apply(stream, encodings.stream_node_max_entries)))
    })?;
    if trimmed > 0 {
        on.keys.notices.note(Doing::new(Classes::STREAM, "xtrim"), &arguments[1]);
    }
    say_id(on.out, id);
    Ok(())
}

pub(super) fn xtrim(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let Some((trim, rest)) = Trim::parse(&arguments[2..])? else { return refuse(SYNTAX) };
    if Trim::parse(rest)?.is_some() {
        return refuse("ERR syntax error, MAXLEN and MINID options at the same time are not compatible");
    }
    if !rest.is_empty() {
        return refuse(SYNTAX);
    }
    if on.look::<Stream>(&arguments[1])?.is_none() {
        on.out.integer(0);
        return Ok(());
    }
    let removed = on.update(&arguments[1], |stream: &mut Stream, encodings| {
        let removed = trim.apply(stream, encodings.stream_node_max_entries);
        (removed > 0, removed)
    })?;
    on.out.count(removed);
    Ok(())
}

pub(super) fn xdel(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    if on.look::<Stream>(&arguments[1])?.is_none() {
        on.out.integer(0);
        return Ok(());
    }
    let ids = arguments[2..].iter().map(|argument| id(argument, 0)).collect::<Done<Vec<Id>>>()?;
    let removed = on.update(&arguments[1], |stream: &mut Stream, _| {
        let removed = ids.iter().filter(|id| stream.delete(**id)).count();
        (removed > 0, removed)
    })?;
    on.out.count(removed);
    Ok(())
}

pub(super) fn xlen(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    on.out.count(on.look::<Stream>(&arguments[1])?.map_or(0, Stream::len));
    Ok(())
}

pub(super) fn xrange(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    say_range(on, arguments, false)
}

pub(super) fn xrevrange(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    say_range(on, arguments, true)
}

fn say_range(on: &mut Read<'_>, arguments: &[Bytes], down: bool) -> Done {
    let (first, last) = if down { (&arguments[3], &arguments[2]) } else { (&arguments[2], &arguments[3]) };
    let (first, last) = (range_id(first, true)?, range_id(last, false)?);
    let most = match &arguments[4..] {
        [] => usize::MAX,
        [word, count] if is(word, "count") => usize::try_from(integer(count)?).unwrap_or_default(),
        _ => return refuse(SYNTAX),
    };
    let Some(stream) = on.look::<Stream>(&arguments[1])? else {
        on.out.array(0);
        return Ok(());
    };
    if most == 0 {
        on.out.null_array();
    } else if down {
        on.out.counted(stream.range_down(first, last).take(most), say_entry);
    } else {
        on.out.counted(stream.range(first, last).take(most), say_entry);
    }
    Ok(())
}

/// Keys and what is asked of each, behind STREAMS.
pub(crate) struct Reading<'a> {
    /// At most so many entries of each.
    pub(crate) count: usize,
    /// How long it is waited, milliseconds; 0 = for ever.
    pub(crate) block_ms: Option<u64>,
    /// The group and the consumer in it.
    pub(crate) group: Option<(&'a Bytes, &'a Bytes)>,
    /// Entries count as done when they are given out.
    pub(crate) no_ack: bool,
    /// The keys.
    pub(crate) keys: &'a [Bytes],
    /// Of each the last id that was seen, or a sign.
    pub(crate) ids: &'a [Bytes],
}

/// The options of XREAD and XREADGROUP.
pub(crate) fn reading(arguments: &[Bytes]) -> Done<Reading<'_>> {
    let of_group = is(&arguments[0], "xreadgroup");
    let mut reading =
        Reading { count: STREAM_READ_MAX, block_ms: None, group: None, no_ack: false, keys: &[], ids: &[] };
    let mut rest = &arguments[1..];
    loop {
        rest = match rest {
            [word, count, more @ ..] if is(word, "count") => {
                reading.count = usize::try_from(integer(count)?)
                    .ok()
                    .filter(|count| *count > 0)
                    .unwrap_or(STREAM_READ_MAX);
                more
            }
            [word, ms, more @ ..] if is(word, "block") => {
                let ms = canonical_integer(ms)
                    .ok_or_else(|| Refusal::new("ERR timeout is not an integer or out of range"))?;
                match u64::try_from(ms) {
                    Ok(ms) => reading.block_ms = Some(ms),
                    Err(_negative) => return refuse("ERR timeout is negative"),
                }
                more
            }
            [word, group, consumer, more @ ..] if is(word, "group") => {
                if !of_group {
                    return refuse(
                        "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.",
                    );
                }
                reading.group = Some((group, consumer));
                more
            }
            [word, more @ ..] if is(word, "noack") => {
                if !of_group {
                    return refuse(
                        "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.",
                    );
                }
                reading.no_ack = true;
                more
            }
            [word, more @ ..] if is(word, "streams") && !more.is_empty() => {
                if !more.len().is_multiple_of(2) {
                    let (name, sign) = if of_group { ("xreadgroup", '>') } else { ("xread", '$') };
                    return refuse(format!(
                        "ERR Unbalanced '{name}' list of streams: for each stream key an ID or '{sign}' must be specified."
                    ));
                }
                (reading.keys, reading.ids) = more.split_at(more.len() / 2);
                break;
            }
            _ => return refuse(SYNTAX),
        };
    }
    if of_group && reading.group.is_none() {
        return refuse("ERR Missing GROUP option for XREADGROUP");
    }
    Ok(reading)
}

/// The last id that was seen, of what XREAD was told. `last` = that of the stream.
pub(crate) fn seen(argument: &[u8], last: Id, before_last: Option<Id>) -> Done<Id> {
    match argument {
        b"$" => Ok(last),
        b"+" => Ok(before_last.unwrap_or(last)),
        b">" => refuse(
            "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.",
        ),
        argument => id(argument, 0),
    }
}

pub(super) fn xread(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let reading = reading(arguments)?;
    let mut found = Vec::new();
    for (key, wanted) in reading.keys.iter().zip(reading.ids) {
        let stream = on.look::<Stream>(key)?;
        let last = stream.map_or(Id::MIN, |stream| stream.last);
        let newest =
            stream.and_then(|stream| stream.iter().next_back()).and_then(|entry| entry.id.previous());
        let seen = seen(wanted, last, newest)?;
        let entries: Vec<&Entry> = match (stream, seen.next()) {
            (Some(stream), Some(next)) => stream.range(next, Id::MAX).take(reading.count).collect(),
            _ => Vec::new(),
        };
        if !entries.is_empty() {
            found.push((key, entries));
        }
    }
    if found.is_empty() {
        on.out.null_array();
        return Ok(());
    }
    on.out.paired_map(found.len());
    for (key, entries) in found {
        on.out.bulk(key);
        on.out.array(entries.len());
        entries.iter().for_each(|entry| say_entry(on.out, entry));
    }
    Ok(())
}

pub(super) fn xsetid(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let last = id(&arguments[2], 0)?;
    let (mut added, mut max_deleted) = (None, None);
    let (pairs, odd) = arguments[3..].as_chunks::<2>();
    if !odd.is_empty() {
        return refuse(SYNTAX);
    }
    for [option, value] in pairs {
        if is(option, "entriesadded") {
            match u64::try_from(integer(value)?) {
                Ok(value) => added = Some(value),
                Err(_negative) => return refuse("ERR entries_added must be positive"),
            }
        } else if is(option, "maxdeletedid") {
            let id = id(value, 0)?;
            if id > last {
                return refuse(
                    "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
                );
            }
            max_deleted = Some(id);
        } else {
            return refuse(SYNTAX);
        }
    }
    let Some(stream) = on.look::<Stream>(&arguments[1])? else { return refuse("ERR no such key") };
    if last < stream.max_deleted {
        return refuse("ERR The ID specified in XSETID is smaller than current max_deleted_entry_id");
    }
    if stream.iter().next_back().is_some_and(|newest| last < newest.id) {
        return refuse("ERR The ID specified in XSETID is smaller than the target stream top item");
    }
    if added.is_some_and(|added| added < stream.len() as u64) {
        return refuse("ERR The entries_added specified in XSETID is smaller than the target stream length");
    }
    on.update(&arguments[1], |stream: &mut Stream, _| {
        stream.last = last;
        stream.added = added.unwrap_or(stream.added);
        stream.max_deleted = max_deleted.filter(|id| *id != Id::MIN).unwrap_or(stream.max_deleted);
        (true, ())
    })?;
    on.out.ok();
    Ok(())
}

/// What is no number of entries.
fn entries_read(argument: &[u8]) -> Done<Option<u64>> {
    match canonical_integer(argument) {
        None => refuse(NOT_AN_INTEGER),
        Some(-1) => Ok(None),
        Some(number) => match u64::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_negative) => refuse("ERR value for ENTRIESREAD must be positive or -1"),
        },
    }
}
