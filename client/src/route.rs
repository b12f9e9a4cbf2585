//! Which node to ask: the cached partition table, and a stream of calls to each node.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;
use tracing::debug;
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_net::pipeline::{Exchange, Pipeline};
use trimaran_placement::table::{self, Table};
use trimaran_placement::token::Token;
use trimaran_proto::api::placement as wire;
use trimaran_proto::api::placement::placement_client::PlacementClient;
use trimaran_proto::api::placement::{GetTableRequest, NodeState};

use crate::error::Error;

/// How long a node may take to tell its table.
const TABLE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the first attempt of a request may take before another node is asked, with the same request id.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node that did not answer is asked only if there is no other.
const SHUN_FOR: Duration = Duration::from_secs(5);

/// How long an attempt may take: longer each time, for it may be the request that takes so long, and not the node.
pub(crate) fn attempt_timeout(attempt: u32) -> Duration {
    ATTEMPT_TIMEOUT * (1 << attempt.min(2))
}

/// Pause before the table is followed at another node.
const FOLLOW_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the client knows of the cluster.
struct View {
    table: Table,
    addresses: HashMap<u64, String>,
    /// Nodes that the cluster itself does not hear of.
    suspect: HashSet<String>,
}

pub(crate) struct Routes {
    seeds: Vec<String>,
    /// No other address is asked, whatever nodes say of where they are.
    only_seeds: bool,
    dial: Arc<dyn Dial>,
    view: ArcSwapOption<View>,
    channels: Mutex<HashMap<String, Channel>>,
    /// Addresses that did not answer, and when.
    silent: Mutex<HashMap<String, Instant>>,
    pub(crate) random: Mutex<StdRng>,
    /// Gone with this: whoever follows the table ends.
    alive: watch::Sender<()>,
}

impl Routes {
    /// Looks for a cluster at some addresses, and follows it.
    pub(crate) async fn connect<A: Into<String>>(
        seeds: impl IntoIterator<Item = A>,
        only_seeds: bool,
    ) -> Result<Arc<Self>, Error> {
        let routes = Arc::new(Self::new(seeds.into_iter().map(Into::into).collect(), only_seeds));
        routes.refresh().await?;
        routes.follow();
        Ok(routes)
    }

    fn new(seeds: Vec<String>, only_seeds: bool) -> Self {
        Self {
            seeds,
            only_seeds,
            dial: Arc::new(TcpDial),
            view: ArcSwapOption::empty(),
            channels: Mutex::default(),
            silent: Mutex::default(),
            random: Mutex::new(StdRng::from_os_rng()),
            alive: watch::Sender::default(),
        }
    }

    /// Asks the nodes that are known, then the seeds, for the table, until one has it.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let view = self.view.load();
        let known = view.as_ref().filter(|_| !self.only_seeds);
        let mut addresses: Vec<String> =
            known.map(|view| view.addresses.values().cloned().collect()).unwrap_or_default();
        addresses.extend(self.seeds.iter().cloned());
        addresses.sort_by_key(|address| self.is_shunned(address));
        let mut last = Error::Unavailable("no address was given".to_owned());
        for address in addresses {
            let mut client = PlacementClient::new(self.channel(&address)?);
            match tokio::time::timeout(TABLE_TIMEOUT, client.get_table(GetTableRequest {})).await {
                Ok(Ok(reply)) => {
                    let told = self.see(&reply.into_inner());
                    return told
                        .map_err(|bad| Error::Broken(format!("the partition table of {address}: {bad}")));
                }
                Ok(Err(status)) => last = Error::from_status(&status),
                Err(_elapsed) => {
                    self.shun(&address);
                    last = Error::Unavailable(format!("{address} does not answer"));
                }
            }
            debug!(address, "no table from this node");
        }
        Err(last)
    }

    /// Takes over a table, if it is not older than what is known.
    fn see(&self, told: &wire::Table) -> Result<(), table::Error> {
        let table = trimaran_net::placement::get_table(told)?;
        let known = self.view.load().as_ref().map_or(0, |view| view.table.version());
        if table.version() >= known {
            let there = || told.nodes.iter().filter(|node| node.state() != NodeState::Gone);
            let addresses = there().map(|node| (node.id, node.address.clone())).collect();
            let suspect = there()
                .filter(|node| node.state() == NodeState::Suspect)
                .map(|node| node.address.clone())
                .collect();
            self.view.store(Some(Arc::new(View { table, addresses, suspect })));
        }
        Ok(())
    }

    /// Follows the table at one node after the other, as long as somebody has this: so that requests go to where a
    /// partition is by now, and need not be passed on.
    fn follow(self: &Arc<Self>) {
        let routes = Arc::downgrade(self);
        let mut alive = self.alive.subscribe();
        let follow = async move {
            while let Some(client) = routes.upgrade().and_then(|routes| routes.follower()) {
                if let Err(status) = follow_at(client, &routes).await {
                    debug!(%status, "the table is followed elsewhere");
                    if status.code() == tonic::Code::Unimplemented {
                        return;
                    }
                }
                tokio::time::sleep(FOLLOW_AGAIN_AFTER).await;
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = follow => {}
                // Nothing is ever sent.
                _gone = alive.changed() => {}
            }
        });
    }

    fn follower(&self) -> Option<PlacementClient<Channel>> {
        Some(PlacementClient::new(self.channel(&self.any_address()?).ok()?))
    }

    /// Where to send a request for a token at the given attempt: to the leader first, then to anybody, for every node
    /// passes on what is not its own.
    pub(crate) fn address(&self, token: Token, attempt: u32) -> Option<String> {
        let view = self.view.load();
        let view = view.as_ref()?;
        if attempt == 0 && !self.only_seeds {
            let partition = view.table.find(token)?;
            let node = partition.leader_hint.and_then(|leader| partition.node_of(leader));
            let address = node.and_then(|node| view.addresses.get(&node));
            if let Some(address) = address.filter(|address| !self.is_shunned(address)) {
                return Some(address.clone());
            }
        }
        self.any_address()
    }

    /// Notes that a node did not answer.
    pub(crate) fn shun(&self, address: &str) {
        self.silent.lock().insert(address.to_owned(), Instant::now());
    }

    fn is_shunned(&self, address: &str) -> bool {
        let is_silent = self.silent.lock().get(address).is_some_and(|at| at.elapsed() < SHUN_FOR);
        is_silent || self.view.load().as_ref().is_some_and(|view| view.suspect.contains(address))
    }

    /// Any node of the cluster, of those that answer if there are any.
    pub(crate) fn any_address(&self) -> Option<String> {
        let view = self.view.load();
        let view = view.as_ref()?;
        let known: Vec<&String> =
            if self.only_seeds { self.seeds.iter().collect() } else { view.addresses.values().collect() };
        let (shunned, answering): (Vec<&String>, Vec<&String>) =
            known.into_iter().partition(|address| self.is_shunned(address));
        let addresses = if answering.is_empty() { shunned } else { answering };
        addresses.choose(&mut *self.random.lock()).map(|address| (*address).clone())
    }

    pub(crate) fn channel(&self, address: &str) -> Result<Channel, Error> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let made = channel(&self.dial, address).map_err(|bad| Error::Address(format!("{address}: {bad}")))?;
        channels.insert(address.to_owned(), made.clone());
        Ok(made)
    }
}

/// Streams of calls to nodes, made when first used. Clones share them.
pub(crate) struct Pipelines<E: Exchange>(Arc<Mutex<HashMap<String, Pipeline<E>>>>);

impl<E: Exchange> Clone for Pipelines<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: Exchange> Default for Pipelines<E> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<E: Exchange> Pipelines<E> {
    /// To the node at an address.
    pub(crate) fn to(&self, routes: &Routes, address: &str) -> Result<Pipeline<E>, Error> {
        let mut pipelines = self.0.lock();
        if let Some(pipeline) = pipelines.get(address) {
            return Ok(pipeline.clone());
        }
        let pipeline = Pipeline::new(routes.channel(address)?);
        pipelines.insert(address.to_owned(), pipeline.clone());
        Ok(pipeline)
    }
}

/// Follows the table at one node until that ends, or nobody needs it any more.
async fn follow_at(mut client: PlacementClient<Channel>, routes: &Weak<Routes>) -> Result<(), Status> {
    let mut changes = client.watch_table(wire::WatchTableRequest {}).await?.into_inner();
    let mut partitions: BTreeMap<u64, wire::Partition> = BTreeMap::new();
    let mut nodes: BTreeMap<u64, wire::Node> = BTreeMap::new();
    while let Some(change) = changes.message().await? {
        let Some(routes) = routes.upgrade() else { return Ok(()) };
        if change.whole {
            partitions.clear();
            nodes.clear();
        }
        for removed in &change.removed_partitions {
            partitions.remove(removed);
        }
        partitions.extend(change.partitions.into_iter().map(|partition| (partition.id, partition)));
        nodes.extend(change.nodes.into_iter().map(|node| (node.id, node)));
        let table = wire::Table {
            version: change.version,
            partitions: partitions.values().cloned().collect(),
            nodes: nodes.values().cloned().collect(),
            ..wire::Table::default()
        };
        routes.see(&table).map_err(|bad| Status::data_loss(bad.to_string()))?;
    }
    Ok(())
}
