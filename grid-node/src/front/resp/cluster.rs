//! The cluster as clients of Redis Cluster see it: slots and who has them, and redirections to there.
//!
//! Any node takes any key, so nobody has to be redirected; a client that would rather go to the leader itself finds it
//! here. With `--resp-redirect` a key that is led elsewhere is answered with MOVED, so that such a client notices at once
//! when a partition was moved or split. There is no ASK: what has it, has all of it. Source: Redis Cluster specification.

use bytes::{Bytes, BytesMut};
use trimaran_placement::token::{self, SLOTS};

use super::command::{Planned, Refusal, Session, lower, refuse, said};
use super::reply::{self, Protocol};
use super::table::Spec;
use crate::error::Error;
use crate::router::{Router, Shard};

/// Answers CLUSTER.
pub(super) fn plan(session: &Session, router: &Router, arguments: &[Bytes]) -> Result<Planned, Refusal> {
    let protocol = session.protocol;
    Ok(match (lower(&arguments[1]).as_str(), arguments.get(2)) {
        ("keyslot", Some(key)) => said(session, |out| reply::integer(out, i64::from(token::slot(key)))),
        ("myid", None) => said(session, |out| reply::bulk(out, id(router.node()).as_bytes())),
        ("info", None) => said(session, |out| reply::bulk(out, info(router).as_bytes())),
        ("slots", None) => said(session, |out| slots(router, out)),
        ("shards", None) => said(session, |out| shards(router, protocol, out)),
        ("nodes", None) => said(session, |out| reply::bulk(out, nodes(router).as_bytes())),
        ("countkeysinslot", Some(slot)) => {
            let slot = std::str::from_utf8(slot).ok().and_then(|text| text.parse().ok());
            let Some(slot) = slot.filter(|slot| *slot < SLOTS) else { return refuse("ERR Invalid slot") };
            let count = router.count_in_slot(slot);
            said(session, |out| reply::integer(out, i64::try_from(count).unwrap_or(i64::MAX)))
        }
        _ => return refuse("ERR unknown subcommand or wrong number of arguments of 'cluster'"),
    })
}

/// The refusal of a command whose keys are not led here, or are not of one slot.
pub(super) fn redirect(router: &Router, spec: &Spec, arguments: &[Bytes]) -> Result<(), Refusal> {
    let (first, last, step) = spec.keys;
    if first == 0 {
        return Ok(());
    }
    let count = i64::try_from(arguments.len()).unwrap_or(i64::MAX);
    let last = if last < 0 { count + last } else { last };
    let position = |at: i64| arguments.get(usize::try_from(at).ok()?);
    let mut slots = (first..=last).step_by(usize::try_from(step.max(1)).unwrap_or(1)).filter_map(|at| {
        let key = position(at)?;
        Some(token::slot(key))
    });
    let Some(slot) = slots.next() else { return Ok(()) };
    if slots.any(|other| other != slot) {
        return Err(Error::CrossSlot.into());
    }
    match router.leader_of(token::slot_start(slot)) {
        // Without a leader there is nowhere to send them; it is waited for here.
        Some(node) if node != router.node() => match router.resp_address(node) {
            Some(address) => Err(Refusal::Text(format!("MOVED {slot} {address}"))),
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

fn slots(router: &Router, out: &mut BytesMut) {
    let shards = router.shards();
    reply::array(out, shards.len());
    for shard in &shards {
        let (first, last) = slots_of(shard);
        reply::array(out, 2 + shard.nodes.len());
        reply::integer(out, first);
        reply::integer(out, last);
        for &node in &shard.nodes {
            let (host, port) = split(&router.resp_address(node).unwrap_or_default());
            reply::array(out, 4);
            reply::bulk(out, host.as_bytes());
            reply::integer(out, port);
            reply::bulk(out, id(node).as_bytes());
            reply::array(out, 0);
        }
    }
}

fn shards(router: &Router, protocol: Protocol, out: &mut BytesMut) {
    let shards = router.shards();
    reply::array(out, shards.len());
    for shard in &shards {
        let (first, last) = slots_of(shard);
        reply::map(out, protocol, 2);
        reply::bulk(out, b"slots");
        reply::array(out, 2);
        reply::integer(out, first);
        reply::integer(out, last);
        reply::bulk(out, b"nodes");
        reply::array(out, shard.nodes.len());
        for (place, &node) in shard.nodes.iter().enumerate() {
            let (host, port) = split(&router.resp_address(node).unwrap_or_default());
            reply::map(out, protocol, 7);
            let mut text = |key: &str, value: &str| {
                reply::bulk(out, key.as_bytes());
                reply::bulk(out, value.as_bytes());
            };
            text("id", &id(node));
            text("ip", &host);
            text("endpoint", &host);
            text("role", if place == 0 { "master" } else { "replica" });
            text("health", "online");
            for (key, value) in [("port", port), ("replication-offset", 0)] {
                reply::bulk(out, key.as_bytes());
                reply::integer(out, value);
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
