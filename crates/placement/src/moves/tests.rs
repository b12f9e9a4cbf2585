use proptest::prelude::*;

use super::*;
use crate::plan::first_placement;

fn node(id: NodeId, condition: Condition, zone: &str) -> Node {
    Node { member: Member { node: id, weight: 1, zone: zone.to_owned() }, condition }
}

fn up(ids: impl IntoIterator<Item = NodeId>) -> Vec<Node> {
    ids.into_iter().map(|id| node(id, Condition::Up, "")).collect()
}

fn placed(nodes: &[Node], partitions: u64, copies: usize) -> Vec<Partition> {
    let members: Vec<Member> = nodes.iter().map(|node| node.member.clone()).collect();
    first_placement(&members, partitions, copies, 1, 1)
}

fn limits(copies: usize) -> Limits {
    Limits { copies, moves_at_once: 4, arrivals_at_once: 2, balance: true }
}

/// Does what is planned, as a group would, until nothing is left; how many copies were made. Checks on the way that no
/// node has two copies of a partition, and that none loses a copy before another one is there.
fn settle(partitions: &mut [Partition], nodes: &[Node], limits: Limits) -> usize {
    let mut next_replica =
        1 + partitions.iter().flat_map(|partition| &partition.replicas).map(|r| r.id).max().unwrap();
    let mut copied = 0;
    for _round in 0..10_000 {
        let moves = next_moves(partitions, nodes, limits);
        assert!(moves.len() <= limits.moves_at_once);
        if moves.is_empty() {
            return copied;
        }
        for planned in moves {
            let partition =
                partitions.iter_mut().find(|partition| partition.id == planned.partition).unwrap();
            if let Some(target) = planned.add {
                assert!(partition.replicas.iter().all(|replica| replica.node != target), "{planned:?}");
                let state = ReplicaState::Member;
                partition.replicas.push(Replica { id: next_replica, node: target, state });
                next_replica += 1;
                copied += 1;
            }
            let before = partition.replicas.len();
            partition.replicas.retain(|replica| Some(replica.id) != planned.remove);
            assert_eq!(
                before - partition.replicas.len(),
                usize::from(planned.remove.is_some()),
                "{planned:?}"
            );
            partition.voters = partition.replicas.iter().map(|replica| replica.id).collect();
        }
    }
    panic!("it does not come to an end");
}

fn loads(partitions: &[Partition]) -> BTreeMap<NodeId, usize> {
    let mut loads = BTreeMap::new();
    for replica in partitions.iter().flat_map(|partition| &partition.replicas) {
        *loads.entry(replica.node).or_insert(0) += 1;
    }
    loads
}

#[test]
fn a_fourth_node_gets_a_quarter_and_nothing_else_moves() {
    for partitions in [4, 16, 64] {
        let mut table = placed(&up(1..=3), partitions, 3);
        let copied = settle(&mut table, &up(1..=4), limits(3));
        assert_eq!(copied as u64, partitions * 3 / 4);
        assert!(loads(&table).values().all(|&load| load as u64 == partitions * 3 / 4), "{:?}", loads(&table));
    }
}

#[test]
fn a_node_that_leaves_gives_everything_away_and_a_dead_one_is_replaced() {
    for (condition, reason) in
        [(Condition::Leaving, Reason::NodeLeaving), (Condition::Dead, Reason::NodeDead)]
    {
        let mut table = placed(&up(1..=4), 8, 3);
        let held = loads(&table)[&2];
        let mut nodes = up(1..=4);
        nodes[1].condition = condition;
        assert!(next_moves(&table, &nodes, limits(3)).iter().all(|planned| planned.reason == reason));
        assert_eq!(settle(&mut table, &nodes, limits(3)), held);
        assert_eq!(loads(&table).get(&2), None);
        assert!(table.iter().all(|partition| partition.replicas.len() == 3));
    }
}

#[test]
fn copies_stay_where_they_are_when_there_is_no_other_place() {
    let table = placed(&up(1..=3), 8, 3);
    for condition in [Condition::Leaving, Condition::Dead, Condition::Suspect] {
        let mut nodes = up(1..=3);
        nodes[0].condition = condition;
        assert_eq!(next_moves(&table, &nodes, limits(3)), []);
    }
}

#[test]
fn missing_copies_are_made_as_nodes_come_and_those_that_are_too_many_go() {
    let mut table = placed(&up(1..=1), 4, 3);
    assert_eq!(settle(&mut table, &up(1..=2), limits(3)), 4);
    assert_eq!(settle(&mut table, &up(1..=3), limits(3)), 4);
    assert!(table.iter().all(|partition| partition.replicas.len() == 3));
    assert_eq!(settle(&mut table, &up(1..=3), limits(1)), 0);
    assert!(table.iter().all(|partition| partition.replicas.len() == 1));
    assert!(loads(&table).values().all(|&load| load == 1 || load == 2), "{:?}", loads(&table));
}

#[test]
fn a_suspect_node_keeps_what_it_has_and_gets_nothing() {
    let mut table = placed(&up(1..=4), 8, 3);
    let before = loads(&table)[&3];
    let mut nodes = up(1..=5);
    nodes[2].condition = Condition::Suspect;
    settle(&mut table, &nodes, limits(3));
    assert_eq!(loads(&table)[&3], before);
}

#[test]
fn a_second_copy_in_a_zone_moves_to_a_zone_without_one() {
    let zoned = |id: NodeId, zone: &str| node(id, Condition::Up, zone);
    let mut nodes = vec![zoned(1, "a"), zoned(2, "a"), zoned(3, "b"), zoned(4, "b")];
    let mut table = placed(&nodes, 8, 3);
    nodes.extend([zoned(5, "c"), zoned(6, "c")]);
    settle(&mut table, &nodes, limits(3));
    for partition in &table {
        let zones: BTreeSet<NodeId> =
            partition.replicas.iter().map(|replica| (replica.node - 1) / 2).collect();
        assert_eq!(zones.len(), 3, "{partition:?}");
    }
    assert!(loads(&table).values().all(|&load| load == 4), "{:?}", loads(&table));
}

#[test]
fn without_balancing_only_what_is_urgent_is_done() {
    let mut table = placed(&up(1..=3), 8, 3);
    let urgent = Limits { balance: false, ..limits(3) };
    assert_eq!(settle(&mut table, &up(1..=4), urgent), 0);
    let mut nodes = up(1..=4);
    nodes[0].condition = Condition::Dead;
    assert_eq!(settle(&mut table, &nodes, urgent), 8);
}

#[test]
fn leaders_are_spread_by_weight_and_not_changed_without_need() {
    let mut table = placed(&up(1..=3), 9, 3);
    assert_eq!(preferences(&table, &up(1..=3)), []);
    let mut nodes = up(1..=3);
    nodes[0].condition = Condition::Suspect;
    let changed = preferences(&table, &nodes);
    assert_eq!(changed.len(), 3, "those that node 1 led");
    nodes[0].condition = Condition::Up;
    nodes[0].member.weight = 2;
    for partition in &mut table {
        partition.preferred_leader = None;
    }
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (partition, replica) in preferences(&table, &nodes) {
        let partition = table.iter().find(|candidate| candidate.id == partition).unwrap();
        *leads.entry(partition.node_of(replica).unwrap()).or_insert(0) += 1;
    }
    assert!((4..=5).contains(&leads[&1]), "{leads:?}");
    assert!(leads[&2].abs_diff(leads[&3]) <= 1, "{leads:?}");
}

proptest! {
    /// Whatever happens to nodes, it settles: as many copies as there can be, on different nodes, in balance.
    #[test]
    fn every_cluster_settles_in_balance(
        first in 1_u64..6,
        partitions in 1_u64..24,
        copies in 1_usize..5,
        changes in prop::collection::vec((1_u64..9, 0_u8..4), 0..6),
    ) {
        let mut nodes = up(1..=first);
        let mut table = placed(&nodes, partitions, copies);
        for (id, change) in changes {
            let condition =
                [Condition::Up, Condition::Suspect, Condition::Leaving, Condition::Dead][usize::from(change)];
            match nodes.iter_mut().find(|node| node.member.node == id) {
                Some(node) => node.condition = condition,
                None => nodes.push(node(id, Condition::Up, "")),
            }
            let can_hold = |node: &&Node| matches!(node.condition, Condition::Up);
            let places = nodes.iter().filter(can_hold).count();
            settle(&mut table, &nodes, limits(copies));
            for partition in &table {
                let held: BTreeSet<NodeId> = partition.replicas.iter().map(|replica| replica.node).collect();
                prop_assert_eq!(held.len(), partition.replicas.len());
                prop_assert!(held.len() >= copies.min(places), "{:?} of {} places", held, places);
                prop_assert!(!held.is_empty());
            }
            let loads = loads(&table);
            if nodes.iter().all(|node| node.condition == Condition::Up) {
                let load = |node: &Node| loads.get(&node.member.node).copied().unwrap_or(0);
                let most = nodes.iter().map(load).max().unwrap();
                let least = nodes.iter().map(load).min().unwrap();
                prop_assert!(most - least <= 1, "{:?}", loads);
            }
        }
    }
}
