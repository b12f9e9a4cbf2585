//! Networks that are cut between the containers of the compose file, both ways and one way, under a load whose history is
//! checked. Clients come from outside and are not cut off: also the node that is cut off has clients, and must not tell
//! them anything that is not so.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use trimaran_client::grid::Grid;
use trimaran_proto::api::placement::Table;
use trimaran_tests::harness::compose::{Composed, until_healthy};
use trimaran_tests::harness::process::{copies_moved, status};
use trimaran_tests::harness::until;
use trimaran_tests::workload::foreign::{OverDynamoDb, OverResp};
use trimaran_tests::workload::locks::Locks;
use trimaran_tests::workload::registers::{Load, Registers};

/// How long a cut lasts: longer than an election, shorter than a copy is given up.
const CUT_FOR: Duration = Duration::from_secs(8);

/// Packets that are dropped between containers, as long as this is there.
struct Cut(Vec<[String; 7]>);

impl Cut {
    /// Each pair: from, to.
    fn new(pairs: &[(&str, &str)]) -> Self {
        let rules = pairs
            .iter()
            .map(|(from, to)| ["DOCKER-USER", "-s", from, "-d", to, "-j", "DROP"].map(str::to_owned));
        let cut = Self(rules.collect());
        assert!(cut.0.iter().all(|rule| Self::tables("-I", rule)), "iptables refuses");
        cut
    }

    fn tables(action: &str, rule: &[String; 7]) -> bool {
        let done = Command::new("iptables").arg("-w").arg(action).args(rule).status();
        done.is_ok_and(|status| status.success())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        for rule in &self.0 {
            if !Self::tables("-D", rule) {
                println!("a rule is left: {rule:?}");
            }
        }
    }
}

/// The place, 1 to 3, of the node that leads most partitions.
fn leader(table: &Table) -> usize {
    let leads = |node: u64| {
        let led = table.partitions.iter().filter(|partition| {
            let leader = partition.replicas.iter().find(|replica| replica.id == partition.leader_hint);
            leader.is_some_and(|leader| leader.node_id == node)
        });
        led.count()
    };
    let most = table.nodes.iter().max_by_key(|node| leads(node.id)).unwrap();
    // "grid-2:7002"
    let name = most.address.split(':').next().unwrap();
    name.rsplit('-').next().unwrap().parse().unwrap()
}

async fn networks_are_cut<R: Registers>(composed: &Composed, kind: &str, port: u16, registers: &R) {
    let containers: Vec<String> = (1..=3).map(|at| composed.container(&format!("{kind}-{at}"))).collect();
    let ips: Vec<String> = containers.iter().map(|container| composed.ip(container)).collect();
    let load = Load::start(registers, 6, 3);
    let acknowledged = || load.acknowledged.load(Ordering::Acquire);
    until("clients write", async || acknowledged() > 50).await;
    for (scenario, leaves, reaches) in
        [("cut off both ways", true, true), ("heard by nobody", true, false), ("hears nobody", false, true)]
    {
        let table = status(&format!("{}:{port}", ips[0])).await.unwrap().table.unwrap();
        let victim = &ips[leader(&table) - 1];
        let others = ips.iter().filter(|ip| *ip != victim);
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for other in others {
            pairs.extend(leaves.then_some((victim.as_str(), other.as_str())));
            pairs.extend(reaches.then_some((other.as_str(), victim.as_str())));
        }
        let (before, began) = (acknowledged(), tokio::time::Instant::now());
        let cut = Cut::new(&pairs);
        // Those who ask the node that is cut off wait for their time to be over.
        until("writes go on", async || acknowledged() > before + 20).await;
        tokio::time::sleep_until(began + CUT_FOR).await;
        drop(cut);
        let healed = acknowledged();
        until("clients write with all nodes", async || acknowledged() > healed + 100).await;
        println!(
            "{kind}, a leader is {scenario}: {} writes acknowledged, longest stall {:?}",
            acknowledged() - before,
            load.longest_pause_since(began).await
        );
    }
    let report = load.finish().await;
    let moved = copies_moved(&format!("{}:{port}", ips[0])).await;
    println!("{kind}: 0 lost, 0 doubled, {moved} copies moved, none had to: {report:?}");
    assert_eq!(moved, 0, "a cut is shorter than the grace of a node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_where_networks_are_cut() {
    let services = ["grid-1", "grid-2", "grid-3", "shard-1", "shard-2", "shard-3"];
    let Some(composed) = Composed::up(&[], &services, &[]) else { return };
    for service in services {
        until_healthy(&composed.container(service)).await;
    }
    let grid = OverResp::new(composed.addresses("GRID"));
    // What else the grid promises, under the same cuts: hashes, and locks of clients that reach every node.
    let hashes = Load::start(&grid.hashes(), 3, 4);
    let nodes = (1..=3).map(|at| format!("{}:7002", composed.ip(&composed.container(&format!("grid-{at}")))));
    let locks = Locks::start(&Grid::connect_through(nodes).await.unwrap(), 3);
    networks_are_cut(&composed, "grid", 7002, &grid).await;
    println!("hashes: 0 lost, 0 doubled: {:?}", hashes.finish().await);
    println!("locks: no two at once, none written over: {:?}", locks.finish().await);
    let database = OverDynamoDb::new(composed.addresses("SHARD"));
    database.create().await.unwrap();
    networks_are_cut(&composed, "shard", 7003, &database).await;
}
