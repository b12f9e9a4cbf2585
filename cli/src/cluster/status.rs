//! What a cluster looks like: its table as one node has it, and how far moves are as their leaders say.

use std::fmt::Write as _;

use serde::Serialize;
use trimaran_cluster::meta::said;
use trimaran_proto::api::placement::{self as wire, ReplicaState, Table};
use trimaran_proto::internal::cluster::StatusReply;

#[derive(Serialize)]
pub(super) struct Status {
    cluster_id: String,
    version: u64,
    nodes: Vec<Node>,
    pub(super) partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct Node {
    id: u64,
    address: String,
    zone: String,
    incarnation: u64,
    state: &'static str,
    replicas: usize,
    leads: usize,
    /// As it says itself; absent = it does not answer.
    load: Option<Load>,
}

#[derive(Serialize)]
struct Load {
    cpu_percent: f64,
    memory_percent: f64,
    operations_per_s: u64,
    waiting: u64,
}

#[derive(Serialize)]
pub(super) struct Partition {
    pub(super) id: u64,
    /// The partition that it was split from; 0 = none.
    split_from: u64,
    first_token: String,
    last_token: String,
    epoch: u64,
    leader: String,
    replicas: Vec<String>,
    state: &'static str,
    /// What is being moved, and how far it is.
    pub(super) moving: Vec<String>,
}

#[derive(Serialize)]
pub(crate) struct Explained {
    token: String,
    partition: Partition,
}

fn address(table: &Table, node: u64) -> String {
    let known = table.nodes.iter().find(|known| known.id == node);
    known.map_or_else(|| node.to_string(), |node| node.address.clone())
}

/// The table for people and programs; `replies` are what the nodes themselves say.
pub(super) fn status(table: &Table, replies: &[StatusReply]) -> Status {
    let node = |node: &wire::Node| {
        let of_node = |partition: &&wire::Partition| {
            partition.replicas.iter().any(|replica| replica.node_id == node.id)
        };
        let leads = |partition: &&wire::Partition| {
            let leader = partition.replicas.iter().find(|replica| replica.id == partition.leader_hint);
            leader.is_some_and(|leader| leader.node_id == node.id)
        };
        Node {
            id: node.id,
            address: node.address.clone(),
            zone: node.zone.clone(),
            incarnation: node.incarnation,
            state: said(node.state()),
            replicas: table.partitions.iter().filter(of_node).count(),
            leads: table.partitions.iter().filter(leads).count(),
            load: replies.iter().find(|reply| reply.node_id == node.id).and_then(|reply| reply.load).map(
                |load| Load {
                    cpu_percent: f64::from(load.cpu_permille) / 10.0,
                    memory_percent: f64::from(load.memory_permille) / 10.0,
                    operations_per_s: load.operations,
                    waiting: load.queue,
                },
            ),
        }
    };
    let mut by_token: Vec<&wire::Partition> = table.partitions.iter().collect();
    by_token.sort_by_key(|partition| partition.first_token);
    Status {
        cluster_id: table.cluster_id.clone(),
        version: table.version,
        nodes: table.nodes.iter().map(node).collect(),
        partitions: by_token.into_iter().map(|found| partition(table, replies, found)).collect(),
    }
}

/// The partition that a token lies in.
pub(super) fn explain(table: &Table, replies: &[StatusReply], token: u64) -> Option<Explained> {
    let is_in =
        |partition: &&wire::Partition| (partition.first_token..=partition.last_token).contains(&token);
    let found = table.partitions.iter().find(is_in)?;
    Some(Explained { token: format!("{token:016x}"), partition: partition(table, replies, found) })
}

fn partition(table: &Table, replies: &[StatusReply], partition: &wire::Partition) -> Partition {
    let members = partition.replicas.iter().filter(|replica| replica.state() != ReplicaState::Leaving);
    let mut wanted: Vec<u64> = members.map(|replica| replica.id).collect();
    let mut voters = partition.voters.clone();
    wanted.sort_unstable();
    voters.sort_unstable();
    let leader = partition.replicas.iter().find(|replica| replica.id == partition.leader_hint);
    let moving = partition.replicas.iter().filter_map(|replica| match replica.state() {
        ReplicaState::Unspecified => None,
        ReplicaState::Joining => Some(format!(
            "to {} ({})",
            address(table, replica.node_id),
            progress(replies, partition.id, replica.id)
        )),
        ReplicaState::Leaving => Some(format!("from {}", address(table, replica.node_id))),
    });
    let moving: Vec<String> = moving.collect();
    Partition {
        id: partition.id,
        split_from: partition.split_from,
        first_token: format!("{:016x}", partition.first_token),
        last_token: format!("{:016x}", partition.last_token),
        epoch: partition.epoch,
        leader: leader.map(|replica| address(table, replica.node_id)).unwrap_or_default(),
        replicas: partition
            .replicas
            .iter()
            .map(|replica| format!("{}@{}", replica.id, address(table, replica.node_id)))
            .collect(),
        state: match (partition.lost, moving.is_empty(), wanted == voters) {
            (true, _, _) => "lost",
            _ if partition.splitting_off.is_some() => "splitting",
            _ if partition.merging.is_some() => "merging",
            (_, false, _) => "moving",
            (_, _, true) => "complete",
            (_, _, false) => "changing",
        },
        moving,
    }
}

/// How far a replica is, as the leader of its group says.
fn progress(replies: &[StatusReply], group: u64, replica: u64) -> String {
    let groups = replies.iter().flat_map(|reply| &reply.groups);
    let leader =
        groups.filter(|found| found.group == group && found.state == "leader").max_by_key(|found| found.term);
    let known = leader.and_then(|leader| {
        let progress = leader.progress.iter().find(|progress| progress.replica == replica)?;
        Some((progress.matched_index, leader.last_log_index))
    });
    match known {
        None => "not begun".to_owned(),
        Some((0, _)) => "snapshot on its way".to_owned(),
        Some((matched, last)) => format!("{matched} of {last} entries"),
    }
}

fn load(load: Option<&Load>) -> String {
    match load {
        Some(load) => format!(
            "{:>6.1} {:>7.1} {:>10} {:>8}",
            load.cpu_percent, load.memory_percent, load.operations_per_s, load.waiting
        ),
        None => format!("{:>6} {:>7} {:>10} {:>8}", "-", "-", "-", "-"),
    }
}

pub(super) fn text(status: &Status) -> String {
    let mut text = format!("cluster {}, version {}\n\n", status.cluster_id, status.version);
    let mut line = |columns: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _infallible = writeln!(text, "{columns}");
    };
    line(format_args!(
        "{:<18} {:<24} {:<9} {:<7} {:<6} {:>6} {:>7} {:>10} {:>8}  INCARNATION",
        "NODE", "ADDRESS", "STATE", "COPIES", "LEADS", "CPU %", "MEMORY%", "REQUESTS/S", "WAITING"
    ));
    for node in &status.nodes {
        line(format_args!(
            "{:<18} {:<24} {:<9} {:<7} {:<6} {}  {}",
            node.id,
            node.address,
            node.state,
            node.replicas,
            node.leads,
            load(node.load.as_ref()),
            node.incarnation
        ));
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
        if !partition.moving.is_empty() {
            line(format_args!("{:<10} moves {}", "", partition.moving.join(", ")));
        }
    }
    text
}

pub(crate) fn explained(explained: &Explained) -> String {
    let partition = &explained.partition;
    let mut text = format!(
        "token      {}\npartition  {}, tokens {} to {}\nepoch      {}\nstate      {}\nleader     {}\nreplicas   {}",
        explained.token,
        partition.id,
        partition.first_token,
        partition.last_token,
        partition.epoch,
        partition.state,
        partition.leader,
        partition.replicas.join(" ")
    );
    if !partition.moving.is_empty() {
        text.push_str("\nmoves      ");
        text.push_str(&partition.moving.join(", "));
    }
    text
}
