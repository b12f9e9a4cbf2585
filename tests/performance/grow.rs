//! A fourth node joins three, under a load of fixed rate: what is copied against the least that could be, and what
//! clients notice. The peer is the same cluster while nothing moves.
//!
//! Requests are due at fixed times, whether those before were answered or not, and their time counts from when they were
//! due: a stall is seen by all that wait in it ("coordinated omission", Tene 2013).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use trimaran_client::grid::Grid;
use trimaran_proto::api::cluster::EventsRequest;
use trimaran_proto::api::placement::{NodeState, Table};
use trimaran_tests::harness::process::Cluster;

const PARTITIONS: u64 = 8;
const VALUE_BYTES: usize = 1024;
/// Requests a second: half writes, half reads.
const RATE: u64 = 1000;
const TICK: Duration = Duration::from_millis(4);

/// When requests were due, and their times, microseconds.
#[derive(Default)]
pub(crate) struct Times(Vec<(Instant, u64)>);

impl Times {
    /// Milliseconds.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let mut times: Vec<u64> = self.0.iter().map(|(_, took)| *took).collect();
        times.sort_unstable();
        let at = ((times.len() as f64 * percent / 100.0) as usize).min(times.len() - 1);
        times[at] as f64 / 1000.0
    }

    /// Those that were due at such times, and the others.
    pub(crate) fn split(self, wanted: impl Fn(Instant) -> bool) -> (Self, Self) {
        let (these, others) = self.0.into_iter().partition(|(due, _)| wanted(*due));
        (Self(these), Self(others))
    }
}

pub(crate) async fn ask(grid: &Grid, key: u64, write: Option<usize>) {
    let name = format!("key-{key}");
    if let Some(bytes) = write {
        grid.set(name, vec![b'x'; bytes]).await.unwrap();
    } else {
        grid.get(name).await.unwrap();
    }
}

/// A load that runs.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    times: JoinHandle<Times>,
}

impl Load {
    /// Half writes of so many bytes, half reads.
    pub(crate) fn start(grid: &Grid, keys: u64, bytes: usize) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let times = tokio::spawn(ask_at_rate(grid.clone(), keys, bytes, Arc::clone(&stop)));
        Self { stop, times }
    }

    /// Stops it; the times of all of its requests.
    pub(crate) async fn stop(self) -> Times {
        self.stop.store(true, Ordering::Release);
        self.times.await.unwrap()
    }
}

async fn ask_at_rate(grid: Grid, keys: u64, bytes: usize, stop: Arc<AtomicBool>) -> Times {
    let mut random = StdRng::seed_from_u64(1);
    let times: Arc<Mutex<Times>> = Arc::default();
    let mut due = Instant::now();
    let mut running = JoinSet::new();
    while !stop.load(Ordering::Acquire) {
        sleep_until(due).await;
        for _ in 0..RATE * TICK.as_millis() as u64 / 1000 {
            let (grid, times) = (grid.clone(), Arc::clone(&times));
            let (key, write) = (random.random_range(0..keys), random.random_bool(0.5));
            running.spawn(async move {
                ask(&grid, key, write.then_some(bytes)).await;
                times.lock().0.push((due, due.elapsed().as_micros() as u64));
            });
        }
        due += TICK;
        while running.try_join_next().is_some() {}
    }
    running.join_all().await;
    std::mem::take(&mut times.lock())
}

fn is_balanced(table: &Table, nodes: usize) -> bool {
    let held = |node: u64| {
        let replicas = table.partitions.iter().flat_map(|partition| &partition.replicas);
        replicas.filter(|replica| replica.node_id == node).count()
    };
    let up = table.nodes.iter().filter(|node| node.state() == NodeState::Up);
    let loads: Vec<usize> = up.map(|node| held(node.id)).collect();
    loads.len() == nodes && loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1
}

pub(crate) async fn run(mib: u64, seconds: u64) {
    let mut cluster = Cluster::grid(3, "buffered", PARTITIONS).await;
    let grid = cluster.grid_client().await;
    let keys = fill(&grid, mib).await;
    let load = Load::start(&grid, keys, VALUE_BYTES);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let quiet = load.stop().await;
    let load = Load::start(&grid, keys, VALUE_BYTES);
    cluster.add().await;
    let added = Instant::now();
    cluster.until_settled(3, |table| is_balanced(table, 4)).await;
    let took = added.elapsed();
    let (starting, moving) = load.stop().await.split(|due| due < added);
    let events = cluster.nodes[0].admin().events(EventsRequest {}).await.unwrap().into_inner().events;
    let is_copy = |text: &str| text.contains("has moved") && text.contains(" to node");
    let copied = events.iter().filter(|event| is_copy(&event.text)).count() as u64;
    let least = PARTITIONS * 3 / 4;
    println!(
        "| a fourth grid-node, {mib} MiB a copy, {RATE} requests/s of 1 KiB | quiet | its process starts | it fills | ratio |"
    );
    println!("|---|---|---|---|---|");
    for percent in [50.0, 99.0, 99.9] {
        let [before, start, fills] = [&quiet, &starting, &moving].map(|times| times.percentile(percent));
        println!("| p{percent}, ms | {before:.2} | {start:.2} | {fills:.2} | {:.2} |", fills / before);
    }
    println!("| copies moved / least | | | {copied} / {least} | {:.2} |", copied as f64 / least as f64);
    println!("| balanced after, s | | | {:.1} | |", took.as_secs_f64());
}

/// Writes so many mebibytes, key after key. Returns how many keys.
pub(crate) async fn fill(grid: &Grid, mib: u64) -> u64 {
    let keys = mib * 1024 * 1024 / VALUE_BYTES as u64;
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let grid = grid.clone();
            tokio::spawn(async move {
                for key in (0..keys).filter(|key| key % 64 == writer) {
                    ask(&grid, key, Some(VALUE_BYTES)).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    keys
}
