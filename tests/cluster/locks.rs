//! Locks while the nodes that keep them are killed, stand still and are restarted: nobody has one at the same time as another,
//! what is written under it is neither lost nor written over, and it is always somebody's turn again.

use std::sync::atomic::Ordering;

use trimaran_proto::api::placement::{NodeState, Table};
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::{skip, until};
use trimaran_tests::workload::locks::Locks;

const CLIENTS: usize = 5;

async fn goes_on(locks: &Locks) {
    let before = locks.acknowledged.load(Ordering::Acquire);
    let what = "numbers are written under the lock";
    until(what, async || locks.acknowledged.load(Ordering::Acquire) > before + 50).await;
}

async fn a_lock_is_held_by_one(durability: &str) {
    let mut cluster = Cluster::grid(3, durability, 2).await;
    let grid = cluster.grid_client().await;
    let locks = Locks::start(&grid, CLIENTS);
    goes_on(&locks).await;
    for victim in cluster.leaders_first().await {
        cluster.nodes[victim].kill();
        goes_on(&locks).await;
        cluster.nodes[victim].start();
        cluster.until_complete().await;
        goes_on(&locks).await;
    }
    // It still takes itself for the leader when it goes on, and has clients that wait at it.
    let victim = cluster.leaders_first().await[0];
    let id = cluster.ids().await[victim];
    cluster.nodes[victim].pause();
    goes_on(&locks).await;
    let is_up =
        move |table: &Table| table.nodes.iter().any(|node| node.id == id && node.state() == NodeState::Up);
    cluster.nodes[victim].resume();
    cluster.until_settled(3, is_up).await;
    goes_on(&locks).await;
    // Each comes back with another clock, and leads after a while: no lease ends for it.
    for (at, offset) in ["+3600", "-3600", "+86400"].into_iter().enumerate() {
        assert!(cluster.nodes[at].stop(), "{}", cluster.nodes[at].log());
        goes_on(&locks).await;
        if cluster.nodes[at].with_clock() {
            cluster.nodes[at].set_clock(offset);
        } else {
            skip("libfaketime is not here");
        }
        cluster.nodes[at].start();
        cluster.until_complete().await;
    }
    let report = locks.finish().await;
    println!("{durability}: {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_a_grid_in_memory_is_held_by_one() {
    a_lock_is_held_by_one("memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_a_buffered_grid_is_held_by_one() {
    a_lock_is_held_by_one("buffered").await;
}
