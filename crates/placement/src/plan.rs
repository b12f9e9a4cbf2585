//! From members to descriptors: the first placement of a cluster.

use std::collections::BTreeMap;

use crate::ring::{Member, Ring};
use crate::table::{Partition, Replica, ReplicaState};
use crate::token::Token;
use crate::{NodeId, PartitionId, ReplicaId};

/// Ranges begin at multiples of two to this power tokens: a slot of the grid is never cut in two.
pub const UNIT_TOKENS: u32 = 50;

/// Partitions that a cluster can begin with.
pub const PARTITIONS_MAX: u64 = 1 << (64 - UNIT_TOKENS);

/// True if a partition can begin at this token.
pub fn is_boundary(token: Token) -> bool {
    token.0.trailing_zeros() >= UNIT_TOKENS
}

/// Where a range, both ends inclusive, can be split so that about `share` of it (0 to 1) stays: at the nearest boundary
/// within it, if there is one.
pub fn boundary_within(first: Token, last: Token, share: f64) -> Option<Token> {
    let wanted = first.0 + ((last.0 - first.0) as f64 * share.clamp(0.0, 1.0)) as u64;
    nearest_boundary(first, last, Token(wanted))
}

/// The boundary nearest to a token at which a range can be split, if there is one.
pub fn nearest_boundary(first: Token, last: Token, token: Token) -> Option<Token> {
    let unit = 1_u64 << UNIT_TOKENS;
    let least = (first.0 / unit + 1).checked_mul(unit)?;
    let greatest = last.0 / unit * unit;
    let rounded = (u128::from(token.0) + u128::from(unit / 2)) / u128::from(unit) * u128::from(unit);
    let rounded = u64::try_from(rounded).unwrap_or(greatest);
    (least <= greatest).then(|| Token(rounded.clamp(least, greatest)))
}

/// Cuts all tokens into `count` ranges of about equal width (±2⁵⁰), in order.
pub fn even_ranges(count: u64) -> Vec<(Token, Token)> {
    let count = count.clamp(1, PARTITIONS_MAX);
    let start = |index: u64| (index * PARTITIONS_MAX / count) << UNIT_TOKENS;
    (0..count)
        .map(|index| {
            let last = if index + 1 == count { u64::MAX } else { start(index + 1) - 1 };
            (Token(start(index)), Token(last))
        })
        .collect()
}

/// The descriptors of a new cluster: `count` partitions with ids from `first_partition`, each with `copies`
/// replicas (or as many as there are members) with ids from `first_replica`, loads and first leaders spread.
pub fn first_placement(
    members: &[Member],
    count: u64,
    copies: usize,
    first_partition: PartitionId,
    first_replica: ReplicaId,
) -> Vec<Partition> {
    let ring = Ring::new(members.iter().cloned());
    let copies = copies.min(members.len());
    let total = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(copies);
    let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut next_replica = first_replica;
    even_ranges(count)
        .into_iter()
        .zip(first_partition..)
        .map(|((first, last), id)| {
            let mut nodes = ring.replicas(id, copies, &load, total);
            for &node in &nodes {
                *load.entry(node).or_insert(0) += 1;
            }
            // The first replica founds the group and becomes its leader: let that be who leads least.
            nodes.sort_by_key(|node| leads.get(node).copied().unwrap_or(0));
            if let Some(&leader) = nodes.first() {
                *leads.entry(leader).or_insert(0) += 1;
            }
            let replicas: Vec<Replica> = nodes
                .into_iter()
                .zip(next_replica..)
                .map(|(node, id)| Replica { id, node, state: ReplicaState::Member })
                .collect();
            next_replica += replicas.len() as u64;
            Partition {
                id,
                first,
                last,
                epoch: 1,
                voters: replicas.iter().map(|replica| replica.id).collect(),
                leader_hint: replicas.first().map(|replica| replica.id),
                preferred_leader: replicas.first().map(|replica| replica.id),
                replicas,
                lost: false,
                range_changes: false,
                split_from: None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::table::Table;

    #[test]
    fn the_first_placement_is_a_table_with_spread_leaders_and_fresh_ids() {
        let members: Vec<Member> =
            [7, 9, 11].map(|node| Member { node, weight: 1, zone: String::new() }).to_vec();
        let partitions = first_placement(&members, 6, 3, 1, 100);
        let ids: BTreeSet<ReplicaId> = partitions
            .iter()
            .flat_map(|partition| partition.replicas.iter().map(|replica| replica.id))
            .collect();
        assert_eq!(ids.len(), 18);
        assert_eq!(ids.first(), Some(&100));
        let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
        for partition in &partitions {
            *leads.entry(partition.replicas[0].node).or_insert(0) += 1;
        }
        assert!(leads.values().all(|&count| count == 2), "{leads:?}");
        Table::new(1, partitions).unwrap();
    }

    #[test]
    fn a_range_is_split_where_a_slot_begins_or_not_at_all() {
        let unit = 1 << UNIT_TOKENS;
        let check = |first: u64, last: u64, share: f64, expected: Option<u64>| {
            assert_eq!(boundary_within(Token(first), Token(last), share).map(|token| token.0), expected);
        };
        check(0, u64::MAX, 0.5, Some(1 << 63));
        check(0, u64::MAX, 1.0, Some((PARTITIONS_MAX - 1) << UNIT_TOKENS));
        check(0, u64::MAX, 0.0, Some(unit));
        check(0, unit - 1, 0.5, None);
        check(unit, 2 * unit - 1, 0.5, None);
        check(unit, 3 * unit - 1, 0.9, Some(2 * unit));
        assert!(is_boundary(Token(3 * unit)) && !is_boundary(Token(3 * unit + 1)) && is_boundary(Token(0)));
    }

    #[test]
    fn one_member_holds_everything_once() {
        let members = [Member { node: 1, weight: 1, zone: String::new() }];
        let partitions = first_placement(&members, 4, 3, 1, 1);
        assert!(partitions.iter().all(|partition| partition.replicas.len() == 1));
    }
}
