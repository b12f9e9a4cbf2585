//! One request to a function: its id, its times, how it went. What is known when the last who works on it lets go is
//! reported, as a log record and as metrics.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use trimaran_proto::api::functions::log_record::What;
use trimaran_proto::api::functions::{LogRecord, Report};

use crate::error::Error;
use crate::logs::Logs;
use crate::pool::{Lease, Pool};
use crate::runtime::Body;

/// Header with the id of the invocation.
pub(crate) const ID_HEADER: &str = "x-trimaran-invocation-id";

/// What a report says of an invocation whose caller went away before there was an answer.
const CALLER_GONE: &str = "CALLER_GONE";

/// One request to a function.
pub(crate) struct Invocation {
    pub(crate) id: String,
    pub(crate) pool: Arc<Pool>,
    pub(crate) deadline: Instant,
    logs: Logs,
    measured: Mutex<Measured>,
}

struct Measured {
    queue: Duration,
    init: Duration,
    /// When the request went into the instance.
    ran_from: Option<Instant>,
    instance: String,
    status: u16,
    error: &'static str,
    memory_bytes: u64,
    /// The place in the instance, given back with the end.
    lease: Option<Lease>,
    /// Another invocation answers the request: this one says nothing.
    superseded: bool,
}

impl Invocation {
    pub(crate) fn new(id: String, pool: Arc<Pool>, logs: Logs) -> Self {
        let deadline = Instant::now() + pool.revision.spec.timeout;
        let measured = Measured {
            queue: Duration::ZERO,
            init: Duration::ZERO,
            ran_from: None,
            instance: String::new(),
            status: 0,
            error: "",
            memory_bytes: 0,
            lease: None,
            superseded: false,
        };
        Self { id, pool, deadline, logs, measured: Mutex::new(measured) }
    }

    /// It has its place in an instance, for which it waited so long.
    pub(crate) fn enters(&self, lease: Lease, queue: Duration, init: Duration) {
        let mut measured = self.measured.lock();
        measured.queue = queue;
        measured.init = init;
        measured.ran_from.get_or_insert_with(Instant::now);
        lease.instance_name().clone_into(&mut measured.instance);
        measured.lease = Some(lease);
    }

    /// Its place was of no use: the instance takes no requests.
    pub(crate) fn leaves_broken(&self) {
        let lease = self.measured.lock().lease.take();
        if let Some(lease) = lease {
            lease.broken();
        }
    }

    /// The same request goes on under the same id with another revision.
    pub(crate) fn supersede(&self, pool: Arc<Pool>) -> Self {
        self.measured.lock().superseded = true;
        Self::new(self.id.clone(), pool, self.logs.clone())
    }

    pub(crate) fn failed(&self, error: &Error) {
        let mut measured = self.measured.lock();
        if measured.error.is_empty() {
            measured.error = error.code();
        }
    }

    pub(crate) fn used_memory(&self, bytes: u64) {
        self.measured.lock().memory_bytes = bytes;
    }

    /// One line that it wrote.
    pub(crate) fn wrote(&self, what: What) {
        let instance = self.measured.lock().instance.clone();
        self.logs.record(&self.pool.revision.function, self.record(instance, what));
    }

    /// The response, with what is known of it so far in its headers, ended in time and reported at its end.
    pub(crate) fn answered(self: Arc<Self>, mut response: Response<Body>) -> Response<Body> {
        let timing = {
            let mut measured = self.measured.lock();
            measured.status = response.status().as_u16();
            let run = measured.ran_from.map_or(Duration::ZERO, |from| from.elapsed());
            let ms = |time: Duration| time.as_secs_f64() * 1000.0;
            format!(
                "queue;dur={:.3}, init;dur={:.3}, run;dur={:.3}",
                ms(measured.queue),
                ms(measured.init),
                ms(run)
            )
        };
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            headers.insert(ID_HEADER, id);
        }
        if let Ok(timing) = HeaderValue::from_str(&timing) {
            headers.append("server-timing", timing);
        }
        let late = Box::pin(tokio::time::sleep_until(self.deadline));
        response.map(|body| Body::new(Answering { body, late, invocation: self }))
    }

    fn record(&self, instance: String, what: What) -> LogRecord {
        LogRecord {
            time_ms: self.logs.now_ms(),
            revision: self.pool.revision.number,
            invocation_id: self.id.clone(),
            instance,
            what: Some(what),
        }
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        let measured = self.measured.get_mut();
        if measured.superseded {
            return;
        }
        let run = measured.ran_from.map_or(Duration::ZERO, |from| from.elapsed());
        if measured.status == 0 && measured.error.is_empty() {
            measured.error = CALLER_GONE;
        }
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.pool.meters.ended(measured.error, measured.queue, measured.init, run);
        let report = Report {
            status: measured.status.into(),
            error: measured.error.to_owned(),
            queue_us: us(measured.queue),
            init_us: us(measured.init),
            run_us: us(run),
            memory_bytes: measured.memory_bytes,
        };
        let instance = std::mem::take(&mut measured.instance);
        self.logs.record(&self.pool.revision.function, self.record(instance, What::Report(report)));
    }
}

/// The body of a response, cut off when the invocation's time is over.
struct Answering {
    body: Body,
    late: Pin<Box<Sleep>>,
    invocation: Arc<Invocation>,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Err(error))) => {
                let error = match error.downcast_ref::<trimaran_wasm_host::Error>() {
                    Some(error) => Error::from(error.clone()),
                    None => Error::Failed(format!("its response broke off: {error}")),
                };
                this.invocation.failed(&error);
                Poll::Ready(Some(Err(Box::new(error))))
            }
            Poll::Ready(frame) => Poll::Ready(frame),
            Poll::Pending => match this.late.as_mut().poll(context) {
                Poll::Ready(()) => {
                    this.invocation.failed(&Error::TimedOut);
                    Poll::Ready(Some(Err(Box::new(Error::TimedOut))))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
