//! WebAssembly components: an instance for every request, made in microseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use http::{Request, Response};
use tokio::time::Instant;
use trimaran_proto::api::functions::log_record::What;
use trimaran_wasm_host::data::{Database, Grid};
use trimaran_wasm_host::{Call, Host, Limits, Log, Program, Stream};

use crate::error::Error;
use crate::invocation::Invocation;
use crate::package::Packages;
use crate::runtime::{Body, Failure, Instance, Prepared, Runtime};
use crate::spec::Revision;

/// Runs components.
pub(crate) struct Wasm {
    pub(crate) host: Host,
    pub(crate) packages: Arc<Packages>,
    pub(crate) grid: Arc<dyn Grid>,
    pub(crate) database: Arc<dyn Database>,
    pub(crate) node: String,
}

#[async_trait]
impl Runtime for Wasm {
    async fn prepare(&self, revision: Arc<Revision>) -> Result<Arc<dyn Prepared>, Error> {
        let path = self.packages.fetch(&revision.digest).await?;
        let (host, cache) = (self.host.clone(), self.packages.compiled());
        let digest = revision.digest.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            let component = std::fs::read(&path).map_err(|error| Error::Disk(error.to_string()))?;
            host.load(&component, &digest, Some(&cache)).map_err(Error::from)
        });
        let program = loaded.await.map_err(|error| Error::StartFailed(error.to_string()))??;
        let environment = revision.spec.environment.clone().into_iter();
        let platform = [
            ("K_SERVICE".to_owned(), revision.function.clone()),
            ("K_REVISION".to_owned(), format!("{}-{}", revision.function, revision.number)),
            ("K_CONFIGURATION".to_owned(), revision.function.clone()),
        ];
        Ok(Arc::new(Component {
            program,
            environment: Arc::new(environment.chain(platform).collect()),
            grid: Arc::clone(&self.grid),
            database: Arc::clone(&self.database),
            memory_bytes: usize::try_from(revision.spec.memory_bytes).unwrap_or(usize::MAX),
            name: format!("{}-{}@{}", revision.function, revision.number, self.node),
            started: AtomicU64::new(0),
        }))
    }
}

/// A component that is compiled.
struct Component {
    program: Program,
    environment: Arc<Vec<(String, String)>>,
    grid: Arc<dyn Grid>,
    database: Arc<dyn Database>,
    memory_bytes: usize,
    name: String,
    started: AtomicU64,
}

#[async_trait]
impl Prepared for Component {
    async fn start(&self) -> Result<Arc<dyn Instance>, Error> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Place {
            program: self.program.clone(),
            environment: Arc::clone(&self.environment),
            grid: Arc::clone(&self.grid),
            database: Arc::clone(&self.database),
            memory_bytes: self.memory_bytes,
            name: format!("{}/{number}", self.name),
        }))
    }
}

/// Room for one request at a time, which gets an instance of its own.
struct Place {
    program: Program,
    environment: Arc<Vec<(String, String)>>,
    grid: Arc<dyn Grid>,
    database: Arc<dyn Database>,
    memory_bytes: usize,
    name: String,
}

#[async_trait]
impl Instance for Place {
    fn name(&self) -> &str {
        &self.name
    }

    async fn call(
        &self,
        request: Request<Body>,
        invocation: Arc<Invocation>,
    ) -> Result<Response<Body>, Failure> {
        let time = invocation.deadline.saturating_duration_since(Instant::now());
        let ending = Arc::clone(&invocation);
        let call = Call {
            environment: Arc::clone(&self.environment),
            limits: Limits { memory_bytes: self.memory_bytes, time },
            log: Arc::new(Lines(Arc::clone(&invocation))),
            grid: Arc::clone(&self.grid),
            database: Arc::clone(&self.database),
            ended: Box::new(move |ended| {
                ending.used_memory(ended.memory_bytes as u64);
                if let Err(error) = ended.outcome {
                    ending.wrote(What::Platform(error.to_string()));
                    ending.failed(&error.into());
                }
            }),
        };
        self.program.call(request, call).await.map_err(|error| Failure::Failed(error.into()))
    }

    async fn ended(&self) -> String {
        // There is no process that could.
        std::future::pending().await
    }

    async fn stop(&self) {}
}

/// What one instance writes, which is what one invocation writes.
struct Lines(Arc<Invocation>);

impl Log for Lines {
    fn line(&self, stream: Stream, line: &str) {
        self.0.wrote(match stream {
            Stream::Stdout => What::Stdout(line.to_owned()),
            Stream::Stderr => What::Stderr(line.to_owned()),
        });
    }
}
