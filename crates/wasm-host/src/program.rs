//! A component that is ready, and one request to it.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use wasmtime::component::ResourceTable;
use wasmtime::{Store, Trap};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error as HttpError, WasiHttpCtx, WasiHttpView as _};

use crate::data::{Database, Grid};
use crate::error::Error;
use crate::host::Inner;
use crate::limits::{
    HEADER_BYTES_MAX, HOST_CALL_BYTES_MAX, Limiter, Limits, MemoryUse, RANDOM_BYTES_MAX, RESOURCES_MAX,
};
use crate::log::{Log, LogStream, Stream};
use crate::state::{Egress, State};

/// A body of a request or a response, as it arrives. Its error is a text for logs.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What belongs to one call.
pub struct Call {
    /// Environment variables of the guest.
    pub environment: Arc<Vec<(String, String)>>,
    /// What it may use.
    pub limits: Limits,
    /// Takes what it writes to stdout and stderr.
    pub log: Arc<dyn Log>,
    /// Its way to the grid.
    pub grid: Arc<dyn Grid>,
    /// Its way to the database.
    pub database: Arc<dyn Database>,
    /// Told once, when the guest has ended: that may be after the response, and does not need anybody to read it.
    pub ended: Box<dyn FnOnce(Ended) + Send>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// How a call ended.
#[derive(Debug)]
pub struct Ended {
    /// What went wrong.
    pub outcome: Result<(), Error>,
    /// Making the instance.
    pub instantiate: Duration,
    /// The most memory that it had, bytes.
    pub memory_bytes: usize,
}

/// A component that is ready to be instantiated. Clones share its code.
#[derive(Clone)]
pub struct Program {
    pre: ProxyPre<State>,
    host: Arc<Inner>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

impl Program {
    pub(crate) fn new(pre: ProxyPre<State>, host: Arc<Inner>) -> Self {
        Self { pre, host }
    }

    /// Answers one request in an instance of its own. Returns with the head of the response; the body follows as the
    /// guest writes it, and ends with an error if the guest does not come to its end.
    ///
    /// The guest goes on when the caller goes away, until it ends or its time is over.
    pub async fn call(&self, request: Request<Body>, call: Call) -> Result<Response<Body>, Error> {
        let deadline = Instant::now() + call.limits.time;
        let (limiter, memory) = Limiter::new(call.limits.memory_bytes);
        let mut store = self.store(&call, limiter);
        let (head_sender, head) = oneshot::channel();
        let request =
            request.map(|body| body.map_err(|error| HttpError::InternalError(Some(error.to_string()))));
        let mut http = store.data_mut().http();
        let request = http
            .new_incoming_request(Scheme::Http, request)
            .map_err(|error| Error::Request(format!("{error:#}")))?;
        let response =
            http.new_response_outparam(head_sender).map_err(|error| Error::Request(format!("{error:#}")))?;

        let outcome: Arc<OnceLock<Result<(), Error>>> = Arc::default();
        let told = Arc::clone(&outcome);
        let pre = self.pre.clone();
        let running = self.host.running();
        let instances_max = self.host.instances_max;
        let guests = self.host.guests().ok_or_else(|| Error::Engine("it is stopping".to_owned()))?;
        let guest = guests.spawn(async move {
            let began = Instant::now();
            let mut instantiate = Duration::ZERO;
            let run = async {
                let instance = pre.instantiate_async(&mut store).await?;
                instantiate = began.elapsed();
                instance.wasi_http_incoming_handler().call_handle(&mut store, request, response).await
            };
            let outcome = match timeout_at(deadline, run).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(why(&error, &memory, call.limits.memory_bytes, instances_max)),
                Err(_elapsed) => Err(Error::TimedOut),
            };
            // Before the store goes, and with it the guest's end of the body: the reader must know why it ended.
            let _first = told.set(outcome.clone());
            drop(store);
            drop(running);
            (call.ended)(Ended { outcome, instantiate, memory_bytes: memory.bytes() });
        });
        match head.await {
            Ok(Ok(response)) => Ok(response.map(|body| Body::new(Watched { body, outcome }))),
            Ok(Err(code)) => Err(Error::Refused(text(&code))),
            Err(_dropped) => {
                // The store is gone, and with it the one who could have answered.
                let _joined = guest.await;
                match outcome.get() {
                    Some(Err(error)) => Err(error.clone()),
                    _ => Err(Error::NoResponse),
                }
            }
        }
    }

    fn store(&self, call: &Call, limiter: Limiter) -> Store<State> {
        let stream = |stream| LogStream { log: Arc::clone(&call.log), stream };
        let wasi = WasiCtx::builder()
            .envs(&call.environment)
            .stdout(stream(Stream::Stdout))
            .stderr(stream(Stream::Stderr))
            .max_random_size(RANDOM_BYTES_MAX)
            .build();
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADER_BYTES_MAX);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let state = State {
            table,
            wasi,
            http,
            egress: Egress,
            limiter,
            grid: Arc::clone(&call.grid),
            database: Arc::clone(&call.database),
        };
        let mut store = Store::new(&self.host.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }
}

/// The body of a response, which is complete only if the guest came to its end: wasmtime shows the end of a guest that
/// was stopped as the end of the body.
struct Watched {
    body: HyperOutgoingBody,
    outcome: Arc<OnceLock<Result<(), Error>>>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context).map(|frame| match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(error)) => Some(Err(error.to_string().into())),
            None => match self.outcome.get() {
                Some(Err(error)) => Some(Err(Box::new(error.clone()) as Self::Error)),
                _ => None,
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Why a guest ended before its end.
fn why(error: &wasmtime::Error, memory: &MemoryUse, memory_bytes_max: usize, instances_max: u32) -> Error {
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Error::Instances { max: instances_max };
    }
    // A guest that is refused memory aborts, which by itself looks like any other trap.
    let out_of_memory = memory.was_refused() && error.is::<Trap>();
    if out_of_memory {
        return Error::Memory { max: memory_bytes_max };
    }
    Error::Trapped(format!("{error:#}"))
}

fn text(code: &ErrorCode) -> String {
    format!("{code:?}")
}
