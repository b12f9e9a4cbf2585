//! One Raft group as its users see it: propose a command, read the machine, change who holds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{Fatal, LinearizableReadError, RaftError};
use openraft::{Instant as _, ReadPolicy, ServerState};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::apply::{Applier, State};
use crate::batch::{self, PROPOSALS_MAX, Proposal};
use crate::error::{Error, Leader};
use crate::hibernation::Hibernation;
use crate::machine::Machine;
use crate::network::Lines;
use crate::passing::Passing;
use crate::session::RequestId;
use crate::split::Seeds;
use crate::types::{Command, Config, LogId, Place};

/// Largest command, bytes.
pub const COMMAND_BYTES_MAX: usize = 32 << 20;

/// Share of the leader's lease that is not used, percent: how much faster than ours a follower's clock may run.
const LEASE_DRIFT_PERCENT: u32 = 20;

/// What a read may miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Nothing that was acknowledged before it began. By the leader's lease: no message, but clocks must not drift
    /// apart by more than a fifth.
    Linearizable,
    /// The same, asking a majority each time: for machines whose clocks cannot be trusted.
    ReadIndex,
    /// Whatever this replica has.
    Stale,
}

/// A replica as a member of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id, never used twice.
    pub replica: u64,
    /// Where it lives.
    pub node: u64,
}

/// What a group looks like from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// "leader", "follower", "candidate", "learner" or "stopped".
    pub state: &'static str,
    /// Nobody uses it: its leader sends no heartbeats, and nobody misses them.
    pub is_asleep: bool,
    /// Current term.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<Leader>,
    /// Last index of the log.
    pub last_log: u64,
    /// Last index applied.
    pub applied: u64,
    /// Replicas that vote.
    pub voters: Vec<u64>,
    /// Replicas that only follow.
    pub learners: Vec<u64>,
    /// Of a leader: up to which index the log of each other replica is known to agree with its own.
    pub progress: BTreeMap<u64, u64>,
}

/// A replica of a group on this node. Clones are the same replica.
pub struct Group<M: Machine> {
    pub(crate) inner: Arc<Inner<M>>,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<M: Machine> std::fmt::Debug for Group<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.inner.id)
            .field("replica", &self.inner.replica)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner<M: Machine> {
    pub(crate) id: u64,
    pub(crate) replica: u64,
    pub(crate) raft: openraft::Raft<Config, Applier<M>>,
    pub(crate) state: Arc<RwLock<State<M>>>,
    /// Of groups that were split from this one.
    pub(crate) seeds: Seeds<M>,
    pub(crate) proposals: mpsc::Sender<Proposal>,
    pub(crate) clock: Arc<dyn trimaran_net::clock::Clock>,
    /// What this replica counts while it leads.
    pub(crate) passing: Arc<Mutex<Passing>>,
    pub(crate) hibernation: Hibernation,
    pub(crate) lines: Lines,
    /// Silence after which a follower asks for votes, least and most.
    pub(crate) election: (Duration, Duration),
    /// How long a leader may serve reads after a majority last heard of it.
    pub(crate) lease: Duration,
    pub(crate) proposal_timeout: Duration,
    /// The term in which this replica has proved, by one full check, that it has applied everything of the terms
    /// before. 0 = in none. While it leads in that term, the lease alone is enough.
    pub(crate) ready_term: AtomicU64,
    /// When it last began a full check of which it was the only voter: until a lease later there is no other leader, whoever
    /// has become a voter since, for that one has heard of this leader. Milliseconds since it was opened, from 1; 0 = never.
    pub(crate) alone_ms: AtomicU64,
    pub(crate) opened: tokio::time::Instant,
    /// The term in which this replica gave its leadership away; its lease is void, since the new leader does not
    /// wait for it to end.
    pub(crate) ceded_term: AtomicU64,
    /// Who asked this replica to lead last, and when.
    pub(crate) given: Mutex<Option<(u64, tokio::time::Instant)>>,
    /// Becomes true when this replica is closed or removed.
    pub(crate) closed: watch::Sender<bool>,
}

impl<M: Machine> Group<M> {
    pub(crate) fn open(inner: Inner<M>, receiver: mpsc::Receiver<Proposal>) -> Self {
        let inner = Arc::new(inner);
        let (state, clock) = (Arc::clone(&inner.state), Arc::clone(&inner.clock));
        let passing = Arc::clone(&inner.passing);
        tokio::spawn(batch::run(inner.id, inner.raft.clone(), state, clock, passing, receiver));
        Self { inner }
    }

    /// The group's id.
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// This replica's id.
    pub fn replica(&self) -> u64 {
        self.inner.replica
    }

    /// Returns when this replica is closed or removed from its node: it learns of nothing any more.
    pub async fn closed(&self) {
        let mut closed = self.inner.closed.subscribe();
        // The sender lives as long as this.
        let _closed = closed.wait_for(|closed| *closed).await;
    }

    /// Proposes one command and returns its reply once it is applied here.
    ///
    /// Errors: [`Error::NotLeader`] and [`Error::NoQuorum`] if it was not carried out; [`Error::Unknown`] if it may
    /// have been, so that only a retry with the same request id is safe; [`Error::Busy`], [`Error::TooLarge`].
    pub async fn propose(&self, payload: Bytes, request_id: Option<RequestId>) -> Result<Bytes, Error> {
        let mut replies = self.propose_many(vec![(payload, request_id)]).await?;
        replies.pop().ok_or(Error::Unknown { group: self.inner.id, reason: "the reply is missing" })
    }

    /// Proposes commands that are applied together, in order, if they fit one entry; replies in order.
    pub async fn propose_many(&self, commands: Vec<(Bytes, Option<RequestId>)>) -> Result<Vec<Bytes>, Error> {
        let group = self.inner.id;
        if let Some((payload, _)) = commands.iter().find(|(payload, _)| payload.len() > COMMAND_BYTES_MAX) {
            let bytes = payload.len();
            return Err(Error::TooLarge { bytes, limit: "COMMAND_BYTES_MAX", max: COMMAND_BYTES_MAX });
        }
        let commands =
            commands.into_iter().map(|(payload, request_id)| Command { request_id, payload }).collect();
        self.in_use().await;
        let (reply, answer) = oneshot::channel();
        self.inner.proposals.try_send(Proposal { commands, reply }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                Error::Busy { group, limit: "PROPOSALS_MAX", max: PROPOSALS_MAX }
            }
            mpsc::error::TrySendError::Closed(_) => self.stopped(),
        })?;
        match timeout(self.inner.proposal_timeout, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_dropped)) => Err(Error::Unknown { group, reason: "the group stopped" }),
            Err(_elapsed) => Err(Error::Unknown { group, reason: "no majority answered in time" }),
        }
    }

    /// Reads the machine once nothing that `consistency` excludes can be missing. `read` runs under the machine's
    /// lock: keep it short.
    pub async fn read<T>(&self, consistency: Consistency, read: impl FnOnce(&M) -> T) -> Result<T, Error> {
        self.barrier(consistency).await?;
        Ok(self.read_now(read))
    }

    /// Reads what this replica has.
    pub fn read_now<T>(&self, read: impl FnOnce(&M) -> T) -> T {
        read(&self.inner.state.read().machine)
    }

    /// The clock of the last applied entry, milliseconds since 1970.
    pub fn stamp_ms(&self) -> u64 {
        self.inner.state.read().stamp_ms
    }

    /// The group's own time (see [`crate::machine::Committed`]), as far as this replica has counted or heard.
    pub fn passed_ms(&self) -> u64 {
        let counted_ms = self.inner.state.read().passed_ms;
        let now_ms = self.inner.clock.now_ms();
        self.leading_term().map_or(counted_ms, |term| self.inner.passing.lock().at(term, now_ms, counted_ms))
    }

    /// Returns when a read of this replica is as fresh as `consistency` asks. One barrier serves any number of reads
    /// that were asked for before it returned.
    pub async fn barrier(&self, consistency: Consistency) -> Result<(), Error> {
        if consistency != Consistency::Stale {
            self.in_use().await;
        }
        let policy = match consistency {
            Consistency::Stale => return Ok(()),
            Consistency::Linearizable if self.holds_lease() => return Ok(()),
            Consistency::Linearizable => ReadPolicy::LeaseRead,
            Consistency::ReadIndex => ReadPolicy::ReadIndex,
        };
        let term_before = self.leading_term();
        let began = self.inner.opened.elapsed();
        let is_alone = self.is_only_voter();
        let checked = timeout(self.inner.proposal_timeout, self.inner.raft.ensure_linearizable(policy)).await;
        match checked {
            Ok(Ok(_)) => {
                if let Some(term) = term_before.filter(|&term| self.leading_term() == Some(term)) {
                    self.inner.ready_term.store(term, Ordering::Release);
                    // Before and after it, so that it was checked against no other.
                    if is_alone && self.is_only_voter() {
                        let began_ms = u64::try_from(began.as_millis()).unwrap_or(u64::MAX - 1) + 1;
                        self.inner.alone_ms.fetch_max(began_ms, Ordering::AcqRel);
                    }
                }
                Ok(())
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(batch::not_leader(self.inner.id, &forward))
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
                Err(Error::NoQuorum { group: self.inner.id })
            }
            Ok(Err(RaftError::Fatal(_))) => Err(self.stopped()),
        }
    }

    /// True if nobody else has a vote, as far as this replica knows.
    fn is_only_voter(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().voter_ids().eq([self.inner.replica])
    }

    /// The term in which this replica leads now.
    fn leading_term(&self) -> Option<u64> {
        self.inner.raft.as_leader().ok().map(|leader| leader.term())
    }

    /// True while no other replica can have been elected and everything acknowledged is applied here: this replica
    /// leads in a term in which it has once passed a full check, has not ceded, and a majority heard of it lately.
    pub(crate) fn holds_lease(&self) -> bool {
        let Ok(leader) = self.inner.raft.as_leader() else { return false };
        let term = leader.term();
        if self.inner.ready_term.load(Ordering::Acquire) != term
            || self.inner.ceded_term.load(Ordering::Acquire) == term
        {
            return false;
        }
        let usable = self.inner.lease * (100 - LEASE_DRIFT_PERCENT) / 100;
        if leader.last_quorum_acked().is_some_and(|acked| acked.elapsed() < usable) {
            return true;
        }
        // Where nobody is to be heard of, openraft notes no time.
        let alone_ms = self.inner.alone_ms.load(Ordering::Acquire);
        let now = self.inner.opened.elapsed();
        alone_ms > 0 && now.saturating_sub(Duration::from_millis(alone_ms - 1)) < usable
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<Leader> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replica = metrics.current_leader?;
        let place = metrics.membership_config.membership().get_node(&replica)?;
        Some(Leader { replica, node: place.node })
    }

    /// True if this replica leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.inner.raft.is_leader()
    }

    /// True if nobody uses it and it hibernates: nothing about it changes before it wakes up.
    pub fn is_asleep(&self) -> bool {
        self.inner.hibernation.is_asleep()
    }

    /// What the group looks like from here.
    pub fn status(&self) -> Status {
        let leader = self.leader();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        Status {
            state: match (&metrics.running_state, metrics.state) {
                (Err(_), _) | (_, ServerState::Shutdown) => "stopped",
                (_, ServerState::Leader) => "leader",
                (_, ServerState::Follower) => "follower",
                (_, ServerState::Candidate) => "candidate",
                (_, ServerState::Learner) => "learner",
            },
            is_asleep: self.is_asleep(),
            term: metrics.current_term,
            leader,
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: metrics.last_applied.map_or(0, |applied| applied.index()),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            progress: metrics
                .replication
                .iter()
                .flatten()
                .map(|(&replica, at)| (replica, at.as_ref().map_or(0, LogId::index)))
                .collect(),
        }
    }

    /// Gives the leadership to another voter. Returns once asked for; watch [`Group::status`] for the outcome.
    ///
    /// Errors: [`Error::NotLeader`], [`Error::NoQuorum`]; nothing was given then.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), Error> {
        // A leader that gives way sends no heartbeats any more: if those who are to elect another one still slept, nobody
        // would wake them.
        self.barrier(Consistency::ReadIndex).await?;
        if let Some(term) = self.leading_term() {
            // Before asking: from then on another replica may lead without waiting for our lease.
            self.inner.ceded_term.store(term, Ordering::Release);
        }
        self.inner.raft.trigger().transfer_leader(to).await.map_err(|_fatal| self.stopped())
    }

    /// The replica that gave its leadership to this one last, and when. It has a reason not to lead: it may be about to stop.
    pub fn given_by(&self) -> Option<(u64, tokio::time::Instant)> {
        *self.inner.given.lock()
    }

    /// Founds the group with these voters. Only for a group that never existed; on one replica only.
    pub async fn found(&self, members: &[Member]) -> Result<(), Error> {
        let members: BTreeMap<u64, Place> =
            members.iter().map(|member| (member.replica, Place { node: member.node })).collect();
        self.inner.raft.initialize(members).await.map_err(|error| Error::Refused {
            group: self.inner.id,
            action: "found the group",
            reason: error.to_string(),
        })
    }

    /// True if the group was founded as far as this replica knows: it has a log, or has voted.
    pub async fn is_founded(&self) -> Result<bool, Error> {
        self.inner.raft.is_initialized().await.map_err(|_fatal| self.stopped())
    }

    /// Makes a snapshot and cuts the log behind it.
    pub async fn compact(&self) -> Result<(), Error> {
        self.inner.raft.trigger().snapshot().await.map_err(|_fatal| self.stopped())
    }

    /// Returns why, when this replica has stopped by itself.
    pub(crate) async fn failed(&self) -> String {
        let mut metrics = self.inner.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state
                && !matches!(fatal, Fatal::Stopped)
            {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                // Its last state was told before, or it was shut down.
                return std::future::pending().await;
            }
        }
    }

    pub(crate) fn stopped(&self) -> Error {
        let metrics = self.inner.raft.metrics();
        let reason = match &metrics.borrow_watched().running_state {
            Ok(()) => "it is shutting down".to_owned(),
            Err(fatal) => fatal.to_string(),
        };
        Error::Stopped { group: self.inner.id, reason }
    }
}
