//! Transactions over many partitions while nodes die, stand still, partitions are split and copies move: in an order that
//! respects time, whole, and once; and an index that has what its items have.

use trimaran_tests::harness::process::Cluster;
use trimaran_tests::workload::transactions::Load;

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
