//! SUBSCRIBE, PUBLISH, and what a connection is told without having asked.

use bytes::{Bytes, BytesMut};

use super::Front;
use super::plan::{Session, Step, said};
use super::task::Task;
use crate::command::arguments::lower;
use crate::command::reply::{Answer, Protocol, transcode};
use crate::command::table::Spec;
use crate::command::{Done, refuse};
use crate::limits::SUBSCRIPTIONS_MAX;
use crate::pubsub::{Kind, Message, Subscriber};

/// Commands that a RESP2 connection takes that has subscribed: it could not tell other answers from messages.
const TAKEN: &[&str] = &[
    "ping",
    "psubscribe",
    "punsubscribe",
    "quit",
    "reset",
    "ssubscribe",
    "subscribe",
    "sunsubscribe",
    "unsubscribe",
];

/// Refuses what cannot be answered on this connection now.
pub(super) fn must_be_taken(session: &Session, spec: &Spec) -> Done {
    if session.protocol == Protocol::Resp2 && session.is_subscribed() && !TAKEN.contains(&spec.name) {
        return refuse(format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
             context",
            spec.name
        ));
    }
    Ok(())
}

/// True if a command is answered whatever CLIENT REPLY says: with what is told, not answered.
pub(super) fn is_told(spec: &Spec) -> bool {
    spec.name.ends_with("subscribe")
}

/// What is said to PING.
pub(super) fn pong(session: &Session, text: Option<&Bytes>) -> Step {
    let is_subscribed = session.protocol == Protocol::Resp2 && session.is_subscribed();
    said(|out| match text {
        text if is_subscribed => {
            out.array(2);
            out.bulk(b"pong");
            out.bulk(text.map_or(&[][..], |text| text));
        }
        Some(text) => out.bulk(text),
        None => out.simple("PONG"),
    })
}

/// The commands of this group.
pub(super) fn plan(front: &Front, session: &mut Session, spec: &Spec, arguments: &[Bytes]) -> Done<Step> {
    let (word, kind) = match spec.name {
        // Behind what was sent before it: who is told may look at once.
        "publish" | "spublish" => {
            let (channel, payload) = (arguments[1].clone(), arguments[2].clone());
            return Ok(Step::Task(Box::new(Task::Publish {
                sharded: spec.name == "spublish",
                channel,
                payload,
            })));
        }
        "pubsub" => return tell(front, arguments),
        name if name.starts_with('p') => (&name[1..], Kind::Pattern),
        name if name.starts_with("ss") || name.starts_with("su") && name != "subscribe" => {
            (&name[1..], Kind::Sharded)
        }
        name => (name, Kind::Channel),
    };
    if session.front != "resp" {
        return refuse("ERR messages need a connection of their own: subscribe over RESP or gRPC");
    }
    match word {
        "subscribe" => subscribe(front, session, spec.name, kind, &arguments[1..]),
        _ => Ok(unsubscribe(session, spec.name, kind, &arguments[1..])),
    }
}

/// What is counted with a kind when its subscriptions are told.
fn count(subscriber: Option<&Subscriber>, kind: Kind) -> usize {
    let Some(subscriber) = subscriber else { return 0 };
    match kind {
        Kind::Sharded => subscriber.count(Kind::Sharded),
        Kind::Channel | Kind::Pattern => subscriber.count(Kind::Channel) + subscriber.count(Kind::Pattern),
    }
}

fn tell_change(out: &mut Answer, word: &str, name: Option<&Bytes>, count: usize) {
    out.push(3);
    out.bulk(word.as_bytes());
    out.bulk_or_null(name.map(|name| &name[..]));
    out.count(count);
}

fn subscribe(front: &Front, session: &mut Session, word: &str, kind: Kind, names: &[Bytes]) -> Done<Step> {
    let subscriber = session.subscriber.get_or_insert_with(|| Subscriber::new(&front.hub));
    let held: usize = Kind::ALL.iter().map(|kind| subscriber.count(*kind)).sum();
    if held + names.len() > SUBSCRIPTIONS_MAX {
        let actual = held + names.len();
        return refuse(format!("ERR {actual} subscriptions exceed SUBSCRIPTIONS_MAX = {SUBSCRIPTIONS_MAX}"));
    }
    let mut answer = Answer::default();
    for name in names {
        subscriber.subscribe(kind, vec![name.clone()]);
        tell_change(&mut answer, word, Some(name), count(Some(subscriber), kind));
    }
    session.client.subscribed(session.subscriber.as_ref());
    Ok(Step::Task(Box::new(Task::Heard(answer))))
}

fn unsubscribe(session: &mut Session, word: &str, kind: Kind, names: &[Bytes]) -> Step {
    let mut names = names.to_vec();
    if let (true, Some(subscriber)) = (names.is_empty(), &session.subscriber) {
        names = subscriber.names(kind);
    }
    let mut answer = Answer::default();
    if names.is_empty() {
        tell_change(&mut answer, word, None, count(session.subscriber.as_ref(), kind));
    }
    for name in &names {
        if let Some(subscriber) = &mut session.subscriber {
            subscriber.unsubscribe(kind, name);
        }
        tell_change(&mut answer, word, Some(name), count(session.subscriber.as_ref(), kind));
    }
    session.client.subscribed(session.subscriber.as_ref());
    Step::Said(answer)
}

fn tell(front: &Front, arguments: &[Bytes]) -> Done<Step> {
    let hub = &front.hub;
    let names = |kind, pattern: Option<&Bytes>| {
        let found = hub.subscribed(kind, pattern.map(|pattern| &pattern[..]));
        said(|out| {
            out.array(found.len());
            found.iter().for_each(|name| out.bulk(name));
        })
    };
    let counts = |kind, asked: &[Bytes]| {
        said(|out| {
            out.array(asked.len() * 2);
            for name in asked {
                out.bulk(name);
                out.count(hub.count(kind, name));
            }
        })
    };
    Ok(match (lower(&arguments[1]).as_str(), &arguments[2..]) {
        ("channels", []) => names(Kind::Channel, None),
        ("channels", [pattern]) => names(Kind::Channel, Some(pattern)),
        ("shardchannels", []) => names(Kind::Sharded, None),
        ("shardchannels", [pattern]) => names(Kind::Sharded, Some(pattern)),
        ("numsub", asked) => counts(Kind::Channel, asked),
        ("shardnumsub", asked) => counts(Kind::Sharded, asked),
        ("numpat", []) => said(|out| out.count(hub.subscribed(Kind::Pattern, None).len())),
        _ => {
            return refuse(
                "ERR unknown subcommand or wrong number of arguments for 'pubsub'. Try PUBSUB HELP.",
            );
        }
    })
}

/// What came before a subscription ended is told before its end is: who has none is told nothing.
pub(super) fn with_messages(session: &mut Session, step: Step) -> Step {
    let Some(subscriber) = &mut session.subscriber else { return step };
    let Step::Said(answer) = step else { return step };
    let mut told = Answer::default();
    while let Some(message) = subscriber.try_next() {
        write(&message, &mut told);
    }
    told.encoded(answer.bytes(), true);
    Step::Said(told)
}

/// Writes the messages that there are.
pub(super) fn say_all(session: &mut Session, outbound: &mut BytesMut) {
    let protocol = session.protocol;
    // One that has unsubscribed within a transaction would take a message for an answer.
    let is_told = session.is_subscribed() || protocol == Protocol::Resp3;
    let Some(subscriber) = &mut session.subscriber else { return };
    while let Some(message) = subscriber.try_next() {
        if is_told {
            say(&message, protocol, outbound);
        }
    }
}

/// Writes a message as a connection has it.
pub(super) fn say(message: &Message, protocol: Protocol, outbound: &mut BytesMut) {
    let mut answer = Answer::default();
    write(message, &mut answer);
    transcode(answer.bytes(), protocol, outbound);
}

fn write(message: &Message, answer: &mut Answer) {
    match (&message.kind, &message.pattern) {
        (Kind::Pattern, Some(pattern)) => {
            answer.push(4);
            answer.bulk(b"pmessage");
            answer.bulk(pattern);
        }
        (kind, _) => {
            answer.push(3);
            answer.bulk(if *kind == Kind::Sharded { b"smessage" } else { b"message" });
        }
    }
    answer.bulk(&message.channel);
    answer.bulk(&message.payload);
}

/// What INFO says of subscriptions.
pub(super) fn statistics(front: &Front) -> String {
    let [channels, patterns, sharded] = Kind::ALL.map(|kind| front.hub.subscribed(kind, None).len());
    format!("pubsub_channels:{channels}\r\npubsub_patterns:{patterns}\r\npubsubshard_channels:{sharded}\r\n")
}
