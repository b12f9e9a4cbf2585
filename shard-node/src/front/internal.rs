//! What other shard-nodes ask of this one as the leader of a partition.

use tonic::{Request, Response, Status};
use trimaran_net::status::status;
use trimaran_proto::internal::shard as wire;
use trimaran_proto::internal::shard::shard_server::{Shard, ShardServer};

use crate::limits::MESSAGE_BYTES_MAX;
use crate::router::Router;
use crate::verify;

struct Service(Router);

/// The gRPC service.
pub(crate) fn service(router: Router) -> ShardServer<impl Shard> {
    ShardServer::new(Service(router))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
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

    async fn checksum(
        &self,
        request: Request<wire::ChecksumRequest>,
    ) -> Result<Response<wire::ChecksumReply>, Status> {
        let wire::ChecksumRequest { partition, id } = request.into_inner();
        let found = verify::here(&self.0, partition, &id).await;
        found.map(Response::new).map_err(|error| status(&error))
    }
}
