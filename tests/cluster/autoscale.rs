//! A cluster that follows its load: nodes are started when there is much to do and drained when there is little, and nothing
//! that was acknowledged is lost on the way.

use std::sync::atomic::Ordering;
use std::time::Duration;

use trimaran_proto::api::cluster::EventsRequest;
use trimaran_proto::api::placement::{NodeState, Table};
use trimaran_tests::harness::compose::{Composed, until_healthy};
use trimaran_tests::harness::process::{Cluster, status};
use trimaran_tests::harness::until;
use trimaran_tests::workload::foreign::OverResp;
use trimaran_tests::workload::registers::{Load, Registers as _};

const SEED: u64 = 17;

const TRICKLE_EVERY: Duration = Duration::from_millis(200);

/// Nodes come when a node has more than this to do each second, and go at once.
const OPTIONS: [&str; 16] = [
    "--autoscale",
    "process",
    "--autoscale-max",
    "5",
    "--autoscale-cpu",
    "100",
    "--autoscale-operations",
    "15",
    "--autoscale-up-after-s",
    "2",
    "--autoscale-down-after-s",
    "6",
    "--autoscale-pause-s",
    "2",
    "--durability",
    "buffered",
];

/// The same of containers.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("GRID_MAX", "4"),
    ("GRID_OPERATIONS", "15"),
    ("GRID_CPU_PERCENT", "100"),
    ("UP_AFTER_S", "2"),
    ("DOWN_AFTER_S", "8"),
    ("PAUSE_S", "2"),
];

fn up(table: &Table) -> usize {
    table.nodes.iter().filter(|node| node.state() == NodeState::Up).count()
}

async fn table(cluster: &Cluster) -> Table {
    cluster.nodes[0].status().await.unwrap_or_default().table.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_with_the_load_and_go_with_it() {
    let cluster = Cluster::grid_with(3, 6, &OPTIONS).await;
    let grid = cluster.grid_client().await;
    for key in 0..200 {
        grid.write(&format!("settled-{key}"), key).await.unwrap();
    }
    let load = Load::start(&grid, 8, SEED);
    until("two more nodes have joined", async || up(&table(&cluster).await) == 5).await;
    let spread = |table: &Table| {
        let holders: std::collections::BTreeSet<u64> = table
            .partitions
            .iter()
            .flat_map(|found| &found.replicas)
            .map(|replica| replica.node_id)
            .collect();
        holders.len() == 5
    };
    until("the data has spread", async || spread(&table(&cluster).await)).await;
    let acknowledged = load.acknowledged.load(Ordering::Acquire);
    assert!(acknowledged > 100, "{acknowledged}");
    let report = load.finish().await;
    println!("while nodes came: {report:?}");

    // From here on only a few requests: not enough for four nodes.
    let trickle = grid.clone();
    let trickle = tokio::spawn(async move {
        for number in 0_u64.. {
            trickle.write("trickle", number).await.unwrap();
            assert_eq!(trickle.read("trickle").await.unwrap(), Some(number));
            tokio::time::sleep(TRICKLE_EVERY).await;
        }
    });
    until("the nodes that came have gone", async || {
        let table = table(&cluster).await;
        up(&table) == 3 && table.nodes.iter().filter(|node| node.state() == NodeState::Gone).count() == 2
    })
    .await;
    cluster.until_settled(3, |table| up(table) == 3).await;
    until("nothing is left of them", async || cluster.nodes.iter().all(|node| node.started().is_empty()))
        .await;
    assert!(!trickle.is_finished(), "a request failed while nodes went");
    trickle.abort();
    for key in 0..200 {
        assert_eq!(grid.read(&format!("settled-{key}")).await.unwrap(), Some(key), "settled-{key}");
    }
    let events = cluster.nodes[0].admin().events(EventsRequest {}).await.unwrap().into_inner().events;
    let texts: Vec<&str> = events.iter().map(|event| event.text.as_str()).collect();
    for expected in [
        "4 nodes are wanted instead of 3: there are many requests",
        "5 nodes are wanted instead of 4: there are many requests",
        "4 nodes are wanted instead of 5: no signal needs more",
        "3 nodes are wanted instead of 4: no signal needs more",
    ] {
        assert!(texts.iter().any(|text| text.starts_with(expected)), "{expected}: {texts:#?}");
    }
}

/// The same with the compose file and the one that is laid over it: a container comes, joins, gets copies, and goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_comes_with_the_load_and_goes_with_it() {
    let grids = ["grid-1", "grid-2", "grid-3"];
    let Some(composed) = Composed::up(&["compose.autoscale.yaml"], &grids, &ENVIRONMENT) else { return };
    for service in grids {
        until_healthy(&composed.container(service)).await;
    }
    let registers = OverResp::new(composed.addresses("GRID"));
    registers.write("settled", 1).await.unwrap();
    let load = Load::start(&registers, 6, SEED);
    let started = || composed.containers("label=trimaran.autoscaled=grid");
    until("a container is started", async || started().len() == 1).await;
    let address = format!("{}:7002", composed.ip(&started()[0]));
    until("it has copies", async || {
        let groups = status(&address).await.unwrap_or_default().groups;
        groups.iter().any(|group| group.group != 0 && group.state != "learner")
    })
    .await;
    println!("while a container came: {:?}", load.finish().await);
    until("it has gone again, and nothing of it is left", async || started().is_empty()).await;
    assert_eq!(registers.read("settled").await.unwrap(), Some(1));
}
