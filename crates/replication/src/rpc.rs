//! The receiving end of the lines: hands frames to the groups they are for and sends the answers back, batched.
//!
//! Appends of one sender keep their order and are pipelined into openraft; heartbeats and votes overtake them.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::raft::{StreamAppendError, TransferLeaderRequest};
use openraft::storage::Snapshot;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trimaran_net::pipeline::in_company;
use trimaran_proto::internal::replication::frame::Body;
use trimaran_proto::internal::replication::replication_server::{Replication, ReplicationServer};
use trimaran_proto::internal::replication::{
    BeatReply, Frame, Frames, SleepReply, SnapshotChunk, SnapshotHeader, SnapshotReply, TransferLeaderReply,
    VoteReply, Woken,
};

use crate::apply::Applier;
use crate::codec::{self, Malformed};
use crate::group::Group;
use crate::groups::Groups;
use crate::hibernation::Sleeper;
use crate::machine::Machine;
use crate::network::{MESSAGE_BYTES_MAX, SNAPSHOT_INSTALL_MAX};
use crate::snapshot::{Chunks, Origin, Store, Writer};
use crate::types::{Config, SnapshotMeta, Vote};

/// Answers that wait to be sent on a line.
const ANSWERS_MAX: usize = 4096;

/// Frames of one message.
const FRAMES_MAX: usize = 512;

/// Appends of one sender that wait for one group.
const APPENDS_MAX: usize = 64;

/// What a sender of a snapshot that is silent for this long has sent is thrown away. As patient as senders are: theirs
/// share one rate with all others of their nodes.
const SNAPSHOT_SILENCE_MAX: Duration = SNAPSHOT_INSTALL_MAX;

/// A group of whatever machine, as the lines see it.
pub(crate) trait Inbound: Send + Sync {
    fn replica(&self) -> u64;
    fn sleeper(&self) -> &dyn Sleeper;
    fn append(&self, frame: Frame, session: &mut Option<Appends>, answers: &mpsc::Sender<Frame>);
    fn ask(self: Arc<Self>, frame: Frame) -> Pin<Box<dyn Future<Output = Frame> + Send>>;
    /// Makes room for a snapshot; one at a time. The newest attempt of the newest leader counts: who sends again has given
    /// its attempt before up, even where nobody has heard of that.
    fn receive(
        self: Arc<Self>,
        header: SnapshotHeader,
    ) -> Pin<Box<dyn Future<Output = Result<Receiving, Status>> + Send>>;
    fn install(
        self: Arc<Self>,
        received: Receiving,
    ) -> Pin<Box<dyn Future<Output = Result<SnapshotReply, Status>> + Send>>;
}

/// A snapshot on its way in.
pub(crate) struct Receiving {
    vote: Vote,
    meta: SnapshotMeta,
    chunks: u64,
    room: Room,
    /// Becomes true when another attempt takes its place.
    superseded: watch::Receiver<bool>,
    /// Two of them must not write into one file.
    _only: OwnedMutexGuard<()>,
}

/// The attempt to send a snapshot that counts now, and how it is told that it does not any more.
pub(crate) struct Attempt {
    vote: Vote,
    superseded: watch::Sender<bool>,
}

enum Room {
    Memory(Vec<Bytes>),
    File(Writer),
}

impl Receiving {
    fn chunk(&mut self, chunk: Bytes) -> std::io::Result<()> {
        self.chunks += 1;
        match &mut self.room {
            Room::Memory(chunks) => {
                chunks.push(chunk);
                Ok(())
            }
            Room::File(writer) => writer.chunk(&chunk),
        }
    }
}

/// Appends on their way from one sender into one group.
pub(crate) struct Appends {
    stream: u64,
    input: mpsc::Sender<Frame>,
}

/// The replica of a group on this node.
pub(crate) struct Local<M: Machine> {
    pub(crate) group: Group<M>,
    pub(crate) store: Option<Store>,
    pub(crate) receiving: Arc<Mutex<()>>,
    pub(crate) attempt: parking_lot::Mutex<Option<Attempt>>,
}

fn answer(frame: &Frame, body: Body) -> Frame {
    Frame {
        call: frame.call,
        group: frame.group,
        from: frame.to,
        to: frame.from,
        heartbeat: frame.heartbeat,
        body: Some(body),
    }
}

fn refused(frame: &Frame, reason: impl std::fmt::Display) -> Frame {
    answer(frame, Body::Refused(reason.to_string()))
}

impl<M: Machine> Inbound for Local<M> {
    fn replica(&self) -> u64 {
        self.group.replica()
    }

    fn sleeper(&self) -> &dyn Sleeper {
        &self.group
    }

    fn append(&self, frame: Frame, session: &mut Option<Appends>, answers: &mpsc::Sender<Frame>) {
        let stream = match &frame.body {
            Some(Body::Append(append)) => append.stream,
            _ => 0,
        };
        let appends = match session {
            Some(appends) if appends.stream == stream => appends,
            // The sender gave the stream before up, or it was refused; what is left of it nobody waits for.
            _ => {
                let (input, frames) = mpsc::channel(APPENDS_MAX);
                tokio::spawn(run_appends(self.group.inner.raft.clone(), frames, answers.clone()));
                session.insert(Appends { stream, input })
            }
        };
        match appends.input.try_send(frame) {
            // Closed: the stream was refused, and its sender knows.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(frame)) => {
                // The sender keeps fewer on their way than fit.
                let reply = refused(&frame, "too many appends are waiting");
                let answers = answers.clone();
                tokio::spawn(async move { answers.send(reply).await });
            }
        }
    }

    fn ask(self: Arc<Self>, frame: Frame) -> Pin<Box<dyn Future<Output = Frame> + Send>> {
        Box::pin(async move {
            let raft = &self.group.inner.raft;
            let answered = match &frame.body {
                Some(Body::Append(append)) => self.heartbeat(append.clone()).await,
                Some(Body::Vote(request)) => match codec::get_vote_request(request) {
                    Ok(request) => {
                        raft.vote(request).await.map(|reply| vote(&reply)).map_err(|e| e.to_string())
                    }
                    Err(malformed) => Err(malformed.to_string()),
                },
                Some(Body::PreVote(_)) if self.group.is_listening() => {
                    Err("it slept, and gives its leader time to say something".to_owned())
                }
                Some(Body::Sleep(sleep)) => {
                    Ok(Body::SleepReply(SleepReply { accepted: self.group.agree_to_sleep(sleep) }))
                }
                // It was woken before this was looked at.
                Some(Body::Wake(_)) => Ok(Body::Woken(Woken {})),
                Some(Body::PreVote(request)) => match codec::get_vote_request(request) {
                    Ok(request) => {
                        raft.pre_vote(request).await.map(|reply| vote(&reply)).map_err(|e| e.to_string())
                    }
                    Err(malformed) => Err(malformed.to_string()),
                },
                Some(Body::TransferLeader(request)) => match codec::get_vote(request.from_leader.as_ref()) {
                    Ok(from) => {
                        let last = request.last_log_id.as_ref().map(codec::get_log_id);
                        // All voters are told. Would each take itself for the heir, they would share the votes.
                        let to = if request.to == 0 { self.replica() } else { request.to };
                        if to == self.replica() {
                            *self.group.inner.given.lock() = Some((frame.from, Instant::now()));
                        }
                        let request = TransferLeaderRequest::new(from, to, last);
                        let outcome = raft.handle_transfer_leader(request).await;
                        outcome
                            .map(|accepted| {
                                Body::TransferLeaderReply(TransferLeaderReply { accepted: accepted.is_ok() })
                            })
                            .map_err(|e| e.to_string())
                    }
                    Err(malformed) => Err(malformed.to_string()),
                },
                _ => Err("a frame that is no question".to_owned()),
            };
            match answered {
                Ok(body) => answer(&frame, body),
                Err(reason) => refused(&frame, reason),
            }
        })
    }

    fn receive(
        self: Arc<Self>,
        header: SnapshotHeader,
    ) -> Pin<Box<dyn Future<Output = Result<Receiving, Status>> + Send>> {
        Box::pin(async move {
            let bad = |error: Malformed| Status::invalid_argument(error.to_string());
            let vote = codec::get_vote(header.vote.as_ref()).map_err(bad)?;
            let meta = header.meta.as_ref().ok_or_else(|| bad(Malformed("meta of a snapshot")))?;
            let meta = codec::get_snapshot_meta(meta).map_err(bad)?;
            let superseded = {
                let mut attempt = self.attempt.lock();
                // One that has ended has nobody who listens.
                let counts = |held: &&Attempt| held.superseded.receiver_count() > 0;
                if attempt.as_ref().filter(counts).is_some_and(|held| held.vote > vote) {
                    return Err(Status::unavailable("a newer leader is sending a snapshot"));
                }
                let (sender, receiver) = watch::channel(false);
                if let Some(before) = attempt.replace(Attempt { vote, superseded: sender }) {
                    before.superseded.send_replace(true);
                }
                receiver
            };
            let only = Arc::clone(&self.receiving).lock_owned().await;
            if *superseded.borrow() {
                return Err(another_counts());
            }
            let room = match &self.store {
                Some(store) => {
                    Room::File(store.write(self.group.id(), Origin::Received, &meta).map_err(unwritable)?)
                }
                None => Room::Memory(Vec::new()),
            };
            Ok(Receiving { vote, meta, chunks: 0, room, superseded, _only: only })
        })
    }

    fn install(
        self: Arc<Self>,
        received: Receiving,
    ) -> Pin<Box<dyn Future<Output = Result<SnapshotReply, Status>> + Send>> {
        Box::pin(async move {
            let chunks = match received.room {
                Room::Memory(chunks) => Chunks::Whole(Arc::new(chunks)),
                Room::File(writer) => {
                    let finished = tokio::task::spawn_blocking(move || writer.finish()).await;
                    let finished = finished.map_err(std::io::Error::other).and_then(|finished| finished);
                    Chunks::File(finished.map_err(unwritable)?)
                }
            };
            let snapshot = Snapshot { meta: received.meta, snapshot: chunks };
            let reply = self
                .group
                .inner
                .raft
                .install_full_snapshot(received.vote, snapshot)
                .await
                .map_err(|fatal| Status::internal(fatal.to_string()))?;
            Ok(SnapshotReply { vote: Some(codec::put_vote(&reply.vote)) })
        })
    }
}

fn another_counts() -> Status {
    Status::aborted("another attempt to send the snapshot has begun")
}

fn unwritable(error: std::io::Error) -> Status {
    Status::internal(format!("the snapshot cannot be written: {error}"))
}

impl<M: Machine> Local<M> {
    async fn heartbeat(&self, append: trimaran_proto::internal::replication::Append) -> Result<Body, String> {
        let request = codec::get_append(append).map_err(|malformed| malformed.to_string())?;
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let reply = self.group.inner.raft.append_entries(request).await.map_err(|error| error.to_string())?;
        if reply.is_conflict() && prev.is_none() {
            return Err("a conflict at nothing".to_owned());
        }
        Ok(Body::AppendReply(codec::put_append_reply(&reply.into_stream_result(prev, last))))
    }
}

fn vote(reply: &openraft::raft::VoteResponse<Config>) -> Body {
    let reply: VoteReply = codec::put_vote_reply(reply);
    Body::VoteReply(reply)
}

/// Feeds appends into openraft in order and answers them in order, until one is refused.
async fn run_appends<M: Machine>(
    raft: openraft::Raft<Config, Applier<M>>,
    frames: mpsc::Receiver<Frame>,
    answers: mpsc::Sender<Frame>,
) {
    let waiting: Arc<parking_lot::Mutex<VecDeque<Frame>>> = Arc::default();
    let input = {
        let waiting = Arc::clone(&waiting);
        ReceiverStream::new(frames).filter_map(move |mut frame| {
            let request = match frame.body.take() {
                Some(Body::Append(append)) => codec::get_append(append).ok(),
                _ => None,
            };
            // A malformed append gets no answer in order; the sender's patience ends its stream.
            if request.is_some() {
                waiting.lock().push_back(frame);
            }
            futures::future::ready(request)
        })
    };
    let mut results = Box::pin(raft.stream_append(input));
    while let Some(result) = results.next().await {
        let Some(frame) = waiting.lock().pop_front() else { return };
        let (reply, go_on) = match result {
            Ok(result) => {
                let go_on =
                    !matches!(result, Err(StreamAppendError::Conflict(_) | StreamAppendError::HigherVote(_)));
                (answer(&frame, Body::AppendReply(codec::put_append_reply(&result))), go_on)
            }
            Err(fatal) => (refused(&frame, fatal), false),
        };
        if answers.send(reply).await.is_err() || !go_on {
            break;
        }
    }
}

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct Service {
    groups: Groups,
}

/// The service that other nodes' lines end in.
pub(crate) fn service(groups: Groups) -> ReplicationServer<Service> {
    ReplicationServer::new(Service { groups })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

#[tonic::async_trait]
impl Replication for Service {
    type LineStream = Pin<Box<dyn Stream<Item = Result<Frames, Status>> + Send>>;

    async fn line(&self, request: Request<Streaming<Frames>>) -> Result<Response<Self::LineStream>, Status> {
        let mut inbound = request.into_inner();
        let (answers, mut ready) = mpsc::channel::<Frame>(ANSWERS_MAX);
        let groups = self.groups.clone();
        tokio::spawn(async move {
            let mut sessions: HashMap<(u64, u64), Option<Appends>> = HashMap::new();
            // Ends with the stream, whatever ended it: the sender notices by itself.
            loop {
                let frames = tokio::select! {
                    message = inbound.message() => match message {
                        Ok(Some(frames)) => frames,
                        Ok(None) | Err(_) => return,
                    },
                    () = groups.left() => return,
                };
                for frame in frames.frames {
                    if matches!(frame.body, Some(Body::Beat(_))) {
                        let reply = answer(&frame, Body::BeatReply(BeatReply { boot: groups.boot() }));
                        if answers.send(reply).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    let Some(group) = groups.inbound(frame.group).filter(|group| group.replica() == frame.to)
                    else {
                        let reply = refused(&frame, "this node does not hold the replica");
                        if answers.send(reply).await.is_err() {
                            return;
                        }
                        continue;
                    };
                    if !matches!(frame.body, Some(Body::Sleep(_))) {
                        group.sleeper().hears();
                    }
                    if matches!(frame.body, Some(Body::Append(_))) && !frame.heartbeat {
                        group.append(
                            frame.clone(),
                            sessions.entry((frame.group, frame.from)).or_default(),
                            &answers,
                        );
                    } else {
                        let answers = answers.clone();
                        tokio::spawn(async move { answers.send(group.ask(frame).await).await });
                    }
                }
            }
        });
        let outbound = async_stream(async move |yielder: mpsc::Sender<Result<Frames, Status>>| {
            let mut frames = Vec::new();
            while let Some(first) = ready.recv().await {
                in_company().await;
                frames.push(first);
                while frames.len() < FRAMES_MAX
                    && let Ok(next) = ready.try_recv()
                {
                    frames.push(next);
                }
                let batch = std::mem::take(&mut frames);
                if yielder.send(Ok(Frames { frames: batch })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(outbound)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<SnapshotReply>, Status> {
        let mut stream = request.into_inner();
        let first =
            stream.message().await?.ok_or_else(|| Status::data_loss("no chunk of the snapshot came"))?;
        let header =
            first.header.clone().ok_or_else(|| Status::invalid_argument("a snapshot without a header"))?;
        let group = self
            .groups
            .inbound(header.group)
            .filter(|group| group.replica() == header.to)
            .ok_or_else(|| Status::not_found("this node does not hold the replica"))?;
        group.sleeper().hears();
        let mut receiving = Arc::clone(&group).receive(header).await?;
        let mut superseded = receiving.superseded.clone();
        let mut next = Some(first);
        while let Some(chunk) = next {
            let count = receiving.chunks;
            if chunk.total_chunks == count && count > 0 {
                return group.install(receiving).await.map(Response::new);
            }
            if chunk.total_chunks != 0 {
                let total = chunk.total_chunks;
                return Err(Status::data_loss(format!("{count} of {total} chunks of the snapshot came")));
            }
            if trimaran_storage::format::crc(&chunk.data) != chunk.checksum {
                return Err(Status::data_loss(format!("chunk {count} of the snapshot is damaged")));
            }
            receiving.chunk(chunk.data).map_err(unwritable)?;
            let silent = |_elapsed| Status::deadline_exceeded("the sender of the snapshot is silent");
            next = tokio::select! {
                _ = superseded.wait_for(|superseded| *superseded) => return Err(another_counts()),
                message = timeout(SNAPSHOT_SILENCE_MAX, stream.message()) => message.map_err(silent)??,
            };
        }
        Err(Status::data_loss("the snapshot was cut off"))
    }
}

/// A stream fed by a task.
fn async_stream<T: Send + 'static, F>(feed: impl FnOnce(mpsc::Sender<T>) -> F) -> ReceiverStream<T>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(feed(sender));
    ReceiverStream::new(receiver)
}
