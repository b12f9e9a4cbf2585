//! `trimaran dev`: everything in one process. The same code as a cluster, with one copy of everything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use trimaran_client::functions::{Functions, Runtime, Spec};
use trimaran_function_node::config::Options as FunctionOptions;
use trimaran_grid_node::config::{Durability, Options as GridOptions};
use trimaran_service::admin::{self, Readiness};
use trimaran_service::{shutdown, telemetry};
use trimaran_shard_node::config::Options as ShardOptions;

/// The example that is there from the first start, and its name.
const EXAMPLE: &[u8] = include_bytes!("../../examples/link-shortener/component.wasm");
const EXAMPLE_NAME: &str = "shorten";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where data is kept; starting again finds it
    #[arg(long, value_name = "FOLDER", default_value = "./trimaran-data", conflicts_with = "in_memory")]
    data_folder: PathBuf,
    /// Keep nothing on disk
    #[arg(long)]
    in_memory: bool,
    /// Where functions are called over HTTP
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    http_listen: SocketAddr,
    /// Where gRPC clients of functions connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7001")]
    function_grpc_listen: SocketAddr,
    /// Where Redis clients connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:6379")]
    resp_listen: SocketAddr,
    /// Where commands of Redis are taken over HTTP
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8079")]
    grid_http_listen: SocketAddr,
    /// Where gRPC clients of the grid connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7002")]
    grid_grpc_listen: SocketAddr,
    /// Where DynamoDB clients connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000")]
    dynamodb_listen: SocketAddr,
    /// Where gRPC clients of the database connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7003")]
    shard_grpc_listen: SocketAddr,
    /// Where liveness, readiness and metrics are served over HTTP
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9090")]
    admin_listen: SocketAddr,
    /// Do not deploy the example
    #[arg(long)]
    no_example: bool,
    /// What to log, as in RUST_LOG
    #[arg(long, default_value = "warn")]
    log: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::install_logs(&args.log, telemetry::LogFormat::Text);
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    let readiness = Readiness::default();
    let admin_listener = trimaran_net::listen::listen(args.admin_listen, "--admin-listen")?;
    let folder = |kind: &str| (!args.in_memory).then(|| args.data_folder.join(kind));
    // One copy on one machine: more groups would only make the batches of each smaller.
    let grid = GridOptions {
        data_folder: folder("grid"),
        resp_listen: args.resp_listen,
        http_listen: args.grid_http_listen,
        grpc_listen: args.grid_grpc_listen,
        bootstrap: Some(1),
        partitions: 1,
        replication_factor: 1,
        durability: if args.in_memory { Durability::Memory } else { Durability::Buffered },
        ..GridOptions::default()
    };
    let shard = ShardOptions {
        data_folder: folder("shard"),
        dynamodb_listen: args.dynamodb_listen,
        grpc_listen: args.shard_grpc_listen,
        bootstrap: Some(1),
        partitions: 1,
        replication_factor: 1,
        ..ShardOptions::default()
    };
    // Each has its own readiness; the process is ready when all are. Functions use the other two until their end.
    let stop_stores = CancellationToken::new();
    let (grid, shard) = tokio::try_join!(
        async {
            let started =
                trimaran_grid_node::node::Node::start(grid, Readiness::default(), stop_stores.clone()).await;
            started.map_err(|error| with_flags(error, "grid"))
        },
        async {
            let started =
                trimaran_shard_node::node::Node::start(shard, Readiness::default(), stop_stores.clone())
                    .await;
            started.map_err(|error| with_flags(error, "shard"))
        },
    )?;
    let function = FunctionOptions {
        data_folder: folder("function"),
        http_listen: args.http_listen,
        grpc_listen: args.function_grpc_listen,
        grid: vec![grid.grpc.to_string()],
        database: vec![shard.grpc.to_string()],
        redis_url: format!("redis://{}", grid.resp),
        redis_rest_url: format!("http://{}", grid.http),
        dynamodb_url: format!("http://{}", shard.dynamodb),
        ..FunctionOptions::default()
    };
    let function = trimaran_function_node::node::Node::start(function, Readiness::default(), stop.clone())
        .await
        .map_err(|error| with_flags(error, "function"))?;
    if !args.no_example {
        example(&function.grpc.to_string()).await.context("the example cannot be deployed (--no-example)")?;
    }
    readiness.set(true);
    let admin = admin::serve(admin_listener, readiness.clone(), telemetry::install_metrics(), stop.clone());
    let admin = tokio::spawn(admin);
    let kept = if args.in_memory {
        "in memory only".to_owned()
    } else {
        format!("in {}", args.data_folder.display())
    };
    let try_example = if args.no_example {
        String::new()
    } else {
        format!(
            "Try the example, a link shortener that uses all three (examples/link-shortener):\n\n  \
             curl -X PUT -d https://www.rust-lang.org http://{http}/{EXAMPLE_NAME}/rust\n  \
             curl -i http://{http}/{EXAMPLE_NAME}/rust\n  \
             curl http://{http}/{EXAMPLE_NAME}/rust/clicks\n  \
             trimaran functions --address {grpc} logs {EXAMPLE_NAME}\n\n",
            http = function.http,
            grpc = function.grpc,
        )
    };
    println!(
        "Trimaran is ready; data is kept {kept}.\n\n  \
         functions HTTP            curl http://{http}/<function>/\n            \
                   gRPC            trimaran functions --address {function_grpc} list\n  \
         grid      Redis protocol  redis-cli -p {resp}\n            \
                   HTTP            curl http://{grid_http}/set/greeting/hello\n            \
                   gRPC            trimaran grid --address {grid_grpc} set greeting hello\n  \
         database  DynamoDB API    AWS_ENDPOINT_URL_DYNAMODB=http://{dynamodb}\n            \
                   gRPC            trimaran db --address {shard_grpc} create-table links --partition-key code:S\n  \
         admin     HTTP            curl http://{admin}/metrics\n\n\
         {try_example}\
         Ctrl-C drains and stops.",
        http = function.http,
        function_grpc = function.grpc,
        resp = grid.resp.port(),
        grid_http = grid.http,
        grid_grpc = grid.grpc,
        dynamodb = shard.dynamodb,
        shard_grpc = shard.grpc,
        admin = args.admin_listen,
    );
    stop.cancelled().await;
    readiness.set(false);
    println!("Draining …");
    function.stopped().await;
    stop_stores.cancel();
    let (grid, shard) = tokio::join!(grid.stopped(), shard.stopped());
    grid?;
    shard?;
    admin.await?.context("the admin server failed")?;
    println!("Stopped.");
    Ok(ExitCode::SUCCESS)
}

/// Deploys the example, unless there is a function of its name: it may be the user's by now.
async fn example(address: &str) -> anyhow::Result<()> {
    let functions = Functions::connect([address])?;
    let there = functions.list().await?;
    if there.iter().all(|function| function.name != EXAMPLE_NAME) {
        let component = bytes::Bytes::from_static(EXAMPLE);
        functions.deploy(EXAMPLE_NAME, Spec::new(Runtime::Wasm), component).await?;
    }
    Ok(())
}

/// A node names its own flag; where several nodes have one of that name, it is named after the node here.
fn with_flags(error: impl std::error::Error + Send + Sync + 'static, node: &str) -> anyhow::Error {
    let mut text = format!("{:#}", anyhow::Error::from(error));
    text = text.replace("--grpc-listen", &format!("--{node}-grpc-listen"));
    if node == "grid" {
        text = text.replace("--http-listen", "--grid-http-listen");
    }
    anyhow::anyhow!(text)
}
