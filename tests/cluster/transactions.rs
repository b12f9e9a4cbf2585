//! Transactions over many partitions while nodes die, stand still, partitions are split and copies move: in an order that
//! respects time, whole, and once; and an index that has what its items have.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::workload::strong;
use trimaran_tests::workload::transactions::{Load, until_verified};

use crate::splits::split;

const SEED: u64 = 21;
const CLIENTS: u64 = 8;

/// For longer runs: how many transactions are waited for at each step.
#[allow(clippy::disallowed_methods, reason = "how a longer run is asked for")]
fn more() -> u64 {
    let given = std::env::var("TRIMARAN_TRANSACTIONS").ok();
    given.map_or(300, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_strictly_serializable_while_nodes_die_and_stand_still() {
    let mut cluster = Cluster::shard(3, "fjall", 4).await;
    let load = Load::start(&cluster.database_client().await, CLIENTS, SEED).await;
    load.goes_on(more()).await;
    for victim in cluster.leaders_first().await {
        cluster.nodes[victim].kill();
        load.goes_on(more()).await;
        cluster.nodes[victim].start();
        cluster.until_complete().await;
        load.goes_on(more()).await;
    }
    // Long enough for others to lead, and for its transactions to be decided on without it.
    let victim = cluster.leaders_first().await[0];
    cluster.nodes[victim].pause();
    load.goes_on(more()).await;
    cluster.nodes[victim].resume();
    load.goes_on(more()).await;
    let report = load.finish().await;
    println!("kills and a pause: {report:?}");
    assert!(report.committed as u64 > 4 * more() && report.sums > 0 && report.moments > 10, "{report:?}");
}

/// For longer runs: how many times a node is killed.
#[allow(clippy::disallowed_methods, reason = "how a longer run is asked for")]
fn deaths() -> u64 {
    let given = std::env::var("TRIMARAN_DEATHS").ok();
    given.map_or(6, |text| text.parse().unwrap())
}

/// Times that groups are looked at in each step.
const LOOKS: u64 = 200;

/// Deaths after which copies are compared.
const VERIFIED_EVERY: u64 = 25;

/// At any moment of a transaction, of a start, and of another node's election: whatever was going on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_strictly_serializable_through_many_deaths() {
    let mut cluster = Cluster::shard(3, "fjall", 4).await;
    let database = cluster.database_client().await;
    let load = Load::start(&database, CLIENTS, SEED + 2).await;
    let mut random = StdRng::seed_from_u64(SEED + 2);
    for death in 1..=deaths() {
        load.goes_on(random.random_range(0..60)).await;
        let victim = random.random_range(0..3);
        cluster.nodes[victim].kill();
        load.goes_on(random.random_range(0..30)).await;
        cluster.nodes[victim].start();
        // Once in a while it is not ready when it, or another one, dies again.
        if random.random_bool(0.7) {
            cluster.until_complete().await;
        }
        if death % VERIFIED_EVERY == 0 {
            cluster.until_complete().await;
            until_verified(&database).await;
            println!("{death} deaths, {} transactions over lists", load.done());
        }
    }
    cluster.until_complete().await;
    let report = load.finish().await;
    println!("{} deaths: {report:?}", deaths());
    assert!(report.committed > 0 && report.sums > 0 && report.moments > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_strictly_serializable_while_partitions_are_split_and_moved() {
    let mut cluster = Cluster::shard(3, "fjall", 1).await;
    let load = Load::start(&cluster.database_client().await, CLIENTS, SEED + 1).await;
    load.goes_on(more()).await;
    for count in [2, 4] {
        let table = cluster.nodes[0].status().await.unwrap().table.unwrap();
        for partition in table.partitions {
            split(&cluster, partition.id).await;
        }
        load.goes_on(more()).await;
        cluster.until_settled(3, |table| table.partitions.len() == count).await;
    }
    // Copies move to it.
    cluster.add().await;
    cluster.until_settled(3, |_| true).await;
    load.goes_on(more()).await;
    let report = load.finish().await;
    println!("splits and moves: {report:?}");
    assert!(report.committed as u64 > 3 * more() && report.sums > 0 && report.moments > 10, "{report:?}");
}

/// An index that is written with its items misses nothing and has nothing twice, whatever dies and wherever entries go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strong_indexes_have_what_items_have_at_any_time() {
    let mut cluster = Cluster::shard(3, "fjall", 2).await;
    let load = strong::Load::start(&cluster.database_client().await, CLIENTS, SEED + 3).await;
    load.goes_on(LOOKS).await;
    for victim in cluster.leaders_first().await {
        cluster.nodes[victim].kill();
        load.goes_on(LOOKS).await;
        cluster.nodes[victim].start();
        cluster.until_complete().await;
    }
    let table = cluster.nodes[0].status().await.unwrap().table.unwrap();
    for partition in table.partitions {
        split(&cluster, partition.id).await;
    }
    load.goes_on(LOOKS).await;
    cluster.add().await;
    cluster.until_settled(3, |_| true).await;
    load.goes_on(LOOKS).await;
    let report = load.finish().await;
    println!("strong indexes: {report:?}");
    assert!(report.pairs > LOOKS && report.own > LOOKS, "{report:?}");
}
