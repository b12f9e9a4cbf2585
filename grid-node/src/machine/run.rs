//! Commands of Redis in the log and in questions: found in the table, given what they work with, answered.

use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{Actor, QueryReply, Reply, Run, Transaction, VersionsQuery, Watched};

use crate::access::User;
use crate::command::reply::Answer;
use crate::command::scripting::function;
use crate::command::table::{Keys as KeysOf, RUN_FORMAT, Spec, find};
use crate::command::{self, Random, Read, Write};
use crate::data::{Encodings, Keys};

/// Why a command that got here is not carried out: who sent it has let through what it should not have.
const UNKNOWN: &str = "ERR this command is not known to the partition's leader";

/// The command, if there is such a one and its arguments are enough.
fn spec(run: &Run) -> Option<&'static Spec> {
    find(run.arguments.first()?)
        .filter(|spec| spec.takes(run.arguments.len()) && spec.format() <= format(run))
}

/// The format of the cluster in which a command was taken.
fn format(run: &Run) -> u32 {
    run.format.max(RUN_FORMAT)
}

/// Who a script is run by.
fn actor(run: &Run) -> Option<User> {
    let Actor { name, rules } = run.actor.as_ref()?;
    // Rules of a later release: nothing is allowed that is not understood.
    Some(User::with_rules(name, rules).unwrap_or_else(|_newer| User::new(name)))
}

/// True if all that a command is about is in these keys.
pub(crate) fn is_here(keys: &Keys, run: &Run) -> bool {
    spec(run).is_none_or(|spec| spec.keys(&run.arguments).all(|key| keys.has_place_for(key)))
}

/// True if a command is about all keys.
fn is_about_all(run: &Run) -> bool {
    spec(run).is_some_and(|spec| spec.keys == KeysOf::All || function::is_about_all(spec, &run.arguments))
}

fn encodings(run: &Run) -> Encodings {
    run.encodings.as_ref().map_or_else(Encodings::default, Encodings::from)
}

fn carry_out(keys: &mut Keys, run: &Run, now_ms: u64, encodings: &Encodings, out: &mut Answer) {
    match spec(run) {
        Some(spec) => {
            let random = Random::new(run.seed);
            let user = actor(run);
            let actor = user.as_ref();
            let mut context = Write { keys, now_ms, encodings, format: format(run), actor, random, out };
            command::write(&mut context, spec, &run.arguments);
        }
        None => out.error(UNKNOWN),
    }
}

/// Carries out a command that may change something.
pub(crate) fn run(keys: &mut Keys, run: &Run, now_ms: u64) -> Reply {
    let mut out = Answer::default();
    carry_out(keys, run, now_ms, &encodings(run), &mut out);
    let (said, typed) = out.finish();
    let last_token = is_about_all(run).then(|| keys.range().1.0);
    Reply { said: vec![said.freeze()], typed, version: keys.version(), last_token, ..Reply::default() }
}

/// Carries out commands with nothing between them, if no watched key has changed.
pub(crate) fn transaction(keys: &mut Keys, transaction: &Transaction, now_ms: u64) -> Reply {
    let is_as_seen = |watched: &Watched| {
        keys.get(&watched.key, now_ms).map_or(0, |entry| entry.version) == watched.version
    };
    if !transaction.watched.iter().all(is_as_seen) {
        return Reply { outcome: Outcome::ConditionFailed.into(), ..Reply::default() };
    }
    let mut reply = Reply::default();
    for run in &transaction.commands {
        let mut out = Answer::default();
        carry_out(keys, run, now_ms, &encodings(run), &mut out);
        let (said, typed) = out.finish();
        reply.said.push(said.freeze());
        reply.typed |= typed;
    }
    reply.version = keys.version();
    reply
}

/// Answers a command that changes nothing.
pub(crate) fn query(keys: &Keys, run: &Run, now_ms: u64) -> QueryReply {
    let mut out = Answer::default();
    let encodings = encodings(run);
    match spec(run) {
        Some(spec) => {
            let random = Random::new(run.seed);
            let format = format(run);
            let user = actor(run);
            let actor = user.as_ref();
            let mut context =
                Read { keys, now_ms, encodings: &encodings, format, actor, random, out: &mut out };
            command::read(&mut context, spec, &run.arguments);
        }
        None => out.error(UNKNOWN),
    }
    let (said, typed) = out.finish();
    let last_token = is_about_all(run).then(|| keys.range().1.0);
    QueryReply { said: vec![said.freeze()], typed, last_token, ..QueryReply::default() }
}

/// The versions of keys.
pub(crate) fn versions(keys: &Keys, query: &VersionsQuery, now_ms: u64) -> QueryReply {
    let version = |key| keys.get(key, now_ms).map_or(0, |entry| entry.version);
    QueryReply { versions: query.keys.iter().map(|key| version(key)).collect(), ..QueryReply::default() }
}
