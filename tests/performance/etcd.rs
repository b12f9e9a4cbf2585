//! The grid against etcd, both over gRPC: writes that are on disk before they are acknowledged, and linearizable reads.
//!
//! One node each; 64 clients that do one thing after the other, 256 bytes, 100,000 random keys. etcd (Debian:
//! etcd-server) gets a connection a client, as its own benchmark does; ours goes through the SDK, which sends what all
//! clients ask over one. In turns, several rounds; the median of the rounds' ratios counts.

use std::path::Path;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rand::Rng as _;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use trimaran_client::grid::Grid;
use trimaran_tests::harness::process::{Cluster, free_port};

use crate::server::{Server, load, median, start};

const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 256;
const CLIENTS: usize = 64;

/// What of `etcdserverpb` a client needs. Source: etcd 3.4, api/etcdserverpb/rpc.proto.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answer {}

async fn etcd(folder: &Path) -> (Server, Vec<Channel>) {
    let (port, peers) = (free_port(), free_port());
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peers}");
    let arguments = [
        format!("--data-dir={}", folder.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ];
    let server = start(Path::new("etcd"), port, &arguments).await;
    let endpoint = Endpoint::from_shared(client).unwrap();
    let mut channels = Vec::new();
    for _ in 0..CLIENTS {
        channels.push(endpoint.connect().await.unwrap());
    }
    (server, channels)
}

async fn ask(channel: &Channel, write: bool, key: u64) {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let key = Bytes::from(format!("key-{key}"));
    if write {
        let request = PutRequest { key, value: vec![b'x'; VALUE_BYTES].into() };
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<PutRequest, Answer>::default();
        client.unary(tonic::Request::new(request), path, codec).await.unwrap();
    } else {
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let codec = ProstCodec::<RangeRequest, Answer>::default();
        client.unary(tonic::Request::new(RangeRequest { key }), path, codec).await.unwrap();
    }
}

async fn on_etcd(channels: &[Channel], write: bool, seconds: u64) -> f64 {
    load(CLIENTS, seconds, |client, mut random, stop, done| {
        let channel = channels[client].clone();
        async move {
            while !stop.load(Ordering::Acquire) {
                ask(&channel, write, random.random_range(0..KEYS)).await;
                done.fetch_add(1, Ordering::Release);
            }
        }
    })
    .await
}

async fn on_grid(grid: &Grid, write: bool, seconds: u64) -> f64 {
    load(CLIENTS, seconds, |_, mut random, stop, done| {
        let grid = grid.clone();
        async move {
            while !stop.load(Ordering::Acquire) {
                let key = format!("key-{}", random.random_range(0..KEYS));
                if write {
                    grid.set(key, vec![b'x'; VALUE_BYTES]).await.unwrap();
                } else {
                    grid.get(key).await.unwrap();
                }
                done.fetch_add(1, Ordering::Release);
            }
        }
    })
    .await
}

pub(crate) async fn run(rounds: usize, seconds: u64) {
    println!(
        "| case, 64 clients, 256 bytes, one node | etcd 3.4, requests/s | grid-node, requests/s | ratio |"
    );
    println!("|---|---|---|---|");
    let folder = tempfile::tempdir().unwrap();
    let (_server, channels) = etcd(folder.path()).await;
    for durability in ["fsync", "buffered"] {
        let cluster = Cluster::grid(1, durability, 4).await;
        let grid = cluster.grid_client().await;
        for (case, write) in [("Set / Put", true), ("Get / Range", false)] {
            let (mut theirs, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                theirs.push(on_etcd(&channels, write, seconds).await);
                ours.push(on_grid(&grid, write, seconds).await);
                ratios.push(ours.last().unwrap() / theirs.last().unwrap());
            }
            println!(
                "| {case}, grid {durability} | {:.0} | {:.0} | {:.2} |",
                median(&mut theirs),
                median(&mut ours),
                median(&mut ratios)
            );
        }
    }
}
