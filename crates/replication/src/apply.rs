//! Hands committed entries to the [`Machine`] in runs, each request once, and answers who waits.
//!
//! Invariant: what has been applied, what is remembered of answered requests and the clock change together, under one
//! lock, so that a snapshot is of one index. Next: `dedup`, `snapshot`.

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

use crate::dedup::Dedup;
use crate::machine::{Committed, Machine};
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
        let state = State {
            machine,
            stamp_ms: 0,
            applied: None,
            membership: StoredMembership::default(),
            dedup: Dedup::default(),
        };
        let state = Arc::new(RwLock::new(state));
        let current = match &store {
            Some(store) => store.load(group)?.map(|(meta, chunks)| (meta, Arc::new(chunks))),
            None => None,
        };
        let applier =
            Self { group, state: Arc::clone(&state), store, current: Arc::new(Mutex::new(current)) };
        Ok((applier, state))
    }
}

impl<M: Machine> State<M> {
    /// Applies one entry's commands; replies in order.
    fn apply(&mut self, batch: &Batch) -> io::Result<Vec<Bytes>> {
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
                self.dedup.remember(id, stamp_ms, reply.clone());
            }
        }
        Ok(replies)
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
            {
                let mut state = self.state.write();
                for (entry, responder) in run {
                    let replies = match &entry.payload {
                        EntryPayload::Blank => Vec::new(),
                        EntryPayload::Normal(batch) => state.apply(batch)?,
                        EntryPayload::Membership(membership) => {
                            state.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                            Vec::new()
                        }
                    };
                    state.applied = Some(entry.log_id);
                    answers.extend(responder.map(|responder| (responder, replies)));
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
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, chunks: Chunks) -> Result<(), io::Error> {
        if let Some(store) = self.store.clone() {
            let (group, meta, chunks) = (self.group, meta.clone(), Arc::clone(&chunks));
            blocking(move || store.save(group, &meta, &chunks)).await?;
        }
        let mut rest = chunks.iter().cloned();
        let own = rest.next().ok_or_else(|| io::Error::other("a snapshot without its first chunk"))?;
        let own = state::ReplicationState::decode(own).map_err(io::Error::other)?;
        let mut state = self.state.write();
        state.machine.restore(&mut rest).map_err(io::Error::other)?;
        state.stamp_ms = own.stamp_ms;
        state.dedup = Dedup::restore(own.sessions);
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        drop(state);
        *self.current.lock() = Some((meta.clone(), chunks));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<OpenraftSnapshot>, io::Error> {
        Ok(self
            .current
            .lock()
            .as_ref()
            .map(|(meta, chunks)| Snapshot { meta: meta.clone(), snapshot: Arc::clone(chunks) }))
    }
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
        let (meta, own, machine) = {
            let state = self.state.read();
            let meta = SnapshotMeta { last_log_id: state.applied, last_membership: state.membership.clone() };
            let own = state::ReplicationState { stamp_ms: state.stamp_ms, sessions: state.dedup.save() };
            (meta, own, state.machine.snapshot())
        };
        let (group, store) = (self.group, self.store.clone());
        let saved_meta = meta.clone();
        let chunks = blocking(move || {
            let chunks: Vec<Bytes> =
                std::iter::once(Bytes::from(own.encode_to_vec())).chain(machine).collect();
            if let Some(store) = store {
                store.save(group, &saved_meta, &chunks)?;
            }
            Ok(Arc::new(chunks))
        })
        .await?;
        *self.current.lock() = Some((meta.clone(), Arc::clone(&chunks)));
        Ok(Snapshot { meta, snapshot: chunks })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
