//! The grid against redis-server.
//!
//! One grid-node (in memory, one partition, one copy, one thread as redis-server has) against redis-server without persistence, both driven by
//! redis-benchmark in turns, several rounds; the median of the rounds' ratios counts. Needs redis-server and
//! redis-benchmark on the PATH (Debian: redis-server, redis-tools).

use std::process::Command;

use trimaran_tests::harness::process::{Cluster, free_port};

use crate::server::{median, start};

/// Commands of redis-benchmark.
const CASES: &[&str] = &["GET", "SET", "INCR", "LPUSH", "HSET", "ZADD", "MSET"];

/// Requests that a client sends at once.
const PIPELINES: &[usize] = &[1, 16];

const CLIENTS: usize = 50;

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

    println!("| case | redis-server, requests/s | grid-node, requests/s | grid / redis |\n|---|---|---|---|");
    for (&pipeline, &case) in
        PIPELINES.iter().flat_map(|pipeline| CASES.iter().map(move |case| (pipeline, case)))
    {
        let requests = if pipeline > 1 { requests_of_a_case * 10 } else { requests_of_a_case };
        let (mut theirs, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let their = measure(redis.port, case, pipeline, requests);
            let our = measure(grid_port, case, pipeline, requests);
            theirs.push(their);
            ours.push(our);
            ratios.push(our / their);
        }
        println!(
            "| {case}, {CLIENTS} clients, {pipeline} at once | {:.0} | {:.0} | {:.2} |",
            median(&mut theirs),
            median(&mut ours),
            median(&mut ratios)
        );
    }
}
