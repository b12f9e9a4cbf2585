//! A backup while the nodes that it comes from are killed: each partition is as it was at one moment, and has what was acknowledged
//! before it began.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use trimaran_client::grid::Grid;
use trimaran_tests::harness::process::{Cluster, binary};
use trimaran_tests::harness::until;

const WRITERS: usize = 8;
/// So that an export takes a while.
const BALLAST_KEYS: usize = 400;
const BALLAST_BYTES: usize = 256 << 10;

/// Writes one number after the other under two keys of one slot, always the same one first.
async fn write(grid: Grid, tag: usize, acknowledged: Arc<AtomicU64>, ends: Arc<AtomicBool>) {
    for number in 1.. {
        for key in ["first", "second"] {
            while let Err(error) = grid.set(format!("{{{tag}}}{key}"), number.to_string()).await {
                println!("{key} {tag}: {error}");
            }
        }
        acknowledged.store(number, Ordering::Release);
        if ends.load(Ordering::Acquire) {
            return;
        }
    }
}

async fn number(grid: &Grid, tag: usize, key: &str) -> u64 {
    let value = grid.get(format!("{{{tag}}}{key}")).await.unwrap().unwrap();
    std::str::from_utf8(&value).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_whole_though_its_nodes_are_killed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("grid.backup");
    let mut cluster = Cluster::grid(3, "memory", 3).await;
    let grid = cluster.grid_client().await;
    for at in 0..BALLAST_KEYS {
        grid.set(format!("ballast {at}"), vec![at as u8; BALLAST_BYTES]).await.unwrap();
    }
    let ends = Arc::new(AtomicBool::new(false));
    let (acknowledged, writers): (Vec<_>, Vec<_>) = (0..WRITERS)
        .map(|tag| {
            let acknowledged = Arc::new(AtomicU64::new(0));
            let writer = write(grid.clone(), tag, Arc::clone(&acknowledged), Arc::clone(&ends));
            (acknowledged, tokio::spawn(writer))
        })
        .unzip();
    let reached = |least: u64| acknowledged.iter().all(|reached| reached.load(Ordering::Acquire) > least);
    until("everything was written once", async || reached(0)).await;
    for victim in 0..cluster.nodes.len() {
        let before: Vec<u64> = acknowledged.iter().map(|reached| reached.load(Ordering::Acquire)).collect();
        let mut backup = Command::new(binary())
            .args(["grid", "--address", &cluster.addresses().join(","), "backup"])
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let aside = folder.path().join("grid.backup.partial");
        until("the backup is under way", async || {
            aside.metadata().is_ok_and(|file| file.len() > BALLAST_BYTES as u64)
                || backup.try_wait().unwrap().is_some()
        })
        .await;
        let was_under_way = backup.try_wait().unwrap().is_none();
        cluster.nodes[victim].kill();
        let output = tokio::task::spawn_blocking(move || backup.wait_with_output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        println!(
            "node {victim} killed, the backup {}: {}",
            if was_under_way { "under way" } else { "complete" },
            String::from_utf8_lossy(&output.stdout)
        );
        cluster.nodes[victim].start();
        cluster.until_complete().await;

        let into = Cluster::grid(1, "memory", 2).await;
        let restored = Command::new(binary())
            .args(["grid", "--address", &into.addresses()[0], "restore"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        let other = into.grid_client().await;
        for (tag, before) in before.into_iter().enumerate() {
            let (first, second) = (number(&other, tag, "first").await, number(&other, tag, "second").await);
            assert!(second >= before, "{tag}: {second} is there, {before} was acknowledged before");
            assert!(
                first == second || first == second + 1,
                "{tag}: {first} and {second} were never there together"
            );
        }
        for at in 0..BALLAST_KEYS {
            let value = other.get(format!("ballast {at}")).await.unwrap().unwrap();
            assert!(value.len() == BALLAST_BYTES && value.iter().all(|byte| *byte == at as u8), "{at}");
        }
    }
    ends.store(true, Ordering::Release);
    for writer in writers {
        writer.await.unwrap();
    }
}
