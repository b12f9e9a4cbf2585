//! A cluster that grows, shrinks and heals while clients write and read without pause: a fourth node joins, one is
//! drained, one is killed for good and replaced. Nothing acknowledged is lost or repeated, no read is older than an
//! acknowledged write, and no more is copied than has to be.

use std::collections::BTreeMap;

use tokio::time::Instant;
use trimaran_proto::api::cluster::{BalanceRequest, DrainRequest, EventsRequest, MoveRequest, RemoveRequest};
use trimaran_proto::api::placement::{NodeState, Table};
use trimaran_tests::harness::process::{Cluster, Node};
use trimaran_tests::workload::registers::{InTable, Load, Registers};
use trimaran_tests::workload::watches::Watched;

const SEED: u64 = 3;
const PARTITIONS: u64 = 4;

/// Keys that nobody writes to again, enough for every partition.
const SETTLED_KEYS: u64 = 200;

/// Copies by node.
fn copies(table: &Table) -> BTreeMap<u64, usize> {
    let mut copies: BTreeMap<u64, usize> = BTreeMap::new();
    for node in table.nodes.iter().filter(|node| node.state() == NodeState::Up) {
        copies.insert(node.id, 0);
    }
    for replica in table.partitions.iter().flat_map(|partition| &partition.replicas) {
        *copies.entry(replica.node_id).or_default() += 1;
    }
    copies
}

fn is_balanced(table: &Table, nodes: usize) -> bool {
    let copies = copies(table);
    copies.len() == nodes && copies.values().max().unwrap() - copies.values().min().unwrap() <= 1
}

async fn table(cluster: &Cluster) -> Table {
    let node = cluster.nodes.iter().find(|node| node.is_running()).unwrap();
    node.status().await.unwrap().table.unwrap()
}

/// Copies that were made so far, by the cluster's own account.
async fn copies_made(cluster: &Cluster) -> usize {
    let node = cluster.nodes.iter().find(|node| node.is_running()).unwrap();
    let events = node.admin().events(EventsRequest {}).await.unwrap().into_inner().events;
    events.iter().filter(|event| event.text.contains("has moved") && event.text.contains(" to node")).count()
}

async fn a_cluster_grows_shrinks_and_heals<R: Registers>(name: &str, mut cluster: Cluster, registers: R) {
    for key in 0..SETTLED_KEYS {
        registers.write(&format!("settled-{key}"), key).await.unwrap();
    }
    let load = Load::start(&registers, 6, SEED);
    load.goes_on("clients write").await;

    let began = Instant::now();
    let fourth = cluster.add().await;
    cluster.until_settled(3, |table| is_balanced(table, 4)).await;
    println!("{name}: a fourth node has its share after {:?}", began.elapsed());
    let ids = cluster.ids().await;
    assert_eq!(copies(&table(&cluster).await)[&ids[fourth]] as u64, PARTITIONS * 3 / 4);
    assert_eq!(copies_made(&cluster).await as u64, PARTITIONS * 3 / 4, "a quarter and no more");
    load.goes_on("clients write to four nodes").await;

    // One that leads something is drained, over another node than itself.
    let began = Instant::now();
    let leaving = cluster.leaders_first().await[0];
    let asked = (leaving + 1) % 4;
    cluster.nodes[asked].admin().drain(DrainRequest { node_id: ids[leaving] }).await.unwrap();
    assert!(cluster.nodes[leaving].ended().await, "{}", cluster.nodes[leaving].log());
    cluster.until_settled(3, |table| is_balanced(table, 3)).await;
    println!("{name}: a node was drained after {:?}", began.elapsed());
    load.goes_on("clients write to three nodes").await;
    // Three nodes are needed for three copies.
    let staying = (0..4).find(|&at| at != leaving).unwrap();
    let refused =
        cluster.nodes[staying].admin().drain(DrainRequest { node_id: ids[staying] }).await.unwrap_err();
    assert!(refused.message().contains("3 copies need 3 nodes"), "{refused}");
    let refused =
        cluster.nodes[staying].admin().remove(RemoveRequest { node_id: ids[staying] }).await.unwrap_err();
    assert!(refused.message().contains("is up"), "{refused}");

    // One is killed for good; its copies are made anew on a fifth.
    let fifth = cluster.add().await;
    cluster.until_settled(3, |table| is_balanced(table, 4)).await;
    let began = Instant::now();
    let victim = cluster.leaders_first().await.into_iter().find(|&at| at != leaving && at != fifth).unwrap();
    let victim_id = cluster.ids().await[victim];
    cluster.nodes[victim].kill();
    cluster
        .until_settled(3, |table| {
            let dead = table.nodes.iter().find(|node| node.id == victim_id);
            dead.is_some_and(|dead| dead.state() == NodeState::Gone) && is_balanced(table, 3)
        })
        .await;
    println!("{name}: a dead node was replaced after {:?}", began.elapsed());
    load.goes_on("clients write without the dead node").await;
    cluster.nodes[victim].start();
    assert!(!cluster.nodes[victim].ended().await);
    let log = cluster.nodes[victim].log();
    assert!(log.contains("was removed from this cluster"), "{log}");

    // A copy is moved by hand.
    let sixth = cluster.add().await;
    cluster.until_settled(3, |table| is_balanced(table, 4)).await;
    let ids = cluster.ids().await;
    let before = table(&cluster).await;
    let partition = &before.partitions[0];
    let has = |node: u64| partition.replicas.iter().any(|replica| replica.node_id == node);
    let up: Vec<u64> = copies(&before).into_keys().collect();
    let (from_node, to_node) =
        (*up.iter().find(|&&node| has(node)).unwrap(), *up.iter().find(|&&node| !has(node)).unwrap());
    let request = MoveRequest { partition_id: partition.id, from_node, to_node };
    // Else the cluster would put it in balance again.
    cluster.nodes[sixth].admin().balance(BalanceRequest { paused: true }).await.unwrap();
    cluster.nodes[sixth].admin().r#move(request).await.unwrap();
    cluster
        .until_settled(3, |table| {
            table.partitions[0].replicas.iter().any(|replica| replica.node_id == to_node)
                && table.partitions[0].replicas.iter().all(|replica| replica.node_id != from_node)
        })
        .await;
    assert!(ids.contains(&to_node));
    load.goes_on("clients write after all of it").await;

    let report = load.finish().await;
    println!("{name}: {report:?}");
    assert!(report.answered > 500, "{report:?}");
    for key in 0..SETTLED_KEYS {
        assert_eq!(registers.read(&format!("settled-{key}")).await.unwrap(), Some(key), "settled-{key}");
    }
}

/// Every watch, at whatever node, sees every change once and in order, while copies come and go under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_misses_nothing_while_copies_move() {
    let mut cluster = Cluster::grid(3, "buffered", PARTITIONS).await;
    let fourth = cluster.add().await;
    // A node without any copy has watches too.
    let watched = Watched::start(&cluster, &[(0, true), (fourth, true)]).await;
    cluster.until_settled(3, |table| is_balanced(table, 4)).await;
    let leaving = cluster.ids().await[1];
    cluster.nodes[2].admin().drain(DrainRequest { node_id: leaving }).await.unwrap();
    assert!(cluster.nodes[1].ended().await, "{}", cluster.nodes[1].log());
    cluster.until_settled(3, |table| is_balanced(table, 3)).await;
    assert_eq!(watched.finish().await, [PARTITIONS, PARTITIONS]);
}

/// A node that cannot know what its own cluster has agreed on, since the others are down, must not enter another one:
/// that one's log would replace its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_the_data_of_another_cluster_is_refused() {
    let mut cluster = Cluster::grid(3, "buffered", 1).await;
    let grid = cluster.grid_client().await;
    grid.set("key", "of the first").await.unwrap();
    let other = Cluster::grid(1, "buffered", 1).await;
    for node in &cluster.nodes {
        node.until_ready().await;
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    let home = cluster.addresses().join(",");
    cluster.nodes[0].look_at(&other.addresses().join(","));
    cluster.nodes[0].start();
    assert!(!cluster.nodes[0].ended().await);
    let log = cluster.nodes[0].log();
    assert!(log.contains("the data folder is of cluster"), "{log}");
    // Nothing has happened to either.
    assert_eq!(table(&other).await.nodes.len(), 1);
    cluster.nodes[0].look_at(&home);
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.until_complete().await;
    assert_eq!(grid.get("key").await.unwrap().as_deref(), Some(&b"of the first"[..]));
}

const OPTIONS: [&str; 2] = ["--replace-after-s", "5"];

async fn a_grid(durability: &str) {
    let options = [&["--durability", durability][..], &OPTIONS].concat();
    let cluster = Cluster::grid_with(3, PARTITIONS, &options).await;
    let grid = cluster.grid_client().await;
    a_cluster_grows_shrinks_and_heals(durability, cluster, grid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_in_memory_grows_shrinks_and_heals() {
    a_grid("memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buffered_grid_grows_shrinks_and_heals() {
    a_grid("buffered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_grows_shrinks_and_heals() {
    let cluster = Cluster::shard_with(3, PARTITIONS, &OPTIONS).await;
    let database = cluster.database_client().await;
    let table = InTable::create(database, "registers").await;
    a_cluster_grows_shrinks_and_heals("database", cluster, table).await;
}
