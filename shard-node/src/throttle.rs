//! What tables, their indexes and a node may be asked in a second, in capacity units.
//!
//! A request is let through as long as what it uses was not asked more than it may be, and is charged with what it cost
//! afterwards, as DynamoDB does: the last one may cost more than there is, and that is waited for. What is not asked for is saved up
//! for five minutes. Each node counts what it is asked and has a share of what all may be asked (`trimaran_cluster::bucket`); the
//! sums come with the heartbeats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;
use trimaran_cluster::bucket::{Bucket, share};
use trimaran_cluster::usage::Totals;
use trimaran_proto::internal::cluster::Usage;

use crate::capacity::{Consumed, Use};
use crate::error::Error;
use crate::hot::Asked;
use crate::limits::CAPACITY_SAVED;
use crate::metrics;
use crate::router::Router;
use crate::table::{IndexStatus, Table, Tables};

/// What a node is told to keep to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Tables with provisioned throughput may not be asked for more than that.
    pub provisioned: bool,
    /// Units per second that this node lets through, for reads; none = any.
    pub read_units: Option<u64>,
    /// Likewise for writes.
    pub write_units: Option<u64>,
}

/// What says how much something may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// What a table or an index is provisioned for.
    Provisioned,
    /// The most that one that is paid by request is to be asked.
    MaxOnDemand,
    /// What the node lets through.
    Node,
}

/// A request that was not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttled {
    /// What says so.
    pub limit: Limit,
    /// Reads or writes.
    pub asked: Asked,
    /// The table.
    pub table: String,
    /// The index, if it is not the table itself.
    pub index: Option<String>,
    /// Units per second.
    pub max: u64,
}

impl Throttled {
    /// As DynamoDB calls it (`ThrottlingReason`).
    pub fn reason(&self) -> String {
        let resource = if self.index.is_some() { "Index" } else { "Table" };
        let asked = match self.asked {
            Asked::Read => "Read",
            Asked::Write => "Write",
        };
        let limit = match self.limit {
            Limit::Provisioned => "ProvisionedThroughputExceeded",
            Limit::MaxOnDemand => "MaxOnDemandThroughputExceeded",
            Limit::Node => "AccountLimitExceeded",
        };
        format!("{resource}{asked}{limit}")
    }
}

impl std::fmt::Display for Throttled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { table, max, .. } = self;
        let asked = match self.asked {
            Asked::Read => "read",
            Asked::Write => "write",
        };
        match self.limit {
            Limit::Provisioned if self.index.is_some() => f.write_str(
                "The level of configured provisioned throughput for one or more global secondary indexes of the table was \
                 exceeded. Consider increasing your provisioning level for the under-provisioned global secondary indexes \
                 with the UpdateTable API",
            )?,
            Limit::Provisioned => f.write_str(
                "The level of configured provisioned throughput for the table was exceeded. Consider increasing your \
                 provisioning level with the UpdateTable API.",
            )?,
            Limit::MaxOnDemand => {
                f.write_str("Throughput exceeds the maximum OnDemandThroughput configured on table or index.")?;
            }
            Limit::Node => f.write_str("Throughput exceeds what this node lets through.")?,
        }
        match &self.index {
            Some(index) => write!(f, " (index {index} of table {table}, {max} {asked} units per second)"),
            None => write!(f, " (table {table}, {max} {asked} units per second)"),
        }
    }
}

/// What may be asked, as this node knows it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    options: Options,
    reads: Option<Mutex<Bucket>>,
    writes: Option<Mutex<Bucket>>,
    known: ArcSwap<Known>,
    /// Whoever makes another [`Known`] has it.
    changing: Mutex<()>,
}

type Known = BTreeMap<Resource, Arc<Limited>>;

/// Something that may be asked only so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Resource {
    table: u64,
    /// 0 = the table itself.
    index: u32,
    asked: Asked,
}

impl Resource {
    /// What all nodes call it.
    fn name(self) -> String {
        let asked = match self.asked {
            Asked::Read => 'r',
            Asked::Write => 'w',
        };
        format!("{}/{}/{asked}", self.table, self.index)
    }
}

#[derive(Debug)]
struct Limited {
    limit: Limit,
    /// Units per second, over all nodes.
    max: u64,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    bucket: Bucket,
    /// Units since they were told last.
    asked: f64,
    /// Units per second that were told last.
    told: u64,
}

impl Throttle {
    /// With nothing known yet.
    pub fn new(options: Options) -> Self {
        let bucket = |units: Option<u64>| Some(Mutex::new(Bucket::new(units? as f64, CAPACITY_SAVED)));
        let (reads, writes) = (bucket(options.read_units), bucket(options.write_units));
        Self { inner: Arc::new(Inner { options, reads, writes, ..Inner::default() }) }
    }

    /// True if nothing is limited.
    pub fn is_idle(&self) -> bool {
        let Inner { reads, writes, known, .. } = &*self.inner;
        reads.is_none() && writes.is_none() && known.load().is_empty()
    }

    fn of_node(&self, asked: Asked) -> Option<(&Mutex<Bucket>, u64)> {
        let Inner { options, reads, writes, .. } = &*self.inner;
        match asked {
            Asked::Read => reads.as_ref().zip(options.read_units),
            Asked::Write => writes.as_ref().zip(options.write_units),
        }
    }

    /// Lets a request to a table through, or says what was asked too much. Whoever writes to a table writes to its global indexes.
    ///
    /// Errors: [`Error::Throttled`].
    pub fn admit(&self, table: &Table, used: Use<'_>, now_ms: u64) -> Result<(), Error> {
        let known = self.inner.known.load();
        let refuse = |limit, index: Option<&str>, max| {
            let (table, index) = (table.name.clone(), index.map(str::to_owned));
            let throttled = Throttled { limit, asked: used.asked, table, index, max };
            metrics::throttled(throttled.reason()).increment(1);
            Err(Error::Throttled(Box::new(throttled)))
        };
        let global = |index: &&crate::table::Index| !index.local && index.status != IndexStatus::Deleting;
        let indexes = table.indexes.iter().filter(global).filter(|index| match used.asked {
            Asked::Read => used.index == Some(index.name.as_str()),
            Asked::Write => true,
        });
        let mut indexes = indexes.map(|index| (index.number, Some(index.name.as_str()))).peekable();
        // A local index is part of the table.
        let itself = (used.asked == Asked::Write || indexes.peek().is_none()).then_some((0, None));
        for (index, name) in itself.into_iter().chain(indexes) {
            let resource = Resource { table: table.id, index, asked: used.asked };
            if let Some(limited) = known.get(&resource)
                && !limited.state.lock().bucket.has_some(now_ms)
            {
                return refuse(limited.limit, name, limited.max);
            }
        }
        match self.of_node(used.asked) {
            Some((bucket, max)) if !bucket.lock().has_some(now_ms) => refuse(Limit::Node, used.index, max),
            _ => Ok(()),
        }
    }

    /// Says what a request cost that was let through.
    pub fn charge(&self, table: &Table, asked: Asked, consumed: &Consumed, now_ms: u64) {
        let known = self.inner.known.load();
        let charge = |index, units: f64| {
            let Some(limited) = known.get(&Resource { table: table.id, index, asked }) else { return };
            let mut state = limited.state.lock();
            state.bucket.charge(units, now_ms);
            state.asked += units;
        };
        let is_local = |number: u32| table.indexes.iter().any(|index| index.number == number && index.local);
        let mut own = consumed.table;
        for (&index, &units) in &consumed.indexes {
            if is_local(index) { own += units } else { charge(index, units) }
        }
        charge(0, own);
        if let Some((bucket, _)) = self.of_node(asked) {
            bucket.lock().charge(consumed.table + consumed.indexes.values().sum::<f64>(), now_ms);
        }
    }

    /// What may be asked of a table and its indexes.
    fn limits(&self, table: &Table) -> Vec<(Resource, Limit, u64)> {
        let mut limits = Vec::new();
        let global = table.indexes.iter().filter(|index| !index.local);
        let parts = global.map(|index| (index.number, index.throughput, index.on_demand));
        for (index, provisioned, on_demand) in
            std::iter::once((0, table.throughput, table.on_demand)).chain(parts)
        {
            let (limit, reads, writes) = match (table.throughput, provisioned) {
                (Some(_), Some((reads, writes))) if self.inner.options.provisioned => {
                    (Limit::Provisioned, Some(reads), Some(writes))
                }
                (Some(_), _) => continue,
                (None, _) => (Limit::MaxOnDemand, on_demand.reads, on_demand.writes),
            };
            for (asked, max) in [(Asked::Read, reads), (Asked::Write, writes)] {
                let resource = Resource { table: table.id, index, asked };
                limits.extend(max.map(|max| (resource, limit, max)));
            }
        }
        limits
    }

    /// What the cluster agrees on. What was asked of a table stays counted when another limit is set for it.
    pub fn heard(&self, tables: &Tables) {
        let _changing = self.inner.changing.lock();
        let known = self.inner.known.load();
        let wanted: Vec<_> = tables.all().flat_map(|table| self.limits(table)).collect();
        let is_known = |(resource, limit, max): &(Resource, Limit, u64)| {
            known.get(resource).is_some_and(|held| held.limit == *limit && held.max == *max)
        };
        if wanted.len() == known.len() && wanted.iter().all(is_known) {
            return;
        }
        let limited = |(resource, limit, max): (Resource, Limit, u64)| {
            let held = known.get(&resource);
            if let Some(held) = held
                && held.limit == limit
                && held.max == max
            {
                return (resource, Arc::clone(held));
            }
            // Nobody has asked for it yet, or it may be asked as if nobody had.
            let bucket = Bucket::new(max as f64, CAPACITY_SAVED);
            let (asked, told) = held.map_or((0.0, 0), |held| {
                let state = held.state.lock();
                (state.asked, state.told)
            });
            let state = Mutex::new(State { bucket, asked, told });
            (resource, Arc::new(Limited { limit, max, state }))
        };
        self.inner.known.store(Arc::new(wanted.into_iter().map(limited).collect()));
    }

    /// What all nodes were asked.
    fn weigh(&self, totals: &Totals) {
        for (resource, limited) in &**self.inner.known.load() {
            let total = totals.by_name.get(&resource.name()).map_or(0, |usage| usage.operations);
            let mut state = limited.state.lock();
            let own = state.told;
            state.bucket.set_rate(share(limited.max, own, total, totals.nodes));
        }
    }

    /// What this node was asked since it told last.
    fn usages(&self, since: Duration) -> Vec<Usage> {
        let seconds = since.as_secs_f64().max(0.001);
        let known = self.inner.known.load();
        let usages = known.iter().filter_map(|(resource, limited)| {
            let mut state = limited.state.lock();
            state.told = (std::mem::take(&mut state.asked) / seconds).ceil() as u64;
            let operations = state.told;
            drop(state);
            (operations > 0).then(|| Usage { name: resource.name(), operations, ..Usage::default() })
        });
        usages.collect()
    }
}

/// Tells the others what this node is asked and hears what they are, until the cluster ends.
pub async fn run(throttle: Throttle, router: Router) {
    let told_at = Mutex::new(Instant::now());
    let mut totals = router.cluster().totals();
    router.cluster().count({
        let throttle = throttle.clone();
        move || {
            let since = std::mem::replace(&mut *told_at.lock(), Instant::now()).elapsed();
            throttle.usages(since)
        }
    });
    while totals.changed().await.is_ok() {
        let heard = Arc::clone(&totals.borrow_and_update());
        throttle.weigh(&heard);
    }
}

#[cfg(test)]
mod tests;
