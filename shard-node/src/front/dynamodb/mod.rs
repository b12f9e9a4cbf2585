//! The DynamoDB API: JSON 1.0 over HTTP/1.1, as its SDKs speak it.
//!
//! `POST /` with `X-Amz-Target: DynamoDB_20120810.<Operation>`, or `DynamoDBStreams_20120810.<Operation>`; answers carry `x-amzn-RequestId` and `x-amz-crc32`,
//! which SDKs verify. `GET /` says "healthy" to load balancers. Signatures are looked at if the node is told to
//! ([`crate::access`]). Next: `operation`, which knows where each of them is, and `json` (values).

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use trimaran_net::http1;
use trimaran_net::listen::{Arrival, Doorway};

use crate::access;
use crate::config::Signatures;
use crate::limits::{BODY_BYTES_MAX, CONNECTIONS_MAX, HALF_REQUEST_MAX, IDLE_CONNECTION_MAX};
use crate::metrics;
use crate::router::Router;

mod error;
mod json;
mod legacy;
mod operation;
mod read;
mod settings;
mod statement;
mod stream;
mod table;
mod write;

use error::Refusal;

/// What targets begin with: of the database, and of its streams.
const TARGET: &str = "DynamoDB_20120810.";
const STREAMS_TARGET: &str = "DynamoDBStreams_20120810.";

/// Serves connections until `stop`, then lets each have the answers under way.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    signatures: Signatures,
    stop: CancellationToken,
) {
    let doorway = Doorway::new(listener, CONNECTIONS_MAX, stop.clone());
    let connections = TaskTracker::new();
    let numbers = Arc::new(AtomicU64::new(0));
    while let Some(arrival) = doorway.next().await {
        let Arrival::Admitted(stream, _, place) = arrival else {
            debug!("CONNECTIONS_MAX is reached; a connection is closed");
            continue;
        };
        let (router, stop, numbers) = (router.clone(), stop.clone(), Arc::clone(&numbers));
        connections.spawn(async move {
            metrics::connections().increment(1.0);
            http1::serve(stream, IDLE_CONNECTION_MAX, stop, |request| {
                respond(&router, signatures, request, numbers.fetch_add(1, Ordering::Relaxed))
            })
            .await;
            metrics::connections().decrement(1.0);
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn respond(
    router: &Router,
    signatures: Signatures,
    request: Request<Incoming>,
    number: u64,
) -> Response<Full<Bytes>> {
    if request.method() == Method::GET {
        let mut response = Response::new(Full::new(Bytes::from_static(b"healthy: trimaran\n")));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        return response;
    }
    metrics::requests("dynamodb").increment(1);
    let (status, body) = match answer(router, signatures, request).await {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => {
            metrics::refused("dynamodb").increment(1);
            (refusal.status(), refusal.body())
        }
    };
    let body = Bytes::from(body);
    let checksum = crc32fast::hash(&body);
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"));
    headers.insert("x-amz-crc32", HeaderValue::from(checksum));
    if let Ok(id) = HeaderValue::from_str(&format!("{number:032X}")) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}

async fn answer(
    router: &Router,
    signatures: Signatures,
    request: Request<Incoming>,
) -> Result<Vec<u8>, Refusal> {
    if request.method() != Method::POST {
        return Err(Refusal::unknown_operation());
    }
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let target = header("x-amz-target").unwrap_or_default();
    let of_streams = target.strip_prefix(STREAMS_TARGET);
    let operation = of_streams.or_else(|| target.strip_prefix(TARGET));
    let operation = operation.ok_or_else(Refusal::unknown_operation)?.to_owned();
    let of_streams = of_streams.is_some();
    let gzip = header(CONTENT_ENCODING.as_str()) == Some("gzip");
    let collected = timeout(HALF_REQUEST_MAX, Limited::new(body, BODY_BYTES_MAX).collect());
    let body = match collected.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refusal::too_large()),
        Ok(Err(error)) => return Err(Refusal::serialization(format!("the body cannot be read: {error}"))),
        Err(_elapsed) => {
            return Err(Refusal::serialization(format!("the body did not come in {HALF_REQUEST_MAX:?}")));
        }
    };
    if signatures == Signatures::Required {
        access::check(&router.access_keys(), &parts, &body, router.now_ms())?;
    }
    if operation == "DescribeEndpoints" {
        return settings::describe_endpoints(header("host").unwrap_or_default());
    }
    let body = if gzip { unpack(&body)? } else { body };
    if of_streams {
        return stream::run(router, &operation, &body).await;
    }
    operation::run(router, &operation, &body).await
}

fn unpack(body: &[u8]) -> Result<Bytes, Refusal> {
    let mut unpacked = Vec::new();
    let unpack =
        flate2::read::GzDecoder::new(body).take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut unpacked);
    unpack.map_err(|error| Refusal::serialization(format!("the body is no gzip: {error}")))?;
    if unpacked.len() > BODY_BYTES_MAX {
        return Err(Refusal::too_large());
    }
    Ok(unpacked.into())
}
