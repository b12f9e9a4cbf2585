//! Commands of Redis in the log and in questions: found in the table, given what they work with, answered.

use bytes::Bytes;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{
    Actor, Pipeline, QueryReply, Reply, Run, Transaction, VersionsQuery, Watched,
};

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
    find(run.arguments.first()?).filter(|spec| spec.takes(run.arguments.len()) && spec.format <= format(run))
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

/// The commands of a pipeline, each with what the table says of it, if it is there.
pub(crate) fn commands(pipeline: &Pipeline) -> impl Iterator<Item = (Option<&'static Spec>, &[Bytes])> {
    let format = pipeline.format;
    let mut rest = &pipeline.arguments[..];
    // Most pipelines have the same command many times over: it is looked for once.
    let (mut name, mut found): (&[u8], _) = (&[], None);
    pipeline.counts.iter().map_while(move |&count| {
        let (arguments, behind) = rest.split_at_checked(usize::try_from(count).ok()?)?;
        rest = behind;
        let next = arguments.first()?;
        if *name != **next {
            (name, found) = (next, find(next));
        }
        let spec = found;
        Some((spec.filter(|spec| spec.takes(arguments.len()) && spec.format <= format), arguments))
    })
}

/// True if all that the commands of a pipeline are about is in these keys.
pub(crate) fn are_here(keys: &Keys, pipeline: &Pipeline) -> bool {
    keys.have_places_for(
        commands(pipeline)
            .flat_map(|(spec, arguments)| spec.into_iter().flat_map(|spec| spec.keys(arguments))),
    )
}

/// Has each command of a pipeline say something: all of it, whether something in it is typed, and how long each answer is.
fn say_each(
    pipeline: &Pipeline,
    mut say: impl FnMut(&Spec, &[Bytes], &Encodings, &mut Answer),
) -> (Bytes, bool, Vec<u32>) {
    let encodings = pipeline.encodings.as_ref().map_or_else(Encodings::default, Encodings::from);
    let mut out = Answer::default();
    let mut lengths = Vec::with_capacity(pipeline.counts.len());
    for (spec, arguments) in commands(pipeline) {
        let before = out.position();
        match spec {
            Some(spec) => say(spec, arguments, &encodings, &mut out),
            None => out.error(UNKNOWN),
        }
        lengths.push(u32::try_from(out.position() - before).unwrap_or(u32::MAX));
    }
    let (said, typed) = out.finish();
    (said.freeze(), typed, lengths)
}

/// Carries out the commands of a pipeline, of which each may change something.
pub(crate) fn pipeline(keys: &mut Keys, pipeline: &Pipeline, now_ms: u64) -> Reply {
    let (format, random) = (pipeline.format, Random::new(0));
    let (said, typed, lengths) = say_each(pipeline, |spec, arguments, encodings, out| {
        let mut context = Write { keys: &mut *keys, now_ms, encodings, format, actor: None, random, out };
        command::write(&mut context, spec, arguments);
    });
    Reply { said: vec![said], typed, lengths, version: keys.version(), ..Reply::default() }
}

/// Answers the commands of a pipeline that changes nothing.
pub(crate) fn answers(keys: &Keys, pipeline: &Pipeline, now_ms: u64) -> QueryReply {
    let (format, random) = (pipeline.format, Random::new(0));
    let (said, typed, lengths) = say_each(pipeline, |spec, arguments, encodings, out| {
        let mut context = Read { keys, now_ms, encodings, format, actor: None, random, out };
        command::read(&mut context, spec, arguments);
    });
    QueryReply { said: vec![said], typed, lengths, ..QueryReply::default() }
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
