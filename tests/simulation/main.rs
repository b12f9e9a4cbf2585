//! The real replication code in a simulated network: partitions (one-way too), lost and reordered connections,
//! crashes that take the memory with them, under a load of appends.
//!
//! Every run is one seed. `SIMULATION_SEED=<n>` repeats one, `SIMULATION_SEEDS=<count>` runs more than CI does.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and tells what it sees"
)]

mod cluster;
mod invariant;
mod journal;
mod network;
mod scenario;
mod subject;

use journal::Journal;
use scenario::{Logs, Outcome, Scenario};
use subject::Subject;
use trimaran_replication::planted::Bug;
use trimaran_shard_node::machine::ShardMachine;

/// Seeds that CI runs of one group, in memory and on disks each.
const SEEDS: u64 = 500;

fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| option_env(name).and_then(|text| text.parse::<u64>().ok());
    match number("SIMULATION_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SIMULATION_SEEDS").unwrap_or(count)).collect(),
    }
}

#[allow(clippy::disallowed_methods, reason = "the one way to hand a test its seed")]
fn option_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn nothing_is_lost_or_repeated(logs: Logs, filter: &str) {
    let (mut acknowledged, mut crashes, mut leaders, mut asleep) = (0, 0, 0, 0);
    for seed in seeds(SEEDS) {
        match (Scenario { seed, logs }).run() {
            Ok(outcome) => {
                acknowledged += outcome.acknowledged;
                crashes += outcome.crashes;
                leaders += outcome.leaders;
                asleep += outcome.asleep;
            }
            Err(violation) => panic!(
                "{violation}\nrepeat with: SIMULATION_SEED={seed} cargo test -p trimaran-tests --test simulation {filter}"
            ),
        }
    }
    println!(
        "{logs:?}: {acknowledged} writes acknowledged, {crashes} crashes, {leaders} terms with a leader, {asleep} steps asleep"
    );
    // One seed alone need not have all of it.
    let is_one = seeds(SEEDS).len() == 1;
    assert!(is_one || acknowledged > 0 && crashes > 0 && leaders > 1 && asleep > 0);
}

#[test]
fn nothing_acknowledged_is_lost_or_repeated_in_memory() {
    nothing_is_lost_or_repeated(Logs::Memory, "in_memory");
}

#[test]
fn nothing_acknowledged_is_lost_or_repeated_on_disks_that_lose_power() {
    nothing_is_lost_or_repeated(Logs::Disk, "on_disks");
}

/// Seeds that CI runs of whole clusters, without disks and with.
const CLUSTER_SEEDS: u64 = 24;
const DATABASE_SEEDS: u64 = 12;

fn a_cluster_heals<M: Subject>(count: u64, filter: &str) {
    let mut sum = cluster::Outcome::default();
    for seed in seeds(count) {
        match (cluster::Scenario { seed, bug: None }).run::<M>() {
            Ok(outcome) => {
                sum.acknowledged += outcome.acknowledged;
                sum.crashes += outcome.crashes;
                sum.drains += outcome.drains;
                sum.cuts += outcome.cuts;
                sum.moves += outcome.moves;
                sum.splits += outcome.splits;
                sum.merges += outcome.merges;
                sum.asleep += outcome.asleep;
            }
            Err(violation) => panic!(
                "{violation}\nrepeat with: SIMULATION_SEED={seed} cargo test -p trimaran-tests --test simulation {filter}"
            ),
        }
    }
    println!("{sum:?}");
    // One seed alone need not have all of it.
    let is_one = seeds(count).len() == 1;
    assert!(
        is_one
            || sum.acknowledged > 0
                && sum.crashes > 0
                && sum.drains > 0
                && sum.moves > 0
                && sum.splits > 0
                && sum.merges > 0
                && sum.asleep > 0
    );
}

#[test]
fn a_cluster_heals_and_loses_nothing_whatever_happens_to_its_nodes() {
    a_cluster_heals::<Journal>(CLUSTER_SEEDS, "a_cluster_heals");
}

#[test]
fn a_database_heals_and_loses_nothing_whatever_happens_to_its_nodes_and_their_disks() {
    a_cluster_heals::<ShardMachine>(DATABASE_SEEDS, "a_database_heals");
}

fn must_be_caught(bug: Bug) {
    let caught = (1..=40).find_map(|seed| {
        let outcome = cluster::Scenario { seed, bug: Some(bug) }.run::<Journal>();
        outcome.err().map(|violation| (seed, violation))
    });
    let (seed, violation) = caught.expect("no seed of forty noticed it");
    println!("{bug:?} is caught with seed {seed}: {}", violation.lines().next().unwrap_or_default());
}

#[test]
fn a_copy_that_is_deleted_when_it_is_only_to_go_is_caught() {
    must_be_caught(Bug::RemovedAtOnce);
}

#[test]
fn members_that_are_confirmed_before_they_are_agreed_on_are_caught() {
    must_be_caught(Bug::ConfirmedBeforeAgreed);
}

#[test]
fn a_snapshot_without_the_answered_requests_is_caught() {
    must_be_caught(Bug::RepliesForgotten);
}

#[test]
fn a_leader_that_forgets_answers_by_a_clock_that_is_ahead_is_caught() {
    must_be_caught(Bug::ForgottenByTheClock);
}

#[test]
fn a_snapshot_that_lacks_its_end_is_caught() {
    must_be_caught(Bug::SnapshotCutShort);
}

#[test]
fn a_split_that_leaves_the_answered_requests_behind_is_caught() {
    must_be_caught(Bug::RepliesLeftBehind);
}

#[test]
fn a_merge_that_leaves_the_answered_requests_behind_is_caught() {
    must_be_caught(Bug::RepliesNotMerged);
}

#[test]
fn a_group_that_goes_on_after_it_has_given_its_state_away_is_caught() {
    must_be_caught(Bug::NeverFrozen);
}

/// The planted bug: a replica that lost its memory comes back under its old id. It must not go unnoticed.
#[test]
fn a_replica_that_comes_back_under_its_old_id_is_caught() {
    let caught = (1..=40).find_map(|seed| {
        let outcome: Result<Outcome, String> = Scenario { seed, logs: Logs::MemoryUnderOldIds }.run();
        outcome.err().map(|violation| (seed, violation))
    });
    let (seed, violation) = caught.expect("no seed of forty noticed it");
    println!("caught with seed {seed}: {violation}");
}
