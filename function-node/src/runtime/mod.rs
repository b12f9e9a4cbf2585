//! How code runs: one file a runtime, behind [`Runtime`].

use std::sync::Arc;

use async_trait::async_trait;
use http::{Request, Response};

use crate::error::Error;
use crate::invocation::Invocation;
use crate::spec::Revision;

pub(crate) mod process;
pub(crate) mod wasm;

/// A body of a request or a response, as it arrives.
pub(crate) use trimaran_wasm_host::Body;

/// Makes revisions ready to run.
#[async_trait]
pub(crate) trait Runtime: Send + Sync + 'static {
    /// Gets the code onto this node and ready; fails if the package is of no use to this runtime.
    async fn prepare(&self, revision: Arc<Revision>) -> Result<Arc<dyn Prepared>, Error>;
}

/// Code that is ready.
#[async_trait]
pub(crate) trait Prepared: Send + Sync + 'static {
    /// Starts an instance and returns when it takes requests.
    async fn start(&self) -> Result<Arc<dyn Instance>, Error>;
}

/// Something that answers requests.
#[async_trait]
pub(crate) trait Instance: Send + Sync + 'static {
    /// Tells instances of all nodes apart.
    fn name(&self) -> &str;

    /// Answers one request; returns with the head of the response. Whoever works on the invocation keeps it.
    async fn call(
        &self,
        request: Request<Body>,
        invocation: Arc<Invocation>,
    ) -> Result<Response<Body>, Failure>;

    /// Returns when the instance has ended by itself, with the reason.
    async fn ended(&self) -> String;

    /// Ends it: politely at first, in any case within a bound.
    async fn stop(&self);
}

/// Why an instance did not answer.
pub(crate) enum Failure {
    /// It never got the request: another one may have it.
    Undelivered(Box<Request<Body>>, Error),
    /// It got it.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
