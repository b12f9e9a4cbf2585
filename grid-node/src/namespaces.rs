//! Namespaces with quotas: how much of the cluster the keys of a tenant may use.
//!
//! What they use is counted where it happens ([`crate::data::tally`] for memory, here for operations) and summed up for the cluster with
//! the heartbeats (`trimaran_cluster::usage`). A command is admitted by the node that it comes to, by sums that are about a second
//! old: for that long more may be used than a quota says. Operations per second are divided between the nodes by what each is asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;
use prost::Message as _;
use smallvec::SmallVec;
use tokio::time::Instant;
use tracing::warn;
use trimaran_cluster::bucket::{Bucket, share};
use trimaran_cluster::meta::Meta;
use trimaran_cluster::usage::Totals;
use trimaran_proto::internal::cluster::Usage;
use trimaran_proto::state::grid::Quotas;

use crate::data::tally::{Tally, namespace_of};
use crate::error::Error;
use crate::metrics;
use crate::router::Router;

/// What the definition of a namespace is called before its name.
const PREFIX: &str = "namespace/";

/// How long operations that nobody asks for are saved up.
const SAVED: Duration = Duration::from_secs(1);

/// The namespaces of a cluster, as this node knows them. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    is_any: AtomicBool,
    known: ArcSwap<Known>,
    totals: ArcSwap<Totals>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of the list of names: another one with every other list.
    version: u64,
    by_name: HashMap<Box<[u8]>, Arc<Namespace>>,
}

/// A namespace at this node.
#[derive(Debug)]
struct Namespace {
    name: String,
    /// Of its definition.
    revision: u64,
    quotas: Quotas,
    /// Operations since they were told last.
    asked: AtomicU64,
    /// What was told last.
    told: Mutex<Usage>,
    is_full: AtomicBool,
    bucket: Mutex<Bucket>,
}

/// A namespace with what it uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// What it may use.
    pub quotas: Quotas,
    /// What it uses in the cluster, as was heard last.
    pub usage: Usage,
}

impl Namespaces {
    /// What a namespace's definition is called.
    pub fn definition(name: &str) -> String {
        format!("{PREFIX}{name}")
    }

    /// True if there is one.
    pub fn are_any(&self) -> bool {
        self.inner.is_any.load(Ordering::Relaxed)
    }

    /// Lets a command on some keys through, or says which quota is used up.
    ///
    /// Errors: [`Error::NamespaceFull`] for one that may need memory, [`Error::Throttled`].
    pub fn admit<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a [u8]>,
        needs_memory: bool,
        now_ms: u64,
    ) -> Result<(), Error> {
        if !self.are_any() {
            return Ok(());
        }
        let known = self.inner.known.load();
        let mut asked: SmallVec<[(&Arc<Namespace>, u64); 2]> = SmallVec::new();
        for key in keys {
            let Some(found) = namespace_of(key).and_then(|name| known.by_name.get(name)) else { continue };
            match asked.iter_mut().find(|(namespace, _)| namespace.name == found.name) {
                Some((_, count)) => *count += 1,
                None => asked.push((found, 1)),
            }
        }
        for (namespace, count) in &asked {
            namespace.asked.fetch_add(*count, Ordering::Relaxed);
            let Quotas { memory_bytes, operations } = namespace.quotas;
            if needs_memory && namespace.is_full.load(Ordering::Relaxed) {
                return Err(Error::NamespaceFull { namespace: namespace.name.clone(), max: memory_bytes });
            }
            if operations > 0 && !namespace.bucket.lock().take(*count, now_ms) {
                return Err(Error::Throttled { namespace: namespace.name.clone(), max: operations });
            }
        }
        Ok(())
    }

    /// Likewise for keys of a backup, which are not counted as operations.
    pub fn must_have_room<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<(), Error> {
        let known = self.inner.known.load();
        let mut found = keys.into_iter().filter_map(|key| known.by_name.get(namespace_of(key)?));
        match found.find(|namespace| namespace.is_full.load(Ordering::Relaxed)) {
            None => Ok(()),
            Some(full) => {
                Err(Error::NamespaceFull { namespace: full.name.clone(), max: full.quotas.memory_bytes })
            }
        }
    }

    /// All of them, by name.
    pub fn describe(&self) -> Vec<Described> {
        let (known, totals) = (self.inner.known.load(), self.inner.totals.load());
        let described = |namespace: &Arc<Namespace>| Described {
            name: namespace.name.clone(),
            quotas: namespace.quotas,
            usage: totals.by_name.get(&namespace.name).cloned().unwrap_or_default(),
        };
        let mut all: Vec<Described> = known.by_name.values().map(described).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// True if there is one of that name.
    pub fn has(&self, name: &str) -> bool {
        self.inner.known.load().by_name.contains_key(name.as_bytes())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.inner.known.load().by_name.len()
    }

    /// What the cluster agrees on.
    pub fn heard(&self, meta: &Meta) {
        let known = self.inner.known.load();
        let found: BTreeMap<&str, u64> = meta
            .definitions
            .range(PREFIX.to_owned()..)
            .map_while(|(name, definition)| Some((name.strip_prefix(PREFIX)?, definition.revision)))
            .collect();
        let is_known = |(name, revision): (&&str, &u64)| {
            known.by_name.get(name.as_bytes()).is_some_and(|held| held.revision == *revision)
        };
        if found.len() == known.by_name.len() && found.iter().all(is_known) {
            return;
        }
        let names_stay = found.len() == known.by_name.len()
            && found.keys().all(|name| known.by_name.contains_key(name.as_bytes()));
        let namespace = |name: &str, revision: u64| {
            let value = &meta.definitions.get(&Self::definition(name))?.value;
            let quotas = Quotas::decode(value.clone()).unwrap_or_else(|bad| {
                warn!(namespace = name, %bad, "quotas that are not known here are none");
                Quotas::default()
            });
            let held = known.by_name.get(name.as_bytes());
            let rate = quotas.operations as f64;
            let namespace = Namespace {
                name: name.to_owned(),
                revision,
                quotas,
                asked: AtomicU64::new(held.map_or(0, |held| held.asked.load(Ordering::Relaxed))),
                told: Mutex::new(held.map_or_else(Usage::default, |held| held.told.lock().clone())),
                is_full: AtomicBool::new(false),
                bucket: Mutex::new(Bucket::new(rate, SAVED)),
            };
            Some((name.as_bytes().into(), Arc::new(namespace)))
        };
        let by_name = found.iter().filter_map(|(name, revision)| namespace(name, *revision)).collect();
        let version = if names_stay { known.version } else { known.version + 1 };
        self.inner.is_any.store(!found.is_empty(), Ordering::Relaxed);
        self.inner.known.store(Arc::new(Known { version, by_name }));
        self.weigh();
    }

    /// What all nodes use.
    fn heard_totals(&self, totals: Arc<Totals>) {
        self.inner.totals.store(totals);
        self.weigh();
    }

    /// What the sums mean for what is admitted here.
    fn weigh(&self) {
        let (known, totals) = (self.inner.known.load(), self.inner.totals.load());
        for namespace in known.by_name.values() {
            let Some(usage) = totals.by_name.get(&namespace.name) else { continue };
            let Quotas { memory_bytes, operations } = namespace.quotas;
            let is_full = memory_bytes > 0 && usage.bytes >= memory_bytes;
            namespace.is_full.store(is_full, Ordering::Relaxed);
            let own = namespace.told.lock().operations;
            namespace.bucket.lock().set_rate(share(operations, own, usage.operations, totals.nodes));
        }
    }

    /// What this node tells of what it leads, and was asked since it told last.
    fn usages(&self, router: &Router, since: Duration) -> Vec<Usage> {
        let known = self.inner.known.load();
        if known.by_name.is_empty() {
            return Vec::new();
        }
        let led = router.replicas().into_iter().filter(|(_, group)| group.is_leader());
        let tallies: Vec<Option<Arc<Tally>>> =
            led.map(|(_, group)| group.read_now(|machine| machine.keys().tally())).collect();
        let seconds = since.as_secs_f64().max(0.001);
        let usage = |namespace: &Arc<Namespace>| {
            let mut told = namespace.told.lock();
            let operations = (namespace.asked.swap(0, Ordering::Relaxed) as f64 / seconds) as u64;
            let mut usage = Usage { name: namespace.name.clone(), operations, ..Usage::default() };
            let mut all_counted = true;
            for tally in &tallies {
                match tally.as_ref().and_then(|tally| tally.sum(namespace.name.as_bytes())) {
                    Some((keys, bytes)) => {
                        usage.keys += keys;
                        usage.bytes += bytes;
                    }
                    None => all_counted = false,
                }
            }
            // A partition that is counted anew was split, or merged: its keys have not gone.
            if !all_counted && usage.bytes < told.bytes {
                (usage.keys, usage.bytes) = (told.keys, told.bytes);
            }
            metrics::used(&usage);
            told.clone_from(&usage);
            usage
        };
        known.by_name.values().map(usage).collect()
    }

    /// Sees to it that they are counted in every partition of this node.
    async fn keep_tallies(&self, router: &Router) {
        let known = self.inner.known.load_full();
        for (_, group) in router.replicas() {
            let begun = group.read_now(|machine| {
                let keys = machine.keys();
                let is_counted =
                    keys.tally().map_or(known.by_name.is_empty(), |tally| tally.version() == known.version);
                // At one moment: what is there is counted here, what changes from now on by the keys themselves.
                (!is_counted).then(|| {
                    let names = known.by_name.keys().map(|name| &**name);
                    (keys.begin_tally(Tally::new(known.version, names)), keys.entries())
                })
            });
            if let Some((tally, entries)) = begun {
                let counted = tokio::task::spawn_blocking(move || tally.count(&entries)).await;
                if let Err(error) = counted {
                    warn!(%error, "the namespaces of a partition are not counted");
                }
            }
        }
    }
}

/// Keeps namespaces up to date with what the cluster agrees on and uses, until that ends. To count what is there may take long,
/// and holds up nothing else.
pub async fn run(namespaces: Namespaces, router: Router) {
    tokio::join!(hear(&namespaces, &router), count(&namespaces, &router));
}

/// Sees to it that they are counted in every partition, and looks again whenever sums are told.
async fn count(namespaces: &Namespaces, router: &Router) {
    let mut totals = router.cluster().totals();
    loop {
        namespaces.keep_tallies(router).await;
        if totals.changed().await.is_err() {
            return;
        }
    }
}

async fn hear(namespaces: &Namespaces, router: &Router) {
    let mut members = router.members();
    let mut totals = router.cluster().totals();
    let told_at = Mutex::new(Instant::now());
    router.cluster().count({
        let (namespaces, router) = (namespaces.clone(), router.clone());
        move || {
            let since = std::mem::replace(&mut *told_at.lock(), Instant::now()).elapsed();
            namespaces.usages(&router, since)
        }
    });
    loop {
        let meta = Arc::clone(&members.borrow_and_update());
        namespaces.heard(&meta);
        let heard = Arc::clone(&totals.borrow_and_update());
        namespaces.heard_totals(heard);
        tokio::select! {
            changed = members.changed() => if changed.is_err() { return },
            changed = totals.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use trimaran_cluster::meta::Definition;

    use super::*;

    fn with(quotas: Quotas) -> Namespaces {
        let mut meta = Meta::default();
        let value = quotas.encode_to_vec().into();
        meta.definitions.insert(Namespaces::definition("orders"), Definition { revision: 1, value });
        let namespaces = Namespaces::default();
        namespaces.heard(&meta);
        namespaces
    }

    fn totals(bytes: u64, operations: u64, nodes: u32) -> Arc<Totals> {
        let sum = Usage { bytes, operations, ..Usage::default() };
        Arc::new(Totals { by_name: [("orders".to_owned(), sum)].into(), nodes })
    }

    #[test]
    fn what_is_full_is_refused_until_there_is_room() {
        let namespaces = with(Quotas { memory_bytes: 100, ..Quotas::default() });
        let admit = |key: &'static str, needs_memory| namespaces.admit([key.as_bytes()], needs_memory, 0);
        admit("orders:1", true).unwrap();
        namespaces.heard_totals(totals(100, 0, 3));
        let refused = admit("{orders:1}:lines", true).unwrap_err();
        assert!(matches!(refused, Error::NamespaceFull { max: 100, .. }), "{refused}");
        admit("orders:1", false).unwrap();
        admit("others:1", true).unwrap();
        namespaces.heard_totals(totals(99, 0, 3));
        admit("orders:1", true).unwrap();
    }

    #[test]
    fn so_many_are_let_through_in_a_second() {
        let namespaces = with(Quotas { operations: 10, ..Quotas::default() });
        let mut admitted = 0;
        for now_ms in 1000..4000 {
            admitted += u32::from(namespaces.admit([&b"orders:1"[..]], false, now_ms).is_ok());
        }
        // What was saved up, and three seconds.
        assert!((39..=40).contains(&admitted), "{admitted}");
        let many: Vec<&[u8]> = vec![b"orders:1"; 25];
        namespaces.admit(many.iter().copied(), false, 6000).unwrap();
        // It had more than there was, and that is missing now.
        namespaces.admit([&b"orders:1"[..]], false, 7400).unwrap_err();
        namespaces.admit([&b"orders:1"[..]], false, 7700).unwrap();
    }
}
