//! Commands of Redis: what each asks of which partition, and how its answer is said.
//!
//! Adding one: a line in [`TABLE`] and an arm in [`plan`].

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use trimaran_placement::token::{self, Token};
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::expiry::When;
use trimaran_proto::state::grid::query::Body as QueryBody;
use trimaran_proto::state::grid::reply::Outcome as Verdict;
use trimaran_proto::state::grid::{
    Command, Delete, Expire, Expiry, Increment, MultiSet, Pair, Query, QueryReply, Reply, Set, expire, set,
};

use super::pattern::matches;
use super::reply::{self, Protocol};
use super::table::{Spec, TABLE};
use super::{cluster, connection};
use crate::error::Error;
use crate::front::grpc::scan_page;
use crate::front::{check_key, check_value};
use crate::limits::SCAN_COUNT_MAX;
use crate::router::{Router, Write, token_of};

/// What a connection has been told.
#[derive(Debug)]
pub struct Session {
    /// The front that it came to.
    pub front: &'static str,
    /// Its number on this node and front.
    pub id: u64,
    /// The protocol it speaks.
    pub protocol: Protocol,
    /// Commands on keys that are led elsewhere are answered with MOVED.
    pub redirect: bool,
    pub(super) name: Bytes,
}

impl Session {
    /// A new connection.
    pub fn new(front: &'static str, id: u64, redirect: bool) -> Self {
        Self { front, id, protocol: Protocol::Resp2, redirect, name: Bytes::new() }
    }
}

/// What a command asks of one partition.
#[derive(Debug)]
pub enum Part {
    /// Something to be agreed on.
    Write(Write),
    /// Something to be looked up.
    Read {
        /// Where.
        token: Token,
        /// What.
        query: Query,
    },
}

/// What came back.
#[derive(Debug)]
pub enum Outcome {
    /// One answer a part, writes and reads each in their order.
    Parts {
        /// Answers to writes.
        written: Vec<Reply>,
        /// Answers to reads.
        read: Vec<QueryReply>,
    },
    /// A page of a scan.
    Page(Page),
}

/// A page of a scan and where to go on.
#[derive(Debug)]
pub struct Page {
    cursor: Token,
    keys: Vec<Bytes>,
}

/// A SCAN.
#[derive(Debug)]
pub struct Scan {
    cursor: Token,
    count: u32,
    pattern: Option<Bytes>,
    strings_only: bool,
}

impl Scan {
    /// Reads the page.
    pub async fn page(&self, router: &Router) -> Result<Page, Error> {
        let (mut keys, cursor) = scan_page(router, self.cursor, self.count).await?;
        if !self.strings_only {
            // There is one type so far; another one asked for has no keys.
            keys.clear();
        }
        if let Some(pattern) = &self.pattern {
            keys.retain(|key| matches(pattern, key));
        }
        Ok(Page { cursor, keys })
    }
}

/// How the answer is said.
#[derive(Debug)]
enum Render {
    Ready(BytesMut),
    Ok,
    OkOrNull,
    Applied,
    Previous,
    Sum,
    Counter,
    Value,
    Values(Vec<usize>),
    Found,
    Length,
    Type,
    TimeLeft { unit_ms: u64 },
    TimeOfEnd { unit_ms: u64 },
    Page,
}

/// A command that knows what it needs and how to say what came of it.
#[derive(Debug)]
pub struct Planned {
    /// What it asks of partitions.
    pub parts: Vec<Part>,
    /// The scan, if it is one.
    pub scan: Option<Scan>,
    /// The connection ends after the answer.
    pub closes: bool,
    render: Render,
    protocol: Protocol,
}

impl Planned {
    /// The same, and the connection ends after the answer.
    pub(super) fn and_close(self) -> Self {
        Self { closes: true, ..self }
    }

    /// Whether the two can be sent at once: neither reads what the other writes.
    pub fn goes_with(&self, other: &Self) -> bool {
        let writes = |planned: &Self| planned.parts.iter().any(|part| matches!(part, Part::Write(_)));
        let reads = |planned: &Self| planned.parts.iter().any(|part| matches!(part, Part::Read { .. }));
        self.scan.is_none()
            && other.scan.is_none()
            && !(writes(self) && reads(other))
            && !(reads(self) && writes(other))
    }

    /// Writes the answer.
    pub fn render(self, outcome: Result<Outcome, Error>, out: &mut BytesMut) {
        let (written, read) = match outcome {
            Err(error) => return reply::error(out, &error_text(&error)),
            Ok(Outcome::Page(page)) => {
                reply::array(out, 2);
                let mut digits = itoa::Buffer::new();
                reply::bulk(out, digits.format(page.cursor.0).as_bytes());
                reply::array(out, page.keys.len());
                for key in page.keys {
                    reply::bulk(out, &key);
                }
                return;
            }
            Ok(Outcome::Parts { written, read }) => (written, read),
        };
        let first = written.first();
        let applied = first.is_some_and(|reply| reply.outcome() == Verdict::Applied);
        let found = read.first();
        match self.render {
            Render::Ready(bytes) => out.extend_from_slice(&bytes),
            Render::Ok => reply::simple(out, "OK"),
            Render::OkOrNull if applied => reply::simple(out, "OK"),
            Render::OkOrNull => reply::null(out, self.protocol),
            Render::Applied => reply::integer(out, i64::from(applied)),
            Render::Previous => match first.and_then(|reply| reply.value.as_ref()) {
                Some(value) => reply::bulk(out, value),
                None => reply::null(out, self.protocol),
            },
            Render::Sum => reply::integer(out, written.iter().map(|reply| reply.integer).sum()),
            Render::Counter => match first.map_or(Verdict::Applied, Reply::outcome) {
                Verdict::NotAnInteger => reply::error(out, "ERR value is not an integer or out of range"),
                Verdict::Overflow => reply::error(out, "ERR increment or decrement would overflow"),
                _ => reply::integer(out, first.map_or(0, |reply| reply.integer)),
            },
            Render::Value => value(out, found, self.protocol),
            Render::Values(order) => {
                reply::array(out, order.len());
                for place in order {
                    value(out, read.get(place), self.protocol);
                }
            }
            Render::Found => reply::integer(out, read.iter().filter(|reply| reply.found).count() as i64),
            Render::Length => reply::integer(out, found.map_or(0, |reply| reply.value.len() as i64)),
            Render::Type => {
                reply::simple(out, if found.is_some_and(|reply| reply.found) { "string" } else { "none" })
            }
            Render::TimeLeft { unit_ms } => {
                reply::integer(
                    out,
                    time(found, |reply| reply.expires_at_ms.saturating_sub(reply.now_ms), unit_ms),
                );
            }
            Render::TimeOfEnd { unit_ms } => {
                reply::integer(out, time(found, |reply| reply.expires_at_ms, unit_ms));
            }
            // Answered above.
            Render::Page => {}
        }
    }
}

fn value(out: &mut BytesMut, found: Option<&QueryReply>, protocol: Protocol) {
    match found.filter(|reply| reply.found) {
        Some(reply) => reply::bulk(out, &reply.value),
        None => reply::null(out, protocol),
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

fn error_text(error: &Error) -> String {
    match error {
        Error::CrossSlot => "CROSSSLOT Keys in request don't hash to the same slot".to_owned(),
        Error::NotReady => format!("LOADING {error}"),
        Error::PartitionLost { .. } | Error::Elsewhere { .. } => format!("CLUSTERDOWN {error}"),
        Error::TimedOut { .. } | Error::Replication(_) => format!("TRYAGAIN {error}"),
        Error::Limit { .. } | Error::Invalid { .. } | Error::Operand(_) | Error::Compacted { .. } => {
            format!("ERR {error}")
        }
    }
}

/// What Redis says of a bad command.
pub(super) enum Refusal {
    Text(String),
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

pub(super) fn refuse<T>(text: &str) -> Result<T, Refusal> {
    Err(Refusal::Text(text.to_owned()))
}

pub(super) const SYNTAX: &str = "ERR syntax error";
/// A line of the table without an arm.
pub(super) const NOT_OFFERED: &str = "ERR this command is not offered";
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// Finds out what a request asks for. A bad one is planned too: its answer is the error.
pub fn plan(session: &mut Session, router: &Router, arguments: &[Bytes]) -> Planned {
    let planned = match lookup(arguments) {
        Ok(spec) => plan_known(session, router, spec, arguments),
        Err(refusal) => Err(refusal),
    };
    planned.unwrap_or_else(|refusal| {
        crate::metrics::refused(session.front).increment(1);
        let mut out = BytesMut::new();
        match refusal {
            Refusal::Text(text) => reply::error(&mut out, &text),
            Refusal::Error(error) => reply::error(&mut out, &error_text(&error)),
        }
        ready(out, session.protocol)
    })
}

fn lookup(arguments: &[Bytes]) -> Result<&'static Spec, Refusal> {
    let name =
        arguments.first().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).unwrap_or_default();
    let Ok(at) = TABLE.binary_search_by(|spec| spec.name.cmp(&name)) else {
        // As Redis: the name and the first arguments, cut.
        let cut = |text: &[u8]| String::from_utf8_lossy(&text[..text.len().min(128)]).into_owned();
        let rest: Vec<String> =
            arguments.iter().skip(1).take(3).map(|argument| format!("'{}' ", cut(argument))).collect();
        let name = cut(arguments.first().map_or(&[][..], |name| name));
        return Err(Refusal::Text(format!(
            "ERR unknown command '{name}', with args beginning with: {}",
            rest.concat()
        )));
    };
    let spec = &TABLE[at];
    let count = i64::try_from(arguments.len()).unwrap_or(i64::MAX);
    let fits = if spec.arity < 0 { count >= -spec.arity } else { count == spec.arity };
    if fits {
        Ok(spec)
    } else {
        Err(Refusal::Text(format!("ERR wrong number of arguments for '{}' command", spec.name)))
    }
}

fn ready(out: BytesMut, protocol: Protocol) -> Planned {
    Planned { parts: Vec::new(), scan: None, closes: false, render: Render::Ready(out), protocol }
}

pub(super) fn said(session: &Session, say: impl FnOnce(&mut BytesMut)) -> Planned {
    let mut out = BytesMut::new();
    say(&mut out);
    ready(out, session.protocol)
}

fn plan_known(
    session: &mut Session,
    router: &Router,
    spec: &'static Spec,
    arguments: &[Bytes],
) -> Result<Planned, Refusal> {
    if session.redirect {
        cluster::redirect(router, spec, arguments)?;
    }
    let protocol = session.protocol;
    let with =
        |parts: Vec<Part>, render: Render| Planned { parts, scan: None, closes: false, render, protocol };
    let write = |key: &Bytes, body: Body, render: Render| -> Result<Planned, Refusal> {
        check_key(key)?;
        Ok(with(vec![Part::Write(Write::of(key, body))], render))
    };
    let read = |key: &Bytes, with_value: bool, render: Render| -> Result<Planned, Refusal> {
        Ok(with(vec![read_part(key, with_value)?], render))
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
            Ok(with(by_slot(&arguments[1..])?.into_iter().map(delete).collect(), Render::Sum))
        }
        "exists" => {
            let parts: Result<Vec<Part>, Refusal> =
                arguments[1..].iter().map(|key| read_part(key, false)).collect();
            Ok(with(parts?, Render::Found))
        }
        "mget" => {
            let parts: Result<Vec<Part>, Refusal> =
                arguments[1..].iter().map(|key| read_part(key, true)).collect();
            Ok(with(parts?, Render::Values((0..arguments.len() - 1).collect())))
        }
        "mset" | "msetnx" => {
            let if_none_exists = spec.name == "msetnx";
            let write = multi_set(spec.name, &arguments[1..], if_none_exists)?;
            Ok(with(vec![Part::Write(write)], if if_none_exists { Render::Applied } else { Render::Ok }))
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
        "scan" => Ok(Planned { scan: Some(plan_scan(arguments)?), ..with(Vec::new(), Render::Page) }),
        _ => connection::plan(session, router, spec, arguments),
    }
}

pub(super) fn lower(argument: &[u8]) -> String {
    String::from_utf8_lossy(argument).to_ascii_lowercase()
}

pub(super) fn integer(argument: &[u8]) -> Result<i64, Refusal> {
    let parsed = std::str::from_utf8(argument).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Refusal::Text(NOT_AN_INTEGER.to_owned()))
}

fn read_part(key: &Bytes, with_value: bool) -> Result<Part, Refusal> {
    check_key(key)?;
    let body = if with_value { QueryBody::Get(key.clone()) } else { QueryBody::Exists(key.clone()) };
    Ok(Part::Read { token: token_of(key), query: Query { body: Some(body) } })
}

/// Keys that no split will part.
fn by_slot(keys: &[Bytes]) -> Result<BTreeMap<u16, Vec<Bytes>>, Refusal> {
    let mut sorted: BTreeMap<u16, Vec<Bytes>> = BTreeMap::new();
    for key in keys {
        check_key(key)?;
        sorted.entry(token::slot(key)).or_default().push(key.clone());
    }
    Ok(sorted)
}

fn increment(key: &Bytes, by: i64) -> Body {
    Body::Increment(Increment { key: key.clone(), by, expiry: None })
}

fn plain_set(arguments: &[Bytes], value_at: usize) -> Result<Set, Refusal> {
    let value = arguments[value_at].clone();
    check_value(&value)?;
    Ok(Set { key: arguments[1].clone(), value, ..Set::default() })
}

/// All at once, if the keys are in one partition.
fn multi_set(name: &str, pairs: &[Bytes], if_none_exists: bool) -> Result<Write, Refusal> {
    if !pairs.len().is_multiple_of(2) {
        return refuse(&format!("ERR wrong number of arguments for '{name}' command"));
    }
    let mut set = MultiSet { pairs: Vec::with_capacity(pairs.len() / 2), if_none_exists };
    for pair in pairs.chunks_exact(2) {
        check_key(&pair[0])?;
        check_value(&pair[1])?;
        set.pairs.push(Pair { key: pair[0].clone(), value: pair[1].clone() });
    }
    let tokens = set.pairs.iter().map(|pair| token_of(&pair.key));
    let (first, last) = (tokens.clone().min(), tokens.max());
    let (Some(first), Some(last)) = (first, last) else {
        return refuse(&format!("ERR wrong number of arguments for '{name}' command"));
    };
    let command = Command { body: Some(Body::MultiSet(set)) }.encode_to_vec().into();
    Ok(Write { tokens: (first, last), command })
}

fn expiry_in(argument: &[u8], unit_ms: i64, command: &str) -> Result<Expiry, Refusal> {
    let ms = expiry_ms(argument, unit_ms, command)?;
    if ms <= 0 {
        return refuse(&format!("ERR invalid expire time in '{command}' command"));
    }
    Ok(Expiry { when: Some(When::InMs(ms.unsigned_abs())) })
}

fn expiry_ms(argument: &[u8], unit_ms: i64, command: &str) -> Result<i64, Refusal> {
    let value = integer(argument)?;
    // Beyond it, adding the clock would not fit.
    let fits = value.checked_mul(unit_ms).filter(|ms| ms.unsigned_abs() < 1 << 62);
    fits.ok_or_else(|| Refusal::Text(format!("ERR invalid expire time in '{command}' command")))
}

fn plan_set(arguments: &[Bytes]) -> Result<(Set, Render), Refusal> {
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

fn plan_expire(name: &str, arguments: &[Bytes]) -> Result<Expire, Refusal> {
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
            other => return refuse(&format!("ERR Unsupported option {other}")),
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

fn plan_scan(arguments: &[Bytes]) -> Result<Scan, Refusal> {
    let cursor = std::str::from_utf8(&arguments[1]).ok().and_then(|text| text.parse().ok());
    let Some(cursor) = cursor else { return refuse("ERR invalid cursor") };
    let mut scan = Scan { cursor: Token(cursor), count: 10, pattern: None, strings_only: true };
    let mut rest = arguments[2..].iter();
    while let Some(option) = rest.next() {
        let Some(value) = rest.next() else { return refuse(SYNTAX) };
        match lower(option).as_str() {
            "match" => scan.pattern = Some(value.clone()),
            "count" => match integer(value)? {
                count if count >= 1 => {
                    scan.count = u32::try_from(count).unwrap_or(SCAN_COUNT_MAX).min(SCAN_COUNT_MAX);
                }
                _ => return refuse(SYNTAX),
            },
            "type" => scan.strings_only = lower(value) == "string",
            _ => return refuse(SYNTAX),
        }
    }
    Ok(scan)
}
