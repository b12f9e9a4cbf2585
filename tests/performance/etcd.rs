//! The grid against etcd, both over gRPC: writes that are on disk before they are acknowledged, and linearizable reads.
//!
//! Three nodes each on one machine, over RESP and a connection a client; and one node each over gRPC: 64 clients that do one thing after the other, 256 bytes, 100,000 random keys. etcd (Debian:
//! etcd-server) gets a connection a client, as its own benchmark does; ours goes through the SDK, which sends what all
//! clients ask over one. In turns, several rounds; the median of the rounds' ratios counts.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;
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

/// Some members of one cluster, and where their clients connect.
pub(crate) async fn etcd(folder: &Path, members: usize) -> (Vec<Server>, Vec<String>) {
    let ports: Vec<(u16, u16)> = (0..members).map(|_| (free_port(), free_port())).collect();
    let all: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(member, (_, peers))| format!("member{member}=http://127.0.0.1:{peers}"))
        .collect();
    let (mut started, mut clients) = (Vec::new(), Vec::new());
    for (member, (port, peers)) in ports.into_iter().enumerate() {
        let client = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peers}");
        let arguments = vec![
            format!("--name=member{member}"),
            format!("--data-dir={}", folder.join(member.to_string()).display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", all.join(",")),
        ];
        // It opens its port when it has found the others.
        started.push(async move { start(Path::new("etcd"), port, &arguments).await });
        clients.push(client);
    }
    let servers = futures::future::join_all(started).await;
    (servers, clients)
}

/// A connection for each client, to the members in turn.
pub(crate) async fn connections(addresses: &[String], clients: usize) -> Vec<Channel> {
    let mut channels = Vec::new();
    for address in addresses.iter().cycle().take(clients) {
        channels.push(Endpoint::from_shared(address.clone()).unwrap().connect().await.unwrap());
    }
    channels
}

async fn put_on_etcd(channel: &Channel, key: String) {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let request = PutRequest { key: key.into(), value: vec![b'x'; VALUE_BYTES].into() };
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec = ProstCodec::<PutRequest, Answer>::default();
    client.unary(tonic::Request::new(request), path, codec).await.unwrap();
}

async fn ask(channel: &Channel, write: bool, key: u64) {
    let key = format!("key-{key}");
    if write {
        put_on_etcd(channel, key).await;
    } else {
        let mut client = Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let key = Bytes::from(key);
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let codec = ProstCodec::<RangeRequest, Answer>::default();
        client.unary(tonic::Request::new(RangeRequest { key }), path, codec).await.unwrap();
    }
}

pub(crate) async fn on_etcd(channels: &[Channel], write: bool, seconds: u64) -> f64 {
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
    let (servers, addresses) = etcd(folder.path(), 1).await;
    let channels = connections(&addresses, CLIENTS).await;
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
    drop((channels, servers));
    three(rounds, seconds).await;
}

/// Puts by clients that wait for each: how many a second, and milliseconds that all but one in a hundred took at most.
async fn put<C, F>(
    clients: Vec<C>,
    seconds: u64,
    put: impl Fn(C, String) -> F + Clone + Send + 'static,
) -> (f64, f64)
where
    C: Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let end = Instant::now() + Duration::from_secs(seconds);
    let tasks: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, client)| {
            let (put, mut random) = (put.clone(), StdRng::seed_from_u64(number as u64));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < end {
                    let began = Instant::now();
                    put(client.clone(), format!("key-{}", random.random_range(0..KEYS))).await;
                    took.push(began.elapsed().as_secs_f64() * 1000.0);
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    took.sort_by(f64::total_cmp);
    (took.len() as f64 / seconds as f64, took[took.len() * 99 / 100])
}

/// Three members on this machine, every put on a majority; a connection a client, to the members in turn.
async fn three(rounds: usize, seconds: u64) {
    println!(
        "\n| put / SET, 256 bytes, three nodes | etcd 3.4, requests/s | p99 ms | grid-node, requests/s | p99 ms | ratio |"
    );
    println!("|---|---|---|---|---|---|");
    let folder = tempfile::tempdir().unwrap();
    let (_servers, addresses) = etcd(folder.path(), 3).await;
    for durability in ["fsync", "buffered"] {
        let cluster = Cluster::grid(3, durability, 1).await;
        for clients in [64, 256] {
            let channels = connections(&addresses, clients).await;
            let mut lines = Vec::new();
            for node in cluster.nodes.iter().cycle().take(clients) {
                let client = redis::Client::open(format!("redis://{}", node.front)).unwrap();
                lines.push(client.get_multiplexed_async_connection().await.unwrap());
            }
            let (mut theirs, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            let (mut their_p99, mut our_p99) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let (rate, p99) = put(channels.clone(), seconds, async |channel: Channel, key: String| {
                    put_on_etcd(&channel, key).await;
                })
                .await;
                theirs.push(rate);
                their_p99.push(p99);
                let (rate, p99) =
                    put(lines.clone(), seconds, async |mut line: MultiplexedConnection, key: String| {
                        let () = redis::cmd("SET")
                            .arg(key)
                            .arg(&[b'x'; VALUE_BYTES][..])
                            .query_async(&mut line)
                            .await
                            .unwrap();
                    })
                    .await;
                ours.push(rate);
                our_p99.push(p99);
                ratios.push(ours.last().unwrap() / theirs.last().unwrap());
            }
            println!(
                "| {clients} clients, grid {durability} | {:.0} | {:.1} | {:.0} | {:.1} | {:.2} |",
                median(&mut theirs),
                median(&mut their_p99),
                median(&mut ours),
                median(&mut our_p99),
                median(&mut ratios)
            );
        }
    }
}
