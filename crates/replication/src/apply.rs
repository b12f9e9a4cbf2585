//! Hands committed entries to the [`Machine`] in runs, each request once, and answers who waits.
//!
//! Invariant: what has been applied, what is remembered of answered requests and the clock change together, under one
//! lock, so that a snapshot is of one index; for a machine on disk they are one batch. Next: `dedup`, `snapshot`.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use trimaran_proto::state::log as state;

use crate::codec;
use crate::dedup::Dedup;
use crate::error::Stop;
use crate::machine::{Committed, Machine, Recovered, Remember, SnapshotChunks};
use crate::planted::{self, Bug};
use crate::session::RequestId;
use crate::snapshot::{Chunks, Store};
use crate::types::{Batch, Command, Config, LogId, SnapshotMeta, StoredMembership};

/// Commands applied under one lock, so that reads get in between.
const RUN_COMMANDS_MAX: usize = 4096;

type OpenraftSnapshot = openraft::alias::SnapshotOf<Config, Chunks>;

/// A machine with what replication knows about it. Reads take the lock for reading, runs for writing.
pub(crate) struct State<M> {
    pub(crate) machine: M,
    pub(crate) stamp_ms: u64,
    applied: Option<LogId>,
    membership: StoredMembership,
    dedup: Dedup,
}

/// The state machine as openraft sees it.
pub(crate) struct Applier<M> {
    group: u64,
    state: Arc<RwLock<State<M>>>,
    store: Option<Store>,
    current: Arc<Mutex<Option<(SnapshotMeta, Chunks)>>>,
}

impl<M: Machine> Applier<M> {
    pub(crate) fn new(
        group: u64,
        machine: M,
        store: Option<Store>,
    ) -> io::Result<(Self, Arc<RwLock<State<M>>>)> {
        let mut state = State {
            machine,
            stamp_ms: 0,
            applied: None,
            membership: StoredMembership::default(),
            dedup: Dedup::default(),
        };
        let mut current = match &store {
            Some(store) => store.load(group)?.map(|(meta, stored)| (meta, Chunks::File(stored))),
            None => None,
        };
        if M::DURABLE {
            match (state.machine.recover().map_err(io::Error::other)?, &current) {
                (Recovered::Nothing, _) => {}
                (Recovered::Applied { applied, answered }, _) => state.recover(applied, answered)?,
                (Recovered::Interrupted, Some((meta, chunks))) => state.install(meta, chunks)?,
                (Recovered::Interrupted, None) => {
                    return Err(io::Error::other("the copy was being replaced by a snapshot that is gone"));
                }
            }
            // It has done its work, or was never begun: the leader will send a newer one.
            if let Some(store) = &store {
                store.remove(group)?;
            }
            current = None;
        }
        let state = Arc::new(RwLock::new(state));
        let applier =
            Self { group, state: Arc::clone(&state), store, current: Arc::new(Mutex::new(current)) };
        Ok((applier, state))
    }
}

impl<M: Machine> State<M> {
    /// Applies one entry's commands; replies in order.
    fn apply(&mut self, index: u64, batch: &Batch) -> io::Result<Vec<Bytes>> {
        // The leader's clock may have gone back between two leaders; the group's does not.
        self.stamp_ms = self.stamp_ms.max(batch.stamp_ms);
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
        self.dedup.seal(index, self.stamp_ms);
        Ok(replies)
    }

    /// How many commands from the front were never applied, each id once.
    fn fresh(&self, commands: &[Command]) -> usize {
        let mut seen: HashSet<(u64, u64)> = HashSet::new();
        commands
            .iter()
            .position(|command| {
                command
                    .request_id
                    .is_some_and(|id| self.is_answered(id) || !seen.insert((id.session, id.sequence)))
            })
            .unwrap_or(commands.len())
    }

    fn is_answered(&self, id: RequestId) -> bool {
        self.dedup.is_old(id) || self.dedup.answered(id).is_some()
    }

    fn answer(&self, command: &Command, replies: &mut Vec<Bytes>) -> bool {
        let Some(id) = command.request_id.filter(|&id| self.is_answered(id)) else { return false };
        // An old duplicate has nobody waiting; an empty reply keeps the places of the others.
        replies.push(self.dedup.answered(id).unwrap_or_default());
        true
    }

    fn run(&mut self, commands: &[Command]) -> io::Result<Vec<Bytes>> {
        let stamp_ms = self.stamp_ms;
        let run: Vec<Committed<'_>> =
            commands.iter().map(|command| Committed { stamp_ms, payload: &command.payload }).collect();
        let replies = self.machine.apply(&run).map_err(io::Error::other)?;
        if replies.len() != run.len() {
            return Err(io::Error::other(format!("{} replies to {} commands", replies.len(), run.len())));
        }
        for (command, reply) in commands.iter().zip(&replies) {
            if let Some(id) = command.request_id {
                self.dedup.remember(id, reply.clone());
            }
        }
        Ok(replies)
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }

    /// Has a machine on disk write what the entries since the last commit changed.
    fn commit(&mut self, answered: Vec<(u64, Bytes)>) -> Result<(), Stop> {
        if !M::DURABLE {
            return Ok(());
        }
        let applied =
            state::Applied { at: Some(codec::put_snapshot_meta(&self.meta())), stamp_ms: self.stamp_ms };
        self.machine.commit(Remember {
            applied: applied.encode_to_vec().into(),
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
        for record in answered {
            self.dedup.restore(state::Answered::decode(record).map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Replication's own chunks of a snapshot of the state as it is now, and what the machine adds.
    fn chunks(&self) -> SnapshotChunks {
        let is_forgotten = planted::is(Bug::RepliesForgotten);
        let answered = if is_forgotten { Vec::new() } else { self.dedup.save() };
        let own = state::ReplicationState {
            stamp_ms: self.stamp_ms,
            answered_chunks: u32::try_from(answered.len()).unwrap_or(u32::MAX),
        };
        let own = std::iter::once(own.encode_to_vec());
        let answered = answered.into_iter().map(|chunk| chunk.encode_to_vec());
        Box::new(own.chain(answered).map(|chunk| Ok(chunk.into())).chain(self.machine.snapshot()))
    }

    /// Replaces everything by a snapshot.
    fn install(&mut self, meta: &SnapshotMeta, chunks: &Chunks) -> io::Result<()> {
        let mut chunks = chunks.read();
        let mut next = || {
            let chunk = chunks.next().ok_or_else(|| io::Error::other("a snapshot that lacks chunks"))?;
            chunk.map_err(io::Error::other)
        };
        let own = state::ReplicationState::decode(next()?).map_err(io::Error::other)?;
        let mut dedup = Dedup::default();
        let mut answered = Vec::new();
        for _ in 0..own.answered_chunks {
            let chunk = state::AnsweredChunk::decode(next()?).map_err(io::Error::other)?;
            for record in chunk.records {
                answered.push((record.index, Bytes::from(record.encode_to_vec())));
                dedup.restore(record);
            }
        }
        self.machine.restore(&mut chunks).map_err(io::Error::other)?;
        self.stamp_ms = own.stamp_ms;
        self.dedup = dedup;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.commit(answered).map_err(io::Error::other)?;
        (self.machine.persist())().map_err(io::Error::other)
    }
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
                run.push((entry, responder));
            }
            if !run.is_empty() {
                let mut state = self.state.write();
                let mut answered = Vec::new();
                for (entry, responder) in run {
                    let index = entry.log_id.index();
                    let replies = match &entry.payload {
                        EntryPayload::Blank => Vec::new(),
                        EntryPayload::Normal(batch) => state.apply(index, batch)?,
                        EntryPayload::Membership(membership) => {
                            state.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
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
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, chunks: Chunks) -> Result<(), io::Error> {
        let (group, meta, store) = (self.group, meta.clone(), self.store.clone());
        let (state, current) = (Arc::clone(&self.state), Arc::clone(&self.current));
        blocking(move || {
            // First the snapshot is safe, then the state is replaced: a crash between is made good when it is opened.
            let chunks = match (chunks, &store) {
                (Chunks::File(stored), Some(store)) => Chunks::File(store.adopt(stored)?),
                (chunks, _) => chunks,
            };
            state.write().install(&meta, &chunks)?;
            if M::DURABLE {
                store.map_or(Ok(()), |store| store.remove(group))
            } else {
                *current.lock() = Some((meta, chunks));
                Ok(())
            }
        })
        .await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<OpenraftSnapshot>, io::Error> {
        if M::DURABLE {
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

/// A snapshot of a machine on disk, of the state as it is now.
fn live<M: Machine>(state: &State<M>) -> OpenraftSnapshot {
    let chunks = Chunks::Live(Arc::new(Mutex::new(Some(state.chunks()))));
    Snapshot { meta: state.meta(), snapshot: chunks }
}

/// Makes a snapshot beside the path of writes.
pub(crate) struct Builder<M> {
    group: u64,
    state: Arc<RwLock<State<M>>>,
    store: Option<Store>,
    current: Arc<Mutex<Option<(SnapshotMeta, Chunks)>>>,
}

impl<M: Machine> RaftSnapshotBuilder<Config> for Builder<M> {
    type SnapshotData = Chunks;

    async fn build_snapshot(&mut self) -> Result<OpenraftSnapshot, io::Error> {
        if M::DURABLE {
            // The state on disk is the snapshot, once it is durable; the log behind it can go.
            let (meta, persist) = {
                let state = self.state.read();
                (state.meta(), state.machine.persist())
            };
            blocking(move || persist().map_err(io::Error::other)).await?;
            // Only what it is of is asked for here; who needs the chunks gets the current ones.
            return Ok(Snapshot { meta, snapshot: Chunks::Live(Arc::default()) });
        }
        let (meta, mut chunks) = {
            let state = self.state.read();
            (state.meta(), state.chunks())
        };
        if planted::is(Bug::SnapshotCutShort) {
            let mut all: Vec<_> = chunks.collect();
            all.pop();
            chunks = Box::new(all.into_iter());
        }
        let (group, store, current) = (self.group, self.store.clone(), Arc::clone(&self.current));
        blocking(move || {
            let chunks = match store {
                None => {
                    Chunks::Whole(Arc::new(chunks.collect::<Result<_, Stop>>().map_err(io::Error::other)?))
                }
                Some(store) => {
                    let mut writer = store.write(group, &meta)?;
                    for chunk in chunks {
                        writer.chunk(&chunk.map_err(io::Error::other)?)?;
                    }
                    Chunks::File(store.adopt(writer.finish()?)?)
                }
            };
            *current.lock() = Some((meta.clone(), chunks.clone()));
            Ok(Snapshot { meta, snapshot: chunks })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
