//! Watches over the groups of a node that sleep: asks the nodes of their leaders whether they are there, and lets those of
//! its own fall asleep that nobody uses. See `hibernation`.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tracing::debug;
use trimaran_proto::internal::replication::frame::Body;
use trimaran_proto::internal::replication::{Beat, Frame};

use crate::groups::{Shared, Timing};
use crate::network::Lines;
use crate::rpc::Inbound;

/// Groups that begin to fall asleep between two heartbeats. Their questions share messages; more would be a burst.
const FALLING_MAX: usize = 64;

/// What is known of a node that leads sleeping groups.
struct Leader {
    /// When it was heard of last, or since when it is asked.
    at: Instant,
    /// Its start; absent = not heard of yet.
    boot: Option<u64>,
    /// It is not the start that it was.
    is_another: bool,
    is_asked: bool,
}

impl Leader {
    fn new(now: Instant) -> Self {
        Self { at: now, boot: None, is_another: false, is_asked: false }
    }

    fn hear(&mut self, boot: u64) {
        self.at = Instant::now();
        self.is_another |= self.boot.replace(boot).is_some_and(|known| known != boot);
    }
}

/// Watches until the node leaves its lines.
pub(crate) async fn watch(shared: Weak<Shared>, timing: Timing, lines: Lines) {
    let leaders: Arc<Mutex<HashMap<u64, Leader>>> = Arc::default();
    let looks = timing.hibernate_after.as_millis() / timing.heartbeat.as_millis().max(1);
    let looks = u32::try_from(looks).unwrap_or(u32::MAX);
    let mut looked = Instant::now();
    loop {
        sleep(timing.heartbeat).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.has_left() {
            return;
        }
        let replicas = shared.replicas();
        drop(shared);
        let mut sleepers: HashMap<u64, Vec<&Arc<dyn Inbound>>> = HashMap::new();
        for replica in &replicas {
            if let Some(node) = replica.sleeper().sleeps_under() {
                sleepers.entry(node).or_default().push(replica);
            }
        }
        let now = Instant::now();
        // Who does not listen hears nothing: if this node stood still, all begin anew.
        let stood_still = now.saturating_duration_since(looked) > timing.election.0;
        looked = now;
        let mut to_ask = Vec::new();
        {
            let mut leaders = leaders.lock();
            leaders.retain(|node, _| sleepers.contains_key(node));
            for (&node, replicas) in &sleepers {
                let leader = leaders.entry(node).or_insert_with(|| Leader::new(now));
                if stood_still {
                    leader.at = now;
                }
                let is_silent = now.saturating_duration_since(leader.at) >= timing.election.0;
                if is_silent || leader.is_another {
                    debug!(
                        node,
                        is_silent,
                        groups = replicas.len(),
                        "sleeping groups have lost their leader"
                    );
                    replicas.iter().for_each(|replica| replica.sleeper().leader_is_silent());
                    leaders.remove(&node);
                } else if !std::mem::replace(&mut leader.is_asked, true) {
                    to_ask.push(node);
                }
            }
        }
        for node in to_ask {
            let (lines, leaders) = (lines.clone(), Arc::clone(&leaders));
            tokio::spawn(async move {
                let beat = Frame { heartbeat: true, body: Some(Body::Beat(Beat {})), ..Frame::default() };
                let answer = lines.ask(node, beat, timing.election.0).await;
                if let Some(leader) = leaders.lock().get_mut(&node) {
                    leader.is_asked = false;
                    if let Some(Body::BeatReply(reply)) = answer {
                        leader.hear(reply.boot);
                    }
                }
            });
        }
        let tired = replicas.iter().filter(|replica| replica.sleeper().is_tired(looks)).take(FALLING_MAX);
        for replica in tired {
            let replica = Arc::clone(replica);
            tokio::spawn(async move { replica.sleeper().fall_asleep().await });
        }
    }
}
