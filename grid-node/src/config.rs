//! Options of a grid node.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trimaran_cluster::autoscale;
use trimaran_placement::splits;
use trimaran_service::telemetry::LogFormat;

/// What survives what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing is written: a node that stops comes back empty, under new replica ids, and is filled by the others.
    Memory,
    /// Written, not flushed: survives the death of every process, not of every machine.
    #[default]
    Buffered,
    /// Flushed before it is acknowledged: survives a loss of power everywhere.
    Fsync,
}

/// Environment variables that set options begin with this.
pub const ENV_PREFIX: &str = "TRIMARAN_GRID_";

/// Options of a grid node, with their defaults. Units are in the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where the node keeps its identity, its log and its snapshots. Absent = nowhere: everything in memory.
    pub data_folder: Option<PathBuf>,
    /// Where Redis clients connect.
    pub resp_listen: SocketAddr,
    /// Where commands are taken over HTTP.
    pub http_listen: SocketAddr,
    /// Where gRPC clients and other nodes connect.
    pub grpc_listen: SocketAddr,
    /// Where liveness, readiness and metrics are served.
    pub admin_listen: SocketAddr,
    /// How others reach `grpc_listen`: HOST:PORT. Empty = as it is.
    pub advertise: String,
    /// How others reach `resp_listen`: HOST:PORT. Empty = as it is.
    pub resp_advertise: String,
    /// Redis clients whose key is led elsewhere are sent there (MOVED) instead of being served here.
    pub resp_redirect: bool,
    /// The password of the default user over RESP and HTTP, as long as ACL SETUSER has not said otherwise. Absent = anybody may
    /// do everything. The same at every node.
    pub requirepass: Option<String>,
    /// Addresses of other nodes, HOST:PORT; a DNS name may stand for several.
    pub join: Vec<String>,
    /// Number of nodes that a new cluster is born with; absent = there is one already.
    pub bootstrap: Option<usize>,
    /// Partitions of a new cluster.
    pub partitions: u64,
    /// Copies of each partition in a new cluster.
    pub replication_factor: u32,
    /// What survives what.
    pub durability: Durability,
    /// How long a node may be silent before its copies are made anew elsewhere, seconds.
    pub replace_after_s: u64,
    /// What a partition may hold before it is split, mebibytes.
    pub split_above_mib: u64,
    /// Reads and writes per second that a partition may be asked for long before it is split.
    pub split_above_operations: u64,
    /// How long two partitions that were one must be asked next to nothing before they are one again, seconds; 0 = never.
    pub merge_after_s: u64,
    /// What keys and values of all partitions of this node may take in memory, mebibytes; 0 = anything.
    pub maxmemory_mib: u64,
    /// Which keys go when there is no room, as in redis.conf.
    pub maxmemory_policy: String,
    /// How the number of nodes follows the load.
    pub autoscale: autoscale::options::Options,
    /// Move everything away before the node stops, for good.
    pub drain: bool,
    /// Nodes of one zone fail together.
    pub zone: String,
    /// Share of the copies that this node should have, against others.
    pub weight: u32,
    /// Threads that serve requests; 0 = half of the processors.
    pub threads: usize,
    /// As in RUST_LOG.
    pub log: String,
    /// Text or JSON.
    pub log_format: LogFormat,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_folder: Some(PathBuf::from("./trimaran-data/grid")),
            resp_listen: ([127, 0, 0, 1], 6379).into(),
            http_listen: ([127, 0, 0, 1], 8079).into(),
            grpc_listen: ([127, 0, 0, 1], 7002).into(),
            admin_listen: ([127, 0, 0, 1], 9090).into(),
            advertise: String::new(),
            resp_advertise: String::new(),
            resp_redirect: false,
            requirepass: None,
            join: Vec::new(),
            bootstrap: None,
            partitions: 4,
            replication_factor: 3,
            durability: Durability::Buffered,
            replace_after_s: 300,
            split_above_mib: 512,
            split_above_operations: 20_000,
            merge_after_s: splits::MERGE_AFTER.as_secs(),
            maxmemory_mib: 0,
            maxmemory_policy: "noeviction".to_owned(),
            autoscale: autoscale::options::Options::default(),
            drain: false,
            zone: String::new(),
            weight: 1,
            threads: 0,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}
