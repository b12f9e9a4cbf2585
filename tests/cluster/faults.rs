//! What happens to machines and operators do to clusters, under a load whose history is checked: a node that stands
//! still and goes on as if nothing had been, a full disk, clocks that jump, a restart of every node in turn, three nodes
//! that become five and three again. (Networks that are cut: `network.rs`.) A line for each says how many writes were acknowledged, none of them lost or doubled, and the longest stall.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use trimaran_proto::api::cluster::DrainRequest;
use trimaran_proto::api::placement::{NodeState, Table};
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::{skip, until};
use trimaran_tests::workload::foreign::{HashesOverResp, OverResp};
use trimaran_tests::workload::registers::{InTable, Large, Load, Registers};

const SEED: u64 = 5;
const PARTITIONS: u64 = 4;

/// A disk with room for the log, the data and little more, and what fills it.
const SMALL_DISK_MIB: u32 = 96;
const LARGE_BYTES: usize = 300 << 10;
const LARGE_WRITES_MAX: u32 = 1000;

/// Deaths of leaders that are back at once.
const DEATHS: usize = 8;

/// A cluster under load.
struct Loaded<R> {
    name: String,
    cluster: Cluster,
    load: Load<R>,
    registers: R,
}

impl<R: Registers> Loaded<R> {
    async fn start(name: &str, cluster: Cluster, registers: R) -> Self {
        let load = Load::start(&registers, 6, SEED);
        let loaded = Self { name: name.to_owned(), cluster, load, registers };
        loaded.goes_on().await;
        loaded
    }

    /// Waits for more writes, several of each client.
    async fn goes_on(&self) {
        self.load.goes_on("clients write").await;
    }

    /// After what no copy has to be moved for.
    async fn finish(self, scenario: &str) {
        self.finish_with(scenario, 0).await;
    }

    /// `least` copies have to be moved for it.
    async fn finish_with(self, scenario: &str, least: usize) {
        let moved = self.cluster.copies_moved().await;
        let acknowledged = self.load.acknowledged.load(Ordering::Acquire);
        let report = self.load.finish().await;
        println!(
            "{}, {scenario}: {acknowledged} writes acknowledged, 0 lost, 0 doubled, longest stall {:?}, {moved} copies moved, at least {least} had to",
            self.name, report.longest_pause
        );
        assert!(moved >= least && (least > 0 || moved == 0), "{moved} copies were moved for {least}");
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

    /// Longer than everything that anybody waits for, while it holds half-written answers and open connections.
    async fn a_node_stands_still_for_half_a_minute(self) {
        let victim = self.cluster.leaders_first().await[0];
        self.cluster.nodes[victim].pause();
        let until_then = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until_then {
            self.goes_on().await;
        }
        self.cluster.nodes[victim].resume();
        self.cluster.until_complete().await;
        self.goes_on().await;
        self.finish("a leader stood still for 30 s").await;
    }

    /// Before anybody has missed it. What it was still writing is gone with it, and others may have that already: it must
    /// not go on leading as if it had all that it had proposed.
    async fn a_leader_dies_and_is_back_at_once(mut self) {
        for _ in 0..DEATHS {
            let victim = self.cluster.leaders_first().await[0];
            self.cluster.nodes[victim].kill();
            self.cluster.nodes[victim].start();
            self.goes_on().await;
            self.cluster.until_complete().await;
        }
        self.finish("leaders died and were back at once").await;
    }

    /// An hour ahead, then an hour behind, for who leads and for everybody in turn.
    async fn clocks_jump(mut self) {
        for at in 0..3 {
            assert!(self.cluster.nodes[at].stop());
            if !self.cluster.nodes[at].with_clock() {
                skip("libfaketime is not here");
                return;
            }
            self.cluster.nodes[at].start();
            self.cluster.until_complete().await;
        }
        for (at, offset) in [(0, "+3600"), (1, "-3600"), (2, "+86400"), (0, "-3600"), (1, "+3600"), (2, "+0")]
        {
            self.cluster.nodes[at].set_clock(offset);
            self.goes_on().await;
        }
        // The next start believes its clock; the cluster's time does not go back for it.
        for at in 0..3 {
            assert!(self.cluster.nodes[at].stop());
            self.cluster.nodes[at].start();
            self.cluster.until_complete().await;
            self.goes_on().await;
        }
        self.finish("clocks jumped by hours").await;
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
                let up = table.nodes.iter().filter(|node| node.state() == NodeState::Up);
                let loads: Vec<usize> = up.map(|node| held(table, node.id)).collect();
                loads.len() == count && loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1
            }
        };
        self.cluster.until_settled(3, up(5)).await;
        self.goes_on().await;
        let ids = self.cluster.ids().await;
        // What each of the new nodes holds at least, and what each has that goes.
        let mut least = 2 * (PARTITIONS as usize * 3 / 5);
        for at in [0, 1] {
            least += held(&self.cluster.nodes[2].status().await.unwrap().table.unwrap(), ids[at]);
            self.cluster.nodes[2].admin().drain(DrainRequest { node_id: ids[at] }).await.unwrap();
            assert!(self.cluster.nodes[at].ended().await, "{}", self.cluster.nodes[at].log());
        }
        self.cluster.until_settled(3, up(3)).await;
        self.goes_on().await;
        self.finish_with("three became five and three again", least).await;
    }
}

impl<R: Large> Loaded<R> {
    async fn the_disk_of_a_node_is_full(mut self) {
        let victim = self.cluster.leaders_first().await[0];
        assert!(self.cluster.nodes[victim].stop());
        let Some(disk) = self.cluster.nodes[victim].on_a_small_disk(SMALL_DISK_MIB) else {
            skip("this user may not mount a small disk");
            return;
        };
        self.cluster.nodes[victim].start();
        self.cluster.until_complete().await;
        self.goes_on().await;
        disk.fill();
        // Until its log needs more room. It says why it ends, and the others go on.
        let mut number = 0;
        while self.cluster.nodes[victim].runs() && number < LARGE_WRITES_MAX {
            number += 1;
            self.registers.write_large(&format!("large-{number}"), LARGE_BYTES).await.unwrap();
        }
        assert!(!self.cluster.nodes[victim].ended().await, "it ended well");
        let log = self.cluster.nodes[victim].log();
        assert!(log.contains("this node cannot go on") && log.contains("No space left"), "{log}");
        self.goes_on().await;
        // Somebody makes room and starts it again.
        disk.empty();
        self.cluster.nodes[victim].start();
        self.cluster.until_complete().await;
        self.goes_on().await;
        self.cluster.nodes[victim].kill();
        drop(disk);
        self.finish("the disk of a leader was full").await;
    }
}

/// Copies on a node.
fn held(table: &Table, node: u64) -> usize {
    let replicas = table.partitions.iter().flat_map(|partition| &partition.replicas);
    replicas.filter(|replica| replica.node_id == node).count()
}

async fn grid() -> Loaded<trimaran_client::grid::Grid> {
    let cluster = Cluster::grid(3, "buffered", PARTITIONS).await;
    let client = cluster.grid_client().await;
    Loaded::start("grid", cluster, client).await
}

/// Hashes, as Redis clients have them: nothing is sent again.
async fn hashes() -> Loaded<HashesOverResp> {
    let cluster = Cluster::grid(3, "buffered", PARTITIONS).await;
    let fronts = cluster.nodes.iter().map(|node| node.front.to_string()).collect();
    Loaded::start("hashes", cluster, OverResp::new(fronts).hashes()).await
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
async fn hashes_on_a_node_that_stood_still_are_not_stale() {
    hashes().await.a_node_stands_still().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_are_whole_though_their_leader_dies_and_is_back_at_once() {
    hashes().await.a_leader_dies_and_is_back_at_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_are_whole_though_every_node_is_restarted() {
    hashes().await.every_node_is_restarted_in_turn().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_node_stands_still_for_half_a_minute() {
    grid().await.a_node_stands_still_for_half_a_minute().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_node_stands_still_for_half_a_minute() {
    database().await.a_node_stands_still_for_half_a_minute().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_of_a_grid_dies_and_is_back_at_once() {
    grid().await.a_leader_dies_and_is_back_at_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_of_a_database_dies_and_is_back_at_once() {
    database().await.a_leader_dies_and_is_back_at_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_of_a_grid_node_is_full() {
    grid().await.the_disk_of_a_node_is_full().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_of_a_database_node_is_full() {
    database().await.the_disk_of_a_node_is_full().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_of_a_grid_jump() {
    grid().await.clocks_jump().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_of_a_database_jump() {
    database().await.clocks_jump().await;
}
