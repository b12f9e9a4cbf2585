//! Questions to a partition: looked up in its keys, nothing is changed.

use bytes::Bytes;
use trimaran_placement::token::Token;
use trimaran_proto::state::grid::query::Body as QueryBody;
use trimaran_proto::state::grid::{Query, QueryReply};

use super::{GridMachine, run};
use crate::data::{Value, key};

/// Answers a question; `wrong_partition` if something that it is about is not here (any more).
/// `now_ms` tells the time of day, `passed_ms` is the partition's own time.
pub(crate) fn answer(machine: &GridMachine, query: &Query, (now_ms, passed_ms): (u64, u64)) -> QueryReply {
    let held = |key: &Bytes, with_value: bool| {
        let mut reply = QueryReply { now_ms, ..QueryReply::default() };
        if let Some(entry) = machine.keys().get(key, now_ms) {
            reply.found = true;
            reply.version = entry.version;
            reply.expires_at_ms = entry.expires_at_ms;
            match &entry.value {
                Value::String(value) if with_value => reply.value = value.to_bytes(),
                Value::String(_) => {}
                _ => reply.wrong_type = true,
            }
        }
        reply
    };
    let elsewhere = || QueryReply { wrong_partition: true, ..QueryReply::default() };
    let (first, last) = machine.keys().range();
    match &query.body {
        _ if machine.is_elsewhere() => elsewhere(),
        Some(
            QueryBody::Get(key) | QueryBody::Exists(key) | QueryBody::Ttl(key) | QueryBody::Semaphore(key),
        ) if !machine.keys().has_place_for(key) => elsewhere(),
        Some(QueryBody::Run(command)) if !run::is_here(machine.keys(), command) => elsewhere(),
        Some(QueryBody::Pipeline(pipeline)) if !run::are_here(machine.keys(), pipeline) => elsewhere(),
        Some(QueryBody::Versions(versions))
            if !versions.keys.iter().all(|key| machine.keys().has_place_for(key)) =>
        {
            elsewhere()
        }
        Some(QueryBody::Run(command)) => run::query(machine.keys(), command, now_ms),
        Some(QueryBody::Pipeline(pipeline)) => run::answers(machine.keys(), pipeline, now_ms),
        Some(QueryBody::Versions(query)) => run::versions(machine.keys(), query, now_ms),
        Some(QueryBody::Semaphore(name)) => {
            let semaphore = machine.keys().semaphore(name).map(|semaphore| semaphore.state(name));
            QueryReply { found: semaphore.is_some(), semaphore, now_ms: passed_ms, ..QueryReply::default() }
        }
        Some(QueryBody::Scan(scan)) if scan.cursor < first.0 || scan.cursor > last.0 => elsewhere(),
        Some(QueryBody::Get(key)) => held(key, true),
        Some(QueryBody::Exists(key) | QueryBody::Ttl(key)) => held(key, false),
        Some(QueryBody::Scan(scan)) => {
            let count = usize::try_from(scan.count).unwrap_or(usize::MAX);
            let kind = Some(&scan.kind[..]).filter(|kind| !kind.is_empty());
            let (keys, next) = key::scan(machine.keys(), Token(scan.cursor), count, kind, now_ms);
            QueryReply {
                keys,
                cursor: next.map_or(0, |next| next.0),
                last_token: Some(last.0),
                now_ms,
                ..QueryReply::default()
            }
        }
        None => QueryReply::default(),
    }
}
