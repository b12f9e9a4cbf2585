//! Functions over gRPC: making them, calling them, their logs.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::{HeaderName, HeaderValue, Method, Request as HttpRequest, Response as HttpResponse, Uri};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trimaran_net::clock::Clock;
use trimaran_net::status::status;
use trimaran_proto::api::functions as wire;
use trimaran_proto::api::functions::deploy_request::Part as DeployPart;
use trimaran_proto::api::functions::functions_server::{Functions, FunctionsServer};
use trimaran_proto::api::functions::invoke_stream_reply::Part as ReplyPart;
use trimaran_proto::api::functions::invoke_stream_request::Part as RequestPart;

use crate::error::Error;
use crate::front::http::full;
use crate::invocation::ID_HEADER;
use crate::limits::{
    DEPLOYMENTS_AT_ONCE, LOG_FOLLOW_EVERY, LOG_RECORDS_DEFAULT, LOG_RECORDS_MAX, MESSAGE_BYTES_MAX,
    RECEIVE_MAX,
};
use crate::package::Receiving;
use crate::router::Router;
use crate::runtime::Body;
use crate::spec::Revision;

/// Messages of a stream that wait for a slow reader.
const STREAM_MESSAGES: usize = 4;

/// Records in one message.
const RECORDS_AT_ONCE: usize = 500;

pub(crate) fn service(router: Router, clock: Arc<dyn Clock>) -> FunctionsServer<Front> {
    let deployments = Semaphore::new(DEPLOYMENTS_AT_ONCE);
    FunctionsServer::new(Front { router, clock, deployments })
        .max_decoding_message_size(MESSAGE_BYTES_MAX + (64 << 10))
        .max_encoding_message_size(MESSAGE_BYTES_MAX + (64 << 10))
}

pub(crate) struct Front {
    router: Router,
    clock: Arc<dyn Clock>,
    deployments: Semaphore,
}

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Functions for Front {
    async fn deploy(
        &self,
        request: Request<Streaming<wire::DeployRequest>>,
    ) -> Result<Response<wire::DeployReply>, Status> {
        // Others wait; what they send is held up by the stream's window.
        let _place = self.deployments.acquire().await.map_err(|_closed| status(&Error::NotReady))?;
        let received = timeout(RECEIVE_MAX, receive(request.into_inner())).await;
        let late = |_elapsed| status(&Error::BadPackage(format!("it did not arrive within {RECEIVE_MAX:?}")));
        let (head, package) = received.map_err(late)??;
        let package = (!package.is_empty()).then_some(package);
        let deployed = self.router.deploy(head, package, self.clock.now_ms()).await;
        let (revision, changed) = deployed.map_err(|error| status(&error))?;
        self.router.settle().await;
        Ok(Response::new(wire::DeployReply { function: Some(shown(&revision)), changed }))
    }

    async fn describe(
        &self,
        request: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeReply>, Status> {
        let name = request.into_inner().name;
        let revision = self.router.catalog().get(&name).await.map_err(|error| status(&error))?;
        let now = self.router.snapshot(&name);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Response::new(wire::DescribeReply {
            function: Some(shown(&revision)),
            instances: count(now.instances),
            running: count(now.running),
            queued: count(now.waiting),
        }))
    }

    async fn list(&self, _: Request<wire::ListRequest>) -> Result<Response<wire::ListReply>, Status> {
        // What other nodes deployed a moment ago belongs here too.
        self.router.catalog().refresh().await.map_err(|error| status(&error))?;
        let functions = self.router.catalog().all().iter().map(|revision| shown(revision)).collect();
        Ok(Response::new(wire::ListReply { functions }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteReply>, Status> {
        self.router.delete(&request.into_inner().name).await.map_err(|error| status(&error))?;
        Ok(Response::new(wire::DeleteReply {}))
    }

    async fn invoke(
        &self,
        request: Request<wire::InvokeRequest>,
    ) -> Result<Response<wire::InvokeReply>, Status> {
        let wire::InvokeRequest { head, body } = request.into_inner();
        let (function, request) =
            read(head, full(body.clone()), !body.is_empty()).map_err(|error| status(&error))?;
        let response = self.router.call(&function, request).await.map_err(|failed| status(&failed.error))?;
        let (head, mut body) = write(response);
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(&*error))?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > MESSAGE_BYTES_MAX {
                    return Err(status(&Error::ResponseTooLarge { max: MESSAGE_BYTES_MAX }));
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(Response::new(wire::InvokeReply { head: Some(head), body: bytes.freeze() }))
    }

    type InvokeStreamStream = Answers<wire::InvokeStreamReply>;

    async fn invoke_stream(
        &self,
        request: Request<Streaming<wire::InvokeStreamRequest>>,
    ) -> Result<Response<Self::InvokeStreamStream>, Status> {
        let mut parts = request.into_inner();
        let Some(RequestPart::Head(head)) = parts.message().await?.and_then(|message| message.part) else {
            return Err(status(&Error::Invalid("the first message has to be the head".to_owned())));
        };
        let chunks = parts.map(|message| match message.map(|message| message.part) {
            Ok(Some(RequestPart::Chunk(chunk))) => Ok(Frame::data(chunk)),
            Ok(_) => Err("what follows the head has to be chunks".into()),
            Err(status) => Err(status.message().to_owned().into()),
        });
        let (function, request) =
            read(Some(head), Body::new(StreamBody::new(chunks)), true).map_err(|error| status(&error))?;
        let response = self.router.call(&function, request).await.map_err(|failed| status(&failed.error))?;
        let (head, body) = write(response);
        let head = futures::stream::once(async { Ok(ReplyPart::Head(head)) });
        let chunks = body.into_data_stream().map(|chunk| match chunk {
            Ok(chunk) => Ok(ReplyPart::Chunk(chunk)),
            Err(error) => Err(broken(&*error)),
        });
        let parts =
            head.chain(chunks).map(|part| part.map(|part| wire::InvokeStreamReply { part: Some(part) }));
        Ok(Response::new(Box::pin(parts)))
    }

    type LogsStream = Answers<wire::LogRecords>;

    async fn logs(&self, request: Request<wire::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let wire::LogsRequest { function, invocation_id, limit, follow } = request.into_inner();
        self.router.catalog().get(&function).await.map_err(|error| status(&error))?;
        let limit = if limit == 0 { LOG_RECORDS_DEFAULT } else { limit as usize };
        if limit > LOG_RECORDS_MAX {
            return Err(status(&Error::Invalid(format!("limit = {limit}: up to {LOG_RECORDS_MAX}"))));
        }
        let logs = self.router.logs().clone();
        let wanted =
            move |record: &wire::LogRecord| invocation_id.is_empty() || record.invocation_id == invocation_id;
        // What this node has gathered is part of what its caller just saw happen.
        logs.flush().await;
        let (records, mut follower) =
            logs.newest(&function, limit, &wanted).await.map_err(|error| status(&error))?;
        let (sender, receiver) = mpsc::channel(STREAM_MESSAGES);
        tokio::spawn(async move {
            for records in records.chunks(RECORDS_AT_ONCE) {
                if sender.send(Ok(wire::LogRecords { records: records.to_vec() })).await.is_err() {
                    return;
                }
            }
            if !follow {
                return;
            }
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOG_FOLLOW_EVERY) => {}
                    () = sender.closed() => return,
                }
                let more = logs.more(&mut follower).await.map_err(|error| status(&error));
                let more = more.map(|records| records.into_iter().filter(&wanted).collect::<Vec<_>>());
                let failed = more.is_err();
                if more.as_ref().is_ok_and(Vec::is_empty) {
                    continue;
                }
                if sender.send(more.map(|records| wire::LogRecords { records })).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// The head of a deployment, and its package as far as it was sent.
async fn receive(mut parts: Streaming<wire::DeployRequest>) -> Result<(wire::DeployHead, Receiving), Status> {
    let Some(DeployPart::Head(head)) = parts.message().await?.and_then(|message| message.part) else {
        return Err(status(&Error::Invalid("the first message has to be the head".to_owned())));
    };
    let mut package = Receiving::new(head.package_bytes).map_err(|error| status(&error))?;
    while let Some(message) = parts.message().await? {
        let Some(DeployPart::Chunk(chunk)) = message.part else {
            return Err(status(&Error::Invalid("what follows the head has to be chunks".to_owned())));
        };
        package.push(&chunk).map_err(|error| status(&error))?;
    }
    Ok((head, package))
}

fn shown(revision: &Revision) -> wire::Function {
    wire::Function {
        name: revision.function.clone(),
        revision: revision.number,
        spec: Some(revision.wire.clone()),
        package_digest: revision.digest.clone(),
        package_bytes: revision.bytes,
        created_ms: revision.created_ms,
    }
}

/// A call as the function sees it.
fn read(
    head: Option<wire::RequestHead>,
    body: Body,
    has_body: bool,
) -> Result<(String, HttpRequest<Body>), Error> {
    let head = head.ok_or_else(|| Error::Invalid("head is missing".to_owned()))?;
    let method = match head.method.as_str() {
        "" if has_body => Method::POST,
        "" => Method::GET,
        other => {
            other.parse().map_err(|_bad| Error::Invalid(format!("method = {other:?} is none of HTTP")))?
        }
    };
    let path = if head.path.is_empty() { "/" } else { &head.path };
    let bad_path = || Error::Invalid(format!("path = {path:?}: it begins with / and is encoded as in a URL"));
    let uri: Uri = path.parse().map_err(|_bad| bad_path())?;
    if !path.starts_with('/') {
        return Err(bad_path());
    }
    let mut request = HttpRequest::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    for wire::Header { name, value } in head.headers {
        let bad = || Error::Invalid(format!("headers: {name:?} is no header, or its value is none"));
        let value = HeaderValue::from_maybe_shared(value).map_err(|_bad| bad())?;
        headers.append(name.parse::<HeaderName>().map_err(|_bad| bad())?, value);
    }
    if !headers.contains_key(http::header::HOST)
        && let Ok(host) = HeaderValue::from_str(&head.function)
    {
        headers.insert(http::header::HOST, host);
    }
    Ok((head.function, request))
}

fn write(response: HttpResponse<Body>) -> (wire::ResponseHead, Body) {
    let (parts, body) = response.into_parts();
    let header = |(name, value): (&HeaderName, &HeaderValue)| wire::Header {
        name: name.as_str().to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    let id = parts.headers.get(ID_HEADER).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let head = wire::ResponseHead {
        status: parts.status.as_u16().into(),
        invocation_id: id.to_owned(),
        headers: parts.headers.iter().map(header).collect(),
    };
    (head, body)
}

/// A response that did not come to its end.
fn broken(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Status {
    let error = error.downcast_ref::<Error>().cloned();
    status(&error.unwrap_or_else(|| Error::Failed("its response broke off".to_owned())))
}
