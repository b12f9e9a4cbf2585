//! openraft's types to and from the messages on the wire and in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse,
};
use trimaran_proto::internal::replication as wire;
use trimaran_proto::state::log as state;

use crate::group::Member;
use crate::merge::{Merge, Merged};
use crate::session::RequestId;
use crate::split::Split;
use crate::types::{
    Batch, Command, Config, Entry, LogId, Membership, Place, RangeChange, SnapshotMeta, StoredMembership,
    Vote, log_id,
};

/// A message that does not hold together, from a peer of another release or a damaged log.
#[derive(Debug, thiserror::Error)]
#[error("{0} is missing or malformed")]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) fn put_log_id(id: &LogId) -> state::LogId {
    state::LogId { term: **id.committed_leader_id(), index: id.index() }
}

pub(crate) fn get_log_id(id: &state::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn put_vote(vote: &Vote) -> state::Vote {
    state::Vote { term: vote.leader_id.term, replica: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn get_vote(vote: Option<&state::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("vote"))?;
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.replica)
    } else {
        Vote::new(vote.term, vote.replica)
    })
}

pub(crate) fn put_membership(membership: &Membership) -> state::Membership {
    state::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|config| state::VoterSet { replicas: config.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(&replica, place)| state::Member { replica, node_id: place.node })
            .collect(),
    }
}

pub(crate) fn get_membership(membership: &state::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.iter().map(|config| config.replicas.iter().copied().collect()).collect();
    let members: BTreeMap<u64, Place> =
        membership.members.iter().map(|member| (member.replica, Place { node: member.node_id })).collect();
    Membership::new(configs, members).map_err(|_inconsistent| Malformed("membership"))
}

pub(crate) fn put_split(split: &Split) -> state::Split {
    let member = |member: &Member| state::Member { replica: member.replica, node_id: member.node };
    state::Split {
        at_token: split.at,
        group: split.group,
        members: split.members.iter().map(member).collect(),
    }
}

pub(crate) fn get_split(split: &state::Split) -> Split {
    let member = |member: &state::Member| Member { replica: member.replica, node: member.node_id };
    Split { at: split.at_token, group: split.group, members: split.members.iter().map(member).collect() }
}

pub(crate) fn decode_split(split: bytes::Bytes) -> Option<Split> {
    use prost::Message as _;
    state::Split::decode(split).ok().map(|split| get_split(&split))
}

pub(crate) fn put_merged(merged: Merged) -> state::Merged {
    state::Merged { merge: merged.merge, taken: merged.taken }
}

pub(crate) fn decode_merged(merged: bytes::Bytes) -> Option<Merged> {
    use prost::Message as _;
    state::Merged::decode(merged).ok().map(get_merged)
}

pub(crate) fn get_merged(merged: state::Merged) -> Merged {
    Merged { merge: merged.merge, taken: merged.taken }
}

fn put_change(change: Option<&RangeChange>, batch: &mut state::Batch) {
    match change {
        None => {}
        Some(RangeChange::Split(split)) => batch.split = Some(put_split(split)),
        Some(&RangeChange::Freeze(merge)) => batch.freeze = Some(state::Freeze { merge }),
        Some(&RangeChange::Thaw(merge)) => batch.thaw = Some(state::Thaw { merge }),
        Some(RangeChange::Merge(merge)) => {
            let Merge { merge, first, state } = merge.clone();
            batch.merge = Some(state::Merge { merge, first_token: first, state });
        }
    }
}

fn get_change(batch: &mut state::Batch) -> Option<RangeChange> {
    let split = batch.split.as_ref().map(|split| RangeChange::Split(get_split(split)));
    let freeze = batch.freeze.map(|freeze| RangeChange::Freeze(freeze.merge));
    let thaw = batch.thaw.map(|thaw| RangeChange::Thaw(thaw.merge));
    let merge = batch.merge.take().map(|merge| {
        let state::Merge { merge, first_token: first, state } = merge;
        RangeChange::Merge(Merge { merge, first, state })
    });
    split.or(freeze).or(thaw).or(merge)
}

pub(crate) fn put_entry(entry: &Entry) -> state::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => state::entry::Payload::Blank(state::Blank {}),
        EntryPayload::Normal(batch) => {
            let command = |command: &Command| state::Command {
                request_id: command.request_id.map(|id| state::RequestId {
                    session: id.session,
                    sequence: id.sequence,
                    answered_below: id.answered_below,
                }),
                payload: command.payload.clone(),
            };
            let commands = batch.commands.iter().map(command).collect();
            let mut put = state::Batch {
                stamp_ms: batch.stamp_ms,
                passed_ms: batch.passed_ms,
                commands,
                ..state::Batch::default()
            };
            put_change(batch.change.as_deref(), &mut put);
            state::entry::Payload::Batch(put)
        }
        EntryPayload::Membership(membership) => state::entry::Payload::Membership(put_membership(membership)),
    };
    state::Entry { log_id: Some(put_log_id(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn get_entry(entry: state::Entry) -> Result<Entry, Malformed> {
    let log_id = get_log_id(&entry.log_id.ok_or(Malformed("log id of an entry"))?);
    let payload = match entry.payload.ok_or(Malformed("payload of an entry"))? {
        state::entry::Payload::Blank(_) => EntryPayload::Blank,
        state::entry::Payload::Batch(mut batch) => EntryPayload::Normal(Batch {
            stamp_ms: batch.stamp_ms,
            passed_ms: batch.passed_ms,
            change: get_change(&mut batch).map(Arc::new),
            commands: batch
                .commands
                .into_iter()
                .map(|command| Command {
                    request_id: command.request_id.map(|id| RequestId {
                        session: id.session,
                        sequence: id.sequence,
                        answered_below: id.answered_below,
                    }),
                    payload: command.payload,
                })
                .collect(),
        }),
        state::entry::Payload::Membership(membership) => {
            EntryPayload::Membership(get_membership(&membership)?)
        }
    };
    Ok(Entry { log_id, payload })
}

pub(crate) fn put_snapshot_meta(meta: &SnapshotMeta) -> state::SnapshotMeta {
    state::SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(put_log_id),
        membership_log_id: meta.last_membership.log_id().as_ref().map(put_log_id),
        membership: Some(put_membership(meta.last_membership.membership())),
    }
}

pub(crate) fn get_snapshot_meta(meta: &state::SnapshotMeta) -> Result<SnapshotMeta, Malformed> {
    let membership = get_membership(meta.membership.as_ref().ok_or(Malformed("membership"))?)?;
    Ok(SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(get_log_id),
        last_membership: StoredMembership::new(meta.membership_log_id.as_ref().map(get_log_id), membership),
    })
}

pub(crate) fn put_append(request: &AppendEntriesRequest<Config>) -> wire::Append {
    wire::Append {
        vote: Some(put_vote(&request.vote)),
        prev: request.prev_log_id.as_ref().map(put_log_id),
        entries: request.entries.iter().map(put_entry).collect(),
        leader_commit: request.leader_commit.as_ref().map(put_log_id),
        stream: 0,
    }
}

pub(crate) fn get_append(append: wire::Append) -> Result<AppendEntriesRequest<Config>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: get_vote(append.vote.as_ref())?,
        prev_log_id: append.prev.as_ref().map(get_log_id),
        entries: append.entries.into_iter().map(get_entry).collect::<Result<_, _>>()?,
        leader_commit: append.leader_commit.as_ref().map(get_log_id),
    })
}

pub(crate) fn put_append_reply(result: &StreamAppendResult<Config>) -> wire::AppendReply {
    use wire::append_reply::Result as Reply;
    let result = match result {
        Ok(upto) => Reply::Accepted(wire::Accepted { upto: upto.as_ref().map(put_log_id) }),
        Err(StreamAppendError::Conflict(at)) => Reply::Conflict(put_log_id(at)),
        Err(StreamAppendError::HigherVote(vote)) => Reply::HigherVote(put_vote(vote)),
    };
    wire::AppendReply { result: Some(result) }
}

pub(crate) fn get_append_reply(reply: &wire::AppendReply) -> Result<StreamAppendResult<Config>, Malformed> {
    use wire::append_reply::Result as Reply;
    Ok(match reply.result.as_ref().ok_or(Malformed("result of an append"))? {
        Reply::Accepted(accepted) => Ok(accepted.upto.as_ref().map(get_log_id)),
        Reply::Conflict(at) => Err(StreamAppendError::Conflict(get_log_id(at))),
        Reply::HigherVote(vote) => Err(StreamAppendError::HigherVote(get_vote(Some(vote))?)),
    })
}

pub(crate) fn put_vote_request(request: &VoteRequest<Config>) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(put_vote(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(put_log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn get_vote_request(request: &wire::VoteRequest) -> Result<VoteRequest<Config>, Malformed> {
    let mut got =
        VoteRequest::new(get_vote(request.vote.as_ref())?, request.last_log_id.as_ref().map(get_log_id));
    got.leadership_transfer = request.leadership_transfer;
    Ok(got)
}

pub(crate) fn put_vote_reply(reply: &VoteResponse<Config>) -> wire::VoteReply {
    wire::VoteReply {
        vote: Some(put_vote(&reply.vote)),
        granted: reply.vote_granted,
        last_log_id: reply.last_log_id.as_ref().map(put_log_id),
    }
}

pub(crate) fn get_vote_reply(reply: &wire::VoteReply) -> Result<VoteResponse<Config>, Malformed> {
    let vote = get_vote(reply.vote.as_ref())?;
    Ok(VoteResponse::new(vote, reply.last_log_id.as_ref().map(get_log_id), reply.granted))
}
