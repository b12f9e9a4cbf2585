//! Speed, as ratios against peers in the same run: `just bench`.
//!
//! One grid-node (in memory, one partition, one copy) against redis-server without persistence, both driven by
//! redis-benchmark in turns, several rounds; the median of the rounds' ratios counts. Needs redis-server and
//! redis-benchmark on the PATH.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark that cannot go on panics, and tells what it sees"
)]

use std::process::{Child, Command, ExitCode, Stdio};

use clap::Parser;
use trimaran_tests::harness::process::{binary, free_port};
use trimaran_tests::harness::until;

/// Side by side with redis-server.
#[derive(Parser)]
struct Args {
    /// Rounds; each runs both servers once for every case
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Requests of a case without pipelining; ten times as many with it
    #[arg(long, default_value_t = 100_000)]
    requests: usize,
}

/// Command of redis-benchmark, and requests sent at once.
const CASES: &[(&str, usize)] =
    &[("SET", 1), ("GET", 1), ("INCR", 1), ("SET", 16), ("GET", 16), ("INCR", 16)];

const CLIENTS: usize = 50;

struct Server {
    port: u16,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

async fn start(program: &std::path::Path, port: u16, arguments: &[String]) -> Server {
    let child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
    let server = Server { port, child };
    until("the server answers", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok())
        .await;
    server
}

/// Requests per second, as redis-benchmark says.
fn measure(port: u16, case: &str, pipeline: usize, requests: usize) -> f64 {
    let output = Command::new("redis-benchmark")
        .args(["-p", &port.to_string(), "-t", &case.to_lowercase(), "-c", &CLIENTS.to_string()])
        .args(["-P", &pipeline.to_string(), "-n", &requests.to_string(), "-r", "100000", "--csv"])
        .output()
        .expect("redis-benchmark is on the PATH (Debian: redis-tools)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let row = text
        .lines()
        .find(|line| line.starts_with(&format!("\"{case}\"")))
        .unwrap_or_else(|| panic!("{text}"));
    row.split(',').nth(1).unwrap().trim_matches('"').parse().unwrap()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let redis_port = free_port();
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let redis_arguments = text(&["--port", &redis_port.to_string(), "--save", "", "--appendonly", "no"]);
    let redis = start("redis-server".as_ref(), redis_port, &redis_arguments).await;
    let grid_port = free_port();
    let listen = |port: u16| format!("127.0.0.1:{port}");
    let grid_arguments = text(&[
        "dev",
        "--in-memory",
        "--resp-listen",
        &listen(grid_port),
        "--grid-grpc-listen",
        &listen(free_port()),
        "--admin-listen",
        &listen(free_port()),
    ]);
    let grid = start(binary(), grid_port, &grid_arguments).await;

    println!("| case | redis-server, requests/s | grid-node, requests/s | grid / redis |\n|---|---|---|---|");
    for &(case, pipeline) in CASES {
        let requests = if pipeline > 1 { args.requests * 10 } else { args.requests };
        let (mut theirs, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            let their = measure(redis.port, case, pipeline, requests);
            let our = measure(grid.port, case, pipeline, requests);
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
    ExitCode::SUCCESS
}
