//! From a partition to whoever leads it now: here, or at another node. The same for every kind of cluster.
//!
//! A write gets a request id before its first attempt and keeps it through every retry, so that a change of leader
//! under way neither loses nor repeats it.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use trimaran_net::retry::Backoff;
use trimaran_net::status::{Class, Classified};
use trimaran_placement::table::{Partition, Table};
use trimaran_placement::token::Token;
use trimaran_replication::group::Group;
use trimaran_replication::machine::Machine;
use trimaran_replication::session::Session;

use crate::member::Cluster;
use crate::replicas::Replicas;

/// Who has to answer for a partition now.
pub enum Target<M: Machine> {
    /// This node's replica leads.
    Here(Group<M>),
    /// The node whose replica leads.
    There(u64),
    /// Nobody is known to lead; wait for an election.
    Nobody,
}

/// Something that is asked of a partition's leader, again and again until it is answered.
pub trait Ask<M: Machine>: Sync {
    /// The answer.
    type Answer: Send;
    /// Why there is none; its class decides whether to ask again.
    type Error: Classified + Send;

    /// One attempt.
    fn ask(&self, target: Target<M>) -> impl Future<Output = Result<Self::Answer, Self::Error>> + Send;
}

/// Why a question was not answered.
#[derive(Debug)]
pub enum Unanswered<E> {
    /// A majority of the partition's copies is gone for good.
    Lost,
    /// There is no such partition any more: it has become part of another one.
    Merged,
    /// Nobody answered in time, or this node leaves.
    TimedOut,
    /// An answer that asking again would not change.
    Refused(E),
}

/// One of several things that are asked together, each of the partition that its token lies in.
#[derive(Clone, Debug)]
pub struct Piece<T> {
    /// Where it belongs.
    pub token: Token,
    /// Pieces with different numbers are never sent together: those of writes whose request ids are of different sessions.
    pub session: u64,
    /// What it is.
    pub what: T,
}

/// Finds leaders. Clones are the same.
pub struct Routes<M: Machine> {
    inner: Arc<Inner<M>>,
}

struct Inner<M: Machine> {
    cluster: Cluster,
    replicas: Replicas<M>,
    table: ArcSwap<Table>,
    /// Of the table.
    version: watch::Sender<u64>,
    sessions: Mutex<HashMap<u64, Session>>,
    random: Mutex<StdRng>,
    leaving: CancellationToken,
}

impl<M: Machine> Clone for Routes<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<M: Machine> std::fmt::Debug for Routes<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routes").finish_non_exhaustive()
    }
}

impl<M: Machine> Routes<M> {
    /// Routes over this node's replicas and its view of the cluster. `seed` is drawn at random by the caller. Once
    /// `leaving` is cancelled, what is not answered yet is given up at once: other nodes are asked again.
    pub fn new(cluster: Cluster, replicas: Replicas<M>, seed: u64, leaving: CancellationToken) -> Self {
        let inner = Arc::new(Inner {
            cluster,
            replicas,
            table: ArcSwap::default(),
            version: watch::Sender::default(),
            sessions: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            leaving,
        });
        let routes = Self { inner };
        routes.refresh();
        tokio::spawn(routes.clone().follow_table());
        routes
    }

    async fn follow_table(self) {
        let mut meta = self.inner.cluster.meta();
        while meta.changed().await.is_ok() {
            meta.mark_unchanged();
            self.refresh();
        }
    }

    fn refresh(&self) {
        let table = self.inner.cluster.meta().borrow().table();
        match trimaran_net::placement::get_table(&table) {
            Ok(table) => {
                let version = table.version();
                self.inner.table.store(Arc::new(table));
                self.inner.version.send_if_modified(|known| std::mem::replace(known, version) != version);
            }
            Err(error) if table.partitions.is_empty() => tracing::debug!(%error, "no partitions yet"),
            Err(error) => tracing::error!(%error, "the partition table does not cover every token"),
        }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.inner.cluster
    }

    /// The table as this node knows it.
    pub fn table(&self) -> Arc<Table> {
        self.inner.table.load_full()
    }

    /// The version of the table, as it changes.
    pub fn table_version(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    /// The partition that a token lies in; `None` before the node has joined its cluster.
    pub fn partition_at(&self, token: Token) -> Option<Partition> {
        self.inner.table.load().find(token).cloned()
    }

    /// The id of the partition that a token lies in.
    pub fn partition_id_at(&self, token: Token) -> Option<u64> {
        self.inner.table.load().find(token).map(|partition| partition.id)
    }

    /// The node that leads a partition, as far as is known here.
    pub fn leader_of(&self, partition: &Partition) -> Option<u64> {
        // Our own replica knows best; without one, what the table says.
        let here = self.inner.replicas.get(partition.id).and_then(|group| group.leader());
        here.map(|leader| leader.node)
            .or_else(|| partition.leader_hint.and_then(|leader| partition.node_of(leader)))
    }

    /// Returns when this node leaves: what is not answered yet is to be given up.
    pub async fn leaving(&self) {
        self.inner.leaving.cancelled().await;
    }

    /// This node's replica of a partition.
    pub fn replica(&self, partition: u64) -> Option<Group<M>> {
        self.inner.replicas.get(partition)
    }

    /// This node's replica of the partition that a token lies in, if it leads and `last` lies in it too.
    pub fn led_here(&self, (first, last): (Token, Token)) -> Option<Group<M>> {
        let table = self.inner.table.load();
        let partition = table.find(first)?;
        if last > partition.last {
            return None;
        }
        self.inner.replicas.get(partition.id).filter(Group::is_leader)
    }

    /// All replicas of this node.
    pub fn replicas(&self) -> Vec<(u64, Group<M>)> {
        self.inner.replicas.all()
    }

    /// Numbers this node's own requests to a partition.
    pub fn session(&self, partition: u64) -> Session {
        let mut sessions = self.inner.sessions.lock();
        sessions.entry(partition).or_insert_with(|| Session::new(self.inner.random.lock().random())).clone()
    }

    /// The address of a node that has a replica of the partition, for a caller that has to go there.
    pub fn address_of(&self, partition: u64) -> Option<String> {
        let table = self.inner.table.load();
        let node = table.get(partition)?.replicas.first()?.node;
        self.inner.cluster.peers().address(node)
    }

    /// Asks whoever leads until an answer comes that is not about who leads, for `patience` at most.
    pub async fn until_answered<A: Ask<M>>(
        &self,
        partition: u64,
        ask: &A,
        patience: Duration,
    ) -> Result<A::Answer, Unanswered<A::Error>> {
        let deadline = Instant::now() + patience;
        let mut backoff = Backoff::default();
        loop {
            match self.inner.table.load().get(partition) {
                Some(found) if found.lost => return Err(Unanswered::Lost),
                Some(_) => {}
                None => return Err(Unanswered::Merged),
            }
            let target = self.target(partition);
            let asked = match &target {
                Target::There(node) => Some(*node),
                Target::Here(_) | Target::Nobody => None,
            };
            let attempted = tokio::select! {
                attempted = timeout_at(deadline, ask.ask(target)) => attempted,
                // With the same request id, so that it does not matter whether the old leader had carried it out.
                () = self.led_elsewhere(partition, asked) => continue,
                () = self.inner.leaving.cancelled() => return Err(Unanswered::TimedOut),
            };
            let error = match attempted {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_elapsed) => return Err(Unanswered::TimedOut),
            };
            match error.class() {
                // Its replica here was closed just now.
                _ if self.is_merged_away(partition) => return Err(Unanswered::Merged),
                Class::Elsewhere | Class::Later | Class::Unknown => {}
                _ => return Err(Unanswered::Refused(error)),
            }
            let wait = backoff.next(&mut *self.inner.random.lock());
            if Instant::now() + wait >= deadline {
                return Err(Unanswered::Refused(error));
            }
            sleep(wait).await;
        }
    }

    /// True if the partition is known to have become part of another one.
    pub fn is_merged_away(&self, partition: u64) -> bool {
        self.inner.cluster.meta().borrow().is_merged_away(partition)
    }

    /// Returns when another node than the one that was asked is known to lead. A node that is cut off, or gone with its
    /// address, answers nothing and refuses nothing.
    async fn led_elsewhere(&self, partition: u64, asked: Option<u64>) {
        let Some(asked) = asked else { return std::future::pending().await };
        loop {
            sleep(LEADER_LOOK_EVERY).await;
            match self.target(partition) {
                Target::There(node) if node != asked => return,
                Target::Here(_) => return,
                Target::There(_) | Target::Nobody => {}
            }
        }
    }

    /// Sends pieces to the partitions that they belong to, all at once; those of one partition stay together and in order.
    /// `send` answers each piece, or says by `None` that the partition does not have it: it was split or merged meanwhile, and
    /// the piece is sent to where it belongs by then. The outcomes stand as the pieces do.
    ///
    /// `lost` says what is wrong if a piece finds no partition for `patience`.
    pub async fn spread<T: Clone, O, E: Clone, F>(
        &self,
        pieces: &[Piece<T>],
        patience: Duration,
        lost: impl Fn() -> E,
        send: impl Fn(u64, Vec<T>) -> F,
    ) -> Vec<Result<O, E>>
    where
        F: Future<Output = Result<Vec<Option<O>>, E>>,
    {
        let deadline = Instant::now() + patience;
        let mut outcomes: Vec<Option<Result<O, E>>> = pieces.iter().map(|_| None).collect();
        let mut left: Vec<usize> = (0..pieces.len()).collect();
        while !left.is_empty() {
            let table = self.table();
            let mut groups: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
            for at in left.drain(..) {
                let piece = &pieces[at];
                let Some(partition) = table.find(piece.token) else {
                    outcomes[at] = Some(Err(lost()));
                    continue;
                };
                groups.entry((partition.id, piece.session)).or_default().push(at);
            }
            let sent = groups.into_iter().map(|((partition, _), places)| {
                let whats = places.iter().map(|&at| pieces[at].what.clone()).collect();
                let answered = send(partition, whats);
                async move { (answered.await, places) }
            });
            for (answered, places) in futures::future::join_all(sent).await {
                match answered {
                    Ok(answers) => {
                        for (at, answer) in places.into_iter().zip(answers) {
                            match answer {
                                Some(answer) => outcomes[at] = Some(Ok(answer)),
                                None => left.push(at),
                            }
                        }
                    }
                    Err(error) => {
                        places.into_iter().for_each(|at| outcomes[at] = Some(Err(error.clone())));
                    }
                }
            }
            left.sort_unstable();
            if !left.is_empty() && !self.wait_for_newer(&table, deadline).await {
                break;
            }
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(lost()))).collect()
    }

    /// Returns when this node may have a newer table than this, to look again. False if `deadline` is over.
    pub async fn wait_for_newer(&self, than: &Table, deadline: Instant) -> bool {
        let mut meta = self.inner.cluster.meta();
        let version = than.version();
        let look_again = Instant::now() + TABLE_LOOK_EVERY;
        if self.table().version() <= version {
            let newer = meta.wait_for(|meta| meta.version > version);
            // The leader may know of a split that is not confirmed yet; it will be.
            let _elapsed = timeout_at(look_again.min(deadline), newer).await;
            self.refresh();
        }
        !self.inner.leaving.is_cancelled() && Instant::now() < deadline
    }

    /// Notes that the partition, which is led here, was asked something; `token` of one of the operations, if it is wanted.
    pub fn note(&self, partition: u64, operations: usize, token: impl FnOnce() -> Option<Token>) {
        self.inner.cluster.inner.loads.note(partition, operations as u64, token);
    }

    fn target(&self, partition: u64) -> Target<M> {
        let here = self.inner.replicas.get(partition);
        if let Some(group) = here.as_ref().filter(|group| group.is_leader()) {
            return Target::Here(group.clone());
        }
        let node = self.inner.table.load().get(partition).and_then(|found| self.leader_of(found));
        match node.filter(|&node| node != self.inner.cluster.node()) {
            Some(node) => Target::There(node),
            None => Target::Nobody,
        }
    }

    /// Asks the other voters to lead what this node leads, and waits up to `patience` until they do: nobody then waits
    /// for an election.
    pub async fn give_leaderships_away(&self, patience: Duration) {
        let has_others = |group: &Group<M>| group.status().voters.len() > 1;
        let shared = self.replicas().into_iter().filter(|(_, group)| has_others(group));
        let given = shared.map(|(partition, group)| async move {
            // One that has most of the log leads at once; one that has not yet cannot be elected, and everybody would
            // wait for somebody else to call an election. In a group that is just founded nobody may be ready yet.
            while group.is_leader() {
                let Some(heir) = group.heir() else {
                    sleep(HANDOVER_LOOK_EVERY).await;
                    continue;
                };
                if let Err(error) = group.transfer_leader(heir).await {
                    tracing::warn!(partition, %error, "a leadership was not given away");
                    sleep(HANDOVER_LOOK_EVERY).await;
                    continue;
                }
                // Taken over within milliseconds, or not at all: then, and if it came back meanwhile, it is given again.
                let asked = Instant::now();
                while group.is_leader() && asked.elapsed() < HANDOVER_PATIENCE {
                    sleep(HANDOVER_LOOK_EVERY).await;
                }
            }
        });
        if tokio::time::timeout(patience, futures::future::join_all(given)).await.is_err() {
            tracing::warn!("some leaderships were not taken over in {patience:?}");
        }
    }
}

/// How long a request waits for a newer table before it looks whether something has changed.
const TABLE_LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often a request on its way looks whether its leader still leads.
const LEADER_LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a leadership that was given may take to be taken over before it is given again.
const HANDOVER_PATIENCE: Duration = Duration::from_millis(300);

/// How often we look whether a leadership was taken over.
const HANDOVER_LOOK_EVERY: Duration = Duration::from_millis(10);
