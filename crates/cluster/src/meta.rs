//! What all nodes of a cluster agree on: its members and its partitions. A [`Machine`] of a few kilobytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;
use trimaran_proto::api::placement as wire;
use trimaran_proto::api::placement::NodeState;
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::event::What;
use trimaran_proto::state::meta::meta_command::Command;
use trimaran_replication::error::Stop;
use trimaran_replication::machine::{Committed, Machine, Reply, SnapshotChunks};

pub(crate) mod moves;

mod merges;
mod splits;

/// The id of the meta group; partitions have others.
pub const META_GROUP: u64 = 0;

/// The newest format of commands, of this group and of partitions' logs, that this release knows: 2 has splits, 3 has
/// merges, 4 has the commands of Redis, 5 their functions, DUMP and RESTORE, 6 pipelines and eviction, 7 semaphores, 8 namespaces and backups, 9 transactions and secondary indexes. A cluster uses it once every member
/// knows it; from then on a node that does not is refused.
pub const FORMAT: u32 = 9;

/// The format of everything that carries no number.
pub const FIRST_FORMAT: u32 = 1;

/// Partitions of a cluster.
pub const PARTITIONS_MAX: usize = 1024;

/// The agreed state. Everybody on the node reads it through a watch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// Empty until the cluster is founded.
    pub cluster_id: String,
    /// Grows with every change.
    pub version: u64,
    /// Copies of a partition that are wanted.
    pub replication_factor: u32,
    /// Members by id.
    pub nodes: BTreeMap<u64, wire::Node>,
    /// Partitions by id.
    pub partitions: BTreeMap<u64, wire::Partition>,
    /// What the nodes of this cluster's kind agree on besides, by name.
    pub definitions: BTreeMap<String, Definition>,
    /// What happened lately, oldest first; [`EVENTS_KEPT`] at most.
    pub events: VecDeque<state::Event>,
    /// True if no copy is moved for balance alone.
    pub balancing_paused: bool,
    /// Commands that are in use.
    pub format: u32,
    /// Nodes that there should be; 0 = nobody has decided.
    pub wanted_nodes: u32,
    last_revision: u64,
    next_replica: u64,
    next_partition: u64,
    boots: BTreeMap<u64, u64>,
    /// Version at which each node first entered.
    entered: BTreeMap<u64, u64>,
}

/// Events that are remembered.
pub const EVENTS_KEPT: usize = 256;

/// Something that the whole cluster agrees on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Another one with every change, never used twice.
    pub revision: u64,
    /// What it says; opaque here.
    pub value: Bytes,
}

impl Meta {
    /// True if there was such a partition and is not any more: it became part of another one.
    pub fn is_merged_away(&self, partition: u64) -> bool {
        let splitting = self.partitions.values().filter_map(|found| found.splitting_off.as_deref());
        let is_there = self.partitions.contains_key(&partition);
        partition != META_GROUP
            && partition < self.next_partition
            && !is_there
            && splitting.into_iter().all(|found| found.id != partition)
    }

    /// Refuses a command that not every member is known to know.
    pub(crate) fn must_be_known(&self, command: &Command) -> Result<(), String> {
        let (format, what) = match command {
            Command::StartSplit(_) | Command::ConfirmSplit(_) => (2, "split a partition"),
            Command::StartMerge(_) | Command::ConfirmMerge(_) => (3, "merge partitions"),
            _ => (FIRST_FORMAT, ""),
        };
        if self.format >= format || format == FIRST_FORMAT {
            return Ok(());
        }
        Err(format!("not every node knows how to {what}; start all of them with this release"))
    }

    /// As clients see it.
    pub fn table(&self) -> wire::Table {
        wire::Table {
            cluster_id: self.cluster_id.clone(),
            version: self.version,
            partitions: self.partitions.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
        }
    }

    /// The start of a node that the cluster knows of. Until it is the node's present one, what is said here about the
    /// node's replicas is about its life before.
    pub fn boot(&self, node: u64) -> Option<u64> {
        self.boots.get(&node).copied()
    }

    /// Grows with every node that enters; 0 for those of the founding.
    pub fn entered(&self, node: u64) -> u64 {
        self.entered.get(&node).copied().unwrap_or(0)
    }

    fn apply(&mut self, command: Command, now_ms: u64) -> state::MetaReply {
        let mut reply = state::MetaReply::default();
        let known = self.must_be_known(&command);
        let refused = known.and_then(|()| match command {
            Command::Found(found) => self.found(found),
            Command::Join(join) => self.join(join, now_ms),
            Command::Confirm(confirm) => self.confirm(&confirm, now_ms),
            Command::SetNodeState(set) => self.set_node_state(&set, now_ms),
            Command::StartMove(start) => self.start_move(&start, now_ms),
            Command::CancelMove(cancel) => self.cancel_move(&cancel, now_ms),
            Command::Prefer(prefer) => self.prefer(&prefer),
            Command::SetBalancing(set) => {
                if self.balancing_paused != set.paused {
                    self.balancing_paused = set.paused;
                    self.version += 1;
                    self.tell(now_ms, What::Balancing(set));
                }
                Ok(())
            }
            Command::RaiseFormat(raise) => {
                self.raise_format(raise, now_ms);
                Ok(())
            }
            Command::StartSplit(start) => {
                reply.new_partition_id = self.next_partition;
                self.start_split(&start, now_ms)
            }
            Command::ConfirmSplit(confirm) => self.confirm_split(&confirm, now_ms),
            Command::StartMerge(start) => self.start_merge(&start, now_ms),
            Command::ConfirmMerge(confirm) => self.confirm_merge(&confirm, now_ms),
            Command::Scale(scale) => {
                self.wanted_nodes = scale.to_nodes;
                self.version += 1;
                self.tell(now_ms, What::Scale(scale));
                Ok(())
            }
            Command::Define(define) => {
                (reply.changed, reply.revision) = self.define(define);
                Ok(())
            }
        });
        reply.refused = refused.err().unwrap_or_default();
        reply.cluster_id.clone_from(&self.cluster_id);
        reply.version = self.version;
        reply
    }

    /// Whoever proposes it has heard of every member that it knows the format.
    fn raise_format(&mut self, raise: state::RaiseFormat, now_ms: u64) {
        if raise.format > self.format {
            self.format = raise.format;
            self.version += 1;
            self.tell(now_ms, What::Format(raise));
        }
    }

    /// Whether the expected revision was not found, and the revision now.
    fn define(&mut self, define: state::Define) -> (bool, u64) {
        let now = self.definitions.get(&define.name).map_or(0, |definition| definition.revision);
        if now != define.expected_revision {
            return (true, now);
        }
        self.version += 1;
        match define.value {
            Some(value) => {
                self.last_revision += 1;
                let revision = self.last_revision;
                // A copy: the value is a slice of the whole log entry.
                let value = Bytes::copy_from_slice(&value);
                self.definitions.insert(define.name, Definition { revision, value });
                (false, revision)
            }
            None => {
                self.definitions.remove(&define.name);
                (false, 0)
            }
        }
    }

    /// The first command counts; a second one comes from a node that had not seen it yet, and is no error.
    fn found(&mut self, found: state::Found) -> Result<(), String> {
        if !self.cluster_id.is_empty() {
            return Ok(());
        }
        self.cluster_id = found.cluster_id;
        self.replication_factor = found.replication_factor;
        self.nodes = found.nodes.into_iter().map(|node| (node.id, node)).collect();
        self.boots = found.boots.iter().map(|boot| (boot.node_id, boot.boot_id)).collect();
        self.next_replica = 1 + found
            .partitions
            .iter()
            .flat_map(|partition| partition.replicas.iter().map(|replica| replica.id))
            .max()
            .unwrap_or(0);
        self.next_partition = 1 + found.partitions.iter().map(|partition| partition.id).max().unwrap_or(0);
        self.format = found.format.max(FIRST_FORMAT);
        self.partitions = found.partitions.into_iter().map(|partition| (partition.id, partition)).collect();
        self.version += 1;
        Ok(())
    }

    fn join(&mut self, join: state::Join, now_ms: u64) -> Result<(), String> {
        if self.cluster_id.is_empty() {
            return Err("the cluster is not founded yet".to_owned());
        }
        let mut node = join.node.ok_or("the node is missing")?;
        if join.format.max(FIRST_FORMAT) < self.format {
            return Err(format!(
                "node {} knows format {} of commands, and this cluster uses {}; start it with a newer release",
                node.id,
                join.format.max(FIRST_FORMAT),
                self.format
            ));
        }
        let known = self.nodes.get(&node.id);
        if known.is_some_and(|known| known.state() == NodeState::Gone) {
            return Err(format!(
                "node {} was removed from this cluster; with an empty data folder it can join as a new one",
                node.id
            ));
        }
        if join.has_log && known.is_none() {
            // Its log would be mixed with ours.
            return Err(format!(
                "the data of node {} is of another cluster: {} does not know it",
                node.id, self.cluster_id
            ));
        }
        let known_boot = self.boots.get(&node.id).copied();
        if known_boot == Some(join.boot_id) && known.is_some_and(|known| known.address == node.address) {
            return Ok(());
        }
        node.incarnation = known.map_or(0, |known| known.incarnation + 1);
        let state = match known.map(wire::Node::state) {
            // It gets copies once it was heard of.
            None | Some(NodeState::Joining) => NodeState::Joining,
            Some(NodeState::Leaving) => NodeState::Leaving,
            Some(_) => NodeState::Up,
        };
        let changed = known.is_none_or(|known| known.state() != state);
        node.state = state.into();
        let (id, lost_memory) = (node.id, join.lost_memory && known_boot != Some(join.boot_id));
        self.boots.insert(id, join.boot_id);
        self.entered.entry(id).or_insert(self.version);
        self.nodes.insert(id, node);
        self.version += 1;
        if changed {
            self.tell(now_ms, What::Node(state::NodeEvent { node_id: id, state: state.into() }));
        }
        if lost_memory {
            self.renew_replicas(id, now_ms);
        }
        Ok(())
    }

    fn set_node_state(&mut self, set: &state::SetNodeState, now_ms: u64) -> Result<(), String> {
        let id = set.node_id;
        let now = self.nodes.get(&id).ok_or_else(|| format!("there is no node {id}"))?.state();
        let wanted = set.state();
        if now == wanted {
            return Ok(());
        }
        let is_this_start = self.boots.get(&id) == Some(&set.boot_id);
        match (now, wanted) {
            (NodeState::Joining | NodeState::Suspect, NodeState::Up)
            | (NodeState::Joining | NodeState::Up, NodeState::Suspect)
                if is_this_start => {}
            (NodeState::Joining | NodeState::Up | NodeState::Suspect, NodeState::Leaving) => {
                let staying = self.nodes.values().filter(|node| {
                    let stays =
                        [NodeState::Joining, NodeState::Up, NodeState::Suspect].contains(&node.state());
                    node.id != id && stays
                });
                let (staying, copies) = (staying.count(), self.replication_factor as usize);
                if staying < copies {
                    return Err(format!(
                        "{copies} copies need {copies} nodes, and {staying} would be left without node {id}; add one first"
                    ));
                }
            }
            (NodeState::Suspect, NodeState::Gone) => {}
            (_, NodeState::Gone) if !self.holds_replicas(id) && now == NodeState::Leaving => {}
            (_, NodeState::Gone) => {
                return Err(format!(
                    "node {id} is {}; drain it, or stop it first if it is to be removed at once",
                    said(now)
                ));
            }
            _ => return Err(format!("node {id} is {}, it cannot become {}", said(now), said(wanted))),
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.state = wanted.into();
        }
        self.version += 1;
        self.tell(now_ms, What::Node(state::NodeEvent { node_id: id, state: wanted.into() }));
        Ok(())
    }

    /// True if a copy of any partition is on the node.
    pub fn holds_replicas(&self, node: u64) -> bool {
        let mut replicas = self.partitions.values().flat_map(|partition| &partition.replicas);
        replicas.any(|replica| replica.node_id == node)
    }

    fn tell(&mut self, at_ms: u64, what: What) {
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back(state::Event { at_ms, version: self.version, what: Some(what) });
    }

    fn save(&self) -> state::MetaState {
        state::MetaState {
            cluster_id: self.cluster_id.clone(),
            version: self.version,
            next_replica_id: self.next_replica,
            replication_factor: self.replication_factor,
            nodes: self.nodes.values().cloned().collect(),
            partitions: self.partitions.values().cloned().collect(),
            boots: self
                .boots
                .iter()
                .map(|(&node_id, &boot_id)| state::Boot {
                    node_id,
                    boot_id,
                    entered_at: self.entered(node_id),
                })
                .collect(),
            definitions: self
                .definitions
                .iter()
                .map(|(name, definition)| state::Definition {
                    name: name.clone(),
                    value: definition.value.clone(),
                    revision: definition.revision,
                })
                .collect(),
            last_revision: self.last_revision,
            events: self.events.iter().copied().collect(),
            balancing_paused: self.balancing_paused,
            format: self.format,
            next_partition_id: self.next_partition,
            wanted_nodes: self.wanted_nodes,
        }
    }

    fn restore(saved: state::MetaState) -> Self {
        let behind_all = 1 + saved.partitions.iter().map(|partition| partition.id).max().unwrap_or(0);
        Self {
            format: saved.format.max(FIRST_FORMAT),
            next_partition: saved.next_partition_id.max(behind_all),
            cluster_id: saved.cluster_id,
            version: saved.version,
            replication_factor: saved.replication_factor,
            nodes: saved.nodes.into_iter().map(|node| (node.id, node)).collect(),
            partitions: saved.partitions.into_iter().map(|partition| (partition.id, partition)).collect(),
            next_replica: saved.next_replica_id,
            entered: saved
                .boots
                .iter()
                .filter(|boot| boot.entered_at != 0)
                .map(|boot| (boot.node_id, boot.entered_at))
                .collect(),
            boots: saved.boots.into_iter().map(|boot| (boot.node_id, boot.boot_id)).collect(),
            wanted_nodes: saved.wanted_nodes,
            definitions: saved
                .definitions
                .into_iter()
                .map(|saved| (saved.name, Definition { revision: saved.revision, value: saved.value }))
                .collect(),
            last_revision: saved.last_revision,
            events: saved.events.into(),
            balancing_paused: saved.balancing_paused,
        }
    }
}

/// A node's state in a word.
pub fn said(state: NodeState) -> &'static str {
    match state {
        NodeState::Unspecified => "unknown",
        NodeState::Joining => "joining",
        NodeState::Up => "up",
        NodeState::Suspect => "suspect",
        NodeState::Leaving => "leaving",
        NodeState::Gone => "gone",
    }
}

/// Replicates [`Meta`] and shows every version of it.
#[derive(Debug)]
pub struct MetaMachine {
    meta: Meta,
    shown: watch::Sender<Arc<Meta>>,
}

impl MetaMachine {
    /// An empty one, and where its state is shown.
    pub fn new() -> (Self, watch::Receiver<Arc<Meta>>) {
        let (shown, watch) = watch::channel(Arc::new(Meta::default()));
        (Self { meta: Meta::default(), shown }, watch)
    }
}

impl Machine for MetaMachine {
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Reply>, Stop> {
        let mut replies = Vec::with_capacity(run.len());
        for committed in run {
            let command = state::MetaCommand::decode(&committed.payload[..])
                .ok()
                .and_then(|command| command.command)
                .ok_or_else(|| Stop::new("a command of the meta group that this release does not know"))?;
            let reply = self.meta.apply(command, committed.stamp_ms);
            replies.push(Reply::Done(reply.encode_to_vec().into()));
        }
        self.shown.send_if_modified(|shown| {
            let changed = shown.version != self.meta.version;
            if changed {
                *shown = Arc::new(self.meta.clone());
            }
            changed
        });
        Ok(replies)
    }

    fn snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::once(Ok(self.meta.save().encode_to_vec().into())))
    }

    fn restore(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        let chunk =
            chunks.next().ok_or_else(|| Stop::new("a snapshot of the meta group without its chunk"))??;
        let saved =
            state::MetaState::decode(chunk).map_err(|bad| Stop::new(format!("meta snapshot: {bad}")))?;
        self.meta = Meta::restore(saved);
        self.shown.send_replace(Arc::new(self.meta.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
