//! Hands committed entries to the [`Machine`] in runs, each request once, and answers who waits.
//!
//! Invariant: what has been applied, what is remembered of answered requests and the clock change together, under one
//! lock, so that a snapshot is of one index; for a machine on disk they are one batch. Next: `dedup`, `snapshot`,
//! `split`, `merge`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use hashbrown::HashSet;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;
use trimaran_proto::state::log as state;

use crate::codec;
use crate::dedup::Dedup;
use crate::error::Stop;
use crate::machine::{Committed, Machine, Recovered, Remember, Reply, SnapshotChunks};
use crate::merge::{Merge, Merged};
use crate::network::Voters;
use crate::passing::uncounted;
use crate::planted::{self, Bug};
use crate::snapshot::{Chunks, Origin, Store};
use crate::split::{Seed, Seeds, Split};
use crate::types::{
    Batch, Command, Config, LogId, Membership, Place, RangeChange, SnapshotMeta, StoredMembership, log_id,
};

/// Commands applied under one lock, so that reads get in between.
const RUN_COMMANDS_MAX: usize = 4096;

type OpenraftSnapshot = openraft::alias::SnapshotOf<Config, Chunks>;

/// A machine with what replication knows about it. Reads take the lock for reading, runs for writing.
pub(crate) struct State<M> {
    pub(crate) machine: M,
    pub(crate) stamp_ms: u64,
    /// The group's own time, see [`crate::passing`].
    pub(crate) passed_ms: u64,
    applied: Option<LogId>,
    membership: StoredMembership,
    dedup: Dedup,
    range: RangeState,
}

/// A group that was split off, with this node's part of it.
type NewGroup<M> = (u64, State<M>);

/// What has become of the group's range: part of the state, so that what is proposed again is known for it.
#[derive(Clone, Debug, Default)]
struct RangeState {
    last_split: Option<Split>,
    /// The merge for which everything is given up.
    frozen_for: Option<u64>,
    last_merge: Option<Merged>,
}

/// The state machine as openraft sees it.
pub(crate) struct Applier<M> {
    group: u64,
    state: Arc<RwLock<State<M>>>,
    store: Option<Store>,
    /// The newest one in a file.
    current: Arc<Mutex<Option<(SnapshotMeta, Chunks)>>>,
    voters: Voters,
    seeds: Seeds<M>,
    /// Told of new seeds.
    seeded: watch::Sender<()>,
    /// Held for reading by every seed that could be lost with the process.
    log_is_needed: Arc<tokio::sync::RwLock<()>>,
}

/// What a replica begins with.
pub(crate) enum Start<M> {
    /// What its disk has, or nothing.
    Opened(M),
    /// Its part of the group that it was split from.
    Split(Box<State<M>>),
}

impl<M: Machine> Applier<M> {
    pub(crate) fn new(
        group: u64,
        start: Start<M>,
        store: Option<Store>,
        seeded: watch::Sender<()>,
    ) -> io::Result<Self> {
        let mut current = match &store {
            Some(store) => store.load(group)?.map(|(meta, stored)| (meta, Chunks::File(stored))),
            None => None,
        };
        let state = match start {
            Start::Split(state) => *state,
            Start::Opened(machine) => {
                let mut state = State {
                    machine,
                    stamp_ms: 0,
                    passed_ms: 0,
                    applied: None,
                    membership: StoredMembership::default(),
                    dedup: Dedup::default(),
                    range: RangeState::default(),
                };
                if M::DURABLE {
                    match (state.machine.recover().map_err(io::Error::other)?, &current) {
                        (Recovered::Nothing, _) => {}
                        (Recovered::Applied { applied, answered }, _) => state.recover(applied, answered)?,
                        (Recovered::Interrupted, Some((meta, chunks))) => state.install(meta, chunks)?,
                        (Recovered::Interrupted, None) => {
                            return Err(io::Error::other(
                                "the copy was being replaced by a snapshot that is gone",
                            ));
                        }
                    }
                }
                state
            }
        };
        if M::DURABLE {
            // It has done its work, or was never begun: the leader will send a newer one.
            if let Some(store) = &store {
                store.remove(group)?;
            }
            current = None;
        }
        Ok(Self {
            group,
            voters: Arc::new(ArcSwap::from_pointee(state.voters())),
            state: Arc::new(RwLock::new(state)),
            store,
            current: Arc::new(Mutex::new(current)),
            seeds: Seeds::default(),
            seeded,
            log_is_needed: Arc::default(),
        })
    }

    /// Errors if the log begins behind the state: what was in between is lost, and without it the rest means nothing.
    pub(crate) fn must_go_on_from(&self, purged: Option<LogId>) -> io::Result<()> {
        let snapshot = self.current.lock().as_ref().and_then(|(meta, _)| meta.last_log_id);
        let has = self.state.read().applied.max(snapshot);
        if purged <= has {
            return Ok(());
        }
        let show = |at: Option<LogId>| at.map_or_else(|| "nothing".to_owned(), |at| at.to_string());
        Err(io::Error::other(format!(
            "its log begins behind {}, its state ends with {}",
            show(purged),
            show(has)
        )))
    }

    pub(crate) fn state(&self) -> Arc<RwLock<State<M>>> {
        Arc::clone(&self.state)
    }

    pub(crate) fn voters(&self) -> Voters {
        Arc::clone(&self.voters)
    }

    pub(crate) fn seeds(&self) -> Seeds<M> {
        Arc::clone(&self.seeds)
    }

    /// True if a snapshot is in a file: not of a machine that is itself on disk, and not of one in memory alone, whose
    /// state is the snapshot.
    fn is_filed(&self) -> bool {
        !M::DURABLE && self.store.is_some()
    }
}

impl<M: Machine> State<M> {
    /// Applies one entry's commands; replies in order.
    fn apply(&mut self, index: u64, batch: &Batch) -> io::Result<Vec<Bytes>> {
        self.pass(batch.stamp_ms, batch.passed_ms);
        let mut replies = Vec::with_capacity(batch.commands.len());
        let mut rest: &[Command] = &batch.commands;
        while !rest.is_empty() {
            let (fresh, after) = rest.split_at(self.fresh(rest));
            if !fresh.is_empty() {
                replies.extend(self.run(fresh)?);
            }
            // What stopped the run, if anything, was answered before.
            rest = match after.split_first() {
                Some((command, others)) if self.answer(command, &mut replies) => others,
                _ => after,
            };
        }
        self.seal(index);
        Ok(replies)
    }

    /// Sets both clocks as of an entry. The leader's clock may have gone back between two leaders; the group's does not.
    fn pass(&mut self, stamp_ms: u64, passed_ms: Option<u64>) {
        let passed_ms = match passed_ms {
            Some(_) if planted::is(Bug::ForgottenByTheClock) => stamp_ms,
            Some(passed_ms) => passed_ms,
            None => uncounted(self.passed_ms, self.stamp_ms, stamp_ms),
        };
        self.passed_ms = self.passed_ms.max(passed_ms);
        self.stamp_ms = self.stamp_ms.max(stamp_ms);
    }

    fn seal(&mut self, index: u64) {
        self.dedup.seal(index, self.stamp_ms, self.passed_ms);
    }

    /// Applies a split at `index`. The reply is what was agreed, or nothing if it is impossible.
    fn split(&mut self, index: u64, split: &Split) -> io::Result<(Vec<Bytes>, Option<State<M>>)> {
        let encoded = |split: &Split| vec![codec::put_split(split).encode_to_vec().into()];
        if let Some(last) = &self.range.last_split {
            if last.group == split.group {
                return Ok((encoded(last), None));
            }
            // Ids of groups grow. What comes late must not take anything a second time: a merge may have brought it back.
            if last.group > split.group {
                return Ok((Vec::new(), None));
            }
        }
        let (first, last) = self.machine.tokens();
        if split.at <= first || split.at > last || self.range.frozen_for.is_some() {
            if split.at > last {
                self.machine.split_behind(split.at).map_err(io::Error::other)?;
            }
            return Ok((Vec::new(), None));
        }
        let places: BTreeMap<u64, Place> =
            split.members.iter().map(|member| (member.replica, Place { node: member.node })).collect();
        let voters = places.keys().copied().collect();
        let membership = Membership::new(vec![voters], places).map_err(io::Error::other)?;
        // In a term before the first, so that every entry of the new group is newer; at this place, so that the numbers
        // of answered requests go on growing.
        let at = log_id(0, index);
        let meta = SnapshotMeta {
            last_log_id: Some(at),
            last_membership: StoredMembership::new(Some(at), membership),
        };
        let dedup = if planted::is(Bug::RepliesLeftBehind) { Dedup::default() } else { self.dedup.clone() };
        let remember = Remember {
            applied: encode_applied(&meta, (self.stamp_ms, self.passed_ms), &RangeState::default()),
            answered: if M::DURABLE { dedup.encoded().collect() } else { Vec::new() },
            forget_below: 0,
        };
        let machine = self.machine.split(split.at, split.group, remember).map_err(io::Error::other)?;
        self.range.last_split = Some(split.clone());
        let state = State {
            machine,
            stamp_ms: self.stamp_ms,
            passed_ms: self.passed_ms,
            applied: meta.last_log_id,
            membership: meta.last_membership,
            dedup,
            range: RangeState::default(),
        };
        Ok((encoded(split), Some(state)))
    }

    /// Applies a change of the range at `index`. The reply says what was agreed, and is none if nothing was; of a split
    /// there is also the new group's part.
    fn change(
        &mut self,
        index: u64,
        (stamp_ms, passed_ms): (u64, Option<u64>),
        change: &RangeChange,
    ) -> io::Result<(Vec<Bytes>, Option<NewGroup<M>>)> {
        let merge = match change {
            RangeChange::Split(split) => {
                let (replies, part) = self.split(index, split)?;
                return Ok((replies, part.map(|part| (split.group, part))));
            }
            &RangeChange::Freeze(merge) => {
                if self.range.frozen_for.is_some_and(|later| later > merge) {
                    return Ok((Vec::new(), None));
                }
                self.freeze(Some(merge));
                merge
            }
            &RangeChange::Thaw(merge) => {
                if self.range.frozen_for == Some(merge) {
                    self.freeze(None);
                }
                merge
            }
            RangeChange::Merge(merge) => {
                return Ok((self.merge(index, (stamp_ms, passed_ms), merge)?, None));
            }
        };
        self.pass(stamp_ms, passed_ms);
        // What nobody will ask for any more need not be given to the other group.
        self.seal(index);
        Ok((vec![state::Freeze { merge }.encode_to_vec().into()], None))
    }

    fn freeze(&mut self, merge: Option<u64>) {
        self.range.frozen_for = merge;
        self.machine.freeze(merge.is_some());
    }

    fn merge(
        &mut self,
        index: u64,
        (stamp_ms, passed_ms): (u64, Option<u64>),
        merge: &Merge,
    ) -> io::Result<Vec<Bytes>> {
        let encoded = |merged: Merged| vec![codec::put_merged(merged).encode_to_vec().into()];
        if let Some(last) = self.range.last_merge.filter(|last| last.merge >= merge.merge) {
            return Ok(encoded(last));
        }
        let merged = Merged { merge: merge.merge, taken: !merge.state.is_empty() };
        self.range.last_merge = Some(merged);
        self.pass(stamp_ms, passed_ms);
        if !merged.taken {
            return Ok(encoded(merged));
        }
        let mut chunks: SnapshotChunks = Box::new(merge.state.clone().into_iter().map(Ok));
        let Own { state: own, dedup, .. } = read_own(&mut chunks)?;
        self.stamp_ms = self.stamp_ms.max(own.stamp_ms);
        if self.machine.tokens().1.checked_add(1) == Some(merge.first) {
            self.machine.merge(&mut chunks, self.passed_ms).map_err(io::Error::other)?;
        } else if M::DURABLE {
            // A copy that reads a log from its beginning, and has nothing there (any more): see `replicas` in the cluster.
            self.machine.merge_behind(&mut chunks).map_err(io::Error::other)?;
        } else {
            return Err(io::Error::other("a merge with a group that is not the one behind"));
        }
        if !planted::is(Bug::RepliesNotMerged) {
            self.dedup.absorb(&dedup);
        }
        self.seal(index);
        Ok(encoded(merged))
    }

    pub(crate) fn frozen_for(&self) -> Option<u64> {
        self.range.frozen_for
    }

    pub(crate) fn is_frozen_for(&self, merge: u64) -> bool {
        self.range.frozen_for == Some(merge)
    }

    pub(crate) fn last_merge(&self) -> Option<Merged> {
        self.range.last_merge
    }

    /// How many commands from the front were never applied, each id once.
    fn fresh(&self, commands: &[Command]) -> usize {
        let mut seen: HashSet<(u64, u64)> = HashSet::with_capacity(commands.len());
        commands
            .iter()
            .position(|command| {
                command
                    .request_id
                    .is_some_and(|id| self.dedup.knows(id) || !seen.insert((id.session, id.sequence)))
            })
            .unwrap_or(commands.len())
    }

    fn answer(&self, command: &Command, replies: &mut Vec<Bytes>) -> bool {
        let Some(id) = command.request_id.filter(|&id| self.dedup.knows(id)) else { return false };
        // An old duplicate has nobody waiting; an empty reply keeps the places of the others.
        replies.push(self.dedup.answered(id).unwrap_or_default());
        true
    }

    fn run(&mut self, commands: &[Command]) -> io::Result<Vec<Bytes>> {
        let (stamp_ms, passed_ms) = (self.stamp_ms, self.passed_ms);
        let payloads = commands.iter().map(|command| &command.payload);
        let run: Vec<Committed<'_>> =
            payloads.map(|payload| Committed { stamp_ms, passed_ms, payload }).collect();
        let replies = if self.range.frozen_for.is_some() && !planted::is(Bug::NeverFrozen) {
            let elsewhere = self.machine.elsewhere();
            run.iter().map(|_| Reply::Elsewhere(elsewhere.clone())).collect()
        } else {
            self.machine.apply(&run).map_err(io::Error::other)?
        };
        if replies.len() != run.len() {
            return Err(io::Error::other(format!("{} replies to {} commands", replies.len(), run.len())));
        }
        for (command, reply) in commands.iter().zip(&replies) {
            if let (Some(id), Reply::Done(reply)) = (command.request_id, reply) {
                self.dedup.remember(id, reply.clone());
            }
        }
        Ok(replies.into_iter().map(Reply::into_bytes).collect())
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.membership.membership().voter_ids().collect()
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }

    /// Has a machine on disk write what the entries since the last commit changed.
    fn commit(&mut self, answered: Vec<(u64, Bytes)>) -> Result<(), Stop> {
        if !M::DURABLE {
            return Ok(());
        }
        self.machine.commit(Remember {
            applied: encode_applied(&self.meta(), (self.stamp_ms, self.passed_ms), &self.range),
            answered,
            forget_below: self.dedup.oldest().unwrap_or(u64::MAX),
        })
    }

    /// Takes over what a machine on disk found there.
    fn recover(&mut self, applied: Bytes, answered: Vec<Bytes>) -> io::Result<()> {
        let applied = state::Applied::decode(applied).map_err(io::Error::other)?;
        let meta = applied.at.ok_or_else(|| io::Error::other("a stored state without its index"))?;
        let meta = codec::get_snapshot_meta(&meta).map_err(io::Error::other)?;
        (self.applied, self.membership, self.stamp_ms) =
            (meta.last_log_id, meta.last_membership, applied.stamp_ms);
        self.passed_ms = applied.passed_ms;
        self.range = RangeState {
            last_split: applied.last_split.as_ref().map(codec::get_split),
            frozen_for: Some(applied.frozen_for).filter(|&merge| merge != 0),
            last_merge: applied.last_merge.map(codec::get_merged),
        };
        self.machine.freeze(self.range.frozen_for.is_some());
        for record in answered {
            self.dedup.restore(state::Answered::decode(record).map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Replication's own chunks of a snapshot of the state as it is now, and what the machine adds.
    pub(crate) fn chunks(&self) -> SnapshotChunks {
        let is_forgotten = planted::is(Bug::RepliesForgotten);
        let dedup = if is_forgotten { Dedup::default() } else { self.dedup.clone() };
        let (count, answered) = dedup.save();
        let own = state::ReplicationState {
            stamp_ms: self.stamp_ms,
            answered_chunks: u32::try_from(count).unwrap_or(u32::MAX),
            last_split: self.range.last_split.as_ref().map(codec::put_split),
            frozen_for: self.range.frozen_for.unwrap_or(0),
            last_merge: self.range.last_merge.map(codec::put_merged),
            passed_ms: self.passed_ms,
        };
        let own = std::iter::once(own.encode_to_vec());
        let answered = answered.map(|chunk| chunk.encode_to_vec());
        Box::new(own.chain(answered).map(|chunk| Ok(chunk.into())).chain(self.machine.snapshot()))
    }

    /// Replaces everything by a snapshot.
    fn install(&mut self, meta: &SnapshotMeta, chunks: &Chunks) -> io::Result<()> {
        let mut chunks = chunks.read();
        let Own { state: own, dedup, records: answered } = read_own(&mut chunks)?;
        self.machine.restore(&mut chunks).map_err(io::Error::other)?;
        (self.stamp_ms, self.passed_ms) = (own.stamp_ms, own.passed_ms);
        self.dedup = dedup;
        self.range = RangeState {
            last_split: own.last_split.as_ref().map(codec::get_split),
            frozen_for: Some(own.frozen_for).filter(|&merge| merge != 0),
            last_merge: own.last_merge.map(codec::get_merged),
        };
        self.machine.freeze(self.range.frozen_for.is_some());
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.commit(answered).map_err(io::Error::other)?;
        (self.machine.persist())().map_err(io::Error::other)
    }
}

fn encode_applied(meta: &SnapshotMeta, (stamp_ms, passed_ms): (u64, u64), range: &RangeState) -> Bytes {
    let applied = state::Applied {
        at: Some(codec::put_snapshot_meta(meta)),
        stamp_ms,
        last_split: range.last_split.as_ref().map(codec::put_split),
        frozen_for: range.frozen_for.unwrap_or(0),
        last_merge: range.last_merge.map(codec::put_merged),
        passed_ms,
    };
    applied.encode_to_vec().into()
}

/// What replication itself has written in front of a machine's chunks.
struct Own {
    state: state::ReplicationState,
    dedup: Dedup,
    /// What `dedup` was read from, by number.
    records: Vec<(u64, Bytes)>,
}

fn read_own(chunks: &mut SnapshotChunks) -> io::Result<Own> {
    let mut next = || {
        let chunk = chunks.next().ok_or_else(|| io::Error::other("a snapshot that lacks chunks"))?;
        chunk.map_err(io::Error::other)
    };
    let state = state::ReplicationState::decode(next()?).map_err(io::Error::other)?;
    let mut dedup = Dedup::default();
    let mut records = Vec::new();
    for _ in 0..state.answered_chunks {
        let chunk = state::AnsweredChunk::decode(next()?).map_err(io::Error::other)?;
        for record in chunk.records {
            records.push((record.index, Bytes::from(record.encode_to_vec())));
            dedup.restore(record);
        }
    }
    Ok(Own { state, dedup, records })
}

impl<M: Machine> RaftStateMachine<Config> for Applier<M> {
    type SnapshotData = Chunks;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.state.read();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Config>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers: Vec<(ApplyResponder<Config>, Vec<Bytes>)> = Vec::new();
        let mut exhausted = false;
        while !exhausted {
            let mut run = Vec::new();
            let mut commands = 0;
            while commands < RUN_COMMANDS_MAX {
                let Some(next) = entries.next().await else {
                    exhausted = true;
                    break;
                };
                let (entry, responder) = next?;
                if let EntryPayload::Normal(batch) = &entry.payload {
                    commands += batch.commands.len();
                }
                let merges = matches!(change_of(&entry.payload), Some(RangeChange::Merge(_)));
                run.push((entry, responder));
                if merges {
                    // What comes behind is to find it committed.
                    break;
                }
            }
            let splits = |(entry, _): &EntryResponder<Config>| {
                matches!(change_of(&entry.payload), Some(RangeChange::Split(_)))
            };
            let mut kept = None;
            if self.is_filed() && run.iter().any(splits) {
                kept = Some(Arc::new(Arc::clone(&self.log_is_needed).read_owned().await));
            }
            if !run.is_empty() {
                let mut state = self.state.write();
                let mut answered = Vec::new();
                let mut seeds = Vec::new();
                for (entry, responder) in run {
                    let index = entry.log_id.index();
                    let replies = match &entry.payload {
                        EntryPayload::Blank => Vec::new(),
                        EntryPayload::Normal(batch) => match batch.change.as_deref() {
                            None => state.apply(index, batch)?,
                            Some(change) => {
                                let (replies, part) =
                                    state.change(index, (batch.stamp_ms, batch.passed_ms), change)?;
                                seeds.extend(part);
                                replies
                            }
                        },
                        EntryPayload::Membership(membership) => {
                            state.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                            self.voters.store(Arc::new(state.voters()));
                            Vec::new()
                        }
                    };
                    if M::DURABLE {
                        answered.extend(state.dedup.newest(index).map(|record| (index, record)));
                    }
                    state.applied = Some(entry.log_id);
                    answers.extend(responder.map(|responder| (responder, replies)));
                }
                state.commit(answered).map_err(io::Error::other)?;
                if !seeds.is_empty() {
                    let seeds = seeds.into_iter();
                    let seeds = seeds.map(|(group, state)| (group, Seed { state, _kept: kept.clone() }));
                    self.seeds.lock().extend(seeds);
                    self.seeded.send_replace(());
                }
            }
            // Outside the lock: an answer wakes tasks that will want to read.
            for (responder, replies) in answers.drain(..) {
                responder.send(replies);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        Builder {
            group: self.group,
            state: Arc::clone(&self.state),
            store: self.store.clone(),
            current: Arc::clone(&self.current),
            log_is_needed: Arc::clone(&self.log_is_needed),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, chunks: Chunks) -> Result<(), io::Error> {
        let (group, meta, store) = (self.group, meta.clone(), self.store.clone());
        let (state, current) = (Arc::clone(&self.state), Arc::clone(&self.current));
        let voters = Arc::clone(&self.voters);
        blocking(move || {
            // First the snapshot is safe, then the state is replaced: a crash between is made good when it is opened.
            // One that is being made here meanwhile is older, and must not take its place afterwards.
            let turn = store.as_ref().map(Store::turn);
            let chunks = match (chunks, &store) {
                (Chunks::File(stored), Some(store)) => Chunks::File(store.adopt(stored)?),
                (chunks, _) => chunks,
            };
            if store.is_some() && !M::DURABLE {
                *current.lock() = Some((meta.clone(), chunks.clone()));
            }
            drop(turn);
            let mut state = state.write();
            state.install(&meta, &chunks)?;
            voters.store(Arc::new(state.voters()));
            drop(state);
            match store {
                Some(store) if M::DURABLE => store.remove(group),
                Some(_) | None => Ok(()),
            }
        })
        .await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<OpenraftSnapshot>, io::Error> {
        if !self.is_filed() {
            let state = self.state.read();
            return Ok(state.applied.is_some().then(|| live(&state)));
        }
        Ok(self
            .current
            .lock()
            .as_ref()
            .map(|(meta, chunks)| Snapshot { meta: meta.clone(), snapshot: chunks.clone() }))
    }
}

fn change_of(payload: &EntryPayload<Batch, u64, Place>) -> Option<&RangeChange> {
    match payload {
        EntryPayload::Normal(batch) => batch.change.as_deref(),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}

/// A snapshot of the state as it is now, for a machine on disk or in memory alone.
fn live<M: Machine>(state: &State<M>) -> OpenraftSnapshot {
    let mut chunks = state.chunks();
    if planted::is(Bug::SnapshotCutShort) {
        let mut all: Vec<_> = chunks.collect();
        all.pop();
        chunks = Box::new(all.into_iter());
    }
    let chunks = Chunks::Live(Arc::new(Mutex::new(Some(chunks))));
    Snapshot { meta: state.meta(), snapshot: chunks }
}

/// Makes a snapshot beside the path of writes.
pub(crate) struct Builder<M> {
    group: u64,
    state: Arc<RwLock<State<M>>>,
    store: Option<Store>,
    current: Arc<Mutex<Option<(SnapshotMeta, Chunks)>>>,
    log_is_needed: Arc<tokio::sync::RwLock<()>>,
}

impl<M: Machine> RaftSnapshotBuilder<Config> for Builder<M> {
    type SnapshotData = Chunks;

    async fn build_snapshot(&mut self) -> Result<OpenraftSnapshot, io::Error> {
        // Only what it is of is asked for where nothing is written; who needs the chunks gets the current ones.
        let nothing = |meta| Snapshot { meta, snapshot: Chunks::Live(Arc::default()) };
        let store = match self.store.clone() {
            // The state on disk is the snapshot, once it is durable; the log behind it can go.
            _ if M::DURABLE => {
                let (meta, persist) = {
                    let state = self.state.read();
                    (state.meta(), state.machine.persist())
                };
                blocking(move || persist().map_err(io::Error::other)).await?;
                return Ok(nothing(meta));
            }
            // The state in memory lasts as long as the log.
            None => return Ok(nothing(self.state.read().meta())),
            Some(store) => store,
        };
        drop(self.log_is_needed.write().await);
        let (meta, chunks, writes_waited) = {
            let state = self.state.read();
            let began = Instant::now();
            (state.meta(), state.chunks(), began.elapsed())
        };
        let (group, current) = (self.group, Arc::clone(&self.current));
        info!(group, writes_waited_us = writes_waited.as_micros(), "a snapshot is written");
        blocking(move || {
            let mut writer = store.write(group, Origin::Made, &meta)?;
            for chunk in chunks {
                writer.chunk(&chunk.map_err(io::Error::other)?)?;
            }
            let made = writer.finish()?;
            let _turn = store.turn();
            // One that was received meanwhile is newer, and the log behind it is gone.
            let newer = current.lock().clone().filter(|(held, _)| held.last_log_id > meta.last_log_id);
            if let Some((meta, snapshot)) = newer {
                store.discard(made)?;
                return Ok(Snapshot { meta, snapshot });
            }
            let chunks = Chunks::File(store.adopt(made)?);
            *current.lock() = Some((meta.clone(), chunks.clone()));
            Ok(Snapshot { meta, snapshot: chunks })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
