//! The commands of Redis over HTTP/1.1 and JSON, for programs that cannot keep a connection open: functions, browsers,
//! a standard library. Clients of serverless Redis services (`@upstash/redis`, `upstash-redis`) run as they are.
//!
//! - `POST /` with a command as a JSON array, `["SET", "key", "value", "EX", 100]`, or as a path,
//!   `/set/key/value?EX=100`; a body behind a path is its last argument. The answer is `{"result": …}`, a refused
//!   command's `{"error": "…"}`.
//! - `POST /pipeline` with an array of commands answers an array of these, in order; not atomic. `POST /multi-exec` is
//!   the same with nothing between the commands: all or, where one is refused, none.
//! - With the header `Upstash-Encoding: base64` strings in answers are in base64, so that they may be any bytes.
//! - `Authorization: Bearer <password of the default user>`, or `Basic` with a user of ACL SETUSER and its password.
//! - Source: "REST API" in the documentation of Upstash Redis.
//!
//! Every request is a connection of its own to the commands: nothing that one says about its connection is remembered.
//! Next: [`crate::command`] (what a command does), `json` (arguments and answers).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use trimaran_net::http1;
use trimaran_net::listen::{Arrival, Doorway};

use super::resp::{self, Client, Front, Session};
use crate::limits::{
    ARGUMENTS_MAX, CONNECTIONS_MAX, HALF_REQUEST_MAX, IDLE_HTTP_MAX, PIPELINE_COMMANDS_MAX, REQUEST_BYTES_MAX,
};
use crate::metrics;

mod json;

use json::{Answer, Strings};

/// The front's name in metrics.
const FRONT: &str = "http";

/// Serves connections until `stop`, then lets each have the answer under way.
pub(crate) async fn serve(listener: TcpListener, front: Arc<Front>, stop: CancellationToken) {
    let doorway = Doorway::new(listener, CONNECTIONS_MAX, stop.clone());
    let connections = TaskTracker::new();
    let ids = Arc::new(AtomicU64::new(1));
    while let Some(arrival) = doorway.next().await {
        let Arrival::Admitted(stream, _, place) = arrival else {
            metrics::refused(FRONT).increment(1);
            debug!("CONNECTIONS_MAX is reached; a connection is closed");
            continue;
        };
        let (front, stop, ids) = (Arc::clone(&front), stop.clone(), Arc::clone(&ids));
        connections.spawn(async move {
            metrics::connections(FRONT).increment(1);
            http1::serve(stream, IDLE_HTTP_MAX, stop, |request| {
                respond(&front, request, ids.fetch_add(1, Ordering::Relaxed))
            })
            .await;
            metrics::connections(FRONT).decrement(1);
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

/// Why a request was not understood, before any of its commands was looked at.
struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }
}

/// How commands belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Together {
    /// There is one.
    Alone,
    /// One after the other.
    Pipeline,
    /// With nothing between them.
    Transaction,
}

/// Commands in order.
struct Asked {
    commands: Vec<Vec<Bytes>>,
    together: Together,
}

async fn respond(front: &Front, request: Request<Incoming>, id: u64) -> Response<Full<Bytes>> {
    let strings = strings(request.headers());
    let credentials = request.headers().get(AUTHORIZATION).cloned();
    let (status, body) = match read(request).await {
        Err(refusal) => {
            metrics::refused(FRONT).increment(1);
            (refusal.status, Answer::Error(refusal.text).to_json(strings))
        }
        Ok(asked) => answer(front, asked, (id, credentials), strings).await,
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn answer(
    front: &Front,
    asked: Asked,
    (id, credentials): (u64, Option<HeaderValue>),
    strings: Strings,
) -> (StatusCode, serde_json::Value) {
    let mut session = Session::new(FRONT, Client::alone(id), false);
    session.enter(front);
    if let Some(credentials) = credentials
        && let Err(refused) = authorize(front, &mut session, &credentials)
    {
        metrics::refused(FRONT).increment(1);
        let answer = Answer::Error(refused);
        return (status(&answer), answer.to_json(strings));
    }
    let count = asked.commands.len();
    let mut commands = match asked.together {
        Together::Alone | Together::Pipeline => asked.commands,
        Together::Transaction => {
            let word = |word: &'static [u8]| vec![Bytes::from_static(word)];
            [word(b"MULTI")].into_iter().chain(asked.commands).chain([word(b"EXEC")]).collect()
        }
    };
    let mut said = BytesMut::new();
    // QUIT ends a pipeline; what comes behind it was not carried out.
    resp::answer(front, &mut session, None, &mut commands, &mut said).await;
    let mut answers = json::answers(&said);
    if asked.together == Together::Transaction {
        return match answers.pop() {
            Some(Answer::Array(answers)) => {
                (StatusCode::OK, answers.iter().map(|answer| answer.to_json(strings)).collect())
            }
            // Nothing of it was carried out: because of the first that was refused.
            last => {
                let refused = answers.into_iter().find(|answer| matches!(answer, Answer::Error(_))).or(last);
                let answer = refused.unwrap_or(Answer::Null);
                (status(&answer), answer.to_json(strings))
            }
        };
    }
    if asked.together == Together::Pipeline {
        let missing = || Answer::Error("ERR the pipeline was ended by a command before this one".to_owned());
        answers.resize_with(count, missing);
        return (StatusCode::OK, answers.into_iter().map(|answer| answer.to_json(strings)).collect());
    }
    let answer = answers.pop().unwrap_or_else(|| Answer::Error("ERR there is no answer".to_owned()));
    (status(&answer), answer.to_json(strings))
}

/// What clients may do about it: try again later, or change the command.
fn status(answer: &Answer) -> StatusCode {
    match answer {
        Answer::Error(text) => match text.split(' ').next() {
            Some("LOADING" | "CLUSTERDOWN" | "TRYAGAIN") => StatusCode::SERVICE_UNAVAILABLE,
            Some("NOAUTH" | "WRONGPASS") => StatusCode::UNAUTHORIZED,
            Some("NOPERM") => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        },
        _ => StatusCode::OK,
    }
}

/// `Basic` with a user and a password, or `Bearer` with the default user's password, which is what clients of serverless
/// Redis services call a token. Where anybody may do everything, a token may be anything.
fn authorize(front: &Front, session: &mut Session, credentials: &HeaderValue) -> Result<(), String> {
    let unreadable = || "WRONGPASS the Authorization header is neither Basic nor Bearer".to_owned();
    let (scheme, rest) =
        credentials.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(unreadable)?;
    let (user, password) = if scheme.eq_ignore_ascii_case("bearer") {
        ("default".to_owned(), rest.trim().to_owned())
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = STANDARD.decode(rest.trim()).ok().and_then(|pair| String::from_utf8(pair).ok());
        let pair = pair.ok_or_else(unreadable)?;
        let (user, password) = pair.split_once(':').ok_or_else(unreadable)?;
        (user.to_owned(), password.to_owned())
    } else {
        return Err(unreadable());
    };
    resp::enter(front, session, &user, &password)
}

fn strings(headers: &HeaderMap) -> Strings {
    let asked = headers.get("upstash-encoding").map(HeaderValue::as_bytes);
    if asked == Some(b"base64") { Strings::Base64 } else { Strings::Text }
}

async fn read(request: Request<Incoming>) -> Result<Asked, Refusal> {
    if ![Method::GET, Method::HEAD, Method::POST, Method::PUT].contains(request.method()) {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "ERR use GET or POST"));
    }
    let (parts, body) = request.into_parts();
    let body = whole(body).await?;
    match parts.uri.path().trim_matches('/') {
        "" => Ok(Asked { commands: vec![command(&body)?], together: Together::Alone }),
        path @ ("pipeline" | "multi-exec") => {
            let commands = json::commands(&body).map_err(Refusal::bad)?;
            if commands.len() > PIPELINE_COMMANDS_MAX {
                let count = commands.len();
                return Err(Refusal::bad(format!(
                    "ERR {count} commands exceed PIPELINE_COMMANDS_MAX = {PIPELINE_COMMANDS_MAX}"
                )));
            }
            commands.iter().try_for_each(|command| fits(command))?;
            let together = if path == "pipeline" { Together::Pipeline } else { Together::Transaction };
            Ok(Asked { commands, together })
        }
        path => {
            let mut arguments: Vec<Bytes> = path.split('/').map(decoded).collect();
            if !body.is_empty() {
                arguments.push(body);
            }
            let options =
                parts.uri.query().unwrap_or_default().split('&').filter(|option| !option.is_empty());
            for (name, value) in options.map(|option| option.split_once('=').unwrap_or((option, ""))) {
                // A token that clients may send here instead of in a header.
                if name != "_token" {
                    arguments.push(decoded(name));
                    arguments.extend(Some(value).filter(|value| !value.is_empty()).map(decoded));
                }
            }
            fits(&arguments)?;
            Ok(Asked { commands: vec![arguments], together: Together::Alone })
        }
    }
}

fn command(body: &[u8]) -> Result<Vec<Bytes>, Refusal> {
    let command = json::command(body).map_err(Refusal::bad)?;
    fits(&command)?;
    Ok(command)
}

fn fits(command: &[Bytes]) -> Result<(), Refusal> {
    match command.len() {
        0 => Err(Refusal::bad("ERR empty command")),
        count if count > ARGUMENTS_MAX => {
            Err(Refusal::bad(format!("ERR {count} arguments exceed ARGUMENTS_MAX = {ARGUMENTS_MAX}")))
        }
        _ => Ok(()),
    }
}

async fn whole(body: Incoming) -> Result<Bytes, Refusal> {
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("ERR the body exceeds REQUEST_BYTES_MAX = {REQUEST_BYTES_MAX}"),
        )
    };
    // One that says so is not waited for.
    if body.size_hint().lower() > REQUEST_BYTES_MAX as u64 {
        return Err(too_large());
    }
    match timeout(HALF_REQUEST_MAX, Limited::new(body, REQUEST_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Refusal::bad(format!("ERR the body cannot be read: {error}"))),
        Err(_elapsed) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("ERR the body did not come in HALF_REQUEST_MAX = {HALF_REQUEST_MAX:?}"),
        )),
    }
}

fn decoded(text: &str) -> Bytes {
    percent_decode_str(text).collect::<Vec<u8>>().into()
}
