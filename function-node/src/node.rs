//! A function node: its parts, in the order in which they start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trimaran_client::database::Database;
use trimaran_client::grid::Grid;
use trimaran_net::clock::{Clock, SystemClock};
use trimaran_net::listen;
use trimaran_net::retry::Backoff;
use trimaran_service::admin::Readiness;
use trimaran_service::{entropy, health};
use trimaran_wasm_host::Host;

use crate::catalog::Catalog;
use crate::config::Options;
use crate::error::Error as Failure;
use crate::host::database::HostDatabase;
use crate::host::grid::HostGrid;
use crate::limits::{CATALOG_EVERY, HOUSEKEEPING_EVERY, STOP_GRACE, SWEEP_EVERY};
use crate::logs::Logs;
use crate::package::Packages;
use crate::router::Router;
use crate::runtime::process::{Processes, Spawner};
use crate::runtime::wasm::Wasm;
use crate::{front, metrics, tables};

/// How long connections have to end when the node stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port.
    #[error(transparent)]
    Listen(#[from] listen::Error),
    /// The data folder.
    #[error("the data folder {folder} cannot be used: {source}; choose another with --data-folder")]
    Folder {
        /// Which.
        folder: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Threads, mostly.
    #[error("the operating system refuses what a node needs: {0}")]
    System(#[from] std::io::Error),
    /// The engine of components.
    #[error(transparent)]
    Wasm(#[from] trimaran_wasm_host::Error),
    /// An address that is none.
    #[error("{flag}: {source}")]
    Address {
        /// The flag that sets it.
        flag: &'static str,
        /// Why.
        source: trimaran_client::Error,
    },
    /// It was stopped before it was ready.
    #[error("stopped before the node reached {0}")]
    Stopped(&'static str),
}

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    /// Where functions are called over HTTP.
    pub http: SocketAddr,
    /// Where gRPC clients connect.
    pub grpc: SocketAddr,
    router: Running,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    http_server: tokio::task::JoinHandle<()>,
    housekeeping: [tokio::task::JoinHandle<()>; 3],
    /// Removed with the node, if there is no data folder.
    _folder: Option<tempfile::TempDir>,
}

struct Running(Router);

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").finish_non_exhaustive()
    }
}

impl Node {
    /// Starts a node and returns when it takes requests, which needs a grid and a database. It stops when `stop` is
    /// cancelled and [`Node::stopped`] returns.
    pub async fn start(
        options: Options,
        readiness: Readiness,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        metrics::describe();
        // Ports first: a taken one is the commonest mistake, and nothing has happened yet.
        let http_listener = listen::listen(options.http_listen, "--http-listen")?;
        let grpc_listener = listen::listen(options.grpc_listen, "--grpc-listen")?;
        let address =
            |listener: &tokio::net::TcpListener, asked: SocketAddr| listener.local_addr().unwrap_or(asked);
        let http = address(&http_listener, options.http_listen);
        let grpc = address(&grpc_listener, options.grpc_listen);

        let (folder, passing) = folder(&options)?;
        let host = Host::new(trimaran_wasm_host::Options {
            instances_max: options.wasm_instances_max,
            ..trimaran_wasm_host::Options::default()
        })?;
        let spawner = Spawner::start()?;
        let mut random = entropy::generator();
        let name = format!("{:08x}", random.random::<u32>());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);

        // Both are asked at once; neither may be ready yet.
        let (grid, database) = tokio::try_join!(
            reach("the grid", "--grid", &stop, async || Grid::connect(options.grid.clone()).await),
            reach("the database", "--database", &stop, async || {
                let database = Database::connect(options.database.clone()).await?;
                match tables::create(&database).await {
                    Ok(()) => Ok(database),
                    Err(Failure::Catalog(error)) => Err(error),
                    Err(other) => Err(trimaran_client::Error::Broken(other.to_string())),
                }
            }),
        )?;

        let logs = Logs::start(database.clone(), Arc::clone(&clock), name.clone());
        let fork = StdRng::from_rng(&mut random);
        let packages = Arc::new(Packages::new(database.clone(), folder, Arc::clone(&clock), fork));
        let catalog = Catalog::new(database.clone());
        let wasm = Wasm {
            host,
            packages: Arc::clone(&packages),
            grid: Arc::new(HostGrid(grid)),
            database: Arc::new(HostDatabase(database)),
            node: name.clone(),
        };
        let processes = Processes {
            packages: Arc::clone(&packages),
            logs: logs.clone(),
            spawner,
            environment: environment(&options),
            node: name,
        };
        let router = Router::new(catalog, packages, logs, Arc::new(wasm), Arc::new(processes), random);
        reach("the catalog", "--database", &stop, async || match router.catalog().refresh().await {
            Err(Failure::Catalog(error)) => Err(error),
            Err(error) => Err(trimaran_client::Error::Broken(error.to_string())),
            Ok(()) => Ok(()),
        })
        .await?;

        let (health, health_service) = health::health().await;
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .add_service(front::grpc::service(router.clone(), clock))
            .add_service(health_service)
            .add_service(health::reflection())
            .serve_with_incoming_shutdown(listen::incoming(grpc_listener), stop.clone().cancelled_owned());
        let server = tokio::spawn(server);
        let served = (router.clone(), options.domain.clone(), stop.clone());
        let http_server = tokio::spawn(async move {
            let (router, domain, stop) = served;
            front::http::serve(http_listener, router, &domain, stop).await;
        });
        let housekeeping = [
            tokio::spawn(watch_catalog(router.clone())),
            tokio::spawn(shrink(router.clone())),
            tokio::spawn(keep_house(router.clone())),
        ];
        health.set(true).await;
        readiness.set(true);
        info!(%http, %grpc, "function-node takes requests");
        let router = Running(router);
        Ok(Self { http, grpc, router, stop, server, http_server, housekeeping, _folder: passing })
    }

    /// Returns when `stop` was cancelled and everything has ended: requests have had their answers, instances their
    /// end, logs are written.
    pub async fn stopped(self) {
        self.stop.cancelled().await;
        let ended = async {
            let _ended = self.http_server.await;
            if let Ok(Err(error)) = self.server.await {
                warn!(%error, "the gRPC server did not stop cleanly");
            }
        };
        if tokio::time::timeout(DRAIN_MAX, ended).await.is_err() {
            warn!("some connections did not end in {DRAIN_MAX:?}");
        }
        for task in &self.housekeeping {
            task.abort();
        }
        if tokio::time::timeout(STOP_GRACE + Duration::from_secs(2), self.router.0.close()).await.is_err() {
            warn!("some instances did not end");
        }
        info!("function-node stopped");
    }
}

fn folder(options: &Options) -> Result<(std::path::PathBuf, Option<tempfile::TempDir>), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    match &options.data_folder {
        Some(folder) => {
            let failed = |source| Error::Folder { folder: folder.display().to_string(), source };
            std::fs::create_dir_all(folder).map_err(failed)?;
            // Compiled code is run as it is found there.
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
            Ok((std::path::absolute(folder).map_err(failed)?, None))
        }
        None => {
            let folder = tempfile::Builder::new().prefix("trimaran-function-").tempdir()?;
            Ok((folder.path().to_owned(), Some(folder)))
        }
    }
}

/// Tries until it works, or cannot.
async fn reach<T>(
    what: &'static str,
    flag: &'static str,
    stop: &CancellationToken,
    attempt: impl AsyncFn() -> Result<T, trimaran_client::Error>,
) -> Result<T, Error> {
    let mut random = entropy::generator();
    let mut backoff = Backoff::default();
    let mut told = false;
    loop {
        match attempt().await {
            Ok(reached) => return Ok(reached),
            Err(source @ (trimaran_client::Error::Address(_) | trimaran_client::Error::Invalid(_))) => {
                return Err(Error::Address { flag, source });
            }
            Err(error) if !told => {
                info!(%error, "{what} is waited for");
                told = true;
            }
            Err(_again) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next(&mut random)) => {}
            () = stop.cancelled() => return Err(Error::Stopped(what)),
        }
    }
}

/// What processes find in their environment: where grid and database are, in the words of their clients. No front asks
/// who calls yet; SDKs insist on credentials all the same.
fn environment(options: &Options) -> Vec<(String, String)> {
    [
        ("REDIS_URL", options.redis_url.clone()),
        ("UPSTASH_REDIS_REST_URL", options.redis_rest_url.clone()),
        ("UPSTASH_REDIS_REST_TOKEN", "trimaran".to_owned()),
        ("AWS_ENDPOINT_URL_DYNAMODB", options.dynamodb_url.clone()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "trimaran".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "trimaran".to_owned()),
        ("TRIMARAN_GRID_ADDRESS", options.grid.join(",")),
        ("TRIMARAN_DATABASE_ADDRESS", options.database.join(",")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Reads the catalog again and again, and makes ready what other nodes deployed.
async fn watch_catalog(router: Router) {
    let mut known = router.catalog().all();
    loop {
        tokio::time::sleep(CATALOG_EVERY).await;
        if let Err(error) = router.catalog().refresh().await {
            warn!(%error, "the catalog was not read; functions are served as they were");
            continue;
        }
        router.settle().await;
        let now = router.catalog().all();
        for revision in now.iter().filter(|revision| !known.contains(revision)) {
            router.warm(revision).await;
        }
        known = now;
    }
}

async fn shrink(router: Router) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        router.shrink();
    }
}

/// Removes what nobody needs: old logs, packages without a function.
async fn keep_house(router: Router) {
    loop {
        tokio::time::sleep(HOUSEKEEPING_EVERY).await;
        for revision in router.catalog().all() {
            if let Err(error) = router.logs().delete(&revision.function, false).await {
                warn!(%error, function = revision.function, "old logs were not removed");
            }
        }
        match router.packages().remove_unused(async || router.catalog().digests().await).await {
            Ok(0) => {}
            Ok(removed) => info!(removed, "packages without a function are removed"),
            Err(error) => warn!(%error, "unused packages were not removed"),
        }
        let forgotten = async {
            let referenced = router.catalog().digests().await?;
            router.packages().forget_unused(referenced).await
        };
        if let Err(error) = forgotten.await {
            warn!(%error, "unused files were not removed");
        }
    }
}
