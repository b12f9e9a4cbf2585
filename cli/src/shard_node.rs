//! `trimaran shard-node`: one node of a database.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use trimaran_service::config;
use trimaran_shard_node::config::{ENV_PREFIX, Options};
use trimaran_shard_node::node::Node;

use crate::node;

/// Options are taken from defaults, then from --config, then from the environment (TRIMARAN_SHARD_GRPC_LISTEN and so
/// on), then from these flags.
#[derive(clap::Args, Serialize)]
pub(crate) struct Args {
    /// TOML file with options, named as the flags with underscores
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where the node keeps its identity, log and rows [default: ./trimaran-data/shard]
    #[arg(long, value_name = "FOLDER", conflicts_with = "in_memory")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_folder: Option<PathBuf>,
    /// Keep nothing on disk; the cluster is gone with its processes
    #[arg(long)]
    #[serde(skip)]
    in_memory: bool,
    /// Where DynamoDB clients connect [default: 127.0.0.1:8000]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    dynamodb_listen: Option<SocketAddr>,
    /// Whether their requests have to be signed with a key of `trimaran db access-key`, or any keys will do [default: ignored]
    #[arg(long, value_name = "ignored|required")]
    #[serde(skip_serializing_if = "Option::is_none")]
    dynamodb_signatures: Option<String>,
    /// Whether tables with provisioned throughput are kept to it, as DynamoDB does, or may be asked for more [default: ignored]
    #[arg(long, value_name = "ignored|enforced")]
    #[serde(skip_serializing_if = "Option::is_none")]
    provisioned_throughput: Option<String>,
    /// Reads that this node lets through, capacity units per second [default: any]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(skip_serializing_if = "Option::is_none")]
    read_units: Option<u64>,
    /// Writes that this node lets through, capacity units per second [default: any]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(skip_serializing_if = "Option::is_none")]
    write_units: Option<u64>,
    /// Where gRPC clients and other nodes connect [default: 127.0.0.1:7003]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_listen: Option<SocketAddr>,
    /// Where liveness, readiness and metrics are served over HTTP [default: 127.0.0.1:9090]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_listen: Option<SocketAddr>,
    /// How others reach --grpc-listen [default: as it is]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,
    /// gRPC addresses of other nodes; a DNS name may stand for several
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    join: Vec<String>,
    /// Found a new cluster together with others, N nodes in all; each is started with the same N
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap: Option<usize>,
    /// Partitions of a new cluster [default: 4]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    partitions: Option<u64>,
    /// Copies of each partition in a new cluster [default: 3]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_factor: Option<u32>,
    /// What rows are kept in; a data folder stays with the engine that made it [default: fjall]
    #[arg(long, value_name = "fjall|sled")]
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    /// How long another node may be silent before its copies are made anew elsewhere, seconds [default: 300]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    replace_after_s: Option<u64>,
    /// A partition that holds more than this is split in two, mebibytes [default: 512]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    split_above_mib: Option<u64>,
    /// A partition that is asked more than this for long is split in two, reads and writes a second [default: 20000]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    split_above_operations: Option<u64>,
    /// Two partitions that were one become one again if both are small and asked next to nothing for so long, seconds;
    /// 0 = never [default: 600]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    merge_after_s: Option<u64>,
    /// How the number of nodes follows the load
    #[command(flatten)]
    autoscale: node::Autoscale,
    /// When asked to stop, move everything away first: the node does not come back. A second signal stops at once
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    drain: bool,
    /// Nodes of one zone fail together; copies are spread over zones
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    /// Share of the copies that this node should have, against others, 1 to 100 [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    /// What to log, as in RUST_LOG [default: info]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// How to log [default: text]
    #[arg(long, value_name = "text|json")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut options: Options = config::load(args.config.as_deref(), ENV_PREFIX, &args)?;
    if args.in_memory {
        options.data_folder = None;
    }
    let log = options.log.clone();
    node::run(options.admin_listen, (&log, options.log_format), async |readiness, stop| {
        let node = Node::start(options, readiness, stop).await?;
        Ok(async { Ok(node.stopped().await?) })
    })
    .await
}
