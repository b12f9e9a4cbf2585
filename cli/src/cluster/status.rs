//! `trimaran cluster`: what a cluster looks like from one of its nodes.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_proto::internal::cluster::StatusRequest;
use trimaran_proto::internal::cluster::cluster_client::ClusterClient;

use crate::output::Format;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// gRPC address of any node
    #[arg(long, global = true, default_value = "127.0.0.1:7002")]
    address: String,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Members, partitions, replicas
    Status,
}

#[derive(Serialize)]
struct Status {
    cluster_id: String,
    version: u64,
    nodes: Vec<Node>,
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct Node {
    id: u64,
    address: String,
    incarnation: u64,
    state: &'static str,
}

#[derive(Serialize)]
struct Partition {
    id: u64,
    first_token: String,
    last_token: String,
    epoch: u64,
    leader: String,
    replicas: Vec<String>,
    state: &'static str,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Command::Status = args.command;
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    let mut client = ClusterClient::new(channel(&dial, &args.address)?);
    let reply = client
        .status(StatusRequest {})
        .await
        .with_context(|| format!("no node answers at {}; give another one with --address", args.address))?
        .into_inner();
    let table = reply.table.unwrap_or_default();
    let address = |node: u64| {
        table
            .nodes
            .iter()
            .find(|known| known.id == node)
            .map_or_else(|| node.to_string(), |node| node.address.clone())
    };
    let partitions = table
        .partitions
        .iter()
        .map(|partition| {
            let mut replicas: Vec<u64> = partition.replicas.iter().map(|replica| replica.id).collect();
            let mut voters = partition.voters.clone();
            replicas.sort_unstable();
            voters.sort_unstable();
            let leader = partition.replicas.iter().find(|replica| replica.id == partition.leader_hint);
            Partition {
                id: partition.id,
                first_token: format!("{:016x}", partition.first_token),
                last_token: format!("{:016x}", partition.last_token),
                epoch: partition.epoch,
                leader: leader.map(|replica| address(replica.node_id)).unwrap_or_default(),
                replicas: partition
                    .replicas
                    .iter()
                    .map(|replica| format!("{}@{}", replica.id, address(replica.node_id)))
                    .collect(),
                state: match (partition.lost, replicas == voters) {
                    (true, _) => "lost",
                    (_, true) => "complete",
                    (_, false) => "changing",
                },
            }
        })
        .collect();
    let status = Status {
        cluster_id: table.cluster_id.clone(),
        version: table.version,
        nodes: table
            .nodes
            .iter()
            .map(|node| Node {
                id: node.id,
                address: node.address.clone(),
                incarnation: node.incarnation,
                state: match node.state() {
                    trimaran_proto::api::placement::NodeState::Up => "up",
                    trimaran_proto::api::placement::NodeState::Leaving => "leaving",
                    trimaran_proto::api::placement::NodeState::Gone => "gone",
                    trimaran_proto::api::placement::NodeState::Unspecified => "unknown",
                },
            })
            .collect(),
        partitions,
    };
    args.output.show(&status, text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Status) -> String {
    let mut text = format!("cluster {}, version {}\n\n", status.cluster_id, status.version);
    let mut line = |columns: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _infallible = writeln!(text, "{columns}");
    };
    line(format_args!("{:<18} {:<24} {:<12} STATE", "NODE", "ADDRESS", "INCARNATION"));
    for node in &status.nodes {
        line(format_args!("{:<18} {:<24} {:<12} {}", node.id, node.address, node.incarnation, node.state));
    }
    line(format_args!(
        "\n{:<10} {:<18} {:<6} {:<22} {:<9} REPLICAS",
        "PARTITION", "FROM TOKEN", "EPOCH", "LEADER", "STATE"
    ));
    for partition in &status.partitions {
        line(format_args!(
            "{:<10} {:<18} {:<6} {:<22} {:<9} {}",
            partition.id,
            partition.first_token,
            partition.epoch,
            partition.leader,
            partition.state,
            partition.replicas.join(" ")
        ));
    }
    text
}
