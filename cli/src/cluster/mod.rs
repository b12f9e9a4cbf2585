//! `trimaran cluster`: what a grid or database cluster looks like, and what is to be done with its nodes and copies.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;
use tonic::transport::Channel;
use trimaran_cluster::autoscale::kubernetes::StatefulSet;
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_proto::api::cluster::cluster_admin_client::ClusterAdminClient;
use trimaran_proto::api::cluster::{
    BalanceRequest, DrainRequest, EventsRequest, MergeReply, MergeRequest, MoveRequest, RemoveRequest,
    SplitReply, SplitRequest,
};
use trimaran_proto::api::placement::{Node, NodeState, Table};
use trimaran_proto::internal::cluster::cluster_client::ClusterClient;
use trimaran_proto::internal::cluster::{HelloRequest, StatusReply, StatusRequest};

use crate::output::Format;

mod status;

pub(crate) use status::{Explained, explained};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// gRPC address of any node: of a grid (7002) or of a database (7003)
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
    /// Members, partitions, copies, and moves under way
    Status,
    /// Where a key of a grid, or a token, is: its partition, epoch, copies and leader
    Explain {
        /// Key of a grid
        #[arg(required_unless_present = "token")]
        key: Option<String>,
        /// 64-bit token, hexadecimal, as `status` shows them
        #[arg(long, value_name = "HEX", conflicts_with = "key")]
        token: Option<String>,
    },
    /// Move everything away from a node, which then ends for good
    Drain {
        /// Id or gRPC address [default: the node that is asked]
        node: Option<String>,
        /// Only if it is a pod that its stateful set is to lose, and not if it is only started anew: for `preStop` hooks
        #[arg(long)]
        if_scaled_in: bool,
        /// Return at once instead of when the node is gone
        #[arg(long)]
        no_wait: bool,
    },
    /// Declare a node gone that does not answer; its copies are made elsewhere, and it cannot come back
    Remove {
        /// Id or gRPC address
        node: String,
    },
    /// Move one copy of a partition to another node; with `balance off`, or another one may be moved in return
    Move {
        /// Id of the partition
        partition: u64,
        /// Node that has a copy: id or gRPC address
        #[arg(long)]
        from: String,
        /// Node that gets it: id or gRPC address
        #[arg(long)]
        to: String,
        /// Return at once instead of when it has moved
        #[arg(long)]
        no_wait: bool,
    },
    /// Split a partition in two, on the nodes where it is; no data moves
    Split {
        /// Id of the partition
        partition: u64,
        /// First token of the new partition, hexadecimal, as `status` shows them; a multiple of 2^50 [default: the middle]
        #[arg(long, value_name = "HEX")]
        at: Option<String>,
        /// Return at once instead of when it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Make a partition and the one behind it one, if that one is small (8 MiB)
    Merge {
        /// Id of the partition that stays
        partition: u64,
        /// Return at once instead of when it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Whether copies are moved to where there are fewer: on, or off (moves that are urgent go on)
    Balance {
        #[arg(value_parser = ["on", "off"])]
        state: String,
    },
    /// What happened lately
    Events,
    /// How to add a node
    Add,
}

/// How often a command that waits looks again.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

struct Connection {
    address: String,
    dial: Arc<dyn Dial>,
}

impl Connection {
    fn channel(&self) -> anyhow::Result<Channel> {
        Ok(channel(&self.dial, &self.address)?)
    }

    fn admin(&self) -> anyhow::Result<ClusterAdminClient<Channel>> {
        Ok(ClusterAdminClient::new(self.channel()?))
    }

    fn no_answer(&self) -> String {
        format!("no node answers at {}; give another one with --address", self.address)
    }

    async fn status(&self) -> anyhow::Result<StatusReply> {
        let mut client = ClusterClient::new(self.channel()?);
        let reply = client.status(StatusRequest {}).await.with_context(|| self.no_answer())?;
        Ok(reply.into_inner())
    }

    async fn kind(&self) -> anyhow::Result<String> {
        let mut client = ClusterClient::new(self.channel()?);
        let reply = client.hello(HelloRequest {}).await.with_context(|| self.no_answer())?;
        Ok(reply.into_inner().kind)
    }

    async fn table(&self) -> anyhow::Result<Table> {
        Ok(self.status().await?.table.unwrap_or_default())
    }

    async fn explain(&self, token: u64) -> anyhow::Result<Explained> {
        let table = self.table().await?;
        let replies = self.all(&table).await;
        status::explain(&table, &replies, token).context("the cluster has no partitions yet")
    }

    /// What every node says, those that do not answer left out.
    async fn all(&self, table: &Table) -> Vec<StatusReply> {
        let mut replies = Vec::new();
        let known = table.nodes.iter().filter(|node| node.state() != NodeState::Gone);
        for node in known {
            let there = Self { address: node.address.clone(), dial: Arc::clone(&self.dial) };
            if let Ok(Ok(reply)) = tokio::time::timeout(LOOK_EVERY, there.status()).await {
                replies.push(reply);
            }
        }
        replies
    }
}

/// The partition that a token lies in, as the first of some nodes that answers has it.
pub(crate) async fn explain(addresses: &[String], token: u64) -> anyhow::Result<Explained> {
    let mut found = Err(anyhow::anyhow!("no address was given"));
    for address in addresses {
        let connection = Connection { address: address.clone(), dial: Arc::new(TcpDial) };
        found = connection.explain(token).await;
        if found.is_ok() {
            break;
        }
    }
    found
}

/// A node by its id or its address.
fn find<'a>(table: &'a Table, name: &str) -> anyhow::Result<&'a Node> {
    let found = table.nodes.iter().find(|node| node.address == name || node.id.to_string() == name);
    found.with_context(|| format!("there is no node {name}; `trimaran cluster status` shows them"))
}

/// What the cluster says of a refusal, without gRPC's words around it.
fn refused(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let connection = Connection { address: args.address, dial: Arc::new(TcpDial) };
    let show = |text: String| args.output.show(&json!({ "done": text }), |_| text.clone());
    match args.command {
        Command::Status => {
            let reply = connection.status().await?;
            let table = reply.table.unwrap_or_default();
            let replies = connection.all(&table).await;
            args.output.show(&status::status(&table, &replies), status::text)?;
        }
        Command::Explain { key, token } => {
            let token = match (key, token) {
                (Some(key), _) => {
                    if connection.kind().await? != "grid" {
                        bail!("keys of a database are in tables; give a token with --token");
                    }
                    trimaran_placement::token::grid(key.as_bytes()).0
                }
                (None, token) => hexadecimal(&token.unwrap_or_default())?,
            };
            args.output.show(&connection.explain(token).await?, explained)?;
        }
        Command::Drain { node, if_scaled_in, no_wait } => {
            let status = connection.status().await?;
            let table = status.table.unwrap_or_default();
            let node = find(&table, &node.unwrap_or_else(|| status.node_id.to_string()))?;
            if if_scaled_in && is_wanted(node).await? {
                show(format!("node {} stays in its stateful set; nothing is to be done", node.id))?;
                return Ok(ExitCode::SUCCESS);
            }
            let request = DrainRequest { node_id: node.id };
            connection.admin()?.drain(request).await.map_err(|status| refused(&status))?;
            if no_wait {
                show(format!("node {} is leaving", node.id))?;
            } else {
                wait_until_gone(&connection, node).await?;
                show(format!("node {} is gone; nothing of it is left", node.id))?;
            }
        }
        Command::Remove { node } => {
            let table = connection.table().await?;
            let node_id = find(&table, &node)?.id;
            let removed = connection.admin()?.remove(RemoveRequest { node_id }).await;
            removed.map_err(|status| refused(&status))?;
            show(format!(
                "node {node_id} is gone; its copies are made elsewhere where there is a node for them"
            ))?;
        }
        Command::Move { partition, from, to, no_wait } => {
            let table = connection.table().await?;
            let (from_node, to_node) = (find(&table, &from)?.id, find(&table, &to)?.id);
            let request = MoveRequest { partition_id: partition, from_node, to_node };
            connection.admin()?.r#move(request).await.map_err(|status| refused(&status))?;
            if no_wait {
                show(format!("a copy of partition {partition} is being moved"))?;
            } else {
                wait_until_moved(&connection, partition).await?;
                let table = connection.table().await?;
                let moved = table.partitions.iter().find(|found| found.id == partition);
                let is_there = moved.is_some_and(|partition| {
                    partition.replicas.iter().any(|replica| replica.node_id == to_node)
                });
                if !is_there {
                    bail!("the move was taken back; `trimaran cluster events` says why");
                }
                show(format!("a copy of partition {partition} has moved to node {to_node}"))?;
            }
        }
        Command::Split { partition, at, no_wait } => {
            let at_token = at.as_deref().map(hexadecimal).transpose()?;
            let request = SplitRequest { partition_id: partition, at_token };
            let split = connection.admin()?.split(request).await.map_err(|status| refused(&status))?;
            let SplitReply { new_partition_id, at_token } = split.into_inner();
            if !no_wait {
                wait_until_split(&connection, new_partition_id).await?;
            }
            let done = if no_wait { "is to give" } else { "has given" };
            show(format!(
                "partition {partition} {done} everything from token {at_token:016x} on to partition {new_partition_id}"
            ))?;
        }
        Command::Merge { partition, no_wait } => {
            let request = MergeRequest { partition_id: partition };
            let merge = connection.admin()?.merge(request).await.map_err(|status| refused(&status))?;
            let MergeReply { from_partition_id: from, version } = merge.into_inner();
            if !no_wait && !is_merged(&connection, partition, from, version).await? {
                bail!(
                    "partition {from} stays what it is: it holds more than 8 MiB, or did not answer for 10 seconds; the log of the node that leads partition {partition} says which"
                );
            }
            let done = if no_wait { "is to become" } else { "has become" };
            show(format!("partition {from} {done} part of partition {partition}"))?;
        }
        Command::Balance { state } => {
            let request = BalanceRequest { paused: state == "off" };
            connection.admin()?.balance(request).await.map_err(|status| refused(&status))?;
            show(format!("balancing is {state}"))?;
        }
        Command::Events => {
            let events = connection.admin()?.events(EventsRequest {}).await;
            for event in events.with_context(|| connection.no_answer())?.into_inner().events {
                let event = Event { at_ms: event.at_ms, text: event.text };
                args.output.show_line(&event, |event| format!("{}  {}", time(event.at_ms), event.text))?;
            }
        }
        Command::Add => {
            let kind = connection.kind().await?;
            let address = &connection.address;
            show(format!(
                "start it and tell it where the cluster is:\n\n  trimaran {kind}-node --join {address} --data-folder … \
                 --grpc-listen …\n\nIt gets its share of the copies by itself; `trimaran cluster status` shows how far it is."
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// True unless a node is a pod that its stateful set is to lose.
async fn is_wanted(node: &Node) -> anyhow::Result<bool> {
    let set = StatefulSet::of(&node.address)
        .with_context(|| format!("{} is no address of a pod of a stateful set", node.address))?;
    set.is_wanted().await.context("it is not known whether the pod is only started anew")
}

#[derive(Serialize)]
struct Event {
    at_ms: u64,
    text: String,
}

/// As in RFC 3339, UTC, to the second.
pub(crate) fn time(at_ms: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at_ms / 1000);
    humantime::format_rfc3339_seconds(at).to_string()
}

async fn wait_until_gone(connection: &Connection, node: &Node) -> anyhow::Result<()> {
    let mut left = usize::MAX;
    loop {
        // The node that is asked may be the one that ends.
        match connection.table().await {
            Ok(table) => {
                let state = table.nodes.iter().find(|found| found.id == node.id).map(Node::state);
                if state.is_none_or(|state| state == NodeState::Gone) {
                    return Ok(());
                }
                let replicas = table.partitions.iter().flat_map(|partition| &partition.replicas);
                let now = replicas.filter(|replica| replica.node_id == node.id).count();
                if now != left {
                    eprintln!("{now} copies are left on node {}", node.id);
                    left = now;
                }
            }
            Err(_) if connection.address == node.address && left == 0 => return Ok(()),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn hexadecimal(token: &str) -> anyhow::Result<u64> {
    u64::from_str_radix(token.trim_start_matches("0x"), 16).context("the token is no hexadecimal")
}

async fn wait_until_split(connection: &Connection, new: u64) -> anyhow::Result<()> {
    loop {
        let table = connection.table().await?;
        if table.partitions.iter().any(|partition| partition.id == new) {
            return Ok(());
        }
        // It is a matter of milliseconds, unless a majority of the copies is not there.
        tokio::time::sleep(LOOK_EVERY / 10).await;
    }
}

/// Returns when a merge is decided: true if there is one partition now.
async fn is_merged(connection: &Connection, into: u64, from: u64, begun: u64) -> anyhow::Result<bool> {
    loop {
        let table = connection.table().await?;
        let found = table.partitions.iter().find(|partition| partition.id == into);
        if table.version >= begun && found.is_none_or(|partition| partition.merging.is_none()) {
            return Ok(table.partitions.iter().all(|partition| partition.id != from));
        }
        tokio::time::sleep(LOOK_EVERY / 10).await;
    }
}

async fn wait_until_moved(connection: &Connection, partition: u64) -> anyhow::Result<()> {
    let mut told = String::new();
    loop {
        let table = connection.table().await?;
        let replies = connection.all(&table).await;
        let status = status::status(&table, &replies);
        let found = status.partitions.iter().find(|found| found.id == partition);
        match found.map(|found| found.moving.join(", ")) {
            Some(moving) if !moving.is_empty() => {
                if moving != told {
                    eprintln!("{moving}");
                    told = moving;
                }
            }
            _ => return Ok(()),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
