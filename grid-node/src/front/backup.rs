//! The keys of a grid out of it, partition by partition, and in again.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use trimaran_net::status::status;
use trimaran_placement::token::{self, Token};
use trimaran_proto::api::backup::backup_server::{Backup, BackupServer};
use trimaran_proto::api::backup::{ExportChunk, ExportRequest, ImportReply, ImportRequest};
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{Command, Item, Load, Reply, SnapshotChunk, SnapshotHead};
use trimaran_replication::error::Stop;
use trimaran_replication::group::Consistency;
use trimaran_replication::machine::{Machine as _, SnapshotChunks};
use trimaran_replication::session::RequestId;

use super::check_length;
use super::grpc::{request_id, respond};
use crate::command::table::LOAD_FORMAT;
use crate::error::Error;
use crate::limits::{EXPORTS_MAX, IMPORT_BYTES_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX, UNREAD_EXPORT_MAX};
use crate::machine::GridMachine;
use crate::namespaces::Namespaces;
use crate::router::{Router, Write, token_of};

/// Chunks that wait to be read.
const CHUNKS_WAITING_MAX: usize = 2;

/// The service over a router. Streams end when `stop` is cancelled.
pub fn service(router: Router, namespaces: Namespaces, stop: CancellationToken) -> BackupServer<impl Backup> {
    BackupServer::new(Service { router, namespaces, exports: Arc::new(Semaphore::new(EXPORTS_MAX)), stop })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

#[derive(Clone)]
struct Service {
    router: Router,
    namespaces: Namespaces,
    exports: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Service {
    /// What the leader has, as it is now; nothing that was acknowledged before is missing.
    async fn snapshot(&self, token: Token) -> Result<SnapshotChunks, Error> {
        let partition = self.router.partition_at(token)?;
        let group = self.router.replica(partition.id)?;
        group.barrier(Consistency::Linearizable).await?;
        let taken = group.read_now(|machine| {
            let (first, last) = machine.keys().range();
            let is_here = (first..=last).contains(&token) && !machine.is_elsewhere();
            is_here.then(|| GridMachine::snapshot(machine))
        });
        // It is split or merged just now.
        taken.ok_or(Error::NotReady)
    }

    /// What every partition is told, one after the other: whoever is split off meanwhile has heard of it.
    async fn tell_all(&self, head: SnapshotHead, replace: bool, id: RequestId) -> Result<ImportReply, Error> {
        let mut token = Token(0);
        // They all have the same libraries.
        let mut left_out = BTreeSet::new();
        for at in 0.. {
            let load = Load {
                replace,
                least_version: head.version,
                token: token.0,
                libraries: head.libraries.clone(),
                ..Load::default()
            };
            let reply = self.router.write_one(write(token, load), Some(id.following(at))).await?;
            left_out.extend(reply.loaded.unwrap_or_default().left_out);
            match reply.last_token.and_then(|last| last.checked_add(1)) {
                Some(next) => token = Token(next),
                None => break,
            }
        }
        Ok(ImportReply { left_out: left_out.into_iter().collect(), ..ImportReply::default() })
    }

    async fn import(&self, request: ImportRequest, id: Option<RequestId>) -> Result<ImportReply, Error> {
        if self.router.format() < LOAD_FORMAT {
            return Err(Error::NotKnownYet);
        }
        let id = id.ok_or(Error::Invalid {
            field: "trimaran-request-id",
            reason: "an import needs one: it is only safe to send again under the same",
        })?;
        let ImportRequest { chunk, replace, after_version } = request;
        check_length("chunk", "IMPORT_BYTES_MAX", chunk.len(), IMPORT_BYTES_MAX)?;
        let chunk = SnapshotChunk::decode(chunk)
            .map_err(|_bad| Error::Invalid { field: "chunk", reason: "it is no chunk of an export" })?;
        if let Some(head) = chunk.head {
            return self.tell_all(head, replace, id).await;
        }
        // Redis has an empty key, where gRPC has none.
        chunk
            .items
            .iter()
            .try_for_each(|item| check_length("key", "KEY_BYTES_MAX", item.key.len(), KEY_BYTES_MAX))?;
        self.namespaces.must_have_room(chunk.items.iter().map(|item| &item.key[..]))?;
        let mut after_version = after_version;
        let writes = by_slot(chunk.items).into_iter().map(|(token, items)| {
            write(token, Load { items, replace, after_version: after_version.take(), ..Load::default() })
        });
        let replies = self.router.write(writes.collect(), Some(id)).await;
        replies.into_iter().try_fold(ImportReply::default(), |mut sum, reply| {
            let reply = imported(reply?)?;
            let loaded = reply.loaded.unwrap_or_default();
            sum.restored += u64::from(loaded.restored);
            sum.kept += u64::from(loaded.kept);
            sum.expired += u64::from(loaded.expired);
            sum.version = reply.version;
            Ok(sum)
        })
    }
}

fn write(token: Token, load: Load) -> Write {
    let command = Command { body: Some(Body::Load(load)), ..Command::default() };
    Write { tokens: (token, token), command: command.encode_to_vec().into() }
}

fn imported(reply: Reply) -> Result<Reply, Error> {
    match reply.outcome() {
        Outcome::Malformed => Err(Error::Malformed),
        Outcome::ConditionFailed => Err(Error::ChangedMeanwhile),
        _ => Ok(reply),
    }
}

/// Items that follow each other in one slot, which is never split. They come in the order of slots, so these are few.
fn by_slot(items: Vec<Item>) -> Vec<(Token, Vec<Item>)> {
    let mut by_slot: Vec<(Token, Vec<Item>)> = Vec::new();
    for item in items {
        let token = token_of(&item.key);
        match by_slot.last_mut() {
            Some((last, items)) if *last == token => items.push(item),
            _ => by_slot.push((token, vec![item])),
        }
    }
    by_slot
}

/// Sends chunks as they are read. Ends with the reader, or without it if it reads nothing for long.
async fn send(
    mut chunks: SnapshotChunks,
    chunk: mpsc::Sender<Result<ExportChunk, Status>>,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    loop {
        // To encode a chunk takes a millisecond or more, in which others are to be served.
        let next = tokio::task::spawn_blocking(move || (chunks.next(), chunks)).await;
        let Ok((next, rest)) = next else { return };
        chunks = rest;
        let next: Option<Result<Bytes, Stop>> = next;
        let is_last = next.is_none();
        let next = next
            .unwrap_or_else(|| Ok(Bytes::new()))
            .map(|chunk| ExportChunk { chunk, is_last })
            .map_err(|stopped| Status::internal(stopped.to_string()));
        let is_broken = next.is_err();
        let sent = timeout(UNREAD_EXPORT_MAX, chunk.send(next));
        match stop.run_until_cancelled(sent).await {
            Some(Ok(Ok(()))) if !is_last && !is_broken => {}
            _ => return,
        }
    }
}

#[tonic::async_trait]
impl Backup for Service {
    type ExportStream = Pin<Box<dyn Stream<Item = Result<ExportChunk, Status>> + Send>>;

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let token = Token(request.into_inner().token);
        // A slot is never in two partitions.
        let token = token::slot_start(token::slot_of(token));
        let permit = Arc::clone(&self.exports).acquire_owned().await;
        let permit = permit.map_err(|_closed| status(&Error::NotReady))?;
        let snapshot = self.snapshot(token).await;
        respond(snapshot.map(|chunks| {
            let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
            tokio::spawn(send(chunks, sender, self.stop.clone(), permit));
            ReceiverStream::new(receiver).boxed() as Self::ExportStream
        }))
    }

    async fn import(&self, request: Request<ImportRequest>) -> Result<Response<ImportReply>, Status> {
        let id = request_id(&request)?;
        respond(Service::import(self, request.into_inner(), id).await)
    }
}
