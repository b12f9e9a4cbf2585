//! Messages that go to whoever listens at the time, at any node: pub/sub and keyspace notifications.
//!
//! A [`Hub`] knows who listens here, and what the listeners of every other node have subscribed to ([`link`]): a message
//! goes to the nodes where somebody wants it, once, and to no other. Who has been told that it is subscribed gets what is
//! published anywhere from then on, as long as the nodes reach each other: messages are not kept, as in Redis. One that
//! reads more slowly than is published, and has more waiting than its [`mailbox`] takes, is cut off.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::timeout;
use trimaran_proto::api::grid::{Heard, Interest, Publication, Topic as TopicMessage, heard, topic};

use crate::command::matches;
use crate::data::notice::{Classes, Notice};
use crate::limits::SUBSCRIBER_BYTES_MAX;
use crate::metrics;
use mailbox::Mailbox;
use notices::Teller;

pub mod link;

pub mod mailbox;

pub mod notices;

/// How long who subscribes waits at most until every node that is reached knows.
const HEARD_MAX: Duration = Duration::from_secs(2);

/// What a channel of key events is called before its key or its event.
const KEYSPACE: &[u8] = b"__keyspace@0__:";
const KEYEVENT: &[u8] = b"__keyevent@0__:";

/// What can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A channel.
    Channel,
    /// All channels with a name like this.
    Pattern,
    /// A channel of the sharded kind, which patterns are not about.
    Sharded,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Sharded];
}

/// A message, for one that has subscribed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it subscribed to: for [`Kind::Pattern`] there is one.
    pub kind: Kind,
    /// The pattern.
    pub pattern: Option<Bytes>,
    /// Where it was published.
    pub channel: Bytes,
    /// What was published.
    pub payload: Bytes,
}

impl Message {
    fn bytes(&self) -> usize {
        self.channel.len() + self.payload.len() + self.pattern.as_ref().map_or(0, Bytes::len)
    }
}

type Topic = (Kind, Bytes);

/// One that subscribes. What it has subscribed to ends with it.
#[derive(Debug)]
pub struct Subscriber {
    hub: Hub,
    id: u64,
    topics: BTreeSet<Topic>,
    counts: [usize; 3],
    mailbox: Mailbox<Message>,
    messages: mailbox::Receiver<Message>,
    version: u64,
}

impl Subscriber {
    /// One that has subscribed to nothing yet.
    pub fn new(hub: &Hub) -> Self {
        let (mailbox, messages) = mailbox::new(SUBSCRIBER_BYTES_MAX);
        Self {
            hub: hub.clone(),
            id: hub.reader(),
            topics: BTreeSet::new(),
            counts: [0; 3],
            mailbox,
            messages,
            version: 0,
        }
    }

    /// Subscribes. Nodes know of it when [`Self::heard`] returns.
    pub fn subscribe(&mut self, kind: Kind, names: Vec<Bytes>) {
        self.version = self.hub.subscribe(self.id, kind, &names, &self.mailbox);
        for name in names {
            self.counts[kind as usize] += usize::from(self.topics.insert((kind, name)));
        }
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, kind: Kind, name: &Bytes) {
        if self.topics.remove(&(kind, name.clone())) {
            self.counts[kind as usize] -= 1;
            self.hub.unsubscribe(self.id, kind, std::slice::from_ref(name));
        }
    }

    /// What it has subscribed to, of a kind.
    pub fn names(&self, kind: Kind) -> Vec<Bytes> {
        let found = self.topics.iter().filter(|(found, _)| *found == kind);
        found.map(|(_, name)| name.clone()).collect()
    }

    /// All that it has subscribed to.
    pub fn topics(&self) -> impl Iterator<Item = &(Kind, Bytes)> {
        self.topics.iter()
    }

    /// How many subscriptions of a kind it has.
    pub fn count(&self, kind: Kind) -> usize {
        self.counts[kind as usize]
    }

    /// True if it has subscribed to nothing.
    pub fn is_idle(&self) -> bool {
        self.topics.is_empty()
    }

    /// Returns when all nodes that are reached know what it has subscribed to, or after a while.
    pub async fn heard(&self) {
        self.hub.heard(self.version).await;
    }

    /// The next message; `None` if too much waited.
    pub async fn next(&mut self) -> Option<Message> {
        self.messages.next().await
    }

    /// The next message, if there is one.
    pub fn try_next(&mut self) -> Option<Message> {
        self.messages.try_next()
    }

    /// True if too much waited: what was published since is lost.
    pub fn is_over(&self) -> bool {
        self.messages.is_over()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        for kind in Kind::ALL {
            let names = self.names(kind);
            if !names.is_empty() {
                self.hub.unsubscribe(self.id, kind, &names);
            }
        }
    }
}

/// All that is subscribed to, here and elsewhere. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    topics: RwLock<Topics>,
    teller: Teller,
    /// Grows when another node has heard of something, or is not reached any more.
    progress: watch::Sender<u64>,
    /// Grows when there is something that other nodes are to hear of.
    dirty: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Topics {
    here: Here,
    /// Nodes that listen to this one.
    listeners: HashMap<u64, Listener>,
    /// Nodes that this one listens to.
    links: HashMap<u64, Link>,
    /// Classes of key events that clients of this node are told of.
    classes: Classes,
    version: u64,
    next: u64,
}

/// Who has subscribed at this node; readers in the order in which they came.
#[derive(Debug, Default)]
struct Here {
    channels: HashMap<Bytes, BTreeMap<u64, Mailbox<Message>>>,
    patterns: BTreeMap<Bytes, BTreeMap<u64, Mailbox<Message>>>,
    sharded: HashMap<Bytes, BTreeMap<u64, Mailbox<Message>>>,
}

#[derive(Debug)]
struct Listener {
    /// How many there have subscribed to what. Patterns are tried one by one, the others are found.
    channels: HashMap<Topic, u32>,
    patterns: BTreeMap<Bytes, u32>,
    classes: Classes,
    mailbox: Mailbox<Heard>,
}

#[derive(Debug, Default)]
struct Link {
    /// What the node is to hear of.
    dirty: HashSet<Topic>,
    /// The version that it was told last, and the one that it has said that it knows.
    told: Option<u64>,
    known: u64,
    reached: bool,
}

impl Here {
    fn readers(&self, kind: Kind, name: &[u8]) -> Option<&BTreeMap<u64, Mailbox<Message>>> {
        match kind {
            Kind::Channel => self.channels.get(name),
            Kind::Pattern => self.patterns.get(name),
            Kind::Sharded => self.sharded.get(name),
        }
    }

    fn enter(&mut self, (kind, name): Topic, reader: u64, mailbox: Mailbox<Message>) {
        match kind {
            Kind::Channel => self.channels.entry(name).or_default(),
            Kind::Pattern => self.patterns.entry(name).or_default(),
            Kind::Sharded => self.sharded.entry(name).or_default(),
        }
        .insert(reader, mailbox);
    }

    fn leave(&mut self, (kind, name): &Topic, reader: u64) {
        let readers = match kind {
            Kind::Channel => self.channels.get_mut(name),
            Kind::Pattern => self.patterns.get_mut(name),
            Kind::Sharded => self.sharded.get_mut(name),
        };
        if readers.is_some_and(|readers| readers.remove(&reader).is_some() && readers.is_empty()) {
            match kind {
                Kind::Channel => drop(self.channels.remove(name)),
                Kind::Pattern => drop(self.patterns.remove(name)),
                Kind::Sharded => drop(self.sharded.remove(name)),
            }
        }
    }

    fn count(&self, (kind, name): &Topic) -> u32 {
        self.readers(*kind, name).map_or(0, |readers| u32::try_from(readers.len()).unwrap_or(u32::MAX))
    }

    fn topics(&self) -> HashSet<Topic> {
        let of = |kind| move |name: &Bytes| (kind, name.clone());
        let channels = self.channels.keys().map(of(Kind::Channel));
        let patterns = self.patterns.keys().map(of(Kind::Pattern));
        channels.chain(patterns).chain(self.sharded.keys().map(of(Kind::Sharded))).collect()
    }

    /// True if somebody may have subscribed to events of keys.
    fn hears_of_keys(&self) -> bool {
        !self.patterns.is_empty() || self.channels.keys().any(|name| name.starts_with(b"__key"))
    }

    /// Hands a message to everybody here who wants it; how many do.
    fn deliver(&self, sharded: bool, channel: &Bytes, payload: &Bytes) -> usize {
        let kind = if sharded { Kind::Sharded } else { Kind::Channel };
        let message = |kind, pattern: Option<&Bytes>| Message {
            kind,
            pattern: pattern.cloned(),
            channel: channel.clone(),
            payload: payload.clone(),
        };
        let mut count = 0;
        let mut hand = |readers: &BTreeMap<u64, Mailbox<Message>>, message: Message| {
            for mailbox in readers.values() {
                mailbox.put(message.clone(), message.bytes());
                count += 1;
            }
        };
        if let Some(readers) = self.readers(kind, channel) {
            hand(readers, message(kind, None));
        }
        if !sharded {
            for (pattern, readers) in self.patterns.iter().filter(|(pattern, _)| matches(pattern, channel)) {
                hand(readers, message(Kind::Pattern, Some(pattern)));
            }
        }
        count
    }
}

impl Listener {
    /// Notes how many there have subscribed to something.
    fn hears(&mut self, (kind, name): Topic, subscribers: u32) {
        match (kind, subscribers) {
            (Kind::Pattern, 0) => drop(self.patterns.remove(&name)),
            (Kind::Pattern, count) => drop(self.patterns.insert(name, count)),
            (kind, 0) => drop(self.channels.remove(&(kind, name))),
            (kind, count) => drop(self.channels.insert((kind, name), count)),
        }
    }

    fn subscribers(&self, topic: &Topic) -> u32 {
        let (kind, name) = topic;
        let found = if *kind == Kind::Pattern { self.patterns.get(name) } else { self.channels.get(topic) };
        found.copied().unwrap_or(0)
    }

    fn topics(&self) -> impl Iterator<Item = Topic> + '_ {
        let patterns = self.patterns.keys().map(|name| (Kind::Pattern, name.clone()));
        self.channels.keys().cloned().chain(patterns)
    }

    /// How many of its subscriptions a message is for.
    fn count(&self, sharded: bool, channel: &Bytes) -> u32 {
        let kind = if sharded { Kind::Sharded } else { Kind::Channel };
        let exact = self.channels.get(&(kind, channel.clone())).copied().unwrap_or(0);
        let alike = self.patterns.iter().filter(|(pattern, _)| !sharded && matches(pattern, channel));
        exact + alike.map(|(_, count)| count).sum::<u32>()
    }

    fn hand(&self, sharded: bool, channel: &Bytes, payload: &Bytes) -> usize {
        let count = self.count(sharded, channel);
        if count > 0 {
            let publication = Publication { sharded, channel: channel.clone(), payload: payload.clone() };
            let heard = Heard { body: Some(heard::Body::Publication(publication)) };
            self.mailbox.put(heard, channel.len() + payload.len());
        }
        count as usize
    }
}

impl Topics {
    /// The classes of key events that somebody here could be told of.
    fn classes_heard(&self) -> Classes {
        if self.here.hears_of_keys() { self.classes } else { Classes::NONE }
    }

    /// Something has changed that other nodes are to hear of.
    fn touch(&mut self, topics: &[Topic]) -> u64 {
        self.version += 1;
        for link in self.links.values_mut() {
            link.dirty.extend(topics.iter().cloned());
        }
        self.version
    }

    fn publish(&self, sharded: bool, channel: &Bytes, payload: &Bytes) -> usize {
        let here = self.here.deliver(sharded, channel, payload);
        here + self.listeners.values().map(|listener| listener.hand(sharded, channel, payload)).sum::<usize>()
    }
}

impl Hub {
    /// A hub, and what machines tell clients through.
    pub fn new(teller: Teller) -> Self {
        Self { inner: Arc::new(Inner { teller, ..Inner::default() }) }
    }

    /// A number for somebody who is going to subscribe.
    fn reader(&self) -> u64 {
        let mut topics = self.inner.topics.write();
        topics.next += 1;
        topics.next
    }

    /// Subscribes; the messages go to the mailbox. Returns the version of which [`Self::heard`] says when other nodes know.
    fn subscribe(&self, reader: u64, kind: Kind, names: &[Bytes], mailbox: &Mailbox<Message>) -> u64 {
        self.change(kind, names, |here, topic| here.enter(topic, reader, mailbox.clone()))
    }

    /// Ends subscriptions.
    fn unsubscribe(&self, reader: u64, kind: Kind, names: &[Bytes]) -> u64 {
        self.change(kind, names, |here, topic| here.leave(&topic, reader))
    }

    fn change(&self, kind: Kind, names: &[Bytes], mut change: impl FnMut(&mut Here, Topic)) -> u64 {
        let changed: Vec<Topic> = names.iter().map(|name| (kind, name.clone())).collect();
        let mut topics = self.inner.topics.write();
        changed.iter().for_each(|topic| change(&mut topics.here, topic.clone()));
        self.changed(&mut topics, &changed)
    }

    fn changed(&self, topics: &mut Topics, changed: &[Topic]) -> u64 {
        let version = topics.touch(changed);
        self.want(topics);
        self.inner.dirty.send_replace(version);
        version
    }

    /// Has machines note what somebody wants to know.
    fn want(&self, topics: &Topics) {
        let elsewhere = topics.listeners.values().map(|listener| listener.classes);
        self.inner.teller.want(elsewhere.fold(topics.classes_heard(), Classes::and));
    }

    /// Returns when every node that is reached knows of a version of what is subscribed to here, or after a while.
    async fn heard(&self, version: u64) {
        let is_known = |_: &u64| {
            let topics = self.inner.topics.read();
            topics.links.values().all(|link| !link.reached || link.known >= version)
        };
        let mut progress = self.inner.progress.subscribe();
        // One that does not answer is cut off, or gone: it is told when it is back.
        let _slow = timeout(HEARD_MAX, progress.wait_for(is_known)).await;
    }

    /// Hands a message to everybody who wants it; how many do, at all nodes.
    pub fn publish(&self, sharded: bool, channel: &Bytes, payload: &Bytes) -> usize {
        metrics::published().increment(1);
        self.inner.topics.read().publish(sharded, channel, payload)
    }

    /// Tells of what has happened in a partition that is led here.
    pub fn tell(&self, notice: Notice) {
        let topics = self.inner.topics.read();
        let (doing, key) = match notice {
            Notice::Publication { sharded, channel, payload } => {
                topics.publish(sharded, &channel, &payload);
                return;
            }
            Notice::Event { doing, key } => (doing, key),
        };
        let event = Bytes::from_static(doing.event.as_bytes());
        let channels = [
            (Classes::KEYSPACE, Bytes::from([KEYSPACE, &key].concat()), &event),
            (Classes::KEYEVENT, Bytes::from([KEYEVENT, &event].concat()), &key),
        ];
        for (kind, channel, payload) in channels {
            if topics.classes.tells(doing.class, kind) {
                topics.here.deliver(false, &channel, payload);
            }
            for listener in topics.listeners.values() {
                if listener.classes.tells(doing.class, kind) {
                    listener.hand(false, &channel, payload);
                }
            }
        }
    }

    /// Sets which events of keys clients of this node are told of.
    pub fn set_classes(&self, classes: Classes) {
        let mut topics = self.inner.topics.write();
        topics.classes = classes;
        self.changed(&mut topics, &[]);
    }

    /// What is subscribed to at any node, with a name like this.
    pub fn subscribed(&self, kind: Kind, pattern: Option<&[u8]>) -> BTreeSet<Bytes> {
        let topics = self.inner.topics.read();
        let elsewhere = topics.listeners.values().flat_map(Listener::topics);
        let all = topics.here.topics().into_iter().chain(elsewhere);
        let is_asked = |name: &Bytes| pattern.is_none_or(|pattern| matches(pattern, name));
        all.filter(|(found, name)| *found == kind && is_asked(name)).map(|(_, name)| name).collect()
    }

    /// How many have subscribed to something, at all nodes.
    pub fn count(&self, kind: Kind, name: &Bytes) -> usize {
        let topics = self.inner.topics.read();
        let topic = (kind, name.clone());
        let elsewhere = topics.listeners.values().map(|listener| listener.subscribers(&topic));
        elsewhere.fold(topics.here.count(&topic), u32::saturating_add) as usize
    }

    /// A node listens from now on; its number.
    fn listener_enters(&self, mailbox: Mailbox<Heard>) -> u64 {
        let mut topics = self.inner.topics.write();
        topics.next += 1;
        let id = topics.next;
        let listener =
            Listener { channels: HashMap::new(), patterns: BTreeMap::new(), classes: Classes::NONE, mailbox };
        topics.listeners.insert(id, listener);
        id
    }

    fn listener_leaves(&self, id: u64) {
        let mut topics = self.inner.topics.write();
        topics.listeners.remove(&id);
        self.want(&topics);
    }

    /// A node says what it wants to hear.
    fn listens(&self, id: u64, interest: Interest) {
        let mut topics = self.inner.topics.write();
        let Some(listener) = topics.listeners.get_mut(&id) else { return };
        for topic in interest.topics {
            let kind = match topic.kind() {
                topic::Kind::Channel => Kind::Channel,
                topic::Kind::Pattern => Kind::Pattern,
                topic::Kind::Sharded => Kind::Sharded,
                // Of a newer release.
                topic::Kind::Unspecified => continue,
            };
            listener.hears((kind, topic.name), topic.subscribers);
        }
        listener.classes = Classes::from_bits(interest.classes);
        listener.mailbox.put(Heard { body: Some(heard::Body::Known(interest.version)) }, 0);
        self.want(&topics);
    }

    /// A link to a node is made: it is to hear of everything.
    fn link_opens(&self, node: u64) {
        let mut topics = self.inner.topics.write();
        let dirty = topics.here.topics();
        topics.links.insert(node, Link { dirty, reached: true, ..Link::default() });
    }

    fn link_closes(&self, node: u64) {
        let mut topics = self.inner.topics.write();
        topics.links.remove(&node);
        drop(topics);
        self.inner.progress.send_modify(|count| *count += 1);
    }

    /// What a node is to hear of; `None` if it has been told everything.
    fn interest(&self, node: u64) -> Option<Interest> {
        let mut topics = self.inner.topics.write();
        let (version, classes) = (topics.version, topics.classes_heard().bits());
        let Topics { here, links, .. } = &mut *topics;
        let link = links.get_mut(&node)?;
        if link.told == Some(version) {
            return None;
        }
        link.told = Some(version);
        let message = |topic: Topic| {
            let kind = match topic.0 {
                Kind::Channel => topic::Kind::Channel,
                Kind::Pattern => topic::Kind::Pattern,
                Kind::Sharded => topic::Kind::Sharded,
            };
            TopicMessage { kind: kind.into(), subscribers: here.count(&topic), name: topic.1 }
        };
        let changed = std::mem::take(&mut link.dirty).into_iter().map(message).collect();
        Some(Interest { topics: changed, classes, version })
    }

    /// A node knows of a version.
    fn known(&self, node: u64, version: u64) {
        if let Some(link) = self.inner.topics.write().links.get_mut(&node) {
            link.known = version;
        }
        self.inner.progress.send_modify(|count| *count += 1);
    }

    /// A message that another node was given.
    fn deliver(&self, publication: &Publication) {
        let topics = self.inner.topics.read();
        topics.here.deliver(publication.sharded, &publication.channel, &publication.payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::notice::Doing;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn told(receiver: &mut mailbox::Receiver<Message>) -> Vec<String> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        std::iter::from_fn(|| receiver.try_next())
            .map(|message| format!("{} {}", text(&message.channel), text(&message.payload)))
            .collect()
    }

    #[test]
    fn who_has_subscribed_gets_what_is_published() {
        let hub = Hub::default();
        let (mailbox, mut receiver) = mailbox::new(1 << 10);
        let reader = hub.reader();
        hub.subscribe(reader, Kind::Channel, &[bytes("a")], &mailbox);
        hub.subscribe(reader, Kind::Pattern, &[bytes("a*")], &mailbox);
        assert_eq!(hub.publish(false, &bytes("a"), &bytes("1")), 2);
        assert_eq!(hub.publish(false, &bytes("ab"), &bytes("2")), 1);
        assert_eq!(hub.publish(true, &bytes("a"), &bytes("3")), 0);
        hub.unsubscribe(reader, Kind::Channel, &[bytes("a")]);
        assert_eq!(hub.publish(false, &bytes("a"), &bytes("4")), 1);
        assert_eq!(told(&mut receiver), ["a 1", "a 1", "ab 2", "a 4"]);
        assert!(hub.subscribed(Kind::Channel, None).is_empty());
        assert_eq!(hub.count(Kind::Pattern, &bytes("a*")), 1);
    }

    #[test]
    fn another_node_hears_what_it_asked_for_and_no_more() {
        let (here, there) = (Hub::default(), Hub::default());
        let (to_there, mut heard) = mailbox::new(1 << 10);
        let listener = here.listener_enters(to_there);
        let (mailbox, mut receiver) = mailbox::new(1 << 10);
        there.link_opens(1);
        let mut pass = |expected: usize| {
            if let Some(interest) = there.interest(1) {
                here.listens(listener, interest);
            }
            let mut messages = 0;
            while let Some(heard) = heard.try_next() {
                match heard.body.unwrap() {
                    heard::Body::Known(version) => there.known(1, version),
                    heard::Body::Publication(publication) => {
                        messages += 1;
                        there.deliver(&publication);
                    }
                }
            }
            assert_eq!(messages, expected);
        };
        pass(0);
        let reader = there.reader();
        there.set_classes(Classes::parse("Kl").unwrap());
        there.subscribe(reader, Kind::Pattern, &[bytes("*")], &mailbox);
        assert_eq!(here.publish(false, &bytes("early"), &bytes("0")), 0);
        pass(0);
        assert_eq!(here.publish(false, &bytes("c"), &bytes("1")), 1);
        assert_eq!(here.publish(true, &bytes("c"), &bytes("2")), 0);
        for (class, event) in [(Classes::LIST, "lpush"), (Classes::STRING, "set")] {
            here.tell(Notice::Event { doing: Doing::new(class, event), key: bytes("k") });
        }
        pass(2);
        there.unsubscribe(reader, Kind::Pattern, &[bytes("*")]);
        pass(0);
        assert_eq!(here.publish(false, &bytes("c"), &bytes("3")), 0);
        assert_eq!(told(&mut receiver), ["c 1", "__keyspace@0__:k lpush"]);
        assert_eq!(here.inner.topics.read().listeners[&listener].topics().count(), 0);
    }
}
