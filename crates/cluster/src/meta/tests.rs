use trimaran_placement::plan;
use trimaran_placement::ring::Member;

use super::*;

fn node(id: u64) -> wire::Node {
    wire::Node { id, address: format!("n{id}:1"), state: NodeState::Up.into(), ..wire::Node::default() }
}

fn founded() -> Meta {
    let members: Vec<Member> = (1..=3).map(|node| Member { node, weight: 1, zone: String::new() }).collect();
    let partitions = plan::first_placement(&members, 2, 3, 1, 1);
    let mut meta = Meta::default();
    let found = state::Found {
        cluster_id: "c".into(),
        nodes: (1..=3).map(node).collect(),
        partitions: partitions.iter().map(trimaran_net::placement::put).collect(),
        replication_factor: 3,
        boots: (1..=3).map(|id| state::Boot { node_id: id, boot_id: id * 100, entered_at: 0 }).collect(),
        format: 0,
    };
    meta.apply(Command::Found(found), 0);
    meta
}

fn join(meta: &mut Meta, id: u64, boot_id: u64) {
    let reply = meta.apply(
        Command::Join(state::Join {
            node: Some(node(id)),
            lost_memory: true,
            boot_id,
            has_log: false,
            format: FORMAT,
        }),
        0,
    );
    assert_eq!(reply.refused, "");
}

#[test]
fn a_node_that_lost_its_memory_gets_new_replica_ids_once() {
    let mut meta = founded();
    let before = meta.clone();
    join(&mut meta, 2, 200);
    assert_eq!(meta.partitions, before.partitions, "the same start as at the founding");
    join(&mut meta, 2, 201);
    let renewed = meta.clone();
    for (id, partition) in &meta.partitions {
        let old: Vec<u64> = before.partitions[id].replicas.iter().map(|replica| replica.id).collect();
        let fresh: Vec<u64> = partition
            .replicas
            .iter()
            .filter(|replica| !old.contains(&replica.id))
            .map(|r| r.node_id)
            .collect();
        assert_eq!(fresh, [2]);
        assert_eq!(partition.epoch, 2);
        assert!(!partition.lost);
    }
    join(&mut meta, 2, 201);
    assert_eq!(meta, renewed, "a repeated join is one join");
}

#[test]
fn a_partition_is_lost_when_a_majority_of_its_voters_is_gone_and_not_before() {
    let mut meta = founded();
    join(&mut meta, 2, 201);
    assert!(meta.partitions.values().all(|partition| !partition.lost));
    // The leader of partition 1 has brought the new replica in; that of partition 2 has not.
    let (epoch, voters) = {
        let partition = &meta.partitions[&1];
        (partition.epoch, partition.replicas.iter().map(|replica| replica.id).collect())
    };
    meta.apply(Command::Confirm(state::Confirm { partition_id: 1, epoch, leader: 1, voters }), 0);
    join(&mut meta, 3, 301);
    assert!(!meta.partitions[&1].lost);
    assert!(meta.partitions[&2].lost);
}

#[test]
fn a_definition_changes_only_from_the_revision_that_its_author_saw() {
    let mut meta = founded();
    let mut define = |value: Option<&'static str>, expected_revision| {
        let value = value.map(Bytes::from);
        let name = "table/users".to_owned();
        let reply = meta.apply(Command::Define(state::Define { name, value, expected_revision }), 0);
        (reply.changed, reply.revision)
    };
    assert_eq!(define(Some("a"), 0), (false, 1));
    assert_eq!(define(Some("b"), 0), (true, 1), "it is there already");
    assert_eq!(define(Some("b"), 1), (false, 2));
    assert_eq!(define(None, 1), (true, 2));
    assert_eq!(define(None, 2), (false, 0));
    assert_eq!(define(Some("c"), 0), (false, 3), "a revision is never used twice");
    assert_eq!(meta.definitions["table/users"].value, "c");
}

#[test]
fn a_restored_machine_is_the_same() {
    let mut meta = founded();
    let value = Some(Bytes::from_static(b"v"));
    meta.apply(Command::Define(state::Define { name: "n".into(), value, expected_revision: 0 }), 0);
    join(&mut meta, 1, 101);
    assert_eq!(Meta::restore(meta.save()), meta);
}

fn ask(meta: &mut Meta, command: Command) -> Result<(), String> {
    let refused = meta.apply(command, 7).refused;
    if refused.is_empty() { Ok(()) } else { Err(refused) }
}

fn set_state(meta: &mut Meta, node_id: u64, state: NodeState) -> Result<(), String> {
    let boot_id = meta.boot(node_id).unwrap_or_default();
    ask(meta, Command::SetNodeState(state::SetNodeState { node_id, state: state.into(), boot_id }))
}

fn confirm(meta: &mut Meta, partition_id: u64, voters: &[u64]) -> Result<(), String> {
    let epoch = meta.partitions[&partition_id].epoch;
    let confirm = state::Confirm { partition_id, epoch, leader: voters[0], voters: voters.to_vec() };
    ask(meta, Command::Confirm(confirm))
}

fn replicas(meta: &Meta, partition: u64) -> Vec<(u64, wire::ReplicaState)> {
    meta.partitions[&partition].replicas.iter().map(|replica| (replica.node_id, replica.state())).collect()
}

#[test]
fn a_copy_goes_only_when_the_group_was_confirmed_to_do_without_it() {
    use wire::ReplicaState::{Joining, Leaving, Unspecified};
    let mut meta = founded();
    join(&mut meta, 4, 400);
    let old: Vec<wire::Replica> = meta.partitions[&1].replicas.clone();
    let start = |meta: &mut Meta, add_on_node, remove_replica| {
        let epoch = meta.partitions[&1].epoch;
        let start = state::StartMove { partition_id: 1, epoch, add_on_node, remove_replica, reason: 0 };
        ask(meta, Command::StartMove(start))
    };
    let refused = start(&mut meta, 4, old[0].id).unwrap_err();
    assert!(refused.contains("joining"), "it was not heard of yet: {refused}");
    set_state(&mut meta, 4, NodeState::Up).unwrap();
    for (add, remove, why) in [
        (old[1].node_id, old[0].id, "has a copy"),
        (4, 999, "no replica 999"),
        (0, 0, "nothing"),
        (99, old[0].id, "no node 99"),
    ] {
        let refused = start(&mut meta, add, remove).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    start(&mut meta, 4, old[0].id).unwrap();
    let moving = vec![
        (old[0].node_id, Leaving),
        (old[1].node_id, Unspecified),
        (old[2].node_id, Unspecified),
        (4, Joining),
    ];
    assert_eq!(replicas(&meta, 1), moving);
    let refused = start(&mut meta, 0, old[1].id).unwrap_err();
    assert!(refused.contains("already"), "one at a time: {refused}");
    // The old voters are still there: nothing is done yet, whoever leads.
    confirm(&mut meta, 1, &[old[1].id, old[0].id, old[2].id]).unwrap();
    assert_eq!(replicas(&meta, 1), moving);
    let fresh = meta.partitions[&1].replicas[3].id;
    // What was confirmed under an older descriptor counts for nothing.
    let late = state::Confirm {
        partition_id: 1,
        epoch: 1,
        leader: fresh,
        voters: vec![old[1].id, old[2].id, fresh],
    };
    assert!(ask(&mut meta, Command::Confirm(late)).unwrap_err().contains("epoch"));
    confirm(&mut meta, 1, &[old[1].id, old[2].id, fresh]).unwrap();
    let done = vec![(old[1].node_id, Unspecified), (old[2].node_id, Unspecified), (4, Unspecified)];
    assert_eq!(replicas(&meta, 1), done);
    assert_eq!(meta.partitions[&1].epoch, 3);
    let steps: Vec<i32> = meta
        .events
        .iter()
        .filter_map(|event| match event.what {
            Some(What::Move(event)) => Some(event.step),
            _ => None,
        })
        .collect();
    assert_eq!(steps, [state::MoveStep::Started as i32, state::MoveStep::Done as i32]);
}

#[test]
fn a_move_that_is_taken_back_ends_where_it_began() {
    use wire::ReplicaState::{Leaving, Unspecified};
    let mut meta = founded();
    join(&mut meta, 4, 400);
    set_state(&mut meta, 4, NodeState::Up).unwrap();
    let old: Vec<u64> = meta.partitions[&1].replicas.iter().map(|replica| replica.id).collect();
    let start =
        state::StartMove { partition_id: 1, epoch: 1, add_on_node: 4, remove_replica: old[0], reason: 0 };
    ask(&mut meta, Command::StartMove(start)).unwrap();
    ask(&mut meta, Command::CancelMove(state::CancelMove { partition_id: 1, epoch: 2 })).unwrap();
    assert_eq!(replicas(&meta, 1)[0].1, Unspecified);
    assert_eq!(replicas(&meta, 1)[3], (4, Leaving), "it may vote by now");
    confirm(&mut meta, 1, &old).unwrap();
    assert_eq!(meta.partitions[&1].replicas.len(), 3);
    let again = ask(&mut meta, Command::CancelMove(state::CancelMove { partition_id: 1, epoch: 4 }));
    assert!(again.unwrap_err().contains("no copy"));
}

#[test]
fn a_node_leaves_only_if_enough_stay_and_is_gone_for_ever() {
    let mut meta = founded();
    let refused = set_state(&mut meta, 3, NodeState::Leaving).unwrap_err();
    assert!(refused.contains("3 copies need 3 nodes"), "{refused}");
    let refused = set_state(&mut meta, 3, NodeState::Gone).unwrap_err();
    assert!(refused.contains("node 3 is up"), "{refused}");
    join(&mut meta, 4, 400);
    set_state(&mut meta, 3, NodeState::Leaving).unwrap();
    assert!(set_state(&mut meta, 3, NodeState::Gone).is_err(), "it holds copies");
    assert!(set_state(&mut meta, 3, NodeState::Up).is_err());
    // A start anew does not make it stay.
    join(&mut meta, 3, 301);
    assert_eq!(meta.nodes[&3].state(), NodeState::Leaving);
    for partition in meta.partitions.values_mut() {
        partition.replicas.retain(|replica| replica.node_id != 3);
    }
    set_state(&mut meta, 3, NodeState::Gone).unwrap();
    let join =
        state::Join { node: Some(node(3)), lost_memory: true, boot_id: 302, has_log: true, format: FORMAT };
    assert!(ask(&mut meta, Command::Join(join)).unwrap_err().contains("was removed"));
    // One that has a log is of this cluster, or is not let in.
    let join =
        state::Join { node: Some(node(9)), lost_memory: false, boot_id: 900, has_log: true, format: FORMAT };
    assert!(ask(&mut meta, Command::Join(join)).unwrap_err().contains("another cluster"));
    // What is said about a start that is over is not about the present one.
    let set = state::SetNodeState { node_id: 2, state: NodeState::Suspect.into(), boot_id: 1 };
    assert!(ask(&mut meta, Command::SetNodeState(set)).is_err());
}

#[test]
fn what_was_agreed_on_comes_back_from_a_snapshot() {
    let mut meta = founded();
    join(&mut meta, 4, 400);
    set_state(&mut meta, 4, NodeState::Up).unwrap();
    let start = state::StartMove { partition_id: 1, epoch: 1, add_on_node: 4, remove_replica: 0, reason: 1 };
    ask(&mut meta, Command::StartMove(start)).unwrap();
    ask(&mut meta, Command::SetBalancing(state::SetBalancing { paused: true })).unwrap();
    assert_eq!(Meta::restore(meta.save()), meta);
}

fn split(meta: &mut Meta, partition_id: u64, at_token: u64) -> String {
    let epoch = meta.partitions[&partition_id].epoch;
    let start = state::StartSplit { partition_id, epoch, at_token, reason: state::SplitReason::Asked.into() };
    meta.apply(Command::StartSplit(start), 0).refused
}

#[test]
fn a_partition_becomes_two_only_when_its_group_has_agreed_and_every_node_knows_how() {
    let mut meta = founded();
    let at = 1 << 62;
    assert!(split(&mut meta, 1, at).contains("not every node knows"));
    meta.apply(Command::RaiseFormat(state::RaiseFormat { format: 2 }), 0);
    assert!(split(&mut meta, 1, at + 1).contains("no slot within it"));
    assert!(split(&mut meta, 1, 0).contains("no slot within it"));
    assert_eq!(split(&mut meta, 1, at), "");
    assert!(split(&mut meta, 1, at).contains("being split already"));
    assert_eq!(meta.partitions.len(), 2, "nobody is sent there yet");
    let start = state::StartMove { partition_id: 1, epoch: 2, add_on_node: 3, ..state::StartMove::default() };
    assert!(meta.apply(Command::StartMove(start), 0).refused.contains("being split"));

    // A node loses its memory in between: its part gets another id too. The group began with the one before.
    let replicas = |partition: &wire::Partition| -> Vec<u64> {
        partition.replicas.iter().map(|replica| replica.id).collect()
    };
    let agreed = replicas(meta.partitions[&1].splitting_off.as_deref().unwrap());
    join(&mut meta, 2, 201);
    let last = meta.partitions[&1].last_token;
    let leader = meta.partitions[&1].replicas[0];
    let confirm = state::ConfirmSplit {
        partition_id: 1,
        new_partition_id: 3,
        voters: agreed.clone(),
        leader: leader.id,
    };
    assert_eq!(meta.apply(Command::ConfirmSplit(confirm.clone()), 0).refused, "");
    let (old, new) = (&meta.partitions[&1], &meta.partitions[&3]);
    assert_eq!((old.first_token, old.last_token, new.first_token, new.last_token), (0, at - 1, at, last));
    assert_eq!(old.founded_with, Some(wire::TokenRange { first_token: 0, last_token: last }));
    assert_eq!(new.voters, agreed);
    assert_eq!(replicas(new).iter().filter(|replica| agreed.contains(replica)).count(), 2);
    assert_eq!(new.split_from, 1);
    assert!(new.epoch > 1, "nobody founds it");
    let beside = new.replicas.iter().find(|replica| replica.id == new.leader_hint).unwrap();
    assert_eq!(beside.node_id, leader.node_id);
    let all: std::collections::BTreeSet<u64> = meta.partitions.values().flat_map(replicas).collect();
    assert_eq!(all.len(), 9, "no replica's id is used twice");
    trimaran_net::placement::get_table(&meta.table()).unwrap();
    let done = meta.clone();
    assert_eq!(meta.apply(Command::ConfirmSplit(confirm), 0).refused, "");
    assert_eq!(meta, done, "a repeated confirmation is one");
    assert_eq!(Meta::restore(meta.save()), meta);
}

#[test]
fn a_node_of_an_older_release_is_refused_once_its_cluster_uses_what_it_does_not_know() {
    let mut meta = founded();
    let old = |boot_id| {
        Command::Join(state::Join {
            node: Some(node(3)),
            lost_memory: false,
            boot_id,
            has_log: true,
            format: 0,
        })
    };
    assert_eq!(meta.apply(old(301), 0).refused, "");
    meta.apply(Command::RaiseFormat(state::RaiseFormat { format: 2 }), 0);
    assert!(meta.apply(old(302), 0).refused.contains("newer release"));
    join(&mut meta, 3, 302);
}

fn merge(meta: &mut Meta, into: u64, from: u64) -> String {
    let epoch = |id: u64| meta.partitions[&id].epoch;
    let start = state::StartMerge {
        partition_id: into,
        epoch: epoch(into),
        from_partition_id: from,
        from_epoch: epoch(from),
        reason: state::MergeReason::Asked.into(),
    };
    meta.apply(Command::StartMerge(start), 0).refused
}

#[test]
fn two_partitions_become_one_only_when_the_first_ones_group_has_decided_so() {
    let mut meta = founded();
    assert!(merge(&mut meta, 1, 2).contains("not every node knows"));
    meta.apply(Command::RaiseFormat(state::RaiseFormat { format: 3 }), 0);
    assert!(merge(&mut meta, 2, 1).contains("not behind"));
    assert_eq!(merge(&mut meta, 1, 2), "");
    let number = meta.partitions[&1].merging.unwrap().number;
    // Nothing else is done with either of them.
    assert!(merge(&mut meta, 1, 2).contains("becoming part of partition 1"));
    assert!(split(&mut meta, 1, 1 << 62).contains("taking over partition 2"));
    assert!(split(&mut meta, 2, 3 << 62).contains("becoming part of partition 1"));
    for id in [1, 2] {
        let (epoch, remove_replica) = (meta.partitions[&id].epoch, meta.partitions[&id].replicas[0].id);
        let start =
            state::StartMove { partition_id: id, epoch, remove_replica, ..state::StartMove::default() };
        assert!(ask(&mut meta, Command::StartMove(start)).unwrap_err().contains("partition"), "{id}");
    }
    // One that was given up leaves them as they were, and what is said of it later counts for nothing.
    let decided = |meta: &mut Meta, number, taken| {
        let confirm = state::ConfirmMerge { partition_id: 1, number, taken };
        assert_eq!(meta.apply(Command::ConfirmMerge(confirm), 0).refused, "");
    };
    let before = meta.table();
    decided(&mut meta, number, false);
    assert!(meta.partitions.values().all(|partition| partition.merging.is_none() && partition.epoch == 3));
    assert_eq!(before.partitions.len(), 2);
    assert_eq!(merge(&mut meta, 1, 2), "");
    let again = meta.partitions[&1].merging.unwrap().number;
    assert!(again > number);
    let begun = meta.clone();
    decided(&mut meta, number, true);
    assert_eq!(meta, begun, "the one before is over");
    assert!(!meta.is_merged_away(2));
    decided(&mut meta, again, true);
    let whole = &meta.partitions[&1];
    assert_eq!((whole.first_token, whole.last_token, whole.merging), (0, u64::MAX, None));
    let founded_with = wire::TokenRange { first_token: 0, last_token: (1 << 63) - 1 };
    assert_eq!(whole.founded_with, Some(founded_with));
    assert!(meta.is_merged_away(2) && !meta.is_merged_away(1) && !meta.is_merged_away(3));
    trimaran_net::placement::get_table(&meta.table()).unwrap();
    let done = meta.clone();
    decided(&mut meta, again, true);
    assert_eq!(meta, done, "a repeated confirmation is one");
    assert_eq!(Meta::restore(meta.save()), meta);
}

/// Its replicas may still have to get their part from those of the one that it was split from.
#[test]
fn nothing_is_taken_from_under_a_partition_that_was_split_off_just_now() {
    let mut meta = founded();
    meta.apply(Command::RaiseFormat(state::RaiseFormat { format: 3 }), 0);
    assert_eq!(split(&mut meta, 2, 3 << 62), "");
    let leader = meta.partitions[&2].replicas[0].id;
    let fresh = meta.partitions[&2].splitting_off.as_deref().unwrap();
    let voters: Vec<u64> = fresh.replicas.iter().map(|replica| replica.id).collect();
    let confirmed =
        state::ConfirmSplit { partition_id: 2, new_partition_id: 3, voters: voters.clone(), leader };
    assert_eq!(meta.apply(Command::ConfirmSplit(confirmed), 0).refused, "");
    assert!(meta.partitions[&3].unproven);
    assert!(merge(&mut meta, 1, 2).contains("partition 3 was split from partition 2 just now"));
    assert!(merge(&mut meta, 2, 3).contains("partition 3 was split off just now"));
    let epoch = meta.partitions[&2].epoch;
    let start =
        state::StartMove { partition_id: 2, epoch, remove_replica: leader, ..state::StartMove::default() };
    assert!(ask(&mut meta, Command::StartMove(start)).unwrap_err().contains("just now"));
    // A majority of its own has agreed on something.
    confirm(&mut meta, 3, &voters).unwrap();
    assert!(!meta.partitions[&3].unproven);
    assert_eq!(merge(&mut meta, 1, 2), "");
}
