//! A node as a member of its cluster: it finds or founds it, enters itself, and answers what others ask.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use rand::Rng as _;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::{debug, info, warn};
use trimaran_net::peers::Peers;
use trimaran_net::status::status;
use trimaran_placement::plan;
use trimaran_placement::ring;
use trimaran_proto::api::placement as wire;
use trimaran_proto::api::placement::placement_server::{Placement, PlacementServer};
use trimaran_proto::internal::cluster as rpc;
use trimaran_proto::internal::cluster::cluster_client::ClusterClient;
use trimaran_proto::internal::cluster::cluster_server::{Cluster as ClusterRpc, ClusterServer};
use trimaran_proto::state::meta as state;
use trimaran_replication::group::{Consistency, Group, Member as GroupMember};
use trimaran_replication::groups::{Durability, Groups};

use crate::error::Error;
use crate::identity::Identity;
use crate::join::{self, BOOTSTRAP_MAX, Promise, ROUND_EVERY};
use crate::meta::{META_GROUP, Meta, MetaMachine};

/// How long one attempt to change the meta group may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct Options {
    /// "grid" or "shard": nodes of another kind are refused.
    pub kind: &'static str,
    /// Release of this binary, for messages.
    pub version: &'static str,
    /// Who this node is.
    pub identity: Identity,
    /// Where others reach this node's gRPC, "host:port".
    pub address: String,
    /// Where clients reach its RESP front; empty = none.
    pub resp_address: String,
    /// Nodes of one zone fail together; empty = a zone of its own.
    pub zone: String,
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
}

/// This node's place in its cluster. Clones are the same.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    peers: Peers,
    group: Group<MetaMachine>,
    groups: Groups,
    meta: watch::Receiver<Arc<Meta>>,
    promise: Promise,
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
        Ok(Self {
            inner: Arc::new(Inner { options, peers, group, groups, meta, promise: Promise::default() }),
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

    /// Finds the cluster or takes part in founding it, and enters this node. Returns when the node is a member.
    pub async fn enter(&self) -> Result<(), Error> {
        self.spawn_address_book();
        let mut random =
            <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(self.inner.options.identity.boot);
        let mut told = false;
        let mut founding_id = format!("{:016x}", random.random::<u64>());
        founding_id.truncate(16);
        while self.inner.meta.borrow().cluster_id.is_empty() {
            let seen = join::ask_seeds(&self.inner.options.seeds, &self.inner.peers).await?;
            let mut nodes = seen.nodes;
            nodes.insert(self.node(), self.hello_reply());
            for node in nodes.values() {
                if node.kind != self.inner.options.kind {
                    let reason =
                        format!("it is a {} node, this is a {} node", node.kind, self.inner.options.kind);
                    return Err(Error::Seed { seed: node.address.clone(), reason });
                }
                self.set_peer(node.node_id, &node.address);
            }
            if self.inner.group.is_founded().await? {
                self.found_cluster_if_leader(&nodes, &founding_id).await;
            } else if let Some(count) = self.inner.options.bootstrap {
                let lives = nodes.values().any(|node| !node.cluster_id.is_empty());
                if lives || nodes.len() > count.min(BOOTSTRAP_MAX) {
                    return Err(Error::Refused(if lives {
                        "a cluster lives at the seeds already, and this node is none of its members; adding nodes to \
                         a running cluster is not possible yet"
                            .to_owned()
                    } else {
                        format!("{} nodes were found for --bootstrap {count}", nodes.len())
                    }));
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
        let join = state::Join {
            node: Some(self.own_node()),
            lost_memory: self.inner.options.lost_memory,
            boot_id: self.inner.options.identity.boot,
        };
        loop {
            match self.change(state::meta_command::Command::Join(join.clone())).await {
                Ok(()) => break,
                Err(Error::Refused(reason)) => return Err(Error::Refused(reason)),
                Err(error) => {
                    debug!(%error, "not entered yet");
                    tokio::time::sleep(ROUND_EVERY).await;
                }
            }
        }
        let cluster = self.inner.meta.borrow().cluster_id.clone();
        info!(node = self.node(), cluster, "node is a member");
        Ok(())
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
            .map(|node| ring::Member { node: node.node_id, weight: 1, zone: node.zone.clone() })
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
                    resp_address: node.resp_address.clone(),
                })
                .collect(),
            partitions: partitions.iter().map(trimaran_net::placement::put).collect(),
            replication_factor: self.inner.options.replication_factor,
            boots: voting()
                .map(|node| state::Boot { node_id: node.node_id, boot_id: node.boot_id })
                .collect(),
        };
        if let Err(error) = self.propose(state::meta_command::Command::Found(found)).await {
            debug!(%error, "cluster not founded yet");
        }
    }

    /// Changes the meta group, here if this node leads it, else at its leader.
    pub(crate) async fn change(&self, command: state::meta_command::Command) -> Result<(), Error> {
        if self.inner.group.is_leader() {
            return self.propose(command).await.map(drop);
        }
        let mut client = self.meta_leader()?;
        let outcome = match command {
            state::meta_command::Command::Join(join) => {
                let request = rpc::JoinRequest {
                    kind: self.inner.options.kind.to_owned(),
                    node: join.node,
                    lost_memory: join.lost_memory,
                    boot_id: join.boot_id,
                };
                tokio::time::timeout(ATTEMPT_TIMEOUT, client.join(request)).await.map(|done| done.map(drop))
            }
            state::meta_command::Command::Confirm(confirm) => {
                let request = rpc::ConfirmRequest {
                    partition_id: confirm.partition_id,
                    epoch: confirm.epoch,
                    leader: confirm.leader,
                    voters: confirm.voters,
                };
                tokio::time::timeout(ATTEMPT_TIMEOUT, client.confirm(request))
                    .await
                    .map(|done| done.map(drop))
            }
            state::meta_command::Command::Found(_) | state::meta_command::Command::Define(_) => {
                return Err(Error::NotReady("only the leader founds and defines".into()));
            }
        };
        answered(outcome.map(|done| done.map(Response::new)))
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
        let request = rpc::DefineRequest { name: name.to_owned(), value, expected_revision };
        let reply = if self.inner.group.is_leader() {
            self.define_here(request).await?
        } else {
            let mut client = self.meta_leader()?;
            answered(tokio::time::timeout(ATTEMPT_TIMEOUT, client.define(request)).await)?
        };
        self.wait_for(reply.version).await?;
        Ok(if reply.changed { Defined::Changed(reply.revision) } else { Defined::Done(reply.revision) })
    }

    async fn define_here(&self, request: rpc::DefineRequest) -> Result<rpc::DefineReply, Error> {
        let rpc::DefineRequest { name, value, expected_revision } = request;
        let define = state::Define { name, value, expected_revision };
        let reply = self.propose(state::meta_command::Command::Define(define)).await?;
        Ok(rpc::DefineReply { changed: reply.changed, revision: reply.revision, version: reply.version })
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

    async fn version_here(&self) -> Result<u64, Error> {
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

    fn meta_leader(&self) -> Result<ClusterClient<tonic::transport::Channel>, Error> {
        let leader = self.inner.group.leader();
        let leader = leader.ok_or_else(|| Error::NotReady("the meta group has no leader".into()))?;
        let channel =
            self.inner.peers.channel(leader.node).ok_or_else(|| {
                Error::NotReady("the address of the meta group's leader is not known".into())
            })?;
        Ok(ClusterClient::new(channel))
    }

    async fn propose(&self, command: state::meta_command::Command) -> Result<state::MetaReply, Error> {
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
            resp_address: options.resp_address.clone(),
        }
    }

    fn hello_reply(&self) -> rpc::HelloReply {
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
        }
    }
}

/// What became of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defined {
    /// It is as asked for, under this revision (0 = removed).
    Done(u64),
    /// Nothing was changed: this is its revision (0 = it is not there).
    Changed(u64),
}

/// What another node said, as an error of ours.
fn answered<T>(
    outcome: Result<Result<Response<T>, Status>, tokio::time::error::Elapsed>,
) -> Result<T, Error> {
    match outcome {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
            Err(Error::Refused(status.message().to_owned()))
        }
        Ok(Err(status)) => Err(Error::NotReady(status.message().to_owned())),
        Err(_elapsed) => Err(Error::NotReady("the meta group's leader does not answer".into())),
    }
}

struct Service(Cluster);

#[tonic::async_trait]
impl ClusterRpc for Service {
    async fn hello(&self, _request: Request<rpc::HelloRequest>) -> Result<Response<rpc::HelloReply>, Status> {
        Ok(Response::new(self.0.hello_reply()))
    }

    async fn promise(
        &self,
        request: Request<rpc::PromiseRequest>,
    ) -> Result<Response<rpc::PromiseReply>, Status> {
        let nodes = request.into_inner().node_ids;
        let inner = &self.0.inner;
        let unborn = inner.meta.borrow().cluster_id.is_empty();
        let promised = unborn && nodes.contains(&self.0.node()) && inner.promise.give(&nodes);
        Ok(Response::new(rpc::PromiseReply { promised }))
    }

    async fn join(&self, request: Request<rpc::JoinRequest>) -> Result<Response<rpc::JoinReply>, Status> {
        let request = request.into_inner();
        if request.kind != self.0.inner.options.kind {
            let kind = self.0.inner.options.kind;
            return Err(status(&Error::Refused(format!(
                "this is a {kind} cluster, the node is a {} node",
                request.kind
            ))));
        }
        let join =
            state::Join { node: request.node, lost_memory: request.lost_memory, boot_id: request.boot_id };
        self.0.propose(state::meta_command::Command::Join(join)).await.map_err(|error| status(&error))?;
        let cluster_id = self.0.inner.meta.borrow().cluster_id.clone();
        Ok(Response::new(rpc::JoinReply { cluster_id }))
    }

    async fn confirm(
        &self,
        request: Request<rpc::ConfirmRequest>,
    ) -> Result<Response<rpc::ConfirmReply>, Status> {
        let request = request.into_inner();
        let confirm = state::Confirm {
            partition_id: request.partition_id,
            epoch: request.epoch,
            leader: request.leader,
            voters: request.voters,
        };
        self.0
            .propose(state::meta_command::Command::Confirm(confirm))
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(rpc::ConfirmReply {}))
    }

    async fn define(
        &self,
        request: Request<rpc::DefineRequest>,
    ) -> Result<Response<rpc::DefineReply>, Status> {
        let defined = self.0.define_here(request.into_inner()).await;
        defined.map(Response::new).map_err(|error| status(&error))
    }

    async fn version(
        &self,
        _request: Request<rpc::VersionRequest>,
    ) -> Result<Response<rpc::VersionReply>, Status> {
        let version = self.0.version_here().await.map_err(|error| status(&error))?;
        Ok(Response::new(rpc::VersionReply { version }))
    }

    async fn status(
        &self,
        _request: Request<rpc::StatusRequest>,
    ) -> Result<Response<rpc::StatusReply>, Status> {
        let table = self.0.inner.meta.borrow().table();
        let groups = self
            .0
            .inner
            .groups
            .statuses()
            .into_iter()
            .map(|(group, replica, status)| rpc::GroupStatus {
                group,
                replica,
                state: status.state.to_owned(),
                term: status.term,
                leader: status.leader.map_or(0, |leader| leader.replica),
                last_log_index: status.last_log,
                applied_index: status.applied,
                voters: status.voters,
                learners: status.learners,
            })
            .collect();
        Ok(Response::new(rpc::StatusReply { table: Some(table), groups }))
    }
}

#[tonic::async_trait]
impl Placement for Service {
    async fn get_table(
        &self,
        _request: Request<wire::GetTableRequest>,
    ) -> Result<Response<wire::Table>, Status> {
        let meta = self.0.inner.meta.borrow();
        if meta.cluster_id.is_empty() {
            return Err(status(&Error::NotReady("it is not founded yet".into())));
        }
        Ok(Response::new(meta.table()))
    }
}
