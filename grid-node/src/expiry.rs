//! Removes keys whose time is over, and ends leases: where this node leads, it proposes their removal, so that every replica does it at
//! the same place in the log. Nobody sees them meanwhile: a key that is due counts as absent.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use tracing::debug;
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::{Command, Reap};

use crate::limits::{REAP_EVERY, REAP_KEYS_MAX};
use crate::metrics;
use crate::router::Router;

/// Runs until the router's cluster is gone.
pub async fn run(router: Router) {
    // What was told last of each partition: most have not changed.
    let mut told: HashMap<u64, (usize, usize)> = HashMap::new();
    loop {
        tokio::time::sleep(REAP_EVERY).await;
        for (partition, group) in router.replicas() {
            let (now_ms, passed_ms) = (router.now_ms(&group), group.passed_ms());
            let (reap, keys, bytes) = group.read_now(|machine| {
                let keys = machine.keys();
                let semaphores = keys.due_semaphores(passed_ms, REAP_KEYS_MAX);
                let reap = Reap { keys: keys.due(now_ms, REAP_KEYS_MAX), semaphores };
                (reap, keys.len(), keys.bytes())
            });
            if told.insert(partition, (keys, bytes)) != Some((keys, bytes)) {
                metrics::held(partition, keys, bytes);
            }
            if (reap.keys.is_empty() && reap.semaphores.is_empty()) || !group.is_leader() {
                continue;
            }
            let command = Command { body: Some(Body::Reap(reap)), ..Command::default() };
            if let Err(error) = group.propose(Bytes::from(command.encode_to_vec()), None).await {
                // Tried again in a moment, by whoever leads then.
                debug!(partition, %error, "keys that are due were not removed yet");
            }
        }
    }
}
