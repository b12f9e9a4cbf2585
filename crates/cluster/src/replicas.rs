//! Makes the groups on this node what the descriptors say: opens the replicas that belong here, deletes those that do
//! not any more, founds new groups, and, where this node leads, changes the group's members to those of the descriptor.
//!
//! A change is decided on what the group was seen to be *before* the newest descriptor was asked for, and the group
//! refuses it if it is not that any more. So no leader, however late, brings back a replica that was taken out: the
//! descriptor that it would have to go by is older than the members that it would have to have seen.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tracing::{info, warn};
use trimaran_proto::api::placement as wire;
use trimaran_proto::api::placement::{NodeState, ReplicaState};
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::meta_command::Command;
use trimaran_replication::group::{Group, Member};
use trimaran_replication::groups::Durability;
use trimaran_replication::machine::Machine;
use trimaran_replication::members::Changed;
use trimaran_replication::planted::{self, Bug};

use crate::error::Error;
use crate::member::Cluster;
use crate::meta::moves::{is_moving, wanted};

/// How often what is there is compared with what should be, besides on every change of the descriptors.
const COMPARE_EVERY: Duration = Duration::from_millis(200);

/// How long one attempt to change the members of a group may take before it is begun anew.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a change that waits for something (a replica that catches up, say) looks again.
const STEP_EVERY: Duration = Duration::from_millis(50);

/// Pause between two attempts to give a leadership to the replica that should have it. An attempt that fails costs
/// lease reads until the next election.
const PREFER_EVERY: Duration = Duration::from_secs(5);

/// This node's replicas by partition. Clones are the same.
pub struct Replicas<M: Machine> {
    open: Arc<RwLock<HashMap<u64, Group<M>>>>,
}

impl<M: Machine> Clone for Replicas<M> {
    fn clone(&self) -> Self {
        Self { open: Arc::clone(&self.open) }
    }
}

impl<M: Machine> std::fmt::Debug for Replicas<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replicas").field("partitions", &self.open.read().keys()).finish()
    }
}

impl<M: Machine> Replicas<M> {
    /// Starts to keep this node's replicas as the cluster says; `machine` makes an empty machine for a partition.
    pub fn keep(
        cluster: Cluster,
        durability: Durability,
        machine: impl Fn(&wire::Partition) -> M + Send + Sync + 'static,
    ) -> Self {
        let replicas = Self { open: Arc::default() };
        let keeper = Keeper {
            cluster,
            durability,
            machine: Box::new(machine),
            replicas: replicas.clone(),
            leading: Arc::default(),
        };
        tokio::spawn(keeper.run());
        replicas
    }

    /// This node's replica of a partition.
    pub fn get(&self, partition: u64) -> Option<Group<M>> {
        self.open.read().get(&partition).cloned()
    }

    /// All of them, by partition.
    pub fn all(&self) -> Vec<(u64, Group<M>)> {
        self.open.read().iter().map(|(&partition, group)| (partition, group.clone())).collect()
    }
}

struct Keeper<M: Machine> {
    cluster: Cluster,
    durability: Durability,
    machine: Box<dyn Fn(&wire::Partition) -> M + Send + Sync>,
    replicas: Replicas<M>,
    leading: Arc<Mutex<Leading>>,
}

/// What is under way where this node leads.
#[derive(Default)]
struct Leading {
    /// Partitions whose members are being changed; each has a task of its own, so that none waits for another.
    changing: BTreeSet<u64>,
    /// When a leadership was last offered to the replica that should have it.
    offered: HashMap<u64, Instant>,
}

impl<M: Machine> Keeper<M> {
    async fn run(self) {
        let mut meta = self.cluster.meta();
        loop {
            let now = Arc::clone(&meta.borrow_and_update());
            // Before the cluster knows of this start, the descriptors name the replicas of the life before: opened
            // without their memory, they would vote under ids that have promised things they no longer know.
            let partitions = now.partitions.values().filter(|_| self.cluster.is_entered());
            for partition in partitions {
                if let Err(error) = self.keep(partition).await {
                    // It is tried again: peers may be down, or another leader may be at it.
                    warn!(partition = partition.id, %error, cause = ?std::error::Error::source(&error), "partition is not as it should be yet");
                }
            }
            tokio::select! {
                changed = meta.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(COMPARE_EVERY) => {}
            }
        }
    }

    async fn keep(&self, partition: &wire::Partition) -> Result<(), Error> {
        let node = self.cluster.node();
        let is_kept = |replica: &&wire::Replica| {
            replica.node_id == node
                && !(planted::is(Bug::RemovedAtOnce) && replica.state() == ReplicaState::Leaving)
        };
        let wanted = partition.replicas.iter().find(is_kept).map(|replica| replica.id);
        let here = self.replicas.get(partition.id);
        let group = match (wanted, here) {
            (Some(wanted), Some(group)) if group.replica() == wanted => group,
            (wanted, here) => {
                if here.is_some() {
                    self.replicas.open.write().remove(&partition.id);
                    self.cluster.groups().remove(partition.id).await?;
                    info!(partition = partition.id, "replica removed");
                }
                let Some(wanted) = wanted else {
                    // Moved away while this node was down.
                    let machine = || (self.machine)(partition);
                    if self.cluster.groups().remove_recovered(partition.id, machine).await? {
                        info!(partition = partition.id, "replica of the life before removed");
                    }
                    return Ok(());
                };
                if partition.lost {
                    return Ok(());
                }
                let machine = (self.machine)(partition);
                let group =
                    self.cluster.groups().open(partition.id, wanted, self.durability, machine).await?;
                self.replicas.open.write().insert(partition.id, group.clone());
                group
            }
        };
        // A new partition is founded by its first replica. Never a renewed one: its epoch has grown.
        let first = partition.replicas.first().map(|replica| replica.id);
        if partition.epoch == 1 && first == Some(group.replica()) && !group.is_founded().await? {
            group.found(&members(partition)).await?;
            info!(partition = partition.id, "partition founded");
        }
        if group.is_leader() {
            self.lead(partition, group);
        }
        Ok(())
    }

    /// Begins what this leader has to do for its partition, if it is not at it.
    fn lead(&self, partition: &wire::Partition, group: Group<M>) {
        let Ok(seen) = group.members() else { return };
        let wanted: BTreeSet<u64> = members(partition).iter().map(|member| member.replica).collect();
        let confirmed: BTreeSet<u64> = partition.voters.iter().copied().collect();
        let is_as_described = seen.is_settled
            && seen.learners.is_empty()
            && seen.voters == wanted
            && confirmed == wanted
            && !is_moving(partition)
            && partition.leader_hint == group.replica();
        if is_as_described {
            self.offer_leadership(partition, group);
            return;
        }
        let id = partition.id;
        if !self.leading.lock().changing.insert(id) {
            return;
        }
        let (cluster, leading) = (self.cluster.clone(), Arc::clone(&self.leading));
        tokio::spawn(async move {
            match tokio::time::timeout(CHANGE_TIMEOUT, change_members(&cluster, id, &group)).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => {
                    warn!(partition = id, %error, cause = ?std::error::Error::source(&error), "members of a partition are not changed yet");
                    tokio::time::sleep(COMPARE_EVERY).await;
                }
            }
            leading.lock().changing.remove(&id);
        });
    }

    /// Gives the leadership to the replica that should have it, if it could take it at once.
    fn offer_leadership(&self, partition: &wire::Partition, group: Group<M>) {
        let heir = partition.preferred_leader;
        let node =
            partition.replicas.iter().find(|replica| replica.id == heir).map(|replica| replica.node_id);
        let meta = self.cluster.meta();
        let is_up = node.is_some_and(|node| {
            meta.borrow().nodes.get(&node).is_some_and(|node| node.state() == NodeState::Up)
        });
        if heir == group.replica() || !is_up || !group.has_caught_up(heir) {
            return;
        }
        let id = partition.id;
        {
            let mut leading = self.leading.lock();
            let offered = leading.offered.get(&id);
            if offered.is_some_and(|at| at.elapsed() < PREFER_EVERY) {
                return;
            }
            leading.offered.insert(id, Instant::now());
        }
        tokio::spawn(async move {
            match group.transfer_leader(heir).await {
                Ok(()) => info!(partition = id, heir, "leadership is handed to whom it should belong"),
                Err(error) => warn!(partition = id, %error, "leadership was not handed over"),
            }
        });
    }
}

/// The replicas that are to vote.
fn members(partition: &wire::Partition) -> Vec<Member> {
    let wanted = wanted(partition);
    wanted.map(|replica| Member { replica: replica.id, node: replica.node_id }).collect()
}

/// Changes the members of a group, step after step, to those that its newest descriptor names, and confirms them.
/// Returns when that is done, or when this replica leads no more.
async fn change_members<M: Machine>(cluster: &Cluster, id: u64, group: &Group<M>) -> Result<(), Error> {
    loop {
        // In this order: see the head of the file.
        let Ok(seen) = group.members() else { return Ok(()) };
        cluster.refresh().await?;
        let meta = Arc::clone(&cluster.meta().borrow());
        let Some(partition) = meta.partitions.get(&id).filter(|partition| !partition.lost) else {
            return Ok(());
        };
        let changed = if planted::is(Bug::ConfirmedBeforeAgreed) {
            Changed::Done
        } else {
            group.change_members(&seen, &members(partition), &[]).await?
        };
        match changed {
            Changed::Underway => tokio::time::sleep(STEP_EVERY).await,
            Changed::Done => {
                let voters = if planted::is(Bug::ConfirmedBeforeAgreed) {
                    members(partition).iter().map(|member| member.replica).collect()
                } else {
                    seen.voters.iter().copied().collect()
                };
                let confirm = state::Confirm {
                    partition_id: id,
                    epoch: partition.epoch,
                    leader: group.replica(),
                    voters,
                };
                cluster.change(Command::Confirm(confirm)).await?;
                info!(partition = id, epoch = partition.epoch, voters = ?seen.voters, "members of a partition confirmed");
                return Ok(());
            }
        }
    }
}
