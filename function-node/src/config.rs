//! Options of a function node.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trimaran_service::telemetry::LogFormat;

/// Options of a function node, with their defaults. Units are in the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where packages are unpacked and compiled components kept; nothing that is not in the database too. Absent = a
    /// folder that goes with the process.
    pub data_folder: Option<PathBuf>,
    /// Where functions are called over HTTP.
    pub http_listen: SocketAddr,
    /// Where gRPC clients connect.
    pub grpc_listen: SocketAddr,
    /// Where liveness, readiness and metrics are served.
    pub admin_listen: SocketAddr,
    /// gRPC addresses of grid nodes, HOST:PORT; a DNS name may stand for several.
    pub grid: Vec<String>,
    /// gRPC addresses of shard nodes, HOST:PORT; a DNS name may stand for several.
    pub database: Vec<String>,
    /// What processes find in REDIS_URL.
    pub redis_url: String,
    /// What processes find in UPSTASH_REDIS_REST_URL: the grid over HTTP.
    pub redis_rest_url: String,
    /// What processes find in AWS_ENDPOINT_URL_DYNAMODB.
    pub dynamodb_url: String,
    /// `<function>.<domain>` is the function's host name, besides `/<function>/` as its path. Empty = none.
    pub domain: String,
    /// Instances of components at once on this node.
    pub wasm_instances_max: u32,
    /// As in RUST_LOG.
    pub log: String,
    /// Text or JSON.
    pub log_format: LogFormat,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_folder: Some(PathBuf::from("./trimaran-data/function")),
            http_listen: ([127, 0, 0, 1], 8080).into(),
            grpc_listen: ([127, 0, 0, 1], 7001).into(),
            admin_listen: ([127, 0, 0, 1], 9090).into(),
            grid: vec!["127.0.0.1:7002".to_owned()],
            database: vec!["127.0.0.1:7003".to_owned()],
            redis_url: "redis://127.0.0.1:6379".to_owned(),
            redis_rest_url: "http://127.0.0.1:8079".to_owned(),
            dynamodb_url: "http://127.0.0.1:8000".to_owned(),
            domain: "localhost".to_owned(),
            wasm_instances_max: 1000,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}
