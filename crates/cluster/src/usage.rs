//! What is used of what has a quota in the cluster as a whole: each node counts, the leader of the meta group sums up, and every node
//! hears the sums with the answer to its heartbeat.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use trimaran_proto::internal::cluster::{HeartbeatReply, Usage};

use crate::member::Cluster;

/// What this node counts.
pub(crate) type Counted = Box<dyn Fn() -> Vec<Usage> + Send + Sync>;

/// What the nodes use, as the leader of the meta group heard it last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// By the name of what has a quota; that of the sum is empty.
    pub by_name: BTreeMap<String, Usage>,
    /// Nodes that it is the sum of.
    pub nodes: u32,
}

impl From<HeartbeatReply> for Totals {
    fn from(reply: HeartbeatReply) -> Self {
        let named = |sum: Usage| (sum.name.clone(), Usage { name: String::new(), ..sum });
        Self { by_name: reply.totals.into_iter().map(named).collect(), nodes: reply.nodes }
    }
}

impl Cluster {
    /// Says what is to be told of what has a quota, with every heartbeat. Once a process.
    pub fn count(&self, usages: impl Fn() -> Vec<Usage> + Send + Sync + 'static) {
        let _second = self.inner.usages.set(Box::new(usages));
    }

    /// What all nodes have told of it, as it changes.
    pub fn totals(&self) -> watch::Receiver<Arc<Totals>> {
        self.inner.totals.subscribe()
    }
}
