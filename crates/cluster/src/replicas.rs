//! Makes the groups on this node what the descriptors say: opens the replicas that belong here, deletes those that do
//! not any more, founds new groups, and, where this node leads, changes the group's members to those of the descriptor.
//!
//! A change is decided on what the group was seen to be *before* the newest descriptor was asked for, and the group
//! refuses it if it is not that any more. So no leader, however late, brings back a replica that was taken out: the
//! descriptor that it would have to go by is older than the members that it would have to have seen.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tracing::{info, warn};
use trimaran_proto::api::placement as wire;
use trimaran_proto::api::placement::{NodeState, ReplicaState};
use trimaran_proto::internal::cluster::PartitionLoad;
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::meta_command::Command;
use trimaran_replication::group::{Consistency, Group, Member};
use trimaran_replication::groups::Durability;
use trimaran_replication::machine::Machine;
use trimaran_replication::members::Changed;
use trimaran_replication::planted::{self, Bug};
use trimaran_replication::split::{Seed, Split};

use crate::error::Error;
use crate::member::Cluster;
use crate::merger;
use crate::meta::Meta;
use crate::meta::moves::{is_moving, wanted};

/// How often what is there is compared with what should be, besides on every change of the descriptors.
const COMPARE_EVERY: Duration = Duration::from_millis(200);

/// How long one attempt to change the members of a group may take before it is begun anew.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a change that waits for something (a replica that catches up, say) looks again.
const STEP_EVERY: Duration = Duration::from_millis(50);

/// How often the first leader of a new group asks for votes, and how many times, before it waits like everybody else.
const CAMPAIGN_EVERY: Duration = Duration::from_millis(20);
const CAMPAIGNS_MAX: usize = 50;

/// How long the replicas of a partition stay that became part of another one: its leader tells the others how it ended, and
/// they whoever watches it.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
        let held = replicas.clone();
        let split_above = cluster.inner.options.split_above.map_or(u64::MAX, |above| above.bytes);
        cluster.inner.loads.held_by(Box::new(move || held.loads(split_above)));
        let held = replicas.clone();
        let freeze = move |partition: u64, merge: u64| {
            let group = held.get(partition);
            let frozen = async move {
                let group = group.ok_or_else(|| Error::NotReady("it has no replica here".to_owned()))?;
                group.freeze(merge).await.map_err(|error| match error {
                    trimaran_replication::Error::Refused { reason, .. } => Error::Refused(reason),
                    other => other.into(),
                })
            };
            frozen.boxed()
        };
        // There is one keeper of replicas in a process.
        let _second = cluster.inner.freezer.set(Box::new(freeze));
        let keeper = Keeper {
            cluster,
            durability,
            machine: Box::new(machine),
            replicas: replicas.clone(),
            leading: Arc::default(),
            parts: Mutex::default(),
        };
        tokio::spawn(keeper.run());
        replicas
    }

    /// This node's replica of a partition.
    pub fn get(&self, partition: u64) -> Option<Group<M>> {
        self.open.read().get(&partition).cloned()
    }

    /// What those hold that lead; of one that holds more than `split_above` bytes also where its middle is, which takes a
    /// look at all of its slots.
    fn loads(&self, split_above: u64) -> Vec<PartitionLoad> {
        let open = self.open.read();
        let leading = open.iter().filter(|(_, group)| group.is_leader());
        let load = |(&partition_id, group): (&u64, &Group<M>)| {
            group.read_now(|machine| {
                let bytes = machine.bytes();
                let middle = if bytes > split_above { machine.middle() } else { None };
                let middle_by_bytes = middle.unwrap_or(0);
                PartitionLoad { partition_id, bytes, middle_by_bytes, ..PartitionLoad::default() }
            })
        };
        leading.map(load).collect()
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
    /// Parts of groups that are removed from here, for new groups that are not.
    parts: Mutex<HashMap<u64, Seed<M>>>,
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
        let (mut meta, mut seeded) = (self.cluster.meta(), self.cluster.groups().seeded());
        let (mut before, mut cleared, mut ended) = (None, None, HashMap::new());
        // Of which nothing is to be done, as long as the descriptors stay what they are, the group sleeps, and this node leads
        // it as before or does not: nobody can have changed it.
        let mut settled: HashMap<u64, bool> = HashMap::new();
        loop {
            let is_split = seeded.has_changed().unwrap_or(true);
            seeded.mark_unchanged();
            let now = Arc::clone(&meta.borrow_and_update());
            // A part of a group may have come that belongs to one of them, or to nobody here.
            if before.replace(now.version) != Some(now.version) || is_split {
                settled.clear();
            }
            // Before the cluster knows of this start, the descriptors name the replicas of the life before: opened
            // without their memory, they would vote under ids that have promised things they no longer know.
            let partitions = now.partitions.values().filter(|_| self.cluster.is_entered());
            let mut waiting = BTreeSet::new();
            if cleared != Some(now.version) || is_split {
                match self.clear(&now, &mut ended).await {
                    Ok(()) if ended.is_empty() => cleared = Some(now.version),
                    Ok(()) => {}
                    Err(error) => {
                        warn!(%error, cause = ?std::error::Error::source(&error), "a partition that became part of another one is still here");
                    }
                }
            }
            // A partition is older than those that were split from it: it has its turn before them.
            for partition in partitions {
                if waiting.contains(&partition.split_from) {
                    waiting.insert(partition.id);
                    continue;
                }
                let id = partition.id;
                let here = self.replicas.get(id);
                let leads = here.as_ref().is_some_and(Group::is_leader);
                if settled.remove(&id) == Some(leads) && here.is_none_or(|group| group.is_asleep()) {
                    settled.insert(id, leads);
                    continue;
                }
                match self.keep(partition).await {
                    Ok(Kept::Settled) => {
                        settled.insert(id, leads);
                    }
                    Ok(Kept::Underway) => {}
                    Ok(Kept::Waiting) => {
                        waiting.insert(partition.id);
                    }
                    Err(error) => {
                        // It is tried again: peers may be down, or another leader may be at it.
                        warn!(partition = partition.id, %error, cause = ?std::error::Error::source(&error), "partition is not as it should be yet");
                        waiting.insert(partition.id);
                    }
                }
            }
            tokio::select! {
                changed = meta.changed() => if changed.is_err() { return },
                _ = seeded.changed(), if !waiting.is_empty() => {}
                () = tokio::time::sleep(COMPARE_EVERY) => {}
            }
        }
    }

    /// Removes what is left here of partitions that became part of others. `ended` says since when that is known.
    async fn clear(&self, meta: &Meta, ended: &mut HashMap<u64, Instant>) -> Result<(), Error> {
        let groups = self.cluster.groups();
        let open = self.replicas.all();
        ended.retain(|id, _| open.iter().any(|(open, _)| open == id));
        for (id, group) in open.into_iter().filter(|(id, _)| meta.is_merged_away(*id)) {
            if ended.entry(id).or_insert_with(Instant::now).elapsed() < LAST_WORDS {
                continue;
            }
            ended.remove(&id);
            self.replicas.open.write().remove(&id);
            self.parts.lock().extend(group.take_seeds());
            groups.remove(id).await?;
            info!(partition = id, "replica removed: the partition is part of another one");
        }
        for id in groups.recovered().into_iter().filter(|&id| meta.is_merged_away(id)) {
            // Its range is what its own disk says, if anything.
            let nothing = wire::Partition { id, first_token: 1, last_token: 0, ..wire::Partition::default() };
            groups.remove_recovered(id, || (self.machine)(&nothing)).await?;
            info!(partition = id, "replica of the life before removed: the partition is part of another one");
        }
        let seeds = self
            .replicas
            .all()
            .into_iter()
            .flat_map(|(_, group)| group.seeds().into_iter().map(move |id| (id, group.clone())));
        let seeds: Vec<_> = seeds.filter(|(id, _)| meta.is_merged_away(*id)).collect();
        let mut seeds: Vec<Seed<M>> =
            seeds.into_iter().filter_map(|(id, group)| group.take_seed(id)).collect();
        seeds.extend(self.parts.lock().extract_if(|id, _| meta.is_merged_away(*id)).map(|(_, seed)| seed));
        for seed in seeds {
            seed.forget().await.map_err(|stop| Error::Failed(stop.to_string()))?;
        }
        Ok(())
    }

    async fn keep(&self, partition: &wire::Partition) -> Result<Kept, Error> {
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
                if let Some(here) = here {
                    self.replicas.open.write().remove(&partition.id);
                    self.parts.lock().extend(here.take_seeds());
                    self.cluster.groups().remove(partition.id).await?;
                    info!(partition = partition.id, "replica removed");
                }
                let Some(wanted) = wanted else { return self.forget(partition).await };
                if partition.lost {
                    return Ok(Kept::Settled);
                }
                match self.open(partition, wanted).await? {
                    Some(group) => group,
                    None => return Ok(Kept::Waiting),
                }
            }
        };
        // A new partition is founded by its first replica. Never a renewed one: its epoch has grown.
        let first = partition.replicas.first().map(|replica| replica.id);
        if partition.epoch == 1 && first == Some(group.replica()) && !group.is_founded().await? {
            group.found(&members(partition)).await?;
            info!(partition = partition.id, "partition founded");
        }
        if group.is_leader() { Ok(self.lead(partition, group)) } else { Ok(Kept::Settled) }
    }

    /// Opens this node's replica of a partition. `None` as long as another replica here has its tokens: where rows of
    /// all partitions stand together, two would write the same ones.
    async fn open(&self, partition: &wire::Partition, replica: u64) -> Result<Option<Group<M>>, Error> {
        let (id, groups) = (partition.id, self.cluster.groups());
        let seed = self.seed(partition);
        let (first, last) = (partition.first_token, partition.last_token);
        let is_taken = self.replicas.all().iter().any(|(_, group)| group.has_any_of(first, last));
        if is_taken && seed.is_none() {
            return Ok(None);
        }
        let is_split = seed.is_some();
        let group = match seed {
            Some(seed) => groups.open_split(id, replica, self.durability, seed).await?,
            None => {
                groups.open(id, replica, self.durability, (self.machine)(&as_founded::<M>(partition))).await?
            }
        };
        self.replicas.open.write().insert(id, group.clone());
        let leads = |group: &Group<M>| group.is_leader();
        if is_split && self.replicas.get(partition.split_from).as_ref().is_some_and(leads) {
            // Nobody leads it yet. Whoever led the old group is asked first.
            tokio::spawn(campaign(group.clone()));
        }
        Ok(Some(group))
    }

    /// This node's part of a partition that was split from another one, if it is still to be had.
    fn seed(&self, partition: &wire::Partition) -> Option<Seed<M>> {
        let own = self.parts.lock().remove(&partition.id);
        own.or_else(|| self.replicas.get(partition.split_from)?.take_seed(partition.id))
    }

    /// Nothing of the partition belongs here.
    async fn forget(&self, partition: &wire::Partition) -> Result<Kept, Error> {
        if let Some(seed) = self.seed(partition) {
            seed.forget().await.map_err(|stop| Error::Failed(stop.to_string()))?;
            info!(partition = partition.id, "a part that does not belong here is removed");
        }
        // Moved away while this node was down.
        let machine = || (self.machine)(partition);
        if self.cluster.groups().remove_recovered(partition.id, machine).await? {
            info!(partition = partition.id, "replica of the life before removed");
        }
        Ok(Kept::Settled)
    }

    /// Begins what this leader has to do for its partition, if it is not at it.
    fn lead(&self, partition: &wire::Partition, group: Group<M>) -> Kept {
        let Ok(seen) = group.members() else { return Kept::Underway };
        let wanted: BTreeSet<u64> = members(partition).iter().map(|member| member.replica).collect();
        let confirmed: BTreeSet<u64> = partition.voters.iter().copied().collect();
        let is_as_described = seen.is_settled
            && seen.learners.is_empty()
            && seen.voters == wanted
            && confirmed == wanted
            && !is_moving(partition)
            && !partition.unproven
            && partition.leader_hint == group.replica();
        let id = partition.id;
        let merging = partition.merging;
        let thawed =
            group.frozen_for().filter(|&merge| merging.is_none_or(|merging| merging.number != merge));
        let is_taking = merging.is_some_and(|merging| merging.into == id);
        if is_as_described && thawed.is_none() && !is_taking && partition.splitting_off.is_none() {
            return match merging {
                None => self.offer_leadership(partition, group),
                Some(_) => Kept::Underway,
            };
        }
        if !self.leading.lock().changing.insert(id) {
            return Kept::Underway;
        }
        let (cluster, leading) = (self.cluster.clone(), Arc::clone(&self.leading));
        tokio::spawn(async move {
            let work = async {
                match thawed {
                    _ if !is_as_described => change_members(&cluster, id, &group).await,
                    Some(merge) => merger::thaw(&cluster, id, &group, merge).await,
                    None if is_taking => merger::merge(&cluster, id, &group).await,
                    None => split(&cluster, id, &group).await,
                }
            };
            match tokio::time::timeout(CHANGE_TIMEOUT, work).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => {
                    warn!(partition = id, %error, cause = ?std::error::Error::source(&error), "a partition is not changed yet");
                    tokio::time::sleep(COMPARE_EVERY).await;
                }
            }
            leading.lock().changing.remove(&id);
        });
        Kept::Underway
    }

    /// Gives the leadership to the replica that should have it, if it could take it at once.
    fn offer_leadership(&self, partition: &wire::Partition, group: Group<M>) -> Kept {
        let heir = partition.preferred_leader;
        if heir == group.replica() {
            return Kept::Settled;
        }
        let node =
            partition.replicas.iter().find(|replica| replica.id == heir).map(|replica| replica.node_id);
        let meta = self.cluster.meta();
        let is_up = node.is_some_and(|node| {
            meta.borrow().nodes.get(&node).is_some_and(|node| node.state() == NodeState::Up)
        });
        // Handed back at once, it would come to a node that is about to stop.
        let has_declined =
            group.given_by().is_some_and(|(replica, at)| replica == heir && at.elapsed() < PREFER_EVERY);
        if !is_up || has_declined || !group.has_caught_up(heir) {
            return Kept::Underway;
        }
        let id = partition.id;
        {
            let mut leading = self.leading.lock();
            let offered = leading.offered.get(&id);
            if offered.is_some_and(|at| at.elapsed() < PREFER_EVERY) {
                return Kept::Underway;
            }
            leading.offered.insert(id, Instant::now());
        }
        tokio::spawn(async move {
            match group.transfer_leader(heir).await {
                Ok(()) => info!(partition = id, heir, "leadership is handed to whom it should belong"),
                Err(error) => warn!(partition = id, %error, "leadership was not handed over"),
            }
        });
        Kept::Underway
    }
}

/// What became of a partition here.
enum Kept {
    /// It is as it should be.
    Settled,
    /// It will be, or somebody else sees to it.
    Underway,
    /// It is to be here, and cannot be opened before another one has given its tokens up.
    Waiting,
}

/// What a group's log begins with, for a replica that has nothing yet and may have to read all of it. A machine whose
/// rows stand with those of other partitions must not write theirs: it begins with the range of now, and keeps the rest
/// aside until the log comes to where that went.
fn as_founded<M: Machine>(partition: &wire::Partition) -> wire::Partition {
    let mut founded = partition.clone();
    if let Some(range) = partition.founded_with {
        if M::DURABLE {
            // What came later by a merge is in the log.
            founded.last_token = founded.last_token.min(range.last_token);
        } else {
            (founded.first_token, founded.last_token) = (range.first_token, range.last_token);
        }
    }
    founded
}

/// Asks for votes until somebody leads.
async fn campaign<M: Machine>(group: Group<M>) {
    for _ in 0..CAMPAIGNS_MAX {
        if group.leader().is_some() || group.campaign().await.is_err() {
            return;
        }
        tokio::time::sleep(CAMPAIGN_EVERY).await;
    }
}

/// Has the group of a partition agree on the split that its descriptor tells of, and confirms it.
async fn split<M: Machine>(cluster: &Cluster, id: u64, group: &Group<M>) -> Result<(), Error> {
    let Ok(seen) = group.members() else { return Ok(()) };
    cluster.refresh().await?;
    let meta = Arc::clone(&cluster.meta().borrow());
    let Some(partition) = meta.partitions.get(&id).filter(|partition| !partition.lost) else {
        return Ok(());
    };
    let wanted: BTreeSet<u64> = members(partition).iter().map(|member| member.replica).collect();
    let Some(fresh) = partition.splitting_off.as_deref().filter(|_| seen.voters == wanted) else {
        return Ok(());
    };
    let asked = Split { at: fresh.first_token, group: fresh.id, members: members(fresh) };
    let agreed = group.split(asked).await?;
    let confirm = state::ConfirmSplit {
        partition_id: id,
        new_partition_id: agreed.group,
        voters: agreed.members.iter().map(|member| member.replica).collect(),
        leader: group.replica(),
    };
    cluster.change(Command::ConfirmSplit(confirm)).await?;
    info!(partition = id, new_partition = agreed.group, "partition split");
    Ok(())
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
                if partition.unproven {
                    // Everything that the group began with is with a majority of its own once that has agreed on anything.
                    group.barrier(Consistency::ReadIndex).await?;
                }
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
