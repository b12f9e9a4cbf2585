//! How two partitions become one: begun, decided by the group of the first one, and only then one in the table.
//!
//! While it is undecided, neither is moved or split. Whether the first group has taken the other one's state over is for
//! its log to say; only if that group is lost does it say nothing any more, and then it has taken nothing.

use trimaran_placement::token::Token;
use trimaran_proto::api::placement as wire;
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::MergeStep;
use trimaran_proto::state::meta::event::What;

use super::{Meta, moves};

/// Refuses what would change a partition that a merge is about.
pub(super) fn must_not_merge(partition: &wire::Partition) -> Result<(), String> {
    match partition.merging {
        Some(merge) if merge.into == partition.id => {
            Err(format!("partition {} is taking over partition {}", partition.id, merge.from))
        }
        Some(merge) => {
            Err(format!("partition {} is becoming part of partition {}", partition.id, merge.into))
        }
        None => Ok(()),
    }
}

/// Refuses a merge of a partition that something else is done with.
fn must_be_free(partition: &wire::Partition) -> Result<(), String> {
    let id = partition.id;
    if partition.lost {
        return Err(format!("partition {id} is lost"));
    }
    if moves::is_moving(partition) {
        return Err(format!("a copy of partition {id} is being moved"));
    }
    if partition.splitting_off.is_some() {
        return Err(format!("partition {id} is being split"));
    }
    if partition.unproven {
        return Err(format!("partition {id} was split off just now"));
    }
    must_not_merge(partition)
}

impl Meta {
    pub(super) fn start_merge(&mut self, start: &state::StartMerge, now_ms: u64) -> Result<(), String> {
        let (into, from) = (start.partition_id, start.from_partition_id);
        let number = self.version + 1;
        self.must_have_no_unproven_part(from)?;
        let behind = self.seen(from, start.from_epoch)?;
        must_be_free(behind)?;
        let first = behind.first_token;
        let partition = self.seen(into, start.epoch)?;
        must_be_free(partition)?;
        if partition.last_token.checked_add(1) != Some(first) {
            return Err(format!(
                "partition {from} begins at token {}, which is not behind partition {into}",
                Token(first)
            ));
        }
        for id in [into, from] {
            if let Some(partition) = self.partitions.get_mut(&id) {
                partition.epoch += 1;
                partition.merging = Some(wire::Merge { number, into, from });
            }
        }
        self.version += 1;
        self.tell_of_merge(into, from, start.reason(), MergeStep::Started, now_ms);
        Ok(())
    }

    pub(super) fn confirm_merge(&mut self, confirm: &state::ConfirmMerge, now_ms: u64) -> Result<(), String> {
        let id = confirm.partition_id;
        let partition = self.partitions.get(&id).ok_or_else(|| format!("there is no partition {id}"))?;
        // By a leader that did not hear of the first time.
        let is_open = |merge: &wire::Merge| merge.number == confirm.number && merge.into == id;
        let Some(merge) = partition.merging.filter(is_open) else { return Ok(()) };
        self.end_merge(merge, confirm.taken, now_ms);
        Ok(())
    }

    /// A partition is lost: it decides nothing any more.
    pub(super) fn give_up_merge_into(&mut self, lost: u64, now_ms: u64) {
        let merging = self.partitions.get(&lost).and_then(|partition| partition.merging);
        if let Some(merge) = merging.filter(|merge| merge.into == lost) {
            self.end_merge(merge, false, now_ms);
        }
    }

    fn end_merge(&mut self, merge: wire::Merge, taken: bool, now_ms: u64) {
        for id in [merge.into, merge.from] {
            if let Some(partition) = self.partitions.get_mut(&id) {
                partition.merging = None;
                partition.epoch += 1;
            }
        }
        let behind = if taken { self.partitions.remove(&merge.from) } else { None };
        if let (Some(behind), Some(partition)) = (behind, self.partitions.get_mut(&merge.into)) {
            if partition.founded_with.is_none() && partition.split_from == 0 {
                let (first_token, last_token) = (partition.first_token, partition.last_token);
                partition.founded_with = Some(wire::TokenRange { first_token, last_token });
            }
            partition.last_token = behind.last_token;
        }
        self.version += 1;
        let step = if taken { MergeStep::Done } else { MergeStep::GivenUp };
        self.tell_of_merge(merge.into, merge.from, state::MergeReason::Unspecified, step, now_ms);
    }

    fn tell_of_merge(
        &mut self,
        into: u64,
        from: u64,
        reason: state::MergeReason,
        step: MergeStep,
        now_ms: u64,
    ) {
        let event = state::MergeEvent {
            partition_id: into,
            from_partition_id: from,
            reason: reason.into(),
            step: step.into(),
        };
        self.tell(now_ms, What::Merge(event));
    }
}
