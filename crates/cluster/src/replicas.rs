//! Makes the groups on this node what the descriptors say: opens the replicas that belong here, founds new groups,
//! and, where this node leads, brings in the replicas that the descriptor names and drops the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tracing::{info, warn};
use trimaran_proto::api::placement as wire;
use trimaran_proto::state::meta as state;
use trimaran_replication::group::{Group, Member};
use trimaran_replication::groups::Durability;
use trimaran_replication::machine::Machine;

use crate::error::Error;
use crate::member::Cluster;

/// How often what is there is compared with what should be, besides on every change of the descriptors.
const COMPARE_EVERY: Duration = Duration::from_millis(200);

/// How long one attempt to change the replicas of a partition may take before the others get their turn.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

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
        let keeper = Keeper { cluster, durability, machine: Box::new(machine), replicas: replicas.clone() };
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
        let wanted =
            partition.replicas.iter().find(|replica| replica.node_id == node).map(|replica| replica.id);
        let here = self.replicas.get(partition.id);
        let group = match (wanted, here) {
            (Some(wanted), Some(group)) if group.replica() == wanted => group,
            (wanted, here) => {
                if here.is_some() {
                    self.replicas.open.write().remove(&partition.id);
                    self.cluster.groups().remove(partition.id).await?;
                }
                let Some(wanted) = wanted.filter(|_| !partition.lost) else { return Ok(()) };
                let machine = (self.machine)(partition);
                let group =
                    self.cluster.groups().open(partition.id, wanted, self.durability, machine).await?;
                self.replicas.open.write().insert(partition.id, group.clone());
                group
            }
        };
        let members: Vec<Member> = partition
            .replicas
            .iter()
            .map(|replica| Member { replica: replica.id, node: replica.node_id })
            .collect();
        // A new partition is founded by its first replica. Never a renewed one: its epoch has grown.
        let first = members.first().map(|member| member.replica);
        if partition.epoch == 1 && first == Some(group.replica()) && !group.is_founded().await? {
            group.found(&members).await?;
            info!(partition = partition.id, "partition founded");
        }
        if group.is_leader() {
            self.lead(partition, &group, &members).await?;
        }
        Ok(())
    }

    async fn lead(
        &self,
        partition: &wire::Partition,
        group: &Group<M>,
        members: &[Member],
    ) -> Result<(), Error> {
        let mut wanted: Vec<u64> = members.iter().map(|member| member.replica).collect();
        wanted.sort_unstable();
        let status = group.status();
        let mut voters = status.voters.clone();
        voters.sort_unstable();
        if voters != wanted || !status.learners.is_empty() {
            info!(partition = partition.id, ?voters, ?wanted, "changing the replicas of a partition");
            tokio::time::timeout(CHANGE_TIMEOUT, group.set_members(members))
                .await
                .map_err(|_elapsed| Error::NotReady("a new replica has not caught up yet".into()))??;
            voters.clone_from(&wanted);
        }
        let mut confirmed = partition.voters.clone();
        confirmed.sort_unstable();
        if confirmed != voters || partition.leader_hint != group.replica() {
            let confirm = state::Confirm {
                partition_id: partition.id,
                epoch: partition.epoch,
                leader: group.replica(),
                voters,
            };
            self.cluster.change(state::meta_command::Command::Confirm(confirm)).await?;
        }
        Ok(())
    }
}
