//! Clients that keep values themselves, and are told when one may be another by now: client-side caching.
//!
//! Source: "Client-side caching reference" in the documentation of Redis. A node remembers which keys its clients have read, or which
//! prefixes they want to hear of, and watches the changes of all partitions while there is such a client. What a client may have
//! is remembered before it is read: a change that is later than what was read is always told, one that is not may be. When
//! changes may have been missed, because the watch began anew, everything is told to be invalid.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use trimaran_placement::token::{self, Token};
use trimaran_proto::api::grid::{Position, WatchEvent, WatchEvents, WatchRequest, watch_event};
use trimaran_proto::state::grid::OwnChanges;

use crate::front::watch as changes;
use crate::limits::{SUBSCRIBER_BYTES_MAX, TRACKED_KEYS_MAX};
use crate::router::Router;

/// Pause before the changes are watched anew.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long a client that turns tracking on waits at most until changes are watched.
const BEGUN_MAX: Duration = Duration::from_secs(5);

/// How much of what a client has changed itself is remembered: of what is older it is told.
const OWN_CHANGES_KEPT: usize = 1024;

/// Changes that wait until it is known what a client has changed itself: if there are more, everything is invalid.
const CHANGES_WAITING_MAX: usize = 65_536;

/// What an item in an inbox costs beside its bytes.
const ITEM_OVERHEAD_BYTES: usize = 64;

/// What a connection is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidated {
    /// These keys may have other values.
    Keys(Vec<Bytes>),
    /// Every key may.
    All,
    /// The connection that was to be told instead, by its number, has gone.
    Unheard(u64),
}

/// What waits for one connection. If it is too much, everything is invalid instead.
#[derive(Debug, Default)]
pub struct Inbox {
    held: Mutex<Held>,
    come: Notify,
}

#[derive(Debug, Default)]
struct Held {
    items: VecDeque<Invalidated>,
    bytes: usize,
}

impl Inbox {
    fn put(&self, item: Invalidated) {
        let mut held = self.held.lock();
        let keys = match &item {
            Invalidated::Keys(keys) => keys.iter().map(|key| key.len() + ITEM_OVERHEAD_BYTES).sum(),
            Invalidated::All | Invalidated::Unheard(_) => 0,
        };
        held.bytes += keys + ITEM_OVERHEAD_BYTES;
        if held.bytes > SUBSCRIBER_BYTES_MAX {
            held.items.clear();
            held.bytes = ITEM_OVERHEAD_BYTES;
            held.items.push_back(Invalidated::All);
        } else {
            held.items.push_back(item);
        }
        self.come.notify_one();
    }

    /// What has come.
    pub fn take(&self) -> VecDeque<Invalidated> {
        let mut held = self.held.lock();
        held.bytes = 0;
        std::mem::take(&mut held.items)
    }

    /// Returns when something has come, or had come before.
    pub async fn come(&self) {
        self.come.notified().await;
    }
}

/// What a client wants to be told of.
#[derive(Debug)]
pub struct Wanted {
    /// Where it is told: its own inbox, or that of another connection with its number.
    pub inbox: Weak<Inbox>,
    /// That of another connection, if it is not its own.
    pub redirected: Option<u64>,
    /// Its own, for when the other one has gone.
    pub own: Weak<Inbox>,
    /// All keys with these prefixes; `None` = those that it reads.
    pub prefixes: Option<Vec<Bytes>>,
    /// But not of what it changes itself.
    pub but_own: bool,
}

/// What is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Clients that are told.
    pub clients: usize,
    /// Keys that they have read.
    pub keys: usize,
    /// Those, once for each client that has.
    pub items: usize,
    /// Prefixes.
    pub prefixes: usize,
}

/// A change of a key.
#[derive(Clone, Debug)]
struct Change {
    key: Bytes,
    partition: u64,
    version: u64,
}

/// A client that is told.
#[derive(Debug)]
struct Told {
    wanted: Wanted,
    since: u64,
    /// It may be changing something itself: what it is told waits until that is known.
    changes: bool,
    waiting: Vec<Vec<Change>>,
    /// Changes in it.
    waiting_count: usize,
    /// Too many: everything is to be told instead.
    has_missed: bool,
    /// The newest of what it has changed itself.
    own: VecDeque<OwnChanges>,
}

impl Told {
    /// Those of others.
    fn of_others(&self, changes: Vec<Change>) -> Vec<Bytes> {
        let is_own = |change: &Change| {
            let is_it = |own: &OwnChanges| {
                own.partition == change.partition && (own.behind + 1..=own.upto).contains(&change.version)
            };
            self.own.iter().any(is_it)
        };
        let others = changes.into_iter().filter(|change| !is_own(change));
        let mut keys: Vec<Bytes> = others.map(|change| change.key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn tell(&self, item: Invalidated) {
        match (self.wanted.inbox.upgrade(), self.wanted.redirected) {
            (Some(inbox), _) => inbox.put(item),
            (None, Some(redirected)) => {
                if let Some(own) = self.wanted.own.upgrade() {
                    own.put(Invalidated::Unheard(redirected));
                }
            }
            (None, None) => {}
        }
    }

    fn changed(&mut self, changes: Vec<Change>) {
        if self.changes {
            self.waiting_count += changes.len();
            if self.waiting_count <= CHANGES_WAITING_MAX {
                self.waiting.push(changes);
            } else {
                self.waiting.clear();
                self.has_missed = true;
            }
            return;
        }
        let keys = self.of_others(changes);
        if !keys.is_empty() {
            self.tell(Invalidated::Keys(keys));
        }
    }
}

/// Who may have what. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Tracking {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    table: Mutex<Table>,
    /// How many clients want to be told.
    clients: watch::Sender<usize>,
    /// True while changes of all keys are watched.
    begun: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Table {
    clients: HashMap<u64, Told>,
    /// Who has read a key, each with when it had begun to be told; some may have gone since.
    keys: HashMap<Bytes, SmallVec<[(u64, u64); 2]>>,
    /// Counts those that have begun.
    begun: u64,
    /// Who wants to hear of a prefix.
    prefixes: BTreeMap<Bytes, Vec<u64>>,
    /// Keys that are remembered at most, if that was said.
    most: Option<usize>,
    /// Changes may have been missed: everything is invalid once they are watched.
    is_unsure: bool,
}

impl Table {
    /// What a client has read before counts on if it is told already.
    fn begin(&mut self, client: u64, wanted: Wanted) {
        self.begun += 1;
        let since = self.clients.get(&client).map_or(self.begun, |told| told.since);
        let told = Told {
            wanted,
            since,
            changes: false,
            waiting: Vec::new(),
            waiting_count: 0,
            has_missed: false,
            own: VecDeque::new(),
        };
        self.clients.insert(client, told);
    }

    fn all(&mut self) {
        self.keys.clear();
        for told in self.clients.values_mut() {
            told.waiting.clear();
            told.tell(Invalidated::All);
        }
    }

    /// Forgets a key as if it had changed, another one than this if there is one.
    fn forget_some(&mut self, but: Option<&Bytes>) {
        let some = self.keys.keys().find(|some| Some(*some) != but).or(but).cloned();
        if let Some(key) = some {
            self.invalidate(&Change { key, partition: 0, version: 0 });
        }
    }

    /// Tells who has read it, once.
    fn invalidate(&mut self, change: &Change) {
        for (reader, since) in self.keys.remove(&change.key).unwrap_or_default() {
            if let Some(told) = self.clients.get_mut(&reader).filter(|told| told.since == since) {
                told.changed(vec![change.clone()]);
            }
        }
    }
}

impl Tracking {
    /// A client is told from now on; what it wants to be told of besides is added to what it wanted before. Returns when changes are
    /// watched, or after a while: everything is told to be invalid then once they are.
    pub async fn begin(&self, client: u64, wanted: Wanted) {
        let mut begun = self.inner.begun.subscribe();
        let count = {
            let mut table = self.inner.table.lock();
            for prefix in wanted.prefixes.iter().flatten() {
                let clients = table.prefixes.entry(prefix.clone()).or_default();
                if !clients.contains(&client) {
                    clients.push(client);
                }
            }
            table.begin(client, wanted);
            table.clients.len()
        };
        self.inner.clients.send_replace(count);
        if timeout(BEGUN_MAX, begun.wait_for(|begun| *begun)).await.is_err() {
            debug!("changes are not watched yet");
            self.inner.table.lock().is_unsure = true;
        }
    }

    /// A client is not told any more.
    pub fn end(&self, client: u64) {
        let mut table = self.inner.table.lock();
        let Some(told) = table.clients.remove(&client) else { return };
        for prefix in told.wanted.prefixes.into_iter().flatten() {
            if let Some(clients) = table.prefixes.get_mut(&prefix) {
                clients.retain(|held| *held != client);
                if clients.is_empty() {
                    table.prefixes.remove(&prefix);
                }
            }
        }
        if table.clients.is_empty() {
            table.keys.clear();
        }
        self.inner.clients.send_replace(table.clients.len());
    }

    /// A client is about to read keys.
    pub fn remember<'a>(&self, client: u64, keys: impl Iterator<Item = &'a Bytes>) {
        let mut table = self.inner.table.lock();
        let Some(since) = table.clients.get(&client).map(|told| told.since) else { return };
        for key in keys {
            let readers = match table.keys.get_mut(key) {
                Some(readers) => readers,
                // One of its own: it would keep the whole request in memory.
                None => table.keys.entry(Bytes::copy_from_slice(key)).or_default(),
            };
            match readers.iter_mut().find(|(reader, _)| *reader == client) {
                Some(reader) => reader.1 = since,
                None => readers.push((client, since)),
            }
            if table.keys.len() > table.most.unwrap_or(TRACKED_KEYS_MAX) {
                table.forget_some(Some(key));
            }
        }
    }

    /// All keys were removed.
    pub fn flushed(&self) {
        self.inner.table.lock().all();
    }

    /// What is remembered.
    pub fn counts(&self) -> Counts {
        let table = self.inner.table.lock();
        Counts {
            clients: table.clients.len(),
            keys: table.keys.len(),
            items: table.keys.values().map(SmallVec::len).sum(),
            prefixes: table.prefixes.len(),
        }
    }

    /// Keys that are remembered from now on at most; 0 = any number up to [`TRACKED_KEYS_MAX`].
    pub fn limit(&self, keys: usize) {
        let most = if keys == 0 { TRACKED_KEYS_MAX } else { keys.min(TRACKED_KEYS_MAX) };
        let mut table = self.inner.table.lock();
        table.most = Some(most);
        while table.keys.len() > most {
            table.forget_some(None);
        }
    }

    /// A client may change something now.
    pub fn changes(&self, client: u64) {
        if let Some(told) = self.inner.table.lock().clients.get_mut(&client) {
            told.changes = true;
        }
    }

    /// A client has changed this itself, and nothing more.
    pub fn has_changed(&self, client: u64, changes: Vec<OwnChanges>) {
        let mut table = self.inner.table.lock();
        let Some(told) = table.clients.get_mut(&client) else { return };
        told.changes = false;
        told.waiting_count = 0;
        if std::mem::take(&mut told.has_missed) {
            told.waiting.clear();
            told.tell(Invalidated::All);
        }
        if told.wanted.but_own {
            told.own.extend(changes);
            let too_many = told.own.len().saturating_sub(OWN_CHANGES_KEPT);
            told.own.drain(..too_many);
        }
        for waiting in std::mem::take(&mut told.waiting) {
            told.changed(waiting);
        }
    }

    fn changed(&self, events: &WatchEvents) {
        let mut table = self.inner.table.lock();
        let events = events.events.iter().filter(|event| event.kind() != watch_event::Kind::Begin);
        let change = |event: &WatchEvent| {
            let Position { partition, version, .. } = event.position.unwrap_or_default();
            Change { key: event.key.clone(), partition, version }
        };
        let changes: Vec<Change> = events.map(change).collect();
        // As Redis: what has changed at once is told at once, for each prefix.
        let mut by_prefix: BTreeMap<(&Bytes, u64), Vec<Change>> = BTreeMap::new();
        let Table { clients, prefixes, .. } = &mut *table;
        for change in &changes {
            for (prefix, clients) in prefixes.iter().filter(|(prefix, _)| change.key.starts_with(prefix)) {
                for client in clients {
                    by_prefix.entry((prefix, *client)).or_default().push(change.clone());
                }
            }
        }
        for ((_, client), changes) in by_prefix {
            if let Some(told) = clients.get_mut(&client) {
                told.changed(changes);
            }
        }
        changes.iter().for_each(|change| table.invalidate(change));
    }
}

/// Watches changes while there are clients that are to be told of them, until `stop`.
pub async fn run(tracking: Tracking, router: Router, stop: CancellationToken) {
    let mut clients = tracking.inner.clients.subscribe();
    loop {
        let wanted = clients.wait_for(|clients| *clients > 0);
        tokio::select! {
            wanted = wanted => if wanted.is_err() { return },
            () = stop.cancelled() => return,
        }
        let until_nobody = async {
            let mut clients = tracking.inner.clients.subscribe();
            // The sender is there as long as this.
            let _nobody = clients.wait_for(|clients| *clients == 0).await;
        };
        tokio::select! {
            () = follow(&tracking, &router, &stop) => {}
            () = until_nobody => {}
            () = stop.cancelled() => return,
        }
        tracking.inner.begun.send_replace(false);
        let is_left = {
            let mut table = tracking.inner.table.lock();
            table.is_unsure = !table.clients.is_empty();
            table.is_unsure
        };
        if is_left {
            sleep(AGAIN_AFTER).await;
        }
    }
}

/// Hands on changes until they cannot be watched any more.
async fn follow(tracking: &Tracking, router: &Router, stop: &CancellationToken) {
    let everything = WatchRequest { prefix: true, ..WatchRequest::default() };
    let mut stream = match changes::begin(router, everything, stop).await {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%error, "changes are not watched yet");
            return;
        }
    };
    // Tokens of which changes are watched, while not all are.
    let mut begun: Option<Vec<(Token, Token)>> = Some(Vec::new());
    while let Some(told) = stream.recv().await {
        let events = match told {
            Ok(events) => events,
            Err(status) => {
                debug!(%status, "changes are watched anew");
                return;
            }
        };
        tracking.changed(&events);
        let Some(ranges) = &mut begun else { continue };
        let positions = events.events.iter().filter(|event| event.kind() == watch_event::Kind::Begin);
        for position in positions.filter_map(|event| event.position.as_ref()) {
            ranges.push(changes::tokens(position).unwrap_or((Token(0), Token(u64::MAX))));
        }
        if token::are_all(ranges) {
            begun = None;
            let mut table = tracking.inner.table.lock();
            if std::mem::take(&mut table.is_unsure) {
                table.all();
            }
            drop(table);
            tracking.inner.begun.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn wants(table: &Tracking, client: u64, inbox: &Arc<Inbox>, prefixes: Option<Vec<Bytes>>) {
        let (inbox, own) = (Arc::downgrade(inbox), Arc::downgrade(inbox));
        let wanted = Wanted { inbox, own, redirected: None, prefixes, but_own: true };
        table.inner.table.lock().begin(client, wanted);
    }

    fn changes(tracking: &Tracking, keys: &[&str]) {
        let event = |(version, key): (u64, &&str)| WatchEvent {
            kind: watch_event::Kind::Set.into(),
            key: text(key),
            position: Some(Position { partition: 1, version, ..Position::default() }),
            ..WatchEvent::default()
        };
        tracking.changed(&WatchEvents { events: (1..).zip(keys).map(event).collect() });
    }

    #[test]
    fn who_has_read_a_key_is_told_once() {
        let tracking = Tracking::default();
        let inbox = Arc::new(Inbox::default());
        wants(&tracking, 1, &inbox, None);
        tracking.remember(1, [text("a"), text("b")].iter());
        tracking.remember(2, [text("a")].iter());
        changes(&tracking, &["a", "c", "a"]);
        assert_eq!(inbox.take(), [Invalidated::Keys(vec![text("a")])]);
        assert_eq!(tracking.counts(), Counts { clients: 1, keys: 1, items: 1, prefixes: 0 });
        // It ends, and begins anew: what it had read before it has forgotten.
        wants(&tracking, 3, &Arc::default(), None);
        tracking.end(1);
        wants(&tracking, 1, &inbox, None);
        changes(&tracking, &["b"]);
        assert!(inbox.take().is_empty());
    }

    #[test]
    fn who_changes_it_itself_is_told_of_what_others_have_changed_only() {
        let tracking = Tracking::default();
        let inbox = Arc::new(Inbox::default());
        wants(&tracking, 1, &inbox, None);
        tracking.remember(1, [text("a"), text("b"), text("c")].iter());
        tracking.changes(1);
        // In whatever order: what it has changed is known only afterwards.
        changes(&tracking, &["a", "b"]);
        assert!(inbox.take().is_empty());
        tracking.has_changed(1, vec![OwnChanges { partition: 1, behind: 1, upto: 2 }]);
        assert_eq!(inbox.take(), [Invalidated::Keys(vec![text("a")])]);
        // A change of that version in another partition is another one.
        tracking.has_changed(1, vec![OwnChanges { partition: 2, behind: 0, upto: 9 }]);
        changes(&tracking, &["c"]);
        assert_eq!(inbox.take(), [Invalidated::Keys(vec![text("c")])]);
    }

    #[test]
    fn too_much_that_waits_for_what_a_client_does_itself_is_everything() {
        let tracking = Tracking::default();
        let inbox = Arc::new(Inbox::default());
        wants(&tracking, 1, &inbox, Some(Vec::new()));
        tracking.inner.table.lock().prefixes.insert(text("k"), vec![1]);
        tracking.changes(1);
        let keys = vec!["k"; 256];
        for _ in 0..=CHANGES_WAITING_MAX / keys.len() {
            changes(&tracking, &keys);
        }
        tracking.has_changed(1, Vec::new());
        assert_eq!(inbox.take(), [Invalidated::All]);
        changes(&tracking, &["k"]);
        assert_eq!(inbox.take(), [Invalidated::Keys(vec![text("k")])]);
    }

    #[test]
    fn too_much_that_waits_is_everything() {
        let inbox = Inbox::default();
        let long = Bytes::from(vec![b'k'; SUBSCRIBER_BYTES_MAX / 2]);
        inbox.put(Invalidated::Keys(vec![long.clone()]));
        inbox.put(Invalidated::Keys(vec![long]));
        assert_eq!(inbox.take(), [Invalidated::All]);
    }
}
