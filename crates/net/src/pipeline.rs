//! Many calls on one stream: what is queued goes out as one message, answers come back as they are ready. An [`Exchange`]
//! (those there are: [`crate::exchange`]) says which calls; [`Pipeline`] is the end that asks, [`answer`] the end that answers.
//!
//! Measured: a unary gRPC call costs about 20 µs of a server's CPU, a call in a batched stream about 0.7 µs.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use crate::peers::Peers;

/// Calls that wait to be sent; more wait in their callers.
const OUTBOX_MAX: usize = 4096;

/// Calls, or answers, of one message.
const CALLS_MAX: usize = 1024;

/// Bytes of calls, or of answers, of one message, unless a single one is larger.
const MESSAGE_BYTES_AIM: usize = 2 << 20;

/// Messages between the link's task and the connection.
const MESSAGES_MAX: usize = 4;

/// Largest message taken.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Pause before a broken link is tried again.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// How long a node that does not know such streams is not asked for one again. It may be upgraded meanwhile.
const UNSUPPORTED_FOR: Duration = Duration::from_secs(5);

/// Bytes of the calls of one stream that are being answered; more wait in the stream.
const UNDER_WAY_BYTES_MAX: usize = 64 << 20;

/// What a call counts for among those at least: as many small ones are answered at once as that makes, 4,096.
const CALL_BYTES_LEAST: usize = 16 << 10;

/// Calls of one stream without an answer before those are forgotten whose callers have given up.
const PENDING_MAX: usize = 4 * OUTBOX_MAX;

/// Lets everybody go first who is ready to do something, who may have more for the same message. A task that is woken by the first
/// to queue something would otherwise run next, and take that alone. (Measured with three nodes on two processors, 64
/// clients: a sixth fewer writes to sockets, and 5 to 10 % more requests.)
pub async fn in_company() {
    tokio::task::yield_now().await;
}

/// What goes over a stream.
pub trait Exchange: Send + Sync + 'static {
    /// One call, with a number of its own.
    type Call: Message + Default + Send + 'static;
    /// Its answer, with the same number.
    type Answer: Message + Default + Send + 'static;
    /// Calls that travel together.
    type Calls: Send + 'static;
    /// Answers that travel together.
    type Answers: Send + 'static;

    /// Opens a stream to a node.
    fn open(
        channel: Channel,
        calls: ReceiverStream<Self::Calls>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Answers>>, Status>> + Send;

    /// Sets a call's number.
    fn number(call: &mut Self::Call, id: u64);

    /// An answer's number.
    fn number_of(answer: &Self::Answer) -> u64;

    /// A message of calls.
    fn calls(calls: Vec<Self::Call>) -> Self::Calls;

    /// The calls of a message.
    fn into_calls(calls: Self::Calls) -> Vec<Self::Call>;

    /// A message of answers.
    fn answers(answers: Vec<Self::Answer>) -> Self::Answers;

    /// The answers of a message.
    fn into_answers(answers: Self::Answers) -> Vec<Self::Answer>;
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// It may or may not have been carried out.
    #[error("the connection to the node is down")]
    Broken,
    /// It was not carried out: the node is of a release that knows only one call at a time.
    #[error("the node does not know streams of calls")]
    Unsupported,
}

type Reply<E> = Result<<E as Exchange>::Answer, Down>;

type Waiting<E> = (<E as Exchange>::Call, oneshot::Sender<Reply<E>>);

/// A stream of calls to one node. Clones share it; it connects when first used, and again when broken.
pub struct Pipeline<E: Exchange> {
    outbox: mpsc::Sender<Waiting<E>>,
}

impl<E: Exchange> Clone for Pipeline<E> {
    fn clone(&self) -> Self {
        Self { outbox: self.outbox.clone() }
    }
}

impl<E: Exchange> std::fmt::Debug for Pipeline<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").finish_non_exhaustive()
    }
}

impl<E: Exchange> Pipeline<E> {
    /// Over a channel.
    pub fn new(channel: Channel) -> Self {
        let (outbox, queue) = mpsc::channel(OUTBOX_MAX);
        tokio::spawn(run::<E>(channel, Outbox::new(queue, |(call, _)| call.encoded_len())));
        Self { outbox }
    }

    /// Sends one call and waits for its answer. The call's number is set here.
    pub async fn call(&self, call: E::Call) -> Result<E::Answer, Down> {
        let (reply, answer) = oneshot::channel();
        self.outbox.send((call, reply)).await.map_err(|_closed| Down::Broken)?;
        answer.await.map_err(|_closed| Down::Broken)?
    }
}

/// Streams of calls to other nodes, each made when first used, and anew when the node is known under another address.
pub struct Links<E: Exchange> {
    peers: Peers,
    links: Mutex<HashMap<u64, (String, Pipeline<E>)>>,
}

impl<E: Exchange> std::fmt::Debug for Links<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl<E: Exchange> Links<E> {
    /// To the nodes of an address book.
    pub fn new(peers: Peers) -> Self {
        Self { peers, links: Mutex::default() }
    }

    /// To this node, if its address is known.
    pub fn to(&self, node: u64) -> Option<Pipeline<E>> {
        let mut links = self.links.lock();
        if let Some((known, link)) = links.get(&node)
            && self.peers.is_at(node, known)
        {
            return Some(link.clone());
        }
        let address = self.peers.address(node)?;
        // A connection of its own, so that large snapshots and the like hold it up as little as possible.
        let link = Pipeline::new(self.peers.separate_channel(&address).ok()?);
        links.insert(node, (address, link.clone()));
        Some(link)
    }
}

/// What is queued for a stream, taken as it travels together.
struct Outbox<T> {
    queue: mpsc::Receiver<T>,
    /// Bytes of one.
    bytes: fn(&T) -> usize,
    /// One that had no room in the message before.
    held: Option<T>,
}

impl<T> Outbox<T> {
    fn new(queue: mpsc::Receiver<T>, bytes: fn(&T) -> usize) -> Self {
        Self { queue, bytes, held: None }
    }

    /// What goes out together, at least one; `None` when nobody can queue any more.
    async fn next(&mut self) -> Option<Vec<T>> {
        let first = match self.held.take() {
            Some(held) => held,
            None => {
                let first = self.queue.recv().await?;
                in_company().await;
                first
            }
        };
        let mut bytes = (self.bytes)(&first);
        let mut batch = vec![first];
        while batch.len() < CALLS_MAX {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes += (self.bytes)(&next);
            if bytes > MESSAGE_BYTES_AIM {
                self.held = Some(next);
                break;
            }
            batch.push(next);
        }
        Some(batch)
    }
}

fn refuse<E: Exchange>(batch: Vec<Waiting<E>>, down: Down) {
    for (_, reply) in batch {
        // The caller may have given up.
        let _gone = reply.send(Err(down));
    }
}

async fn run<E: Exchange>(channel: Channel, mut outbox: Outbox<Waiting<E>>) {
    let mut next_id = 0;
    while let Some(first) = outbox.next().await {
        let mut batch = Some(first);
        let (messages, connection) = mpsc::channel(MESSAGES_MAX);
        let pending: Arc<Mutex<HashMap<u64, oneshot::Sender<Reply<E>>>>> = Arc::default();
        let opened = E::open(channel.clone(), ReceiverStream::new(connection));
        let listen = {
            let pending = Arc::clone(&pending);
            async move {
                let mut inbound = opened.await?.into_inner();
                while let Some(message) = inbound.message().await? {
                    let mut pending = pending.lock();
                    for answer in E::into_answers(message) {
                        if let Some(reply) = pending.remove(&E::number_of(&answer)) {
                            let _gone = reply.send(Ok(answer));
                        }
                    }
                }
                Ok::<(), Status>(())
            }
        };
        let speak = async {
            loop {
                let Some(waiting) = batch.take() else {
                    batch = outbox.next().await;
                    if batch.is_none() {
                        return false;
                    }
                    continue;
                };
                let mut calls = Vec::with_capacity(waiting.len());
                {
                    let mut pending = pending.lock();
                    if pending.len() >= PENDING_MAX {
                        pending.retain(|_, reply| !reply.is_closed());
                    }
                    for (mut call, reply) in waiting {
                        next_id += 1;
                        E::number(&mut call, next_id);
                        pending.insert(next_id, reply);
                        calls.push(call);
                    }
                }
                if messages.send(E::calls(calls)).await.is_err() {
                    return true;
                }
            }
        };
        let down = tokio::select! {
            ended = listen => match ended {
                Err(status) if status.code() == Code::Unimplemented => Some(Down::Unsupported),
                _ => Some(Down::Broken),
            },
            broken = speak => broken.then_some(Down::Broken),
        };
        for (_, reply) in pending.lock().drain() {
            let _gone = reply.send(Err(down.unwrap_or(Down::Broken)));
        }
        refuse::<E>(batch.take().unwrap_or_default(), down.unwrap_or(Down::Broken));
        match down {
            None => return,
            Some(Down::Broken) => tokio::time::sleep(RECONNECT_AFTER).await,
            Some(Down::Unsupported) => {
                let until = Instant::now() + UNSUPPORTED_FOR;
                while let Ok(batch) = timeout_at(until, outbox.next()).await {
                    let Some(batch) = batch else { return };
                    refuse::<E>(batch, Down::Unsupported);
                }
            }
        }
    }
}

/// Answers the calls of a stream, each as soon as it can be, until the stream or `stop`.
pub fn answer<E: Exchange, F>(
    mut inbound: Streaming<E::Calls>,
    stop: CancellationToken,
    answer: impl Fn(E::Call) -> F + Clone + Send + Sync + 'static,
) -> impl Stream<Item = Result<E::Answers, Status>> + Send
where
    F: Future<Output = E::Answer> + Send + 'static,
{
    let (ready, answers) = mpsc::channel(CALLS_MAX);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(UNDER_WAY_BYTES_MAX));
        loop {
            // Ends with the stream, whatever ended it: who asked notices by itself.
            let message = tokio::select! {
                message = inbound.message() => message,
                () = stop.cancelled() => return,
            };
            let Ok(Some(message)) = message else { return };
            let calls = E::into_calls(message);
            let bytes: usize = calls.iter().map(|call| call.encoded_len().max(CALL_BYTES_LEAST)).sum();
            // At most 2²⁶; a message that is larger than all that may be under way is so alone.
            let bytes = bytes.min(UNDER_WAY_BYTES_MAX) as u32;
            let Ok(place) = Arc::clone(&places).acquire_many_owned(bytes).await else { return };
            let mut answered: FuturesUnordered<F> = calls.into_iter().map(&answer).collect();
            let ready = ready.clone();
            tokio::spawn(async move {
                while let Some(answer) = answered.next().await {
                    if ready.send(answer).await.is_err() {
                        return;
                    }
                }
                drop(place);
            });
        }
    });
    futures::stream::unfold(Outbox::new(answers, E::Answer::encoded_len), |mut answers| async move {
        let batch = answers.next().await?;
        Some((Ok(E::answers(batch)), answers))
    })
}

#[cfg(test)]
mod tests;
