//! Groups that nobody uses cost nothing: their leader stops its heartbeats, their followers stop waiting for them.
//!
//! Falling asleep takes everybody: the leader asks all members, and each agrees only if it has the leader's vote and all of
//! its log. After that the nodes watch each other for them: a node asks every node that leads a sleeping group of its own
//! whether it is there, one small message for all of them (`sleepers`). Whoever is asked anything, by a user or by
//! another member, wakes up first:
//!
//! - a leader calls the others, and goes on once a majority has answered. Its lease ended long ago, so that nothing was
//!   read or written by it meanwhile that another leader could contradict;
//! - a follower calls its leader, and gives it the time of an election to answer before it asks for votes itself;
//! - if the node of the leader is silent, or was started anew, followers ask for votes at once.
//!
//! So a message that comes late, or an answer that is lost, wakes a group in vain and does nothing worse. Source: the
//! quiescence of CockroachDB's replicas, and the hibernate regions of TiKV. Next: `sleepers` (who watches over them).

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{ReadPolicy, ServerState};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::debug;
use trimaran_proto::internal::replication::frame::Body;
use trimaran_proto::internal::replication::{Frame, Sleep, Wake};

use crate::codec;
use crate::group::Group;
use crate::machine::Machine;
use crate::types::{LogId, Vote};

/// Everybody does what a group does.
const AWAKE: u8 = 0;
/// No heartbeats, no elections.
const ASLEEP: u8 = 1;
/// A leader that has called, and not heard of a majority yet.
const WAKING: u8 = 2;

/// Whether a replica sleeps.
#[derive(Default)]
pub(crate) struct Hibernation {
    state: AtomicU8,
    /// Held while it changes to or from [`ASLEEP`], with what openraft is told.
    turning: Mutex<()>,
    /// Told when it is no longer [`WAKING`].
    woken: Notify,
    /// Since the last look.
    is_used: AtomicBool,
    /// Looks since the last use.
    idle: AtomicU32,
    /// Woken up, and waiting for the leader to say something before it asks for votes.
    is_listening: AtomicBool,
    /// Is asking the others.
    is_falling: AtomicBool,
    /// Never sleeps.
    is_wakeful: AtomicBool,
}

impl Hibernation {
    /// Notes a use. True if it sleeps, or is not awake enough to be used yet.
    fn note(&self) -> bool {
        // Most find it set, and the line of the cache stays where it is. The order of the two matters, here and where it
        // falls asleep: see `Group::fall_asleep`.
        if !self.is_used.load(Ordering::SeqCst) {
            self.is_used.store(true, Ordering::SeqCst);
        }
        self.state.load(Ordering::SeqCst) != AWAKE
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.state.load(Ordering::SeqCst) == ASLEEP
    }

    /// One of the looks, which come with every heartbeat: true when nothing has used it for `looks` of them.
    fn is_idle_for(&self, looks: u32) -> bool {
        if self.is_used.swap(false, Ordering::SeqCst) {
            self.idle.store(0, Ordering::Relaxed);
            return false;
        }
        self.idle.fetch_add(1, Ordering::Relaxed) >= looks
    }
}

/// What a leader at rest has, and whom it would ask.
#[derive(PartialEq, Eq)]
struct Rest {
    vote: Vote,
    last: LogId,
    /// Replica and node of all others.
    others: Vec<(u64, u64)>,
}

impl<M: Machine> Group<M> {
    /// Never lets it sleep: for a group that is asked all the time, or that others live by.
    pub fn stay_awake(&self) {
        self.inner.hibernation.is_wakeful.store(true, Ordering::SeqCst);
    }

    /// To be called before anything is asked of the group. Returns once it is awake: at once, but for the first in a while.
    pub(crate) async fn in_use(&self) {
        if self.inner.hibernation.note() {
            self.until_awake().await;
        }
    }

    /// True if a read of this replica, as it is now, misses nothing that was acknowledged before: what
    /// [`Group::barrier`] would find without waiting. To be asked before each read, as the barrier is.
    pub fn is_fresh(&self) -> bool {
        !self.inner.hibernation.note() && self.holds_lease()
    }

    async fn until_awake(&self) {
        let hibernation = &self.inner.hibernation;
        let mut woken = pin!(hibernation.woken.notified());
        woken.as_mut().enable();
        self.wake(Wakes::Asked);
        if hibernation.state.load(Ordering::SeqCst) == WAKING {
            woken.await;
        }
    }

    /// Wakes this replica, if it sleeps.
    fn wake(&self, why: Wakes) {
        let (hibernation, raft) = (&self.inner.hibernation, &self.inner.raft);
        let turning = hibernation.turning.lock();
        if !hibernation.is_asleep() {
            return;
        }
        let leads = raft.is_leader();
        debug!(group = self.inner.id, replica = self.inner.replica, ?why, leads, "waking up");
        hibernation.idle.store(0, Ordering::Relaxed);
        hibernation.is_listening.store(!leads && why == Wakes::Asked, Ordering::SeqCst);
        hibernation.state.store(if leads { WAKING } else { AWAKE }, Ordering::SeqCst);
        // Before it ticks: the first tick would find that nothing was heard of the leader for long.
        raft.runtime_config().elect(leads);
        raft.runtime_config().tick(true);
        drop(turning);
        let group = self.clone();
        if leads {
            tokio::spawn(async move { group.call().await });
        } else {
            tokio::spawn(async move { group.listen(why).await });
        }
    }

    /// Calls the others, and returns when a majority has answered, or has not within a lease.
    async fn call(&self) {
        let called = self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        // Whoever asks for something next is told if nobody answers.
        let _answered = timeout(self.inner.lease, called).await;
        self.inner.hibernation.state.store(AWAKE, Ordering::SeqCst);
        self.inner.hibernation.woken.notify_waiters();
    }

    /// Gives the leader time to say something, then takes part in elections again.
    async fn listen(&self, why: Wakes) {
        let (least, _) = self.inner.election;
        if why == Wakes::Asked {
            if let Some(leader) = self.leader().filter(|leader| leader.replica != self.inner.replica) {
                let frame = self.frame(leader.replica, Body::Wake(Wake {}));
                // It answers by its heartbeats; if none come, it is not there.
                let _answer = self.inner.lines.ask(leader.node, frame, least).await;
            }
            sleep(least).await;
        }
        sleep(self.turn()).await;
        self.inner.hibernation.is_listening.store(false, Ordering::SeqCst);
        self.inner.raft.runtime_config().elect(true);
    }

    /// How long this replica waits for others to ask for votes first: those that ask at one time get none. Who is first
    /// differs from group to group.
    fn turn(&self) -> Duration {
        let (least, most) = self.inner.election;
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        voters.sort_unstable();
        let count = voters.len().max(1);
        let rank = voters.iter().position(|&voter| voter == self.inner.replica).unwrap_or(0);
        let turn = (rank as u64).wrapping_add(self.inner.id) % count as u64;
        most.saturating_sub(least).mul_f64(turn as f64 / count as f64)
    }

    fn frame(&self, to: u64, body: Body) -> Frame {
        let (group, from) = (self.inner.id, self.inner.replica);
        // Among the heartbeats and in their order, so that none that was sent before comes after it.
        Frame { call: 0, group, from, to, heartbeat: true, body: Some(body) }
    }

    /// What it has and who is in it, if this leads, nothing is under way and everybody has everything.
    fn at_rest(&self) -> Option<Rest> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_applied.filter(|last| Some(last.index()) == metrics.last_log_index)?;
        let membership = metrics.membership_config.membership();
        let leads = metrics.state == ServerState::Leader && metrics.running_state.is_ok();
        // One that gives way waits for another one to be elected.
        let gives_way = self.inner.ceded_term.load(Ordering::Acquire) == metrics.current_term;
        if !leads || gives_way || membership.get_joint_config().len() > 1 {
            return None;
        }
        let me = self.inner.replica;
        let others: Vec<(u64, u64)> = membership
            .nodes()
            .filter(|(replica, _)| **replica != me)
            .map(|(&replica, place)| (replica, place.node))
            .collect();
        let progress = metrics.replication.as_ref()?;
        let has_all = |(replica, _): &(u64, u64)| progress.get(replica) == Some(&Some(last));
        others.iter().all(has_all).then_some(Rest { vote: metrics.vote, last, others })
    }

    /// Asks the others to fall asleep, and does so if all agree.
    async fn fall_asleep(&self) {
        let (hibernation, raft) = (&self.inner.hibernation, &self.inner.raft);
        let Some(rest) = self.at_rest() else { return };
        // So that none of them overtakes what is asked now. It takes less than a follower's patience.
        raft.runtime_config().heartbeat(false);
        let sleep =
            Sleep { vote: Some(codec::put_vote(&rest.vote)), last: Some(codec::put_log_id(&rest.last)) };
        let asked = rest.others.iter().map(|&(replica, node)| {
            let frame = self.frame(replica, Body::Sleep(sleep));
            self.inner.lines.ask(node, frame, self.inner.election.0 / 2)
        });
        let answers = futures::future::join_all(asked).await;
        let agreed =
            |answer: &Option<Body>| matches!(answer, Some(Body::SleepReply(reply)) if reply.accepted);
        if answers.iter().all(agreed) && self.at_rest() == Some(rest) {
            {
                let _turning = hibernation.turning.lock();
                raft.runtime_config().tick(false);
                hibernation.state.store(ASLEEP, Ordering::SeqCst);
            }
            // Whoever uses it from here on either sees that it sleeps, and wakes it, or is seen here.
            if hibernation.is_used.load(Ordering::SeqCst) {
                self.wake(Wakes::Asked);
            } else {
                debug!(group = self.inner.id, replica = self.inner.replica, "fell asleep");
            }
        }
        raft.runtime_config().heartbeat(true);
    }

    /// A leader asks whether this follower has all that it has and would sleep.
    pub(crate) fn agree_to_sleep(&self, asked: &Sleep) -> bool {
        let hibernation = &self.inner.hibernation;
        if hibernation.is_wakeful.load(Ordering::SeqCst) || hibernation.is_listening.load(Ordering::SeqCst) {
            return false;
        }
        let (Ok(vote), Some(last)) = (codec::get_vote(asked.vote.as_ref()), &asked.last) else {
            return false;
        };
        let last = codec::get_log_id(last);
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let follows = matches!(metrics.state, ServerState::Follower | ServerState::Learner);
        let has_all = metrics.last_applied == Some(last) && metrics.last_log_index == Some(last.index());
        if !follows || !has_all || metrics.vote != vote || metrics.running_state.is_err() {
            return false;
        }
        let _turning = hibernation.turning.lock();
        self.inner.raft.runtime_config().tick(false);
        // What was appended meanwhile is not missed: a leader that has sent something does not fall asleep, and its next
        // heartbeat wakes this one.
        hibernation.state.store(ASLEEP, Ordering::SeqCst);
        true
    }
}

/// Why a replica wakes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wakes {
    /// Somebody asks something of it.
    Asked,
    /// The node of its leader is not there, or not as it was.
    Silence,
}

/// A replica of whatever machine, as the watch over sleepers sees it.
pub(crate) trait Sleeper: Send + Sync {
    /// To be told of every message for the replica, in order, but of those that have to do with sleep itself.
    fn hears(&self);
    /// True while it gives its leader time to say something: it must not help to replace it.
    fn is_listening(&self) -> bool;
    /// The node of its leader, if it is a follower that sleeps.
    fn sleeps_under(&self) -> Option<u64>;
    fn leader_is_silent(&self);
    /// One of the looks: true if it is time to fall asleep.
    fn is_tired(&self, looks: u32) -> bool;
    fn fall_asleep(&self) -> BoxFuture<'_, ()>;
}

impl<M: Machine> Sleeper for Group<M> {
    fn hears(&self) {
        if self.inner.hibernation.is_asleep() {
            self.wake(Wakes::Asked);
        }
    }

    fn is_listening(&self) -> bool {
        self.inner.hibernation.is_listening.load(Ordering::SeqCst)
    }

    fn sleeps_under(&self) -> Option<u64> {
        if !self.inner.hibernation.is_asleep() || self.inner.raft.is_leader() {
            return None;
        }
        match self.leader() {
            Some(leader) => Some(leader.node),
            // It has forgotten who leads it: nobody to wait for.
            None => {
                self.wake(Wakes::Silence);
                None
            }
        }
    }

    fn leader_is_silent(&self) {
        self.wake(Wakes::Silence);
    }

    fn is_tired(&self, looks: u32) -> bool {
        let hibernation = &self.inner.hibernation;
        if !self.inner.raft.is_leader() || hibernation.is_wakeful.load(Ordering::SeqCst) {
            // Whoever becomes leader has things to do that are not asked of the group.
            hibernation.idle.store(0, Ordering::Relaxed);
            return false;
        }
        hibernation.is_idle_for(looks)
            && hibernation.state.load(Ordering::SeqCst) == AWAKE
            && self.at_rest().is_some()
    }

    fn fall_asleep(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.inner.hibernation.is_falling.swap(true, Ordering::SeqCst) {
                return;
            }
            Self::fall_asleep(self).await;
            // If not all have agreed, it takes as long again.
            self.inner.hibernation.idle.store(0, Ordering::Relaxed);
            self.inner.hibernation.is_falling.store(false, Ordering::SeqCst);
        })
    }
}
