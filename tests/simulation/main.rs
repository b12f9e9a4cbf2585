//! The real replication code in a simulated network: partitions (one-way too), lost and reordered connections,
//! crashes that take the memory with them, under a load of appends.
//!
//! Every run is one seed. `SIMULATION_SEED=<n>` repeats one, `SIMULATION_SEEDS=<count>` runs more than CI does.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and tells what it sees"
)]

mod invariant;
mod network;
mod scenario;

use scenario::{Outcome, Scenario};

/// Seeds that CI runs.
const SEEDS: u64 = 25;

fn seeds() -> Vec<u64> {
    let number = |name: &str| option_env(name).and_then(|text| text.parse::<u64>().ok());
    match number("SIMULATION_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SIMULATION_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

#[allow(clippy::disallowed_methods, reason = "the one way to hand a test its seed")]
fn option_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn nothing_acknowledged_is_lost_or_repeated_whatever_the_network_does() {
    let (mut acknowledged, mut crashes, mut leaders) = (0, 0, 0);
    for seed in seeds() {
        match (Scenario { seed, reuse_replica_ids: false }).run() {
            Ok(outcome) => {
                acknowledged += outcome.acknowledged;
                crashes += outcome.crashes;
                leaders += outcome.leaders;
            }
            Err(violation) => panic!(
                "{violation}\nrepeat with: SIMULATION_SEED={seed} cargo test -p trimaran-tests --test simulation"
            ),
        }
    }
    println!("{acknowledged} writes acknowledged, {crashes} crashes, {leaders} terms with a leader");
    assert!(acknowledged > 0 && crashes > 0 && leaders > 1);
}

/// The planted bug: a replica that lost its memory comes back under its old id. It must not go unnoticed.
#[test]
fn a_replica_that_comes_back_under_its_old_id_is_caught() {
    let caught = (1..=40).find_map(|seed| {
        let outcome: Result<Outcome, String> = Scenario { seed, reuse_replica_ids: true }.run();
        outcome.err().map(|violation| (seed, violation))
    });
    let (seed, violation) = caught.expect("no seed of forty noticed it");
    println!("caught with seed {seed}: {violation}");
}
