//! Concurrent proposals of a group become one entry: while entries are on their way, what arrives is collected, and
//! goes out as soon as one of them is back. No timer: with nobody else about, a proposal leaves at once.
//!
//! Measured (docs/decisions/0001): one command an entry 55 k/s, 64 commands an entry 600 k/s at a tenth of the CPU.

use std::sync::Arc;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc, oneshot};
use trimaran_net::clock::Clock;
use trimaran_net::pipeline::in_company;

use crate::apply::{Applier, State};
use crate::error::{Error, Leader};
use crate::machine::Machine;
use crate::passing::Passing;
use crate::types::{Batch, COMMAND_OVERHEAD_BYTES, Callback, Command, Config};

/// Commands of one entry.
const BATCH_COMMANDS_MAX: usize = 1024;

/// Bytes of one entry, unless a single command is larger.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Entries of a group on their way. More of them make smaller batches; one alone would leave the log idle while its
/// replies are computed.
const IN_FLIGHT_MAX: usize = 4;

/// Proposals that wait to be batched.
pub(crate) const PROPOSALS_MAX: usize = 16_384;

/// Where the replies of one caller's commands go.
type Reply = oneshot::Sender<Result<Vec<Bytes>, Error>>;

/// Commands that one caller proposes together, answered together.
pub(crate) struct Proposal {
    pub(crate) commands: Vec<Command>,
    pub(crate) reply: Reply,
}

impl Proposal {
    fn bytes(&self) -> usize {
        self.commands.iter().map(|command| command.payload.len() + COMMAND_OVERHEAD_BYTES).sum()
    }
}

/// Takes proposals until every sender is gone.
pub(crate) async fn run<M: Machine>(
    group: u64,
    raft: openraft::Raft<Config, Applier<M>>,
    state: Arc<RwLock<State<M>>>,
    clock: Arc<dyn Clock>,
    passing: Arc<Mutex<Passing>>,
    mut proposals: mpsc::Receiver<Proposal>,
) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut held: Option<Proposal> = None;
    loop {
        let first = match held.take() {
            Some(held) => held,
            None => match proposals.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        in_company().await;
        // Wait for a free place first: what arrives meanwhile joins this entry.
        let Ok(place) = Arc::clone(&in_flight).acquire_owned().await else { return };
        let mut bytes = first.bytes();
        let mut commands = first.commands;
        let mut waiting = vec![(commands.len(), first.reply)];
        while commands.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(next) = proposals.try_recv() else { break };
            if commands.len() + next.commands.len() > BATCH_COMMANDS_MAX
                || bytes + next.bytes() > BATCH_BYTES_MAX
            {
                held = Some(next);
                break;
            }
            bytes += next.bytes();
            waiting.push((next.commands.len(), next.reply));
            commands.extend(next.commands);
        }
        // A hybrid clock: never behind what this replica has applied.
        let now_ms = clock.now_ms();
        let (applied_ms, counted_ms) = {
            let state = state.read();
            (state.stamp_ms, state.passed_ms)
        };
        let stamp_ms = now_ms.max(applied_ms);
        // One that does not lead is told so: nobody sees what it says.
        let leads = raft.as_leader().ok();
        let passed_ms = leads.map(|leader| passing.lock().at(leader.term(), now_ms, counted_ms));
        let batch = Batch { stamp_ms, passed_ms, commands: commands.into(), change: None };
        let respond = move |outcome: ClientWriteResult<Config>| {
            drop(place);
            answer(group, waiting, outcome);
        };
        if let Err(fatal) = raft.client_write_ff(batch, Some(Callback(Box::new(respond)))).await {
            tracing::error!(group, error = %fatal, "the group takes no more proposals");
            return;
        }
    }
}

fn answer(group: u64, waiting: Vec<(usize, Reply)>, outcome: ClientWriteResult<Config>) {
    match outcome {
        Ok(response) => {
            let mut replies = response.data.into_iter();
            for (count, reply) in waiting {
                // The caller may have given up; the command is carried out all the same.
                let _gone = reply.send(Ok(replies.by_ref().take(count).collect()));
            }
        }
        Err(refused) => {
            let refused = error(group, refused);
            for (_, reply) in waiting {
                let _gone = reply.send(Err(refused.clone()));
            }
        }
    }
}

pub(crate) fn error(group: u64, refused: ClientWriteError<Config>) -> Error {
    match refused {
        // Refused before the entry was appended: safe to send elsewhere.
        ClientWriteError::ForwardToLeader(forward) => not_leader(group, &forward),
        ClientWriteError::LogEntryDiscarded(_) => {
            Error::Unknown { group, reason: "the leader changed while it was under way" }
        }
        other => Error::Refused { group, action: "propose", reason: other.to_string() },
    }
}

pub(crate) fn not_leader(group: u64, forward: &ForwardToLeader<Config>) -> Error {
    match (forward.reason, forward.leader_id, forward.leader_node) {
        (ForwardReason::LeaseExpired, _, _) => Error::NoQuorum { group },
        (_, Some(replica), Some(place)) => {
            Error::NotLeader { group, leader: Some(Leader { replica, node: place.node }) }
        }
        _ => Error::NotLeader { group, leader: None },
    }
}
