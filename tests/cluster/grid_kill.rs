//! Three grid-nodes; clients write without pause while each node in turn, leaders included, is killed with -9 and
//! started again. Nothing acknowledged is lost or repeated, and no read is older than an acknowledged write.

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::until;
use trimaran_tests::workload::registers::Load;

const SEED: u64 = 1;

async fn every_node_is_killed_in_turn(durability: &str) {
    let mut cluster = Cluster::grid(3, durability, 2).await;
    let grid = cluster.grid_client().await;
    let load = Load::start(&grid, 6, SEED);
    let acknowledged = || load.acknowledged.load(Ordering::Acquire);
    until("clients write", async || acknowledged() > 200).await;
    for victim in cluster.leaders_first().await {
        let before = acknowledged();
        cluster.nodes[victim].kill();
        let died = Instant::now();
        // Several per client, so that all of them go on and not only those of other partitions.
        until("writes go on", async || acknowledged() > before + 100).await;
        println!("{durability}: node {victim} killed, 100 more writes after {:?}", died.elapsed());
        cluster.nodes[victim].start();
        cluster.until_complete().await;
        let now = acknowledged();
        until("clients write with all nodes back", async || acknowledged() > now + 200).await;
    }
    let report = load.finish().await;
    println!("{durability}: {report:?}");
    assert!(report.answered > 500, "{report:?}");
    // A node without its memory comes back under other replica ids; one with its log under its old ones.
    let status = cluster.nodes[0].status().await.unwrap();
    let epochs: Vec<u64> = status.table.unwrap().partitions.iter().map(|partition| partition.epoch).collect();
    let renewed = epochs.iter().all(|&epoch| epoch == 4);
    assert_eq!(renewed, durability == "memory", "{epochs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_in_memory_loses_nothing_when_each_node_is_killed_in_turn() {
    every_node_is_killed_in_turn("memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buffered_grid_loses_nothing_when_each_node_is_killed_in_turn() {
    every_node_is_killed_in_turn("buffered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buffered_grid_finds_its_data_after_all_nodes_were_killed() {
    let mut cluster = Cluster::grid(3, "buffered", 2).await;
    let grid = cluster.grid_client().await;
    for number in 0..50 {
        grid.set(format!("key-{number}"), format!("value-{number}")).await.unwrap();
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.until_complete().await;
    for number in 0..50 {
        let found = grid.get(format!("key-{number}")).await.unwrap();
        assert_eq!(found.as_deref(), Some(format!("value-{number}").as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buffered_node_whose_machine_restarted_comes_back_under_new_replica_ids() {
    let mut cluster = Cluster::grid(3, "buffered", 2).await;
    let grid = cluster.grid_client().await;
    grid.set("key", "value").await.unwrap();
    cluster.nodes[0].kill();
    cluster.nodes[0].pretend_machine_restart();
    cluster.nodes[0].start();
    cluster.until_complete().await;
    let table = cluster.nodes[0].status().await.unwrap().table.unwrap();
    assert!(table.partitions.iter().all(|partition| partition.epoch == 2), "{table:?}");
    assert_eq!(grid.get("key").await.unwrap().as_deref(), Some(&b"value"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_in_memory_whose_majority_is_gone_says_so_and_never_comes_back_empty() {
    let mut cluster = Cluster::grid(3, "memory", 1).await;
    let grid = cluster.grid_client().await;
    grid.set("precious", "1").await.unwrap();
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    until("the partition is known to be lost", async || {
        let Some(status) = cluster.nodes[0].status().await else { return false };
        status.table.unwrap_or_default().partitions.iter().all(|partition| partition.lost)
    })
    .await;
    let refused = grid.get("precious").await.unwrap_err();
    assert!(refused.to_string().contains("lost"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_asked_to_stop_ends_well_and_nobody_waits_for_an_election() {
    let mut cluster = Cluster::grid(3, "buffered", 2).await;
    let grid = cluster.grid_client().await;
    let load = Load::start(&grid, 4, SEED);
    let acknowledged = || load.acknowledged.load(Ordering::Acquire);
    until("clients write", async || acknowledged() > 100).await;
    let victim = cluster.leaders_first().await[0];
    assert!(cluster.nodes[victim].stop(), "{}", cluster.nodes[victim].log());
    let log = cluster.nodes[victim].log();
    assert!(!log.contains("did not end") && !log.contains("not taken over"), "{log}");
    let now = acknowledged();
    until("writes go on", async || acknowledged() > now + 100).await;
    let report = load.finish().await;
    println!("{report:?}");
}
