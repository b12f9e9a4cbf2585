//! The `trimaran` command: starts nodes, and talks to them.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its user")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cluster;
mod db;
mod dev;
mod function_node;
mod functions;
mod grid;
mod grid_node;
mod health;
mod node;
mod output;
mod shard_node;

/// The grid makes and drops small allocations all the time: with glibc's allocator more than a third of its CPU went
/// there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// After how long memory that was given back is the system's again, milliseconds. With the default of a second a node that is filled keeps
/// a third of its memory, of tables that have grown, for nothing.
const PURGE_DELAY_MS: std::ffi::c_long = 10;

/// `mi_option_purge_delay` of mimalloc's header; the bindings do not name it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

#[allow(unsafe_code, reason = "an option of the allocator, for which there is no other call")]
fn give_memory_back_soon() {
    // SAFETY: it sets a number in a table that is always there; no other thread has been started.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) }
}

/// The allocator asks for huge pages, most of which stay empty. With them an idle node of the database took 98 MB instead of
/// 57 and one under load 250 instead of 190; a grid-node with a million keys 249 instead of 212; none was faster.
fn take_memory_in_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        eprintln!("warning: this process will take more memory than it needs: {error}");
    }
}

/// A serverless backend that you run yourself.
#[derive(Parser)]
#[command(name = "trimaran", version, arg_required_else_help = true, after_help = "Begin with: trimaran dev")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything in one process, for development
    Dev(dev::Args),
    /// Start a node that runs functions
    FunctionNode(Box<function_node::Args>),
    /// Start a node of the memory data grid
    GridNode(Box<grid_node::Args>),
    /// Start a node of the database
    ShardNode(Box<shard_node::Args>),
    /// Make functions, call them, read their logs
    Functions(functions::Args),
    /// Read and write keys of a grid
    Grid(grid::Args),
    /// Make tables, read and write items of a database
    Db(db::Args),
    /// Ask a node whether it takes requests
    Health(health::Args),
    /// Look at a cluster; move, drain and remove what is in it
    Cluster(cluster::Args),
}

fn main() -> ExitCode {
    give_memory_back_soon();
    let cli = Cli::parse();
    if let Command::GridNode(_) | Command::ShardNode(_) = &cli.command {
        take_memory_in_small_pages();
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::GridNode(args) = &cli.command {
        runtime.worker_threads(args.threads().get());
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Dev(args) => dev::run(args).await,
            Command::FunctionNode(args) => function_node::run(*args).await,
            Command::Functions(args) => functions::run(args).await,
            Command::GridNode(args) => grid_node::run(*args).await,
            Command::ShardNode(args) => shard_node::run(*args).await,
            Command::Db(args) => db::run(args).await,
            Command::Grid(args) => grid::run(args).await,
            Command::Health(args) => health::run(args).await,
            Command::Cluster(args) => cluster::run(args).await,
        }
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // The whole chain, in one line: each cause says what the one before could not know.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
