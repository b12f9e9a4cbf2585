//! What a request asks for: of which partitions, or of this node.

use std::sync::Arc;

use bytes::Bytes;
use metrics::Counter;
use prost::Message as _;
use trimaran_placement::token::{self, Token};
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::query::Body as QueryBody;
use trimaran_proto::state::grid::{Actor, Command, OwnChanges, Query, Run as RunMessage};

use super::clients::Client;
use super::slow_log::Candidate;
use super::task::Task;
use super::typed::NOT_KNOWN_YET;
use super::{
    Front, cluster, connection, introspection, scripts, server, subscriptions, tracking, transaction, typed,
    users,
};
use crate::access::User;
use crate::command::reply::{Answer, Protocol};
use crate::command::scripting::function;
use crate::command::table::{self, Keys, PIPELINE_FORMAT, Run, Spec};
use crate::command::{Done, NO_MEMORY, Refusal, refuse};
use crate::error::Error;
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::pubsub::Subscriber;
use crate::router::{Question, Write, token_of, tokens};

/// What a connection has been told.
#[derive(Debug)]
pub(crate) struct Session {
    /// The front that it came to.
    pub(super) front: &'static str,
    /// The protocol it speaks.
    pub(super) protocol: Protocol,
    /// Commands on keys that are led elsewhere are answered with MOVED.
    pub(super) redirect: bool,
    /// What others see of it.
    pub(super) client: Arc<Client>,
    /// Between MULTI and EXEC.
    pub(super) queued: Option<transaction::Queued>,
    /// Keys and the versions that they had, since WATCH.
    pub(super) watched: Vec<(Bytes, u64)>,
    /// Since it has subscribed to something.
    pub(super) subscriber: Option<Subscriber>,
    /// Since it wants to be told of what it reads.
    pub(super) tracking: Option<tracking::Mode>,
    /// What it has changed since it began to be answered, if it wants to know.
    pub(super) own_changes: Vec<OwnChanges>,
    /// What is being answered, in case that it is slow.
    pub(super) slow: Candidate,
    /// Whether it is answered (CLIENT REPLY).
    pub(super) replies: Replies,
    /// Who it is; `None` until it has said so, where it has to.
    pub(super) user: Option<Arc<User>>,
    /// The version of all users that this is of.
    pub(super) users_version: u64,
    /// Counts what it is answered.
    pub(super) commands: Counter,
}

/// Whether a client is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Replies {
    /// Always.
    #[default]
    On,
    /// Not at all.
    Off,
    /// Not for the next command.
    SkipNext,
}

impl Session {
    /// A new connection.
    pub(crate) fn new(front: &'static str, client: Arc<Client>, redirect: bool) -> Self {
        Self {
            front,
            protocol: Protocol::Resp2,
            redirect,
            client,
            queued: None,
            watched: Vec::new(),
            subscriber: None,
            tracking: None,
            own_changes: Vec::new(),
            slow: Candidate::default(),
            replies: Replies::On,
            user: None,
            users_version: 0,
            commands: crate::metrics::commands(front),
        }
    }

    /// Becomes who everybody is at first, where there is such a user.
    pub(crate) fn enter(&mut self, front: &Front) {
        self.user = front.users.at_first();
        self.users_version = front.users.version();
    }

    /// True if it has subscribed to something.
    pub(super) fn is_subscribed(&self) -> bool {
        self.subscriber.as_ref().is_some_and(|subscriber| !subscriber.is_idle())
    }
}

/// What a command asks of one partition.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// Something to be agreed on.
    Write(Write),
    /// Something to be looked up.
    Read(Question),
}

/// How the answers of several parts become one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Join {
    /// There is one.
    One,
    /// Their sum.
    Sum,
    /// An array of the elements of each, in their order.
    Concat,
    /// As an older release says it.
    Typed(typed::Render),
}

/// A command that all replicas of one partition carry out in the same way, whoever sends it: others can go with it.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) arguments: Vec<Bytes>,
    /// The least and the greatest of its keys.
    pub(super) tokens: (Token, Token),
    /// It may change something.
    pub(super) is_write: bool,
}

impl Plain {
    /// Of its arguments.
    pub(super) fn bytes(&self) -> usize {
        self.arguments.iter().map(Bytes::len).sum()
    }
}

/// What is to be done for a request.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing more.
    Said(Answer),
    /// Something of one partition, with others.
    Plain(Plain),
    /// Something of partitions.
    Parts(Vec<Part>, Join),
    /// Something that is done alone.
    Task(Box<Task>),
}

/// A request that is understood.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) step: Step,
    /// The connection ends after the answer.
    pub(super) closes: bool,
    /// What it is answered in.
    pub(super) protocol: Protocol,
    /// It is carried out, but not answered.
    pub(super) quiet: bool,
}

/// What is sent at once is of one kind, so that neither reads what the other writes, and nothing that is sent again by
/// itself comes behind what was sent after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// [`Step::Plain`]
    Plain { is_write: bool },
    /// [`Step::Parts`]
    Parts { is_write: bool },
}

impl Planned {
    /// `None` if nothing is sent.
    pub(super) fn kind(&self) -> Option<Kind> {
        match &self.step {
            Step::Said(_) | Step::Task(_) => None,
            Step::Plain(plain) => Some(Kind::Plain { is_write: plain.is_write }),
            // Those of one command are all of one kind.
            Step::Parts(parts, _) => {
                Some(Kind::Parts { is_write: parts.iter().any(|part| matches!(part, Part::Write(_))) })
            }
        }
    }
}

/// An answer that needs nothing more.
pub(super) fn said(say: impl FnOnce(&mut Answer)) -> Step {
    let mut answer = Answer::default();
    say(&mut answer);
    Step::Said(answer)
}

/// What Redis says of an error.
pub(super) fn error_text(error: &Error) -> String {
    match error {
        Error::CrossSlot => "CROSSSLOT Keys in request don't hash to the same slot".to_owned(),
        Error::NotReady => format!("LOADING {error}"),
        Error::Full => NO_MEMORY.to_owned(),
        Error::NamespaceFull { .. } => format!("OOM {error}"),
        Error::Throttled { .. } => format!("THROTTLED {error}"),
        Error::PartitionLost { .. } | Error::Elsewhere { .. } => format!("CLUSTERDOWN {error}"),
        Error::TimedOut { .. } | Error::Replication(_) | Error::NotAgreed(_) => format!("TRYAGAIN {error}"),
        Error::Limit { .. }
        | Error::Invalid { .. }
        | Error::Operand(_)
        | Error::LeaseLost
        | Error::NotKnownYet
        | Error::PermitsDiffer
        | Error::Malformed
        | Error::ChangedMeanwhile
        | Error::Compacted { .. } => format!("ERR {error}"),
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::new(error_text(&error))
    }
}

/// Finds out what a request asks for. A bad one is planned too: its answer is the error.
pub(super) fn plan(front: &Front, session: &mut Session, arguments: Vec<Bytes>) -> Planned {
    let protocol = session.protocol;
    let found = lookup(&arguments);
    // What is refused instead of being queued must not be missing from what is carried out.
    let is_queued =
        session.queued.is_some() && found.as_ref().map_or(true, |spec| !transaction::is_for_now(spec));
    let known = found.as_ref().ok().copied();
    let is_skipped = session.replies == Replies::SkipNext;
    if is_skipped {
        session.replies = Replies::On;
    }
    let is_somebody = users::refresh(front, session);
    let planned = found.and_then(|spec| {
        if !is_somebody {
            return refuse("NOAUTH the user is not there any more");
        }
        session.client.runs(spec);
        must_fit(&arguments)?;
        let context = if session.queued.is_some() { users::MULTI } else { users::TOPLEVEL };
        users::must_be_allowed(front, session, context, spec, &arguments)?;
        subscriptions::must_be_taken(session, spec)?;
        let (spec, arguments) = scripts::resolve(front, spec, arguments)?;
        if front.namespaces.are_any() {
            let keys = spec.keys(&arguments).map(|key| &key[..]);
            front.namespaces.admit(keys, spec.needs_memory, front.router.clock_ms())?;
        }
        tracking::note(front, session, spec, &arguments);
        if is_queued {
            return transaction::queue(session, spec, arguments);
        }
        step(front, session, spec, arguments)
    });
    front.statistics.note(known, planned.is_err());
    // CLIENT REPLY OFF and SKIP are about themselves, too.
    let is_answered = !is_skipped && session.replies == Replies::On;
    let quiet = !is_answered && !known.is_some_and(subscriptions::is_told);
    match planned {
        // Its user was removed.
        _ if !is_somebody => Planned { step: said(|_| {}), closes: true, protocol, quiet: true },
        // HELLO is answered in the protocol that it chose.
        Ok((step, closes)) => Planned { step, closes, protocol: session.protocol, quiet },
        Err(refusal) => {
            if let Some(queued) = session.queued.as_mut().filter(|_| is_queued) {
                queued.fail();
            }
            crate::metrics::refused(session.front).increment(1);
            Planned { step: said(|out| out.error(refusal.text())), closes: false, protocol, quiet }
        }
    }
}

fn lookup(arguments: &[Bytes]) -> Done<&'static Spec> {
    let name = arguments.first().map_or(&[][..], |name| name);
    let Some(spec) = table::find(name) else {
        // As Redis: the name and the first arguments, cut.
        let cut = |text: &[u8]| String::from_utf8_lossy(&text[..text.len().min(128)]).into_owned();
        let rest: Vec<String> =
            arguments.iter().skip(1).take(3).map(|argument| format!("'{}' ", cut(argument))).collect();
        let name = cut(name);
        return refuse(format!("ERR unknown command '{name}', with args beginning with: {}", rest.concat()));
    };
    if spec.takes(arguments.len()) {
        Ok(spec)
    } else {
        refuse(format!("ERR wrong number of arguments for '{}' command", spec.name))
    }
}

/// What a command that is in the table asks for, and whether the connection ends with it.
fn step(
    front: &Front,
    session: &mut Session,
    spec: &'static Spec,
    arguments: Vec<Bytes>,
) -> Done<(Step, bool)> {
    if session.redirect {
        cluster::redirect(&front.router, spec, &arguments)?;
    }
    if let Some(help) = introspection::help(spec, &arguments) {
        return help.map(|help| (help, false));
    }
    if let Some(about_node) = server::memory(front, spec, &arguments) {
        return about_node.map(|step| (step, false));
    }
    let step = match spec.run {
        Run::Front => {
            let (step, closes) = connection::plan(front, session, spec, &arguments)?;
            let ends = spec.name.ends_with("unsubscribe");
            return Ok((if ends { subscriptions::with_messages(session, step) } else { step }, closes));
        }
        _ if !front.router.knows_runs() => {
            let (parts, render) = typed::plan(spec, &arguments)?;
            Step::Parts(parts, Join::Typed(render))
        }
        _ if spec.format > front.router.format() => return refuse(NOT_KNOWN_YET),
        _ if function::is_about_all(spec, &arguments) => {
            Step::Task(Box::new(Task::Everywhere { spec, arguments }))
        }
        _ if spec.keys == Keys::All => Step::Task(Box::new(Task::Everywhere { spec, arguments })),
        _ if spec.blocks => Step::Task(Box::new(Task::block(front, spec, arguments)?)),
        _ => of_partitions(front, session, spec, arguments)?,
    };
    Ok((step, false))
}

/// Refuses an argument that no value may be as long as.
fn must_fit(arguments: &[Bytes]) -> Done {
    match arguments.iter().find(|argument| argument.len() > VALUE_BYTES_MAX) {
        None => Ok(()),
        Some(value) => {
            let (actual, max) = (value.len() as u64, VALUE_BYTES_MAX as u64);
            Err(Error::Limit { field: "value", limit: "VALUE_BYTES_MAX", actual, max }.into())
        }
    }
}

/// Refuses a key that is too long.
pub(super) fn must_be_keys<'a>(keys: impl IntoIterator<Item = &'a Bytes>) -> Done {
    match keys.into_iter().find(|key| key.len() > KEY_BYTES_MAX) {
        None => Ok(()),
        Some(key) => {
            let (actual, max) = (key.len() as u64, KEY_BYTES_MAX as u64);
            Err(Error::Limit { field: "key", limit: "KEY_BYTES_MAX", actual, max }.into())
        }
    }
}

/// The command as the leader gets it.
pub(super) fn run(front: &Front, spec: &Spec, arguments: Vec<Bytes>, actor: Option<Actor>) -> RunMessage {
    let seed = if spec.is_seeded { front.random() } else { 0 };
    let (encodings, format) = (front.settings.encodings(), front.router.format());
    RunMessage { arguments, seed, encodings, format, actor }
}

pub(super) fn part(
    front: &Front,
    spec: &Spec,
    tokens: (Token, Token),
    arguments: Vec<Bytes>,
    actor: Option<Actor>,
    tells_changes: bool,
) -> Part {
    let run = run(front, spec, arguments, actor);
    match spec.run {
        Run::Write(_) => {
            let command = Command { body: Some(Body::Run(run)), tells_changes, ..Command::default() };
            let command = command.encode_to_vec().into();
            Part::Write(Write { tokens, command })
        }
        _ => Part::Read(Question { tokens, query: Query { body: Some(QueryBody::Run(run)) } }),
    }
}

fn of_partitions(front: &Front, session: &Session, spec: &Spec, arguments: Vec<Bytes>) -> Done<Step> {
    let keys = spec.keys(&arguments);
    must_be_keys(keys.clone())?;
    let tells = tracking::tells_changes(session);
    let Some(range) = tokens(keys) else {
        // A number of keys that is wrong: whoever leads the first partition says so as well as any other.
        let actor = users::actor(session, spec);
        let part = part(front, spec, (Token(0), Token(0)), arguments, actor, tells);
        return Ok(Step::Parts(vec![part], Join::One));
    };
    if range.0 == range.1 || front.router.is_whole(range) {
        if !spec.is_seeded && front.router.format() >= PIPELINE_FORMAT {
            let is_write = matches!(spec.run, Run::Write(_));
            return Ok(Step::Plain(Plain { arguments, tokens: range, is_write }));
        }
        let actor = users::actor(session, spec);
        return Ok(Step::Parts(vec![part(front, spec, range, arguments, actor, tells)], Join::One));
    }
    let join = match spec.name {
        "del" | "unlink" | "exists" | "touch" => Join::Sum,
        "mget" => Join::Concat,
        _ => return Err(Error::CrossSlot.into()),
    };
    // Keys of one slot stay together, whatever is split; of those that come one after the other, for the order.
    let runs = arguments[1..].chunk_by(|a, b| token::slot(a) == token::slot(b));
    let parts = runs.map(|keys| {
        let mut of_slot = Vec::with_capacity(keys.len() + 1);
        of_slot.push(arguments[0].clone());
        of_slot.extend_from_slice(keys);
        let token = token_of(&keys[0]);
        part(front, spec, (token, token), of_slot, None, tells)
    });
    Ok(Step::Parts(parts.collect(), join))
}
