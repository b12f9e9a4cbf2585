//! Locks, semaphores and elections of the grid.
//!
//! A [`Guard`] keeps its lease alive as long as it is there, and knows by its own clock when it can no longer be sure of it: before
//! anybody else can have the lock. Somebody who stands still meanwhile (a paused virtual machine, a long collection of garbage) finds
//! out afterwards, and what it writes then through [`Guard::grid`] is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;
use tracing::debug;
use trimaran_net::retry::Backoff;
use trimaran_placement::token;
use trimaran_proto::api::coordination::coordination_client::CoordinationClient;
use trimaran_proto::api::coordination::{
    AcquireRequest, DescribeReply, DescribeRequest, ReleaseRequest, RenewRequest,
};
use trimaran_proto::api::grid::Fence;

use crate::error::Error;
use crate::grid::{Grid, identified};

/// The lease of who names none.
const LEASE_DEFAULT: Duration = Duration::from_secs(10);

/// After which time a node answers who waits, to be asked again.
const ANSWERED_AFTER: Duration = Duration::from_secs(10);

/// A lease is renewed when this part of it is over.
const RENEWED_AFTER: u32 = 3;

/// Pause before a renewal that was not answered is tried again: this part of the lease.
const RENEWED_AGAIN_AFTER: u32 = 20;

/// Patience of who waits for ever.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);

/// How long it is looked for a node that goes on telling of changes.
const OBSERVE_PATIENCE: Duration = Duration::from_secs(60);

/// Who holds permits, and who waits.
pub type Holders = DescribeReply;

impl Grid {
    /// A lock: one holder at a time.
    pub fn lock(&self, name: impl Into<Bytes>) -> Semaphore {
        self.semaphore(name, 1)
    }

    /// So many permits, each held by one at a time. Everybody has to name the same number.
    pub fn semaphore(&self, name: impl Into<Bytes>, permits: u32) -> Semaphore {
        let (grid, name, value) = (self.clone(), name.into(), Bytes::new());
        Semaphore { grid, name, permits, take: 1, lease: LEASE_DEFAULT, value }
    }

    /// An election: who holds the lock of this name is the leader.
    pub fn election(&self, name: impl Into<Bytes>) -> Election {
        Election { lock: self.lock(name) }
    }
}

/// A lock or a semaphore.
#[derive(Clone, Debug)]
pub struct Semaphore {
    grid: Grid,
    name: Bytes,
    permits: u32,
    take: u32,
    lease: Duration,
    value: Bytes,
}

impl Semaphore {
    /// How long it stays held by somebody who is not heard of any more: 100 ms to a day, 10 s if nothing is said.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// Takes so many permits at once.
    #[must_use]
    pub fn take(self, take: u32) -> Self {
        Self { take, ..self }
    }

    /// What others are told about the holder: up to 4 KiB.
    #[must_use]
    pub fn value(self, value: impl Into<Bytes>) -> Self {
        Self { value: value.into(), ..self }
    }

    /// Takes permits if they are free and nobody waits for them.
    pub async fn try_acquire(&self) -> Result<Option<Guard>, Error> {
        self.acquire(Duration::ZERO).await
    }

    /// Waits for permits, first come first served; `None` if it is not its turn within `patience`. When it is dropped
    /// meanwhile its place in the queue is given up.
    pub async fn acquire(&self, patience: Duration) -> Result<Option<Guard>, Error> {
        let holder = format!("{:032x}", self.grid.routes.random.lock().random::<u128>());
        let holding = Holding {
            grid: self.grid.clone(),
            name: self.name.clone(),
            holder: holder.into(),
            lease: self.lease,
        };
        let deadline = Instant::now() + patience.min(FOR_EVER);
        let given_up = GivenUp(Some(holding.clone()));
        let mut attempts = 0;
        loop {
            let left = || deadline.saturating_duration_since(Instant::now());
            let mut sent = Instant::now();
            let acquire = |channel| {
                attempts += 1;
                sent = Instant::now();
                let request = AcquireRequest {
                    name: self.name.clone(),
                    holder: holding.holder.clone(),
                    permits: self.permits,
                    take: self.take,
                    lease_ms: milliseconds(self.lease),
                    wait_ms: milliseconds(left()),
                    value: self.value.clone(),
                    attempt: attempts,
                };
                let mut client = CoordinationClient::new(channel);
                async move { client.acquire(request).await }
            };
            let within = left().min(ANSWERED_AFTER);
            let reply = self.grid.asked(token::grid(&self.name), within, acquire).await?;
            if reply.token > 0 {
                let mut renewed_at = sent;
                // It was waited for: the lease may have begun just now, or long ago.
                if sent.elapsed() > self.lease / RENEWED_AFTER {
                    match holding.renew(reply.token, None).await {
                        Ok(sent) => renewed_at = sent,
                        Err(Error::Conflict(_)) => continue,
                        Err(error) => return Err(error),
                    }
                }
                given_up.disarm();
                return Ok(Some(Guard::new(holding, reply.token, renewed_at)));
            }
            if Instant::now() >= deadline {
                // The node has given its place up, or it never had one.
                if !reply.queued {
                    given_up.disarm();
                }
                return Ok(None);
            }
        }
    }

    /// Who holds permits, and who waits.
    pub async fn describe(&self) -> Result<Holders, Error> {
        let request = DescribeRequest { name: self.name.clone() };
        let describe = |channel| {
            let (mut client, request) = (CoordinationClient::new(channel), request.clone());
            async move { client.describe(request).await }
        };
        self.grid.asked(token::grid(&self.name), Duration::ZERO, describe).await
    }

    /// Who holds permits and waits, now and whenever it is somebody else.
    pub fn observe(&self) -> Observed {
        Observed { semaphore: self.clone(), stream: None, last: None }
    }
}

/// An election: the leader is who holds a lock, and says something about itself.
#[derive(Clone, Debug)]
pub struct Election {
    lock: Semaphore,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// What it says about itself.
    pub value: Bytes,
    /// Greater than that of any leader before.
    pub token: u64,
}

impl Leader {
    fn of(holders: &Holders) -> Option<Self> {
        let holding = holders.holdings.first()?;
        Some(Self { value: holding.value.clone(), token: holding.token })
    }
}

impl Election {
    /// How long a leader that is not heard of any more stays the leader.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Self { lock: self.lock.lease(lease) }
    }

    /// Stands for election and says something about itself (its address, say); `None` if it is not elected within `patience`.
    pub async fn campaign(
        &self,
        value: impl Into<Bytes>,
        patience: Duration,
    ) -> Result<Option<Guard>, Error> {
        self.lock.clone().value(value).acquire(patience).await
    }

    /// Who leads now.
    pub async fn leader(&self) -> Result<Option<Leader>, Error> {
        Ok(Leader::of(&self.lock.describe().await?))
    }

    /// Who leads, now and whenever it is somebody else or says something else.
    pub fn observe(&self) -> Leaders {
        Leaders { observed: self.lock.observe(), last: None }
    }
}

/// The leaders of an election, one after the other.
#[derive(Debug)]
pub struct Leaders {
    observed: Observed,
    /// What was told last.
    last: Option<Option<Leader>>,
}

impl Leaders {
    /// Who leads now, if it has not been told yet, else the next one; `None` while there is none. Of several in a short time
    /// only the last may be told.
    pub async fn next(&mut self) -> Result<Option<Leader>, Error> {
        loop {
            let leader = Leader::of(&self.observed.next().await?);
            if self.last.as_ref() != Some(&leader) {
                self.last = Some(leader.clone());
                return Ok(leader);
            }
        }
    }
}

/// What becomes of a semaphore. When the node that tells it ends, it goes on at another one.
#[derive(Debug)]
pub struct Observed {
    semaphore: Semaphore,
    stream: Option<Streaming<DescribeReply>>,
    last: Option<Holders>,
}

impl Observed {
    /// Who holds permits and waits now, if it has not been told yet, else once it is somebody else.
    ///
    /// Errors: [`Error::Unavailable`] if no node has told anything for a minute.
    pub async fn next(&mut self) -> Result<Holders, Error> {
        let deadline = Instant::now() + OBSERVE_PATIENCE;
        let mut backoff = Backoff::default();
        loop {
            let error = match &mut self.stream {
                Some(stream) => match stream.message().await {
                    Ok(Some(holders)) => {
                        if self.last.as_ref().is_some_and(|last| claims(last) == claims(&holders)) {
                            continue;
                        }
                        self.last = Some(holders.clone());
                        return Ok(holders);
                    }
                    Ok(None) => Error::Unavailable("the node has ended".to_owned()),
                    Err(status) => Error::from_status(&status),
                },
                None => {
                    let request = DescribeRequest { name: self.semaphore.name.clone() };
                    let observe = |channel| {
                        let (mut client, request) = (CoordinationClient::new(channel), request.clone());
                        async move { client.observe(request).await }
                    };
                    let token = token::grid(&self.semaphore.name);
                    match self.semaphore.grid.asked(token, Duration::ZERO, observe).await {
                        Ok(stream) => {
                            self.stream = Some(stream);
                            continue;
                        }
                        Err(error) => error,
                    }
                }
            };
            self.stream = None;
            let wait = backoff.next(&mut *self.semaphore.grid.routes.random.lock());
            if !error.is_passing() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            debug!(%error, "a semaphore is observed elsewhere");
            sleep(wait).await;
        }
    }
}

/// What is not the same only because time has passed is left out.
fn claims(holders: &Holders) -> Vec<(&Bytes, u64, &Bytes)> {
    let holdings = holders.holdings.iter().map(|holding| (&holding.holder, holding.token, &holding.value));
    holdings.chain(holders.queue.iter().map(|waiting| (&waiting.holder, 0, &waiting.value))).collect()
}

/// Whose it is, and what it takes to say so.
#[derive(Clone, Debug)]
struct Holding {
    grid: Grid,
    name: Bytes,
    holder: Bytes,
    lease: Duration,
}

impl Holding {
    /// Returns when the renewal was sent: the lease has begun anew since.
    async fn renew(&self, token: u64, value: Option<Bytes>) -> Result<Instant, Error> {
        let request = RenewRequest {
            name: self.name.clone(),
            holder: self.holder.clone(),
            token,
            lease_ms: milliseconds(self.lease),
            value,
        };
        let mut sent = Instant::now();
        let renew = |channel| {
            sent = Instant::now();
            let (mut client, request) = (CoordinationClient::new(channel), request.clone());
            async move { client.renew(request).await }
        };
        self.grid.asked(token::grid(&self.name), Duration::ZERO, renew).await?;
        Ok(sent)
    }

    async fn release(&self, token: u64) -> Result<bool, Error> {
        let id = self.grid.request_id();
        let release = |channel| {
            let release = ReleaseRequest { name: self.name.clone(), holder: self.holder.clone(), token };
            // The same for every attempt: else the second would find nothing to give back, and take the lease for lost.
            let request = identified(release, id);
            let mut client = CoordinationClient::new(channel);
            async move { client.release(request).await }
        };
        Ok(self.grid.asked(token::grid(&self.name), Duration::ZERO, release).await?.released)
    }

    /// Gives back what it has without anybody who waits for it.
    fn release_by_itself(self, token: u64) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = self.release(token).await {
                // It ends with its lease.
                debug!(%error, "a lock was not given back");
            }
        });
    }
}

/// What was asked for is given up with this.
struct GivenUp(Option<Holding>);

impl GivenUp {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(holding) = self.0.take() {
            holding.release_by_itself(0);
        }
    }
}

/// Permits that are held, as long as this is there and its lease is renewed. They are given back when it is dropped.
#[derive(Debug)]
pub struct Guard {
    holding: Holding,
    token: u64,
    /// When the last renewal was sent: the lease has begun since.
    renewed_at: Arc<Mutex<Instant>>,
    lost: watch::Receiver<bool>,
    /// Ends the renewals.
    _renewing: DropGuard,
    is_released: bool,
}

impl Guard {
    fn new(holding: Holding, token: u64, renewed_at: Instant) -> Self {
        let renewed_at = Arc::new(Mutex::new(renewed_at));
        let (losing, lost) = watch::channel(false);
        let stop = CancellationToken::new();
        let renewing = keep(holding.clone(), token, Arc::clone(&renewed_at), losing);
        tokio::spawn(stop.clone().run_until_cancelled_owned(renewing));
        Self { holding, token, renewed_at, lost, _renewing: stop.drop_guard(), is_released: false }
    }

    /// The fencing token: greater than that of any holding before. Give it to every store that is written to: one that
    /// remembers the greatest it has seen can refuse what comes too late.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// The holding, for [`Grid::fenced`].
    pub fn fence(&self) -> Fence {
        Fence { name: self.holding.name.clone(), token: self.token }
    }

    /// The grid, where what comes too late is refused, see [`Grid::fenced`].
    pub fn grid(&self) -> Grid {
        self.holding.grid.fenced(self.fence())
    }

    /// True as long as it is certain that nobody else holds it.
    pub fn is_held(&self) -> bool {
        !*self.lost.borrow() && Instant::now() < *self.renewed_at.lock() + certain(self.holding.lease)
    }

    /// Returns when it is not certain any more that it is held.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // Whoever tells it is gone only with this.
        let _told = lost.wait_for(|lost| *lost).await;
    }

    /// Does something as long as it is held: it is dropped where it waits when that is not certain any more.
    ///
    /// Errors: [`Error::LeaseLost`]; also if it has come to its end, but too late.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        let lost = || Error::LeaseLost(format!("token {}", self.token));
        let done = tokio::select! {
            biased;
            () = self.lost() => return Err(lost()),
            done = work => done,
        };
        if self.is_held() { Ok(done) } else { Err(lost()) }
    }

    /// Says something else about the holder; its lease begins anew.
    pub async fn set_value(&self, value: impl Into<Bytes>) -> Result<(), Error> {
        let sent = self.holding.renew(self.token, Some(value.into())).await?;
        let mut renewed_at = self.renewed_at.lock();
        *renewed_at = sent.max(*renewed_at);
        Ok(())
    }

    /// Gives the permits back and returns when they are; false if they were not held any more.
    pub async fn release(mut self) -> Result<bool, Error> {
        self.is_released = true;
        self.holding.release(self.token).await
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_released {
            self.holding.clone().release_by_itself(self.token);
        }
    }
}

/// How much of a lease a holder can be certain of by its own clock: that of a leader may go faster by an eighth, while it follows
/// one that was set (trimaran-net's `SteadyClock`).
fn certain(lease: Duration) -> Duration {
    lease - lease / 8
}

/// Renews a lease until it is lost.
async fn keep(holding: Holding, token: u64, renewed_at: Arc<Mutex<Instant>>, losing: watch::Sender<bool>) {
    let lease = holding.lease;
    loop {
        let began = *renewed_at.lock();
        sleep_until(began + lease / RENEWED_AFTER).await;
        match timeout_at(began + certain(lease), holding.renew(token, None)).await {
            Ok(Ok(sent)) => {
                let mut renewed_at = renewed_at.lock();
                *renewed_at = sent.max(*renewed_at);
            }
            Ok(Err(error)) if error.is_passing() => {
                debug!(%error, "a lease was not renewed yet");
                sleep(lease / RENEWED_AGAIN_AFTER).await;
            }
            Ok(Err(_)) | Err(_) => {
                losing.send_replace(true);
                return;
            }
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
