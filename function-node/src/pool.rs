//! The instances of one revision on this node: requests get a place in one, wait for one in a bounded queue, and
//! instances come and go with them, from none and back to none.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::error::Error;
use crate::metrics::Meters;
use crate::runtime::{Instance, Prepared, Runtime};
use crate::scale::{self, Bounds, Load};
use crate::spec::Revision;

/// The instances of one revision.
pub(crate) struct Pool {
    pub(crate) revision: Arc<Revision>,
    pub(crate) meters: Meters,
    runtime: Arc<dyn Runtime>,
    /// Starts and stops of instances, which a node that stops waits for.
    tasks: TaskTracker,
    state: Mutex<State>,
    /// One prepares, the others wait for it.
    preparing: tokio::sync::Mutex<()>,
    this: Weak<Self>,
}

#[derive(Default)]
struct State {
    prepared: Option<Arc<dyn Prepared>>,
    slots: Vec<Slot>,
    next_slot: u64,
    starting: usize,
    waiting: VecDeque<oneshot::Sender<Result<Lease, Error>>>,
    /// No more requests: the function has a newer revision, or is gone.
    retired: bool,
}

struct Slot {
    id: u64,
    instance: Arc<dyn Instance>,
    running: usize,
    idle_since: Instant,
}

/// A place in an instance, given back when dropped.
pub(crate) struct Lease {
    /// Absent = given back already.
    pool: Option<Arc<Pool>>,
    slot: u64,
    instance: Arc<dyn Instance>,
    /// How long the start of the instance took, if it was started for those who waited.
    init: Duration,
}

impl Lease {
    pub(crate) fn instance(&self) -> &Arc<dyn Instance> {
        &self.instance
    }

    pub(crate) fn instance_name(&self) -> &str {
        self.instance.name()
    }

    /// The instance takes no more requests.
    pub(crate) fn broken(self) {
        if let Some(pool) = &self.pool {
            pool.remove(self.slot, "it takes no requests");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.release(self.slot);
        }
    }
}

/// What is going on, for those who ask.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) instances: usize,
    pub(crate) running: usize,
    pub(crate) waiting: usize,
}

impl Pool {
    pub(crate) fn new(revision: Arc<Revision>, runtime: Arc<dyn Runtime>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            meters: Meters::new(&revision.function),
            revision,
            runtime,
            tasks,
            state: Mutex::default(),
            preparing: tokio::sync::Mutex::default(),
            this: Weak::clone(this),
        })
    }

    /// A place in an instance, with the time that went into waiting and into starting it. `None` if the pool takes no
    /// more requests: there is a newer one.
    pub(crate) async fn lease(
        &self,
        deadline: Instant,
    ) -> Option<Result<(Lease, Duration, Duration), Error>> {
        let began = Instant::now();
        let waits = {
            let mut state = self.state.lock();
            if state.retired {
                return None;
            }
            if let Some(lease) = self.place(&mut state, Duration::ZERO) {
                return Some(Ok((lease, Duration::ZERO, Duration::ZERO)));
            }
            state.waiting.retain(|waiting| !waiting.is_closed());
            let max = self.revision.spec.queue;
            // Those who wait for an instance that is being started for them do not wait in the queue.
            let coming = self.coming(&state);
            if state.waiting.len() >= coming + max as usize {
                return Some(Err(Error::QueueFull { function: self.revision.function.clone(), max }));
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            self.grow(&mut state);
            receiver
        };
        Some(match timeout_at(deadline, waits).await {
            Ok(Ok(Ok(lease))) => {
                let waited = began.elapsed();
                let init = lease.init.min(waited);
                Ok((lease, waited - init, init))
            }
            Ok(Ok(Err(error))) => Err(error),
            // The pool is gone.
            Ok(Err(_dropped)) => Err(Error::NotReady),
            Err(_elapsed) => Err(Error::NoInstance {
                function: self.revision.function.clone(),
                after: self.revision.spec.timeout,
            }),
        })
    }

    /// Places that instances will have that are being started.
    fn coming(&self, state: &State) -> usize {
        let spec = &self.revision.spec;
        let more = (spec.max_instances as usize).saturating_sub(state.slots.len());
        more * spec.concurrency as usize
    }

    /// The first instance with a place: later ones are left alone, and end when they are not needed.
    fn place(&self, state: &mut State, init: Duration) -> Option<Lease> {
        let concurrency = self.revision.spec.concurrency as usize;
        let slot = state.slots.iter_mut().find(|slot| slot.running < concurrency)?;
        let pool = self.this.upgrade()?;
        slot.running += 1;
        Some(Lease { pool: Some(pool), slot: slot.id, instance: Arc::clone(&slot.instance), init })
    }

    fn bounds(&self) -> Bounds {
        let spec = &self.revision.spec;
        Bounds { concurrency: spec.concurrency as usize, instances: spec.max_instances as usize }
    }

    /// Starts as many instances as are wanted now.
    fn grow(&self, state: &mut State) {
        let running = state.slots.iter().map(|slot| slot.running).sum();
        let load = Load { running, waiting: state.waiting.len() };
        let wanted = scale::wanted(load, self.bounds());
        while state.slots.len() + state.starting < wanted {
            let Some(pool) = self.this.upgrade() else { return };
            state.starting += 1;
            self.tasks.spawn(async move { pool.start().await });
        }
    }

    async fn start(self: Arc<Self>) {
        let began = Instant::now();
        let started = match self.prepared().await {
            Ok(prepared) => prepared.start().await,
            Err(error) => Err(error),
        };
        let mut state = self.state.lock();
        state.starting -= 1;
        match started {
            Ok(instance) => {
                self.meters.started();
                let id = state.next_slot;
                state.next_slot += 1;
                debug!(function = self.revision.function, instance = instance.name(), "started");
                let ends = Arc::clone(&instance);
                let pool = Arc::downgrade(&self);
                tokio::spawn(async move {
                    let why = ends.ended().await;
                    if let Some(pool) = pool.upgrade() {
                        pool.remove(id, &why);
                    }
                });
                let slot = Slot { id, instance, running: 0, idle_since: Instant::now() };
                state.slots.push(slot);
                self.serve_waiting(&mut state, began.elapsed());
            }
            Err(error) => {
                info!(%error, function = self.revision.function, "an instance did not start");
                // Others may still serve those who wait; if there are none, nobody will.
                if state.slots.is_empty() && state.starting == 0 {
                    for waiting in state.waiting.drain(..) {
                        let _gone = waiting.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Makes the code ready, once.
    pub(crate) async fn prepared(&self) -> Result<Arc<dyn Prepared>, Error> {
        let _one = self.preparing.lock().await;
        if let Some(prepared) = &self.state.lock().prepared {
            return Ok(Arc::clone(prepared));
        }
        let prepared = self.runtime.prepare(Arc::clone(&self.revision)).await?;
        self.state.lock().prepared = Some(Arc::clone(&prepared));
        Ok(prepared)
    }

    /// Gives free places to those who wait, first come, first served.
    fn serve_waiting(&self, state: &mut State, init: Duration) {
        while !state.waiting.is_empty() {
            let Some(mut lease) = self.place(state, init) else { return };
            loop {
                let Some(waiting) = state.waiting.pop_front() else {
                    // Nobody wants it any more; giving it back takes the lock that is held here.
                    lease.pool = None;
                    free(state, lease.slot);
                    return;
                };
                match waiting.send(Ok(lease)) {
                    Ok(()) => break,
                    // One who no longer waits leaves the place to the next.
                    Err(Ok(unwanted)) => lease = unwanted,
                    Err(Err(_no_lease)) => return,
                }
            }
        }
    }

    fn release(&self, slot: u64) {
        let mut state = self.state.lock();
        free(&mut state, slot);
        self.serve_waiting(&mut state, Duration::ZERO);
        let retired = state.retired;
        drop(state);
        if retired {
            self.shrink();
        }
    }

    /// Takes an instance out that is of no use; those who wait get another.
    fn remove(&self, slot: u64, why: &str) {
        let mut state = self.state.lock();
        let Some(index) = state.slots.iter().position(|found| found.id == slot) else { return };
        let removed = state.slots.remove(index);
        info!(
            function = self.revision.function,
            instance = removed.instance.name(),
            why,
            "an instance is gone"
        );
        self.grow(&mut state);
        drop(state);
        self.tasks.spawn(async move { removed.instance.stop().await });
    }

    /// Stops instances that had nothing to do for long enough.
    pub(crate) fn shrink(&self) {
        let mut state = self.state.lock();
        let idle = if state.retired { Duration::ZERO } else { self.revision.spec.idle };
        let over = |slot: &Slot| slot.running == 0 && slot.idle_since.elapsed() >= idle;
        if !state.waiting.is_empty() || !state.slots.iter().any(over) {
            return;
        }
        let (ended, kept) = std::mem::take(&mut state.slots).into_iter().partition::<Vec<Slot>, _>(over);
        state.slots = kept;
        if state.slots.is_empty() && state.starting == 0 {
            // Back to zero: the code is not kept in memory either.
            state.prepared = None;
        }
        drop(state);
        for slot in ended {
            debug!(function = self.revision.function, instance = slot.instance.name(), "has nothing to do");
            self.tasks.spawn(async move { slot.instance.stop().await });
        }
    }

    /// Takes no more requests; instances end with those they have.
    pub(crate) fn retire(&self) {
        self.state.lock().retired = true;
        self.shrink();
    }

    /// True if a retired pool has nothing left.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.retired && state.slots.is_empty() && state.starting == 0 && state.waiting.is_empty()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        Snapshot {
            instances: state.slots.len(),
            running: state.slots.iter().map(|slot| slot.running).sum(),
            waiting: state.waiting.len(),
        }
    }
}

fn free(state: &mut State, slot: u64) {
    if let Some(slot) = state.slots.iter_mut().find(|found| found.id == slot) {
        slot.running -= 1;
        slot.idle_since = Instant::now();
    }
}
