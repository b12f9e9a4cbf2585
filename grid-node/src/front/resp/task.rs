//! What is done alone, not with the commands before and behind it: what asks every partition, and what waits.

use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};
use trimaran_placement::token::Token;
use trimaran_proto::state::grid::query::Body as QueryBody;
use trimaran_proto::state::grid::{Query, QueryReply, Reply, Run as RunMessage, VersionsQuery};

use super::plan::{Part, Session, error_text, must_be_keys, part};
use super::typed::NOT_KNOWN_YET;
use super::{Front, transaction, users};
use crate::command::arguments::float;
use crate::command::key::Page;
use crate::command::reply::{Answer, integer_of, is_error};
use crate::command::stream::{reading, seen};
use crate::command::table::Spec;
use crate::command::{Done, Refusal, matches, refuse};
use crate::data::stream::Id;
use crate::error::Error;
use crate::front::grpc::scan_page;
use crate::limits::SCAN_COUNT_MAX;
use crate::queue;
use crate::router::{Question, token_of, tokens};
use crate::tracking::Wanted;
use crate::waiters::{Awaited, Turn};

/// How long it is waited after a place in a queue was lost, until another one is asked for.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(super) enum Task {
    /// A page of all keys.
    Scan(Page),
    /// One after the other, every partition.
    Everywhere { spec: &'static Spec, arguments: Vec<Bytes> },
    /// Remembers the versions of keys.
    Watch(Vec<Bytes>),
    /// Carries out what was queued.
    Exec(transaction::Queued),
    /// Tries a command until it has something.
    Block { spec: &'static Spec, arguments: Vec<Bytes>, wanted: queue::Wanted, until: Option<Instant> },
    /// Waits.
    Sleep(Duration),
    /// Hands a message to everybody who wants it.
    Publish { sharded: bool, channel: Bytes, payload: Bytes },
    /// Changes users.
    Users(users::Change),
    /// Waits until changes are watched that a client is to be told of.
    Track(Wanted),
    /// Waits until other nodes know what was subscribed to; then it is answered.
    Heard(Answer),
}

impl Task {
    /// A command that waits for an element of one of its keys.
    pub(super) fn block(front: &Front, spec: &'static Spec, arguments: Vec<Bytes>) -> Done<Self> {
        if spec.group == "stream" {
            return Self::block_on_stream(front, spec, arguments);
        }
        let at = match spec.name {
            "blmpop" | "bzmpop" => 1,
            _ => arguments.len() - 1,
        };
        let seconds = float(&arguments[at])
            .ok_or_else(|| Refusal::new("ERR timeout is not a float or out of range"))?;
        if seconds < 0.0 {
            return refuse("ERR timeout is negative");
        }
        // What does not fit milliseconds of 64 bits is refused, as Redis does.
        if seconds * 1000.0 > i64::MAX as f64 {
            return refuse("ERR timeout is out of range");
        }
        let until = (seconds > 0.0)
            .then(|| Instant::now().checked_add(Duration::try_from_secs_f64(seconds).ok()?))
            .flatten();
        let keys = spec.keys(&arguments);
        must_be_keys(keys.clone())?;
        let awaited = if spec.group == "list" { Awaited::List } else { Awaited::SortedSet };
        // Of a command that moves an element, the source is waited for.
        let moves = ["blmove", "brpoplpush"].contains(&spec.name);
        let keys = keys.take(if moves { 1 } else { usize::MAX }).cloned().collect();
        let wanted = queue::Wanted { keys, awaited, since_ms: front.router.clock_ms() };
        Ok(Self::Block { spec, arguments, wanted, until })
    }

    fn block_on_stream(front: &Front, spec: &'static Spec, arguments: Vec<Bytes>) -> Done<Self> {
        let reading = reading(&arguments)?;
        must_be_keys(reading.keys)?;
        let awaited = match reading.group {
            Some((group, _)) => Awaited::News(group.clone()),
            None => Awaited::Entry(Vec::new()),
        };
        let wanted =
            queue::Wanted { keys: reading.keys.to_vec(), awaited, since_ms: front.router.clock_ms() };
        let until = match reading.block_ms {
            // It does not wait at all.
            None => Some(Instant::now()),
            Some(0) => None,
            Some(ms) => Instant::now().checked_add(Duration::from_millis(ms)),
        };
        Ok(Self::Block { spec, arguments, wanted, until })
    }

    /// True if it may take longer than the commands around it.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Block { .. } | Self::Sleep(_))
    }

    /// True if it waits for something to come.
    pub(super) fn blocks(&self) -> bool {
        matches!(self, Self::Block { .. })
    }

    /// Does it. `None` if the client has gone meanwhile.
    pub(super) async fn perform(
        self,
        front: &Front,
        session: &mut Session,
        stream: Option<&TcpStream>,
    ) -> Option<Answer> {
        let mut out = Answer::default();
        let done = match self {
            Self::Scan(page) => scan(front, page, &mut out).await,
            Self::Everywhere { spec, arguments } => {
                let done = everywhere(front, spec, arguments, &mut out).await;
                if spec.name.starts_with("flush") {
                    // As Redis: not key by key. At other nodes each key is told.
                    front.tracking.flushed();
                }
                done
            }
            Self::Watch(keys) => watch(front, session, keys, &mut out).await,
            Self::Exec(queued) => transaction::exec(front, session, queued, &mut out).await,
            Self::Block { spec, arguments, wanted, until } => {
                return block(front, session, stream, (spec, arguments), wanted, until).await;
            }
            Self::Publish { sharded, channel, payload } => {
                out.count(front.hub.publish(sharded, &channel, &payload));
                Ok(())
            }
            Self::Users(change) => {
                match users::change(front, change).await {
                    Ok(Some(count)) => out.count(count),
                    Ok(None) => out.ok(),
                    Err(refusal) => out.error(refusal.text()),
                }
                users::refresh(front, session);
                Ok(())
            }
            Self::Track(wanted) => {
                front.tracking.begin(session.client.id(), wanted).await;
                out.ok();
                Ok(())
            }
            Self::Heard(answer) => {
                if let Some(subscriber) = &session.subscriber {
                    subscriber.heard().await;
                }
                return Some(answer);
            }
            Self::Sleep(time) => {
                tokio::select! {
                    () = sleep(time) => {}
                    () = gone(stream) => return None,
                }
                out.ok();
                Ok(())
            }
        };
        if let Err(error) = done {
            out.truncate(0);
            out.error(&error_text(&error));
        }
        Some(out)
    }
}

/// What one partition said.
struct Answered {
    said: Vec<Bytes>,
    typed: bool,
    /// The last token of the partition, of what is about all keys.
    last: Option<u64>,
}

/// Asks one partition.
async fn ask(front: &Front, part: Part) -> Result<Answered, Error> {
    match part {
        Part::Write(write) => {
            let Reply { said, typed, last_token: last, .. } = front.router.write_one(write, None).await?;
            Ok(Answered { said, typed, last })
        }
        Part::Read(question) => {
            let reply = front.router.read(vec![question]).await.pop().unwrap_or(Err(Error::NotReady))?;
            let QueryReply { said, typed, last_token: last, .. } = reply;
            Ok(Answered { said, typed, last })
        }
    }
}

async fn scan(front: &Front, page: Page, out: &mut Answer) -> Result<(), Error> {
    let count = u32::try_from(page.count).unwrap_or(SCAN_COUNT_MAX).min(SCAN_COUNT_MAX);
    let kind = page.kind.as_deref().unwrap_or_default();
    let (mut keys, cursor) = scan_page(&front.router, Token(page.cursor), count, kind).await?;
    if let Some(pattern) = &page.pattern {
        keys.retain(|key| matches(pattern, key));
    }
    out.array(2);
    out.bulk(itoa::Buffer::new().format(cursor.0).as_bytes());
    out.array(keys.len());
    keys.iter().for_each(|key| out.bulk(key));
    Ok(())
}

/// The answers of all partitions, in the order of their tokens, and whether something in them is typed.
async fn everywhere(
    front: &Front,
    spec: &Spec,
    arguments: Vec<Bytes>,
    out: &mut Answer,
) -> Result<(), Error> {
    let mut token = Token(0);
    let mut said = Vec::new();
    loop {
        let Answered { said: part, last, .. } =
            ask(front, part(front, spec, (token, token), arguments.clone(), None, false)).await?;
        said.extend(part);
        // It may have been split since, and be shorter than it was.
        match last.and_then(|last| last.checked_add(1)) {
            Some(next) => token = Token(next),
            None => break,
        }
    }
    if let Some(refused) = said.iter().find(|said| is_error(said)) {
        out.encoded(refused, false);
        return Ok(());
    }
    match spec.name {
        "dbsize" => out.integer(said.iter().filter_map(|said| integer_of(said)).sum()),
        "keys" => {
            let keys: Vec<Bytes> = said.iter().flat_map(bulks).collect();
            out.array(keys.len());
            keys.iter().for_each(|key| out.bulk(key));
        }
        "randomkey" => {
            // Of those that there are, one of each partition.
            let keys: Vec<Bytes> = said.iter().flat_map(bulks).collect();
            let chosen = usize::try_from(front.random() % keys.len().max(1) as u64).unwrap_or(0);
            out.bulk_or_null(keys.get(chosen).map(|key| &key[..]));
        }
        // Each says the same.
        _ => out.encoded(said.first().map_or(&[][..], |said| said), true),
    }
    Ok(())
}

/// The bulk strings of an answer.
fn bulks(said: &Bytes) -> Vec<Bytes> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(end) = said.get(at..).and_then(|rest| memchr::memchr(b'\n', rest)).map(|end| at + end) {
        let line = &said[at..end];
        at = end + 1;
        if let Some(length) = line.strip_prefix(b"$").and_then(|line| line.strip_suffix(b"\r"))
            && let Some(length) = std::str::from_utf8(length).ok().and_then(|text| text.parse::<usize>().ok())
        {
            found.push(said.slice(at..at + length));
            at += length + 2;
        }
    }
    found
}

async fn watch(
    front: &Front,
    session: &mut Session,
    keys: Vec<Bytes>,
    out: &mut Answer,
) -> Result<(), Error> {
    if !front.router.knows_runs() {
        out.error(NOT_KNOWN_YET);
        return Ok(());
    }
    let question = |key: &Bytes| {
        let token = token_of(key);
        let body = Some(QueryBody::Versions(VersionsQuery { keys: vec![key.clone()] }));
        Question { tokens: (token, token), query: Query { body } }
    };
    let replies = front.router.read(keys.iter().map(question).collect()).await;
    for (key, reply) in keys.into_iter().zip(replies) {
        let version = reply?.versions.first().copied().unwrap_or(0);
        // The first time that it was seen counts.
        if !session.watched.iter().any(|(watched, _)| *watched == key) {
            session.watched.push((key, version));
        }
    }
    out.ok();
    Ok(())
}

/// Returns when the client has gone; never for one that has no connection of its own, or has sent more meanwhile.
async fn gone(stream: Option<&TcpStream>) {
    let Some(stream) = stream else { return std::future::pending().await };
    match stream.peek(&mut [0]).await {
        Ok(0) | Err(_) => {}
        // It is not seen any more that it goes before this is read.
        Ok(_) => std::future::pending().await,
    }
}

async fn block(
    front: &Front,
    session: &Session,
    stream: Option<&TcpStream>,
    (spec, mut arguments): (&'static Spec, Vec<Bytes>),
    mut wanted: queue::Wanted,
    until: Option<Instant>,
) -> Option<Answer> {
    let end = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    if let Awaited::Entry(seen) = &mut wanted.awaited {
        match name_ids(front, &mut arguments).await {
            Ok(ids) => *seen = ids,
            Err(said) => return Some(said),
        }
    }
    let minds = matches!(wanted.awaited, Awaited::News(_));
    let mut place = None;
    loop {
        // It may be long since it was allowed.
        if let Some(refusal) = users::refused_by_now(front, session, spec, &arguments) {
            let mut out = Answer::default();
            out.error(refusal.text());
            return Some(out);
        }
        let attempted = attempt(front, spec, arguments.clone()).await;
        drop(place.take());
        let answer = match attempted {
            Ok(answer) => answer,
            Err(error) => {
                let mut out = Answer::default();
                out.error(&error_text(&error));
                out
            }
        };
        let is_nothing = [&b"N\r\n"[..], b"_\r\n"].contains(&answer.bytes());
        if !is_nothing || stream.is_none() || until.is_some_and(|until| until <= Instant::now()) {
            return Some(answer);
        }
        // A place is asked for before it is looked again, so that nothing comes between.
        let turn = async {
            let token = token_of(wanted.keys.first().map_or(&[][..], |key| key));
            match queue::enter(&front.router, token, &wanted).await {
                Ok(mut entered) => {
                    // Others see it from now on: it has its place.
                    let _blocked = session.client.blocks(&wanted.keys, minds);
                    if entered.turn().await == Turn::Gone {
                        sleep(AGAIN_AFTER).await;
                    }
                    Some(entered)
                }
                Err(_nobody_leads) => {
                    sleep(AGAIN_AFTER).await;
                    None
                }
            }
        };
        tokio::select! {
            entered = turn => place = entered,
            () = &mut end => return Some(answer),
            () = gone(stream) => return None,
            with_error = session.client.unblocked() => {
                if !with_error {
                    return Some(answer);
                }
                let mut out = Answer::default();
                out.error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
                return Some(out);
            }
            () = session.client.killed() => return None,
        }
    }
}

/// Carries a command out that takes something if there is something.
async fn attempt(front: &Front, spec: &'static Spec, arguments: Vec<Bytes>) -> Result<Answer, Error> {
    let mut out = Answer::default();
    if !front.router.knows_runs() {
        out.error(NOT_KNOWN_YET);
        return Ok(out);
    }
    let tokens = tokens(spec.keys(&arguments)).unwrap_or((Token(0), Token(0)));
    if !front.router.is_whole(tokens) {
        return Err(Error::CrossSlot);
    }
    let Answered { said, typed, .. } = ask(front, part(front, spec, tokens, arguments, None, false)).await?;
    out.encoded(said.first().map_or(&[][..], |said| said), typed);
    Ok(out)
}

/// Says instead of `$` which entry was the last when it was asked for: later it would be another one. The ids in the
/// order of the keys.
async fn name_ids(front: &Front, arguments: &mut [Bytes]) -> Result<Vec<Id>, Answer> {
    let refused = |text: &str| {
        let mut out = Answer::default();
        out.error(text);
        out
    };
    let reading = reading(arguments).map_err(|refusal| refused(refusal.text()))?;
    let mut ids = Vec::with_capacity(reading.keys.len());
    for (key, asked) in reading.keys.iter().zip(reading.ids) {
        let (mut last, mut newest) = (Id::MIN, None);
        if [&b"$"[..], b"+"].contains(&&asked[..]) {
            let (last_told, newest_told) =
                last_ids(front, key).await.map_err(|error| refused(&error_text(&error)))?;
            (last, newest) = (last_told, newest_told);
        }
        ids.push(seen(asked, last, newest).map_err(|refusal| refused(refusal.text()))?);
    }
    let first = arguments.len() - ids.len();
    for (argument, id) in arguments[first..].iter_mut().zip(&ids) {
        *argument = Bytes::from(id.to_string());
    }
    Ok(ids)
}

/// The last id of a stream, and the one before its newest entry.
async fn last_ids(front: &Front, key: &Bytes) -> Result<(Id, Option<Id>), Error> {
    let ask = async |words: [&[u8]; 3]| {
        let arguments: Vec<Bytes> = words.into_iter().map(Bytes::copy_from_slice).collect();
        let run = RunMessage { arguments, ..RunMessage::default() };
        let reply = front.router.read_one(token_of(key), QueryBody::Run(run)).await?;
        Ok::<_, Error>(reply.said.first().map_or_else(Vec::new, bulks))
    };
    let told = ask([b"XINFO", b"STREAM", key]).await?;
    let of = |name: &[u8]| {
        let at = told.iter().position(|word| word == name)?;
        seen(told.get(at + 1)?, Id::MIN, None).ok()
    };
    let last = of(b"last-generated-id").unwrap_or_default();
    let newest = told.iter().position(|word| word == &b"last-entry"[..]).and_then(|at| told.get(at + 1));
    let newest = newest.and_then(|id| seen(id, Id::MIN, None).ok()).and_then(Id::previous);
    Ok((last, newest))
}
