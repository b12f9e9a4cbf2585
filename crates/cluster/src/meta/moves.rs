//! How the copies of a partition change: begun, confirmed by the partition's leader, and only then done.
//!
//! Invariant: a replica is taken out of the descriptor, which is what makes its node delete it, only when the group has
//! agreed on voters without it, under the descriptor that says that it is to go. A replica's id is never used again.

use std::collections::BTreeSet;

use trimaran_proto::api::placement as wire;
use trimaran_proto::api::placement::{NodeState, ReplicaState};
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::MoveStep;
use trimaran_proto::state::meta::event::What;

use super::Meta;

/// The replicas that are to vote when the move under way, if any, is done.
pub(crate) fn wanted(partition: &wire::Partition) -> impl Iterator<Item = &wire::Replica> {
    partition.replicas.iter().filter(|replica| replica.state() != ReplicaState::Leaving)
}

/// True while a copy comes or goes.
pub(crate) fn is_moving(partition: &wire::Partition) -> bool {
    partition.replicas.iter().any(|replica| replica.state() != ReplicaState::Unspecified)
}

impl Meta {
    /// Partitions that may still need the replicas of those that they were split from.
    pub(crate) fn unproven_parts(&self) -> impl Iterator<Item = &wire::Partition> {
        self.partitions.values().filter(|part| part.unproven && !part.lost)
    }

    /// Refuses to take a replica away that another partition may still need to begin with.
    pub(super) fn must_have_no_unproven_part(&self, id: u64) -> Result<(), String> {
        match self.unproven_parts().find(|part| part.split_from == id) {
            Some(part) => Err(format!("partition {} was split from partition {id} just now", part.id)),
            None => Ok(()),
        }
    }

    pub(super) fn seen(&mut self, partition_id: u64, epoch: u64) -> Result<&mut wire::Partition, String> {
        let partition = self.partitions.get_mut(&partition_id);
        let partition = partition.ok_or_else(|| format!("there is no partition {partition_id}"))?;
        if partition.epoch != epoch {
            return Err(format!("partition {partition_id} has epoch {}, not {epoch}", partition.epoch));
        }
        Ok(partition)
    }

    pub(super) fn start_move(&mut self, start: &state::StartMove, now_ms: u64) -> Result<(), String> {
        let target = Some(start.add_on_node).filter(|&node| node != 0);
        let removed = Some(start.remove_replica).filter(|&replica| replica != 0);
        if let Some(node) = target {
            let found = self.nodes.get(&node).ok_or_else(|| format!("there is no node {node}"))?;
            if found.state() != NodeState::Up {
                return Err(format!("node {node} is {}", super::said(found.state())));
            }
        }
        self.must_have_no_unproven_part(start.partition_id)?;
        let fresh = self.next_replica;
        let partition = self.seen(start.partition_id, start.epoch)?;
        let id = partition.id;
        if partition.lost {
            return Err(format!("partition {id} is lost"));
        }
        if is_moving(partition) {
            return Err(format!("a copy of partition {id} is being moved already"));
        }
        if partition.splitting_off.is_some() {
            return Err(format!("partition {id} is being split"));
        }
        super::merges::must_not_merge(partition)?;
        if target.is_some_and(|node| partition.replicas.iter().any(|replica| replica.node_id == node)) {
            return Err(format!("node {} has a copy of partition {id} already", start.add_on_node));
        }
        let going =
            removed.map(|removed| partition.replicas.iter().position(|replica| replica.id == removed));
        let going = match going {
            Some(None) => return Err(format!("partition {id} has no replica {}", start.remove_replica)),
            Some(Some(at)) => Some(at),
            None => None,
        };
        if target.is_none() && (going.is_none() || partition.replicas.len() == 1) {
            return Err(format!("nothing would be left of partition {id}, or nothing be moved"));
        }
        if let Some(going) = going {
            partition.replicas[going].state = ReplicaState::Leaving.into();
        }
        if let Some(node_id) = target {
            partition.replicas.push(wire::Replica {
                id: fresh,
                node_id,
                state: ReplicaState::Joining.into(),
            });
        }
        partition.epoch += 1;
        self.next_replica += u64::from(target.is_some());
        self.version += 1;
        self.tell_of_move(id, MoveStep::Started, start.reason(), now_ms);
        Ok(())
    }

    pub(super) fn cancel_move(&mut self, cancel: &state::CancelMove, now_ms: u64) -> Result<(), String> {
        let partition = self.seen(cancel.partition_id, cancel.epoch)?;
        if !is_moving(partition) {
            return Err(format!("no copy of partition {} is being moved", partition.id));
        }
        self.tell_of_move(cancel.partition_id, MoveStep::Cancelled, state::Reason::Unspecified, now_ms);
        let partition = self.seen(cancel.partition_id, cancel.epoch)?;
        for replica in &mut partition.replicas {
            // What was to come may vote by now: it goes as any other copy goes.
            replica.state = match replica.state() {
                ReplicaState::Joining => ReplicaState::Leaving,
                ReplicaState::Leaving | ReplicaState::Unspecified => ReplicaState::Unspecified,
            }
            .into();
        }
        partition.epoch += 1;
        self.version += 1;
        Ok(())
    }

    /// The leader of a partition says who votes, as a majority of them agrees.
    pub(super) fn confirm(&mut self, confirm: &state::Confirm, now_ms: u64) -> Result<(), String> {
        let partition = self.seen(confirm.partition_id, confirm.epoch)?;
        let voters: BTreeSet<u64> = confirm.voters.iter().copied().collect();
        let done = is_moving(partition)
            && wanted(partition).map(|replica| replica.id).collect::<BTreeSet<_>>() == voters;
        let is_known = partition.leader_hint == confirm.leader && partition.voters == confirm.voters;
        if !done && is_known && !partition.unproven {
            return Ok(());
        }
        partition.unproven = false;
        partition.leader_hint = confirm.leader;
        partition.voters.clone_from(&confirm.voters);
        if done {
            self.tell_of_move(confirm.partition_id, MoveStep::Done, state::Reason::Unspecified, now_ms);
            let partition = self.seen(confirm.partition_id, confirm.epoch)?;
            partition.replicas.retain(|replica| replica.state() != ReplicaState::Leaving);
            for replica in &mut partition.replicas {
                replica.state = ReplicaState::Unspecified.into();
            }
            if !voters.contains(&partition.preferred_leader) {
                partition.preferred_leader = 0;
            }
            partition.epoch += 1;
        }
        self.version += 1;
        Ok(())
    }

    pub(super) fn prefer(&mut self, prefer: &state::Prefer) -> Result<(), String> {
        let partition = self.seen(prefer.partition_id, prefer.epoch)?;
        if partition.replicas.iter().all(|replica| replica.id != prefer.replica) {
            return Err(format!("partition {} has no replica {}", partition.id, prefer.replica));
        }
        if partition.preferred_leader != prefer.replica {
            partition.preferred_leader = prefer.replica;
            self.version += 1;
        }
        Ok(())
    }

    /// A node's copies are gone: each gets a new id, for it must never vote under its old one. The partition's leader
    /// brings the new one in; if too many voters are gone for there to be a leader, the partition is lost.
    pub(super) fn renew_replicas(&mut self, node: u64, now_ms: u64) {
        let mut lost = Vec::new();
        for partition in self.partitions.values_mut() {
            if partition.replicas.iter().all(|replica| replica.node_id != node) {
                continue;
            }
            // One that was to go has nothing left that could go.
            partition
                .replicas
                .retain(|replica| replica.node_id != node || replica.state() != ReplicaState::Leaving);
            for replica in partition.replicas.iter_mut().filter(|replica| replica.node_id == node) {
                if partition.preferred_leader == replica.id {
                    partition.preferred_leader = self.next_replica;
                }
                replica.id = self.next_replica;
                self.next_replica += 1;
            }
            // The new group may have begun without this; its leader brings the replica in.
            let fresh = partition.splitting_off.iter_mut().flat_map(|fresh| &mut fresh.replicas);
            for replica in fresh.filter(|replica| replica.node_id == node) {
                replica.id = self.next_replica;
                self.next_replica += 1;
            }
            partition.epoch += 1;
            let is_there = |voter: &&u64| partition.replicas.iter().any(|replica| replica.id == **voter);
            let alive = partition.voters.iter().filter(is_there).count();
            if !partition.lost && alive <= partition.voters.len() / 2 {
                partition.lost = true;
                lost.push(partition.id);
            }
        }
        for partition_id in lost {
            self.give_up_merge_into(partition_id, now_ms);
            self.tell(now_ms, What::Lost(state::LostEvent { partition_id }));
        }
    }

    fn tell_of_move(&mut self, partition: u64, step: MoveStep, reason: state::Reason, now_ms: u64) {
        let Some(partition) = self.partitions.get(&partition) else { return };
        let of = |state: ReplicaState| {
            let found = partition.replicas.iter().find(|replica| replica.state() == state);
            found.map_or((0, 0), |replica| (replica.id, replica.node_id))
        };
        let (added, removed) = (of(ReplicaState::Joining), of(ReplicaState::Leaving));
        let event = state::MoveEvent {
            partition_id: partition.id,
            epoch: partition.epoch,
            added_replica: added.0,
            added_on_node: added.1,
            removed_replica: removed.0,
            removed_from_node: removed.1,
            step: step.into(),
            reason: reason.into(),
        };
        self.tell(now_ms, What::Move(event));
    }
}
