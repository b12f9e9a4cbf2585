//! Where the replicas of a partition *should* be: a consistent-hash ring over nodes, with bounded loads and zones.
//!
//! The only file that names `consistent_hash_ring`. It is fed fixed-width integers that we hash ourselves, because
//! its default hashing goes through `std::hash::Hash`, which is not the same on every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use consistent_hash_ring::{Ring as HashRing, RingBuilder};

use crate::token::mix;
use crate::{NodeId, PartitionId, token};

/// Points of a node of weight 1. With 256, three to sixteen nodes differ by 2–7 % (standard deviation).
const POINTS_PER_WEIGHT: usize = 256;

/// How far above the mean load a node may go, ε of "Consistent Hashing with Bounded Loads" (Mirrokni, Thorup,
/// Zadimoghaddam 2016), in percent.
const LOAD_MARGIN_PERCENT: usize = 15;

/// What the ring knows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its share against the others, 1 or more.
    pub weight: usize,
    /// Nodes of one zone fail together; empty = a zone of its own.
    pub zone: String,
}

/// The members of a cluster as a ring.
pub struct Ring {
    members: BTreeMap<NodeId, Member>,
    ring: HashRing<Point, BuildHasherDefault<Mixer>>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("members", &self.members).finish_non_exhaustive()
    }
}

/// A node id that hashes the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point(u64);

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0.to_le_bytes());
    }
}

/// Hashes 8-byte words with splitmix64; enough because its input is ids and small counters only.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0_u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = mix(self.0 ^ u64::from_le_bytes(word));
        }
    }

    fn write_usize(&mut self, value: usize) {
        self.write(&(value as u64).to_le_bytes());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Ring {
    /// A ring over these members. A node named twice counts once, as named last.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        let members: BTreeMap<NodeId, Member> =
            members.into_iter().map(|member| (member.node, member)).collect();
        let ring = RingBuilder::new(BuildHasherDefault::<Mixer>::default())
            .vnodes(POINTS_PER_WEIGHT)
            .weighted_nodes_iter(members.values().map(|member| (Point(member.node), member.weight.max(1))))
            .build();
        Self { members, ring }
    }

    /// All nodes in the order in which they come behind the partition's point.
    pub fn walk(&self, partition: PartitionId) -> Vec<NodeId> {
        if self.members.is_empty() {
            return Vec::new();
        }
        self.ring.replicas(Point(token::partition_point(partition))).map(|point| point.0).collect()
    }

    /// The nodes that should hold a partition, best first: the walk from the partition's point, taking nodes of
    /// zones not yet taken, then others, and passing over nodes whose `load` (replicas they hold already) is above
    /// the bound for `total` replicas. Fewer than `copies` only if there are fewer members.
    pub fn replicas(
        &self,
        partition: PartitionId,
        copies: usize,
        load: &BTreeMap<NodeId, usize>,
        total: usize,
    ) -> Vec<NodeId> {
        let weights: usize = self.members.values().map(|member| member.weight.max(1)).sum();
        let room = |node: NodeId| {
            let weight = self.members.get(&node).map_or(1, |member| member.weight.max(1));
            let bound = (total * weight * (100 + LOAD_MARGIN_PERCENT)).div_ceil(weights.max(1) * 100);
            load.get(&node).copied().unwrap_or(0) < bound
        };
        let walk = self.walk(partition);
        let mut chosen: Vec<NodeId> = Vec::with_capacity(copies);
        let mut zones: BTreeSet<&str> = BTreeSet::new();
        // Three passes, each less particular than the one before: room and a new zone; room; anybody.
        for (need_room, need_zone) in [(true, true), (true, false), (false, false)] {
            for &node in &walk {
                if chosen.len() == copies {
                    return chosen;
                }
                let zone = self.members.get(&node).map_or("", |member| member.zone.as_str());
                let new_zone = zone.is_empty() || !zones.contains(zone);
                if chosen.contains(&node) || (need_room && !room(node)) || (need_zone && !new_zone) {
                    continue;
                }
                zones.insert(zone);
                chosen.push(node);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u64) -> Vec<Member> {
        (1..=count).map(|node| Member { node, weight: 1, zone: String::new() }).collect()
    }

    fn place(ring: &Ring, partitions: u64, copies: usize) -> BTreeMap<PartitionId, Vec<NodeId>> {
        let mut load = BTreeMap::new();
        (1..=partitions)
            .map(|partition| {
                let nodes = ring.replicas(partition, copies, &load, partitions as usize * copies);
                for &node in &nodes {
                    *load.entry(node).or_insert(0) += 1;
                }
                (partition, nodes)
            })
            .collect()
    }

    #[test]
    fn replicas_are_distinct_and_their_number_is_bounded_per_node() {
        let ring = Ring::new(members(5));
        let placed = place(&ring, 64, 3);
        let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
        for nodes in placed.values() {
            assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), 3);
            for &node in nodes {
                *load.entry(node).or_insert(0) += 1;
            }
        }
        let bound = (64 * 3 * 115_usize).div_ceil(5 * 100);
        assert!(load.values().all(|&count| count <= bound), "{load:?} exceeds {bound}");
    }

    #[test]
    fn zones_are_spread_while_there_are_enough_of_them() {
        let zoned = (1..=6).map(|node| Member { node, weight: 1, zone: format!("zone-{}", node % 3) });
        let ring = Ring::new(zoned);
        for nodes in place(&ring, 32, 3).values() {
            let zones: BTreeSet<u64> = nodes.iter().map(|node| node % 3).collect();
            assert_eq!(zones.len(), 3, "{nodes:?}");
        }
    }

    #[test]
    fn a_fourth_node_takes_about_a_quarter() {
        let before = place(&Ring::new(members(3)), 256, 1);
        let after = place(&Ring::new(members(4)), 256, 1);
        let moved = before.iter().filter(|(partition, nodes)| after[partition] != **nodes).count();
        // The least is 64 of 256; bounded loads push some more on.
        assert!((48..=110).contains(&moved), "{moved} of 256 moved");
    }

    #[test]
    fn fewer_members_than_copies_gives_them_all() {
        assert_eq!(Ring::new(members(2)).replicas(1, 3, &BTreeMap::new(), 3).len(), 2);
        assert!(Ring::new([]).replicas(1, 3, &BTreeMap::new(), 3).is_empty());
    }
}
