//! A node as a member of its cluster: it finds or founds it, enters itself, and answers what others ask.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prost::Message as _;
use rand::Rng as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};
use tracing::{debug, info, warn};
use trimaran_net::peers::Peers;
use trimaran_net::status::detail;
use trimaran_placement::plan;
use trimaran_placement::ring;
use trimaran_placement::splits::Thresholds;
use trimaran_proto::api::cluster::cluster_admin_server::{ClusterAdmin, ClusterAdminServer};
use trimaran_proto::api::placement as wire;
use trimaran_proto::api::placement::placement_server::{Placement, PlacementServer};
use trimaran_proto::internal::cluster as rpc;
use trimaran_proto::internal::cluster::cluster_client::ClusterClient;
use trimaran_proto::internal::cluster::cluster_server::{Cluster as ClusterRpc, ClusterServer};
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::meta_command::Command;
use trimaran_replication::group::{Consistency, Group, Member as GroupMember};
use trimaran_replication::groups::{Durability, Groups};
use trimaran_storage::disk::Disk;

use crate::autoscale::{Autoscale, Meter};
use crate::error::Error;
use crate::identity::{self, Identity};
use crate::join::{self, BOOTSTRAP_MAX, Promise, ROUND_EVERY};
use crate::liveness::{self, Heard};
use crate::load::Loads;
use crate::merger::Freezer;
use crate::meta::{FORMAT, META_GROUP, Meta, MetaMachine};
use crate::mover;
use crate::serve::Service;
use crate::usage::{Counted, Totals};

/// How long one attempt to change the meta group may take.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a node takes part.
#[derive(Clone)]
pub struct Options {
    /// "grid" or "shard": nodes of another kind are refused.
    pub kind: &'static str,
    /// Release of this binary, for messages.
    pub version: &'static str,
    /// Who this node is.
    pub identity: Identity,
    /// Where that is kept; absent = nowhere.
    pub home: Option<Arc<dyn Disk>>,
    /// Where others reach this node's gRPC, "host:port".
    pub address: String,
    /// Where clients reach its RESP front; empty = none.
    pub resp_address: String,
    /// Nodes of one zone fail together; empty = a zone of its own.
    pub zone: String,
    /// Share of the copies that this node should have, against others; at least 1.
    pub weight: u32,
    /// Addresses of other nodes, "host:port"; a name may stand for several.
    pub seeds: Vec<String>,
    /// Number of nodes that a new cluster is born with; absent = there is one to be joined.
    pub bootstrap: Option<usize>,
    /// Partitions of a new cluster.
    pub partitions: u64,
    /// Copies of each partition in a new cluster.
    pub replication_factor: u32,
    /// How the meta group is kept.
    pub meta_durability: Durability,
    /// True if copies of partitions did not survive the last stop.
    pub lost_memory: bool,
    /// How long a node may be silent before its copies are made anew elsewhere.
    pub replace_after: Duration,
    /// Move everything away before the node stops, for good.
    pub drain: bool,
    /// When partitions are split; absent = only when somebody asks for it.
    pub split_above: Option<Thresholds>,
    /// How much of its processors and memory this node uses.
    pub meter: Meter,
    /// How nodes come and go with the load; absent = only when somebody starts and drains them.
    pub autoscale: Option<Autoscale>,
}

/// This node's place in its cluster. Clones are the same.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) peers: Peers,
    pub(crate) group: Group<MetaMachine>,
    pub(crate) groups: Groups,
    pub(crate) meta: watch::Receiver<Arc<Meta>>,
    pub(crate) promise: Promise,
    pub(crate) heard: Heard,
    pub(crate) loads: Loads,
    pub(crate) usages: OnceLock<Counted>,
    pub(crate) totals: watch::Sender<Arc<Totals>>,
    /// Where partitions that are led here are frozen.
    pub(crate) freezer: OnceLock<Freezer>,
    /// What the leader of the meta group made of this node last.
    pub(crate) told: watch::Sender<wire::NodeState>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("node", &self.inner.options.identity.node).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Opens this node's copy of the meta group. Its gRPC services must be reachable before [`Cluster::enter`].
    pub async fn open(options: Options, groups: Groups, peers: Peers) -> Result<Self, Error> {
        let (machine, meta) = MetaMachine::new();
        // The meta log is durable, so a node votes in it under one id for ever: its own.
        let replica = options.identity.node;
        let group = groups.open(META_GROUP, replica, options.meta_durability, machine).await?;
        // All others live by it.
        group.stay_awake();
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                peers,
                group,
                groups,
                meta,
                promise: Promise::default(),
                heard: Heard::default(),
                loads: Loads::default(),
                usages: OnceLock::new(),
                totals: watch::Sender::new(Arc::default()),
                freezer: OnceLock::new(),
                told: watch::Sender::new(wire::NodeState::Unspecified),
            }),
        })
    }

    /// This node's id.
    pub fn node(&self) -> u64 {
        self.inner.options.identity.node
    }

    /// True once the agreed state, as this node has it, knows of this start of the node.
    pub fn is_entered(&self) -> bool {
        let identity = &self.inner.options.identity;
        self.inner.meta.borrow().boot(identity.node) == Some(identity.boot)
    }

    /// What the meta group looks like from here.
    pub fn meta_status(&self) -> trimaran_replication::group::Status {
        self.inner.group.status()
    }

    /// True if this node leads the meta group, as far as it knows.
    pub fn leads_meta(&self) -> bool {
        self.inner.group.is_leader()
    }

    /// The agreed state, as it changes.
    pub fn meta(&self) -> watch::Receiver<Arc<Meta>> {
        self.inner.meta.clone()
    }

    /// The address book.
    pub fn peers(&self) -> &Peers {
        &self.inner.peers
    }

    /// The groups of this node.
    pub fn groups(&self) -> &Groups {
        &self.inner.groups
    }

    /// What other nodes ask.
    pub fn cluster_service(&self) -> ClusterServer<impl ClusterRpc> {
        ClusterServer::new(Service(self.clone()))
    }

    /// What clients ask.
    pub fn placement_service(&self) -> PlacementServer<impl Placement> {
        PlacementServer::new(Service(self.clone()))
    }

    /// What operators ask.
    pub fn admin_service(&self) -> ClusterAdminServer<impl ClusterAdmin> {
        ClusterAdminServer::new(Service(self.clone()))
    }

    /// Finds the cluster or takes part in founding it, and enters this node. Returns when the node is a member.
    ///
    /// Errors: [`Error::Refused`] if the node belongs to another cluster, was removed from this one, or is of another
    /// kind; it will not become a member by trying again.
    pub async fn enter(&self) -> Result<(), Error> {
        self.spawn_address_book();
        if self.inner.meta.borrow().cluster_id.is_empty() {
            self.find().await?;
        } else {
            tokio::try_join!(self.check_seeds(), self.join())?;
        }
        let cluster = self.inner.meta.borrow().cluster_id.clone();
        if let Some(home) = &self.inner.options.home {
            identity::remember_cluster(&**home, &cluster)?;
        }
        self.join().await?;
        tokio::spawn(liveness::beat(self.clone()));
        tokio::spawn(mover::run(self.clone()));
        info!(node = self.node(), cluster, "node is a member");
        Ok(())
    }

    /// Returns when this node has the agreed state of its cluster: because it founded it, or was let in.
    async fn find(&self) -> Result<(), Error> {
        let mut random =
            <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(self.inner.options.identity.boot);
        let founding_id = format!("{:016x}", random.random::<u64>());
        let mut told = false;
        while self.inner.meta.borrow().cluster_id.is_empty() {
            let mut nodes = join::ask_seeds(&self.inner.options.seeds, &self.inner.peers).await?.nodes;
            nodes.insert(self.node(), self.hello_reply());
            for node in nodes.values() {
                if node.kind != self.inner.options.kind {
                    let reason =
                        format!("it is a {} node, this is a {} node", node.kind, self.inner.options.kind);
                    return Err(Error::Seed { seed: node.address.clone(), reason });
                }
                self.set_peer(node.node_id, &node.address);
            }
            self.must_be_ours(nodes.values())?;
            let is_living =
                |node: &&rpc::HelloReply| !node.cluster_id.is_empty() && node.node_id != self.node();
            let living: Vec<&rpc::HelloReply> = nodes.values().filter(is_living).collect();
            if !living.is_empty() {
                // Also a member of before: it may have been removed, and then nobody tells it of anything any more.
                self.ask_to_be_let_in(&living).await?;
            } else if self.inner.group.is_founded().await? {
                self.found_cluster_if_leader(&nodes, &founding_id).await;
            } else if let Some(count) = self.inner.options.bootstrap {
                // Those that wait for a cluster join it once it is there.
                nodes.retain(|_, node| node.bootstrap != 0);
                if let Some(other) = nodes.values().find(|node| node.bootstrap as usize != count) {
                    return Err(Error::Refused(format!(
                        "{} was started with --bootstrap {}, this node with --bootstrap {count}",
                        other.address, other.bootstrap
                    )));
                }
                if nodes.len() > count.min(BOOTSTRAP_MAX) {
                    return Err(Error::Refused(format!(
                        "{} nodes were found for --bootstrap {count}, of {BOOTSTRAP_MAX} at most",
                        nodes.len()
                    )));
                }
                if nodes.len() == count
                    && join::all_promise(&nodes, &self.inner.peers).await
                    && nodes.keys().next() == Some(&self.node())
                {
                    let members: Vec<GroupMember> =
                        nodes.keys().map(|&node| GroupMember { replica: node, node }).collect();
                    self.inner.group.found(&members).await?;
                    info!(nodes = members.len(), "meta group founded");
                    continue;
                }
                if !told {
                    info!(
                        found = nodes.len(),
                        wanted = count,
                        "waiting for the other nodes of the new cluster"
                    );
                    told = true;
                }
            } else if !told {
                warn!("no cluster found at the seeds yet; a new one is started with --bootstrap");
                told = true;
            }
            tokio::time::sleep(ROUND_EVERY).await;
        }
        Ok(())
    }

    /// Asks the members of a living cluster to enter this node; its copy of the agreed state then comes by itself.
    async fn ask_to_be_let_in(&self, living: &[&rpc::HelloReply]) -> Result<(), Error> {
        if let Some(other) = living.iter().find(|node| node.cluster_id != living[0].cluster_id) {
            let reason = format!("it is of another cluster than {}", living[0].address);
            return Err(Error::Seed { seed: other.address.clone(), reason });
        }
        let request =
            rpc::JoinRequest { has_log: self.inner.group.is_founded().await?, ..self.join_request() };
        let mut addresses: VecDeque<String> = living.iter().map(|node| node.address.clone()).collect();
        let mut asked = BTreeSet::new();
        while let Some(address) = addresses.pop_front() {
            if !asked.insert(address.clone()) {
                continue;
            }
            let Ok(mut client) = self.at(&address) else { continue };
            match answered(tokio::time::timeout(ATTEMPT_TIMEOUT, client.join(request.clone())).await) {
                Ok(_) => return Ok(()),
                Err(Error::Refused(reason)) => return Err(Error::Refused(reason)),
                Err(Error::NotLeader { leader_address }) => {
                    // It knows best.
                    leader_address.into_iter().for_each(|leader| addresses.push_front(leader));
                }
                Err(error) => debug!(address, %error, "not let in yet"),
            }
        }
        Ok(())
    }

    /// The seeds may be of another cluster by now; then this node's data must not meet theirs.
    async fn check_seeds(&self) -> Result<(), Error> {
        let seen = join::ask_seeds(&self.inner.options.seeds, &self.inner.peers).await?;
        self.must_be_ours(seen.nodes.values())
    }

    fn must_be_ours<'a>(&self, mut nodes: impl Iterator<Item = &'a rpc::HelloReply>) -> Result<(), Error> {
        let own = self.known_cluster();
        let is_foreign = |node: &&rpc::HelloReply| {
            !node.cluster_id.is_empty() && !own.is_empty() && node.cluster_id != own
        };
        match nodes.find(is_foreign) {
            Some(other) => Err(Error::Refused(format!(
                "the data folder is of cluster {own}, the seed {} of cluster {}",
                other.address, other.cluster_id
            ))),
            None => Ok(()),
        }
    }

    /// The cluster that this node belongs to, as its disk says; empty = none yet.
    pub(crate) fn known_cluster(&self) -> String {
        let agreed = self.inner.meta.borrow().cluster_id.clone();
        if agreed.is_empty() { self.inner.options.identity.cluster.clone() } else { agreed }
    }

    /// Enters this start of the node, once.
    async fn join(&self) -> Result<(), Error> {
        let join = state::Join {
            node: Some(self.own_node()),
            lost_memory: self.inner.options.lost_memory,
            boot_id: self.inner.options.identity.boot,
            has_log: true,
            format: FORMAT,
        };
        while !self.is_entered() {
            match self.change(Command::Join(join.clone())).await {
                Ok(reply) => {
                    if let Err(error) = self.wait_for(reply.version).await {
                        debug!(%error, "entered, and not told of it yet");
                    }
                    continue;
                }
                Err(Error::Refused(reason)) => return Err(Error::Refused(reason)),
                Err(error) => debug!(%error, "not entered yet"),
            }
            // This node's copy of the meta group may be of long ago, and nobody in it be there any more.
            let known =
                self.inner.meta.borrow().nodes.values().map(|node| node.address.clone()).collect::<Vec<_>>();
            let addresses = [known, self.inner.options.seeds.clone()].concat();
            let seen = join::ask_seeds(&addresses, &self.inner.peers).await?;
            let is_living =
                |node: &&rpc::HelloReply| !node.cluster_id.is_empty() && node.node_id != self.node();
            let living: Vec<&rpc::HelloReply> = seen.nodes.values().filter(is_living).collect();
            if !living.is_empty() {
                self.ask_to_be_let_in(&living).await?;
            }
            tokio::time::sleep(ROUND_EVERY).await;
        }
        Ok(())
    }

    fn join_request(&self) -> rpc::JoinRequest {
        let options = &self.inner.options;
        rpc::JoinRequest {
            kind: options.kind.to_owned(),
            node: Some(self.own_node()),
            lost_memory: options.lost_memory,
            boot_id: options.identity.boot,
            cluster_id: self.known_cluster(),
            version: options.version.to_owned(),
            has_log: false,
            format: FORMAT,
        }
    }

    /// The first command of a new cluster. Proposed by whoever leads the meta group, so that it is done even if the
    /// founder dies right after founding.
    async fn found_cluster_if_leader(
        &self,
        nodes: &std::collections::BTreeMap<u64, rpc::HelloReply>,
        cluster_id: &str,
    ) {
        let status = self.inner.group.status();
        let voters: BTreeSet<u64> = status.voters.iter().copied().collect();
        if status.state != "leader" || !voters.iter().all(|voter| nodes.contains_key(voter)) {
            return;
        }
        let voting = || nodes.values().filter(|node| voters.contains(&node.node_id));
        let members: Vec<ring::Member> = voting()
            .map(|node| ring::Member {
                node: node.node_id,
                weight: weight(node.weight),
                zone: node.zone.clone(),
            })
            .collect();
        let copies = self.inner.options.replication_factor as usize;
        let partitions =
            plan::first_placement(&members, self.inner.options.partitions, copies, META_GROUP + 1, 1);
        let found = state::Found {
            cluster_id: cluster_id.to_owned(),
            nodes: voting()
                .map(|node| wire::Node {
                    id: node.node_id,
                    address: node.address.clone(),
                    incarnation: 0,
                    state: wire::NodeState::Up.into(),
                    zone: node.zone.clone(),
                    weight: node.weight,
                    resp_address: node.resp_address.clone(),
                })
                .collect(),
            partitions: partitions.iter().map(trimaran_net::placement::put).collect(),
            replication_factor: self.inner.options.replication_factor,
            boots: voting()
                .map(|node| state::Boot { node_id: node.node_id, boot_id: node.boot_id, entered_at: 0 })
                .collect(),
            format: voting().map(|node| node.format).min().unwrap_or(0).min(FORMAT),
        };
        if let Err(error) = self.propose(Command::Found(found)).await {
            debug!(%error, "cluster not founded yet");
        }
    }

    /// Changes the meta group, here if this node leads it, else at its leader.
    pub(crate) async fn change(&self, command: Command) -> Result<state::MetaReply, Error> {
        if self.inner.group.is_leader() {
            return self.propose(command).await;
        }
        let mut client = self.meta_leader()?;
        let command = state::MetaCommand { command: Some(command) };
        answered(tokio::time::timeout(ATTEMPT_TIMEOUT, client.change(command)).await)
    }

    /// Sets (`Some`) or removes (`None`) what the cluster agrees on under a name, if `expected_revision` is its
    /// revision now (0 = it is not there). Returns once this node knows of it.
    ///
    /// Errors: [`Error::NotReady`] if no leader answered in time; then it may or may not have been changed, and the
    /// same call tells, by the revision that it finds.
    pub async fn define(
        &self,
        name: &str,
        value: Option<bytes::Bytes>,
        expected_revision: u64,
    ) -> Result<Defined, Error> {
        let define = state::Define { name: name.to_owned(), value, expected_revision };
        let reply = self.change(Command::Define(define)).await?;
        self.wait_for(reply.version).await?;
        Ok(if reply.changed { Defined::Changed(reply.revision) } else { Defined::Done(reply.revision) })
    }

    /// The same, tried for `patience` until a leader has answered. [`Defined::Changed`] may be its own work then: of an attempt
    /// whose answer was lost.
    ///
    /// Errors: [`Error::Refused`] if it may not be; else that of the last attempt.
    pub async fn define_within(
        &self,
        name: &str,
        value: Option<bytes::Bytes>,
        expected_revision: u64,
        patience: Duration,
    ) -> Result<Defined, Error> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.define(name, value.clone(), expected_revision).await {
                Ok(defined) => return Ok(defined),
                Err(refused @ Error::Refused(_)) => return Err(refused),
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
                Err(error) => debug!(name, %error, "a definition is not changed yet"),
            }
            tokio::time::sleep(ROUND_EVERY).await;
        }
    }

    /// Has this node's copies moved to others, and returns when the node is gone from the cluster.
    ///
    /// Errors: [`Error::Refused`] if too few nodes would be left.
    pub async fn drain(&self) -> Result<(), Error> {
        loop {
            match self.set_node_state(self.node(), wire::NodeState::Leaving).await {
                Ok(()) => break,
                Err(Error::Refused(reason)) => return Err(Error::Refused(reason)),
                Err(error) => {
                    debug!(%error, "not asked to leave yet");
                    tokio::time::sleep(ROUND_EVERY).await;
                }
            }
        }
        self.gone().await;
        Ok(())
    }

    /// Returns when the node has to end: because `stop` was cancelled, and it was drained if it is to be, or because it is
    /// gone from its cluster.
    ///
    /// Errors: [`Error::Failed`] if it cannot go on with what it has: its disk is full or broken. It is to end at once, so that
    /// others take over, and says so to whoever starts it again.
    pub async fn until_end(&self, stop: &CancellationToken) -> Result<(), Error> {
        let drained = async {
            stop.cancelled().await;
            if self.inner.options.drain {
                info!("moving everything to other nodes");
                match self.drain().await {
                    Ok(()) => info!("nothing is left on this node"),
                    Err(error) => warn!(%error, "the node stops without being drained"),
                }
            }
        };
        tokio::select! {
            () = drained => Ok(()),
            () = self.gone() => {
                warn!("this node is gone from its cluster");
                Ok(())
            }
            why = self.inner.groups.failed() => Err(Error::Failed(why)),
        }
    }

    /// Returns when the cluster has declared this node gone: it can do nothing more in it.
    pub async fn gone(&self) {
        let mut told = self.inner.told.subscribe();
        let mut meta = self.meta();
        let node = self.node();
        let is_gone = move |meta: &Arc<Meta>| {
            meta.nodes.get(&node).is_some_and(|node| node.state() == wire::NodeState::Gone)
        };
        tokio::select! {
            Ok(_) = told.wait_for(|told| *told == wire::NodeState::Gone) => {}
            Ok(_) = meta.wait_for(is_gone) => {}
            else => std::future::pending().await,
        }
    }

    pub(crate) async fn set_node_state(&self, node_id: u64, state: wire::NodeState) -> Result<(), Error> {
        let boot_id = self.inner.meta.borrow().boot(node_id).unwrap_or_default();
        let set = state::SetNodeState { node_id, state: state.into(), boot_id };
        self.change(Command::SetNodeState(set)).await.map(drop)
    }

    /// Returns once this node's copy of the agreed state misses nothing that was acknowledged before the call.
    pub async fn refresh(&self) -> Result<(), Error> {
        let version = if self.inner.group.is_leader() {
            self.version_here().await?
        } else {
            let mut client = self.meta_leader()?;
            answered(tokio::time::timeout(ATTEMPT_TIMEOUT, client.version(rpc::VersionRequest {})).await)?
                .version
        };
        self.wait_for(version).await
    }

    pub(crate) async fn version_here(&self) -> Result<u64, Error> {
        self.inner.group.barrier(Consistency::Linearizable).await?;
        Ok(self.inner.meta.borrow().version)
    }

    async fn wait_for(&self, version: u64) -> Result<(), Error> {
        let mut meta = self.meta();
        let arrived = meta.wait_for(|meta| meta.version >= version);
        match tokio::time::timeout(ATTEMPT_TIMEOUT, arrived).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::NotReady("this node's copy of the meta group is behind".into())),
        }
    }

    pub(crate) fn meta_leader(&self) -> Result<ClusterClient<tonic::transport::Channel>, Error> {
        let leader = self.inner.group.leader();
        let leader = leader.ok_or_else(|| Error::NotReady("the meta group has no leader".into()))?;
        let channel =
            self.inner.peers.channel(leader.node).ok_or_else(|| {
                Error::NotReady("the address of the meta group's leader is not known".into())
            })?;
        Ok(ClusterClient::new(channel))
    }

    /// A client of the node at an address, which need not be a member any more.
    pub(crate) fn at(&self, address: &str) -> Result<ClusterClient<tonic::transport::Channel>, Error> {
        let channel = self.inner.peers.separate_channel(address);
        let channel = channel.map_err(|bad| Error::NotReady(format!("{address}: {bad}")))?;
        Ok(ClusterClient::new(channel))
    }

    pub(crate) async fn propose(&self, command: Command) -> Result<state::MetaReply, Error> {
        // Before it is in the log: a member that does not know it would have to stop there.
        self.inner.meta.borrow().must_be_known(&command).map_err(Error::Refused)?;
        let payload = state::MetaCommand { command: Some(command) }.encode_to_vec().into();
        let reply = match self.inner.group.propose(payload, None).await {
            Err(trimaran_replication::Error::NotLeader { leader, .. }) => {
                let leader_address = leader.and_then(|leader| self.inner.peers.address(leader.node));
                return Err(Error::NotLeader { leader_address });
            }
            other => other?,
        };
        let reply = state::MetaReply::decode(reply).map_err(|bad| Error::NotReady(bad.to_string()))?;
        if reply.refused.is_empty() { Ok(reply) } else { Err(Error::Refused(reply.refused)) }
    }

    /// Keeps the address book as the agreed state says.
    fn spawn_address_book(&self) {
        let cluster = self.clone();
        let mut meta = self.meta();
        tokio::spawn(async move {
            loop {
                let now = Arc::clone(&meta.borrow_and_update());
                for node in now.nodes.values().filter(|node| node.id != cluster.node()) {
                    cluster.set_peer(node.id, &node.address);
                }
                if meta.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    fn set_peer(&self, node: u64, address: &str) {
        if let Err(error) = self.inner.peers.set(node, address) {
            warn!(node, address, %error, "address of a node is not usable");
        }
    }

    fn own_node(&self) -> wire::Node {
        let options = &self.inner.options;
        wire::Node {
            id: options.identity.node,
            address: options.address.clone(),
            incarnation: 0,
            state: wire::NodeState::Up.into(),
            zone: options.zone.clone(),
            weight: options.weight,
            resp_address: options.resp_address.clone(),
        }
    }

    pub(crate) fn hello_reply(&self) -> rpc::HelloReply {
        let options = &self.inner.options;
        rpc::HelloReply {
            node_id: options.identity.node,
            cluster_id: self.inner.meta.borrow().cluster_id.clone(),
            kind: options.kind.to_owned(),
            address: options.address.clone(),
            version: options.version.to_owned(),
            boot_id: options.identity.boot,
            resp_address: options.resp_address.clone(),
            zone: options.zone.clone(),
            weight: options.weight,
            bootstrap: options.bootstrap.map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX)),
            format: FORMAT,
        }
    }
}

/// A weight as the ring takes it.
pub(crate) fn weight(weight: u32) -> usize {
    usize::try_from(weight.clamp(1, WEIGHT_MAX)).unwrap_or(1)
}

/// Beyond it a ring would have too many points.
const WEIGHT_MAX: u32 = 100;

/// What became of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defined {
    /// It is as asked for, under this revision (0 = removed).
    Done(u64),
    /// Nothing was changed: this is its revision (0 = it is not there).
    Changed(u64),
}

/// What another node said, as an error of ours.
pub(crate) fn answered<T>(
    outcome: Result<Result<Response<T>, Status>, tokio::time::error::Elapsed>,
) -> Result<T, Error> {
    match outcome {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => {
            let (message, detail) = (status.message(), detail(&status));
            Err(match detail.code.as_str() {
                "CLUSTER_REFUSED" => Error::refused_again(message),
                "NOT_LEADER" => Error::NotLeader {
                    leader_address: Some(detail.leader_address).filter(|address| !address.is_empty()),
                },
                _ => Error::NotReady(message.to_owned()),
            })
        }
        Err(_elapsed) => Err(Error::NotReady("the meta group's leader does not answer".into())),
    }
}
