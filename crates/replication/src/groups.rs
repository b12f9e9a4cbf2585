//! All groups of a node: they share a write-ahead log, the lines to other nodes, a clock and a store of snapshots.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::{SnapshotPolicy, StepDownPolicy};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use trimaran_net::clock::Clock;
use trimaran_net::peers::Peers;
use trimaran_proto::internal::replication::replication_server::{Replication, ReplicationServer};
use trimaran_storage::disk::Disk;
use trimaran_storage::wal::{self, Wal};

use crate::apply::{Applier, Start};
use crate::batch::PROPOSALS_MAX;
use crate::error::{Error, Stop};
use crate::group::{Group, Inner, Status};
use crate::hibernation::Hibernation;
use crate::log::Log;
use crate::machine::Machine;
use crate::network::{Lines, Network};
use crate::rpc::{self, Inbound, Local};
use crate::sleepers;
use crate::snapshot::Store;
use crate::split::Seed;

/// How often a log is looked at for being too long.
const COMPACT_EVERY: Duration = Duration::from_millis(500);

/// Entries of one append to a follower.
const APPEND_ENTRIES_MAX: u64 = 256;

/// Times that the groups of a node live by. They must be the same on all nodes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader without work says that it is there.
    pub heartbeat: Duration,
    /// Silence after which a follower asks whether to elect, least and most. The most is also the leader's lease.
    pub election: (Duration, Duration),
    /// How long a proposal or a read may wait for a majority.
    pub proposal: Duration,
    /// How long a group may be left alone before it hibernates.
    pub hibernate_after: Duration,
}

impl Default for Timing {
    /// A dead leader is replaced in about a second: its lease, then an election.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(300), Duration::from_millis(600)),
            proposal: Duration::from_secs(5),
            hibernate_after: Duration::from_secs(5),
        }
    }
}

/// How the groups of a node are kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Times.
    pub timing: Timing,
    /// Bytes of entries of one group after which a snapshot is made and the log cut behind it, at most.
    pub log_bytes_max: usize,
    /// Likewise, at least. In between it is cut when it is longer than what the group holds, so that a replica that has to
    /// catch up by log never gets much more than a snapshot would be.
    pub log_bytes_min: usize,
    /// Entries kept behind a snapshot, so that a follower that is a little behind needs none.
    pub entries_kept: u64,
    /// Names this start of the node: another one must have another number.
    pub boot: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            log_bytes_max: 32 << 20,
            log_bytes_min: 4 << 20,
            entries_kept: 1024,
            boot: 0,
        }
    }
}

/// Where the log of a group goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nowhere: gone with the process. The replica must come back under a new id.
    Memory,
    /// Into the node's write-ahead log, flushed or not as that is set up.
    Log,
    /// Into the node's write-ahead log, and always flushed.
    Flushed,
}

/// The write-ahead log and the snapshots of a node.
pub struct Durable {
    wal: Arc<Wal>,
    snapshots: Store,
    recovered: Mutex<HashMap<u64, wal::Group>>,
}

impl Durable {
    /// Opens them in two folders.
    pub fn open(
        log: Arc<dyn Disk>,
        snapshots: Arc<dyn Disk>,
        options: wal::Options,
    ) -> Result<Self, trimaran_storage::Error> {
        let (wal, recovered) = Wal::open(log, options)?;
        Ok(Self {
            wal: Arc::new(wal),
            snapshots: Store::new(snapshots),
            recovered: Mutex::new(recovered.groups),
        })
    }

    /// Forgets all groups but one: what they had may have lost its end, and their replicas come back under new ids.
    pub fn forget_all_but(&self, kept: u64) -> std::io::Result<()> {
        let mut recovered = self.recovered.lock();
        let gone: Vec<u64> = recovered.keys().copied().filter(|&group| group != kept).collect();
        for group in gone {
            recovered.remove(&group);
            self.snapshots.remove(group)?;
            // Nobody waits: a later write of the group finds the log stopped if this one failed.
            self.wal.submit_flushed(group, vec![wal::Op::Remove], |_outcome| ());
        }
        Ok(())
    }
}

impl std::fmt::Debug for Durable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Durable").finish_non_exhaustive()
    }
}

/// All groups of a node. Clones are the same.
#[derive(Clone)]
pub struct Groups {
    inner: Arc<Shared>,
}

pub(crate) struct Shared {
    node: u64,
    options: Options,
    clock: Arc<dyn Clock>,
    lines: Lines,
    durable: Option<Durable>,
    open: RwLock<HashMap<u64, Opened>>,
    /// True once this node leaves the lines.
    left: watch::Sender<bool>,
    /// Told when a group has applied a split.
    seeded: watch::Sender<()>,
    /// Why a group has stopped that nobody has stopped.
    failed: watch::Sender<Option<String>>,
}

struct Opened {
    inbound: Arc<dyn Inbound>,
    log: Log,
    status: Box<dyn Fn() -> Status + Send + Sync>,
    waiting: Box<dyn Fn() -> usize + Send + Sync>,
    /// What the machine holds.
    bytes: Box<dyn Fn() -> u64 + Send + Sync>,
    compact: Box<dyn Fn() -> futures::future::BoxFuture<'static, Result<(), Error>> + Send + Sync>,
    forget: Box<dyn Fn() -> futures::future::BoxFuture<'static, Result<(), Stop>> + Send + Sync>,
    stop: Box<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>,
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn has_left(&self) -> bool {
        *self.left.borrow()
    }

    /// This node's replicas, of all groups.
    pub(crate) fn replicas(&self) -> Vec<Arc<dyn Inbound>> {
        self.open.read().values().map(|opened| Arc::clone(&opened.inbound)).collect()
    }
}

impl Groups {
    /// No groups yet. Without `durable`, only groups in memory can be opened. Runs within a tokio runtime.
    pub fn new(
        node: u64,
        options: Options,
        clock: Arc<dyn Clock>,
        peers: Peers,
        durable: Option<Durable>,
    ) -> Self {
        let lines = Lines::new(peers);
        let (timing, watched) = (options.timing, lines.clone());
        let inner = Arc::new(Shared {
            node,
            options,
            clock,
            lines,
            durable,
            open: RwLock::default(),
            left: watch::Sender::new(false),
            seeded: watch::Sender::default(),
            failed: watch::Sender::default(),
        });
        tokio::spawn(compact_when_long(Arc::downgrade(&inner)));
        tokio::spawn(sleepers::watch(Arc::downgrade(&inner), timing, watched));
        Self { inner }
    }

    /// The gRPC service that the other nodes' lines end in; to be served where the peers have this node's address.
    pub fn service(&self) -> ReplicationServer<impl Replication> {
        rpc::service(self.clone())
    }

    /// Opens this node's replica of a group: from its log and snapshot if there are any, else empty, to be founded
    /// or to be added by the leader.
    pub async fn open<M: Machine>(
        &self,
        id: u64,
        replica: u64,
        durability: Durability,
        machine: M,
    ) -> Result<Group<M>, Error> {
        self.begin(id, replica, durability, Start::Opened(machine)).await
    }

    /// Opens this node's replica of a group that was split from another one, from its part of that.
    pub async fn open_split<M: Machine>(
        &self,
        id: u64,
        replica: u64,
        durability: Durability,
        seed: Seed<M>,
    ) -> Result<Group<M>, Error> {
        let Seed { state, _kept: kept } = seed;
        // From here on this replica has a voice, and the old group's may be moved away from here: then nothing could bring the
        // part back.
        let persist = state.machine.persist();
        let persisted = tokio::task::spawn_blocking(persist).await;
        let persisted = persisted.unwrap_or_else(|panicked| Err(Stop::new(panicked.to_string())));
        let opened = match persisted {
            Ok(()) => self.begin(id, replica, durability, Start::Split(Box::new(state))).await,
            Err(stop) => Err(Error::Refused { group: id, action: "open", reason: stop.to_string() }),
        };
        if let Err(error) = &opened {
            // The part is lost with this attempt. Where the old log can bring it back it must not be cut, and is read again
            // by the next start.
            std::mem::forget(kept);
            self.inner.failed.send_replace(Some(format!("a part of a split cannot be kept: {error}")));
        }
        opened
    }

    async fn begin<M: Machine>(
        &self,
        id: u64,
        replica: u64,
        durability: Durability,
        start: Start<M>,
    ) -> Result<Group<M>, Error> {
        if self.inner.open.read().contains_key(&id) {
            let reason = "it is open already".to_owned();
            return Err(Error::Refused { group: id, action: "open", reason });
        }
        let group = self.go_on(id, replica, durability, start).await;
        if let (Err(error), true) = (&group, durability != Durability::Memory) {
            // What was recovered of it is spent. With an empty log it would have a voice, and not know what it has agreed to.
            let failed = format!("group {id} cannot go on with what is here: {error}");
            self.inner.failed.send_replace(Some(failed));
        }
        group
    }

    async fn go_on<M: Machine>(
        &self,
        id: u64,
        replica: u64,
        durability: Durability,
        start: Start<M>,
    ) -> Result<Group<M>, Error> {
        let refused = |reason: String| Error::Refused { group: id, action: "open", reason };
        let (log, store) = match (durability, &self.inner.durable) {
            (Durability::Memory, _) => (Log::in_memory(id), None),
            (Durability::Log | Durability::Flushed, Some(durable)) => {
                let recovered = durable.recovered.lock().remove(&id);
                let log =
                    Log::durable(id, Arc::clone(&durable.wal), recovered, durability == Durability::Flushed)
                        .map_err(|malformed| refused(malformed.to_string()))?;
                (log, Some(durable.snapshots.clone()))
            }
            (Durability::Log | Durability::Flushed, None) => {
                return Err(refused("this node has no data folder".to_owned()));
            }
        };
        let applier = Applier::new(id, start, store.clone(), self.inner.seeded.clone());
        let applier = applier.and_then(|applier| applier.must_go_on_from(log.purged()).map(|()| applier));
        let applier = applier.map_err(|error| refused(error.to_string()))?;
        let (state, seeds) = (applier.state(), applier.seeds());
        let timing = self.inner.options.timing;
        let config = openraft_config(&self.inner.options).map_err(|error| refused(error.to_string()))?;
        let network = Network {
            lines: self.inner.lines.clone(),
            group: id,
            replica,
            voters: applier.voters(),
            connections: 0,
        };
        let raft = openraft::Raft::new(replica, Arc::new(config), network, log.clone(), applier)
            .await
            .map_err(|error| refused(error.to_string()))?;

        let is_alone = raft.with_raft_state(move |state| {
            state.membership_state.effective().membership().voter_ids().eq([replica])
        });
        if is_alone.await.map_err(|error| refused(error.to_string()))? {
            // Nobody else could lead, and nobody has to be waited for.
            raft.trigger().elect(true).await.map_err(|error| refused(error.to_string()))?;
        }
        let (proposals, receiver) = mpsc::channel(PROPOSALS_MAX);
        let closed = watch::Sender::new(false);
        let group = Group::open(
            Inner {
                id,
                replica,
                raft: raft.clone(),
                state,
                seeds,
                proposals,
                clock: Arc::clone(&self.inner.clock),
                hibernation: Hibernation::default(),
                lines: self.inner.lines.clone(),
                election: timing.election,
                lease: timing.election.1,
                proposal_timeout: timing.proposal,
                ready_term: AtomicU64::new(0),
                passing: Arc::default(),
                alone_ms: AtomicU64::new(0),
                opened: tokio::time::Instant::now(),
                ceded_term: AtomicU64::new(0),
                given: Mutex::default(),
                closed: closed.clone(),
            },
            receiver,
        );
        tokio::spawn(tell_of_failure(group.clone(), self.inner.failed.clone()));
        let stop_raft = raft;
        let forgotten = Arc::clone(&group.inner.state);
        let opened = Opened {
            inbound: Arc::new(Local {
                group: group.clone(),
                store,
                receiving: Arc::default(),
                attempt: Mutex::default(),
            }),
            log,
            status: {
                let group = group.clone();
                Box::new(move || group.status())
            },
            waiting: {
                let group = group.clone();
                Box::new(move || PROPOSALS_MAX - group.inner.proposals.capacity())
            },
            bytes: {
                let group = group.clone();
                Box::new(move || group.read_now(Machine::bytes))
            },
            compact: {
                let group = group.clone();
                Box::new(move || {
                    let group = group.clone();
                    Box::pin(async move { group.compact().await })
                })
            },
            forget: Box::new(move || {
                let state = Arc::clone(&forgotten);
                Box::pin(async move {
                    let forget = move || state.write().machine.forget();
                    let forgotten = tokio::task::spawn_blocking(forget).await;
                    forgotten.unwrap_or_else(|panicked| Err(Stop::new(panicked.to_string())))
                })
            }),
            stop: Box::new(move || {
                closed.send_replace(true);
                let raft = stop_raft.clone();
                Box::pin(async move {
                    if let Err(panicked) = raft.shutdown().await {
                        warn!(error = %panicked, "a group did not stop cleanly");
                    }
                })
            }),
        };
        self.inner.open.write().insert(id, opened);
        info!(group = id, replica, ?durability, "group opened");
        Ok(group)
    }

    /// Stops this node's replica of a group and keeps its data.
    pub async fn close(&self, id: u64) {
        let opened = self.inner.open.write().remove(&id);
        if let Some(opened) = opened {
            (opened.stop)().await;
        }
    }

    /// Stops this node's replica of a group and forgets its data. Only on the meta group's word that it was removed.
    pub async fn remove(&self, id: u64) -> Result<(), Error> {
        let opened = self.inner.open.write().remove(&id);
        let Some(opened) = opened else { return Ok(()) };
        (opened.stop)().await;
        // The log last: while it is there, a node that starts again knows what is left to be removed.
        (opened.forget)().await.map_err(|stop| not_removed(id, stop))?;
        if let Some(durable) = &self.inner.durable {
            durable.snapshots.remove(id).map_err(|error| not_removed(id, error))?;
        }
        opened.log.wipe().await.map_err(|error| not_removed(id, error))
    }

    /// Groups that this node had in its life before and that were not opened since.
    pub fn recovered(&self) -> Vec<u64> {
        let durable = self.inner.durable.as_ref();
        durable.map_or_else(Vec::new, |durable| durable.recovered.lock().keys().copied().collect())
    }

    /// Forgets the data of a group that this node had in its life before and that was removed since. True if there was
    /// any. `machine` makes its machine.
    pub async fn remove_recovered<M: Machine>(
        &self,
        id: u64,
        machine: impl FnOnce() -> M,
    ) -> Result<bool, Error> {
        let Some(durable) = &self.inner.durable else { return Ok(false) };
        let recovered = durable.recovered.lock().remove(&id);
        if recovered.is_none() {
            return Ok(false);
        }
        let mut machine = machine();
        let forgotten = tokio::task::spawn_blocking(move || machine.forget()).await;
        let forgotten = forgotten.unwrap_or_else(|panicked| Err(Stop::new(panicked.to_string())));
        forgotten.map_err(|stop| not_removed(id, stop))?;
        durable.snapshots.remove(id).map_err(|error| not_removed(id, error))?;
        let log = Log::durable(id, Arc::clone(&durable.wal), None, true)
            .map_err(|malformed| not_removed(id, malformed))?;
        log.wipe().await.map_err(|error| not_removed(id, error))?;
        Ok(true)
    }

    /// Returns why, when a group here has stopped by itself: its disk failed, or it cannot go on with what it has. This node
    /// is no help to its cluster any more.
    pub async fn failed(&self) -> String {
        let mut failed = self.inner.failed.subscribe();
        let why = failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match why {
            Some(why) => why,
            // The sender lives as long as this.
            None => std::future::pending().await,
        }
    }

    /// Changes whenever a group here has applied a split.
    pub fn seeded(&self) -> watch::Receiver<()> {
        self.inner.seeded.subscribe()
    }

    /// Ends the lines to and from this node, so that its server can stop; groups still open are cut off.
    pub fn leave_lines(&self) {
        self.inner.left.send_replace(true);
        self.inner.lines.close();
    }

    /// Returns when this node leaves the lines.
    pub async fn left(&self) {
        let mut left = self.inner.left.subscribe();
        // The sender lives as long as this.
        let _left = left.wait_for(|left| *left).await;
    }

    /// Stops everything.
    pub async fn close_all(&self) {
        let opened: Vec<Opened> = self.inner.open.write().drain().map(|(_, opened)| opened).collect();
        futures::future::join_all(opened.iter().map(|opened| (opened.stop)())).await;
        self.leave_lines();
    }

    /// Proposals that wait, of all groups.
    pub fn waiting(&self) -> usize {
        self.inner.open.read().values().map(|opened| (opened.waiting)()).sum()
    }

    /// What all open groups look like from here: group, replica, status.
    pub fn statuses(&self) -> Vec<(u64, u64, Status)> {
        let open = self.inner.open.read();
        let mut statuses: Vec<_> =
            open.iter().map(|(&id, opened)| (id, opened.inbound.replica(), (opened.status)())).collect();
        statuses.sort_by_key(|(id, _, _)| *id);
        statuses
    }

    /// Names this start of the node.
    pub(crate) fn boot(&self) -> u64 {
        self.inner.options.boot
    }

    pub(crate) fn inbound(&self, id: u64) -> Option<Arc<dyn Inbound>> {
        self.inner.open.read().get(&id).map(|opened| Arc::clone(&opened.inbound))
    }
}

fn not_removed(group: u64, error: impl std::fmt::Display) -> Error {
    Error::Refused { group, action: "remove", reason: error.to_string() }
}

fn openraft_config(options: &Options) -> Result<openraft::Config, openraft::ConfigError> {
    let timing = options.timing;
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: "trimaran".to_owned(),
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election.0),
        election_timeout_max: ms(timing.election.1),
        enable_pre_vote: Some(true),
        // A leader that comes back must not lead on in its term: what it had proposed may be with the others, and agreed, before
        // it was in its own log.
        enable_leader_restore: Some(false),
        // We cut logs by bytes, see `compact_when_long`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.entries_kept,
        purge_batch_size: (options.entries_kept / 4).max(1),
        max_payload_entries: APPEND_ENTRIES_MAX,
        // A follower gets a snapshot only where the log no longer has what it needs.
        replication_lag_threshold: u64::MAX / 2,
        install_snapshot_timeout: 120_000,
        // We transfer the leadership ourselves, so that our lease knows of it: see `Group::transfer_leader`.
        removed_leader_step_down: StepDownPolicy::Never,
        allow_log_reversion: Some(false),
        ..openraft::Config::default()
    }
    .validate()
}

/// Tells why a group has stopped, unless somebody has stopped it.
async fn tell_of_failure<M: Machine>(group: Group<M>, failed: watch::Sender<Option<String>>) {
    let why = tokio::select! {
        why = group.failed() => why,
        () = group.closed() => return,
    };
    tracing::error!(group = group.id(), why, "a group has stopped");
    failed.send_if_modified(|known| {
        let is_first = known.is_none();
        if is_first {
            *known = Some(format!("group {}: {why}", group.id()));
        }
        is_first
    });
}

/// A log in memory is cut when it takes such a part of what the group holds: it takes the memory that is for that, and its snapshot
/// costs nothing until a replica needs it.
const MEMORY_SHARE: u64 = 8;

/// Has a snapshot made of every group whose log has grown by as much as a snapshot is, within the limits of the options,
/// until the node leaves its lines. One task for
/// all groups: as many timers would cost idle groups more than all else.
async fn compact_when_long(shared: Weak<Shared>) {
    // What a snapshot leaves in each log (entries kept for followers) is the floor from which growth counts.
    let mut floors: HashMap<u64, usize> = HashMap::new();
    loop {
        tokio::time::sleep(COMPACT_EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.has_left() {
            return;
        }
        let read = |(&id, opened): (&u64, &Opened)| (id, opened.log.bytes(), opened.log.is_in_memory());
        let logs: Vec<(u64, usize, bool)> = shared.open.read().iter().map(read).collect();
        floors.retain(|id, _| logs.iter().any(|(open, ..)| open == id));
        for (id, bytes, is_in_memory) in logs {
            let floor = floors.entry(id).or_default();
            *floor = bytes.min(*floor);
            let (grown, most) = (bytes - *floor, shared.options.log_bytes_max);
            if grown < shared.options.log_bytes_min.min(most) {
                continue;
            }
            let held = shared.open.read().get(&id).map_or(0, |opened| (opened.bytes)());
            let share = if is_in_memory { MEMORY_SHARE } else { 1 };
            if (grown as u64) < (held / share).min(most as u64) {
                continue;
            }
            *floor = bytes;
            let compact = shared.open.read().get(&id).map(|opened| (opened.compact)());
            if let Some(compact) = compact {
                // Only asked for here. A group that has stopped makes none.
                let _asked = compact.await;
            }
        }
    }
}
