//! A node that holds much, alone: what writers notice while its partitions are written to snapshots, against the same load
//! before, and how long it takes to start again after kill -9, against reading its files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use trimaran_tests::harness::process::Cluster;

use crate::grow::{Load, ask, fill};

const PARTITIONS: u64 = 8;

/// Large enough for logs to grow by what makes a snapshot due, while the rate stays what it is.
const WRITE_BYTES: usize = 16 << 10;

/// Keys that are written again: the data grows by this little.
const KEYS: u64 = 4096;

/// As long as it takes until every partition has had one.
const SNAPSHOTS_TAKE: Duration = Duration::from_secs(60);

/// How often it is looked whether a snapshot is being written.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Reads every file under a folder. Returns how many bytes there were.
pub(crate) fn read_all(folder: &Path) -> u64 {
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

/// When snapshots were being written, from and to; one is written under a name of its own first.
async fn watch(folder: PathBuf, until: Instant) -> Vec<(Instant, Instant)> {
    let mut spans: Vec<(Instant, Instant)> = Vec::new();
    let mut open = None;
    while Instant::now() < until {
        let names = std::fs::read_dir(&folder).unwrap();
        let is_writing = names.flatten().any(|entry| !entry.file_name().to_string_lossy().ends_with(FINAL));
        match (is_writing, open) {
            (true, None) => open = Some(Instant::now() - LOOK_EVERY),
            (false, Some(from)) => {
                spans.push((from, Instant::now()));
                open = None;
            }
            _ => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    spans
}

/// A line of a log without its colours.
fn plain(line: &str) -> String {
    line.split('\u{1b}')
        .map(|part| part.split_once('m').filter(|_| part.starts_with('[')).map_or(part, |(_, text)| text))
        .collect()
}

/// How the name of a snapshot ends that is whole.
const FINAL: &str = ".snapshot";

pub(crate) async fn run(mib: u64) {
    let mut cluster = Cluster::grid(1, "buffered", PARTITIONS).await;
    let grid = cluster.grid_client().await;
    let keys = fill(&grid, mib).await;
    // What filling has made due is written by then.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let filling = cluster.nodes[0].log();
    let load = Load::start(&grid, KEYS, WRITE_BYTES);
    let spans = watch(cluster.nodes[0].data().join("snapshots"), Instant::now() + SNAPSHOTS_TAKE).await;
    let is_within = |due: Instant| spans.iter().any(|&(from, to)| from <= due && due <= to);
    let (writing, quiet) = load.stop().await.split(is_within);
    let took: Duration = spans.iter().map(|&(from, to)| to - from).sum();
    println!(
        "| a grid-node alone, {mib} MiB | quiet | {} snapshots are written, {:.1} s | ratio |",
        spans.len(),
        took.as_secs_f64()
    );
    println!("|---|---|---|---|");
    for percent in [50.0, 99.0, 99.9, 100.0] {
        let (before, after) = (quiet.percentile(percent), writing.percentile(percent));
        println!("| p{percent}, ms | {before:.2} | {after:.2} | {:.2} |", after / before);
    }
    let log = cluster.nodes[0].log();
    cluster.nodes[0].kill();
    let began = Instant::now();
    let bytes = read_all(&cluster.nodes[0].data());
    let floor = began.elapsed();
    let began = Instant::now();
    cluster.nodes[0].start();
    cluster.nodes[0].until_ready().await;
    // Until every partition answers.
    for key in (0..keys).step_by(usize::try_from(keys / 256).unwrap_or(1)) {
        ask(&grid, key, None).await;
    }
    let took = began.elapsed();
    println!(
        "| every partition answers after kill -9, s; its {} MiB of files are read in | {:.2} | {:.2} | {:.1} |",
        bytes >> 20,
        floor.as_secs_f64(),
        took.as_secs_f64(),
        took.as_secs_f64() / floor.as_secs_f64()
    );
    println!(
        "writes waited for snapshots, µs at most: {} while it was filled, {} under the load; lines of the log that tell how far the start is: {}",
        longest_wait(&filling),
        longest_wait(&log[filling.len()..]),
        cluster.nodes[0].log().matches("percent").count()
    );
}

/// The longest that writes waited for a snapshot, as a log tells, microseconds.
fn longest_wait(log: &str) -> u64 {
    let waited = |line: String| {
        let digits = line.split_once("writes_waited_us=")?.1;
        digits.split(|found: char| !found.is_ascii_digit()).next()?.parse().ok()
    };
    log.lines().map(plain).filter_map(waited).max().unwrap_or_default()
}
