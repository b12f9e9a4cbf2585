//! When two partitions should become one again: one was split from the other, and neither holds or is asked much any more.
//! Those that a cluster was founded with stay as they are.

use crate::PartitionId;
use crate::splits::{Load, Thresholds};
use crate::table::Partition;

/// Share of what a partition is split for that a merged one may hold: it is not to be split again at once.
const BYTES_SHARE: u64 = 4;

/// Share of what a partition is split for, in requests, below which it counts as cold.
pub const COLD_SHARE: u64 = 32;

/// One merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The partition that becomes the larger one.
    pub into: PartitionId,
    /// The one behind it, which becomes part of it.
    pub from: PartitionId,
}

/// The next merge, if one is due and nothing else is under way. `bytes_max` is what can become part of another partition.
pub fn next_merge(
    partitions: &[Partition],
    loads: &[Load],
    thresholds: Thresholds,
    bytes_max: u64,
) -> Option<Merge> {
    let after = thresholds.merge_after?;
    if partitions.iter().any(|partition| partition.range_changes || partition.is_moving()) {
        return None;
    }
    let mut ordered: Vec<&Partition> = partitions.iter().collect();
    ordered.sort_by_key(|partition| partition.first);
    let exists = |id: PartitionId| partitions.iter().any(|partition| partition.id == id);
    let cold = |partition: &Partition| {
        let load = loads.iter().find(|load| load.partition == partition.id)?;
        (!partition.lost && load.cold_for? >= after).then_some(load.bytes)
    };
    ordered.windows(2).find_map(|pair| {
        let [into, from] = pair else { return None };
        let split_from = from.split_from?;
        if split_from != into.id && exists(split_from) {
            return None;
        }
        let (into_bytes, from_bytes) = (cold(into)?, cold(from)?);
        let is_small = from_bytes <= bytes_max
            && into_bytes.saturating_add(from_bytes) <= thresholds.bytes / BYTES_SHARE;
        is_small.then_some(Merge { into: into.id, from: from.id })
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan;
    use crate::ring::Member;

    const THRESHOLDS: Thresholds = Thresholds {
        bytes: 400,
        operations: 1000,
        by_size_max: 4,
        by_heat_max: 2,
        merge_after: Some(Duration::from_secs(600)),
    };

    /// Three partitions: the third was split from the second, which was there from the beginning.
    fn partitions() -> Vec<Partition> {
        let members = [1, 2, 3].map(|node| Member { node, weight: 1, zone: String::new() });
        let mut partitions = plan::first_placement(&members, 3, 3, 1, 100);
        partitions[2].split_from = Some(2);
        partitions
    }

    fn loads(bytes: [u64; 3], cold_s: [Option<u64>; 3]) -> Vec<Load> {
        let load = |(partition, (bytes, cold)): (u64, (u64, Option<u64>))| Load {
            partition,
            bytes,
            cold_for: cold.map(Duration::from_secs),
            ..Load::default()
        };
        (1..).zip(bytes.into_iter().zip(cold_s)).map(load).collect()
    }

    #[track_caller]
    fn check(partitions: &[Partition], loads: &[Load], expected: Option<(u64, u64)>) {
        let found = next_merge(partitions, loads, THRESHOLDS, 50).map(|merge| (merge.into, merge.from));
        assert_eq!(found, expected, "{loads:?}");
    }

    #[test]
    fn what_was_split_and_is_cold_and_small_is_merged_and_nothing_else() {
        let long = Some(600);
        check(&partitions(), &loads([0; 3], [long; 3]), Some((2, 3)));
        check(&partitions(), &loads([0; 3], [long, long, Some(599)]), None);
        check(&partitions(), &loads([0; 3], [long, None, long]), None);
        check(&partitions(), &loads([0, 50, 50], [long; 3]), Some((2, 3)));
        check(&partitions(), &loads([0, 51, 50], [long; 3]), None);
        check(&partitions(), &loads([0, 0, 51], [long; 3]), None);
        check(&partitions(), &loads([0; 3], [long; 3])[..2], None);
        let mut other = partitions();
        other[2].split_from = Some(1);
        check(&other, &loads([0; 3], [long; 3]), None);
        // What it was split from is part of another one by now.
        other[2].split_from = Some(9);
        check(&other, &loads([0; 3], [long; 3]), Some((2, 3)));
        other[0].range_changes = true;
        check(&other, &loads([0; 3], [long; 3]), None);
        let never = Thresholds { merge_after: None, ..THRESHOLDS };
        assert_eq!(next_merge(&partitions(), &loads([0; 3], [long; 3]), never, 50), None);
    }
}
