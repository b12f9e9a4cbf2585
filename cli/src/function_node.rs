//! `trimaran function-node`: one node that runs functions.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use trimaran_function_node::config::Options;
use trimaran_function_node::node::Node;
use trimaran_service::config;

use crate::node;

/// Options are taken from defaults, then from --config, then from the environment (TRIMARAN_FUNCTION_GRPC_LISTEN and so
/// on), then from these flags.
#[derive(clap::Args, Serialize)]
pub(crate) struct Args {
    /// TOML file with options, named as the flags with underscores
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where code is unpacked and compiled; nothing that is not in the database too [default: ./trimaran-data/function]
    #[arg(long, value_name = "FOLDER", conflicts_with = "in_memory")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_folder: Option<PathBuf>,
    /// Keep code in a folder that is removed with the process
    #[arg(long)]
    #[serde(skip)]
    in_memory: bool,
    /// Where functions are called over HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    http_listen: Option<SocketAddr>,
    /// Where gRPC clients connect [default: 127.0.0.1:7001]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_listen: Option<SocketAddr>,
    /// Where liveness, readiness and metrics are served over HTTP [default: 127.0.0.1:9090]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_listen: Option<SocketAddr>,
    /// gRPC addresses of grid nodes; a DNS name may stand for several [default: 127.0.0.1:7002]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    grid: Vec<String>,
    /// gRPC addresses of shard nodes; a DNS name may stand for several [default: 127.0.0.1:7003]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    database: Vec<String>,
    /// What processes find in REDIS_URL [default: redis://127.0.0.1:6379]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_url: Option<String>,
    /// What processes find in UPSTASH_REDIS_REST_URL [default: http://127.0.0.1:8079]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_rest_url: Option<String>,
    /// What processes find in AWS_ENDPOINT_URL_DYNAMODB [default: http://127.0.0.1:8000]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    dynamodb_url: Option<String>,
    /// FUNCTION.DOMAIN is a function's host name, besides /FUNCTION/ as its path [default: localhost]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    /// Instances of components at once on this node [default: 1000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    wasm_instances_max: Option<u32>,
    /// What to log, as in RUST_LOG [default: info]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// How to log [default: text]
    #[arg(long, value_name = "text|json")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<String>,
}

/// Environment variables of a function node begin with this.
const ENV_PREFIX: &str = "TRIMARAN_FUNCTION_";

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut options: Options = config::load(args.config.as_deref(), ENV_PREFIX, &args)?;
    if args.in_memory {
        options.data_folder = None;
    }
    let log = options.log.clone();
    node::run(options.admin_listen, (&log, options.log_format), async |readiness, stop| {
        let node = Node::start(options, readiness, stop).await?;
        Ok(async {
            node.stopped().await;
            Ok(())
        })
    })
    .await
}
