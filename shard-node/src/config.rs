//! Options of a shard node.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trimaran_cluster::autoscale;
use trimaran_placement::splits;
use trimaran_service::telemetry::LogFormat;

/// Where the rows are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A log-structured merge tree.
    #[default]
    Fjall,
    /// sled, with the fsync that its flush lacks.
    Sled,
}

/// Whether requests of DynamoDB clients have to be signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signatures {
    /// Whoever reaches the port may use it, with any keys.
    #[default]
    Ignored,
    /// With a key of the cluster, see [`crate::access`].
    Required,
}

/// Whether tables with provisioned throughput are kept to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provisioned {
    /// It is what somebody wrote down for a service that is paid for it; here whatever there is can be had.
    #[default]
    Ignored,
    /// As DynamoDB does it.
    Enforced,
}

/// Environment variables that set options begin with this.
pub const ENV_PREFIX: &str = "TRIMARAN_SHARD_";

/// Options of a shard node, with their defaults. Units are in the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where the node keeps its identity, its log and its rows. Absent = nowhere: everything in memory.
    pub data_folder: Option<PathBuf>,
    /// Where DynamoDB clients connect.
    pub dynamodb_listen: SocketAddr,
    /// Whether requests there have to be signed with a key of the cluster.
    pub dynamodb_signatures: Signatures,
    /// Whether tables with provisioned throughput are kept to it.
    pub provisioned_throughput: Provisioned,
    /// Units of reads that the node lets through per second; absent = any.
    pub read_units: Option<u64>,
    /// Likewise of writes.
    pub write_units: Option<u64>,
    /// Where gRPC clients and other nodes connect.
    pub grpc_listen: SocketAddr,
    /// Where liveness, readiness and metrics are served.
    pub admin_listen: SocketAddr,
    /// How others reach `grpc_listen`: HOST:PORT. Empty = as it is.
    pub advertise: String,
    /// Addresses of other nodes, HOST:PORT; a DNS name may stand for several.
    pub join: Vec<String>,
    /// Number of nodes that a new cluster is born with; absent = there is one already.
    pub bootstrap: Option<usize>,
    /// Partitions of a new cluster.
    pub partitions: u64,
    /// Copies of each partition in a new cluster.
    pub replication_factor: u32,
    /// What the rows are kept in.
    pub engine: Engine,
    /// How long a node may be silent before its copies are made anew elsewhere, seconds.
    pub replace_after_s: u64,
    /// What a partition may hold before it is split, mebibytes.
    pub split_above_mib: u64,
    /// Reads and writes per second that a partition may be asked for long before it is split.
    pub split_above_operations: u64,
    /// How long two partitions that were one must be asked next to nothing before they are one again, seconds; 0 = never.
    pub merge_after_s: u64,
    /// How the number of nodes follows the load.
    pub autoscale: autoscale::options::Options,
    /// Move everything away before the node stops, for good.
    pub drain: bool,
    /// Nodes of one zone fail together.
    pub zone: String,
    /// Share of the copies that this node should have, against others.
    pub weight: u32,
    /// As in RUST_LOG.
    pub log: String,
    /// Text or JSON.
    pub log_format: LogFormat,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_folder: Some(PathBuf::from("./trimaran-data/shard")),
            dynamodb_listen: ([127, 0, 0, 1], 8000).into(),
            dynamodb_signatures: Signatures::Ignored,
            provisioned_throughput: Provisioned::Ignored,
            read_units: None,
            write_units: None,
            grpc_listen: ([127, 0, 0, 1], 7003).into(),
            admin_listen: ([127, 0, 0, 1], 9090).into(),
            advertise: String::new(),
            join: Vec::new(),
            bootstrap: None,
            partitions: 4,
            replication_factor: 3,
            engine: Engine::Fjall,
            replace_after_s: 300,
            split_above_mib: 512,
            split_above_operations: 20_000,
            merge_after_s: splits::MERGE_AFTER.as_secs(),
            autoscale: autoscale::options::Options::default(),
            drain: false,
            zone: String::new(),
            weight: 1,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}
