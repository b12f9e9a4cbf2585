//! CLIENT TRACKING: clients that keep values themselves and are told when those may be others by now.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Front;
use super::plan::{Session, Step, said};
use super::task::Task;
use crate::command::arguments::{SYNTAX, integer, is, lower};
use crate::command::reply::{Answer, Protocol, transcode};
use crate::command::table::Spec;
use crate::command::{Done, refuse};
use crate::pubsub::{Kind, Subscriber};
use crate::tracking::{Invalidated, Wanted};

/// Where a RESP2 connection is told that has subscribed to it.
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// What a connection has said about what it wants to be told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mode {
    /// Keys with these prefixes, whether it reads them or not.
    prefixes: Option<Vec<Bytes>>,
    choice: Choice,
    noloop: bool,
    /// The connection that is told instead.
    redirect: Option<u64>,
    /// CLIENT CACHING was said, for the next command.
    is_chosen: bool,
}

/// Which of the keys that it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Choice {
    #[default]
    All,
    /// Those before which it has said so.
    OptIn,
    /// But those before which it has said so.
    OptOut,
}

impl Mode {
    fn wants_what_is_read(&self) -> bool {
        let is_wanted = match self.choice {
            Choice::All => true,
            Choice::OptIn => self.is_chosen,
            Choice::OptOut => !self.is_chosen,
        };
        self.prefixes.is_none() && is_wanted
    }

    /// As CLIENT LIST has it.
    pub(super) fn flags(&self) -> &'static str {
        if self.prefixes.is_some() { "tB" } else { "t" }
    }

    pub(super) fn redirect(&self) -> i64 {
        self.redirect.map_or(0, |redirect| i64::try_from(redirect).unwrap_or(i64::MAX))
    }
}

/// True if a connection is not to be told of what it changes itself.
pub(super) fn tells_changes(session: &Session) -> bool {
    session.tracking.as_ref().is_some_and(|mode| mode.noloop)
}

/// While there is one, changes that a connection may have made itself wait until that is known.
pub(super) struct Changing<'a> {
    front: &'a Front,
    client: Option<u64>,
}

impl<'a> Changing<'a> {
    pub(super) fn begin(front: &'a Front, session: &Session) -> Self {
        let client = tells_changes(session).then(|| session.client.id());
        client.into_iter().for_each(|client| front.tracking.changes(client));
        Self { front, client }
    }

    pub(super) fn end(mut self, session: &mut Session) {
        let changes = std::mem::take(&mut session.own_changes);
        if let Some(client) = self.client.take() {
            self.front.tracking.has_changed(client, changes);
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.front.tracking.has_changed(client, Vec::new());
        }
    }
}

/// What INFO says of it.
pub(super) fn statistics(front: &Front) -> String {
    let counts = front.tracking.counts();
    format!(
        "tracking_clients:{}\r\ntracking_total_keys:{}\r\ntracking_total_items:{}\r\ntracking_total_prefixes:{}\r\n",
        counts.clients, counts.keys, counts.items, counts.prefixes
    )
}

/// Remembers what a command reads, if its connection is to be told of it.
pub(super) fn note(front: &Front, session: &mut Session, spec: &Spec, arguments: &[Bytes]) {
    let is_queued = session.queued.is_some();
    let Some(mode) = &mut session.tracking else { return };
    if mode.wants_what_is_read() && (spec.is("readonly") || spec.group == "scripting") {
        front.tracking.remember(session.client.id(), spec.keys(arguments));
    }
    // It is about one command, or about all of a transaction.
    if mode.is_chosen && !is_queued && !["client", "multi"].contains(&spec.name) {
        mode.is_chosen = false;
    }
}

/// Forgets what a connection has said.
pub(super) fn end(front: &Front, session: &mut Session) {
    if session.tracking.take().is_some() {
        front.tracking.end(session.client.id());
        session.client.tracks(None);
    }
}

/// Those subcommands of CLIENT; `None` if it is another one.
pub(super) fn plan(front: &Front, session: &mut Session, arguments: &[Bytes]) -> Option<Done<Step>> {
    Some(match (lower(&arguments[1]).as_str(), &arguments[2..]) {
        ("tracking", [on, options @ ..]) => turn(front, session, on, options),
        ("caching", [choice]) => choose(session, choice),
        ("getredir", []) => {
            let redirect = session.tracking.as_ref().map_or(-1, Mode::redirect);
            Ok(said(|out| out.integer(redirect)))
        }
        ("trackinginfo", []) => Ok(said(|out| tell(front, session.tracking.as_ref(), out))),
        _ => return None,
    })
}

fn tell(front: &Front, mode: Option<&Mode>, out: &mut Answer) {
    let mut flags = vec![if mode.is_some() { "on" } else { "off" }];
    if let Some(mode) = mode {
        let said = [
            (mode.prefixes.is_some(), "bcast"),
            (mode.choice == Choice::OptIn, "optin"),
            (mode.choice == Choice::OptIn && mode.is_chosen, "caching-yes"),
            (mode.choice == Choice::OptOut, "optout"),
            (mode.choice == Choice::OptOut && mode.is_chosen, "caching-no"),
            (mode.noloop, "noloop"),
            (mode.redirect.is_some_and(|id| front.clients.get(id).is_none()), "broken_redirect"),
        ];
        flags.extend(said.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag));
    }
    out.map(3);
    out.bulk(b"flags");
    out.set(flags.len());
    flags.iter().for_each(|flag| out.bulk(flag.as_bytes()));
    out.bulk(b"redirect");
    out.integer(mode.map_or(-1, Mode::redirect));
    out.bulk(b"prefixes");
    let prefixes = mode.and_then(|mode| mode.prefixes.as_deref()).unwrap_or_default();
    out.array(prefixes.len());
    prefixes.iter().for_each(|prefix| out.bulk(prefix));
}

fn choose(session: &mut Session, choice: &Bytes) -> Done<Step> {
    let Some(mode) = &mut session.tracking else {
        return refuse(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        );
    };
    match (lower(choice).as_str(), mode.choice) {
        ("yes", Choice::OptIn) | ("no", Choice::OptOut) => mode.is_chosen = true,
        ("yes", _) => {
            return refuse("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.");
        }
        ("no", _) => {
            return refuse("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.");
        }
        _ => return refuse(SYNTAX),
    }
    Ok(said(Answer::ok))
}

/// What CLIENT TRACKING was given.
#[derive(Default)]
struct Options {
    redirect: Option<u64>,
    is_broadcast: bool,
    optin: bool,
    optout: bool,
    noloop: bool,
    prefixes: Vec<Bytes>,
}

fn options(front: &Front, mut rest: &[Bytes]) -> Done<Options> {
    let mut options = Options::default();
    loop {
        rest = match rest {
            [] => return Ok(options),
            [option, id, more @ ..] if is(option, "redirect") => {
                if options.redirect.is_some() {
                    return refuse("ERR A client can only redirect to a single other client");
                }
                let id = u64::try_from(integer(id)?).ok().filter(|id| front.clients.get(*id).is_some());
                let Some(id) = id else {
                    return refuse("ERR The client ID you want redirect to does not exist");
                };
                options.redirect = Some(id);
                more
            }
            [option, prefix, more @ ..] if is(option, "prefix") => {
                options.prefixes.push(prefix.clone());
                more
            }
            [option, more @ ..] => {
                match lower(option).as_str() {
                    "bcast" => options.is_broadcast = true,
                    "optin" => options.optin = true,
                    "optout" => options.optout = true,
                    "noloop" => options.noloop = true,
                    _ => return refuse(SYNTAX),
                }
                more
            }
        };
    }
}

fn turn(front: &Front, session: &mut Session, on: &Bytes, rest: &[Bytes]) -> Done<Step> {
    let options = options(front, rest)?;
    if is(on, "off") {
        end(front, session);
        return Ok(said(Answer::ok));
    }
    if !is(on, "on") {
        return refuse(SYNTAX);
    }
    if session.front != "resp" {
        return refuse("ERR a client is told of changes on a connection of its own: use RESP");
    }
    let before = session.tracking.clone();
    if !options.is_broadcast && !options.prefixes.is_empty() {
        return refuse("ERR PREFIX option requires BCAST mode to be enabled");
    }
    if before.as_ref().is_some_and(|before| before.prefixes.is_some() != options.is_broadcast) {
        return refuse(
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
        );
    }
    if options.is_broadcast && (options.optin || options.optout) {
        return refuse("ERR OPTIN and OPTOUT are not compatible with BCAST");
    }
    if options.optin && options.optout {
        return refuse("ERR You can't specify both OPTIN mode and OPTOUT mode");
    }
    let held = before.as_ref().map_or(Choice::All, |before| before.choice);
    if (options.optin && held == Choice::OptOut) || (options.optout && held == Choice::OptIn) {
        return refuse(
            "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.",
        );
    }
    let mut prefixes = before.and_then(|before| before.prefixes).unwrap_or_default();
    must_be_apart(&prefixes, &options.prefixes)?;
    prefixes.extend(options.prefixes);
    if options.is_broadcast && prefixes.is_empty() {
        prefixes.push(Bytes::new());
    }
    let choice = match (options.optin, options.optout) {
        (true, _) => Choice::OptIn,
        (_, true) => Choice::OptOut,
        _ => held,
    };
    let mode = Mode {
        prefixes: options.is_broadcast.then_some(prefixes),
        choice,
        noloop: options.noloop,
        redirect: options.redirect,
        is_chosen: false,
    };
    let own = Arc::downgrade(session.client.inbox());
    let other = options.redirect.and_then(|id| front.clients.get(id));
    let inbox = other.map_or_else(|| own.clone(), |other| Arc::downgrade(other.inbox()));
    let wanted = Wanted {
        inbox,
        redirected: options.redirect,
        own,
        prefixes: mode.prefixes.clone(),
        but_own: mode.noloop,
    };
    session.client.tracks(Some(&mode));
    session.tracking = Some(mode);
    Ok(Step::Task(Box::new(Task::Track(wanted))))
}

/// Refuses prefixes of which one begins with another.
fn must_be_apart(held: &[Bytes], more: &[Bytes]) -> Done {
    let overlap = |a: &Bytes, b: &Bytes| a.starts_with(b) || b.starts_with(a);
    let text = |prefix: &Bytes| String::from_utf8_lossy(prefix).into_owned();
    for (at, prefix) in more.iter().enumerate() {
        let existing = held.iter().map(|held| ("an existing", held));
        let others = more[at + 1..].iter().map(|other| ("another provided", other));
        if let Some((which, other)) = existing.chain(others).find(|(_, other)| overlap(prefix, other)) {
            return refuse(format!(
                "ERR Prefix '{}' overlaps with {which} prefix '{}'. Prefixes for a single client must not overlap.",
                text(prefix),
                text(other)
            ));
        }
    }
    Ok(())
}

/// Writes what has come for a connection.
pub(super) fn say_all(session: &Session, outbound: &mut BytesMut) {
    let come = session.client.inbox().take();
    if come.is_empty() {
        return;
    }
    let is_resp3 = session.protocol == Protocol::Resp3;
    // One that cannot tell it from an answer is not told.
    let has_subscribed =
        |subscriber: &Subscriber| subscriber.names(Kind::Channel).iter().any(|name| name == CHANNEL);
    if !is_resp3 && !session.subscriber.as_ref().is_some_and(has_subscribed) {
        return;
    }
    for item in come {
        let mut answer = Answer::default();
        if is_resp3 {
            answer.push(2);
        } else {
            answer.push(3);
            answer.bulk(b"message");
        }
        match item {
            Invalidated::Unheard(id) => {
                if !is_resp3 {
                    continue;
                }
                answer.bulk(b"tracking-redir-broken");
                answer.integer(i64::try_from(id).unwrap_or(i64::MAX));
            }
            Invalidated::All => {
                answer.bulk(if is_resp3 { b"invalidate" } else { CHANNEL });
                answer.null_array();
            }
            Invalidated::Keys(keys) => {
                answer.bulk(if is_resp3 { b"invalidate" } else { CHANNEL });
                answer.array(keys.len());
                keys.iter().for_each(|key| answer.bulk(key));
            }
        }
        transcode(answer.bytes(), session.protocol, outbound);
    }
}
