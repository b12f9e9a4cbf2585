//! The sending end: one line to each node carries the Raft messages of all groups.
//!
//! A line is a bidirectional gRPC stream of frame batches: whatever is queued goes out as one message. Heartbeats keep
//! [`HEARTBEAT_COMPANY`] apart, so that those of many groups travel together; appends are pipelined; snapshots take a stream and a
//! connection of their own, at a bounded rate, so that they hold up neither. Next: `rpc` (the receiving end).

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info, warn};
use trimaran_net::peers::Peers;
use trimaran_net::pipeline::in_company;
use trimaran_proto::internal::replication::frame::Body;
use trimaran_proto::internal::replication::replication_client::ReplicationClient;
use trimaran_proto::internal::replication::{
    Append, Frame, Frames, SnapshotChunk, SnapshotHeader, TransferLeader,
};

use crate::codec;
use crate::pace::{FILL_BYTES_PER_SECOND, Pace};
use crate::snapshot::Chunks;
use crate::types::{Config, Place, Vote};

/// Least time between two messages that have nothing but heartbeats: those that come meanwhile wait for each other.
const HEARTBEAT_COMPANY: Duration = Duration::from_millis(10);

/// Frames that wait for a line; more wait in their groups.
const OUTBOX_MAX: usize = 4096;

/// Frames and bytes of one message.
const FRAMES_MAX: usize = 512;
const FRAMES_BYTES_MAX: usize = 2 << 20;

/// Messages between the line's task and the connection.
const MESSAGES_MAX: usize = 4;

/// Low bits of a stream's number: streams of one connection.
const STREAMS_PER_CONNECTION_BITS: u32 = 32;

/// Appends of one follower on their way.
const PIPELINE_MAX: usize = 64;

/// Largest message that a receiver takes: one entry of the largest command, with its head.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Pause before a broken line is tried again.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// Chunks read ahead of the stream.
const SNAPSHOT_CHUNKS_AHEAD: usize = 2;

/// How long a receiver may take for one chunk, and to install the snapshot once it has all of them.
pub(crate) const SNAPSHOT_INSTALL_MAX: Duration = Duration::from_secs(60);

/// A reply to an append that does not come for this long means that the line is broken, whatever TCP thinks.
const APPEND_SILENCE_MAX: Duration = Duration::from_secs(3);

type Reply = Result<Frame, Down>;

/// The line to the peer is down.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the line to the peer is down")]
struct Down;

struct Outgoing {
    frame: Frame,
    reply: oneshot::Sender<Reply>,
}

/// The lines of a node, made when first used. Clones share them.
#[derive(Clone)]
pub(crate) struct Lines {
    peers: Peers,
    /// Of everything that fills new copies.
    fill: Pace,
    lines: Arc<Mutex<HashMap<u64, mpsc::Sender<Outgoing>>>>,
}

impl Lines {
    pub(crate) fn new(peers: Peers) -> Self {
        Self { peers, fill: Pace::new(FILL_BYTES_PER_SECOND), lines: Arc::default() }
    }

    fn line(&self, node: u64) -> mpsc::Sender<Outgoing> {
        let mut lines = self.lines.lock();
        lines
            .entry(node)
            .or_insert_with(|| {
                let (sender, outbox) = mpsc::channel(OUTBOX_MAX);
                tokio::spawn(run_line(node, self.peers.clone(), outbox));
                sender
            })
            .clone()
    }

    /// Sends one frame and waits for its answer.
    pub(crate) async fn ask(&self, node: u64, frame: Frame, patience: Duration) -> Option<Body> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.line(node).send(Outgoing { frame, reply }).await.ok()?;
            answer.await.ok()?.ok()?.body
        };
        timeout(patience, asked).await.ok().flatten()
    }

    /// Ends all lines; those that wait for replies get errors.
    pub(crate) fn close(&self) {
        self.lines.lock().clear();
    }
}

/// Keeps one line alive while somebody may use it.
async fn run_line(node: u64, peers: Peers, mut outbox: mpsc::Receiver<Outgoing>) {
    let mut call = 0;
    while let Some(first) = outbox.recv().await {
        let (Some(channel), Some(address)) = (peers.channel(node), peers.address(node)) else {
            debug!(node, "no address of the peer yet");
            let _gone = first.reply.send(Err(Down));
            refuse_for_a_while(&mut outbox).await;
            continue;
        };
        let mut client = ReplicationClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (messages, connection) = mpsc::channel(MESSAGES_MAX);
        let pending: Arc<Mutex<HashMap<u64, oneshot::Sender<Reply>>>> = Arc::default();
        let opened = client.line(ReceiverStream::new(connection));
        let mut held = Some(first);
        let mut beat_at: Option<Instant> = None;
        // The answer's head comes with the peer's first words at the latest; do not wait for it before speaking.
        let answers = {
            let pending = Arc::clone(&pending);
            async move {
                let mut inbound = opened.await?.into_inner();
                while let Some(frames) = inbound.message().await? {
                    let mut pending = pending.lock();
                    for frame in frames.frames {
                        if let Some(reply) = pending.remove(&frame.call) {
                            // The asker may have given up.
                            let _gone = reply.send(Ok(frame));
                        }
                    }
                }
                Ok::<(), tonic::Status>(())
            }
        };
        let speak = async {
            while let Some(frames) = gather(&mut held, &mut outbox, &pending, &mut call, &mut beat_at).await {
                if messages.send(Frames { frames }).await.is_err() {
                    return true;
                }
            }
            false
        };
        let broken = tokio::select! {
            ended = answers => {
                debug!(node, outcome = ?ended.err().map(|status| status.code()), "line ended");
                true
            }
            broken = speak => broken,
            () = peers.moved(node, &address) => true,
        };
        for (_, reply) in pending.lock().drain() {
            let _gone = reply.send(Err(Down));
        }
        if let Some(unsent) = held.take() {
            let _gone = unsent.reply.send(Err(Down));
        }
        if !broken {
            return;
        }
        refuse_for_a_while(&mut outbox).await;
    }
}

/// Tells everybody that the line is down, until it makes sense to try again.
async fn refuse_for_a_while(outbox: &mut mpsc::Receiver<Outgoing>) {
    let until = Instant::now() + RECONNECT_AFTER;
    loop {
        tokio::select! {
            () = sleep_until(until) => return,
            outgoing = outbox.recv() => match outgoing {
                Some(outgoing) => { let _gone = outgoing.reply.send(Err(Down)); }
                None => return,
            },
        }
    }
}

/// The frames of the next message; `None` when nobody can send any more. `beat_at` is when heartbeats went out last.
async fn gather(
    held: &mut Option<Outgoing>,
    outbox: &mut mpsc::Receiver<Outgoing>,
    pending: &Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    call: &mut u64,
    beat_at: &mut Option<Instant>,
) -> Option<Vec<Frame>> {
    let mut frames = Vec::new();
    let mut bytes = 0;
    let mut patient_until: Option<Instant> = None;
    loop {
        let next = match held.take() {
            Some(held) => Some(held),
            None if frames.is_empty() => {
                let first = outbox.recv().await?;
                in_company().await;
                Some(first)
            }
            None => match (outbox.try_recv(), patient_until) {
                (Ok(next), _) => Some(next),
                (Err(_), Some(until)) => tokio::select! {
                    () = sleep_until(until) => None,
                    next = outbox.recv() => next,
                },
                (Err(_), None) => None,
            },
        };
        let Some(Outgoing { mut frame, reply }) = next else { return Some(frames) };
        *call += 1;
        frame.call = *call;
        pending.lock().insert(*call, reply);
        // The first one after a while goes at once: a group that wakes up waits for it.
        patient_until = match (frame.heartbeat, frames.is_empty(), patient_until) {
            (true, true, _) => {
                beat_at.map(|at| at + HEARTBEAT_COMPANY).filter(|&until| until > Instant::now())
            }
            (true, false, until) => until,
            (false, _, _) => None,
        };
        if frame.heartbeat {
            *beat_at = Some(patient_until.unwrap_or_else(Instant::now));
        }
        bytes += frame.encoded_len();
        frames.push(frame);
        if frames.len() >= FRAMES_MAX || bytes >= FRAMES_BYTES_MAX {
            return Some(frames);
        }
    }
}

/// Replicas of a group that vote.
pub(crate) type Voters = Arc<ArcSwap<BTreeSet<u64>>>;

/// Makes the connections of one group's replica.
pub(crate) struct Network {
    pub(crate) lines: Lines,
    pub(crate) group: u64,
    pub(crate) replica: u64,
    /// Replicas that vote, as far as is applied here.
    pub(crate) voters: Voters,
    /// That were made, so that no two streams have one number.
    pub(crate) connections: u64,
}

impl Network {
    fn connection(&mut self, target: u64, place: &Place, heartbeat: bool) -> Connection {
        self.connections += 1;
        Connection {
            lines: self.lines.clone(),
            group: self.group,
            from: self.replica,
            to: target,
            node: place.node,
            voters: Arc::clone(&self.voters),
            heartbeat,
            streams: self.connections << STREAMS_PER_CONNECTION_BITS,
        }
    }
}

impl RaftNetworkFactory<Config> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, place: &Place) -> Connection {
        self.connection(target, place, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, place: &Place) -> Connection {
        self.connection(target, place, true)
    }
}

/// From one replica of a group to another.
pub(crate) struct Connection {
    lines: Lines,
    group: u64,
    from: u64,
    to: u64,
    node: u64,
    voters: Voters,
    heartbeat: bool,
    /// Streams of appends that were begun. A connection that replaces this one begins elsewhere.
    streams: u64,
}

impl Connection {
    fn frame(&self, body: Body) -> Frame {
        Frame {
            call: 0,
            group: self.group,
            from: self.from,
            to: self.to,
            heartbeat: self.heartbeat,
            body: Some(body),
        }
    }

    /// Sends one frame and waits for its answer.
    async fn ask(&self, body: Body, patience: Duration) -> Result<Body, RPCError<Config>> {
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing { frame: self.frame(body), reply };
        let asked = async {
            self.lines.line(self.node).send(outgoing).await.map_err(|_closed| unreachable(&Down))?;
            receive(answer).await
        };
        timeout(patience, asked).await.unwrap_or_else(|elapsed| Err(unreachable(&elapsed)))
    }
}

async fn receive(answer: oneshot::Receiver<Reply>) -> Result<Body, RPCError<Config>> {
    let frame = answer.await.map_err(|_closed| unreachable(&Down))?.map_err(|down| unreachable(&down))?;
    match frame.body {
        Some(Body::Refused(reason)) => Err(unreachable(&Refused(reason))),
        Some(body) => Ok(body),
        None => Err(malformed(&codec::Malformed("body of a frame"))),
    }
}

/// The peer does not hold the replica, or has stopped it.
#[derive(Debug, thiserror::Error)]
#[error("refused by the peer: {0}")]
struct Refused(String);

fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<Config> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn malformed(error: &(impl std::error::Error + 'static)) -> RPCError<Config> {
    RPCError::Network(NetworkError::new(error))
}

impl NetBackoff<Config> for Connection {
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RECONNECT_AFTER)))
    }
}

impl NetStreamAppend<Config> for Connection {
    /// Sends appends as they come, up to [`PIPELINE_MAX`] ahead of their answers, and yields the answers in order.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Config>, RPCError<Config>>>, RPCError<Config>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + Send + Unpin + 'static,
    {
        let line = self.lines.line(self.node);
        let (order, in_order) = mpsc::channel::<oneshot::Receiver<Reply>>(PIPELINE_MAX);
        let head = self.frame(Body::Refused(String::new()));
        self.streams += 1;
        let stream = self.streams;
        let mut input = input;
        let (voters, fill, to) = (Arc::clone(&self.voters), self.lines.fill.clone(), self.to);
        let send = async move {
            while let Some(request) = input.next().await {
                let (reply, answer) = oneshot::channel();
                let mut frame = head.clone();
                frame.body = Some(Body::Append(Append { stream, ..codec::put_append(&request) }));
                // Nobody waits for one that does not vote yet.
                if !voters.load().contains(&to) {
                    fill.let_go(frame.encoded_len()).await;
                }
                if line.send(Outgoing { frame, reply }).await.is_err() || order.send(answer).await.is_err() {
                    return;
                }
            }
        };
        Box::pin(async move {
            // The sender runs by itself, so that answers that are slow to be read do not slow it.
            let sender = AbortOnDrop(tokio::spawn(send));
            let answers = futures::stream::unfold(Some((in_order, sender)), |state| async move {
                let (mut in_order, sender) = state?;
                let answer = in_order.recv().await?;
                let outcome = match timeout(APPEND_SILENCE_MAX, receive(answer)).await {
                    Ok(Ok(Body::AppendReply(reply))) => {
                        codec::get_append_reply(&reply).map_err(|error| malformed(&error))
                    }
                    Ok(Ok(_)) => Err(malformed(&codec::Malformed("answer to an append"))),
                    Ok(Err(error)) => Err(error),
                    Err(elapsed) => Err(unreachable(&elapsed)),
                };
                let go_on = matches!(outcome, Ok(Ok(_)));
                Some((outcome, go_on.then_some((in_order, sender))))
            });
            Ok(answers.boxed())
        })
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl NetVote<Config> for Connection {
    async fn vote(
        &mut self,
        request: VoteRequest<Config>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        let answer = self.ask(Body::Vote(codec::put_vote_request(&request)), option.soft_ttl()).await?;
        vote_reply(&answer)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Config>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        let answer = self.ask(Body::PreVote(codec::put_vote_request(&request)), option.soft_ttl()).await?;
        vote_reply(&answer)
    }
}

fn vote_reply(answer: &Body) -> Result<VoteResponse<Config>, RPCError<Config>> {
    match answer {
        Body::VoteReply(reply) => codec::get_vote_reply(reply).map_err(|error| malformed(&error)),
        _ => Err(malformed(&codec::Malformed("answer to a vote"))),
    }
}

impl NetTransferLeader<Config> for Connection {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Config>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Config>, RPCError<Config>> {
        let body = Body::TransferLeader(TransferLeader {
            from_leader: Some(codec::put_vote(request.from_leader())),
            last_log_id: request.last_log_id().map(codec::put_log_id),
            to: *request.to_node_id(),
        });
        match self.ask(body, option.soft_ttl()).await? {
            Body::TransferLeaderReply(reply) if reply.accepted => Ok(Ok(())),
            Body::TransferLeaderReply(_) => {
                Err(unreachable(&Refused("the target is not ready to lead".to_owned())))
            }
            _ => Err(malformed(&codec::Malformed("answer to a transfer"))),
        }
    }
}

impl NetSnapshot<Config> for Connection {
    type SnapshotData = Chunks;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<Config, Chunks>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let down =
            |error: &dyn std::fmt::Display| StreamingError::Unreachable(Unreachable::from_string(error));
        let address = self.lines.peers.address(self.node).ok_or_else(|| down(&Down))?;
        let channel = self.lines.peers.separate_channel(&address).map_err(|error| down(&error))?;
        let header = SnapshotHeader {
            group: self.group,
            from: self.from,
            to: self.to,
            vote: Some(codec::put_vote(&vote)),
            meta: Some(codec::put_snapshot_meta(&snapshot.meta)),
        };
        info!(group = self.group, to = self.to, "sending a snapshot");
        let mut client = ReplicationClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (paced, mut progress) = paced(header, snapshot.snapshot, self.lines.fill.clone());
        let sent = client.install_snapshot(paced);
        // However large it is, it may take its time; but not stand still.
        let stalled = async move {
            while let Ok(Ok(())) = timeout(SNAPSHOT_INSTALL_MAX, progress.changed()).await {}
            // The last chunk is out, or none was taken for a while: what remains is to install it.
            sleep(SNAPSHOT_INSTALL_MAX).await;
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            () = stalled => Err(down(&"the receiver of a snapshot does not go on")),
            outcome = sent => {
                let reply = outcome.map_err(|status| down(&status))?.into_inner();
                let vote = codec::get_vote(reply.vote.as_ref()).map_err(|error| down(&error))?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }
}

/// The chunks as a stream that keeps to the rate, and the count of those taken so far. A stream that ends without a
/// total is a snapshot that could not be read; the receiver drops it.
fn paced(
    header: SnapshotHeader,
    chunks: Chunks,
    fill: Pace,
) -> (impl Stream<Item = SnapshotChunk> + Send + 'static, watch::Receiver<u64>) {
    let (taken, progress) = watch::channel(0_u64);
    let (sender, receiver) = mpsc::channel(SNAPSHOT_CHUNKS_AHEAD);
    // Reading and encoding is work for another thread than the one that serves heartbeats; that thread is not held while
    // the receiver takes its time.
    tokio::spawn(async move {
        let mut chunks = chunks.read();
        loop {
            let read = tokio::task::spawn_blocking(move || {
                let chunk = chunks.next();
                (chunks, chunk)
            });
            let Ok((rest, chunk)) = read.await else { return };
            chunks = rest;
            let chunk = match chunk.transpose() {
                Ok(chunk) => chunk,
                Err(error) => {
                    warn!(%error, "a snapshot could not be read");
                    return;
                }
            };
            let is_end = chunk.is_none();
            // The receiver may have gone; then nobody misses the rest.
            if sender.send(chunk).await.is_err() || is_end {
                return;
            }
        }
    });
    let first = Some((receiver, taken, fill, Some(header)));
    let stream = futures::stream::unfold(first, move |state| async move {
        let (mut receiver, taken, fill, header) = state?;
        let Some(data) = receiver.recv().await? else {
            let total = *taken.borrow();
            return Some((SnapshotChunk { total_chunks: total, ..SnapshotChunk::default() }, None));
        };
        fill.let_go(data.len()).await;
        taken.send_modify(|count| *count += 1);
        let checksum = trimaran_storage::format::crc(&data);
        let message = SnapshotChunk { header, checksum, data, total_chunks: 0 };
        Some((message, Some((receiver, taken, fill, None))))
    });
    (stream, progress)
}
