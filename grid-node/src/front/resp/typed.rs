//! The commands that a release knows that does not know [`Run`](trimaran_proto::state::grid::Run): those on strings, as
//! messages of their own. They are used while a cluster has nodes of such a release, and go when none may be left.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use trimaran_placement::token;
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::expiry::When;
use trimaran_proto::state::grid::query::Body as QueryBody;
use trimaran_proto::state::grid::reply::Outcome as Verdict;
use trimaran_proto::state::grid::{
    Command, Delete, Expire, Expiry, Increment, MultiSet, Pair, Query, QueryReply, Reply, Set, expire, set,
};

use super::plan::Part;
use crate::command::arguments::{SYNTAX, integer, lower};
use crate::command::reply::Answer;
use crate::command::table::Spec;
use crate::command::{Done, Refusal, refuse};
use crate::front::{check_key, check_value};
use crate::router::{Question, Write, token_of};

/// Said of a command while there is a node that does not know it.
pub(super) const NOT_KNOWN_YET: &str =
    "TRYAGAIN not every node of the cluster knows this command yet: start all of them with this release";

/// How the answer is said.
#[derive(Clone, Copy, Debug)]
pub(super) enum Render {
    Ok,
    OkOrNull,
    Applied,
    Previous,
    Sum,
    Counter,
    Value,
    Values,
    Found,
    Length,
    Type,
    TimeLeft { unit_ms: u64 },
    TimeOfEnd { unit_ms: u64 },
}

impl Render {
    /// Writes the answer; reads and writes each in the order of their parts.
    pub(super) fn say(self, written: &[Reply], read: &[QueryReply], out: &mut Answer) {
        let first = written.first();
        let applied = first.is_some_and(|reply| reply.outcome() == Verdict::Applied);
        let found = read.first();
        let value = |out: &mut Answer, reply: Option<&QueryReply>| {
            out.bulk_or_null(reply.filter(|reply| reply.found).map(|reply| &reply.value[..]));
        };
        match self {
            Self::Ok => out.ok(),
            Self::OkOrNull if applied => out.ok(),
            Self::OkOrNull => out.null(),
            Self::Applied => out.flag(applied),
            Self::Previous => out.bulk_or_null(first.and_then(|reply| reply.value.as_deref())),
            Self::Sum => out.integer(written.iter().map(|reply| reply.integer).sum()),
            Self::Counter => match first.map_or(Verdict::Applied, Reply::outcome) {
                Verdict::NotAnInteger => out.error("ERR value is not an integer or out of range"),
                Verdict::Overflow => out.error("ERR increment or decrement would overflow"),
                _ => out.integer(first.map_or(0, |reply| reply.integer)),
            },
            Self::Value => value(out, found),
            Self::Values => {
                out.array(read.len());
                read.iter().for_each(|reply| value(out, Some(reply)));
            }
            Self::Found => out.count(read.iter().filter(|reply| reply.found).count()),
            Self::Length => out.count(found.map_or(0, |reply| reply.value.len())),
            Self::Type => out.simple(if found.is_some_and(|reply| reply.found) { "string" } else { "none" }),
            Self::TimeLeft { unit_ms } => {
                let left = |reply: &QueryReply| reply.expires_at_ms.saturating_sub(reply.now_ms);
                out.integer(time(found, left, unit_ms));
            }
            Self::TimeOfEnd { unit_ms } => out.integer(time(found, |reply| reply.expires_at_ms, unit_ms)),
        }
    }
}

/// -2 = no such key, -1 = never; rounded to the nearest unit, as Redis does.
fn time(found: Option<&QueryReply>, ms: impl Fn(&QueryReply) -> u64, unit_ms: u64) -> i64 {
    match found.filter(|reply| reply.found) {
        None => -2,
        Some(reply) if reply.expires_at_ms == 0 => -1,
        Some(reply) => i64::try_from((ms(reply) + unit_ms / 2) / unit_ms).unwrap_or(i64::MAX),
    }
}

/// What a command asks of which partitions.
pub(super) fn plan(spec: &Spec, arguments: &[Bytes]) -> Done<(Vec<Part>, Render)> {
    let write = |key: &Bytes, body: Body, render: Render| -> Done<(Vec<Part>, Render)> {
        must(check_key(key))?;
        Ok((vec![Part::Write(Write::of(key, body))], render))
    };
    let read = |key: &Bytes, with_value: bool, render: Render| -> Done<(Vec<Part>, Render)> {
        Ok((vec![read_part(key, with_value)?], render))
    };
    let key = arguments.get(1).cloned().unwrap_or_default();
    match spec.name {
        "get" => read(&key, true, Render::Value),
        "set" => plan_set(arguments).and_then(|(set, render)| write(&key, Body::Set(set), render)),
        "setnx" => {
            let set = Set { condition: set::Condition::IfAbsent.into(), ..plain_set(arguments, 2)? };
            write(&key, Body::Set(set), Render::Applied)
        }
        "setex" | "psetex" => {
            let unit_ms = if spec.name == "setex" { 1000 } else { 1 };
            let expiry = Some(expiry_in(&arguments[2], unit_ms, spec.name)?);
            write(&key, Body::Set(Set { expiry, ..plain_set(arguments, 3)? }), Render::Ok)
        }
        "getset" => {
            let set = Set { want_previous: true, ..plain_set(arguments, 2)? };
            write(&key, Body::Set(set), Render::Previous)
        }
        "getdel" => {
            let delete = Delete { keys: vec![key.clone()], want_previous: true, ..Delete::default() };
            write(&key, Body::Delete(delete), Render::Previous)
        }
        "incr" => write(&key, increment(&key, 1), Render::Counter),
        "decr" => write(&key, increment(&key, -1), Render::Counter),
        "incrby" => write(&key, increment(&key, integer(&arguments[2])?), Render::Counter),
        "decrby" => match integer(&arguments[2])?.checked_neg() {
            Some(by) => write(&key, increment(&key, by), Render::Counter),
            None => refuse("ERR decrement would overflow"),
        },
        "del" | "unlink" => {
            let delete = |(_, keys): (u16, Vec<Bytes>)| {
                let key = keys.first().cloned().unwrap_or_default();
                Part::Write(Write::of(&key, Body::Delete(Delete { keys, ..Delete::default() })))
            };
            Ok((by_slot(&arguments[1..])?.into_iter().map(delete).collect(), Render::Sum))
        }
        "exists" => {
            let parts: Done<Vec<Part>> = arguments[1..].iter().map(|key| read_part(key, false)).collect();
            Ok((parts?, Render::Found))
        }
        "mget" => {
            let parts: Done<Vec<Part>> = arguments[1..].iter().map(|key| read_part(key, true)).collect();
            Ok((parts?, Render::Values))
        }
        "mset" | "msetnx" => {
            let if_none_exists = spec.name == "msetnx";
            let write = multi_set(spec.name, &arguments[1..], if_none_exists)?;
            Ok((vec![Part::Write(write)], if if_none_exists { Render::Applied } else { Render::Ok }))
        }
        "expire" | "pexpire" | "expireat" | "pexpireat" => {
            write(&key, Body::Expire(plan_expire(spec.name, arguments)?), Render::Sum)
        }
        "persist" => {
            let expiry = Some(Expiry { when: Some(When::Never(true)) });
            let expire = Expire { key: key.clone(), expiry, condition: expire::Condition::IfAny.into() };
            write(&key, Body::Expire(expire), Render::Sum)
        }
        "ttl" => read(&key, false, Render::TimeLeft { unit_ms: 1000 }),
        "pttl" => read(&key, false, Render::TimeLeft { unit_ms: 1 }),
        "expiretime" => read(&key, false, Render::TimeOfEnd { unit_ms: 1000 }),
        "pexpiretime" => read(&key, false, Render::TimeOfEnd { unit_ms: 1 }),
        "strlen" => read(&key, true, Render::Length),
        "type" => read(&key, false, Render::Type),
        _ => refuse(NOT_KNOWN_YET),
    }
}

fn read_part(key: &Bytes, with_value: bool) -> Done<Part> {
    must(check_key(key))?;
    let body = if with_value { QueryBody::Get(key.clone()) } else { QueryBody::Exists(key.clone()) };
    let token = token_of(key);
    Ok(Part::Read(Question { tokens: (token, token), query: Query { body: Some(body) } }))
}

/// Keys that no split will part.
fn by_slot(keys: &[Bytes]) -> Done<BTreeMap<u16, Vec<Bytes>>> {
    let mut sorted: BTreeMap<u16, Vec<Bytes>> = BTreeMap::new();
    for key in keys {
        must(check_key(key))?;
        sorted.entry(token::slot(key)).or_default().push(key.clone());
    }
    Ok(sorted)
}

fn increment(key: &Bytes, by: i64) -> Body {
    Body::Increment(Increment { key: key.clone(), by, expiry: None })
}

fn plain_set(arguments: &[Bytes], value_at: usize) -> Done<Set> {
    let value = arguments[value_at].clone();
    must(check_value(&value))?;
    Ok(Set { key: arguments[1].clone(), value, ..Set::default() })
}

/// All at once, if the keys are in one partition.
fn multi_set(name: &str, pairs: &[Bytes], if_none_exists: bool) -> Done<Write> {
    if !pairs.len().is_multiple_of(2) {
        return refuse(format!("ERR wrong number of arguments for '{name}' command"));
    }
    let mut set = MultiSet { pairs: Vec::with_capacity(pairs.len() / 2), if_none_exists };
    for pair in pairs.chunks_exact(2) {
        must(check_key(&pair[0]))?;
        must(check_value(&pair[1]))?;
        set.pairs.push(Pair { key: pair[0].clone(), value: pair[1].clone() });
    }
    let tokens = set.pairs.iter().map(|pair| token_of(&pair.key));
    let (first, last) = (tokens.clone().min(), tokens.max());
    let (Some(first), Some(last)) = (first, last) else {
        return refuse(format!("ERR wrong number of arguments for '{name}' command"));
    };
    let command = Command { body: Some(Body::MultiSet(set)), ..Command::default() }.encode_to_vec().into();
    Ok(Write { tokens: (first, last), command })
}

fn expiry_in(argument: &[u8], unit_ms: i64, command: &str) -> Done<Expiry> {
    let ms = expiry_ms(argument, unit_ms, command)?;
    if ms <= 0 {
        return refuse(format!("ERR invalid expire time in '{command}' command"));
    }
    Ok(Expiry { when: Some(When::InMs(ms.unsigned_abs())) })
}

fn expiry_ms(argument: &[u8], unit_ms: i64, command: &str) -> Done<i64> {
    let value = integer(argument)?;
    // Beyond it, adding the clock would not fit.
    let fits = value.checked_mul(unit_ms).filter(|ms| ms.unsigned_abs() < 1 << 62);
    fits.ok_or_else(|| Refusal::new(format!("ERR invalid expire time in '{command}' command")))
}

fn plan_set(arguments: &[Bytes]) -> Done<(Set, Render)> {
    let mut set = plain_set(arguments, 2)?;
    let mut rest = arguments[3..].iter();
    while let Some(option) = rest.next() {
        match lower(option).as_str() {
            "nx" if set.condition() == set::Condition::Always => {
                set.condition = set::Condition::IfAbsent.into()
            }
            "xx" if set.condition() == set::Condition::Always => {
                set.condition = set::Condition::IfPresent.into()
            }
            "get" => set.want_previous = true,
            "keepttl" if set.expiry.is_none() => set.expiry = Some(Expiry { when: Some(When::Keep(true)) }),
            unit @ ("ex" | "px" | "exat" | "pxat") if set.expiry.is_none() => {
                let Some(time) = rest.next() else { return refuse(SYNTAX) };
                let unit_ms = if unit.starts_with('e') { 1000 } else { 1 };
                let Expiry { when } = expiry_in(time, unit_ms, "set")?;
                let when = match when {
                    Some(When::InMs(ms)) if unit.ends_with("at") => Some(When::AtMs(ms)),
                    when => when,
                };
                set.expiry = Some(Expiry { when });
            }
            _ => return refuse(SYNTAX),
        }
    }
    let render = if set.want_previous { Render::Previous } else { Render::OkOrNull };
    Ok((set, render))
}

fn plan_expire(name: &str, arguments: &[Bytes]) -> Done<Expire> {
    let unit_ms = if name.starts_with('p') { 1 } else { 1000 };
    let ms = expiry_ms(&arguments[2], unit_ms, name)?;
    let when = match (name.ends_with("at"), u64::try_from(ms)) {
        (true, Ok(ms)) => When::AtMs(ms.max(1)),
        (false, Ok(ms)) => When::InMs(ms),
        // In the past: the key is deleted.
        (_, Err(_negative)) => When::AtMs(1),
    };
    let mut condition = expire::Condition::Always;
    for option in &arguments[3..] {
        let wanted = match lower(option).as_str() {
            "nx" => expire::Condition::IfNone,
            "xx" => expire::Condition::IfAny,
            "gt" => expire::Condition::IfLater,
            "lt" => expire::Condition::IfEarlier,
            other => return refuse(format!("ERR Unsupported option {other}")),
        };
        condition = match (condition, wanted) {
            (expire::Condition::Always, wanted) => wanted,
            // XX with GT says no more than GT; XX with LT is not the same as LT, and is not offered.
            (expire::Condition::IfAny, expire::Condition::IfLater)
            | (expire::Condition::IfLater, expire::Condition::IfAny) => expire::Condition::IfLater,
            _ => return refuse("ERR NX and XX, GT or LT options at the same time are not compatible"),
        };
    }
    Ok(Expire {
        key: arguments[1].clone(),
        expiry: Some(Expiry { when: Some(when) }),
        condition: condition.into(),
    })
}

fn must(checked: Result<(), crate::error::Error>) -> Done {
    checked.map_err(|error| Refusal::new(format!("ERR {error}")))
}
