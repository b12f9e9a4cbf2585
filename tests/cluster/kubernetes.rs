//! A grid as a stateful set that changes its own scale: a pod comes with the load and goes with it, and a hook that knows a
//! pod that is to go from one that is only started anew. Kubernetes itself is stood in for, see `harness::pods`.

use std::sync::Arc;

use trimaran_proto::api::placement::{NodeState, Table};
use trimaran_tests::harness::pods::Pods;
use trimaran_tests::harness::process::status;
use trimaran_tests::harness::until;
use trimaran_tests::workload::foreign::OverResp;
use trimaran_tests::workload::registers::{Load, Registers as _};

const SEED: u64 = 23;

/// Two copies, so that one of three nodes may go.
const OPTIONS: [&str; 18] = [
    "--replication-factor",
    "2",
    "--partitions",
    "6",
    "--autoscale-min",
    "3",
    "--autoscale-max",
    "4",
    "--autoscale-cpu",
    "100",
    "--autoscale-operations",
    "15",
    "--autoscale-up-after-s",
    "2",
    "--autoscale-down-after-s",
    "8",
    "--autoscale-pause-s",
    "2",
];

async fn table(pods: &Pods) -> Table {
    let Some(address) = pods.address(0, 7002) else { return Table::default() };
    status(&address).await.unwrap_or_default().table.unwrap_or_default()
}

fn state(table: &Table, number: u32) -> Option<NodeState> {
    let address = format!("grid-{number}.grid:7002");
    // One that is gone may have had the name before.
    let newest = table
        .nodes
        .iter()
        .filter(|node| node.address == address)
        .max_by_key(|node| node.state() != NodeState::Gone);
    newest.map(trimaran_proto::api::placement::Node::state)
}

async fn until_up(pods: &Pods, count: u32) {
    until("nodes are up", async || {
        let table = table(pods).await;
        (0..count).all(|number| state(&table, number) == Some(NodeState::Up))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_comes_with_the_load_and_goes_with_it() {
    let Some(pods) = Pods::start(3, &OPTIONS).await else { return };
    until_up(&pods, 3).await;
    let addresses = (0..3).map(|number| pods.address(number, 6379).unwrap()).collect();
    let registers = OverResp::new(addresses);
    until("it takes writes", async || registers.write("settled", 1).await.is_ok()).await;
    let load = Load::start(&registers, 6, SEED);
    until("the set has grown", async || pods.replicas() == 4).await;
    until("the pod has joined", async || state(&table(&pods).await, 3) == Some(NodeState::Up)).await;
    until("it has copies", async || {
        let table = table(&pods).await;
        let id = table.nodes.iter().find(|node| node.address == "grid-3.grid:7002").map_or(0, |node| node.id);
        table.partitions.iter().flat_map(|found| &found.replicas).any(|replica| replica.node_id == id)
    })
    .await;
    println!("while a pod came: {:?}", load.finish().await);

    until("the set has shrunk", async || pods.replicas() == 3).await;
    until("nothing is left of the pod", async || pods.containers().len() == 3).await;
    assert_eq!(state(&table(&pods).await, 3), Some(NodeState::Gone));
    assert_eq!(registers.read("settled").await.unwrap(), Some(1));

    // A pod that is started anew is not drained; one that is to go is, whoever said so.
    let said = pods.pre_stop(1).await.unwrap();
    assert!(said.contains("stays in its stateful set"), "{said}");
    assert_eq!(state(&table(&pods).await, 1), Some(NodeState::Up));
    pods.say(2);
    // It ends with the container, or before it.
    let hook = tokio::spawn({
        let pods = Arc::clone(&pods);
        async move { pods.pre_stop(2).await }
    });
    until("the last pod is drained", async || state(&table(&pods).await, 2) == Some(NodeState::Gone)).await;
    let _said = hook.await.unwrap();
    let rest = OverResp::new((0..2).map(|number| pods.address(number, 6379).unwrap()).collect());
    assert_eq!(rest.read("settled").await.unwrap(), Some(1));
}
