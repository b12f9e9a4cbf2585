//! Who is heard of: every node says to the leader of the meta group that it is there, and the leader remembers when.
//!
//! What a leader has heard is its own and not agreed on: a new one gives everybody the time that a silent node gets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::debug;
use trimaran_proto::api::placement as wire;
use trimaran_proto::internal::cluster::{HeartbeatReply, HeartbeatRequest, NodeLoad, PartitionLoad, Usage};

use crate::error::Error;
use crate::member::{ATTEMPT_TIMEOUT, Cluster, answered};
use crate::meta::{FIRST_FORMAT, FORMAT, Meta};
use crate::usage::Totals;

/// How often a node says that it is there.
const BEAT_EVERY: Duration = Duration::from_millis(500);

/// Beats in a row that nobody heard before one goes to a member that is not known to lead: an election takes fewer.
const OTHERS_ASKED_EVERY: u32 = 4;

/// Silence after which a node is suspect.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_secs(3);

/// What this node, as leader, has heard of which start of which node.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<HashMap<u64, Ear>>);

#[derive(Clone, Debug, Default)]
struct Ear {
    boot: u64,
    /// When it was heard of last, or since when it is listened for.
    at: Option<Instant>,
    /// What it said; absent = nothing yet.
    said: Option<Said>,
}

/// What a node says of itself.
#[derive(Clone, Debug)]
struct Said {
    format: u32,
    partitions: Vec<PartitionLoad>,
    load: NodeLoad,
    usages: Vec<Usage>,
}

impl Heard {
    fn note(&self, beat: HeartbeatRequest, now: Instant) {
        let said = Said {
            format: beat.format.max(FIRST_FORMAT),
            partitions: beat.partitions,
            load: beat.load.unwrap_or_default(),
            usages: beat.usages,
        };
        let ear = Ear { boot: beat.boot_id, at: Some(now), said: Some(said) };
        self.0.lock().insert(beat.node_id, ear);
    }

    /// How long nothing was heard of the present start of a node, by a leader that has listened since `since` at most:
    /// a start that it did not know of is listened for from now on.
    pub(crate) fn silence(&self, meta: &Meta, node: u64, since: Instant, now: Instant) -> Duration {
        let boot = meta.boot(node).unwrap_or_default();
        let mut heard = self.0.lock();
        let ear = heard.entry(node).or_default();
        if ear.boot != boot || ear.at.is_none() {
            *ear = Ear { boot, at: Some(now), said: None };
        }
        now.saturating_duration_since(ear.at.map_or(since, |at| at.max(since)))
    }

    /// What the present start of a node has said since `since`, if anything.
    fn said<T>(&self, meta: &Meta, node: u64, since: Instant, ask: impl FnOnce(&Said) -> T) -> Option<T> {
        let heard = self.0.lock();
        let ear = heard.get(&node)?;
        let is_new = ear.at.is_some_and(|at| at >= since) && meta.boot(node) == Some(ear.boot);
        ear.said.as_ref().filter(|_| is_new).map(ask)
    }

    /// True if the present start of a node was heard of since `since`.
    pub(crate) fn is_heard(&self, meta: &Meta, node: u64, since: Instant) -> bool {
        self.said(meta, node, since, |_| ()).is_some()
    }

    /// The newest format of commands that a node knows, if it was heard of since `since`.
    pub(crate) fn format(&self, meta: &Meta, node: u64, since: Instant) -> Option<u32> {
        self.said(meta, node, since, |said| said.format)
    }

    /// What a node uses of what it has, if it was heard of since `since`.
    pub(crate) fn load(&self, meta: &Meta, node: u64, since: Instant) -> Option<NodeLoad> {
        self.said(meta, node, since, |said| said.load)
    }

    /// What is used of what has a quota, if all of some nodes have told it of late: a leader that is new has not heard of
    /// everybody yet, and a sum that leaves some out would let too much through.
    fn totals(&self, nodes: impl Iterator<Item = u64>, now: Instant) -> Option<Totals> {
        let mut totals = Totals::default();
        let heard = self.0.lock();
        for node in nodes {
            let ear = heard.get(&node)?;
            let is_there = ear.at.is_some_and(|at| now.saturating_duration_since(at) < SUSPECT_AFTER);
            let said = ear.said.as_ref().filter(|_| is_there)?;
            totals.nodes += 1;
            for usage in &said.usages {
                let sum = totals.by_name.entry(usage.name.clone()).or_default();
                sum.keys += usage.keys;
                sum.bytes += usage.bytes;
                sum.operations += usage.operations;
            }
        }
        Some(totals)
    }

    /// What the partitions carry that a node leads, if it was heard of since `since`.
    pub(crate) fn loads(&self, meta: &Meta, node: u64, since: Instant) -> Vec<PartitionLoad> {
        self.said(meta, node, since, |said| said.partitions.clone()).unwrap_or_default()
    }
}

impl Cluster {
    /// Notes at the leader of the meta group that a node is there. What the cluster makes of it.
    pub(crate) fn hear(&self, beat: HeartbeatRequest) -> Result<HeartbeatReply, Error> {
        if !self.leads_meta() {
            let leader = self.inner.group.leader();
            let leader_address = leader.and_then(|leader| self.inner.peers.address(leader.node));
            return Err(Error::NotLeader { leader_address });
        }
        let node = beat.node_id;
        let now = Instant::now();
        self.inner.heard.note(beat, now);
        let meta = self.inner.meta.borrow();
        let state = meta.nodes.get(&node).map_or(wire::NodeState::Unspecified, wire::Node::state);
        // One that leaves leads until it has gone.
        let leads =
            |node: &&wire::Node| matches!(node.state(), wire::NodeState::Up | wire::NodeState::Leaving);
        let nodes = meta.nodes.values().filter(leads).map(|node| node.id);
        let Totals { by_name, nodes } = self.inner.heard.totals(nodes, now).unwrap_or_default();
        let totals = by_name.into_iter().map(|(name, sum)| Usage { name, ..sum }).collect();
        Ok(HeartbeatReply { state: state.into(), totals, nodes })
    }
}

/// The member after this one, to be asked who leads; the first one after the last.
fn another(meta: &Meta, own: u64, last: u64) -> Option<&wire::Node> {
    let mut others =
        meta.nodes.values().filter(|node| node.id != own && node.state() != wire::NodeState::Gone);
    others.clone().find(|node| node.id > last).or_else(|| others.next())
}

/// Says that this node is there, for ever: to who leads the meta group, as far as this node knows; where that is not so, to
/// others, who may know better. A node that was declared gone while it was cut off is told nothing any more, and learns
/// of it in no other way.
pub(crate) async fn beat(cluster: Cluster) {
    let boot_id = cluster.inner.options.identity.boot;
    let mut elsewhere: Option<String> = None;
    let (mut unheard, mut asked_last) = (0_u32, 0);
    loop {
        let partitions = cluster.inner.loads.told();
        let usage = (cluster.inner.options.meter)();
        let queue = cluster.groups().waiting();
        let load = cluster.inner.loads.tell_of_node(usage, &partitions, queue);
        let node_id = cluster.node();
        let usages = cluster.inner.usages.get().map_or_else(Vec::new, |count| count());
        let beat =
            HeartbeatRequest { node_id, boot_id, format: FORMAT, partitions, load: Some(load), usages };
        let told = if cluster.leads_meta() {
            cluster.hear(beat)
        } else {
            let client = elsewhere.take().map_or_else(|| cluster.meta_leader(), |there| cluster.at(&there));
            match client {
                Ok(mut client) => {
                    let reply = tokio::time::timeout(ATTEMPT_TIMEOUT, client.heartbeat(beat)).await;
                    answered(reply)
                }
                Err(error) => Err(error),
            }
        };
        match told {
            Ok(reply) => {
                unheard = 0;
                let state = reply.state();
                if reply.nodes > 0 {
                    cluster.inner.totals.send_replace(Arc::new(Totals::from(reply)));
                }
                cluster.inner.told.send_if_modified(|told| std::mem::replace(told, state) != state);
            }
            Err(error) => {
                debug!(%error, "not heard");
                unheard += 1;
                elsewhere = if unheard.is_multiple_of(OTHERS_ASKED_EVERY) {
                    let meta = cluster.inner.meta.borrow();
                    let next = another(&meta, node_id, asked_last);
                    next.map(|node| {
                        asked_last = node.id;
                        node.address.clone()
                    })
                } else if let Error::NotLeader { leader_address } = error {
                    leader_address
                } else {
                    None
                };
            }
        }
        tokio::time::sleep(BEAT_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_others_are_asked_in_turn_but_those_that_are_gone() {
        let node = |id, state: wire::NodeState| {
            (id, wire::Node { id, state: state.into(), ..wire::Node::default() })
        };
        let up = wire::NodeState::Up;
        let nodes = [node(1, up), node(2, up), node(3, wire::NodeState::Gone), node(4, up)];
        let mut meta = Meta::default();
        meta.nodes.extend(nodes);
        let mut last = 0;
        let asked = [(); 4].map(|()| {
            last = another(&meta, 2, last).map_or(0, |node| node.id);
            last
        });
        assert_eq!(asked, [1, 4, 1, 4]);
        assert!(another(&Meta::default(), 2, 0).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_a_quota_is_summed_over_all_nodes_or_not_at_all() {
        let heard = Heard::default();
        let now = Instant::now();
        let beat = |node_id, bytes| HeartbeatRequest {
            node_id,
            usages: vec![Usage { name: "a".into(), bytes, keys: 1, operations: 2 }],
            ..HeartbeatRequest::default()
        };
        heard.note(beat(1, 100), now);
        heard.note(beat(2, 30), now);
        heard.note(beat(2, 40), now + Duration::from_secs(1));
        let sum = |keys, bytes, operations| Usage { keys, bytes, operations, ..Usage::default() };
        let later = now + Duration::from_secs(1);
        let both = heard.totals([1, 2].into_iter(), later).unwrap();
        assert_eq!((both.nodes, &both.by_name["a"]), (2, &sum(2, 140, 4)));
        assert_eq!(heard.totals([1, 2, 3].into_iter(), later), None, "3 was not heard of yet");
        assert_eq!(heard.totals([1, 2].into_iter(), now + SUSPECT_AFTER), None, "1 is silent");
        let one = heard.totals([2].into_iter(), now + SUSPECT_AFTER).unwrap();
        assert_eq!((one.nodes, &one.by_name["a"]), (1, &sum(1, 40, 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_was_not_known_gets_as_much_time_as_any() {
        let heard = Heard::default();
        let meta = Meta::default();
        let since = Instant::now();
        let later = since + Duration::from_secs(1000);
        assert_eq!(heard.silence(&meta, 7, since, later), Duration::ZERO, "it was not listened for");
        assert_eq!(heard.silence(&meta, 7, since, later + SUSPECT_AFTER), SUSPECT_AFTER);
        assert!(!heard.is_heard(&meta, 7, since));
        // What is heard of another start of it says nothing.
        heard.note(HeartbeatRequest { node_id: 7, boot_id: 99, ..HeartbeatRequest::default() }, later);
        assert!(!heard.is_heard(&meta, 7, since));
        assert_eq!(heard.silence(&meta, 7, since, later + SUSPECT_AFTER), Duration::ZERO);
        // A new leader has listened since it leads.
        let leads = later + Duration::from_secs(500);
        assert_eq!(heard.silence(&meta, 7, leads, leads + SUSPECT_AFTER), SUSPECT_AFTER);
    }
}
