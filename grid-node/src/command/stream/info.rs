//! XINFO: what a stream, its groups and their consumers are like.

use bytes::Bytes;

use super::super::arguments::{SYNTAX, integer, is, lower};
use super::super::reply::Answer;
use super::super::{Done, Read, Refusal, refuse};
use super::{Entry, Id, Stream, say_entry, say_id};
use crate::data::dict::Blob;
use crate::data::stream::{Consumer, Group};

/// Entries of each list that `XINFO STREAM FULL` tells.
const FULL_COUNT: usize = 10;

pub(in super::super) fn xinfo(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let Some(key) = arguments.get(2) else {
        return refuse("ERR unknown subcommand or wrong number of arguments for 'xinfo'. Try XINFO HELP.");
    };
    let stream = on.look::<Stream>(key)?.ok_or_else(|| Refusal::new("ERR no such key"));
    match (lower(&arguments[1]).as_str(), &arguments[3..]) {
        ("stream", []) => short(on.out, stream?),
        ("stream", [word, rest @ ..]) if is(word, "full") => {
            let count = match rest {
                [] => FULL_COUNT,
                [word, count] if is(word, "count") => match usize::try_from(integer(count)?) {
                    Ok(0) => usize::MAX,
                    Ok(count) => count,
                    Err(_negative) => FULL_COUNT,
                },
                _ => return refuse(SYNTAX),
            };
            full(on.out, stream?, count);
        }
        ("groups", []) => {
            let stream = stream?;
            on.out.array(stream.groups().len());
            for (name, group) in stream.groups() {
                on.out.map(6);
                named(on.out, "name", |out| out.bulk(name));
                named(on.out, "consumers", |out| out.count(group.consumers.len()));
                named(on.out, "pending", |out| out.count(group.pending.len()));
                named(on.out, "last-delivered-id", |out| say_id(out, group.last));
                progress(on.out, stream, group);
            }
        }
        ("consumers", [name]) => {
            let group = stream?.group(name).ok_or_else(|| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (group, key) = (text(name), text(key));
                Refusal::new(format!("NOGROUP No such consumer group '{group}' for key name '{key}'"))
            })?;
            on.out.array(group.consumers.len());
            for (name, consumer) in &group.consumers {
                on.out.map(4);
                named(on.out, "name", |out| out.bulk(name));
                named(on.out, "pending", |out| out.count(consumer.pending.len()));
                named(on.out, "idle", |out| number(out, on.now_ms.saturating_sub(consumer.seen_ms)));
                named(on.out, "inactive", |out| match consumer.active_ms {
                    0 => out.integer(-1),
                    active => number(out, on.now_ms.saturating_sub(active)),
                });
            }
        }
        _ => {
            return refuse(
                "ERR unknown subcommand or wrong number of arguments for 'xinfo'. Try XINFO HELP.",
            );
        }
    }
    Ok(())
}

fn named(out: &mut Answer, name: &str, say: impl FnOnce(&mut Answer)) {
    out.bulk(name.as_bytes());
    say(out);
}

fn number(out: &mut Answer, value: u64) {
    out.integer(i64::try_from(value).unwrap_or(i64::MAX));
}

/// How many entries a group has had, and how many are before it.
fn progress(out: &mut Answer, stream: &Stream, group: &Group) {
    let lag = if stream.added == 0 {
        Some(0)
    } else {
        let read = match group.read {
            Some(read) if !stream.has_gap_from(group.last) => Some(read),
            _ => stream.added_up_to(group.last),
        };
        read.map(|read| stream.added.saturating_sub(read))
    };
    let known = |out: &mut Answer, value: Option<u64>| match value {
        Some(value) => number(out, value),
        None => out.null(),
    };
    named(out, "entries-read", |out| known(out, group.read));
    named(out, "lag", |out| known(out, lag));
}

fn head(out: &mut Answer, stream: &Stream) {
    named(out, "length", |out| out.count(stream.len()));
    // The chunks stand for the nodes of the tree that Redis has.
    named(out, "radix-tree-keys", |out| out.count(stream.chunks()));
    named(out, "radix-tree-nodes", |out| out.count(stream.chunks() + 1));
    named(out, "last-generated-id", |out| say_id(out, stream.last));
    named(out, "max-deleted-entry-id", |out| say_id(out, stream.max_deleted));
    named(out, "entries-added", |out| number(out, stream.added));
    let first = stream.first().map_or(Id::MIN, |entry| entry.id);
    named(out, "recorded-first-entry-id", |out| say_id(out, first));
}

fn short(out: &mut Answer, stream: &Stream) {
    let entry = |out: &mut Answer, entry: Option<&Entry>| match entry {
        Some(entry) => say_entry(out, entry),
        None => out.null(),
    };
    out.map(10);
    head(out, stream);
    named(out, "groups", |out| out.count(stream.groups().len()));
    named(out, "first-entry", |out| entry(out, stream.first()));
    named(out, "last-entry", |out| entry(out, stream.iter().next_back()));
}

fn full(out: &mut Answer, stream: &Stream, count: usize) {
    out.map(9);
    head(out, stream);
    named(out, "entries", |out| out.counted(stream.iter().take(count), say_entry));
    named(out, "groups", |out| {
        out.counted(stream.groups().iter(), |out, group| full_group(out, stream, group, count));
    });
}

fn full_group(out: &mut Answer, stream: &Stream, (name, group): (&Blob, &Group), count: usize) {
    out.map(7);
    named(out, "name", |out| out.bulk(name));
    named(out, "last-delivered-id", |out| say_id(out, group.last));
    progress(out, stream, group);
    named(out, "pel-count", |out| out.count(group.pending.len()));
    named(out, "pending", |out| {
        out.counted(group.pending.iter().take(count), |out, (id, pending)| {
            out.array(4);
            say_id(out, *id);
            out.bulk(&pending.consumer);
            number(out, pending.delivered_ms);
            number(out, pending.count);
        });
    });
    named(out, "consumers", |out| {
        out.counted(group.consumers.iter(), |out, consumer| {
            full_consumer(out, group, consumer, count);
        });
    });
}

fn full_consumer(out: &mut Answer, group: &Group, (name, consumer): (&Blob, &Consumer), count: usize) {
    out.map(5);
    named(out, "name", |out| out.bulk(name));
    named(out, "seen-time", |out| number(out, consumer.seen_ms));
    named(out, "active-time", |out| match consumer.active_ms {
        0 => out.integer(-1),
        active => number(out, active),
    });
    named(out, "pel-count", |out| out.count(consumer.pending.len()));
    named(out, "pending", |out| {
        out.counted(consumer.pending.iter().take(count), |out, id| {
            let pending = group.pending.get(id);
            out.array(3);
            say_id(out, *id);
            number(out, pending.map_or(0, |pending| pending.delivered_ms));
            number(out, pending.map_or(0, |pending| pending.count));
        });
    });
}
