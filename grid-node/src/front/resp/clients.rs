//! The connections of this node's RESP front, as they see each other: CLIENT.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Front;
use super::plan::{Replies, Session, Step, said};
use super::tracking::{self, Mode};
use crate::access::DEFAULT;
use crate::command::arguments::{SYNTAX, integer, is, lower};
use crate::command::reply::{Answer, Protocol};
use crate::command::table::{Spec, TABLE};
use crate::command::{Done, refuse};
use crate::pubsub::{Kind, Subscriber};
use crate::tracking::Inbox;

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    id: u64,
    address: String,
    since_ms: u64,
    told: Mutex<Told>,
    /// What it does: a place in the table, from 1; 0 = nothing yet.
    command: AtomicUsize,
    /// When it was heard last.
    heard_ms: AtomicU64,
    /// The keys that it waits for, and whether it is to be told if they go.
    blocked: Mutex<Option<(Vec<Bytes>, bool)>>,
    unblock: Notify,
    unblock_with_error: AtomicUsize,
    kill: CancellationToken,
    /// What it is told of values that it keeps.
    inbox: Arc<Inbox>,
}

#[derive(Debug, Default)]
struct Told {
    name: Bytes,
    library: Bytes,
    library_version: Bytes,
    is_resp3: bool,
    /// Empty = the default one.
    user: String,
    /// Flags, and who is told instead, while it wants to be told of changes.
    tracking: Option<(&'static str, i64)>,
    /// How many channels, patterns and sharded channels it has subscribed to.
    subscribed: [usize; 3],
}

/// What a client is to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientKind {
    Normal,
    Pubsub,
    /// There are none.
    Replica,
}

impl ClientKind {
    fn of(word: &[u8]) -> Done<Self> {
        match lower(word).as_str() {
            "normal" => Ok(Self::Normal),
            "pubsub" => Ok(Self::Pubsub),
            "master" | "replica" | "slave" => Ok(Self::Replica),
            other => refuse(format!("ERR Unknown client type '{other}'")),
        }
    }
}

/// A connection is waiting while it has one.
#[derive(Debug)]
pub(super) struct Blocked<'a>(&'a Client);

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        *self.0.blocked.lock() = None;
    }
}

impl Client {
    /// One that nobody else sees: that of a request over HTTP.
    pub(crate) fn alone(id: u64) -> Arc<Self> {
        Arc::new(Self::new(id, String::new(), 0))
    }

    fn new(id: u64, address: String, now_ms: u64) -> Self {
        Self {
            id,
            address,
            since_ms: now_ms,
            told: Mutex::default(),
            command: AtomicUsize::new(0),
            heard_ms: AtomicU64::new(now_ms),
            blocked: Mutex::default(),
            unblock: Notify::new(),
            unblock_with_error: AtomicUsize::new(0),
            kill: CancellationToken::new(),
            inbox: Arc::default(),
        }
    }

    /// Its number on this node.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn address_and_name(&self) -> (String, Bytes) {
        (self.address.clone(), self.told.lock().name.clone())
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Notes what it wants to be told of.
    pub(super) fn tracks(&self, mode: Option<&Mode>) {
        self.told.lock().tracking = mode.map(|mode| (mode.flags(), mode.redirect()));
    }

    /// Notes what it does.
    pub(super) fn runs(&self, spec: &'static Spec) {
        let place = TABLE.element_offset(spec).map_or(0, |place| place + 1);
        self.command.store(place, Ordering::Relaxed);
    }

    fn command(&self) -> &'static str {
        let place = self.command.load(Ordering::Relaxed).checked_sub(1);
        place.and_then(|place| TABLE.get(place)).map_or("", |spec| spec.name)
    }

    /// Notes when it was heard.
    pub(super) fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    /// As at first.
    pub(super) fn forget(&self) {
        *self.told.lock() = Told::default();
    }

    pub(super) fn speaks(&self, protocol: Protocol) {
        self.told.lock().is_resp3 = protocol == Protocol::Resp3;
    }

    pub(super) fn rename(&self, name: &Bytes) -> Done {
        if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
            return refuse("ERR Client names cannot contain spaces, newlines or special characters.");
        }
        self.told.lock().name = name.clone();
        Ok(())
    }

    /// It waits for keys from now on, until what is returned is dropped; `minds` whether they are there.
    pub(super) fn blocks(&self, keys: &[Bytes], minds: bool) -> Blocked<'_> {
        *self.blocked.lock() = Some((keys.to_vec(), minds));
        Blocked(self)
    }

    /// Returns when another connection says that it shall not wait any more; true if that is to be an error.
    pub(super) async fn unblocked(&self) -> bool {
        self.unblock.notified().await;
        self.unblock_with_error.load(Ordering::Relaxed) == 1
    }

    /// Returns when another connection says that it shall end.
    pub(super) async fn killed(&self) {
        self.kill.cancelled().await;
    }

    /// Notes what it has subscribed to.
    pub(super) fn subscribed(&self, subscriber: Option<&Subscriber>) {
        let count = |kind| subscriber.map_or(0, |subscriber| subscriber.count(kind));
        self.told.lock().subscribed = Kind::ALL.map(count);
    }

    fn kind(&self) -> ClientKind {
        let is_subscribed = self.told.lock().subscribed.iter().any(|count| *count > 0);
        if is_subscribed { ClientKind::Pubsub } else { ClientKind::Normal }
    }

    fn is_blocked(&self) -> bool {
        self.blocked.lock().is_some()
    }

    /// Notes who it is.
    pub(super) fn is_user(&self, name: &str) {
        name.clone_into(&mut self.told.lock().user);
    }

    fn user(&self) -> String {
        let told = self.told.lock();
        if told.user.is_empty() { DEFAULT.to_owned() } else { told.user.clone() }
    }

    /// As CLIENT LIST has it.
    pub(super) fn line(&self, now_ms: u64) -> String {
        let user = self.user();
        let told = self.told.lock();
        let seconds = |since: u64| now_ms.saturating_sub(since) / 1000;
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        format!(
            "id={} addr={} name={} age={} idle={} flags={} db=0 sub={} psub={} ssub={} cmd={} user={user} lib-name={} lib-ver={} resp={} redir={}\n",
            self.id,
            self.address,
            text(&told.name),
            seconds(self.since_ms),
            seconds(self.heard_ms.load(Ordering::Relaxed)),
            flags(self.is_blocked(), &told),
            told.subscribed[0],
            told.subscribed[1],
            told.subscribed[2],
            self.command(),
            text(&told.library),
            text(&told.library_version),
            if told.is_resp3 { 3 } else { 2 },
            told.tracking.map_or(-1, |(_, redirect)| redirect),
        )
    }
}

/// As CLIENT LIST has them.
fn flags(is_blocked: bool, told: &Told) -> String {
    let mut flags = String::new();
    if told.subscribed.iter().any(|count| *count > 0) {
        flags.push('P');
    }
    if is_blocked {
        flags.push('b');
    }
    flags.push_str(told.tracking.map_or("", |(flags, _)| flags));
    if flags.is_empty() { "N".to_owned() } else { flags }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
    next: AtomicU64,
}

impl Clients {
    pub(super) fn enter(&self, address: SocketAddr, now_ms: u64) -> Arc<Client> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client::new(id, address.to_string(), now_ms));
        self.open.lock().insert(id, Arc::clone(&client));
        client
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Client>> {
        self.open.lock().get(&id).cloned()
    }

    pub(super) fn leave(&self, client: &Client) {
        self.open.lock().remove(&client.id);
    }

    /// How many there are, and how many of them wait.
    pub(super) fn count(&self) -> (usize, usize) {
        let open = self.open.lock();
        let blocked = open.values().filter(|client| client.is_blocked()).count();
        (open.len(), blocked)
    }

    /// How many have subscribed to something.
    pub(super) fn subscribers(&self) -> usize {
        self.open.lock().values().filter(|client| client.kind() == ClientKind::Pubsub).count()
    }

    /// How many keys are waited for, and how many of them by somebody who minds whether they are there.
    pub(super) fn awaited_keys(&self) -> (usize, usize) {
        let open = self.open.lock();
        let (mut keys, mut minded) = (BTreeSet::new(), BTreeSet::new());
        for client in open.values() {
            if let Some((names, minds)) = &*client.blocked.lock() {
                keys.extend(names.iter().cloned());
                minded.extend(names.iter().filter(|_| *minds).cloned());
            }
        }
        (keys.len(), minded.len())
    }

    fn list(&self, wanted: impl Fn(&Client) -> bool, now_ms: u64) -> String {
        let open = self.open.lock();
        open.values().filter(|client| wanted(client)).map(|client| client.line(now_ms)).collect()
    }
}

const UNKNOWN: &str = "ERR unknown subcommand or wrong number of arguments for 'client'. Try CLIENT HELP.";

/// CLIENT.
pub(super) fn plan(front: &Front, session: &mut Session, arguments: &[Bytes]) -> Done<Step> {
    if let Some(planned) = tracking::plan(front, session, arguments) {
        return planned;
    }
    let client = &Arc::clone(&session.client);
    let now_ms = front.router.clock_ms();
    let id = i64::try_from(client.id).unwrap_or(i64::MAX);
    Ok(match (lower(&arguments[1]).as_str(), &arguments[2..]) {
        ("setname", [name]) => {
            client.rename(name)?;
            said(Answer::ok)
        }
        ("getname", []) => {
            let name = client.told.lock().name.clone();
            said(|out| out.bulk_or_null(Some(&name[..]).filter(|name| !name.is_empty())))
        }
        ("setinfo", [option, value]) => {
            if value.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
                let option = lower(option);
                return refuse(format!(
                    "ERR {option} cannot contain spaces, newlines or special characters."
                ));
            }
            let mut told = client.told.lock();
            if is(option, "lib-name") {
                told.library = value.clone();
            } else if is(option, "lib-ver") {
                told.library_version = value.clone();
            } else {
                return refuse(format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(option)));
            }
            said(Answer::ok)
        }
        ("id", []) => said(|out| out.integer(id)),
        ("info", []) => said(|out| out.verbatim(&client.line(now_ms))),
        ("list", []) => said(|out| out.verbatim(&front.clients.list(|_| true, now_ms))),
        ("list", [option, kind]) if is(option, "type") => {
            let kind = ClientKind::of(kind)?;
            said(|out| out.verbatim(&front.clients.list(|client| client.kind() == kind, now_ms)))
        }
        ("list", [option, ids @ ..]) if is(option, "id") && !ids.is_empty() => {
            let wanted = ids
                .iter()
                .map(|id| integer(id).or_else(|_| refuse("ERR Invalid client ID")))
                .collect::<Done<Vec<i64>>>()?;
            let is_wanted = |client: &Client| wanted.iter().any(|id| u64::try_from(*id) == Ok(client.id));
            said(|out| out.verbatim(&front.clients.list(is_wanted, now_ms)))
        }
        ("reply", [how]) => {
            session.replies = match lower(how).as_str() {
                "on" => Replies::On,
                "off" => Replies::Off,
                "skip" => Replies::SkipNext,
                _ => return refuse(SYNTAX),
            };
            said(Answer::ok)
        }
        ("kill", rest) => kill(front, session, rest)?,
        ("pause", [timeout]) => front.pause.begin(timeout, None).map(|()| said(Answer::ok))?,
        ("pause", [timeout, what]) => front.pause.begin(timeout, Some(what)).map(|()| said(Answer::ok))?,
        ("unpause", []) => {
            front.pause.end();
            said(Answer::ok)
        }
        ("unblock", [id, how @ ..]) => unblock(front, id, how)?,
        // Keys and connections are not thrown out here, and reading a key leaves no trace.
        ("no-evict" | "no-touch", [option]) if is(option, "on") || is(option, "off") => said(Answer::ok),
        ("no-evict" | "no-touch", [_]) => return refuse(SYNTAX),
        ("help", []) => said(|out| {
            let commands = [
                "CACHING",
                "GETNAME",
                "GETREDIR",
                "ID",
                "INFO",
                "KILL",
                "LIST",
                "NO-EVICT",
                "NO-TOUCH",
                "PAUSE",
                "REPLY",
                "SETINFO",
                "SETNAME",
                "TRACKING",
                "TRACKINGINFO",
                "UNBLOCK",
                "UNPAUSE",
            ];
            out.array(commands.len());
            commands.iter().for_each(|command| out.simple(command));
        }),
        _ => return refuse(UNKNOWN),
    })
}

fn unblock(front: &Front, id: &Bytes, how: &[Bytes]) -> Done<Step> {
    let with_error = match how {
        [] => false,
        [how] if is(how, "timeout") => false,
        [how] if is(how, "error") => true,
        _ => return refuse("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
    };
    let id = integer(id)?;
    let open = front.clients.open.lock();
    let client = u64::try_from(id).ok().and_then(|id| open.get(&id));
    let waits = client.filter(|client| client.is_blocked());
    if let Some(client) = waits {
        client.unblock_with_error.store(usize::from(with_error), Ordering::Relaxed);
        client.unblock.notify_one();
    }
    Ok(said(|out| out.flag(waits.is_some())))
}

fn kill(front: &Front, session: &Session, rest: &[Bytes]) -> Done<Step> {
    if let [address] = rest {
        let open = front.clients.open.lock();
        let found = open.values().find(|client| client.address.as_bytes() == address);
        let Some(found) = found else { return refuse("ERR No such client") };
        found.kill.cancel();
        return Ok(said(Answer::ok));
    }
    let (pairs, odd) = rest.as_chunks::<2>();
    if !odd.is_empty() || pairs.is_empty() {
        return refuse(SYNTAX);
    }
    let mut skips_own = true;
    let (mut ids, mut addresses, mut user, mut kind) = (Vec::new(), Vec::new(), None, None);
    for [option, value] in pairs {
        match lower(option).as_str() {
            "id" => match integer(value).ok().and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0) {
                Some(id) => ids.push(id),
                None => return refuse("ERR client-id should be greater than 0"),
            },
            "addr" => addresses.push(String::from_utf8_lossy(value).into_owned()),
            "user" => {
                let name = String::from_utf8_lossy(value).into_owned();
                if front.users.get(&name).is_none() {
                    return refuse(format!("ERR No such user '{name}'"));
                }
                user = Some(name);
            }
            "type" => kind = Some(ClientKind::of(value)?),
            "skipme" if is(value, "yes") => skips_own = true,
            "skipme" if is(value, "no") => skips_own = false,
            _ => return refuse(SYNTAX),
        }
    }
    let is_wanted = |client: &Client| {
        user.as_ref().is_none_or(|user| client.user() == *user)
            && kind.is_none_or(|kind| client.kind() == kind)
            && (ids.is_empty() || ids.contains(&client.id))
            && (addresses.is_empty() || addresses.contains(&client.address))
            && !(skips_own && client.id == session.client.id)
    };
    let open = front.clients.open.lock();
    let killed =
        open.values().filter(|client| is_wanted(client)).inspect(|client| client.kill.cancel()).count();
    Ok(said(|out| out.count(killed)))
}
