//! Who is in a group, and how that changes: one step at a time, each based on what was seen.
//!
//! A change is proposed only while the group is as the caller saw it, under the same leader: a decision that was made
//! long ago, or by somebody who was leader in another life, is refused by the group itself. Source: Ongaro, "Consensus:
//! Bridging Theory and Practice" (2014), chapter 4; openraft's `change_membership_if`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition};

use crate::batch;
use crate::error::Error;
use crate::group::{Group, Member};
use crate::machine::Machine;
use crate::types::{CommittedLeaderId, Config, LogId, Place};

/// Entries that a learner may lack when it becomes a voter: it has them before the change is agreed.
const CATCH_UP_ENTRIES: u64 = 256;

/// How often a change that waits for something (a replica that catches up, say) looks again.
const STEP_EVERY: Duration = Duration::from_millis(50);

/// Who is in a group, as its leader sees it.
#[derive(Clone, Debug)]
pub struct Members {
    /// Replicas that vote; in the middle of a change, those of both sides.
    pub voters: BTreeSet<u64>,
    /// Replicas that only follow.
    pub learners: BTreeSet<u64>,
    /// A majority agrees on exactly this.
    pub is_settled: bool,
    is_joint: bool,
    at: Option<LogId>,
    leader: CommittedLeaderId,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The members are as asked for, and a majority agrees.
    Done,
    /// A step was taken or is waited for. Look again, and ask again.
    Underway,
}

impl<M: Machine> Group<M> {
    /// The members as this leader sees them. Errors: [`Error::NotLeader`].
    pub fn members(&self) -> Result<Members, Error> {
        let group = self.inner.id;
        // Before the members: if another leader came and went between, the group refuses what is based on this.
        let leader = self.inner.raft.as_leader().map_err(|forward| batch::not_leader(group, &forward))?;
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let membership = stored.membership();
        let is_joint = membership.get_joint_config().len() > 1;
        let at = *stored.log_id();
        Ok(Members {
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            is_settled: !is_joint && metrics.last_applied >= at,
            is_joint,
            at,
            leader: CommittedLeaderId::new(leader.term()),
        })
    }

    /// Takes one step towards a group in which exactly `voters` vote and `learners` follow. New replicas follow first,
    /// until they have caught up; then the voters change by joint consensus; then those that are left over go. A leader
    /// that is to go gives the leadership away first.
    ///
    /// Errors: [`Error::NotLeader`], [`Error::Refused`]; nothing was changed then, or less than asked for, and asking
    /// again goes on.
    pub async fn change_members(
        &self,
        seen: &Members,
        voters: &[Member],
        learners: &[Member],
    ) -> Result<Changed, Error> {
        let wanted: BTreeSet<u64> = voters.iter().map(|member| member.replica).collect();
        let kept: BTreeSet<u64> = voters.iter().chain(learners).map(|member| member.replica).collect();
        let known = |replica: &u64| seen.voters.contains(replica) || seen.learners.contains(replica);
        let fresh: BTreeMap<u64, Place> = voters
            .iter()
            .chain(learners)
            .filter(|member| !known(&member.replica))
            .map(|member| (member.replica, Place { node: member.node }))
            .collect();
        if !fresh.is_empty() {
            return self.propose_members(seen, ChangeMembers::AddNodes(fresh)).await;
        }
        if !seen.is_joint && seen.voters == wanted {
            let left_over: BTreeSet<u64> = seen.learners.difference(&kept).copied().collect();
            return match (left_over.is_empty(), seen.is_settled) {
                (false, _) => self.propose_members(seen, ChangeMembers::RemoveNodes(left_over)).await,
                (true, true) => Ok(Changed::Done),
                (true, false) => Ok(Changed::Underway),
            };
        }
        if !wanted.difference(&seen.voters).all(|&replica| self.has_caught_up(replica)) {
            return Ok(Changed::Underway);
        }
        let me = self.inner.replica;
        if wanted.contains(&me) {
            return self.propose_members(seen, ChangeMembers::ReplaceAllVoters(wanted)).await;
        }
        let heir = wanted.intersection(&seen.voters).copied().find(|&replica| self.has_caught_up(replica));
        match heir.filter(|_| !seen.is_joint) {
            Some(heir) => self.transfer_leader(heir).await.map(|()| Changed::Underway),
            // Nobody of those that stay votes yet: they come in first, beside this one.
            None => {
                let with_me = wanted.into_iter().chain([me]).collect();
                self.propose_members(seen, ChangeMembers::ReplaceAllVoters(with_me)).await
            }
        }
    }

    /// Makes `voters` the only members of the group, step after step.
    pub async fn set_members(&self, voters: &[Member]) -> Result<(), Error> {
        loop {
            let seen = self.members()?;
            if self.change_members(&seen, voters, &[]).await? == Changed::Done {
                return Ok(());
            }
            tokio::time::sleep(STEP_EVERY).await;
        }
    }

    /// True if this leads and the replica lacks little of what this has.
    pub fn has_caught_up(&self, replica: u64) -> bool {
        let status = self.status();
        let matched = status.progress.get(&replica).copied().filter(|&matched| matched > 0);
        matched.is_some_and(|matched| matched + CATCH_UP_ENTRIES >= status.last_log)
    }

    /// The other voter that can lead at once, if this leads and one can: it has the most of the log, and answered last
    /// of those that have.
    pub fn heir(&self) -> Option<u64> {
        let heard = self.inner.raft.metrics().borrow_watched().heartbeat.clone().unwrap_or_default();
        let status = self.status();
        let others = status.voters.iter().copied().filter(|&voter| voter != self.inner.replica);
        let ready = others.filter(|&voter| self.has_caught_up(voter));
        ready.max_by_key(|voter| (status.progress.get(voter).copied(), heard.get(voter).copied().flatten()))
    }

    async fn propose_members(
        &self,
        seen: &Members,
        change: ChangeMembers<u64, Place>,
    ) -> Result<Changed, Error> {
        self.in_use().await;
        let as_seen: [Precondition<Config>; 2] = [
            Precondition::CommittedLeaderId { committed_leader_id: seen.leader },
            Precondition::LastMembershipLogId { last_membership_log_id: seen.at },
        ];
        match self.inner.raft.change_membership_if(change, true, as_seen).await {
            Ok(_)
            | Err(RaftError::APIError(
                ClientWriteError::PreconditionFailed(_)
                | ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)),
            )) => Ok(Changed::Underway),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(batch::not_leader(self.inner.id, &forward))
            }
            Err(RaftError::APIError(other)) => Err(Error::Refused {
                group: self.inner.id,
                action: "change the members",
                reason: other.to_string(),
            }),
            Err(RaftError::Fatal(_)) => Err(self.stopped()),
        }
    }
}
