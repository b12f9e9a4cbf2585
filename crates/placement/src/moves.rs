//! From where copies are to where they should be: the next moves, and who is to lead.
//!
//! What is urgent comes first (a copy that is missing, on a dead node, on one that leaves), then what is merely better
//! (zones, balance). Which node gets a copy is the ring's choice among those that have room, so that everybody computes
//! the same and a partition tends to where the ring wants it; but nothing that is in balance is moved for the ring's
//! sake. So a fourth node gets a quarter of the copies and no other copy moves.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::ring::{Member, Ring};
use crate::table::{Partition, Replica, ReplicaState};
use crate::{NodeId, PartitionId, ReplicaId};

/// What can be expected of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It holds copies and can get more.
    Up,
    /// It keeps what it has for now and gets nothing.
    Suspect,
    /// Its copies are to be moved away.
    Leaving,
    /// Its copies are gone.
    Dead,
}

/// A node that copies can be on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id, weight and zone.
    pub member: Member,
    /// What can be expected of it.
    pub condition: Condition,
}

/// Bounds of what is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Copies of each partition.
    pub copies: usize,
    /// Moves under way in the whole cluster.
    pub moves_at_once: usize,
    /// Copies that one node receives at once.
    pub arrivals_at_once: usize,
    /// False = only what is urgent.
    pub balance: bool,
}

/// Why a copy is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// There are fewer copies than wanted.
    CopyMissing,
    /// The node does not come back.
    NodeDead,
    /// The node is leaving.
    NodeLeaving,
    /// There are more copies than wanted.
    CopyTooMany,
    /// Copies are in one zone and need not be.
    Zone,
    /// Another node has less to carry.
    Balance,
}

/// One change of a partition's copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which partition.
    pub partition: PartitionId,
    /// The node that gets a copy.
    pub add: Option<NodeId>,
    /// The copy that goes.
    pub remove: Option<ReplicaId>,
    /// Why.
    pub reason: Reason,
}

/// The next moves; none once everything is as it should be, or `limits` are reached. `partitions` as they are, moves
/// under way included.
pub fn next_moves(partitions: &[Partition], nodes: &[Node], limits: Limits) -> Vec<Move> {
    let mut plan = Plan::new(partitions, nodes, limits);
    let mut idle: Vec<&Partition> = partitions
        .iter()
        .filter(|partition| !partition.is_moving() && !partition.range_changes && !partition.lost)
        .collect();
    // The most endangered first.
    idle.sort_by_key(|partition| (plan.sound(partition).count(), partition.id));
    for partition in &idle {
        plan.repair(partition);
    }
    let untouched = |plan: &Plan<'_>, partition: &Partition| {
        plan.moves.iter().all(|planned| planned.partition != partition.id)
    };
    if limits.balance && plan.moves.is_empty() {
        for partition in &idle {
            plan.spread_zones(partition);
        }
        idle.retain(|partition| untouched(&plan, partition));
        while let Some(at) = plan.balance(&idle) {
            idle.remove(at);
        }
    }
    plan.moves
}

struct Plan<'a> {
    nodes: BTreeMap<NodeId, &'a Node>,
    ring: Ring,
    /// Copies that each node is to have, moves under way and planned counted as done.
    load: BTreeMap<NodeId, usize>,
    arrivals: BTreeMap<NodeId, usize>,
    under_way: usize,
    limits: Limits,
    moves: Vec<Move>,
}

impl<'a> Plan<'a> {
    fn new(partitions: &[Partition], nodes: &'a [Node], limits: Limits) -> Self {
        let up = |node: &&Node| node.condition == Condition::Up;
        let ring = Ring::new(nodes.iter().filter(up).map(|node| node.member.clone()));
        let (mut load, mut arrivals) = (BTreeMap::new(), BTreeMap::new());
        for partition in partitions {
            partition.wanted_nodes().for_each(|node| *load.entry(node).or_insert(0) += 1);
            let joining = partition.replicas.iter().filter(|replica| replica.state == ReplicaState::Joining);
            joining.for_each(|replica| *arrivals.entry(replica.node).or_insert(0) += 1);
        }
        Self {
            nodes: nodes.iter().map(|node| (node.member.node, node)).collect(),
            ring,
            load,
            arrivals,
            under_way: partitions.iter().filter(|partition| partition.is_moving()).count(),
            limits,
            moves: Vec::new(),
        }
    }

    fn condition(&self, node: NodeId) -> Condition {
        self.nodes.get(&node).map_or(Condition::Dead, |node| node.condition)
    }

    fn load(&self, node: NodeId) -> usize {
        self.load.get(&node).copied().unwrap_or(0)
    }

    fn weight(&self, node: NodeId) -> usize {
        self.nodes.get(&node).map_or(1, |node| node.member.weight.max(1))
    }

    /// Copies that count: those on nodes that stay.
    fn sound<'b>(&'b self, partition: &'b Partition) -> impl Iterator<Item = &'b Replica> {
        partition.replicas.iter().filter(|replica| {
            matches!(self.condition(replica.node), Condition::Up | Condition::Suspect)
                && replica.state != ReplicaState::Leaving
        })
    }

    fn on<'b>(&self, partition: &'b Partition, condition: Condition) -> Option<&'b Replica> {
        partition.replicas.iter().find(|replica| self.condition(replica.node) == condition)
    }

    fn repair(&mut self, partition: &Partition) {
        let sound = self.sound(partition).count();
        let going =
            self.on(partition, Condition::Dead).map(|replica| (replica.id, Reason::NodeDead)).or_else(|| {
                self.on(partition, Condition::Leaving).map(|replica| (replica.id, Reason::NodeLeaving))
            });
        if sound < self.limits.copies {
            let target = self.target(partition, going.map(|(replica, _)| replica));
            if target.is_some() {
                let reason = going.map_or(Reason::CopyMissing, |(_, reason)| reason);
                self.begin(partition, target, going.map(|(replica, _)| replica), reason);
            }
        } else if let Some((replica, reason)) = going {
            self.begin(partition, None, Some(replica), reason);
        } else if sound > self.limits.copies {
            // The one on the node that carries most.
            let most = self.sound(partition).max_by(|a, b| {
                (self.load(a.node) * self.weight(b.node))
                    .cmp(&(self.load(b.node) * self.weight(a.node)))
                    .then(a.id.cmp(&b.id))
            });
            let most = most.map(|replica| replica.id);
            self.begin(partition, None, most, Reason::CopyTooMany);
        }
    }

    /// The node for one more copy, if there is one: of a zone that no other copy is in, with room, and as far ahead in
    /// the partition's walk over the ring as possible.
    fn target(&self, partition: &Partition, without: Option<ReplicaId>) -> Option<NodeId> {
        let zones = self.zones(partition, without);
        let total: usize = self.load.values().sum::<usize>() + 1;
        let weights: usize = self.up().map(|node| self.weight(node)).sum();
        let is_full = |node: NodeId| self.load(node) >= (total * self.weight(node)).div_ceil(weights.max(1));
        let walk = self.ring.walk(partition.id);
        let free = walk.iter().enumerate().filter(|(_, node)| {
            partition.replicas.iter().all(|replica| replica.node != **node) && self.has_room_to_arrive(**node)
        });
        let best = free.min_by_key(|&(at, &node)| {
            let zone_taken = self.zone(node).is_some_and(|zone| zones.contains(zone));
            (zone_taken, is_full(node), at)
        });
        best.map(|(_, &node)| node)
    }

    fn up(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.values().filter(|node| node.condition == Condition::Up).map(|node| node.member.node)
    }

    fn has_room_to_arrive(&self, node: NodeId) -> bool {
        self.arrivals.get(&node).copied().unwrap_or(0) < self.limits.arrivals_at_once
    }

    /// A node's zone; `None` = one of its own.
    fn zone(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).map(|node| node.member.zone.as_str()).filter(|zone| !zone.is_empty())
    }

    fn zones(&self, partition: &Partition, without: Option<ReplicaId>) -> BTreeSet<&str> {
        let counted =
            partition.replicas.iter().filter(|replica| Some(replica.id) != without && self.is_sound(replica));
        counted.filter_map(|replica| self.zone(replica.node)).collect()
    }

    fn is_sound(&self, replica: &Replica) -> bool {
        matches!(self.condition(replica.node), Condition::Up | Condition::Suspect)
    }

    /// Moves the second copy of a zone to a zone without one.
    fn spread_zones(&mut self, partition: &Partition) {
        let doubled = partition.replicas.iter().find(|replica| {
            self.zone(replica.node).is_some_and(|zone| self.zones(partition, Some(replica.id)).contains(zone))
        });
        let Some(doubled) = doubled else { return };
        let zones = self.zones(partition, Some(doubled.id));
        let target = self.target(partition, Some(doubled.id));
        let target = target.filter(|&node| self.zone(node).is_none_or(|zone| !zones.contains(zone)));
        if target.is_some() {
            self.begin(partition, target, Some(doubled.id), Reason::Zone);
        }
    }

    /// Moves one copy from a node that carries much to one that carries little, if that makes the heavier of the two
    /// lighter; that cannot go on for ever. Which partition it was.
    fn balance(&mut self, idle: &[&Partition]) -> Option<usize> {
        let up: Vec<NodeId> = self.up().collect();
        let mut pairs: Vec<(NodeId, NodeId)> = Vec::new();
        for &from in &up {
            pairs.extend(up.iter().filter(|&&to| self.has_room_to_arrive(to)).map(|&to| (from, to)));
        }
        pairs.retain(|&(from, to)| {
            (self.load(to) + 1) * self.weight(from) < self.load(from) * self.weight(to)
        });
        // The heaviest to the lightest first.
        pairs.sort_by(|&(from_a, to_a), &(from_b, to_b)| {
            let relative =
                |a: NodeId, b: NodeId| (self.load(a) * self.weight(b)).cmp(&(self.load(b) * self.weight(a)));
            relative(from_b, from_a).then(relative(to_a, to_b)).then((from_a, to_a).cmp(&(from_b, to_b)))
        });
        for (from, to) in pairs {
            let candidates = idle.iter().enumerate().filter_map(|(at, partition)| {
                let replica = partition.replicas.iter().find(|replica| replica.node == from)?;
                let is_free = partition.replicas.iter().all(|replica| replica.node != to);
                let taken = self.zones(partition, Some(replica.id));
                let is_apart = |node: NodeId| self.zone(node).is_none_or(|zone| !taken.contains(zone));
                let keeps_zones = is_apart(to) || !is_apart(from);
                (is_free && keeps_zones).then(|| {
                    let rank = self.ring.walk(partition.id).iter().position(|&node| node == to);
                    (rank, partition.id, at, replica.id)
                })
            });
            if let Some((_, _, at, replica)) = candidates.min() {
                return self.begin(idle[at], Some(to), Some(replica), Reason::Balance).then_some(at);
            }
        }
        None
    }

    /// Plans a move if there is room for one more.
    fn begin(
        &mut self,
        partition: &Partition,
        add: Option<NodeId>,
        remove: Option<ReplicaId>,
        reason: Reason,
    ) -> bool {
        if self.under_way >= self.limits.moves_at_once {
            return false;
        }
        self.under_way += 1;
        if let Some(node) = add {
            *self.load.entry(node).or_insert(0) += 1;
            *self.arrivals.entry(node).or_insert(0) += 1;
        }
        if let Some(node) = remove.and_then(|replica| partition.node_of(replica)) {
            self.load.entry(node).and_modify(|load| *load -= 1);
        }
        self.moves.push(Move { partition: partition.id, add, remove, reason });
        true
    }
}

/// Who should be preferred as a leader where another one is, or none: leaders are spread over the nodes that are up as
/// their weights are, with as few changes as that takes.
pub fn preferences(partitions: &[Partition], nodes: &[Node]) -> Vec<(PartitionId, ReplicaId)> {
    let weights: BTreeMap<NodeId, usize> = nodes
        .iter()
        .filter(|node| node.condition == Condition::Up)
        .map(|node| (node.member.node, node.member.weight.max(1)))
        .collect();
    let candidates = |partition: &Partition| -> Vec<Replica> {
        let fit = |replica: &&Replica| {
            replica.state == ReplicaState::Member
                && weights.contains_key(&replica.node)
                && partition.voters.contains(&replica.id)
        };
        partition.replicas.iter().filter(fit).copied().collect()
    };
    let mut preferred: BTreeMap<PartitionId, Replica> = BTreeMap::new();
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for partition in partitions {
        let now = partition.preferred_leader;
        if let Some(replica) = candidates(partition).into_iter().find(|replica| Some(replica.id) == now) {
            *leads.entry(replica.node).or_insert(0) += 1;
            preferred.insert(partition.id, replica);
        }
    }
    let relative = |leads: &BTreeMap<NodeId, usize>, node: NodeId, more: usize| {
        // Compared as fractions of the weights, without rounding.
        (leads.get(&node).copied().unwrap_or(0) + more) * 10_080 / weights.get(&node).copied().unwrap_or(1)
    };
    for partition in partitions.iter().filter(|partition| !partition.lost) {
        if let Entry::Vacant(vacant) = preferred.entry(partition.id) {
            let least = candidates(partition)
                .into_iter()
                .min_by_key(|replica| (relative(&leads, replica.node, 1), replica.id));
            if let Some(replica) = least {
                *leads.entry(replica.node).or_insert(0) += 1;
                vacant.insert(replica);
            }
        }
    }
    // Each change makes the heavier of two nodes lighter, so that there is a last one.
    loop {
        let change = partitions.iter().find_map(|partition| {
            let now = *preferred.get(&partition.id)?;
            let heir = candidates(partition)
                .into_iter()
                .filter(|replica| relative(&leads, replica.node, 1) < relative(&leads, now.node, 0))
                .min_by_key(|replica| (relative(&leads, replica.node, 1), replica.id))?;
            Some((partition.id, now, heir))
        });
        let Some((partition, now, heir)) = change else { break };
        leads.entry(now.node).and_modify(|count| *count -= 1);
        *leads.entry(heir.node).or_insert(0) += 1;
        preferred.insert(partition, heir);
    }
    let changed = |partition: &&Partition| {
        preferred.get(&partition.id).map(|replica| replica.id) != partition.preferred_leader
    };
    let changed = partitions.iter().filter(changed);
    changed.filter_map(|partition| Some((partition.id, preferred.get(&partition.id)?.id))).collect()
}

#[cfg(test)]
mod tests;
