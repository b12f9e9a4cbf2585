//! What other shard-nodes ask of this one as the leader of a partition.

use std::pin::Pin;

use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use trimaran_net::exchange::ShardCalls;
use trimaran_net::pipeline;
use trimaran_net::status::{failure, status};
use trimaran_proto::internal::shard as wire;
use trimaran_proto::internal::shard::answer::Body as Answered;
use trimaran_proto::internal::shard::ask::Body as Asked;
use trimaran_proto::internal::shard::shard_server::{Shard, ShardServer};

use crate::error::Invalid;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::op::hot_keys;
use crate::router::Router;
use crate::verify;

/// Answers that would go on end when the node does.
struct Service(Router, CancellationToken);

/// The gRPC service.
pub(crate) fn service(router: Router, stop: CancellationToken) -> ShardServer<impl Shard> {
    ShardServer::new(Service(router, stop))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

async fn answer(router: Router, ask: wire::Ask) -> wire::Answer {
    let answered = match ask.body {
        Some(Asked::Write(write)) => router.forwarded_write(write).await.map(Answered::Write),
        Some(Asked::Read(read)) => router.forwarded_read(read).await.map(Answered::Read),
        None => Err(Invalid::new("a question of a newer release; upgrade this node").into()),
    };
    let body = answered.unwrap_or_else(|error| Answered::Failure(failure(&status(&error))));
    wire::Answer { id: ask.id, body: Some(body) }
}

#[tonic::async_trait]
impl Shard for Service {
    async fn write(
        &self,
        request: Request<wire::WriteRequest>,
    ) -> Result<Response<wire::WriteReply>, Status> {
        let written = self.0.forwarded_write(request.into_inner()).await;
        written.map(Response::new).map_err(|error| status(&error))
    }

    async fn read(&self, request: Request<wire::ReadRequest>) -> Result<Response<wire::ReadReply>, Status> {
        let read = self.0.forwarded_read(request.into_inner()).await;
        read.map(Response::new).map_err(|error| status(&error))
    }

    type LineStream = Pin<Box<dyn Stream<Item = Result<wire::Answers, Status>> + Send>>;

    async fn line(
        &self,
        request: Request<Streaming<wire::Asks>>,
    ) -> Result<Response<Self::LineStream>, Status> {
        let router = self.0.clone();
        let answer = move |ask| answer(router.clone(), ask);
        let answers = pipeline::answer::<ShardCalls, _>(request.into_inner(), self.1.clone(), answer);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn hot(&self, request: Request<wire::HotRequest>) -> Result<Response<wire::HotReply>, Status> {
        Ok(Response::new(hot_keys::here(&self.0, request.into_inner().table)))
    }

    async fn checksum(
        &self,
        request: Request<wire::ChecksumRequest>,
    ) -> Result<Response<wire::ChecksumReply>, Status> {
        let wire::ChecksumRequest { partition, id } = request.into_inner();
        let found = verify::here(&self.0, partition, &id).await;
        found.map(Response::new).map_err(|error| status(&error))
    }
}
