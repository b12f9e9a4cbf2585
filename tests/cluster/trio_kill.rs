//! Three grid-nodes, three shard-nodes, two function-nodes. Clients call a function without pause, which keeps
//! registers in the database and counters in the grid, while each of the eight is killed with -9 in turn, leaders
//! first, and started again. Nothing acknowledged is lost or repeated, and no read is older than an acknowledged
//! write.

use std::path::Path;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use trimaran_client::database::{KeyType, Table};
use trimaran_client::functions::{Functions, Runtime, Spec};
use trimaran_tests::harness::process::{Cluster, Node};
use trimaran_tests::harness::until;
use trimaran_tests::workload::foreign::OverFunction;
use trimaran_tests::workload::registers::Load;

const SEED: u64 = 3;

/// A component that has registers and counters, as the function "probe".
pub(crate) async fn deploy_probe(functions: &Functions) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/probe.wasm");
    let component = std::fs::read(path).unwrap();
    functions.deploy("probe", Spec::new(Runtime::Wasm), component.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_loses_nothing_when_each_node_under_it_is_killed_in_turn() {
    let (mut grid, mut shard) = tokio::join!(Cluster::grid(3, "buffered", 2), Cluster::shard(3, "fjall", 2));
    let mut front = Cluster::functions(2, &grid, &shard).await;
    let partition_key = ("id".to_owned(), KeyType::S);
    let table = Table { name: "registers".into(), partition_key, sort_key: None };
    shard.database_client().await.create_table(table).await.unwrap();
    // Deployed through one of them, called through both.
    deploy_probe(&Functions::connect([front.nodes[0].grpc.clone()]).unwrap()).await;

    let addresses = front.nodes.iter().map(|node| node.front.clone()).collect();
    let load = Load::start(&OverFunction::new(addresses), 6, SEED);
    let acknowledged = || load.acknowledged.load(Ordering::Acquire);
    until("clients write", async || acknowledged() > 200).await;
    let kill = async |kind: &str, node: &mut Node| {
        let before = acknowledged();
        node.kill();
        let died = Instant::now();
        until("writes go on", async || acknowledged() > before + 100).await;
        println!("{kind}: a node is killed, 100 more writes after {:?}", died.elapsed());
        node.start();
    };
    for victim in 0..2 {
        kill("functions", &mut front.nodes[victim]).await;
        front.nodes[victim].until_ready().await;
    }
    for victim in shard.leaders_first().await {
        kill("database", &mut shard.nodes[victim]).await;
        shard.until_complete().await;
    }
    for victim in grid.leaders_first().await {
        kill("grid", &mut grid.nodes[victim]).await;
        grid.until_complete().await;
    }
    let now = acknowledged();
    until("clients write with all nodes back", async || acknowledged() > now + 200).await;
    let report = load.finish().await;
    println!("{report:?}");
    assert!(report.answered > 500, "{report:?}");
}
