//! The RESP front: existing Redis clients. RESP2 and RESP3, inline commands, pipelines.
//!
//! A connection takes every whole command that it has, sends those that can go together to their partitions at once,
//! and writes all answers in one go. Order is kept: reads wait for the writes before them on the same connection.
//! Next: [`parse`] (bytes to arguments), [`command`] (arguments to what is to be done), [`reply`] (answers to bytes).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use trimaran_net::listen::{Arrival, Doorway};
use trimaran_proto::state::grid::{QueryReply, Reply};

use crate::error::Error;
use crate::limits::{CONNECTIONS_MAX, HALF_REQUEST_MAX, PIPELINE_COMMANDS_MAX, UNREAD_ANSWER_MAX};
use crate::metrics;
use crate::router::Router;

pub mod parse;

pub mod table;

pub mod command;

mod cluster;
mod connection;
mod pattern;

pub mod reply;

use command::{Outcome, Part, Planned, Session};
use parse::Parsed;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Accepts connections until `stop`; those that are open end when their client has its answers. With `redirect`, what is led
/// elsewhere is answered with MOVED.
pub async fn serve(listener: TcpListener, router: Router, redirect: bool, stop: CancellationToken) {
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
            session: Session::new("resp", ids.fetch_add(1, Ordering::Relaxed), redirect),
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
    // Which command each part is of.
    let (mut writers, mut writes) = (Vec::new(), Vec::new());
    let (mut readers, mut reads) = (Vec::new(), Vec::new());
    for (at, plan) in planned.iter().enumerate() {
        for part in &plan.parts {
            match part {
                Part::Write(write) => {
                    writers.push(at);
                    writes.push(write.clone());
                }
                Part::Read { token, query } => {
                    readers.push(at);
                    reads.push((*token, query.clone()));
                }
            }
        }
    }
    let mut written: Vec<Vec<Reply>> = vec![Vec::new(); planned.len()];
    let mut read: Vec<Vec<QueryReply>> = vec![Vec::new(); planned.len()];
    let mut failures: BTreeMap<usize, Error> = BTreeMap::new();
    let (replies, answers) = futures::future::join(router.write(writes, None), router.read(reads)).await;
    for (at, reply) in writers.into_iter().zip(replies) {
        match reply {
            Ok(reply) => written[at].push(reply),
            Err(error) => drop(failures.insert(at, error)),
        }
    }
    for (at, answer) in readers.into_iter().zip(answers) {
        match answer {
            Ok(answer) => read[at].push(answer),
            Err(error) => drop(failures.insert(at, error)),
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
