//! The users of a cluster. It agrees on each as it does on who its members are: a change is in force at every node when that
//! node has heard of it, and outlives all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;
use trimaran_cluster::meta::{Definition, Meta};

use super::{DEFAULT, User};

/// What the definition of a user is called before its name.
const PREFIX: &str = "acl/user/";

/// Users, as this node knows them.
#[derive(Debug)]
pub struct Users {
    /// The default user, as long as the cluster has not agreed on another one.
    born: Arc<User>,
    known: ArcSwap<Known>,
    /// Grows with every change.
    version: AtomicU64,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    /// By name, with the revision of each.
    users: BTreeMap<String, (u64, Arc<User>)>,
}

impl Users {
    /// None but the default one: with a password, or who may do everything without.
    pub fn new(password: Option<&str>) -> Self {
        let born = Arc::new(User::default_user(password));
        Self { born, known: ArcSwap::default(), version: AtomicU64::new(1), changes: watch::Sender::new(1) }
    }

    /// What a user's definition is called.
    pub fn definition(name: &str) -> String {
        format!("{PREFIX}{name}")
    }

    /// What the cluster agrees on.
    pub fn heard(&self, meta: &Meta) {
        let known = self.known.load();
        let found = meta.definitions.range(PREFIX.to_owned()..);
        let found = found.map_while(|(name, definition)| Some((name.strip_prefix(PREFIX)?, definition)));
        let revisions = found.clone().map(|(name, definition)| (name, definition.revision));
        if revisions.eq(known.users.iter().map(|(name, (revision, _))| (name.as_str(), *revision))) {
            return;
        }
        let user = |name: &str, definition: &Definition| {
            let held = known.users.get(name).filter(|(revision, _)| *revision == definition.revision);
            held.map_or_else(|| Arc::new(read(name, &definition.value)), |(_, user)| Arc::clone(user))
        };
        let users =
            found.map(|(name, definition)| (name.to_owned(), (definition.revision, user(name, definition))));
        self.known.store(Arc::new(Known { users: users.collect() }));
        let version = self.version.fetch_add(1, Ordering::Release) + 1;
        self.changes.send_replace(version);
    }

    /// Another one after every change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The version, as it changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A user, and the revision of it that a change is to be based on (0 = the cluster does not know of it).
    pub fn get(&self, name: &str) -> Option<(u64, Arc<User>)> {
        let held = self.known.load().users.get(name).cloned();
        held.or_else(|| (name == DEFAULT).then(|| (0, Arc::clone(&self.born))))
    }

    /// A user that the cluster knows of.
    pub fn defined(&self, name: &str) -> Option<Arc<User>> {
        self.known.load().users.get(name).map(|(_, user)| Arc::clone(user))
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<User>> {
        let known = self.known.load();
        let mut users: Vec<Arc<User>> = known.users.values().map(|(_, user)| Arc::clone(user)).collect();
        if !known.users.contains_key(DEFAULT) {
            users.push(Arc::clone(&self.born));
        }
        users.sort_by(|a, b| a.name.cmp(&b.name));
        users
    }

    /// Who a connection is that has not said so; `None` if it has to.
    pub fn at_first(&self) -> Option<Arc<User>> {
        self.get(DEFAULT).map(|(_, user)| user).filter(|user| user.is_on && user.takes_any_password)
    }
}

/// Reads what was written by [`User::rules`]. Who cannot be read, because a later release has written it, can do nothing.
fn read(name: &str, value: &Bytes) -> User {
    let rules = String::from_utf8_lossy(value);
    User::with_rules(name, &rules).unwrap_or_else(|bad| {
        tracing::warn!(user = name, %bad, "a user whose rules are not known here may do nothing");
        User::new(name)
    })
}

/// Keeps users up to date with what the cluster agrees on, until that ends.
pub async fn run(users: Arc<Users>, mut members: watch::Receiver<Arc<Meta>>) {
    loop {
        let meta = Arc::clone(&members.borrow_and_update());
        users.heard(&meta);
        if members.changed().await.is_err() {
            return;
        }
    }
}
