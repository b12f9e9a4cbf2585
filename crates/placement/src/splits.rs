//! When a partition should become two, and where: it holds much, or it is asked much.

use std::time::Duration;

use crate::PartitionId;
use crate::plan;
use crate::table::Partition;
use crate::token::Token;

/// How long a partition must be asked much before it is split: longer than a burst lasts.
pub const HOT_FOR: Duration = Duration::from_secs(10);

/// How long two partitions must have been cold before they become one again, unless somebody says otherwise.
pub const MERGE_AFTER: Duration = Duration::from_secs(600);

/// What a partition carries, as its leader says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Which.
    pub partition: PartitionId,
    /// What it holds.
    pub bytes: u64,
    /// Since when it has been asked more than [`Thresholds::operations`]; absent = it is not.
    pub hot_for: Option<Duration>,
    /// Since when it has been asked next to nothing; absent = it is asked.
    pub cold_for: Option<Duration>,
    /// Reads and writes per second.
    pub operations: u64,
    /// Where half of the bytes are on each side, if that is known.
    pub middle_by_bytes: Option<Token>,
    /// Where half of the operations are on each side, if that is known.
    pub middle_by_operations: Option<Token>,
}

/// Beyond which a partition is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Bytes that it holds.
    pub bytes: u64,
    /// Reads and writes per second, for [`HOT_FOR`].
    pub operations: u64,
    /// Partitions for each node beyond which none is split for its size: every one costs something.
    pub by_size_max: usize,
    /// Likewise for its heat: more of them make smaller batches.
    pub by_heat_max: usize,
    /// How long two must have been cold before they become one again, see [`crate::merges`]; absent = never.
    pub merge_after: Option<Duration>,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            bytes: 512 << 20,
            operations: 20_000,
            by_size_max: 64,
            by_heat_max: 8,
            merge_after: Some(MERGE_AFTER),
        }
    }
}

/// Why a partition is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It holds much.
    Size,
    /// It is asked much.
    Heat,
}

/// One split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Which partition.
    pub partition: PartitionId,
    /// First token of the new one.
    pub at: Token,
    /// Why.
    pub reason: Reason,
}

/// The next split, if one is due: of the partition that holds most, else of the one that is asked most. One at a time.
pub fn next_split(
    partitions: &[Partition],
    loads: &[Load],
    nodes: usize,
    thresholds: Thresholds,
) -> Option<Split> {
    if partitions.iter().any(|partition| partition.range_changes) {
        return None;
    }
    let has_room = |for_each_node: usize| partitions.len() < for_each_node * nodes;
    let find = |load: &Load| {
        let is_free = |partition: &&Partition| {
            partition.id == load.partition && !partition.is_moving() && !partition.lost
        };
        partitions.iter().find(is_free)
    };
    let mut large: Vec<&Load> = loads.iter().filter(|load| load.bytes > thresholds.bytes).collect();
    large.sort_by_key(|load| (std::cmp::Reverse(load.bytes), load.partition));
    let mut hot: Vec<&Load> =
        loads.iter().filter(|load| load.hot_for.is_some_and(|hot_for| hot_for >= HOT_FOR)).collect();
    hot.sort_by_key(|load| (std::cmp::Reverse(load.operations), load.partition));
    let by_size = large.into_iter().filter(|_| has_room(thresholds.by_size_max));
    let by_size = by_size.map(|load| (load, load.middle_by_bytes, Reason::Size));
    // On one node, two leaders have no more to give than one.
    let by_heat = hot.into_iter().filter(|_| nodes > 1 && has_room(thresholds.by_heat_max));
    let by_heat = by_heat.map(|load| (load, load.middle_by_operations, Reason::Heat));
    by_size.chain(by_heat).find_map(|(load, middle, reason)| {
        let partition = find(load)?;
        let at = match middle.filter(|&middle| partition.contains(middle)) {
            Some(middle) => plan::nearest_boundary(partition.first, partition.last, middle)?,
            None => plan::boundary_within(partition.first, partition.last, 0.5)?,
        };
        Some(Split { partition: partition.id, at, reason })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Member;

    fn partitions(count: u64) -> Vec<Partition> {
        let members: Vec<Member> =
            [1, 2, 3].map(|node| Member { node, weight: 1, zone: String::new() }).to_vec();
        plan::first_placement(&members, count, 3, 1, 100)
    }

    const THRESHOLDS: Thresholds =
        Thresholds { bytes: 100, operations: 1000, by_size_max: 4, by_heat_max: 2, merge_after: None };

    fn check(partitions: &[Partition], loads: &[Load], nodes: usize, expected: Option<(u64, u64, Reason)>) {
        let found = next_split(partitions, loads, nodes, THRESHOLDS);
        let found = found.map(|split| (split.partition, split.at.0, split.reason));
        assert_eq!(found, expected, "{loads:?}");
    }

    #[test]
    fn what_holds_most_is_split_first_then_what_is_asked_most_for_long() {
        let two = partitions(2);
        let quarter = 1 << 62;
        let load = |partition, bytes, hot_for: Option<u64>| Load {
            partition,
            bytes,
            hot_for: hot_for.map(Duration::from_secs),
            operations: partition,
            ..Load::default()
        };
        check(&two, &[load(1, 100, None), load(2, 100, Some(9))], 3, None);
        check(&two, &[load(1, 101, None), load(2, 102, None)], 3, Some((2, 3 * quarter, Reason::Size)));
        check(&two, &[load(1, 101, None), load(2, 0, Some(99))], 3, Some((1, quarter, Reason::Size)));
        check(&two, &[load(1, 0, Some(10)), load(2, 0, Some(10))], 3, Some((2, 3 * quarter, Reason::Heat)));
        check(&two, &[load(2, 0, Some(10))], 1, None);
        check(&partitions(6), &[load(2, 0, Some(10))], 3, None);
        check(&partitions(12), &[load(2, 101, None)], 3, None);
    }

    #[test]
    fn it_is_split_in_the_middle_of_what_it_carries_and_only_when_nothing_else_happens_to_it() {
        let mut two = partitions(2);
        let at = Token(5 << 50);
        let load =
            Load { partition: 1, bytes: 101, middle_by_bytes: Some(Token(at.0 - 7)), ..Load::default() };
        check(&two, &[load], 3, Some((1, at.0, Reason::Size)));
        two[0].replicas[0].state = crate::table::ReplicaState::Leaving;
        check(&two, &[load], 3, None);
        let mut two = partitions(2);
        two[1].range_changes = true;
        check(&two, &[load], 3, None);
    }
}
