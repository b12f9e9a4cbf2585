//! The cluster as clients of Redis Cluster see it: slots and who has them, and redirections to there.
//!
//! Any node takes any key, so nobody has to be redirected; a client that would rather go to the leader itself finds it
//! here. With `--resp-redirect` a key that is led elsewhere is answered with MOVED, so that such a client notices at once
//! when a partition was moved or split. There is no ASK: what has it, has all of it. Source: Redis Cluster specification.

use bytes::Bytes;
use trimaran_placement::token::{self, SLOTS};

use super::plan::{Step, said};
use crate::command::arguments::lower;
use crate::command::reply::Answer;
use crate::command::table::Spec;
use crate::command::{Done, refuse};
use crate::error::Error;
use crate::router::{Router, Shard};

/// Answers CLUSTER.
pub(super) fn plan(router: &Router, arguments: &[Bytes]) -> Done<Step> {
    Ok(match (lower(&arguments[1]).as_str(), arguments.get(2)) {
        ("keyslot", Some(key)) => said(|out| out.integer(i64::from(token::slot(key)))),
        ("myid", None) => said(|out| out.bulk(id(router.node()).as_bytes())),
        ("info", None) => said(|out| out.verbatim(&info(router))),
        ("slots", None) => said(|out| slots(router, out)),
        ("shards", None) => said(|out| shards(router, out)),
        ("nodes", None) => said(|out| out.verbatim(&nodes(router))),
        ("countkeysinslot", Some(slot)) => {
            let slot = std::str::from_utf8(slot).ok().and_then(|text| text.parse().ok());
            let Some(slot) = slot.filter(|slot| *slot < SLOTS) else { return refuse("ERR Invalid slot") };
            let count = router.count_in_slot(slot);
            said(|out| out.count(count))
        }
        _ => return refuse("ERR unknown subcommand or wrong number of arguments of 'cluster'"),
    })
}

/// The refusal of a command whose keys are not led here, or are not of one slot.
pub(super) fn redirect(router: &Router, spec: &Spec, arguments: &[Bytes]) -> Done {
    let mut slots = spec.keys(arguments).map(|key| token::slot(key));
    let Some(slot) = slots.next() else { return Ok(()) };
    if slots.any(|other| other != slot) {
        return Err(Error::CrossSlot.into());
    }
    match router.leader_of(token::slot_start(slot)) {
        // Without a leader there is nowhere to send them; it is waited for here.
        Some(node) if node != router.node() => match router.resp_address(node) {
            Some(address) => refuse(format!("MOVED {slot} {address}")),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Forty hexadecimal digits, as Redis has them.
fn id(node: u64) -> String {
    format!("{node:040x}")
}

/// Host and port of a node's front; of one that has none, nothing.
fn split(address: &str) -> (String, i64) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    (host.trim_matches(['[', ']']).to_owned(), port.parse().unwrap_or(0))
}

fn slots_of(shard: &Shard) -> (i64, i64) {
    (i64::from(token::slot_of(shard.first)), i64::from(token::slot_of(shard.last)))
}

fn slots(router: &Router, out: &mut Answer) {
    let shards = router.shards();
    out.array(shards.len());
    for shard in &shards {
        let (first, last) = slots_of(shard);
        out.array(2 + shard.nodes.len());
        out.integer(first);
        out.integer(last);
        for &node in &shard.nodes {
            let (host, port) = split(&router.resp_address(node).unwrap_or_default());
            out.array(4);
            out.bulk(host.as_bytes());
            out.integer(port);
            out.bulk(id(node).as_bytes());
            out.array(0);
        }
    }
}

fn shards(router: &Router, out: &mut Answer) {
    let shards = router.shards();
    out.array(shards.len());
    for shard in &shards {
        let (first, last) = slots_of(shard);
        out.map(2);
        out.bulk(b"slots");
        out.array(2);
        out.integer(first);
        out.integer(last);
        out.bulk(b"nodes");
        out.array(shard.nodes.len());
        for (place, &node) in shard.nodes.iter().enumerate() {
            let (host, port) = split(&router.resp_address(node).unwrap_or_default());
            out.map(7);
            let mut text = |key: &str, value: &str| {
                out.bulk(key.as_bytes());
                out.bulk(value.as_bytes());
            };
            text("id", &id(node));
            text("ip", &host);
            text("endpoint", &host);
            text("role", if place == 0 { "master" } else { "replica" });
            text("health", "online");
            for (key, value) in [("port", port), ("replication-offset", 0)] {
                out.bulk(key.as_bytes());
                out.integer(value);
            }
        }
    }
}

/// Every node as one that has the slots that it leads: what is a copy of what differs from partition to partition.
fn nodes(router: &Router) -> String {
    let shards = router.shards();
    let mut text = String::new();
    for (node, address) in router.resp_addresses() {
        let led = shards.iter().filter(|shard| shard.nodes.first() == Some(&node)).map(|shard| {
            let (first, last) = slots_of(shard);
            if first == last { format!(" {first}") } else { format!(" {first}-{last}") }
        });
        let flags = if node == router.node() { "myself,master" } else { "master" };
        let led: String = led.collect();
        text.push_str(&format!("{} {address}@0 {flags} - 0 0 0 connected{led}\n", id(node)));
    }
    text
}

fn info(router: &Router) -> String {
    let shards = router.shards();
    let nodes = router.resp_addresses().len();
    let leading: std::collections::BTreeSet<u64> =
        shards.iter().filter_map(|shard| shard.nodes.first().copied()).collect();
    let is_ok = !shards.is_empty() && shards.iter().all(|shard| !shard.nodes.is_empty());
    format!(
        "cluster_enabled:1\r\ncluster_state:{}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{SLOTS}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{nodes}\r\ncluster_size:{}\r\n\
         cluster_current_epoch:{}\r\ncluster_my_epoch:0\r\n",
        if is_ok { "ok" } else { "fail" },
        leading.len(),
        router.table().version(),
    )
}
