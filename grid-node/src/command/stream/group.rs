//! Groups of consumers: XGROUP, XREADGROUP, XACK, XPENDING, XCLAIM, XAUTOCLAIM.

use bytes::Bytes;

use super::super::arguments::{SYNTAX, integer, is, lower};
use super::super::reply::Answer;
use super::super::{Done, Read, Refusal, Write, refuse};
use super::{Entry, Id, Stream, entries_read, id, range_id, reading, say_entry, say_id};
use crate::data::notice::{Classes, Doing};
use crate::data::stream::Group;

/// Entries that XAUTOCLAIM looks at for each that it is to return.
const ATTEMPTS: usize = 10;

fn no_group(key: &[u8], group: &[u8], more: &str) -> Refusal {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Refusal::new(format!("NOGROUP No such key '{}' or consumer group '{}'{more}", text(key), text(group)))
}

/// Tells of a consumer that a group did not have before.
fn note_consumer(on: &mut Write<'_>, key: &[u8], group: &[u8], consumer: &[u8], was_there: bool) {
    if !was_there && has_consumer(on, key, group, consumer) {
        on.keys.notices.note(Doing::new(Classes::STREAM, "xgroup-createconsumer"), key);
    }
}

fn has_consumer(on: &Write<'_>, key: &[u8], group: &[u8], consumer: &[u8]) -> bool {
    let stream = on.look::<Stream>(key).ok().flatten();
    stream.and_then(|stream| stream.group(group)).is_some_and(|group| group.consumers.contains_key(consumer))
}

/// The last entry that a group is to have had.
fn from_id(argument: &[u8], stream: Option<&Stream>) -> Done<Id> {
    match argument {
        b"$" => Ok(stream.map_or(Id::MIN, |stream| stream.last)),
        b"-" => Ok(Id::MIN),
        b"+" => Ok(Id::MAX),
        argument => id(argument, 0),
    }
}

pub(in super::super) fn xgroup(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let sub = lower(&arguments[1]);
    let few = || {
        Refusal::new(format!(
            "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try XGROUP HELP."
        ))
    };
    let [key, name, rest @ ..] = &arguments[2..] else { return Err(few()) };
    let (mut create_stream, mut read) = (false, None);
    if sub == "create" || sub == "setid" {
        let mut options = rest.get(1..).ok_or_else(few)?;
        loop {
            options = match options {
                [] => break,
                [word, more @ ..] if is(word, "mkstream") && sub == "create" => {
                    create_stream = true;
                    more
                }
                [word, number, more @ ..] if is(word, "entriesread") => {
                    read = entries_read(number)?;
                    more
                }
                _ => return Err(few()),
            };
        }
    }
    let stream = on.look::<Stream>(key)?;
    if stream.is_none() && !create_stream {
        return refuse(
            "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the \
             MKSTREAM option to create an empty stream automatically.",
        );
    }
    let is_group = stream.is_some_and(|stream| stream.group(name).is_some());
    match (sub.as_str(), rest) {
        ("create", [last, ..]) => {
            let last = from_id(last, stream)?;
            let created =
                on.update(key, |stream: &mut Stream, _| (true, stream.create_group(name, last, read)))?;
            if !created {
                return refuse("BUSYGROUP Consumer Group name already exists");
            }
            on.out.ok();
        }
        ("setid", [last, ..]) => {
            let last = from_id(last, stream)?;
            if !is_group {
                return Err(no_such_group(key, name));
            }
            on.update(key, |stream: &mut Stream, _| {
                if let Some(group) = stream.group_mut(name) {
                    (group.last, group.read) = (last, read);
                }
                (true, ())
            })?;
            on.out.ok();
        }
        ("destroy", []) => {
            let removed = on.update(key, |stream: &mut Stream, _| {
                let removed = stream.remove_group(name);
                (removed, removed)
            })?;
            on.out.flag(removed);
        }
        ("createconsumer", [consumer]) => {
            if !is_group {
                return Err(no_such_group(key, name));
            }
            let now_ms = on.now_ms;
            let is_new = on.update(key, |stream: &mut Stream, _| {
                let group = stream.group_mut(name);
                let is_new = group.is_some_and(|group| {
                    let is_new = !group.consumers.contains_key(&consumer[..]);
                    if is_new {
                        group.consumer(consumer, now_ms);
                    }
                    is_new
                });
                (is_new, is_new)
            })?;
            on.out.flag(is_new);
        }
        ("delconsumer", [consumer]) => {
            if !is_group {
                return Err(no_such_group(key, name));
            }
            let pending = on.update(key, |stream: &mut Stream, _| {
                let Some(group) = stream.group_mut(name) else { return (false, 0) };
                let Some(consumer) = group.consumers.remove(&consumer[..]) else { return (false, 0) };
                for id in &consumer.pending {
                    group.pending.remove(id);
                }
                (true, consumer.pending.len())
            })?;
            on.out.count(pending);
        }
        _ => return Err(few()),
    }
    Ok(())
}

fn no_such_group(key: &[u8], group: &[u8]) -> Refusal {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Refusal::new(format!("NOGROUP No such consumer group '{}' for key name '{}'", text(group), text(key)))
}

pub(in super::super) fn xreadgroup(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let reading = reading(arguments)?;
    let Some((name, consumer)) = reading.group else { return refuse(SYNTAX) };
    let mut wanted = Vec::new();
    for (key, asked) in reading.keys.iter().zip(reading.ids) {
        let stream = on.look::<Stream>(key)?;
        if stream.and_then(|stream| stream.group(name)).is_none() {
            return Err(no_group(key, name, " in XREADGROUP with GROUP option"));
        }
        wanted.push(match &asked[..] {
            b">" => None,
            b"$" => {
                return refuse(
                    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this \
                     consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just \
                     return an empty result set.",
                );
            }
            asked => Some(id(asked, 0)?),
        });
    }
    let now_ms = on.now_ms;
    let mut found: Vec<(&Bytes, Answer)> = Vec::new();
    for (key, wanted) in reading.keys.iter().zip(&wanted) {
        let was_there = has_consumer(on, key, name, consumer);
        let answer = on.update(key, |stream: &mut Stream, _| match wanted {
            None => news(stream, name, consumer, reading.count, reading.no_ack, now_ms),
            Some(seen) => (true, Some(history(stream, name, consumer, *seen, reading.count, now_ms))),
        })?;
        note_consumer(on, key, name, consumer, was_there);
        found.extend(answer.map(|answer| (key, answer)));
    }
    if found.is_empty() {
        on.out.null_array();
        return Ok(());
    }
    on.out.paired_map(found.len());
    for (key, answer) in found {
        on.out.bulk(key);
        let (bytes, typed) = answer.finish();
        on.out.encoded(&bytes, typed);
    }
    Ok(())
}

/// Gives entries out that nobody of the group has had. Whether anything has changed, and what was given.
fn news(
    stream: &mut Stream,
    name: &[u8],
    consumer: &[u8],
    count: usize,
    no_ack: bool,
    now_ms: u64,
) -> (bool, Option<Answer>) {
    let Some(last) = stream.group(name).map(|group| group.last) else { return (false, None) };
    let first = last.next().unwrap_or(Id::MAX);
    let entries: Vec<Entry> = if last == Id::MAX {
        Vec::new()
    } else {
        stream.range(first, Id::MAX).take(count).cloned().collect()
    };
    let mut read = stream.group(name).and_then(|group| group.read);
    for entry in &entries {
        read = match read {
            Some(read) if !stream.has_gap_from(entry.id) => Some(read + 1),
            read if stream.added == 0 => read,
            _ => stream.added_up_to(entry.id),
        };
    }
    let Some(group) = stream.group_mut(name) else { return (false, None) };
    let is_new = !group.consumers.contains_key(consumer);
    let held = group.consumer(consumer, now_ms);
    if entries.is_empty() {
        return (is_new, None);
    }
    held.active_ms = now_ms;
    group.read = read;
    let mut answer = Answer::default();
    answer.array(entries.len());
    for entry in &entries {
        say_entry(&mut answer, entry);
        group.last = entry.id;
        if !no_ack {
            group.give(entry.id, consumer, now_ms, 1);
        }
    }
    (true, Some(answer))
}

/// What a consumer has had and has not acknowledged, behind an id.
fn history(stream: &mut Stream, name: &[u8], consumer: &[u8], seen: Id, count: usize, now_ms: u64) -> Answer {
    let mut answer = Answer::default();
    let ids: Vec<Id> = match stream.group_mut(name) {
        Some(group) => {
            let pending = &group.consumer(consumer, now_ms).pending;
            let behind = (std::ops::Bound::Excluded(seen), std::ops::Bound::Unbounded);
            pending.range(behind).take(count).copied().collect()
        }
        None => Vec::new(),
    };
    answer.array(ids.len());
    for id in &ids {
        match stream.get(*id) {
            Some(entry) => say_entry(&mut answer, entry),
            None => {
                // It was deleted.
                answer.array(2);
                say_id(&mut answer, *id);
                answer.null_array();
            }
        }
    }
    if let Some(group) = stream.group_mut(name) {
        for id in ids {
            if let Some(pending) = group.pending.get_mut(&id) {
                pending.delivered_ms = now_ms;
                pending.count += 1;
            }
        }
    }
    answer
}

pub(in super::super) fn xack(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    if on.look::<Stream>(&arguments[1])?.is_none_or(|stream| stream.group(&arguments[2]).is_none()) {
        on.out.integer(0);
        return Ok(());
    }
    let ids = arguments[3..].iter().map(|argument| id(argument, 0)).collect::<Done<Vec<Id>>>()?;
    let settled = on.update(&arguments[1], |stream: &mut Stream, _| {
        let Some(group) = stream.group_mut(&arguments[2]) else { return (false, 0) };
        let settled = ids.iter().filter(|id| group.settle(**id)).count();
        (settled > 0, settled)
    })?;
    on.out.count(settled);
    Ok(())
}

pub(in super::super) fn xpending(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let mut rest = &arguments[3..];
    let mut least_idle = None;
    if let [word, ms, more @ ..] = rest
        && is(word, "idle")
    {
        least_idle = Some(integer(ms)?);
        if more.is_empty() {
            return refuse(SYNTAX);
        }
        rest = more;
    }
    let wanted = match rest {
        [] => None,
        [first, last, count] => Some((first, last, count, None)),
        [first, last, count, consumer] => Some((first, last, count, Some(consumer))),
        _ => return refuse(SYNTAX),
    };
    let wanted = match wanted {
        None => None,
        Some((first, last, count, consumer)) => {
            let count = usize::try_from(integer(count)?).unwrap_or(0);
            Some((range_id(first, true)?, range_id(last, false)?, count, consumer))
        }
    };
    let group = on.look::<Stream>(&arguments[1])?.and_then(|stream| stream.group(&arguments[2]));
    let Some(group) = group else { return Err(no_group(&arguments[1], &arguments[2], "")) };
    let Some((first, last, count, consumer)) = wanted else {
        summary(on.out, group);
        return Ok(());
    };
    let now_ms = on.now_ms;
    let found = group.pending.range(first..=last.max(first)).filter(|(id, pending)| {
        **id <= last
            && consumer.is_none_or(|consumer| *pending.consumer == **consumer)
            && least_idle.is_none_or(|least| {
                i64::try_from(now_ms.saturating_sub(pending.delivered_ms)).unwrap_or(i64::MAX) >= least
            })
    });
    on.out.counted(found.take(count), |out, (id, pending)| {
        out.array(4);
        say_id(out, *id);
        out.bulk(&pending.consumer);
        out.integer(i64::try_from(now_ms.saturating_sub(pending.delivered_ms)).unwrap_or(i64::MAX));
        out.integer(i64::try_from(pending.count).unwrap_or(i64::MAX));
    });
    Ok(())
}

fn summary(out: &mut Answer, group: &Group) {
    out.array(4);
    out.count(group.pending.len());
    let (Some((first, _)), Some((last, _))) =
        (group.pending.first_key_value(), group.pending.last_key_value())
    else {
        out.null();
        out.null();
        out.null_array();
        return;
    };
    say_id(out, *first);
    say_id(out, *last);
    let busy = group.consumers.iter().filter(|(_, consumer)| !consumer.pending.is_empty());
    out.counted(busy, |out, (name, consumer)| {
        out.array(2);
        out.bulk(name);
        out.bulk(consumer.pending.len().to_string().as_bytes());
    });
}

#[derive(Clone, Copy, Debug, Default)]
struct Claim {
    delivered_ms: Option<u64>,
    count: Option<u64>,
    force: bool,
    only_ids: bool,
    last: Option<Id>,
}

fn least_idle(argument: &[u8], command: &str) -> Done<u64> {
    let ms = integer(argument)
        .map_err(|_| Refusal::new(format!("ERR Invalid min-idle-time argument for {command}")))?;
    Ok(u64::try_from(ms).unwrap_or(0))
}

pub(in super::super) fn xclaim(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let (name, consumer) = (&arguments[2], &arguments[3]);
    let Some(held) = on.look::<Stream>(&arguments[1])? else {
        return Err(no_group(&arguments[1], name, ""));
    };
    if held.group(name).is_none() {
        return Err(no_group(&arguments[1], name, ""));
    }
    let least_idle = least_idle(&arguments[4], "XCLAIM")?;
    let mut rest = &arguments[5..];
    let mut ids = Vec::new();
    while let Some((word, more)) = rest.split_first()
        && let Ok(id) = id(word, 0)
    {
        ids.push(id);
        rest = more;
    }
    let mut claim = Claim::default();
    let now_ms = on.now_ms;
    loop {
        rest = match rest {
            [] => break,
            [word, more @ ..] if is(word, "force") => {
                claim.force = true;
                more
            }
            [word, more @ ..] if is(word, "justid") => {
                claim.only_ids = true;
                more
            }
            [word, value, more @ ..] if is(word, "idle") => {
                let idle = u64::try_from(integer(value)?).unwrap_or(0);
                claim.delivered_ms = Some(now_ms.saturating_sub(idle));
                more
            }
            [word, value, more @ ..] if is(word, "time") => {
                claim.delivered_ms = Some(u64::try_from(integer(value)?).unwrap_or(0).min(now_ms));
                more
            }
            [word, value, more @ ..] if is(word, "retrycount") => {
                claim.count = Some(u64::try_from(integer(value)?).unwrap_or(0));
                more
            }
            [word, value, more @ ..] if is(word, "lastid") => {
                claim.last = Some(id(value, 0)?);
                more
            }
            [word, ..] => {
                let word = String::from_utf8_lossy(word);
                return refuse(format!("ERR Unrecognized XCLAIM option '{word}'"));
            }
        };
    }
    let was_there = has_consumer(on, &arguments[1], name, consumer);
    let answer = on.update(&arguments[1], |stream: &mut Stream, _| {
        if let (Some(group), Some(last)) = (stream.group_mut(name), claim.last) {
            group.last = group.last.max(last);
        }
        let mut claimed = Vec::new();
        for id in ids {
            let entry = stream.get(id).cloned();
            let Some(group) = stream.group_mut(name) else { break };
            let Some(entry) = entry else {
                // What was deleted is nobody's any more.
                group.settle(id);
                continue;
            };
            let held = group.pending.get(&id).map(|pending| (pending.delivered_ms, pending.count));
            if held.is_none() && !claim.force {
                continue;
            }
            let (delivered_ms, count) = held.unwrap_or((0, 0));
            if held.is_some() && now_ms.saturating_sub(delivered_ms) < least_idle {
                continue;
            }
            group.consumer(consumer, now_ms).active_ms = now_ms;
            let count = claim.count.unwrap_or(if claim.only_ids { count } else { count + 1 });
            group.give(id, consumer, claim.delivered_ms.unwrap_or(now_ms), count);
            claimed.push(entry);
        }
        if let Some(group) = stream.group_mut(name) {
            group.consumer(consumer, now_ms);
        }
        (true, claimed)
    })?;
    note_consumer(on, &arguments[1], name, consumer, was_there);
    say_claimed(on.out, &answer, claim.only_ids);
    Ok(())
}

fn say_claimed(out: &mut Answer, claimed: &[Entry], only_ids: bool) {
    out.array(claimed.len());
    for entry in claimed {
        if only_ids {
            say_id(out, entry.id);
        } else {
            say_entry(out, entry);
        }
    }
}

pub(in super::super) fn xautoclaim(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let (name, consumer) = (&arguments[2], &arguments[3]);
    let least_idle = least_idle(&arguments[4], "XAUTOCLAIM")?;
    let start = range_id(&arguments[5], true)?;
    let (mut count, mut only_ids) = (100, false);
    let mut rest = &arguments[6..];
    loop {
        rest = match rest {
            [] => break,
            [word, value, more @ ..] if is(word, "count") => {
                match usize::try_from(integer(value)?).ok().filter(|count| (1..1 << 40).contains(count)) {
                    Some(wanted) => count = wanted,
                    None => return refuse("ERR COUNT must be > 0"),
                }
                more
            }
            [word, more @ ..] if is(word, "justid") => {
                only_ids = true;
                more
            }
            _ => return refuse(SYNTAX),
        };
    }
    if on.look::<Stream>(&arguments[1])?.is_none_or(|stream| stream.group(name).is_none()) {
        return Err(no_group(&arguments[1], name, ""));
    }
    let now_ms = on.now_ms;
    let was_there = has_consumer(on, &arguments[1], name, consumer);
    let (next, claimed, deleted) = on.update(&arguments[1], |stream: &mut Stream, _| {
        let pending: Vec<(Id, u64, u64)> = stream.group(name).map_or_else(Vec::new, |group| {
            let found = group.pending.range(start..).take(count.saturating_mul(ATTEMPTS) + 1);
            found.map(|(id, pending)| (*id, pending.delivered_ms, pending.count)).collect()
        });
        let (mut claimed, mut deleted) = (Vec::new(), Vec::new());
        let mut next = Id::MIN;
        for (at, (id, delivered_ms, deliveries)) in pending.into_iter().enumerate() {
            if claimed.len() + deleted.len() >= count || at >= count.saturating_mul(ATTEMPTS) {
                next = id;
                break;
            }
            let entry = stream.get(id).cloned();
            let Some(group) = stream.group_mut(name) else { break };
            let Some(entry) = entry else {
                group.settle(id);
                deleted.push(id);
                continue;
            };
            if now_ms.saturating_sub(delivered_ms) < least_idle {
                continue;
            }
            group.consumer(consumer, now_ms).active_ms = now_ms;
            group.give(id, consumer, now_ms, if only_ids { deliveries } else { deliveries + 1 });
            claimed.push(entry);
        }
        if let Some(group) = stream.group_mut(name) {
            group.consumer(consumer, now_ms);
        }
        (true, (next, claimed, deleted))
    })?;
    note_consumer(on, &arguments[1], name, consumer, was_there);
    on.out.array(3);
    say_id(on.out, next);
    say_claimed(on.out, &claimed, only_ids);
    on.out.array(deleted.len());
    deleted.into_iter().for_each(|id| say_id(on.out, id));
    Ok(())
}
