//! MULTI, EXEC, DISCARD, WATCH: what is queued by a connection goes into the log as one command.

use bytes::Bytes;
use prost::Message as _;
use trimaran_placement::token::Token;
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{Command, Run as RunMessage, Transaction, Watched};

use super::plan::{Session, Step, must_be_keys, run, said};
use super::task::Task;
use super::typed::NOT_KNOWN_YET;
use super::{Front, connection, tracking, users};
use crate::command::reply::Answer;
use crate::command::scripting::function;
use crate::command::table::{Keys, Run, Spec};
use crate::command::{Done, Refusal, refuse};
use crate::error::Error;
use crate::limits::{QUEUED_BYTES_MAX, QUEUED_COMMANDS_MAX};
use crate::router::{Write, tokens};

/// Commands between MULTI and EXEC.
#[derive(Debug, Default)]
pub(super) struct Queued {
    commands: Vec<(&'static Spec, Vec<Bytes>)>,
    bytes: usize,
    /// One of them was refused: the others must not be carried out without it.
    failed: bool,
}

impl Queued {
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    /// True if there is such a command among them.
    pub(super) fn any(&self, is: impl Fn(&Spec) -> bool) -> bool {
        self.commands.iter().any(|(spec, _)| is(spec))
    }
}

/// True for a command that is not queued.
pub(super) fn is_for_now(spec: &Spec) -> bool {
    ["multi", "exec", "discard", "watch", "reset", "quit"].contains(&spec.name)
}

/// Queues a command.
pub(super) fn queue(session: &mut Session, spec: &'static Spec, arguments: Vec<Bytes>) -> Done<(Step, bool)> {
    if let (Run::Front, "scan" | "wait" | "debug" | "hello" | "auth") = (spec.run, spec.name) {
        return refuse("ERR Command not allowed inside a transaction");
    }
    must_be_keys(spec.keys(&arguments))?;
    let Some(queued) = &mut session.queued else { return refuse("ERR EXEC without MULTI") };
    queued.bytes += arguments.iter().map(Bytes::len).sum::<usize>();
    if queued.commands.len() >= QUEUED_COMMANDS_MAX {
        return refuse(format!("ERR the transaction exceeds QUEUED_COMMANDS_MAX = {QUEUED_COMMANDS_MAX}"));
    }
    if queued.bytes > QUEUED_BYTES_MAX {
        return refuse(format!("ERR the transaction exceeds QUEUED_BYTES_MAX = {QUEUED_BYTES_MAX}"));
    }
    queued.commands.push((spec, arguments));
    Ok((said(|out| out.simple("QUEUED")), false))
}

/// MULTI, EXEC, DISCARD, WATCH, UNWATCH.
pub(super) fn plan(session: &mut Session, spec: &Spec, arguments: &[Bytes]) -> Done<Step> {
    match spec.name {
        "multi" if session.queued.is_some() => refuse("ERR MULTI calls can not be nested"),
        "multi" => {
            session.queued = Some(Queued::default());
            Ok(said(Answer::ok))
        }
        "discard" => match session.queued.take() {
            Some(_) => {
                session.watched.clear();
                Ok(said(Answer::ok))
            }
            None => refuse("ERR DISCARD without MULTI"),
        },
        "exec" => match session.queued.take() {
            Some(queued) if queued.failed => {
                session.watched.clear();
                refuse("EXECABORT Transaction discarded because of previous errors.")
            }
            Some(queued) => Ok(Step::Task(Box::new(Task::Exec(queued)))),
            None => refuse("ERR EXEC without MULTI"),
        },
        "watch" if session.queued.is_some() => refuse("ERR WATCH inside MULTI is not allowed"),
        "watch" => {
            let keys = &arguments[1..];
            must_be_keys(keys)?;
            Ok(Step::Task(Box::new(Task::Watch(keys.to_vec()))))
        }
        _ => {
            session.watched.clear();
            Ok(said(Answer::ok))
        }
    }
}

/// Said of what cannot be done between others.
const NOT_IN_TRANSACTION: &str = "ERR Command not allowed inside a transaction";

/// Carries out what was queued: what is about keys in one entry of the log, what is about this node here.
pub(super) async fn exec(
    front: &Front,
    session: &mut Session,
    queued: Queued,
    out: &mut Answer,
) -> Result<(), Error> {
    let watched = std::mem::take(&mut session.watched);
    if !front.router.knows_runs() {
        out.error(NOT_KNOWN_YET);
        return Ok(());
    }
    let mut commands: Vec<RunMessage> = Vec::new();
    let mut refusals: Vec<Option<Refusal>> = Vec::new();
    let mut range = tokens(watched.iter().map(|(key, _)| key));
    for (spec, arguments) in &queued.commands {
        // What it may not do any more is refused in its place.
        let refused = users::must_be_allowed(front, session, users::MULTI, spec, arguments).err();
        let is_refused = refused.is_some();
        refusals.push(refused);
        if is_refused || matches!(spec.run, Run::Front) {
            continue;
        }
        let about = match spec.keys {
            Keys::All => Some((Token(0), Token(u64::MAX))),
            _ if function::is_about_all(spec, arguments) => Some((Token(0), Token(u64::MAX))),
            _ => tokens(spec.keys(arguments)),
        };
        range = match (range, about) {
            (Some((first, last)), Some((least, most))) => Some((first.min(least), last.max(most))),
            (one, other) => one.or(other),
        };
        commands.push(run(front, spec, arguments.clone(), users::actor(session, spec)));
    }
    let mut replies = Vec::new();
    let mut typed = false;
    if !commands.is_empty() || !watched.is_empty() {
        let tokens = range.unwrap_or((Token(0), Token(0)));
        let watched = watched.into_iter().map(|(key, version)| Watched { key, version }).collect();
        let transaction = Transaction { watched, commands };
        let (body, tells_changes) = (Some(Body::Transaction(transaction)), tracking::tells_changes(session));
        let command = Command { body, tells_changes, ..Command::default() }.encode_to_vec().into();
        let reply = front.router.write_one(Write { tokens, command }, None).await?;
        session.own_changes.extend(reply.changes);
        if reply.outcome() == Outcome::ConditionFailed {
            out.null_array();
            return Ok(());
        }
        replies = reply.said;
        typed = reply.typed;
    }
    let mut replies = replies.into_iter();
    out.array(queued.commands.len());
    for ((spec, arguments), refused) in queued.commands.iter().zip(refusals) {
        if let Some(refusal) = refused {
            out.error(refusal.text());
        } else if matches!(spec.run, Run::Front) {
            match connection::plan(front, session, spec, arguments) {
                Ok((Step::Said(answer), _)) => {
                    let (bytes, typed) = answer.finish();
                    out.encoded(&bytes, typed);
                }
                Ok((Step::Task(task), _)) => match *task {
                    Task::Heard(answer) => {
                        out.encoded(answer.bytes(), true);
                        if let Some(subscriber) = &session.subscriber {
                            subscriber.heard().await;
                        }
                    }
                    Task::Track(wanted) => {
                        front.tracking.begin(session.client.id(), wanted).await;
                        out.ok();
                    }
                    Task::Publish { sharded, channel, payload } => {
                        out.count(front.hub.publish(sharded, &channel, &payload));
                    }
                    _ => out.error(NOT_IN_TRANSACTION),
                },
                Ok(_) => out.error(NOT_IN_TRANSACTION),
                Err(refusal) => out.error(refusal.text()),
            }
        } else {
            out.encoded(&replies.next().unwrap_or_default(), typed);
        }
    }
    Ok(())
}
