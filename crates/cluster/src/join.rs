//! How nodes find each other, and how a cluster is born: once, in exactly the set of nodes that all of them saw.
//!
//! Every node of a new cluster is started with `--bootstrap N` and some seeds. It asks the seeds who they are until it
//! sees N nodes; each of them promises to be born in that set and in no other; then the one with the least id founds
//! the meta group. A promise is given once a process, so two different sets cannot both be complete.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::transport::Channel;
use tracing::{debug, info, warn};
use trimaran_net::peers::Peers;
use trimaran_proto::internal::cluster::cluster_client::ClusterClient;
use trimaran_proto::internal::cluster::{HelloReply, HelloRequest, PromiseRequest};

use crate::error::Error;

/// How long a seed may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between two rounds of asking.
pub(crate) const ROUND_EVERY: Duration = Duration::from_millis(100);

/// Nodes that a cluster may be born with: all of them vote in the meta group.
pub const BOOTSTRAP_MAX: usize = 7;

/// The set that this node has promised to be born in, if any.
#[derive(Debug, Default)]
pub struct Promise(Mutex<Option<Vec<u64>>>);

impl Promise {
    /// Promises a set, sorted; refused if another one was promised before.
    pub fn give(&self, nodes: &[u64]) -> bool {
        let mut promised = self.0.lock();
        match promised.as_deref() {
            Some(before) => before == nodes,
            None => {
                *promised = Some(nodes.to_vec());
                true
            }
        }
    }
}

/// What the seeds said in one round.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) nodes: BTreeMap<u64, HelloReply>,
}

/// Asks every seed who it is; a name that stands for several addresses counts as all of them.
pub(crate) async fn ask_seeds(seeds: &[String], peers: &Peers) -> Result<Seen, Error> {
    let mut addresses = Vec::new();
    for seed in seeds {
        if seed.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(Error::Seed { seed: seed.clone(), reason: "it must be HOST:PORT".to_owned() });
        }
        match tokio::net::lookup_host(seed).await {
            Ok(found) => addresses.extend(found.map(|address| address.to_string())),
            // The others may not have started: a container's name is known once it runs.
            Err(error) => debug!(seed, %error, "seed has no address yet"),
        }
    }
    addresses.sort();
    addresses.dedup();
    let answers = futures::future::join_all(addresses.iter().map(|address| hello(address, peers))).await;
    let mut seen = Seen::default();
    for reply in answers.into_iter().flatten() {
        seen.nodes.insert(reply.node_id, reply);
    }
    Ok(seen)
}

async fn hello(address: &str, peers: &Peers) -> Option<HelloReply> {
    let mut client = client(peers.separate_channel(address).ok()?);
    match tokio::time::timeout(HELLO_TIMEOUT, client.hello(HelloRequest {})).await {
        Ok(Ok(reply)) => Some(reply.into_inner()),
        Ok(Err(status)) => {
            debug!(address, code = ?status.code(), "seed does not answer");
            None
        }
        Err(_elapsed) => None,
    }
}

fn client(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel)
}

/// True once all of `nodes` have promised to be born together.
pub(crate) async fn all_promise(nodes: &BTreeMap<u64, HelloReply>, peers: &Peers) -> bool {
    let node_ids: Vec<u64> = nodes.keys().copied().collect();
    let promises = nodes.values().map(|node| {
        let request = PromiseRequest { node_ids: node_ids.clone() };
        async move {
            let channel = peers.separate_channel(&node.address).ok()?;
            let mut client = client(channel);
            let asked = tokio::time::timeout(HELLO_TIMEOUT, client.promise(request)).await;
            Some(asked.ok()?.ok()?.into_inner().promised)
        }
    });
    let promises = futures::future::join_all(promises).await;
    if promises.contains(&Some(false)) {
        warn!(
            ?node_ids,
            "a node has promised to be born in another set; check that all have the same --bootstrap"
        );
    }
    let all = promises.iter().all(|promise| *promise == Some(true));
    if all {
        info!(?node_ids, "all nodes of the new cluster agree");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_given_to_one_set_only() {
        let promise = Promise::default();
        assert!(promise.give(&[1, 2, 3]));
        assert!(promise.give(&[1, 2, 3]));
        assert!(!promise.give(&[1, 2, 4]));
    }
}
