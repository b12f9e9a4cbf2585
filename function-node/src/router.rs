//! A request to a function: its revision, a place in an instance, the answer.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::timeout_at;
use tokio_util::task::TaskTracker;
use trimaran_proto::api::functions as wire;

use crate::catalog::Catalog;
use crate::error::Error;
use crate::invocation::Invocation;
use crate::limits::DELIVERIES_MAX;
use crate::logs::Logs;
use crate::package::{Packages, Receiving};
use crate::pool::{Pool, Snapshot};
use crate::runtime::process::Processes;
use crate::runtime::wasm::Wasm;
use crate::runtime::{Body, Failure, Runtime};
use crate::spec::{self, Kind, Revision, Spec};

/// Finds a place for each request. Clones share everything.
#[derive(Clone)]
pub(crate) struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: Catalog,
    packages: Arc<Packages>,
    logs: Logs,
    wasm: Arc<Wasm>,
    processes: Arc<Processes>,
    pools: Mutex<HashMap<String, Arc<Pool>>>,
    /// Pools of earlier revisions that still have instances.
    retired: Mutex<Vec<Arc<Pool>>>,
    tasks: TaskTracker,
    random: Mutex<StdRng>,
}

/// A request that failed, with the id under which its log has more.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) invocation_id: String,
}

impl Router {
    pub(crate) fn new(
        catalog: Catalog,
        packages: Arc<Packages>,
        logs: Logs,
        wasm: Arc<Wasm>,
        processes: Arc<Processes>,
        random: StdRng,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                catalog,
                packages,
                logs,
                wasm,
                processes,
                pools: Mutex::default(),
                retired: Mutex::default(),
                tasks: TaskTracker::new(),
                random: Mutex::new(random),
            }),
        }
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    pub(crate) fn packages(&self) -> &Packages {
        &self.inner.packages
    }

    pub(crate) fn logs(&self) -> &Logs {
        &self.inner.logs
    }

    /// Calls a function. Returns with the head of the response; its body comes as the function sends it.
    pub(crate) async fn call(
        &self,
        function: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Failed> {
        let unknown = |error| Failed { error, invocation_id: String::new() };
        let revision = self.inner.catalog.get(function).await.map_err(unknown)?;
        let id = uuid::Builder::from_random_bytes(self.inner.random.lock().random()).into_uuid().to_string();
        let mut invocation = Arc::new(Invocation::new(id, self.pool(&revision), self.inner.logs.clone()));
        for delivery in 1.. {
            let (lease, queue, init) = match invocation.pool.lease(invocation.deadline).await {
                Some(Ok(leased)) => leased,
                Some(Err(error)) => return Err(failed(&invocation, error)),
                None => {
                    // A newer revision came in between: it answers, under the same id.
                    let revision = self.inner.catalog.get(function).await.map_err(unknown)?;
                    invocation = Arc::new(invocation.supersede(self.pool(&revision)));
                    continue;
                }
            };
            let instance = Arc::clone(lease.instance());
            invocation.enters(lease, queue, init);
            let called =
                timeout_at(invocation.deadline, instance.call(request, Arc::clone(&invocation))).await;
            match called {
                Ok(Ok(response)) => return Ok(invocation.answered(response)),
                Ok(Err(Failure::Failed(error))) => return Err(failed(&invocation, error)),
                Ok(Err(Failure::Undelivered(_, error))) if delivery >= DELIVERIES_MAX => {
                    return Err(failed(&invocation, error));
                }
                Ok(Err(Failure::Undelivered(again, _))) => {
                    invocation.leaves_broken();
                    request = *again;
                }
                Err(_elapsed) => return Err(failed(&invocation, Error::TimedOut)),
            }
        }
        Err(unknown(Error::NotReady))
    }

    /// The pool of a revision; one of another revision of the same function is retired.
    fn pool(&self, revision: &Arc<Revision>) -> Arc<Pool> {
        let mut pools = self.inner.pools.lock();
        if let Some(pool) = pools.get(&revision.function)
            && (Arc::ptr_eq(&pool.revision, revision) || pool.revision == *revision)
        {
            return Arc::clone(pool);
        }
        let runtime: Arc<dyn Runtime> = match revision.spec.kind {
            Kind::Wasm => Arc::clone(&self.inner.wasm) as _,
            Kind::Process => Arc::clone(&self.inner.processes) as _,
        };
        let pool = Pool::new(Arc::clone(revision), runtime, self.inner.tasks.clone());
        let before = pools.insert(revision.function.clone(), Arc::clone(&pool));
        drop(pools);
        if let Some(before) = before {
            self.retire(before);
        }
        pool
    }

    fn retire(&self, pool: Arc<Pool>) {
        pool.retire();
        self.inner.retired.lock().push(pool);
    }

    /// Stores a package and makes a function, or its next revision, that runs it. It was tried whether this node can
    /// make it ready.
    pub(crate) async fn deploy(
        &self,
        head: wire::DeployHead,
        package: Option<Receiving>,
        now_ms: u64,
    ) -> Result<(Arc<Revision>, bool), Error> {
        let wire::DeployHead { name, spec, package_digest: digest, package_bytes: bytes } = head;
        spec::check_name(&name)?;
        spec::check_digest(&digest)?;
        let wire = spec.ok_or_else(|| Error::Invalid("spec is missing".to_owned()))?;
        let spec = Spec::read(&wire)?;
        match package {
            Some(package) => {
                let package: Bytes = package.finish(&digest)?;
                self.inner.packages.store(&digest, package).await?;
            }
            None if self.inner.packages.touch(&digest).await? => {}
            None => return Err(Error::PackageMissing(digest)),
        }
        let revision = Revision { function: name, number: 0, spec, wire, digest, bytes, created_ms: now_ms };
        // A package that cannot run is refused here and not found out by the first caller.
        self.prepare(Arc::new(revision.clone())).await?;
        self.inner.catalog.put(revision).await
    }

    async fn prepare(&self, revision: Arc<Revision>) -> Result<(), Error> {
        match revision.spec.kind {
            Kind::Wasm => self.inner.wasm.prepare(revision).await?,
            Kind::Process => self.inner.processes.prepare(revision).await?,
        };
        Ok(())
    }

    /// Deletes a function with its revisions and logs. Requests under way are answered.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Error> {
        self.inner.catalog.delete(name).await?;
        self.settle().await;
        self.inner.logs.flush().await;
        self.inner.logs.delete(name, true).await
    }

    /// Brings this node in line with the catalog: pools of what is no longer there are retired, and packages of new
    /// revisions are made ready before somebody waits for them.
    pub(crate) async fn settle(&self) {
        let current = self.inner.catalog.all();
        let mut gone = Vec::new();
        self.inner.pools.lock().retain(|name, pool| {
            let found = current.binary_search_by(|revision| revision.function.as_str().cmp(name));
            let stays = found.is_ok_and(|index| current[index] == pool.revision);
            if !stays {
                gone.push(Arc::clone(pool));
            }
            stays
        });
        for pool in gone {
            self.retire(pool);
        }
    }

    /// Makes a revision ready that another node deployed.
    pub(crate) async fn warm(&self, revision: &Arc<Revision>) {
        if let Err(error) = self.prepare(Arc::clone(revision)).await {
            tracing::warn!(%error, function = revision.function, "a function cannot be made ready");
        }
    }

    /// Stops instances that had nothing to do for long enough.
    pub(crate) fn shrink(&self) {
        let pools: Vec<Arc<Pool>> = self.inner.pools.lock().values().cloned().collect();
        for pool in pools {
            pool.shrink();
        }
        let mut retired = self.inner.retired.lock();
        retired.retain(|pool| !pool.is_over());
        for pool in retired.iter() {
            pool.shrink();
        }
    }

    /// What a function does on this node now.
    pub(crate) fn snapshot(&self, function: &str) -> Snapshot {
        self.inner.pools.lock().get(function).map_or_else(Snapshot::default, |pool| pool.snapshot())
    }

    /// Ends all instances, after the requests that they have. Returns when they have ended.
    pub(crate) async fn close(&self) {
        let pools: Vec<Arc<Pool>> = self.inner.pools.lock().drain().map(|(_, pool)| pool).collect();
        for pool in pools {
            self.retire(pool);
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.logs.flush().await;
    }
}

fn failed(invocation: &Arc<Invocation>, error: Error) -> Failed {
    invocation.failed(&error);
    Failed { error, invocation_id: invocation.id.clone() }
}
