//! How a partition becomes two: begun, agreed on by its own group, and only then two in the table.
//!
//! Until the group has agreed, the new partition stands in the descriptor of the old one, with the replicas that it will
//! have. Which of them its group really began with the leader tells: a node may have lost its memory in between.

use trimaran_placement::plan;
use trimaran_placement::token::Token;
use trimaran_proto::api::placement as wire;
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::event::What;

use super::{Meta, PARTITIONS_MAX, merges, moves};

impl Meta {
    pub(super) fn start_split(&mut self, start: &state::StartSplit, now_ms: u64) -> Result<(), String> {
        if self.partitions.len() >= PARTITIONS_MAX {
            return Err(format!("there are PARTITIONS_MAX = {PARTITIONS_MAX} partitions"));
        }
        let (id, mut fresh, at) = (self.next_partition, self.next_replica, start.at_token);
        let is_to_prove = self.format >= 3;
        let partition = self.seen(start.partition_id, start.epoch)?;
        if partition.lost {
            return Err(format!("partition {} is lost", partition.id));
        }
        if moves::is_moving(partition) {
            return Err(format!("a copy of partition {} is being moved", partition.id));
        }
        if partition.splitting_off.is_some() {
            return Err(format!("partition {} is being split already", partition.id));
        }
        merges::must_not_merge(partition)?;
        let is_within = partition.first_token < at && at <= partition.last_token;
        if !is_within || !plan::is_boundary(Token(at)) {
            return Err(format!(
                "partition {} cannot be split at {}: no slot within it begins there",
                partition.id,
                Token(at)
            ));
        }
        let mut replicas = Vec::with_capacity(partition.replicas.len());
        for replica in &partition.replicas {
            replicas.push(wire::Replica { id: fresh, ..*replica });
            fresh += 1;
        }
        partition.epoch += 1;
        partition.splitting_off = Some(Box::new(wire::Partition {
            id,
            first_token: at,
            last_token: partition.last_token,
            // Never 1: nobody is to found its group, which begins with what the old one gives it.
            epoch: partition.epoch + 1,
            replicas,
            split_from: partition.id,
            unproven: is_to_prove,
            ..wire::Partition::default()
        }));
        self.next_partition += 1;
        self.next_replica = fresh;
        self.version += 1;
        let event = state::SplitEvent {
            partition_id: start.partition_id,
            new_partition_id: id,
            at_token: at,
            reason: start.reason,
            done: false,
        };
        self.tell(now_ms, What::Split(event));
        Ok(())
    }

    pub(super) fn confirm_split(&mut self, confirm: &state::ConfirmSplit, now_ms: u64) -> Result<(), String> {
        let partition = self.partitions.get_mut(&confirm.partition_id);
        let partition = partition.ok_or_else(|| format!("there is no partition {}", confirm.partition_id))?;
        let mut fresh = match partition.splitting_off.take() {
            Some(fresh) if fresh.id == confirm.new_partition_id => fresh,
            // By a leader that did not hear of the first time.
            other => {
                partition.splitting_off = other;
                return Ok(());
            }
        };
        if partition.founded_with.is_none() && partition.split_from == 0 {
            let (first_token, last_token) = (partition.first_token, partition.last_token);
            partition.founded_with = Some(wire::TokenRange { first_token, last_token });
        }
        partition.last_token = fresh.first_token - 1;
        partition.epoch += 1;
        fresh.epoch = fresh.epoch.max(partition.epoch);
        // Beside the leader of the old group is who will be asked to lead the new one.
        let node = partition.replicas.iter().find(|replica| replica.id == confirm.leader);
        let beside =
            node.and_then(|node| fresh.replicas.iter().find(|replica| replica.node_id == node.node_id));
        fresh.leader_hint = beside.map_or(0, |replica| replica.id);
        fresh.voters.clone_from(&confirm.voters);
        let event = state::SplitEvent {
            partition_id: partition.id,
            new_partition_id: fresh.id,
            at_token: fresh.first_token,
            done: true,
            ..state::SplitEvent::default()
        };
        self.partitions.insert(fresh.id, *fresh);
        self.version += 1;
        self.tell(now_ms, What::Split(event));
        Ok(())
    }
}
