//! Functions over HTTP/1.1 and HTTP/2 without TLS: `/<function>/…` by path, or `<function>.<domain>` by host name.
//!
//! The function sees the path behind its name, and `X-Forwarded-Prefix` says what was cut off. Bodies are passed on as
//! they arrive, both ways. Errors of the platform are JSON with the error's code; they never look like the function's.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use trimaran_net::listen::{Arrival, Doorway};
use trimaran_net::status::{Class, Classified as _};

use crate::invocation::ID_HEADER;
use crate::limits::{CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_TIME_MAX};
use crate::metrics;
use crate::router::{Failed, Router};
use crate::runtime::Body;

/// Headers that are between two ends of one connection, and the requests' upgrade that is not passed on.
/// Source: RFC 9110, section 7.6.1.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// What names functions in a request.
struct Names {
    /// `.domain`; empty = none.
    suffix: String,
}

/// Serves connections until `stop`, then lets each have the answers under way.
pub(crate) async fn serve(listener: TcpListener, router: Router, domain: &str, stop: CancellationToken) {
    let suffix = if domain.is_empty() { String::new() } else { format!(".{domain}") };
    let names = Arc::new(Names { suffix });
    let graceful = GracefulShutdown::new();
    let mut server = auto::Builder::new(TokioExecutor::new());
    // Also how long a connection may be idle between two requests.
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_BYTES_MAX);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_TIME_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32);
    let doorway = Doorway::new(listener, CONNECTIONS_MAX, stop);
    while let Some(arrival) = doorway.next().await {
        let Arrival::Admitted(stream, peer, place) = arrival else {
            debug!("CONNECTIONS_MAX is reached; a connection is closed");
            continue;
        };
        let (router, names) = (router.clone(), Arc::clone(&names));
        let service = service_fn(move |request| {
            let (router, names) = (router.clone(), Arc::clone(&names));
            async move { Ok::<_, Infallible>(respond(&router, &names, peer, request).await) }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            metrics::connections().increment(1.0);
            if let Err(error) = connection.await {
                debug!(%error, "a connection broke");
            }
            metrics::connections().decrement(1.0);
            drop(place);
        });
    }
    graceful.shutdown().await;
}

async fn respond(
    router: &Router,
    names: &Names,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some((function, request)) = addressed(names, peer, request) else {
        let text = "name a function: /<function>/… ; `trimaran functions list` shows them";
        return refusal(StatusCode::NOT_FOUND, "FUNCTION_NOT_FOUND", text, "");
    };
    match router.call(&function, request).await {
        Ok(mut response) => {
            // A function may speak of its own connection, not of ours.
            strip(response.headers_mut());
            response
        }
        Err(Failed { error, invocation_id }) => {
            let class = error.class();
            let status = StatusCode::from_u16(class.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = refusal(status, error.code(), &error.to_string(), &invocation_id);
            if matches!(class, Class::Exhausted | Class::Later) {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            response
        }
    }
}

fn refusal(status: StatusCode, code: &str, message: &str, invocation_id: &str) -> Response<Body> {
    let mut error = serde_json::json!({ "code": code, "message": message });
    if !invocation_id.is_empty() {
        error["invocation_id"] = invocation_id.into();
    }
    let body = format!("{}\n", serde_json::json!({ "error": error }));
    let mut response = Response::new(full(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(invocation_id)
        && !id.is_empty()
    {
        response.headers_mut().insert(ID_HEADER, id);
    }
    response
}

/// A body that is there already.
pub(crate) fn full(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes).map_err(|never| match never {}))
}

/// The function that a request is for, and the request as the function sees it.
fn addressed(names: &Names, peer: SocketAddr, request: Request<Incoming>) -> Option<(String, Request<Body>)> {
    let (mut parts, body) = request.into_parts();
    // HTTP/2 has the host in the target, HTTP/1.1 in a header; functions look for the header.
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => parts.headers.get(header::HOST)?.to_str().ok()?.to_owned(),
    };
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let (function, path, prefix) = match by_host(names, &host) {
        Some(function) => (function.to_owned(), path.to_owned(), None),
        None => {
            let (function, rest) = by_path(path)?;
            (function.to_owned(), rest, Some(format!("/{function}")))
        }
    };
    parts.uri = path.parse::<Uri>().ok()?;
    strip(&mut parts.headers);
    forwarded(&mut parts.headers, peer.ip(), &host, prefix.as_deref());
    if !parts.headers.contains_key(header::HOST) {
        parts.headers.insert(header::HOST, HeaderValue::from_str(&host).ok()?);
    }
    Some((function, Request::from_parts(parts, Body::new(body.map_err(Into::into)))))
}

fn by_host<'a>(names: &Names, host: &'a str) -> Option<&'a str> {
    let host = host.rsplit_once(':').map_or(host, |(host, _port)| host);
    let function = host.strip_suffix(&names.suffix).filter(|_| !names.suffix.is_empty())?;
    (!function.is_empty() && !function.contains('.')).then_some(function)
}

/// The first part of a path, and what is behind it: `/a/b?c` is `a` and `/b?c`.
fn by_path(path: &str) -> Option<(&str, String)> {
    let path = path.strip_prefix('/')?;
    let end = path.find(['/', '?']).unwrap_or(path.len());
    let (function, rest) = path.split_at(end);
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    (!function.is_empty()).then_some((function, rest))
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Who asked, and how: `Forwarded` of RFC 7239 and the older headers that everybody reads.
fn forwarded(headers: &mut HeaderMap, peer: IpAddr, host: &str, prefix: Option<&str>) {
    let node = if peer.is_ipv6() { format!("\"[{peer}]\"") } else { peer.to_string() };
    let forwarded = format!("for={node};host=\"{host}\";proto=http");
    let mut append = |name: HeaderName, value: &str| {
        let before = headers.get(&name).and_then(|value| value.to_str().ok());
        let all = before.map_or_else(|| value.to_owned(), |before| format!("{before}, {value}"));
        if let Ok(all) = HeaderValue::from_str(&all) {
            headers.insert(name, all);
        }
    };
    append(header::FORWARDED, &forwarded);
    append(HeaderName::from_static("x-forwarded-for"), &peer.to_string());
    let mut absent = |name: &'static str, value: &str| {
        if !headers.contains_key(name)
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
    };
    absent("x-forwarded-proto", "http");
    absent("x-forwarded-host", host);
    if let Some(prefix) = prefix {
        absent("x-forwarded-prefix", prefix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_by_path_or_by_host() {
        let split = |path| by_path(path).map(|(function, rest)| (function.to_owned(), rest));
        assert_eq!(split("/a/b/c?d=e"), Some(("a".into(), "/b/c?d=e".into())));
        assert_eq!(split("/a"), Some(("a".into(), "/".into())));
        assert_eq!(split("/a?b"), Some(("a".into(), "/?b".into())));
        assert_eq!(split("/"), None);
        let names = Names { suffix: ".localhost".to_owned() };
        assert_eq!(by_host(&names, "a.localhost:8080"), Some("a"));
        assert_eq!(by_host(&names, "localhost:8080"), None);
        assert_eq!(by_host(&names, "a.b.localhost"), None);
        assert_eq!(by_host(&Names { suffix: String::new() }, "a.localhost"), None);
    }

    #[test]
    fn what_belongs_to_a_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, x-secret"), ("x-secret", "1"), ("te", "trailers"), ("x-a", "2")]
        {
            headers.insert(name, value.parse().unwrap());
        }
        strip(&mut headers);
        assert_eq!(headers.len(), 1);
        headers.insert("x-forwarded-for", "1.1.1.1".parse().unwrap());
        forwarded(&mut headers, "127.0.0.1".parse().unwrap(), "h", Some("/a"));
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 127.0.0.1");
        assert_eq!(headers["forwarded"], "for=127.0.0.1;host=\"h\";proto=http");
        assert_eq!(headers["x-forwarded-prefix"], "/a");
    }
}
