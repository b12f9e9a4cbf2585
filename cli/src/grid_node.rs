//! `trimaran grid-node`: one node of a grid.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use trimaran_grid_node::config::{ENV_PREFIX, Options};
use trimaran_grid_node::node::Node;
use trimaran_service::config;

use crate::node;

/// Options are taken from defaults, then from --config, then from the environment (TRIMARAN_GRID_RESP_LISTEN and so
/// on), then from these flags.
#[derive(clap::Args, Serialize)]
pub(crate) struct Args {
    /// TOML file with options, named as the flags with underscores
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where the node keeps its identity, log and snapshots [default: ./trimaran-data/grid]
    #[arg(long, value_name = "FOLDER", conflicts_with = "in_memory")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_folder: Option<PathBuf>,
    /// Keep nothing on disk; the cluster is gone with its processes
    #[arg(long)]
    #[serde(skip)]
    in_memory: bool,
    /// Where Redis clients connect [default: 127.0.0.1:6379]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    resp_listen: Option<SocketAddr>,
    /// Where commands of Redis are taken over HTTP [default: 127.0.0.1:8079]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    http_listen: Option<SocketAddr>,
    /// Where gRPC clients and other nodes connect [default: 127.0.0.1:7002]
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
    /// How others reach --resp-listen [default: as it is]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    resp_advertise: Option<String>,
    /// Send Redis clients to the node that leads their key (MOVED), as Redis Cluster does, instead of passing their
    /// commands on
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resp_redirect: bool,
    /// The password of the user "default" over RESP and HTTP, until ACL SETUSER changes it; the same at every node. Better given
    /// as TRIMARAN_GRID_REQUIREPASS: arguments are seen by everybody on the machine [default: none, anybody may do everything]
    #[arg(long, value_name = "PASSWORD")]
    #[serde(skip_serializing_if = "Option::is_none")]
    requirepass: Option<String>,
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
    /// What survives: memory (a majority must live), buffered (the death of every process), fsync (a loss of power)
    /// [default: buffered]
    #[arg(long, value_name = "memory|buffered|fsync")]
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<String>,
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
    /// What keys and values of all partitions of this node may take in memory, mebibytes; the same at every node [default: 0,
    /// anything]
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    maxmemory_mib: Option<u64>,
    /// Which keys go when there is no room: noeviction, allkeys-lru, allkeys-lfu, allkeys-random, volatile-lru, volatile-lfu,
    /// volatile-random, volatile-ttl [default: noeviction, what needs memory is refused]
    #[arg(long, value_name = "POLICY")]
    #[serde(skip_serializing_if = "Option::is_none")]
    maxmemory_policy: Option<String>,
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
    /// Threads that serve requests; the network's share of the work is done beside them, by the system [default: 0, half of the
    /// processors]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    /// What to log, as in RUST_LOG [default: info]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// How to log [default: text]
    #[arg(long, value_name = "text|json")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<String>,
}

impl Args {
    /// Threads of the runtime. Each more that has nothing to do costs those that have: measured on two processors, one thread
    /// serves a fifth more requests than two do, where clients send one at a time.
    pub(crate) fn threads(&self) -> NonZeroUsize {
        // What is wrong with the options is said when the node starts with them.
        let options: Result<Options, _> = config::load(self.config.as_deref(), ENV_PREFIX, self);
        let told = options.ok().and_then(|options| NonZeroUsize::new(options.threads));
        let half =
            || std::thread::available_parallelism().ok().and_then(|all| NonZeroUsize::new(all.get() / 2));
        told.or_else(half).unwrap_or(NonZeroUsize::MIN)
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut options: Options = config::load(args.config.as_deref(), ENV_PREFIX, &args)?;
    if args.in_memory {
        options.data_folder = None;
        options.durability = trimaran_grid_node::config::Durability::Memory;
    }
    let log = options.log.clone();
    node::run(options.admin_listen, (&log, options.log_format), async |readiness, stop| {
        let node = Node::start(options, readiness, stop).await?;
        Ok(async { Ok(node.stopped().await?) })
    })
    .await
}
