//! The memory data grid.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use trimaran_net::exchange::GridCalls;
use trimaran_net::retry::Backoff;
use trimaran_placement::token;
use trimaran_proto::api::grid::grid_client::GridClient;
use trimaran_proto::api::grid::{
    Call, CompareAndSwapRequest, DeleteRequest, ExpireRequest, Fence, GetRequest, IncrementRequest, Position,
    ScanRequest, SetRequest, answer, call,
};

use crate::error::Error;
use crate::route::{Pipelines, Routes, attempt_timeout};
use crate::watch::Watch;

/// Metadata key of a request id.
const REQUEST_ID: &str = "trimaran-request-id";

/// How long a request is tried.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What one page of a scan may take longer.
const SCAN_TIMEOUT: Duration = Duration::from_secs(8);

/// A client of a grid. Clones share its connections.
#[derive(Clone)]
pub struct Grid {
    pub(crate) routes: Arc<Routes>,
    pipelines: Pipelines<GridCalls>,
    /// What its writes depend on.
    fence: Option<Fence>,
}

impl std::fmt::Debug for Grid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grid").finish_non_exhaustive()
    }
}

/// A value with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Bytes,
    /// Grows with every change within the key's partition.
    pub version: u64,
    /// Time left; `None` = never expires.
    pub ttl: Option<Duration>,
}

/// How to set a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetOptions {
    /// Time to live, at least a millisecond; `None` = never expires.
    pub ttl: Option<Duration>,
    /// What must hold.
    pub condition: Condition,
}

/// What must hold for a key to be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// There is no such key.
    IfAbsent,
    /// There is such a key.
    IfPresent,
    /// The key has this version; 0 = there is no such key.
    IfVersion(u64),
}

impl Grid {
    /// Connects to a cluster of which these are some addresses, "host:port" of gRPC.
    pub async fn connect<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, Error> {
        Ok(Self {
            routes: Routes::connect(addresses, false).await?,
            pipelines: Pipelines::default(),
            fence: None,
        })
    }

    /// Connects through these addresses only, where those that nodes have for each other lead nowhere: from outside of a network of
    /// containers, through mapped ports or a load balancer. Any node serves any key, so that one is enough; it is a hop more.
    pub async fn connect_through<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Self, Error> {
        Ok(Self {
            routes: Routes::connect(addresses, true).await?,
            pipelines: Pipelines::default(),
            fence: None,
        })
    }

    /// The same grid, but what is written through it is refused with [`Error::Conflict`] once a holding of a lock is over:
    /// whoever has held it since is not disturbed, however late a write comes. Keys must be in the slot of the lock's name,
    /// which a common hash tag does: "{order-17}/lock" for "{order-17}/state".
    #[must_use]
    pub fn fenced(&self, fence: Fence) -> Self {
        Self { fence: Some(fence), ..self.clone() }
    }

    /// The value of a key; never older than any write acknowledged before.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        Ok(self.get_versioned(key).await?.map(|found| found.value))
    }

    /// The value of a key with its version and its time to live.
    pub async fn get_versioned(&self, key: impl Into<Bytes>) -> Result<Option<Versioned>, Error> {
        let key = key.into();
        match self.call(&key, call::Body::Get(GetRequest { key: key.clone() })).await? {
            answer::Body::Get(reply) => Ok(reply.value.map(|value| Versioned {
                value,
                version: reply.version,
                ttl: reply.ttl_ms.map(Duration::from_millis),
            })),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets a key and returns its version.
    pub async fn set(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<u64, Error> {
        let version = self.set_with(key, value, SetOptions::default()).await?;
        version.ok_or_else(|| Error::Broken("an unconditional set was refused".to_owned()))
    }

    /// Sets a key under a condition; `None` if it did not hold.
    pub async fn set_with(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: SetOptions,
    ) -> Result<Option<u64>, Error> {
        let key = key.into();
        let request = SetRequest {
            key: key.clone(),
            value: value.into(),
            ttl_ms: ttl_ms(options.ttl),
            if_absent: options.condition == Condition::IfAbsent,
            if_present: options.condition == Condition::IfPresent,
            if_version: match options.condition {
                Condition::IfVersion(version) => Some(version),
                _ => None,
            },
            keep_ttl: false,
            fence: self.fence.clone(),
        };
        match self.call(&key, call::Body::Set(request)).await? {
            answer::Body::Set(reply) => Ok(reply.applied.then_some(reply.version)),
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a key; false if there was none.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, Error> {
        let key = key.into();
        let request = DeleteRequest { key: key.clone(), if_version: None, fence: self.fence.clone() };
        match self.call(&key, call::Body::Delete(request)).await? {
            answer::Body::Delete(reply) => Ok(reply.deleted),
            other => Err(unexpected(&other)),
        }
    }

    /// Adds to the integer that a key holds (0 if there is none) and returns the sum.
    pub async fn increment(&self, key: impl Into<Bytes>, by: i64) -> Result<i64, Error> {
        let key = key.into();
        let request = IncrementRequest { key: key.clone(), by, ttl_ms: None, fence: self.fence.clone() };
        match self.call(&key, call::Body::Increment(request)).await? {
            answer::Body::Increment(reply) => Ok(reply.value),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets a key to `value` (`None` = deletes it) if it holds `expected` (`None` = is absent). Returns whether it
    /// did, and what it held.
    pub async fn compare_and_swap(
        &self,
        key: impl Into<Bytes>,
        expected: Option<Bytes>,
        value: Option<Bytes>,
    ) -> Result<(bool, Option<Bytes>), Error> {
        let key = key.into();
        let request = CompareAndSwapRequest { key: key.clone(), expected, value, fence: self.fence.clone() };
        match self.call(&key, call::Body::CompareAndSwap(request)).await? {
            answer::Body::CompareAndSwap(reply) => Ok((reply.swapped, reply.previous)),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives a key another time to live (`None` = for ever); false if there is no such key.
    pub async fn expire(&self, key: impl Into<Bytes>, ttl: Option<Duration>) -> Result<bool, Error> {
        let key = key.into();
        let request = ExpireRequest { key: key.clone(), ttl_ms: ttl_ms(ttl), fence: self.fence.clone() };
        match self.call(&key, call::Body::Expire(request)).await? {
            answer::Body::Expire(reply) => Ok(reply.applied),
            other => Err(unexpected(&other)),
        }
    }

    /// One page of all keys with a prefix: the keys, and the cursor to go on from (0 to begin, 0 = complete).
    pub async fn scan(
        &self,
        cursor: u64,
        count: u32,
        prefix: impl Into<Bytes>,
    ) -> Result<(Vec<Bytes>, u64), Error> {
        let request = ScanRequest { cursor, count, prefix: prefix.into() };
        let scan = |channel| {
            let (mut client, request) = (GridClient::new(channel), request.clone());
            async move { client.scan(request).await }
        };
        let reply = self.asked(token::Token(cursor), SCAN_TIMEOUT, scan).await?;
        Ok((reply.keys, reply.cursor))
    }

    /// Asks where a token is led, and again elsewhere until it is answered; each attempt may take `within` longer than it
    /// would else.
    pub(crate) async fn asked<T, F>(
        &self,
        token: token::Token,
        within: Duration,
        mut ask: impl FnMut(Channel) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + within + REQUEST_TIMEOUT;
        let mut backoff = Backoff::default();
        let mut attempt = 0;
        loop {
            let attempt_deadline = deadline.min(Instant::now() + within + attempt_timeout(attempt));
            let error = match self.routes.address(token, attempt) {
                None => no_address(),
                Some(address) => {
                    let channel = self.routes.channel(&address)?;
                    match timeout_at(attempt_deadline, ask(channel)).await {
                        Ok(Ok(reply)) => return Ok(reply.into_inner()),
                        Ok(Err(status)) => Error::from_status(&status),
                        Err(_elapsed) => {
                            self.routes.shun(&address);
                            Error::Unavailable(format!("{address} does not answer"))
                        }
                    }
                }
            };
            attempt += 1;
            self.pause(error, deadline, &mut backoff).await?;
        }
    }

    /// Changes of a key, or of all keys with a prefix, from the given positions on (none = from now on).
    pub async fn watch(
        &self,
        key: impl Into<Bytes>,
        prefix: bool,
        from: Vec<Position>,
    ) -> Result<Watch, Error> {
        Watch::begin(self.clone(), key.into(), prefix, from).await
    }

    /// One that nobody else draws.
    pub(crate) fn request_id(&self) -> u128 {
        self.routes.random.lock().random()
    }

    pub(crate) fn client_for(&self, key: &[u8]) -> Result<GridClient<Channel>, Error> {
        let address = self.routes.address(token::grid(key), 0).ok_or_else(no_address)?;
        Ok(GridClient::new(self.routes.channel(&address)?))
    }

    /// Sends a call to the leader of the key's partition, and again elsewhere until it is answered.
    async fn call(&self, key: &[u8], body: call::Body) -> Result<answer::Body, Error> {
        let token = token::grid(key);
        let id = self.request_id();
        // The same for every attempt: that is what makes a retry safe.
        let request_id = Bytes::copy_from_slice(&id.to_be_bytes());
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let mut backoff = Backoff::default();
        let mut attempt = 0;
        loop {
            let call = Call { id: 0, request_id: request_id.clone(), body: Some(body.clone()) };
            let attempt_deadline = deadline.min(Instant::now() + attempt_timeout(attempt));
            let error = match self.routes.address(token, attempt) {
                None => no_address(),
                Some(address) => {
                    let pipeline = self.pipelines.to(&self.routes, &address)?;
                    match timeout_at(attempt_deadline, pipeline.call(call)).await {
                        Ok(Ok(answer)) => match answer.body {
                            Some(answer::Body::Failure(failure)) => {
                                let code =
                                    i32::try_from(failure.grpc_code).map_or(Code::Unknown, Code::from_i32);
                                Error::from_code(code, failure.message)
                            }
                            Some(body) => return Ok(body),
                            None => Error::Broken("an answer of a newer release".to_owned()),
                        },
                        Ok(Err(down)) => {
                            self.routes.shun(&address);
                            Error::Unavailable(format!("{address}: {down}"))
                        }
                        Err(_elapsed) => {
                            self.routes.shun(&address);
                            Error::Unavailable(format!("{address} does not answer"))
                        }
                    }
                }
            };
            attempt += 1;
            self.pause(error, deadline, &mut backoff).await?;
        }
    }

    /// Waits and looks for the leader again, or gives up with the error.
    async fn pause(&self, error: Error, deadline: Instant, backoff: &mut Backoff) -> Result<(), Error> {
        let wait = backoff.next(&mut *self.routes.random.lock());
        if !error.is_passing() || Instant::now() + wait >= deadline {
            return Err(error);
        }
        sleep(wait).await;
        // A stale table still leads to nodes that pass requests on.
        if let Err(stale) = self.routes.refresh().await {
            tracing::debug!(error = %stale, "the partition table was not refreshed");
        }
        Ok(())
    }
}

/// A request that may be sent again under the same id: it is carried out once.
pub(crate) fn identified<T>(message: T, id: u128) -> Request<T> {
    let mut request = Request::new(message);
    // Digits and letters always are a value.
    if let Ok(id) = MetadataValue::try_from(format!("{id:032x}")) {
        request.metadata_mut().insert(REQUEST_ID, id);
    }
    request
}

fn ttl_ms(ttl: Option<Duration>) -> Option<u64> {
    ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

fn no_address() -> Error {
    Error::Unavailable("no node of the cluster is known".to_owned())
}

fn unexpected(answer: &answer::Body) -> Error {
    Error::Broken(format!("an answer to another question: {answer:?}"))
}
