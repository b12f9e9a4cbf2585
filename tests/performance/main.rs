//! Speed, as ratios against peers in the same run: `just bench`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark that cannot go on panics, and tells what it sees"
)]

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

mod dynamodb;
mod engines;
mod etcd;
mod function;
mod grid;
mod grow;
mod idle;
mod restart;
mod scale;
mod server;
mod shard;
mod tables;
mod ycsb;

/// Side by side with peers.
#[derive(Parser)]
struct Args {
    /// What is measured; everything if absent
    what: Vec<What>,
    /// Rounds; each runs both sides once for every case
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Requests of a case of the grid without pipelining; ten times as many with it
    #[arg(long, default_value_t = 100_000)]
    requests: usize,
    /// Seconds of a case of the database and of functions
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Mebibytes of a copy of everything in the grid that grows
    #[arg(long, default_value_t = 128)]
    mib: u64,
    /// Where the plot of the grid that follows its load goes
    #[arg(long, default_value = "docs/scaling.svg")]
    plot: std::path::PathBuf,
    /// Be the bare server on this port
    #[arg(long, hide = true)]
    serve_hello: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The grid against redis-server
    Grid,
    /// The grid against etcd
    Etcd,
    /// The database against PostgreSQL and etcd
    Shard,
    /// The workloads of YCSB against the database
    Ycsb,
    /// The database on each of its engines; only if asked for
    Engines,
    /// A database that starts with many tables that have nothing in them
    Tables,
    /// Functions against `wasmtime serve` and a bare server
    Function,
    /// A grid that grows, against the same one while nothing moves
    Grow,
    /// Partitions that nobody asks anything
    Idle,
    /// A node that holds much: snapshots and a start after kill -9, against the same load before and its files
    Restart,
    /// A grid in containers that follows its load, as a plot; only if asked for
    Scale,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(port) = args.serve_hello {
        function::serve_hello(port).await;
    }
    let wanted = |what| args.what.is_empty() || args.what.contains(&what);
    if wanted(What::Grid) {
        grid::run(args.rounds, args.requests).await;
    }
    if wanted(What::Etcd) {
        etcd::run(args.rounds, args.seconds).await;
    }
    if wanted(What::Shard) {
        shard::run(args.rounds, args.seconds).await;
    }
    if wanted(What::Ycsb) {
        ycsb::run(args.rounds, args.seconds).await;
    }
    if args.what.contains(&What::Engines) {
        engines::run(args.rounds, args.seconds).await;
    }
    if wanted(What::Tables) {
        tables::run(args.rounds).await;
    }
    if wanted(What::Function) {
        function::run(args.rounds, args.seconds).await;
    }
    if wanted(What::Grow) {
        grow::run(args.mib, args.seconds).await;
    }
    if wanted(What::Restart) {
        restart::run(args.mib).await;
    }
    if wanted(What::Idle) {
        idle::run(args.seconds).await;
    }
    if args.what.contains(&What::Scale) {
        scale::run(&args.plot).await;
    }
    ExitCode::SUCCESS
}
