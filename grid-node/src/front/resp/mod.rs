//! The RESP front: existing Redis clients. RESP2 and RESP3, inline commands, pipelines.
//!
//! A connection takes every whole command that it has, sends those that can go together to their partitions at once,
//! and writes all answers in one go. Order is kept: reads wait for the writes before them on the same connection.
//! Next: [`parse`] (bytes to arguments), [`command`] (arguments to what is to be done), [`reply`] (answers to bytes).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use trimaran_net::listen::{Arrival, Doorway};
use trimaran_proto::state::grid::{Query, QueryReply, Reply};

use crate::error::Error;
use crate::limits::{CONNECTIONS_MAX, HALF_REQUEST_MAX, PIPELINE_COMMANDS_MAX, UNREAD_ANSWER_MAX};
use crate::metrics;
use crate::router::Router;

pub mod parse;

pub mod table;

pub mod command;

mod connection;
mod pattern;

pub mod reply;

use command::{Outcome, Part, Planned, Session};
use parse::Parsed;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Accepts connections until `stop`; those that are open end when their client has its answers.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let doorway = Doorway::new(listener, CONNECTIONS_MAX, stop.clone());
    let ids = AtomicU64::new(1);
    while let Some(arrival) = doorway.next().await {
        let (stream, place) = match arrival {
            Arrival::Admitted(stream, _, place) => (stream, place),
            Arrival::Refused(mut stream) => {
                metrics::refused("resp").increment(1);
                tokio::spawn(async move {
                    let text = format!(
                        "-ERR max number of clients reached (CONNECTIONS_MAX = {CONNECTIONS_MAX})\r\n"
                    );
                    // It is told if it listens.
                    let _gone = timeout(UNREAD_ANSWER_MAX, stream.write_all(text.as_bytes())).await;
                });
                continue;
            }
        };
        let connection = Connection {
            stream,
            router: router.clone(),
            session: Session::new("resp", ids.fetch_add(1, Ordering::Relaxed)),
            stop: stop.clone(),
        };
        tokio::spawn(async move {
            metrics::connections("resp").increment(1);
            if let Err(error) = connection.run().await {
                debug!(%error, "connection ended");
            }
            metrics::connections("resp").decrement(1);
            drop(place);
        });
    }
}

struct Connection {
    stream: TcpStream,
    router: Router,
    session: Session,
    stop: CancellationToken,
}

impl Connection {
    async fn run(mut self) -> std::io::Result<()> {
        let mut inbound = BytesMut::with_capacity(READ_BYTES);
        let mut outbound = BytesMut::with_capacity(READ_BYTES);
        loop {
            let mut requests = Vec::new();
            let mut refused = None;
            while requests.len() < PIPELINE_COMMANDS_MAX {
                match parse::next(&mut inbound) {
                    Ok(Parsed::Request(arguments)) => requests.push(arguments),
                    Ok(Parsed::Nothing) => {}
                    Ok(Parsed::Incomplete) => break,
                    Err(error) => {
                        refused = Some(error);
                        break;
                    }
                }
            }
            let whole = !requests.is_empty();
            let go_on = answer(&self.router, &mut self.session, requests, &mut outbound).await;
            if let Some(error) = &refused {
                reply::error(&mut outbound, &format!("ERR Protocol error: {error}"));
            }
            if !outbound.is_empty() {
                timeout(UNREAD_ANSWER_MAX, self.stream.write_all(&outbound)).await??;
                outbound.clear();
            }
            if refused.is_some() || !go_on {
                return self.stream.shutdown().await;
            }
            if whole {
                // There may be more in the buffer already.
                if !inbound.is_empty() && inbound.len() >= parse::SHORTEST {
                    if self.try_read(&mut inbound)? == Some(0) {
                        return Ok(());
                    }
                    continue;
                }
            }
            inbound.reserve(READ_BYTES);
            let read = if inbound.is_empty() {
                // A client may be silent as long as it likes between two requests.
                tokio::select! {
                    read = self.stream.read_buf(&mut inbound) => read?,
                    () = self.stop.cancelled() => return Ok(()),
                }
            } else {
                timeout(HALF_REQUEST_MAX, self.stream.read_buf(&mut inbound)).await??
            };
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// What has arrived meanwhile, without waiting; `None` if nothing has.
    fn try_read(&self, inbound: &mut BytesMut) -> std::io::Result<Option<usize>> {
        inbound.reserve(READ_BYTES);
        match self.stream.try_read_buf(inbound) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Answers requests in order. False if the client asked to be closed.
pub(super) async fn answer(
    router: &Router,
    session: &mut Session,
    requests: Vec<Vec<Bytes>>,
    outbound: &mut BytesMut,
) -> bool {
    if requests.is_empty() {
        return true;
    }
    metrics::commands(session.front).increment(requests.len() as u64);
    let mut planned: Vec<Planned> = Vec::with_capacity(requests.len());
    for arguments in requests {
        let plan = command::plan(session, router, &arguments);
        // What can go together: reads with reads, writes with writes; a scan alone.
        if planned.first().is_some_and(|first| !first.goes_with(&plan)) {
            render_all(router, session.front, &mut planned, outbound).await;
        }
        let closes = plan.closes;
        planned.push(plan);
        if closes {
            render_all(router, session.front, &mut planned, outbound).await;
            return false;
        }
    }
    render_all(router, session.front, &mut planned, outbound).await;
    true
}

async fn render_all(
    router: &Router,
    front: &'static str,
    planned: &mut Vec<Planned>,
    outbound: &mut BytesMut,
) {
    let outcomes = carry_out(router, planned).await;
    for (plan, outcome) in planned.drain(..).zip(outcomes) {
        if outcome.is_err() {
            metrics::refused(front).increment(1);
        }
        plan.render(outcome, outbound);
    }
}

/// Sends the parts of commands of one kind to their partitions, all at once, and gives each command its own back.
async fn carry_out(router: &Router, planned: &[Planned]) -> Vec<Result<Outcome, Error>> {
    if let [single] = planned
        && let Some(scan) = &single.scan
    {
        return vec![scan.page(router).await.map(Outcome::Page)];
    }
    let mut writes: BTreeMap<u64, Vec<(usize, usize, Bytes)>> = BTreeMap::new();
    let mut reads: BTreeMap<u64, Vec<(usize, usize, Query)>> = BTreeMap::new();
    let mut written: Vec<Vec<Reply>> = Vec::with_capacity(planned.len());
    let mut read: Vec<Vec<QueryReply>> = Vec::with_capacity(planned.len());
    for (at, plan) in planned.iter().enumerate() {
        let (mut write_parts, mut read_parts) = (0, 0);
        for part in &plan.parts {
            match part {
                Part::Write { partition, command } => {
                    writes.entry(*partition).or_default().push((at, write_parts, command.clone()));
                    write_parts += 1;
                }
                Part::Read { partition, query } => {
                    reads.entry(*partition).or_default().push((at, read_parts, query.clone()));
                    read_parts += 1;
                }
            }
        }
        written.push(vec![Reply::default(); write_parts]);
        read.push(vec![QueryReply::default(); read_parts]);
    }
    let mut failures: BTreeMap<usize, Error> = BTreeMap::new();
    let write_all = futures::future::join_all(writes.into_iter().map(|(partition, parts)| async move {
        let payloads = parts.iter().map(|(_, _, payload)| payload.clone()).collect();
        (router.write(partition, payloads, None).await, parts)
    }));
    let read_all = futures::future::join_all(reads.into_iter().map(|(partition, parts)| async move {
        let queries = parts.iter().map(|(_, _, query)| query.clone()).collect();
        (router.read(partition, queries).await, parts)
    }));
    let (write_outcomes, read_outcomes) = futures::future::join(write_all, read_all).await;
    for (outcome, parts) in write_outcomes {
        match outcome {
            Ok(replies) => {
                for ((at, part, _), reply) in parts.into_iter().zip(replies) {
                    match Reply::decode(reply) {
                        Ok(reply) => written[at][part] = reply,
                        Err(_bad) => {
                            failures.insert(at, Error::TimedOut { partition: 0 });
                        }
                    }
                }
            }
            Err(error) => failures.extend(parts.into_iter().map(|(at, _, _)| (at, error.clone()))),
        }
    }
    for (outcome, parts) in read_outcomes {
        match outcome {
            Ok(replies) => {
                for ((at, part, _), reply) in parts.into_iter().zip(replies) {
                    read[at][part] = reply;
                }
            }
            Err(error) => failures.extend(parts.into_iter().map(|(at, _, _)| (at, error.clone()))),
        }
    }
    written
        .into_iter()
        .zip(read)
        .enumerate()
        .map(|(at, (written, read))| match failures.remove(&at) {
            Some(error) => Err(error),
            None => Ok(Outcome::Parts { written, read }),
        })
        .collect()
}
