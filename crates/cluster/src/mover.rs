//! What the leader of the meta group does for its cluster: says who is up, plans moves, splits and merges and records each before
//! it is taken, takes back those that cannot be done, and keeps the meta group itself on nodes that are there.
//!
//! All of it follows from the agreed state and from who is heard of; nothing has to be remembered, so that whoever
//! leads next goes on. The partitions' own leaders carry moves out: see [`crate::replicas`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};
use trimaran_placement::moves::{self, Condition, Limits, Reason};
use trimaran_placement::ring;
use trimaran_placement::token::Token;
use trimaran_placement::{merges, splits};
use trimaran_proto::api::placement as wire;
use trimaran_proto::api::placement::{NodeState, ReplicaState};
use trimaran_proto::internal::cluster::PartitionLoad;
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::meta_command::Command;
use trimaran_replication::group::Member;
use trimaran_replication::merge::MERGE_BYTES_MAX;

use crate::autoscale::{Scaler, policy};
use crate::error::Error;
use crate::liveness::SUSPECT_AFTER;
use crate::member::{Cluster, weight};
use crate::meta::moves::is_moving;
use crate::meta::{FORMAT, Meta, said};

/// How often the leader looks, besides on every change of the agreed state.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Copies that are on their way at once, in the whole cluster.
const MOVES_AT_ONCE: usize = 4;

/// Copies that one node receives at once.
const ARRIVALS_AT_ONCE: usize = 2;

/// Silence of a node after which a copy on its way to it is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// Voters of the meta group: it survives the death of two of them.
const META_VOTERS_MAX: usize = 5;

/// Pause between two splits, in which what was split is moved and its load is seen anew.
const SPLIT_PAUSE: Duration = Duration::from_secs(5);

/// How long one step of a change of the meta group may take before everything else gets its turn.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn run(cluster: Cluster) {
    let mut meta = cluster.meta();
    let mut leads: Option<(u64, Instant)> = None;
    let mut remembered = Remembered::default();
    loop {
        let now = Arc::clone(&meta.borrow_and_update());
        let status = cluster.inner.group.status();
        let leading = cluster.leads_meta().then_some(status.term);
        leads = match (leading, leads) {
            (Some(term), Some((known, since))) if term == known => Some((term, since)),
            (Some(term), _) => Some((term, Instant::now())),
            (None, _) => None,
        };
        if leads.is_none() {
            remembered = Remembered::default();
        }
        if let Some((_, since)) = leads
            && !now.cluster_id.is_empty()
        {
            let leader = Leader { cluster: &cluster, meta: &now, since, now: Instant::now() };
            if let Err(error) = leader.look(&mut remembered).await {
                debug!(%error, "the cluster is not as it should be yet");
            }
        }
        tokio::select! {
            changed = meta.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The leader of the meta group at one look.
struct Leader<'a> {
    cluster: &'a Cluster,
    meta: &'a Meta,
    /// Since when it listens.
    since: Instant,
    now: Instant,
}

impl Leader<'_> {
    async fn look(&self, remembered: &mut Remembered) -> Result<(), Error> {
        self.say_who_is_up().await?;
        self.raise_format().await?;
        self.give_up_moves().await?;
        self.begin_moves().await?;
        self.begin_split_or_merge(&mut remembered.hot).await?;
        remembered.scaler.look(self.cluster, self.meta, self.loads(), self.now).await?;
        self.prefer_leaders().await?;
        self.dismiss().await?;
        let changed = tokio::time::timeout(CHANGE_TIMEOUT, self.keep_meta_group()).await;
        changed.unwrap_or_else(|_elapsed| Err(Error::NotReady("the meta group changes slowly".into())))
    }

    fn silence(&self, node: u64) -> Duration {
        self.cluster.inner.heard.silence(self.meta, node, self.since, self.now)
    }

    async fn say_who_is_up(&self) -> Result<(), Error> {
        for node in self.meta.nodes.values() {
            let is_silent = self.silence(node.id) > SUSPECT_AFTER;
            let is_heard = self.cluster.inner.heard.is_heard(self.meta, node.id, self.since);
            let wanted = match node.state() {
                NodeState::Up | NodeState::Joining if is_silent => NodeState::Suspect,
                NodeState::Joining | NodeState::Suspect if is_heard && !is_silent => NodeState::Up,
                _ => continue,
            };
            warn_or_info(node, wanted);
            self.cluster.set_node_state(node.id, wanted).await?;
        }
        Ok(())
    }

    /// What every node that stays carries, if all were heard of.
    fn loads(&self) -> Option<Vec<policy::Load>> {
        let stays = |node: &&wire::Node| !matches!(node.state(), NodeState::Leaving | NodeState::Gone);
        let load = |node: &wire::Node| {
            let load = self.cluster.inner.heard.load(self.meta, node.id, self.since)?;
            let share = |permille: u32| f64::from(permille) / 1000.0;
            Some(policy::Load {
                cpu: share(load.cpu_permille),
                memory: share(load.memory_permille),
                operations: load.operations,
                queue: load.queue,
            })
        };
        self.meta.nodes.values().filter(stays).map(load).collect()
    }

    /// New commands are used once every member has said that it knows them.
    async fn raise_format(&self) -> Result<(), Error> {
        let mut members = self.meta.nodes.values().filter(|node| node.state() != NodeState::Gone);
        let known = members.try_fold(FORMAT, |least, node| {
            let format = self.cluster.inner.heard.format(self.meta, node.id, self.since)?;
            Some(least.min(format))
        });
        match known {
            Some(format) if format > self.meta.format => {
                info!(format, "every member knows newer commands");
                self.cluster.change(Command::RaiseFormat(state::RaiseFormat { format })).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Begins the next split or merge that is due, some time after the one before.
    async fn begin_split_or_merge(&self, hot: &mut Hot) -> Result<(), Error> {
        let Some(thresholds) = self.cluster.inner.options.split_above else { return Ok(()) };
        if self.meta.format < 2 || self.meta.balancing_paused {
            return Ok(());
        }
        let told = self.meta.nodes.keys();
        let told: Vec<PartitionLoad> =
            told.flat_map(|&node| self.cluster.inner.heard.loads(self.meta, node, self.since)).collect();
        let loads = hot.loads(&told, thresholds.operations, self.now);
        let up = self.meta.nodes.values().filter(|node| node.state() == NodeState::Up).count();
        let partitions = self.partitions();
        if hot.last_change.is_some_and(|at| self.now.saturating_duration_since(at) < SPLIT_PAUSE) {
            return Ok(());
        }
        let Some(split) = splits::next_split(&partitions, &loads, up, thresholds) else {
            // What it holds is told in memory, and is encoded for it: half leaves room for what goes with it.
            let due = merges::next_merge(&partitions, &loads, thresholds, MERGE_BYTES_MAX / 2);
            return match due.filter(|_| self.meta.format >= 3) {
                Some(merge) => {
                    hot.last_change = Some(self.now);
                    self.begin_merge(merge).await
                }
                None => Ok(()),
            };
        };
        hot.last_change = Some(self.now);
        info!(?split, "a partition is to be split");
        let epoch = self.meta.partitions.get(&split.partition).map_or(0, |partition| partition.epoch);
        let start = state::StartSplit {
            partition_id: split.partition,
            epoch,
            at_token: split.at.0,
            reason: match split.reason {
                splits::Reason::Size => state::SplitReason::Size,
                splits::Reason::Heat => state::SplitReason::Heat,
            }
            .into(),
        };
        self.cluster.change(Command::StartSplit(start)).await.map(drop)
    }

    async fn begin_merge(&self, merge: merges::Merge) -> Result<(), Error> {
        info!(?merge, "two partitions are to become one");
        let epoch = |id: u64| self.meta.partitions.get(&id).map_or(0, |partition| partition.epoch);
        let start = state::StartMerge {
            partition_id: merge.into,
            epoch: epoch(merge.into),
            from_partition_id: merge.from,
            from_epoch: epoch(merge.from),
            reason: state::MergeReason::Cold.into(),
        };
        self.cluster.change(Command::StartMerge(start)).await.map(drop)
    }

    /// What can be expected of a node.
    fn condition(&self, node: &wire::Node) -> Condition {
        let is_dead = self.silence(node.id) > self.cluster.inner.options.replace_after;
        match node.state() {
            NodeState::Up => Condition::Up,
            NodeState::Suspect | NodeState::Leaving if is_dead => Condition::Dead,
            NodeState::Leaving => Condition::Leaving,
            NodeState::Gone => Condition::Dead,
            NodeState::Suspect | NodeState::Joining | NodeState::Unspecified => Condition::Suspect,
        }
    }

    fn nodes(&self) -> Vec<moves::Node> {
        let node = |node: &wire::Node| moves::Node {
            member: ring::Member { node: node.id, weight: weight(node.weight), zone: node.zone.clone() },
            condition: self.condition(node),
        };
        self.meta.nodes.values().map(node).collect()
    }

    fn partitions(&self) -> Vec<trimaran_placement::table::Partition> {
        let needed: BTreeSet<u64> = self.meta.unproven_parts().map(|part| part.split_from).collect();
        let partition = |partition: &wire::Partition| {
            let mut found = trimaran_net::placement::get(partition);
            // It would be refused.
            found.range_changes |= needed.contains(&partition.id);
            found
        };
        self.meta.partitions.values().map(partition).collect()
    }

    /// A copy on its way to a node that is not there any more is waited for by nobody.
    async fn give_up_moves(&self) -> Result<(), Error> {
        for partition in self.meta.partitions.values() {
            let is_hopeless = |replica: &wire::Replica| {
                let node = self.meta.nodes.get(&replica.node_id);
                let is_gone = node.is_none_or(|node| node.state() == NodeState::Gone);
                replica.state() == ReplicaState::Joining
                    && (is_gone || self.silence(replica.node_id) > GIVE_UP_AFTER)
            };
            if partition.replicas.iter().any(is_hopeless) {
                info!(partition = partition.id, "a copy is not waited for any more");
                let cancel = state::CancelMove { partition_id: partition.id, epoch: partition.epoch };
                self.cluster.change(Command::CancelMove(cancel)).await?;
            }
        }
        Ok(())
    }

    async fn begin_moves(&self) -> Result<(), Error> {
        let limits = Limits {
            copies: self.meta.replication_factor as usize,
            moves_at_once: MOVES_AT_ONCE,
            arrivals_at_once: ARRIVALS_AT_ONCE,
            balance: !self.meta.balancing_paused,
        };
        for planned in moves::next_moves(&self.partitions(), &self.nodes(), limits) {
            let epoch = self.meta.partitions.get(&planned.partition).map_or(0, |partition| partition.epoch);
            info!(?planned, "a copy is to be moved");
            let start = state::StartMove {
                partition_id: planned.partition,
                epoch,
                add_on_node: planned.add.unwrap_or(0),
                remove_replica: planned.remove.unwrap_or(0),
                reason: reason(planned.reason).into(),
            };
            self.cluster.change(Command::StartMove(start)).await?;
        }
        Ok(())
    }

    /// Leaders are spread once nothing else is under way: what is moved changes who can lead.
    async fn prefer_leaders(&self) -> Result<(), Error> {
        if self.meta.partitions.values().any(is_moving) {
            return Ok(());
        }
        for (partition_id, replica) in moves::preferences(&self.partitions(), &self.nodes()) {
            let epoch = self.meta.partitions.get(&partition_id).map_or(0, |partition| partition.epoch);
            self.cluster.change(Command::Prefer(state::Prefer { partition_id, epoch, replica })).await?;
        }
        Ok(())
    }

    /// A node that is leaving, or does not come back, is gone once nothing of it is left.
    async fn dismiss(&self) -> Result<(), Error> {
        for node in self.meta.nodes.values() {
            let is_leaving = node.state() == NodeState::Leaving;
            let is_dead = node.state() == NodeState::Suspect && self.condition(node) == Condition::Dead;
            if (is_leaving || is_dead) && !self.meta.holds_replicas(node.id) {
                // As long as it votes here, it has something to do.
                let votes = self.cluster.inner.group.status().voters.contains(&node.id);
                if !(is_leaving && votes) {
                    info!(node = node.id, "node is gone");
                    self.cluster.set_node_state(node.id, NodeState::Gone).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes one step towards a meta group whose voters are on nodes that are there, and which everybody follows.
    async fn keep_meta_group(&self) -> Result<(), Error> {
        let group = &self.cluster.inner.group;
        let seen = group.members()?;
        let nodes: Vec<(u64, Condition)> =
            self.meta.nodes.values().map(|node| (node.id, self.condition(node))).collect();
        let voters = meta_voters(&nodes, &seen.voters, self.cluster.node());
        let is_member = |node: &&wire::Node| node.state() != NodeState::Gone && !voters.contains(&node.id);
        let learners: Vec<Member> =
            self.meta.nodes.values().filter(is_member).map(|node| member(node.id)).collect();
        let voters: Vec<Member> = voters.into_iter().map(member).collect();
        group.change_members(&seen, &voters, &learners).await?;
        Ok(())
    }
}

/// What a leader remembers as long as it leads, and nobody else needs to know.
#[derive(Default)]
struct Remembered {
    hot: Hot,
    scaler: Scaler,
}

/// Since when partitions are asked much, or next to nothing.
#[derive(Default)]
struct Hot {
    since: HashMap<u64, Instant>,
    cold_since: HashMap<u64, Instant>,
    last_change: Option<Instant>,
}

impl Hot {
    fn loads(&mut self, told: &[PartitionLoad], operations: u64, now: Instant) -> Vec<splits::Load> {
        let is_hot = |load: &&PartitionLoad| load.operations > operations;
        self.since
            .retain(|partition, _| told.iter().any(|load| load.partition_id == *partition && is_hot(&load)));
        for load in told.iter().filter(is_hot) {
            self.since.entry(load.partition_id).or_insert(now);
        }
        let is_cold = |load: &&PartitionLoad| load.operations <= operations / merges::COLD_SHARE;
        // One that nobody tells of may be asked somewhere.
        self.cold_since
            .retain(|partition, _| told.iter().any(|load| load.partition_id == *partition && is_cold(&load)));
        for load in told.iter().filter(is_cold) {
            self.cold_since.entry(load.partition_id).or_insert(now);
        }
        let token = |token: u64| Some(Token(token)).filter(|token| token.0 != 0);
        told.iter()
            .map(|load| splits::Load {
                partition: load.partition_id,
                bytes: load.bytes,
                hot_for: self.since.get(&load.partition_id).map(|&at| now.saturating_duration_since(at)),
                cold_for: self
                    .cold_since
                    .get(&load.partition_id)
                    .map(|&at| now.saturating_duration_since(at)),
                operations: load.operations,
                middle_by_bytes: token(load.middle_by_bytes),
                middle_by_operations: token(load.middle_by_operations),
            })
            .collect()
    }
}

/// A node is in the meta group under its own id: its log there is never lost.
fn member(node: u64) -> Member {
    Member { replica: node, node }
}

/// Who should vote in the meta group: an odd number of nodes, those that do already first, the leader among them.
fn meta_voters(nodes: &[(u64, Condition)], now: &BTreeSet<u64>, leader: u64) -> BTreeSet<u64> {
    let stays = |condition: Condition| matches!(condition, Condition::Up | Condition::Suspect);
    let mut candidates: Vec<(u64, Condition)> = nodes
        .iter()
        .filter(|(node, condition)| {
            // One that is not heard of keeps its vote for a while, and gets none.
            stays(*condition) && (*condition == Condition::Up || now.contains(node))
        })
        .copied()
        .collect();
    candidates.sort_by_key(|&(node, condition)| {
        (node != leader, !now.contains(&node), condition != Condition::Up, node)
    });
    let most = candidates.len().min(META_VOTERS_MAX);
    let wanted = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    let voters: BTreeSet<u64> = candidates.into_iter().take(wanted).map(|(node, _)| node).collect();
    if voters.is_empty() { now.clone() } else { voters }
}

fn reason(reason: Reason) -> state::Reason {
    match reason {
        Reason::CopyMissing => state::Reason::CopyMissing,
        Reason::NodeDead => state::Reason::NodeDead,
        Reason::NodeLeaving => state::Reason::NodeLeaving,
        Reason::CopyTooMany => state::Reason::CopyTooMany,
        Reason::Zone => state::Reason::Zone,
        Reason::Balance => state::Reason::Balance,
    }
}

fn warn_or_info(node: &wire::Node, wanted: NodeState) {
    if wanted == NodeState::Suspect {
        warn!(node = node.id, address = node.address, "node is not heard of");
    } else {
        info!(node = node.id, address = node.address, state = said(wanted), "node is heard of");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meta_group_has_an_odd_number_of_voters_that_are_there() {
        use Condition::{Dead, Leaving, Suspect, Up};
        let check = |nodes: &[(u64, Condition)], now: &[u64], expected: &[u64]| {
            let now: BTreeSet<u64> = now.iter().copied().collect();
            let voters: Vec<u64> =
                meta_voters(nodes, &now, now.first().copied().unwrap_or(0)).into_iter().collect();
            assert_eq!(voters, expected, "{nodes:?} {now:?}");
        };
        check(&[(1, Up)], &[1], &[1]);
        check(&[(1, Up), (2, Up)], &[1], &[1]);
        check(&[(1, Up), (2, Up), (3, Up)], &[1], &[1, 2, 3]);
        check(&[(1, Up), (2, Up), (3, Up), (4, Up)], &[1, 2, 3], &[1, 2, 3]);
        check(&[(1, Up), (2, Up), (3, Up), (4, Up), (5, Up), (6, Up)], &[1, 2, 3], &[1, 2, 3, 4, 5]);
        check(&[(1, Up), (2, Suspect), (3, Up), (4, Up)], &[1, 2, 3], &[1, 2, 3]);
        check(&[(1, Up), (2, Dead), (3, Up), (4, Up)], &[1, 2, 3], &[1, 3, 4]);
        check(&[(1, Up), (2, Leaving), (3, Up), (4, Up)], &[1, 2, 3], &[1, 3, 4]);
        check(&[(1, Leaving), (2, Up), (3, Up), (4, Up)], &[1, 2, 3], &[2, 3, 4]);
        check(&[(1, Up), (2, Up), (3, Suspect), (4, Up)], &[1, 2], &[1, 2, 4]);
        check(&[(1, Leaving)], &[1], &[1]);
    }
}
