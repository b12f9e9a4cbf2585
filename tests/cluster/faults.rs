//! What happens to machines and operators do to clusters, under a load whose history is checked: a node that stands
//! still and goes on as if nothing had been, a restart of every node in turn, three nodes that become five and three
//! again. A line for each says how many writes were acknowledged, none of them lost or doubled, and the longest stall.

use std::sync::atomic::Ordering;

use trimaran_proto::api::cluster::DrainRequest;
use trimaran_proto::api::placement::{NodeState, Table};
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::until;
use trimaran_tests::workload::registers::{InTable, Load, Registers};

const SEED: u64 = 5;
const PARTITIONS: u64 = 4;

/// A cluster under load.
struct Loaded<R> {
    name: String,
    cluster: Cluster,
    load: Load<R>,
}

impl<R: Registers> Loaded<R> {
    async fn start(name: &str, cluster: Cluster, registers: R) -> Self {
        let loaded = Self { name: name.to_owned(), cluster, load: Load::start(&registers, 6, SEED) };
        loaded.goes_on().await;
        loaded
    }

    /// Waits for more writes, several of each client.
    async fn goes_on(&self) {
        let now = self.load.acknowledged.load(Ordering::Acquire);
        until("clients write", async || self.load.acknowledged.load(Ordering::Acquire) > now + 200).await;
    }

    async fn finish(self, scenario: &str) {
        let acknowledged = self.load.acknowledged.load(Ordering::Acquire);
        let report = self.load.finish().await;
        println!(
            "{}, {scenario}: {acknowledged} writes acknowledged, 0 lost, 0 doubled, longest stall {:?}",
            self.name, report.longest_pause
        );
    }

    async fn a_node_stands_still(self) {
        let victim = self.cluster.leaders_first().await[0];
        let id = self.cluster.ids().await[victim];
        let is = |state: NodeState| {
            move |table: &Table| table.nodes.iter().any(|node| node.id == id && node.state() == state)
        };
        self.cluster.nodes[victim].pause();
        self.goes_on().await;
        let other = (victim + 1) % 3;
        until("it is suspect", async || {
            let status = self.cluster.nodes[other].status().await.unwrap_or_default();
            is(NodeState::Suspect)(&status.table.unwrap_or_default())
        })
        .await;
        self.goes_on().await;
        // It still takes itself for the leader, and has clients that ask it.
        self.cluster.nodes[victim].resume();
        self.cluster.until_settled(3, is(NodeState::Up)).await;
        self.goes_on().await;
        self.finish("a leader stood still").await;
    }

    async fn every_node_is_restarted_in_turn(mut self) {
        for at in 0..3 {
            assert!(self.cluster.nodes[at].stop(), "{}", self.cluster.nodes[at].log());
            self.goes_on().await;
            self.cluster.nodes[at].start();
            self.cluster.nodes[at].until_ready().await;
            self.cluster.until_complete().await;
        }
        self.goes_on().await;
        self.finish("every node restarted in turn").await;
    }

    async fn three_become_five_and_three_again(mut self) {
        for _ in 0..2 {
            self.cluster.add().await;
        }
        let up = |count: usize| {
            move |table: &Table| {
                let up = table.nodes.iter().filter(|node| node.state() == NodeState::Up).map(|node| node.id);
                let held = |node: u64| {
                    let replicas = table.partitions.iter().flat_map(|partition| &partition.replicas);
                    replicas.filter(|replica| replica.node_id == node).count()
                };
                let loads: Vec<usize> = up.map(held).collect();
                loads.len() == count && loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1
            }
        };
        self.cluster.until_settled(3, up(5)).await;
        self.goes_on().await;
        let ids = self.cluster.ids().await;
        for at in [0, 1] {
            self.cluster.nodes[2].admin().drain(DrainRequest { node_id: ids[at] }).await.unwrap();
            assert!(self.cluster.nodes[at].ended().await, "{}", self.cluster.nodes[at].log());
        }
        self.cluster.until_settled(3, up(3)).await;
        self.goes_on().await;
        self.finish("three became five and three again").await;
    }
}

async fn grid() -> Loaded<trimaran_client::grid::Grid> {
    let cluster = Cluster::grid(3, "buffered", PARTITIONS).await;
    let client = cluster.grid_client().await;
    Loaded::start("grid", cluster, client).await
}

async fn database() -> Loaded<InTable> {
    let cluster = Cluster::shard(3, "fjall", PARTITIONS).await;
    let table = InTable::create(cluster.database_client().await, "registers").await;
    Loaded::start("database", cluster, table).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_node_that_stood_still_serves_nothing_stale() {
    grid().await.a_node_stands_still().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_node_that_stood_still_serves_nothing_stale() {
    database().await.a_node_stands_still().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_is_restarted_node_by_node() {
    grid().await.every_node_is_restarted_in_turn().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_restarted_node_by_node() {
    database().await.every_node_is_restarted_in_turn().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_becomes_five_and_three_again() {
    grid().await.three_become_five_and_three_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_becomes_five_and_three_again() {
    database().await.three_become_five_and_three_again().await;
}
