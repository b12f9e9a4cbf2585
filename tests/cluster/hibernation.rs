//! Partitions that nobody uses hibernate. Their leaders die in their sleep, all of them at once; nobody asks for anything
//! until others lead. What was written before is there, and a load whose history is checked goes on.

use std::sync::atomic::Ordering;

use trimaran_proto::internal::cluster::GroupStatus;
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::until;
use trimaran_tests::workload::registers::{InTable, Load, Registers};

const SEED: u64 = 6;
const PARTITIONS: u64 = 32;

/// The group that never sleeps.
const META_GROUP: u64 = 0;

/// What the nodes that run say of all partitions; fewer if one does not answer.
async fn replicas(cluster: &Cluster) -> Vec<GroupStatus> {
    let mut replicas = Vec::new();
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        replicas.extend(node.status().await.unwrap_or_default().groups);
    }
    replicas.retain(|group| group.group != META_GROUP);
    replicas
}

async fn until_all_sleep(cluster: &Cluster) {
    let copies = PARTITIONS as usize * 3;
    until("all partitions sleep", async || {
        replicas(cluster).await.iter().filter(|replica| replica.asleep).count() == copies
    })
    .await;
}

async fn leaders_die_in_their_sleep<R: Registers>(name: &str, mut cluster: Cluster, registers: R) {
    until_all_sleep(&cluster).await;
    let victim = cluster.leaders_first().await[0];
    cluster.nodes[victim].kill();
    until("others lead", async || {
        let led = |replica: &&GroupStatus| replica.state == "leader";
        replicas(&cluster).await.iter().filter(led).count() == PARTITIONS as usize
    })
    .await;
    let load = Load::start(&registers, 6, SEED);
    until("clients write", async || load.acknowledged.load(Ordering::Acquire) > 200).await;
    cluster.nodes[victim].start();
    cluster.until_complete().await;
    let acknowledged = load.acknowledged.load(Ordering::Acquire);
    let report = load.finish().await;
    println!(
        "{name}, leaders died in their sleep: {acknowledged} writes acknowledged, 0 lost, 0 doubled, longest stall {:?}",
        report.longest_pause
    );
    until_all_sleep(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_of_a_grid_die_in_their_sleep() {
    let cluster = Cluster::grid(3, "buffered", PARTITIONS).await;
    let client = cluster.grid_client().await;
    leaders_die_in_their_sleep("grid", cluster, client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_of_a_database_die_in_their_sleep() {
    let cluster = Cluster::shard(3, "fjall", PARTITIONS).await;
    let table = InTable::create(cluster.database_client().await, "registers").await;
    leaders_die_in_their_sleep("database", cluster, table).await;
}
