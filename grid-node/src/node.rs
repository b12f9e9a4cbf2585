//! A grid node: its parts, in the order in which they start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use trimaran_cluster::autoscale;
use trimaran_cluster::autoscale::options::Own;
use trimaran_cluster::home;
use trimaran_cluster::identity::Identity;
use trimaran_cluster::member::{self, Cluster};
use trimaran_cluster::meta::META_GROUP;
use trimaran_cluster::replicas::Replicas;
use trimaran_net::clock::{Clock, SteadyClock};
use trimaran_net::dial::TcpDial;
use trimaran_net::listen;
use trimaran_net::peers::Peers;
use trimaran_placement::splits::Thresholds;
use trimaran_proto::api::placement::Partition;
use trimaran_replication::groups::{self, Groups};
use trimaran_service::admin::Readiness;
use trimaran_service::usage::Usage;
use trimaran_service::{entropy, health};
use trimaran_storage::wal;

use crate::access::users::{self, Users};
use crate::config::{self, Durability, Options};
use crate::front;
use crate::front::resp::Front;
use crate::machine::GridMachine;
use crate::memory::{Memory, Policy};
use crate::namespaces::{self, Namespaces};
use crate::pubsub::notices::{self, Teller};
use crate::pubsub::{Hub, link};
use crate::router::Router;
use crate::tracking::{self, Tracking};
use crate::{eviction, expiry, metrics};

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
    /// The options contradict each other.
    #[error("{0}")]
    Options(&'static str),
}

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    /// Where Redis clients connect.
    pub resp: SocketAddr,
    /// Where commands are taken over HTTP.
    pub http: SocketAddr,
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
    resp_server: tokio::task::JoinHandle<()>,
    http_server: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Starts a node and returns when it takes requests. It stops when `stop` is cancelled, or the node is gone from its
    /// cluster, and [`Node::stopped`] returns.
    pub async fn start(
        options: Options,
        readiness: Readiness,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        if options.data_folder.is_none() && options.durability != Durability::Memory {
            return Err(Error::Options("without a data folder the durability can only be \"memory\""));
        }
        let policy = Policy::parse(&options.maxmemory_policy).ok_or(Error::Options(
            "maxmemory_policy is none that there is: see CONFIG SET maxmemory-policy",
        ))?;
        metrics::describe();
        // Ports first: a taken one is the commonest mistake, and nothing has happened yet.
        let resp_listener = listen::listen(options.resp_listen, "--resp-listen")?;
        let http_listener = listen::listen(options.http_listen, "--http-listen")?;
        let grpc_listener = listen::listen(options.grpc_listen, "--grpc-listen")?;
        let address =
            |listener: &tokio::net::TcpListener, asked: SocketAddr| listener.local_addr().unwrap_or(asked);
        let resp = address(&resp_listener, options.resp_listen);
        let http = address(&http_listener, options.http_listen);
        let grpc = address(&grpc_listener, options.grpc_listen);

        let mut random = entropy::generator();
        let (home, identity, durable) = match &options.data_folder {
            None => (None, Identity::passing(&mut random), None),
            Some(folder) => {
                // The meta group asks for its own flushes.
                let sync = match options.durability {
                    Durability::Buffered => wal::Sync::Never,
                    Durability::Memory | Durability::Fsync => wal::Sync::Always,
                };
                let boot = entropy::machine_boot();
                let (home, identity, durable) = home::open(folder, sync, &boot, &mut random)?;
                (Some(home), identity, Some(durable))
            }
        };
        // What was written but not flushed is gone if the machine went down: then it is as if it had never been.
        let lost_memory = match options.durability {
            Durability::Memory => true,
            Durability::Buffered => identity.machine_restarted,
            Durability::Fsync => false,
        };
        if let (true, Some(durable), Some(folder)) = (lost_memory, &durable, &options.data_folder) {
            durable
                .forget_all_but(META_GROUP)
                .map_err(|source| home::Error::Folder { folder: folder.display().to_string(), source })?;
        }
        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::default());
        let peers = Peers::new(Arc::new(TcpDial));
        let in_memory = durable.is_none();
        let groups = Groups::new(
            identity.node,
            groups::Options { boot: identity.boot, ..groups::Options::default() },
            Arc::clone(&clock),
            peers.clone(),
            durable,
        );
        let usage = Usage::default();
        let like_this = Own {
            kind: "grid",
            env_prefix: config::ENV_PREFIX,
            grpc_port: options.grpc_listen.port(),
            address: &options.advertise,
            listens: &["grpc_listen", "resp_listen", "http_listen", "admin_listen"],
            data_folder: options.data_folder.as_deref(),
            options: &options,
        };
        let cluster = Cluster::open(
            member::Options {
                kind: "grid",
                version: env!("CARGO_PKG_VERSION"),
                identity,
                home,
                address: home::advertised(&options.advertise, grpc),
                resp_address: home::advertised(&options.resp_advertise, resp),
                zone: options.zone.clone(),
                weight: options.weight,
                seeds: options.join.clone(),
                bootstrap: options.bootstrap,
                partitions: options.partitions,
                replication_factor: options.replication_factor,
                meta_durability: if in_memory {
                    groups::Durability::Memory
                } else {
                    groups::Durability::Flushed
                },
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
                lost_memory,
            },
            groups.clone(),
            peers,
        )
        .await?;

        let data_durability = match options.durability {
            Durability::Memory => groups::Durability::Memory,
            Durability::Buffered | Durability::Fsync => groups::Durability::Log,
        };
        // Later than `stop`: a node that is drained serves until it is empty.
        let (ending, closing) = (CancellationToken::new(), CancellationToken::new());
        let leaving = CancellationToken::new();
        let (teller, told) = Teller::new();
        let hub = Hub::new(teller.clone());
        let memory = Memory::default();
        memory.limit(options.maxmemory_mib << 20);
        memory.choose_by(policy);
        let account = memory.clone();
        let machine =
            move |partition: &Partition| GridMachine::new(partition, teller.clone(), account.share());
        let replicas = Replicas::keep(cluster.clone(), data_durability, machine);
        let router =
            Router::new(cluster.clone(), replicas, clock, random.random(), leaving.clone(), memory.clone());

        let namespaces = Namespaces::default();
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
            .add_service(front::grpc::service(
                router.clone(),
                hub.clone(),
                namespaces.clone(),
                ending.clone(),
            ))
            .add_service(front::coordination::service(router.clone(), ending.clone()))
            .add_service(front::backup::service(router.clone(), namespaces.clone(), ending.clone()))
            .add_service(front::namespaces::service(router.clone(), namespaces.clone()))
            .add_service(health_service)
            .add_service(health::reflection())
            .serve_with_incoming_shutdown(listen::incoming(grpc_listener), closing.clone().cancelled_owned());
        let server = tokio::spawn(server);

        tokio::select! {
            entered = cluster.enter() => entered?,
            () = stop.cancelled() => return Err(Error::Options("stopped before the node was a member of a cluster")),
        }
        tokio::spawn(expiry::run(router.clone()));
        let chance = StdRng::from_rng(&mut random);
        tokio::spawn(eviction::run(router.clone(), memory, chance));
        tokio::spawn(notices::run(told, hub.clone(), router.clone()));
        let links = StdRng::from_rng(&mut random);
        tokio::spawn(link::run(hub.clone(), router.clone(), links, ending.clone()));
        let users = Arc::new(Users::new(options.requirepass.as_deref()));
        tokio::spawn(users::run(Arc::clone(&users), router.members()));
        let is_flushed = options.durability == Durability::Fsync;
        let tracking = Tracking::default();
        tokio::spawn(tracking::run(tracking.clone(), router.clone(), ending.clone()));
        tokio::spawn(namespaces::run(namespaces.clone(), router.clone()));
        let commands = Front::new(router.clone(), hub, tracking, namespaces, users, is_flushed, random);
        let resp_server = tokio::spawn(front::resp::serve(
            resp_listener,
            Arc::clone(&commands),
            options.resp_redirect,
            ending.clone(),
        ));
        let http_server = tokio::spawn(front::http::serve(http_listener, commands, ending.clone()));
        health.set(true).await;
        readiness.set(true);
        info!(%resp, %http, %grpc, "grid-node takes requests");
        Ok(Self {
            resp,
            http,
            grpc,
            router,
            groups,
            cluster,
            stop,
            ending,
            closing,
            leaving,
            server,
            resp_server,
            http_server,
        })
    }

    /// Returns when the node has stopped and everything has ended: leaderships are given away, connections have had
    /// their answers, logs are closed.
    ///
    /// Errors: [`Error::Cluster`] if it ended because it cannot go on.
    pub async fn stopped(self) -> Result<(), Error> {
        let ended_well = self.cluster.until_end(&self.stop).await;
        self.ending.cancel();
        self.router.give_leaderships_away(HANDOVER_MAX).await;
        // Until now a new leader could reach this node: only from it is it known that one was elected.
        self.closing.cancel();
        self.leaving.cancel();
        self.groups.leave_lines();
        let ended = async {
            let _ended = tokio::join!(self.resp_server, self.http_server);
            if let Ok(Err(error)) = self.server.await {
                warn!(%error, "the gRPC server did not stop cleanly");
            }
        };
        if tokio::time::timeout(DRAIN_MAX, ended).await.is_err() {
            warn!("some connections did not end in {DRAIN_MAX:?}");
        }
        self.groups.close_all().await;
        info!("grid-node stopped");
        Ok(ended_well?)
    }
}
