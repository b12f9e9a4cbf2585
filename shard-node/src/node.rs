//! A shard node: its parts, in the order in which they start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trimaran_cluster::autoscale;
use trimaran_cluster::autoscale::options::Own;
use trimaran_cluster::home;
use trimaran_cluster::identity::Identity;
use trimaran_cluster::member::{self, Cluster};
use trimaran_cluster::replicas::Replicas;
use trimaran_net::clock::{Clock, SteadyClock};
use trimaran_net::dial::TcpDial;
use trimaran_net::listen;
use trimaran_net::peers::Peers;
use trimaran_placement::splits::Thresholds;
use trimaran_placement::token::Token;
use trimaran_replication::groups::{self, Groups};
use trimaran_service::admin::Readiness;
use trimaran_service::usage::Usage;
use trimaran_service::{entropy, health};
use trimaran_storage::engine::{self, Engine, Kind};
use trimaran_storage::wal;

use crate::config::{self, Options};
use crate::machine::ShardMachine;
use crate::router::Router;
use crate::store::Shared;
use crate::throttle::{self, Throttle};
use crate::{front, index, metrics, middle, op, past, sweep};

/// How long connections have to end when the node stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How long other nodes have to take over leaderships.
const HANDOVER_MAX: Duration = Duration::from_secs(1);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port.
    #[error(transparent)]
    Listen(#[from] listen::Error),
    /// The data folder.
    #[error(transparent)]
    Home(#[from] home::Error),
    /// The cluster.
    #[error("the node cannot take its place in the cluster")]
    Cluster(#[from] trimaran_cluster::Error),
    /// The options contradict each other, or it was stopped.
    #[error("{0}")]
    Options(&'static str),
}

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    /// Where DynamoDB clients connect.
    pub dynamodb: SocketAddr,
    /// Where gRPC clients connect.
    pub grpc: SocketAddr,
    router: Router,
    groups: Groups,
    cluster: Cluster,
    stop: CancellationToken,
    /// Clients are to end.
    ending: CancellationToken,
    /// Other nodes are to end too.
    closing: CancellationToken,
    leaving: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    dynamodb_server: tokio::task::JoinHandle<()>,
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts a node and returns when it takes requests. It stops when `stop` is cancelled, or the node is gone from its
    /// cluster, and [`Node::stopped`] returns.
    pub async fn start(
        options: Options,
        readiness: Readiness,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        metrics::describe();
        // Ports first: a taken one is the commonest mistake, and nothing has happened yet.
        let dynamodb_listener = listen::listen(options.dynamodb_listen, "--dynamodb-listen")?;
        let grpc_listener = listen::listen(options.grpc_listen, "--grpc-listen")?;
        let address =
            |listener: &tokio::net::TcpListener, asked: SocketAddr| listener.local_addr().unwrap_or(asked);
        let dynamodb = address(&dynamodb_listener, options.dynamodb_listen);
        let grpc = address(&grpc_listener, options.grpc_listen);
        let signatures = options.dynamodb_signatures;
        if signatures == config::Signatures::Ignored && !dynamodb.ip().is_loopback() {
            warn!(%dynamodb, "whoever reaches this port may use the database; see --dynamodb-signatures");
        }

        let mut random = entropy::generator();
        let (home, identity, durable, engine) = match &options.data_folder {
            None => {
                let engine: Arc<dyn Engine> = Arc::new(trimaran_storage::memory::MemoryEngine::default());
                (None, Identity::passing(&mut random), None, engine)
            }
            Some(folder) => {
                let boot = entropy::machine_boot();
                let (home, identity, durable) = home::open(folder, wal::Sync::Always, &boot, &mut random)?;
                let kind = match options.engine {
                    config::Engine::Fjall => Kind::Fjall,
                    config::Engine::Sled => Kind::Sled,
                };
                let engine = engine::open(kind, &folder.join("data")).map_err(|source| {
                    home::Error::Storage { folder: folder.display().to_string(), source }
                })?;
                (Some(home), identity, Some(durable), engine)
            }
        };
        let in_memory = durable.is_none();
        let durability = |durable| if in_memory { groups::Durability::Memory } else { durable };
        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::default());
        let peers = Peers::new(Arc::new(TcpDial));
        let groups = Groups::new(
            identity.node,
            groups::Options { boot: identity.boot, ..groups::Options::default() },
            Arc::clone(&clock),
            peers.clone(),
            durable,
        );
        let usage = Usage::default();
        let like_this = Own {
            kind: "shard",
            env_prefix: config::ENV_PREFIX,
            grpc_port: options.grpc_listen.port(),
            address: &options.advertise,
            listens: &["grpc_listen", "dynamodb_listen", "admin_listen"],
            data_folder: options.data_folder.as_deref(),
            options: &options,
        };
        let cluster = Cluster::open(
            member::Options {
                kind: "shard",
                version: env!("CARGO_PKG_VERSION"),
                identity,
                home,
                address: home::advertised(&options.advertise, grpc),
                resp_address: String::new(),
                zone: options.zone.clone(),
                weight: options.weight,
                seeds: options.join.clone(),
                bootstrap: options.bootstrap,
                partitions: options.partitions,
                replication_factor: options.replication_factor,
                meta_durability: durability(groups::Durability::Flushed),
                drain: options.drain,
                replace_after: Duration::from_secs(options.replace_after_s),
                meter: Arc::new(move || {
                    let (cpu, memory) = usage.read();
                    autoscale::Usage { cpu, memory }
                }),
                autoscale: options.autoscale.autoscale(&like_this).map_err(Error::Options)?,
                split_above: Some(Thresholds {
                    bytes: options.split_above_mib << 20,
                    operations: options.split_above_operations,
                    merge_after: Some(Duration::from_secs(options.merge_after_s))
                        .filter(|after| !after.is_zero()),
                    ..Thresholds::default()
                }),
                lost_memory: in_memory,
            },
            groups.clone(),
            peers,
        )
        .await?;

        // Later than `stop`: a node that is drained serves until it is empty.
        let (ending, closing) = (CancellationToken::new(), CancellationToken::new());
        let leaving = CancellationToken::new();
        let shared = Arc::new(Shared::new(Arc::clone(&engine)));
        let of_partitions = Arc::clone(&shared);
        let replicas =
            Replicas::keep(cluster.clone(), durability(groups::Durability::Log), move |partition| {
                let (first, last) = (Token(partition.first_token), Token(partition.last_token));
                let machine = ShardMachine::new(Arc::clone(&of_partitions), partition.id, first, last);
                match partition.founded_with {
                    Some(range) => machine.founded_with(Token(range.last_token)),
                    None => machine,
                }
            });
        let throttle = Throttle::new(throttle::Options {
            provisioned: options.provisioned_throughput == config::Provisioned::Enforced,
            read_units: options.read_units,
            write_units: options.write_units,
        });
        let router =
            Router::new(cluster.clone(), replicas, clock, throttle.clone(), random.random(), leaving.clone());

        // Other nodes must reach this one before it can enter; clients are told to wait until it has.
        let (health, health_service) = health::health().await;
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .add_service(groups.service())
            .add_service(cluster.cluster_service())
            .add_service(cluster.placement_service())
            .add_service(cluster.admin_service())
            .add_service(front::grpc::service(router.clone(), ending.clone()))
            .add_service(front::internal::service(router.clone(), ending.clone()))
            .add_service(health_service)
            .add_service(health::reflection())
            .serve_with_incoming_shutdown(listen::incoming(grpc_listener), closing.clone().cancelled_owned());
        let server = tokio::spawn(server);

        tokio::select! {
            entered = cluster.enter() => entered?,
            () = stop.cancelled() => return Err(Error::Options("stopped before the node was a member of a cluster")),
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(sweep::run(router.clone(), engine));
        tasks.spawn(middle::run(router.clone(), options.split_above_mib << 20));
        tasks.spawn(index::propagate::run(router.clone(), shared));
        tasks.spawn(index::build::run(router.clone()));
        tasks.spawn(op::expire::run(router.clone()));
        tasks.spawn(past::run(router.clone()));
        tasks.spawn(throttle::run(throttle, router.clone()));
        let dynamodb_server = tokio::spawn(front::dynamodb::serve(
            dynamodb_listener,
            router.clone(),
            signatures,
            ending.clone(),
        ));
        health.set(true).await;
        readiness.set(true);
        info!(%dynamodb, %grpc, "shard-node takes requests");
        Ok(Self {
            dynamodb,
            grpc,
            router,
            groups,
            cluster,
            stop,
            ending,
            closing,
            leaving,
            server,
            dynamodb_server,
            tasks,
        })
    }

    /// Returns when the node has stopped and everything has ended: leaderships are given away, connections have had
    /// their answers, logs are closed.
    ///
    /// Errors: [`Error::Cluster`] if it ended because it cannot go on.
    pub async fn stopped(mut self) -> Result<(), Error> {
        let ended_well = self.cluster.until_end(&self.stop).await;
        self.ending.cancel();
        self.router.give_leaderships_away(HANDOVER_MAX).await;
        // Until now a new leader could reach this node: only from it is it known that one was elected.
        self.closing.cancel();
        self.leaving.cancel();
        self.tasks.abort_all();
        self.groups.leave_lines();
        let ended = async {
            let _ended = self.dynamodb_server.await;
            if let Ok(Err(error)) = self.server.await {
                warn!(%error, "the gRPC server did not stop cleanly");
            }
        };
        if tokio::time::timeout(DRAIN_MAX, ended).await.is_err() {
            warn!("some connections did not end in {DRAIN_MAX:?}");
        }
        self.groups.close_all().await;
        info!("shard-node stopped");
        Ok(ended_well?)
    }
}
