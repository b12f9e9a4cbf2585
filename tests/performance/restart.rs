//! A node that holds much, alone: what writers notice while its partitions are written to snapshots, against the same load
//! before, and how long it takes to start again after kill -9, against reading its files.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use trimaran_tests::harness::process::Cluster;

use crate::grow::{Load, fill};

const PARTITIONS: u64 = 8;

/// Large enough for logs to grow by what makes a snapshot due, while the rate stays what it is.
const WRITE_BYTES: usize = 16 << 10;

/// Keys that are written again: the data grows by this little.
const KEYS: u64 = 4096;

/// As long as it takes until every partition has had one.
const SNAPSHOTS_TAKE: Duration = Duration::from_secs(75);

/// Reads every file under a folder. Returns how many bytes there were.
fn read_all(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            bytes += read_all(&entry.path());
        } else {
            bytes += std::fs::read(entry.path()).unwrap().len() as u64;
        }
    }
    bytes
}

pub(crate) async fn run(mib: u64, seconds: u64) {
    let mut cluster = Cluster::grid(1, "buffered", PARTITIONS).await;
    let grid = cluster.grid_client().await;
    fill(&grid, mib).await;
    // What filling has made due is written by then.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let snapshots = |cluster: &Cluster| {
        let files = std::fs::read_dir(cluster.nodes[0].data().join("snapshots")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().modified().unwrap()).collect::<Vec<_>>()
    };
    let load = Load::start(&grid, KEYS, WRITE_BYTES);
    let before = snapshots(&cluster);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (is_quiet, changed) = (snapshots(&cluster) == before, Instant::now());
    tokio::time::sleep(SNAPSHOTS_TAKE).await;
    let (quiet, writing) = load.stop().await.split(changed);
    let after = snapshots(&cluster);
    let made = after.iter().filter(|at| !before.contains(at)).count();
    println!("| a grid-node alone, {mib} MiB | quiet | {made} snapshots are written | ratio |");
    println!("|---|---|---|---|");
    for percent in [50.0, 99.0, 99.9, 100.0] {
        let (before, after) = (quiet.percentile(percent), writing.percentile(percent));
        println!("| p{percent}, ms | {before:.2} | {after:.2} | {:.2} |", after / before);
    }
    if !is_quiet {
        println!("(a snapshot was written in the quiet time too)");
    }
    cluster.nodes[0].kill();
    let began = Instant::now();
    let bytes = read_all(&cluster.nodes[0].data());
    let floor = began.elapsed();
    let began = Instant::now();
    cluster.nodes[0].start();
    cluster.nodes[0].until_ready().await;
    let took = began.elapsed();
    println!(
        "| ready after kill -9, s; its {} MiB of files are read in | {:.2} | {:.2} | {:.1} |",
        bytes >> 20,
        floor.as_secs_f64(),
        took.as_secs_f64(),
        took.as_secs_f64() / floor.as_secs_f64()
    );
    let log = cluster.nodes[0].log();
    for line in log.lines().filter(|line| line.contains("percent")) {
        println!("{line}");
    }
}
