//! Questions to one partition: how its leader, or a copy, answers them, and what is done where transactions have a hold of rows.

use bytes::Bytes;
use prost::Message as _;
use trimaran_net::retry::Backoff;
use trimaran_proto::internal::shard as wire;
use trimaran_proto::internal::shard::read_request::Body as Question;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;
use trimaran_replication::group::{Consistency, Group};
use trimaran_replication::machine::Machine as _;
use trimaran_storage::engine::{Order, Range};

use super::forward::Read;
use super::{REQUEST_TIMEOUT, Router};
use crate::error::Error;
use crate::hot::Asked;
use crate::key::parse_head;
use crate::machine::ShardMachine;
use crate::op::{get_item, page};

impl Router {
    /// `None` if the partition does not have what is asked for (any more).
    pub(super) async fn read_from(
        &self,
        partition: u64,
        mut question: Question,
    ) -> Result<Option<wire::ReadReply>, Error> {
        let deadline = tokio::time::Instant::now() + REQUEST_TIMEOUT;
        let at = as_of(&question);
        let mut backoff = Backoff::default();
        let mut here = match at {
            0 => None,
            _ => self.closed_here(partition, at, &question).await?,
        };
        loop {
            let read = Read { router: self, partition, question: question.clone() };
            let reply = match here.take() {
                Some(reply) => Some(reply),
                None => self.until_answered(partition, &read).await?,
            };
            let reply = match reply {
                Some(reply) if reply.table_dropped => return Err(Error::TableDropped),
                reply => reply.filter(|reply| !reply.wrong_partition),
            };
            let Some(reply) = reply else { return Ok(None) };
            if reply.held.is_empty() {
                return Ok(Some(reply));
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::TimedOut { partition });
            }
            // What is decided is written by then; the rest was not there yet when it was looked at.
            let undecided = Box::pin(self.settle(reply.held)).await?;
            if at > 0 {
                // It may be decided yet that they were before that.
                if !undecided.is_empty() {
                    self.pause(&mut backoff).await;
                }
                continue;
            }
            match &mut question {
                Question::Get(get) => get.undecided = undecided,
                Question::Page(page) => page.undecided = undecided,
                Question::Stats(_) | Question::Rows(_) => {}
            }
        }
    }

    /// The answer of this node's own copy as of a version, whoever leads, if nothing that is written from now on can change it.
    async fn closed_here(
        &self,
        partition: u64,
        at: u64,
        question: &Question,
    ) -> Result<Option<wire::ReadReply>, Error> {
        let Some(group) = self.replica(partition) else { return Ok(None) };
        if group.read_now(ShardMachine::version) < at {
            return Ok(None);
        }
        let reply = self.read_here(&group, question.clone()).await?;
        // It may be behind: the leader knows whether the rows are elsewhere, or gone.
        Ok(Some(reply).filter(|reply| !reply.wrong_partition && !reply.table_dropped))
    }

    /// At the leader, or at any copy for what is asked as of a version that it has passed.
    pub(super) async fn read_here(
        &self,
        group: &Group<ShardMachine>,
        question: Question,
    ) -> Result<wire::ReadReply, Error> {
        let at = as_of(&question);
        if at == 0 || group.read_now(ShardMachine::version) < at {
            group.barrier(Consistency::Linearizable).await?;
        }
        let rows: Vec<&Bytes> = match &question {
            Question::Get(get) => get.rows.iter().collect(),
            Question::Page(page) => vec![&page.start],
            Question::Rows(wanted) => wanted.rows.iter().chain([&wanted.start]).collect(),
            Question::Stats(_) => Vec::new(),
        };
        // The greatest token that is asked for, if it is not one of the rows'.
        let last = match &question {
            Question::Get(_) => None,
            Question::Page(page) => page.last_token,
            Question::Rows(wanted) => wanted.last_token,
            Question::Stats(stats) => Some(stats.token),
        };
        let held = |machine: &ShardMachine| match &question {
            Question::Get(get) => machine.held(&get.rows, &get.undecided),
            Question::Page(page) => {
                let end = Some(page.end.clone()).filter(|end| !end.is_empty());
                machine.held_within(&Range { start: page.start.clone(), end }, &page.undecided)
            }
            Question::Stats(_) | Question::Rows(_) => Ok(Vec::new()),
        };
        let token = || Some(parse_head(rows.first()?)?.1);
        self.inner.routes.note(group.id(), rows.len().max(1), token);
        // A scan asks for no key.
        if last.is_none() {
            let row = |at: usize| rows.get(at).copied().cloned();
            self.inner.hot.note(Asked::Read, rows.len(), row, || self.now_ms());
        }
        if group.read_now(ShardMachine::version) < at {
            let row = rows.first().map(|&row| row.clone()).unwrap_or_default();
            let body = Some(Body::Advance(state::Advance { at_least: at }));
            group.propose(state::Command { row, body }.encode_to_vec().into(), None).await?;
        }
        let dropped = || Ok(wire::ReadReply { table_dropped: true, ..wire::ReadReply::default() });
        let elsewhere = || Ok(wire::ReadReply { wrong_partition: true, ..wire::ReadReply::default() });
        let view = group.read_now(|machine| {
            let (own_first, own_last) = machine.tokens();
            let is_here = !machine.is_elsewhere()
                && rows.iter().all(|row| machine.has_place_for(row))
                && last.is_none_or(|last| own_first <= last && last <= own_last);
            let is_there =
                |row: &&Bytes| parse_head(row).is_some_and(|(table, _)| machine.stats(table).is_some());
            is_here.then(|| {
                rows.iter().all(is_there).then(|| {
                    let removed: Vec<u64> = rows.iter().map(|row| machine.removed(row)).collect();
                    (machine.view(), removed, held(machine))
                })
            })
        });
        // From here on without the machine's lock: the view does not change.
        let Some(view) = view else { return elsewhere() };
        let Some((view, removed, held)) = view else { return dropped() };
        let mut held = held.map_err(|stop| Error::Storage(stop.to_string()))?;
        // What is prepared later is decided later.
        held.retain(|held| at == 0 || held.version <= at);
        if !held.is_empty() {
            return Ok(wire::ReadReply { held, ..wire::ReadReply::default() });
        }
        let reply = match question {
            Question::Get(get) => {
                get_item::read(&view, &get.rows, (&removed, !get.undecided.is_empty()), get.as_of)?
            }
            Question::Page(wanted) => {
                let _place = self.inner.scans.acquire().await.map_err(|_closed| Error::NotReady)?;
                let read = tokio::task::spawn_blocking(move || page::read(&view, wanted)).await;
                read.map_err(|panicked| Error::Storage(panicked.to_string()))??
            }
            Question::Rows(wanted) => {
                let _place = self.inner.scans.acquire().await.map_err(|_closed| Error::NotReady)?;
                let read = tokio::task::spawn_blocking(move || page::rows(&view, &wanted)).await;
                read.map_err(|panicked| Error::Storage(panicked.to_string()))??
            }
            Question::Stats(wanted) => {
                let oldest_waiting = if wanted.waiting {
                    // All of one moment: what a transaction lets go waits then.
                    let (view, range, held) = group.read_now(|machine| {
                        let table = wanted.table;
                        (machine.view(), machine.waiting(table), machine.oldest_hold(table))
                    });
                    let oldest = tokio::task::spawn_blocking(move || {
                        let versions = view.scan(range, Order::Ascending).map(|row| Ok::<_, Error>(row?.1));
                        versions.collect::<Result<Vec<_>, _>>()
                    });
                    let versions =
                        oldest.await.map_err(|panicked| Error::Storage(panicked.to_string()))??;
                    versions.into_iter().chain(held).min().unwrap_or(0)
                } else {
                    0
                };
                match group.read_now(|machine| (machine.stats(wanted.table), machine.tokens())) {
                    (None, _) => return dropped(),
                    (Some(stats), (_, last)) => wire::ReadReply {
                        table_items: stats.items,
                        table_bytes: stats.bytes,
                        last_token: Some(last),
                        oldest_waiting,
                        ..wire::ReadReply::default()
                    },
                }
            }
        };
        // Another partition has taken the rows over, and may have written to them while they were read.
        if group.read_now(ShardMachine::is_elsewhere) { elsewhere() } else { Ok(reply) }
    }
}

/// The version as of which something is asked; 0 = as it is.
fn as_of(question: &Question) -> u64 {
    match question {
        Question::Get(get) => get.as_of,
        Question::Page(page) => page.as_of,
        Question::Stats(_) | Question::Rows(_) => 0,
    }
}
