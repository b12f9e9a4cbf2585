//! Namespaces over gRPC: their quotas are definitions that the cluster agrees on.

use prost::Message as _;
use tonic::{Request, Response, Status};
use trimaran_cluster::member::Defined;
use trimaran_proto::api::namespaces::namespaces_server::{Namespaces as Rpc, NamespacesServer};
use trimaran_proto::api::namespaces::{
    DeleteReply, DeleteRequest, ListReply, ListRequest, Namespace, PutReply, PutRequest, Quotas,
};
use trimaran_proto::state::grid as state;

use super::check_length;
use super::grpc::respond;
use crate::command::table::NAMESPACES_FORMAT;
use crate::data::tally::NAMESPACE_BYTES_MAX;
use crate::error::Error;
use crate::limits::{NAMESPACES_MAX, REQUEST_TIMEOUT};
use crate::namespaces::{Described, Namespaces};
use crate::router::Router;

/// The service over what a node knows of them.
pub fn service(router: Router, namespaces: Namespaces) -> NamespacesServer<impl Rpc> {
    NamespacesServer::new(Service { router, namespaces })
}

#[derive(Clone)]
struct Service {
    router: Router,
    namespaces: Namespaces,
}

impl Service {
    /// Has the cluster agree on something else, whatever it was before. False if there was nothing to be removed.
    async fn define(&self, name: &str, quotas: Option<state::Quotas>) -> Result<bool, Error> {
        check_name(name)?;
        if self.router.format() < NAMESPACES_FORMAT {
            return Err(Error::NotKnownYet);
        }
        let definition = Namespaces::definition(name);
        let value = quotas.map(|quotas| quotas.encode_to_vec().into());
        let cluster = self.router.cluster();
        let meta = cluster.meta();
        let mut revision = meta.borrow().definitions.get(&definition).map_or(0, |held| held.revision);
        loop {
            if value.is_none() && revision == 0 {
                return Ok(false);
            }
            let defined = cluster.define_within(&definition, value.clone(), revision, REQUEST_TIMEOUT).await;
            match defined.map_err(|error| Error::NotAgreed(error.to_string()))? {
                Defined::Done(_) => break,
                // Somebody was faster, or it was itself with an attempt whose answer was lost: it has the last word.
                Defined::Changed(now) => revision = now,
            }
        }
        self.namespaces.heard(&meta.borrow());
        Ok(true)
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    check_length("name", "NAMESPACE_BYTES_MAX", name.len(), NAMESPACE_BYTES_MAX)?;
    let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_one) {
        let reason = "it must be letters, digits, '_', '-' and '.'";
        return Err(Error::Invalid { field: "name", reason });
    }
    Ok(())
}

#[tonic::async_trait]
impl Rpc for Service {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutReply>, Status> {
        let PutRequest { name, quotas } = request.into_inner();
        let Quotas { memory_bytes, operations } = quotas.unwrap_or_default();
        let put = async {
            let is_zero = |quota: Option<u64>| quota == Some(0);
            if is_zero(memory_bytes) || is_zero(operations) {
                let reason = "a quota of 0 lets nothing through: leave it out for none";
                return Err(Error::Invalid { field: "quotas", reason });
            }
            if !self.namespaces.has(&name) {
                check_length("namespaces", "NAMESPACES_MAX", self.namespaces.count() + 1, NAMESPACES_MAX)?;
            }
            let quotas = state::Quotas {
                memory_bytes: memory_bytes.unwrap_or(0),
                operations: operations.unwrap_or(0),
            };
            self.define(&name, Some(quotas)).await
        };
        respond(put.await.map(|_put| PutReply {}))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        let deleted = self.define(&request.into_inner().name, None).await;
        respond(deleted.map(|deleted| DeleteReply { deleted }))
    }

    async fn list(&self, _request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        let any = |quota: u64| (quota > 0).then_some(quota);
        let namespace = |Described { name, quotas, usage }| Namespace {
            name,
            quotas: Some(Quotas {
                memory_bytes: any(quotas.memory_bytes),
                operations: any(quotas.operations),
            }),
            keys: usage.keys,
            bytes: usage.bytes,
            operations: usage.operations,
        };
        let namespaces = self.namespaces.describe().into_iter().map(namespace).collect();
        respond(Ok(ListReply { namespaces }))
    }
}
