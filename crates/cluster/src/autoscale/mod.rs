//! As many nodes as the load needs: the leader of the meta group decides, has the number agreed on, and sees to it.
//!
//! [`policy`] says how many; an [`Actor`] starts nodes and clears away what is left of them: [`process`] on this machine,
//! [`docker`] beside the other containers, [`kubernetes`] as replicas of a stateful set. A node that is not needed is drained
//! first, like any other that leaves. Whoever leads next goes on from the agreed number.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use trimaran_proto::api::placement as wire;
use trimaran_proto::api::placement::NodeState;
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::meta_command::Command;

use crate::error::Error;
use crate::member::{ATTEMPT_TIMEOUT, Cluster};
use crate::meta::Meta;
use crate::meta::moves::is_moving;

pub mod options;

pub mod policy;

pub mod process;

pub mod docker;

pub mod kubernetes;

use policy::{Limits, Load, Observed, Policy, Reason};

/// How often the load is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a node that was started may take to join before another one is started.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);

/// What an actor could not do; for the log, since it is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct Failed {
    what: &'static str,
    reason: String,
}

impl Failed {
    pub(crate) fn new(what: &'static str, reason: impl std::fmt::Display) -> Self {
        Self { what, reason: reason.to_string() }
    }
}

/// Starts nodes of the cluster, and clears away what is left of them. Called where the meta group is led; it must know what
/// others of its kind have started.
#[async_trait::async_trait]
pub trait Actor: Send + Sync {
    /// Starts one more node, which joins by itself through one of these addresses. Returns when it was begun.
    async fn start(&self, members: &[String]) -> Result<(), Failed>;

    /// Addresses of nodes that were started like this and not cleared away: only they are stopped again.
    async fn started(&self) -> Result<BTreeSet<String>, Failed>;

    /// Clears away what is left of a node that has ended for good: its process, its container, its data.
    async fn clear(&self, address: &str) -> Result<(), Failed>;
}

/// How a cluster scales itself.
#[derive(Clone)]
pub struct Autoscale {
    /// Who starts nodes.
    pub actor: Arc<dyn Actor>,
    /// Bounds and targets.
    pub limits: Limits,
}

/// What a node uses of what it has, as it says itself: processors and memory, each 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Of all processors that it may use.
    pub cpu: f64,
    /// Of the memory that it may use.
    pub memory: f64,
}

/// Reads a node's usage.
pub type Meter = Arc<dyn Fn() -> Usage + Send + Sync>;

/// What the leader of the meta group remembers from look to look; the next one begins anew.
#[derive(Default)]
pub(crate) struct Scaler {
    policy: Policy,
    looked: Option<Instant>,
    /// When a node was started last, and how many there were before.
    started: Option<(Instant, usize)>,
    /// An actor is at work.
    busy: Arc<AtomicBool>,
}

impl Scaler {
    /// Looks at the load if it is time to, and takes the next step towards the number of nodes that was agreed on.
    pub(crate) async fn look(
        &mut self,
        cluster: &Cluster,
        meta: &Meta,
        loads: Option<Vec<Load>>,
        now: Instant,
    ) -> Result<(), Error> {
        let Some(autoscale) = cluster.inner.options.autoscale.clone() else { return Ok(()) };
        let is_due = self.looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY);
        if !is_due || meta.format < 2 {
            return Ok(());
        }
        self.looked = Some(now);
        let stays = |node: &&wire::Node| {
            matches!(node.state(), NodeState::Joining | NodeState::Up | NodeState::Suspect)
        };
        let staying: Vec<&wire::Node> = meta.nodes.values().filter(stays).collect();
        let is_up = |node: &wire::Node| matches!(node.state(), NodeState::Up | NodeState::Gone);
        let is_settled = meta.nodes.values().all(is_up)
            && !meta
                .partitions
                .values()
                .any(|partition| is_moving(partition) || partition.splitting_off.is_some());
        let limits =
            Limits { min: autoscale.limits.min.max(meta.replication_factor as usize), ..autoscale.limits };
        if let Some(loads) = loads {
            let observed = Observed { loads, is_settled };
            let wanted = self.policy.look(&observed, &limits, now);
            if let Some(wanted) = wanted.filter(|wanted| wanted.nodes != meta.wanted_nodes as usize) {
                decide(cluster, &observed, wanted).await?;
                return Ok(());
            }
        }
        // Nobody has decided anything yet: as many as there are, within the bounds.
        let wanted = match meta.wanted_nodes as usize {
            0 => staying.len(),
            wanted => wanted,
        };
        let wanted = wanted.clamp(limits.min, limits.max.max(limits.min));
        if self.busy.load(Ordering::Acquire) {
            return Ok(());
        }
        let is_waited_for = self.started.is_some_and(|(at, before)| {
            staying.len() <= before && now.saturating_duration_since(at) < JOIN_PATIENCE
        });
        let members: Vec<String> = staying.iter().map(|node| node.address.clone()).collect();
        let gone: Vec<String> = meta
            .nodes
            .values()
            .filter(|node| node.state() == NodeState::Gone)
            .map(|node| node.address.clone())
            .filter(|address| !members.contains(address))
            .collect();
        if staying.len() > wanted && is_settled {
            let own = cluster.node();
            // The leader has other things to look at, too.
            let leaving = tokio::time::timeout(ATTEMPT_TIMEOUT, autoscale.actor.started()).await;
            let leaving = leaving.map_err(|elapsed| Error::NotReady(elapsed.to_string()))?;
            let leaving = leaving.map_err(|failed| Error::NotReady(failed.to_string()))?;
            // The newest of those that were started for it; this one last, since it leads.
            let candidates = staying.iter().filter(|node| leaving.contains(&node.address));
            let newest = |node: &&&wire::Node| (node.id != own, meta.entered(node.id), node.id);
            if let Some(node) = candidates.max_by_key(newest) {
                info!(node = node.id, address = node.address, "a node is not needed any more");
                return cluster.set_node_state(node.id, NodeState::Leaving).await;
            }
        }
        let is_missing = staying.len() < wanted && !is_waited_for;
        if !is_missing && gone.is_empty() {
            return Ok(());
        }
        if is_missing {
            self.started = Some((now, staying.len()));
        }
        self.busy.store(true, Ordering::Release);
        let busy = Arc::clone(&self.busy);
        tokio::spawn(async move {
            if let Err(failed) = act(&*autoscale.actor, is_missing.then_some(members), gone).await {
                warn!(%failed, "the number of nodes is not as it should be yet");
            }
            busy.store(false, Ordering::Release);
        });
        Ok(())
    }
}

async fn act(actor: &dyn Actor, start: Option<Vec<String>>, gone: Vec<String>) -> Result<(), Failed> {
    let started = actor.started().await?;
    for address in gone.iter().filter(|address| started.contains(*address)) {
        actor.clear(address).await?;
        info!(address, "nothing is left of a node that is gone");
    }
    let Some(members) = start else { return Ok(()) };
    // The leader before may have started one that has not joined yet; it is waited for like one of ours.
    match started.iter().find(|address| !members.contains(address) && !gone.contains(address)) {
        Some(address) => {
            info!(address, "a node was started and has not joined yet");
            Ok(())
        }
        None => {
            info!("one more node is started");
            actor.start(&members).await
        }
    }
}

async fn decide(cluster: &Cluster, observed: &Observed, wanted: policy::Wanted) -> Result<(), Error> {
    let nodes = observed.loads.len().max(1) as f64;
    let mean = |of: fn(&Load) -> f64| observed.loads.iter().map(of).sum::<f64>() / nodes;
    let permille = |share: f64| (share * 1000.0).round() as u32;
    let scale = state::Scale {
        from_nodes: u32::try_from(observed.loads.len()).unwrap_or(u32::MAX),
        to_nodes: u32::try_from(wanted.nodes).unwrap_or(u32::MAX),
        reason: match wanted.reason {
            Reason::Bounds => state::ScaleReason::Bounds,
            Reason::Cpu => state::ScaleReason::Cpu,
            Reason::Memory => state::ScaleReason::Memory,
            Reason::Operations => state::ScaleReason::Operations,
            Reason::Queue => state::ScaleReason::Queue,
        }
        .into(),
        cpu_permille: permille(mean(|load| load.cpu)),
        memory_permille: permille(mean(|load| load.memory)),
        operations: observed.loads.iter().map(|load| load.operations).sum(),
        queue: observed.loads.iter().map(|load| load.queue).max().unwrap_or(0),
    };
    info!(?scale, "another number of nodes is wanted");
    cluster.change(Command::Scale(scale)).await.map(drop)
}
