//! Locks, semaphores and elections over gRPC. What is asked for goes into the partition's log, which has the queue too; that it
//! is somebody's turn is told by the partition's leader, as that there is an element for who waits for one.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::debug;
use trimaran_net::status::status;
use trimaran_proto::api::coordination::coordination_server::{Coordination, CoordinationServer};
use trimaran_proto::api::coordination::{
    AcquireReply, AcquireRequest, DescribeReply, DescribeRequest, Holding, ReleaseReply, ReleaseRequest,
    RenewReply, RenewRequest, Waiting,
};
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::query::Body as QueryBody;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{Acquire, Claim, Release, Renew, Reply, Semaphore};
use trimaran_replication::session::RequestId;

use crate::command::table::SEMAPHORE_FORMAT;
use crate::error::Error;
use crate::front::check_length;
use crate::front::grpc::{request_id, respond};
use crate::limits::{
    ACQUIRE_ANSWERED_AFTER, HOLDER_BYTES_MAX, HOLDER_VALUE_BYTES_MAX, LEASE_MS, PERMITS_MAX, PLACE_KEPT,
    SEMAPHORE_BYTES_MAX, SEMAPHORE_NAME_BYTES_MAX,
};
use crate::queue::{self, Wanted};
use crate::router::{Router, Write, token_of};
use crate::waiters::{Awaited, Turn};

/// How long it is waited until who leads is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The service over a router. What waits ends when `stop` is cancelled.
pub fn service(router: Router, stop: CancellationToken) -> CoordinationServer<impl Coordination> {
    CoordinationServer::new(Service { router, stop })
}

#[derive(Clone)]
struct Service {
    router: Router,
    stop: CancellationToken,
}

impl Service {
    async fn write(&self, name: &[u8], body: Body, id: Option<RequestId>) -> Result<Reply, Error> {
        if self.router.format() < SEMAPHORE_FORMAT {
            return Err(Error::NotKnownYet);
        }
        let reply = self.router.write_one(Write::of(name, body), id).await?;
        match reply.outcome() {
            Outcome::Differs => Err(Error::PermitsDiffer),
            Outcome::Crowded => {
                let max = SEMAPHORE_BYTES_MAX as u64;
                Err(Error::Limit {
                    field: "holders and values",
                    limit: "SEMAPHORE_BYTES_MAX",
                    actual: max + 1,
                    max,
                })
            }
            _ => Ok(reply),
        }
    }

    async fn acquire(&self, request: AcquireRequest) -> Result<AcquireReply, Error> {
        let (acquire, wait) = checked(request)?;
        let until = Instant::now() + wait.min(ACQUIRE_ANSWERED_AFTER);
        let since_ms = self.router.clock_ms();
        let wanted = Wanted {
            keys: vec![acquire.name.clone()],
            awaited: Awaited::Permit(acquire.holder.clone()),
            since_ms,
        };
        let broken_off = BrokenOff::armed(self, &acquire);
        let place_ms = u64::try_from(PLACE_KEPT.as_millis()).unwrap_or(u64::MAX);
        let reply = loop {
            let is_over = Instant::now() >= until;
            // Whoever has waited long enough gives its place up, and hears whether it was its turn just now.
            let place_ms = if is_over && wait <= ACQUIRE_ANSWERED_AFTER { 0 } else { place_ms };
            let asked =
                self.write(&acquire.name, Body::Acquire(Acquire { place_ms, ..acquire.clone() }), None);
            let reply = match asked.await {
                Ok(reply) => reply,
                Err(error) => break Err(error),
            };
            match reply.acquired {
                Some(acquired) if acquired.token == 0 && !is_over => {}
                Some(acquired) if acquired.token == 0 => {
                    break Ok(AcquireReply { token: 0, queued: true, ahead: acquired.ahead });
                }
                Some(acquired) => {
                    break Ok(AcquireReply { token: acquired.token, ..AcquireReply::default() });
                }
                None => break Ok(AcquireReply::default()),
            }
            tokio::select! {
                turn = timeout_at(until, self.turn(&wanted)) => match turn {
                    Ok(Ok(())) | Err(_) => {}
                    Ok(Err(error)) => break Err(error),
                },
                // The place is kept: it goes on at another node.
                () = self.stop.cancelled() => break Err(Error::NotReady),
            }
        };
        broken_off.disarm();
        reply
    }

    /// Returns when there may be something else to be said of a semaphore.
    ///
    /// Errors: [`Error::Limit`] if too many wait.
    async fn turn(&self, wanted: &Wanted) -> Result<(), Error> {
        let Some(name) = wanted.keys.first() else { return Ok(()) };
        match queue::enter(&self.router, token_of(name), wanted).await {
            Ok(mut place) => {
                if place.turn().await != Turn::Has {
                    sleep(ASK_AGAIN_AFTER).await;
                }
                Ok(())
            }
            Err(error @ Error::Limit { .. }) => Err(error),
            // Who leads is not known just now, or has changed.
            Err(_elsewhere) => {
                sleep(ASK_AGAIN_AFTER).await;
                Ok(())
            }
        }
    }

    async fn renew(&self, request: RenewRequest) -> Result<RenewReply, Error> {
        let RenewRequest { name, holder, token, lease_ms, value } = request;
        check_names(&name, &holder)?;
        check_lease(lease_ms)?;
        check_holder_value(value.as_deref().unwrap_or_default())?;
        let renew = Renew { name: name.clone(), holder, token, lease_ms, value };
        self.write(&name, Body::Renew(renew), None).await?;
        Ok(RenewReply {})
    }

    async fn release(&self, request: ReleaseRequest, id: Option<RequestId>) -> Result<ReleaseReply, Error> {
        let ReleaseRequest { name, holder, token } = request;
        check_names(&name, &holder)?;
        let release = Release { name: name.clone(), holder, token, attempt: None };
        let reply = self.write(&name, Body::Release(release), id).await?;
        Ok(ReleaseReply { released: reply.integer > 0 })
    }

    /// As it is told, with its version; 0 = nobody has anything to do with it.
    async fn describe(&self, name: &Bytes) -> Result<(DescribeReply, u64), Error> {
        check_name(name)?;
        if self.router.format() < SEMAPHORE_FORMAT {
            return Err(Error::NotKnownYet);
        }
        let reply = self.router.read_one(token_of(name), QueryBody::Semaphore(name.clone())).await?;
        let Some(semaphore) = reply.semaphore else { return Ok((DescribeReply::default(), 0)) };
        let version = semaphore.version;
        Ok((described(semaphore, reply.now_ms), version))
    }
}

/// What is due counts as over, whether it has been ended or not.
fn described(semaphore: Semaphore, now_ms: u64) -> DescribeReply {
    let lasts = |ends_at_ms: u64| ends_at_ms.checked_sub(now_ms).filter(|left| *left > 0);
    let holding = |claim: Claim| {
        let lease_ms = lasts(claim.ends_at_ms)?;
        Some(Holding {
            holder: claim.holder,
            token: claim.token,
            taken: claim.take,
            lease_ms,
            value: claim.value,
        })
    };
    let waiting = |claim: Claim| {
        lasts(claim.ends_at_ms)?;
        Some(Waiting { holder: claim.holder, take: claim.take, value: claim.value })
    };
    let holdings: Vec<Holding> = semaphore.holdings.into_iter().filter_map(holding).collect();
    let queue: Vec<Waiting> = semaphore.queue.into_iter().filter_map(waiting).collect();
    let permits = if holdings.is_empty() && queue.is_empty() { 0 } else { semaphore.permits };
    DescribeReply { permits, holdings, queue }
}

/// Gives up what a client has got, or its place, that does not wait for the answer any more, unless it has asked again.
struct BrokenOff(Option<(Service, Release)>);

impl BrokenOff {
    fn armed(service: &Service, acquire: &Acquire) -> Self {
        let (name, holder) = (acquire.name.clone(), acquire.holder.clone());
        let release = Release { name, holder, token: 0, attempt: Some(acquire.attempt) };
        Self(Some((service.clone(), release)))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for BrokenOff {
    fn drop(&mut self) {
        let Some((service, release)) = self.0.take() else { return };
        tokio::spawn(async move {
            let name = release.name.clone();
            if let Err(error) = service.write(&name, Body::Release(release), None).await {
                // Its place, or its lease, ends by itself.
                debug!(%error, "what a client has broken off was not given up at once");
            }
        });
    }
}

fn check_name(name: &[u8]) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::Invalid { field: "name", reason: "it must not be empty" });
    }
    check_length("name", "SEMAPHORE_NAME_BYTES_MAX", name.len(), SEMAPHORE_NAME_BYTES_MAX)
}

fn check_names(name: &[u8], holder: &[u8]) -> Result<(), Error> {
    check_name(name)?;
    if holder.is_empty() {
        return Err(Error::Invalid { field: "holder", reason: "it must not be empty" });
    }
    check_length("holder", "HOLDER_BYTES_MAX", holder.len(), HOLDER_BYTES_MAX)
}

fn check_lease(lease_ms: u64) -> Result<(), Error> {
    if LEASE_MS.contains(&lease_ms) {
        return Ok(());
    }
    let max = *LEASE_MS.end();
    if lease_ms > max {
        return Err(Error::Limit { field: "lease_ms", limit: "LEASE_MS", actual: lease_ms, max });
    }
    Err(Error::Invalid { field: "lease_ms", reason: "it must be at least 100 (LEASE_MS)" })
}

fn check_holder_value(value: &[u8]) -> Result<(), Error> {
    check_length("value", "HOLDER_VALUE_BYTES_MAX", value.len(), HOLDER_VALUE_BYTES_MAX)
}

/// What is asked for, as it goes into the log but for the place in the queue, and how long it is waited for.
fn checked(request: AcquireRequest) -> Result<(Acquire, Duration), Error> {
    let AcquireRequest { name, holder, permits, take, lease_ms, wait_ms, value, attempt } = request;
    let (permits, take) = (permits.max(1), take.max(1));
    check_names(&name, &holder)?;
    check_lease(lease_ms)?;
    check_holder_value(&value)?;
    if permits > PERMITS_MAX {
        let (actual, max) = (permits.into(), PERMITS_MAX.into());
        return Err(Error::Limit { field: "permits", limit: "PERMITS_MAX", actual, max });
    }
    if take > permits {
        let (actual, max) = (take.into(), permits.into());
        return Err(Error::Limit { field: "take", limit: "permits", actual, max });
    }
    let acquire = Acquire { name, holder, permits, take, lease_ms, place_ms: 0, value, attempt };
    Ok((acquire, Duration::from_millis(wait_ms)))
}

#[tonic::async_trait]
impl Coordination for Service {
    async fn acquire(&self, request: Request<AcquireRequest>) -> Result<Response<AcquireReply>, Status> {
        respond(Service::acquire(self, request.into_inner()).await)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        respond(Service::renew(self, request.into_inner()).await)
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseReply>, Status> {
        let id = request_id(&request)?;
        respond(Service::release(self, request.into_inner(), id).await)
    }

    async fn describe(&self, request: Request<DescribeRequest>) -> Result<Response<DescribeReply>, Status> {
        let described = Service::describe(self, &request.into_inner().name).await;
        respond(described.map(|(reply, _)| reply))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<DescribeReply, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let name = request.into_inner().name;
        let first = respond(Service::describe(self, &name).await)?.into_inner();
        let state = Some((self.clone(), name, first.1));
        let changes = futures::stream::unfold(state, |state| async move {
            let (service, name, version) = state?;
            let keys = vec![name.clone()];
            let since_ms = service.router.clock_ms();
            let wanted = Wanted { keys, awaited: Awaited::Change(version), since_ms };
            loop {
                let told = match service.turn(&wanted).await {
                    Ok(()) => Service::describe(&service, &name).await,
                    Err(error) => Err(error),
                };
                match told {
                    Ok((_, now)) if now == version => {}
                    Ok((reply, now)) => return Some((Ok(reply), Some((service, name, now)))),
                    Err(error) => return Some((Err(status(&error)), None)),
                }
            }
        });
        let told = futures::stream::once(futures::future::ready(Ok(first.0)));
        Ok(Response::new(Box::pin(told.chain(changes).take_until(self.stop.clone().cancelled_owned()))))
    }
}
