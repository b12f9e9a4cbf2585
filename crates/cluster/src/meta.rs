//! What all nodes of a cluster agree on: its members and its partitions. A [`Machine`] of a few kilobytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;
use trimaran_proto::api::placement as wire;
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::meta_command::Command;
use trimaran_replication::error::Stop;
use trimaran_replication::machine::{Committed, Machine, SnapshotChunks};

/// The id of the meta group; partitions have others.
pub const META_GROUP: u64 = 0;

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
    last_revision: u64,
    next_replica: u64,
    boots: BTreeMap<u64, u64>,
}

/// Something that the whole cluster agrees on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Another one with every change, never used twice.
    pub revision: u64,
    /// What it says; opaque here.
    pub value: Bytes,
}

impl Meta {
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

    fn apply(&mut self, command: Command) -> state::MetaReply {
        let mut reply = state::MetaReply::default();
        let refused = match command {
            Command::Found(found) => self.found(found),
            Command::Join(join) => self.join(join),
            Command::Confirm(confirm) => self.confirm(&confirm),
            Command::Define(define) => {
                (reply.changed, reply.revision) = self.define(define);
                Ok(())
            }
        };
        reply.refused = refused.err().unwrap_or_default();
        reply.cluster_id.clone_from(&self.cluster_id);
        reply.version = self.version;
        reply
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
        self.partitions = found.partitions.into_iter().map(|partition| (partition.id, partition)).collect();
        self.version += 1;
        Ok(())
    }

    fn join(&mut self, join: state::Join) -> Result<(), String> {
        if self.cluster_id.is_empty() {
            return Err("the cluster is not founded yet".to_owned());
        }
        let mut node = join.node.ok_or("the node is missing")?;
        let known_boot = self.boots.insert(node.id, join.boot_id);
        if known_boot == Some(join.boot_id)
            && self.nodes.get(&node.id).is_some_and(|known| known.address == node.address)
        {
            return Ok(());
        }
        node.incarnation = self.nodes.get(&node.id).map_or(0, |known| known.incarnation + 1);
        node.state = wire::NodeState::Up.into();
        let (id, lost_memory) = (node.id, join.lost_memory && known_boot != Some(join.boot_id));
        self.nodes.insert(id, node);
        if lost_memory {
            self.renew_replicas(id);
        }
        self.version += 1;
        Ok(())
    }

    /// A node's copies are gone: each gets a new id, for it must never vote under its old one. The partition's leader
    /// brings the new one in; if too many voters are gone for there to be a leader, the partition is lost.
    fn renew_replicas(&mut self, node: u64) {
        for partition in self.partitions.values_mut() {
            let mut renewed = false;
            for replica in partition.replicas.iter_mut().filter(|replica| replica.node_id == node) {
                replica.id = self.next_replica;
                self.next_replica += 1;
                renewed = true;
            }
            if !renewed {
                continue;
            }
            partition.epoch += 1;
            let alive = partition
                .voters
                .iter()
                .filter(|voter| partition.replicas.iter().any(|replica| replica.id == **voter))
                .count();
            partition.lost |= alive <= partition.voters.len() / 2;
        }
    }

    fn confirm(&mut self, confirm: &state::Confirm) -> Result<(), String> {
        let Some(partition) = self.partitions.get_mut(&confirm.partition_id) else {
            return Err(format!("there is no partition {}", confirm.partition_id));
        };
        if confirm.epoch != partition.epoch {
            return Err(format!(
                "partition {} has epoch {}, not {}",
                partition.id, partition.epoch, confirm.epoch
            ));
        }
        if partition.leader_hint != confirm.leader || partition.voters != confirm.voters {
            partition.leader_hint = confirm.leader;
            partition.voters.clone_from(&confirm.voters);
            self.version += 1;
        }
        Ok(())
    }

    fn save(&self) -> state::MetaState {
        state::MetaState {
            cluster_id: self.cluster_id.clone(),
            version: self.version,
            next_replica_id: self.next_replica,
            replication_factor: self.replication_factor,
            nodes: self.nodes.values().cloned().collect(),
            partitions: self.partitions.values().cloned().collect(),
            boots: self.boots.iter().map(|(&node_id, &boot_id)| state::Boot { node_id, boot_id }).collect(),
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
        }
    }

    fn restore(saved: state::MetaState) -> Self {
        Self {
            cluster_id: saved.cluster_id,
            version: saved.version,
            replication_factor: saved.replication_factor,
            nodes: saved.nodes.into_iter().map(|node| (node.id, node)).collect(),
            partitions: saved.partitions.into_iter().map(|partition| (partition.id, partition)).collect(),
            next_replica: saved.next_replica_id,
            boots: saved.boots.into_iter().map(|boot| (boot.node_id, boot.boot_id)).collect(),
            definitions: saved
                .definitions
                .into_iter()
                .map(|saved| (saved.name, Definition { revision: saved.revision, value: saved.value }))
                .collect(),
            last_revision: saved.last_revision,
        }
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
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Bytes>, Stop> {
        let mut replies = Vec::with_capacity(run.len());
        for committed in run {
            let command = state::MetaCommand::decode(&committed.payload[..])
                .ok()
                .and_then(|command| command.command)
                .ok_or_else(|| Stop::new("a command of the meta group that this release does not know"))?;
            replies.push(self.meta.apply(command).encode_to_vec().into());
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
mod tests {
    use trimaran_placement::plan;
    use trimaran_placement::ring::Member;

    use super::*;

    fn node(id: u64) -> wire::Node {
        wire::Node { id, address: format!("n{id}:1"), ..wire::Node::default() }
    }

    fn founded() -> Meta {
        let members: Vec<Member> =
            (1..=3).map(|node| Member { node, weight: 1, zone: String::new() }).collect();
        let partitions = plan::first_placement(&members, 2, 3, 1, 1);
        let mut meta = Meta::default();
        let found = state::Found {
            cluster_id: "c".into(),
            nodes: (1..=3).map(node).collect(),
            partitions: partitions.iter().map(trimaran_net::placement::put).collect(),
            replication_factor: 3,
            boots: (1..=3).map(|id| state::Boot { node_id: id, boot_id: id * 100 }).collect(),
        };
        meta.apply(Command::Found(found));
        meta
    }

    fn join(meta: &mut Meta, id: u64, boot_id: u64) {
        let reply =
            meta.apply(Command::Join(state::Join { node: Some(node(id)), lost_memory: true, boot_id }));
        assert_eq!(reply.refused, "");
    }

    #[test]
    fn a_node_that_lost_its_memory_gets_new_replica_ids_once() {
        let mut meta = founded();
        let before = meta.clone();
        join(&mut meta, 2, 200);
        assert_eq!(meta.partitions, before.partitions, "the same start as at the founding");
        join(&mut meta, 2, 201);
        let renewed = meta.clone();
        for (id, partition) in &meta.partitions {
            let old: Vec<u64> = before.partitions[id].replicas.iter().map(|replica| replica.id).collect();
            let fresh: Vec<u64> = partition
                .replicas
                .iter()
                .filter(|replica| !old.contains(&replica.id))
                .map(|r| r.node_id)
                .collect();
            assert_eq!(fresh, [2]);
            assert_eq!(partition.epoch, 2);
            assert!(!partition.lost);
        }
        join(&mut meta, 2, 201);
        assert_eq!(meta, renewed, "a repeated join is one join");
    }

    #[test]
    fn a_partition_is_lost_when_a_majority_of_its_voters_is_gone_and_not_before() {
        let mut meta = founded();
        join(&mut meta, 2, 201);
        assert!(meta.partitions.values().all(|partition| !partition.lost));
        // The leader of partition 1 has brought the new replica in; that of partition 2 has not.
        let (epoch, voters) = {
            let partition = &meta.partitions[&1];
            (partition.epoch, partition.replicas.iter().map(|replica| replica.id).collect())
        };
        meta.apply(Command::Confirm(state::Confirm { partition_id: 1, epoch, leader: 1, voters }));
        join(&mut meta, 3, 301);
        assert!(!meta.partitions[&1].lost);
        assert!(meta.partitions[&2].lost);
    }

    #[test]
    fn a_definition_changes_only_from_the_revision_that_its_author_saw() {
        let mut meta = founded();
        let mut define = |value: Option<&'static str>, expected_revision| {
            let value = value.map(Bytes::from);
            let name = "table/users".to_owned();
            let reply = meta.apply(Command::Define(state::Define { name, value, expected_revision }));
            (reply.changed, reply.revision)
        };
        assert_eq!(define(Some("a"), 0), (false, 1));
        assert_eq!(define(Some("b"), 0), (true, 1), "it is there already");
        assert_eq!(define(Some("b"), 1), (false, 2));
        assert_eq!(define(None, 1), (true, 2));
        assert_eq!(define(None, 2), (false, 0));
        assert_eq!(define(Some("c"), 0), (false, 3), "a revision is never used twice");
        assert_eq!(meta.definitions["table/users"].value, "c");
    }

    #[test]
    fn a_restored_machine_is_the_same() {
        let mut meta = founded();
        let value = Some(Bytes::from_static(b"v"));
        meta.apply(Command::Define(state::Define { name: "n".into(), value, expected_revision: 0 }));
        join(&mut meta, 1, 101);
        assert_eq!(Meta::restore(meta.save()), meta);
    }
}
