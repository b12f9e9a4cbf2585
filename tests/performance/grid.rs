//! The grid against redis-server.
//!
//! One grid-node (in memory, one partition, one copy, one thread as redis-server has) against redis-server without persistence, both driven by
//! redis-benchmark in turns, several rounds; the median of the rounds' ratios counts. Needs redis-server and
//! redis-benchmark on the PATH (Debian: redis-server, redis-tools).

use std::process::Command;
use std::time::Duration;

use trimaran_tests::harness::process::{Cluster, free_port};

use crate::server::{median, memory_bytes, processor_us, start};

/// Commands of redis-benchmark.
const CASES: &[&str] = &["GET", "SET", "INCR", "LPUSH", "HSET", "ZADD", "MSET"];

/// Requests that a client sends at once.
const PIPELINES: &[usize] = &[1, 16];

const CLIENTS: usize = 50;

/// For what a key takes in memory.
const KEYS: usize = 1_000_000;
const BATCH: usize = 1000;

/// Requests per second, as redis-benchmark says.
fn measure(port: u16, case: &str, pipeline: usize, requests: usize) -> f64 {
    let output = Command::new("redis-benchmark")
        .args(["-p", &port.to_string(), "-t", &case.to_lowercase(), "-c", &CLIENTS.to_string()])
        .args(["-P", &pipeline.to_string(), "-n", &requests.to_string(), "-r", "100000", "--csv"])
        .output()
        .expect("redis-benchmark is on the PATH (Debian: redis-tools)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // It calls some of them by more than their name: "MSET (10 keys)".
    let row =
        text.lines().find(|line| line.starts_with(&format!("\"{case}"))).unwrap_or_else(|| panic!("{text}"));
    row.split(',').nth(1).unwrap().trim_matches('"').parse().unwrap()
}

/// Prints a row a case.
pub(crate) async fn run(rounds: usize, requests_of_a_case: usize) {
    let redis_port = free_port();
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let redis_arguments = text(&["--port", &redis_port.to_string(), "--save", "", "--appendonly", "no"]);
    let redis = start("redis-server".as_ref(), redis_port, &redis_arguments).await;
    let grid = Cluster::grid_with(1, 1, &["--durability", "memory", "--threads", "1"]).await;
    let grid_port = grid.nodes[0].front.rsplit(':').next().unwrap().parse().unwrap();

    println!(
        "| case | redis-server, requests/s | grid-node, requests/s | grid / redis | processor, µs a request of each |\n\
         |---|---|---|---|---|"
    );
    for (&pipeline, &case) in
        PIPELINES.iter().flat_map(|pipeline| CASES.iter().map(move |case| (pipeline, case)))
    {
        let requests = if pipeline > 1 { requests_of_a_case * 10 } else { requests_of_a_case };
        let (mut theirs, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut their_us, mut our_us) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let costs = |process: u32, port: u16, all: &mut Vec<f64>| {
                let before = processor_us(process);
                let rate = measure(port, case, pipeline, requests);
                all.push((processor_us(process) - before) / requests as f64);
                rate
            };
            let their = costs(redis.id(), redis.port, &mut their_us);
            let our = costs(grid.nodes[0].id(), grid_port, &mut our_us);
            theirs.push(their);
            ours.push(our);
            ratios.push(our / their);
        }
        println!(
            "| {case}, {CLIENTS} clients, {pipeline} at once | {:.0} | {:.0} | {:.2} | {:.2} / {:.2} |",
            median(&mut theirs),
            median(&mut ours),
            median(&mut ratios),
            median(&mut their_us),
            median(&mut our_us)
        );
    }
    drop((redis, grid));

    let redis = start("redis-server".as_ref(), redis_port, &redis_arguments).await;
    let grid = Cluster::grid_with(1, 1, &["--durability", "memory", "--threads", "1"]).await;
    let theirs = bytes_a_key(redis.id(), &format!("127.0.0.1:{redis_port}")).await;
    let ours = bytes_a_key(grid.nodes[0].id(), &grid.nodes[0].front).await;
    println!(
        "\n{KEYS} keys of 16 bytes with values of 3, bytes of memory each: redis-server {theirs:.0}, grid-node {ours:.0} \
         (log and all): {:.2} times as much",
        ours / theirs
    );
}

/// What memory grows by with a million keys, the kernel's account of the process; those that came before them are forgotten first.
async fn bytes_a_key(process: u32, address: &str) -> f64 {
    let client = redis::Client::open(format!("redis://{address}")).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let before = memory_bytes(process);
    for batch in (0..KEYS).step_by(BATCH) {
        let mut pipeline = redis::pipe();
        for key in batch..batch + BATCH {
            pipeline.set(format!("key:{key:012}"), "xxx").ignore();
        }
        pipeline.exec_async(&mut redis).await.unwrap();
    }
    // A log that has become too long is cut within a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    (memory_bytes(process) - before) / KEYS as f64
}
