//! The compose file as it is, in containers: clients write without pause while each container in turn is killed with
//! -9 and started again. Where there is no Docker engine, or no image to build on, it says so and does nothing.

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use trimaran_client::functions::Functions;
use trimaran_tests::harness::compose::{Composed, docker, until_healthy};
use trimaran_tests::harness::until;
use trimaran_tests::workload::foreign::{OverDynamoDb, OverFunction, OverResp};
use trimaran_tests::workload::registers::{Load, Registers};

use crate::trio_kill::deploy_probe;

async fn every_container_is_killed_in_turn<R: Registers>(
    composed: &Composed,
    kind: &str,
    count: usize,
    registers: &R,
) {
    let load = Load::start(registers, 6, 1);
    let acknowledged = || load.acknowledged.load(Ordering::Acquire);
    until("clients write", async || acknowledged() > 100).await;
    for number in 1..=count {
        let container = composed.container(&format!("{kind}-{number}"));
        let before = acknowledged();
        docker(&["kill", "--signal", "KILL", &container]).unwrap();
        let died = Instant::now();
        until("writes go on", async || acknowledged() > before + 50).await;
        println!("{kind}-{number} killed, 50 more writes after {:?}", died.elapsed());
        docker(&["start", &container]).unwrap();
        until_healthy(&container).await;
        let now = acknowledged();
        until("clients write with all nodes back", async || acknowledged() > now + 100).await;
    }
    println!("{kind}: {:?}", load.finish().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_each_container_of_the_compose_file_is_killed_in_turn() {
    let Some(composed) = Composed::up(&[], &[], &[]) else { return };
    for (kind, count) in [("grid", 3), ("shard", 3), ("function", 2)] {
        for number in 1..=count {
            until_healthy(&composed.container(&format!("{kind}-{number}"))).await;
        }
    }
    every_container_is_killed_in_turn(&composed, "grid", 3, &OverResp::new(composed.addresses("GRID"))).await;
    let registers = OverDynamoDb::new(composed.addresses("SHARD"));
    registers.create().await.unwrap();
    every_container_is_killed_in_turn(&composed, "shard", 3, &registers).await;
    // An empty table again: whoever comes next must find nothing.
    registers.delete().await.unwrap();
    until("the table is made again", async || registers.create().await.is_ok()).await;
    // A function on top of both, deployed through one node and called through both.
    deploy_probe(&Functions::connect(composed.addresses("API").into_iter().take(1)).unwrap()).await;
    let registers = OverFunction::new(composed.addresses("FUNCTION"));
    every_container_is_killed_in_turn(&composed, "function", 2, &registers).await;
}
