//! Real processes.

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use trimaran_client::database::Database;
use trimaran_client::grid::Grid;
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_proto::api::cluster::EventsRequest;
use trimaran_proto::api::cluster::cluster_admin_client::ClusterAdminClient;
use trimaran_proto::api::placement::{Partition, ReplicaState, Table};
use trimaran_proto::internal::cluster::cluster_client::ClusterClient;
use trimaran_proto::internal::cluster::{GroupStatus, StatusReply, StatusRequest};

use super::until;

/// The `trimaran` binary of this build, built if it is not up to date.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // …/target/<profile>/deps/<test> or …/target/<profile>/<bin>
        let mut folder = std::env::current_exe().unwrap();
        folder.pop();
        if folder.ends_with("deps") {
            folder.pop();
        }
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--bin", "trimaran"]);
        if folder.ends_with("release") || folder.ends_with("dist") {
            let profile = folder.file_name().unwrap_or_default();
            build.arg("--profile").arg(profile).args(["--package", "trimaran-cli"]);
        } else {
            // With the dependencies that the tests were built with.
            build.arg("--workspace");
        }
        build.arg("--target-dir").arg(folder.parent().unwrap());
        assert!(build.status().unwrap().success(), "the trimaran binary does not build");
        folder.join("trimaran")
    })
}

/// The binary of the release before this one, if the tests are told where it is.
#[allow(clippy::disallowed_methods, reason = "how the machine that has it says so")]
pub fn release_before() -> Option<PathBuf> {
    std::env::var_os("TRIMARAN_TEST_RELEASE_BEFORE").map(PathBuf::from)
}

/// A port that is free, and that nobody else gets: each is given away once by this process, and they lie below those
/// that the system gives to outgoing connections, one of which could take a node's port while the node is down.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs that run side by side begin at different places.
    let begin = std::process::id() * 97;
    loop {
        let at = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(at % u32::from(PORTS.end - PORTS.start)).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Below net.ipv4.ip_local_port_range as Linux has it.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A node of any kind: where it listens, and its process while it runs.
pub struct Node {
    /// gRPC address.
    pub grpc: String,
    /// Where clients of another system connect: those of Redis, of DynamoDB, or of functions.
    pub front: String,
    /// Where it listens besides: a grid-node over HTTP.
    pub more_fronts: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Another one than this build's.
    program: Option<PathBuf>,
    folder: TempDir,
    child: Option<Child>,
}

impl Node {
    /// Starts the process with the same folder, ports and options as ever.
    pub fn start(&mut self) {
        assert!(self.child.is_none());
        let log =
            std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let child = Command::new(self.program.as_deref().unwrap_or_else(|| binary()))
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// From its next start on it is of another release; `None` = of this one.
    pub fn use_release(&mut self, program: Option<&Path>) {
        self.program = program.map(Path::to_owned);
    }

    /// Has the process see a clock that a test sets, from its next start on; `false` where there is no libfaketime. What a
    /// process measures time by is not touched.
    pub fn with_clock(&mut self) -> bool {
        let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
        if !Path::new(library).exists() {
            return false;
        }
        self.set_clock("+0");
        let file = self.folder.path().join("clock").display().to_string();
        for (name, value) in [
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DONT_RESET", "1"),
        ] {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
        true
    }

    /// Sets that clock: "+3600" is an hour ahead.
    pub fn set_clock(&self, offset: &str) {
        std::fs::write(self.folder.path().join("clock"), offset).unwrap();
    }

    /// Puts the data of a node that is stopped on a small disk of its own; `None` where this user may not.
    pub fn on_a_small_disk(&self, mebibytes: u32) -> Option<SmallDisk> {
        let (data, kept) = (self.folder.path().join("data"), self.folder.path().join("kept"));
        std::fs::rename(&data, &kept).unwrap();
        std::fs::create_dir(&data).unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&data).output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            std::fs::remove_dir(&data).unwrap();
            std::fs::rename(&kept, &data).unwrap();
            return None;
        }
        let copied = Command::new("cp").arg("-a").arg(kept.join(".")).arg(&data).status().unwrap();
        assert!(copied.success());
        Some(SmallDisk(data))
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Processes that this node has started by itself and not cleared away: their ids.
    pub fn started(&self) -> Vec<u32> {
        let folders = std::fs::read_dir(self.folder.path().join("data.nodes"));
        let folders = folders.into_iter().flatten().flatten();
        let id =
            |folder: std::fs::DirEntry| std::fs::read_to_string(folder.path().join("pid")).ok()?.parse().ok();
        folders.filter_map(id).collect()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// True while the process runs.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// SIGTERM, and waits for the end. Returns whether it ended well.
    pub fn stop(&mut self) -> bool {
        self.signal("-TERM");
        self.child.take().unwrap().wait().unwrap().success()
    }

    /// SIGSTOP: it stands still and knows nothing of it.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the process ends by itself. Returns whether it ended well.
    pub async fn ended(&mut self) -> bool {
        let mut well = false;
        until("the process ends", async || match self.child.as_mut().unwrap().try_wait().unwrap() {
            Some(status) => {
                well = status.success();
                true
            }
            None => false,
        })
        .await;
        self.child = None;
        well
    }

    /// What operators ask it.
    pub fn admin(&self) -> ClusterAdminClient<Channel> {
        let dial: Arc<dyn Dial> = Arc::new(TcpDial);
        ClusterAdminClient::new(channel(&dial, &self.grpc).unwrap())
    }

    /// Waits until it says that it takes requests.
    pub async fn until_ready(&self) {
        let dial: Arc<dyn Dial> = Arc::new(TcpDial);
        let mut health = HealthClient::new(channel(&dial, &self.grpc).unwrap());
        until("the node takes requests", async || {
            let answer = health.check(HealthCheckRequest::default()).await;
            answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
        })
        .await;
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Makes the node think, at its next start, that its machine has started anew.
    pub fn pretend_machine_restart(&self) {
        let path = self.folder.path().join("data/node.json");
        let mut identity: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        identity["machine_boot"] = "another".into();
        std::fs::write(path, identity.to_string()).unwrap();
    }

    /// Gives it other addresses to look for its cluster at, from its next start on.
    pub fn look_at(&mut self, addresses: &str) {
        let at = self.arguments.iter().position(|argument| argument == "--join").unwrap();
        self.arguments[at + 1] = addresses.to_owned();
    }

    /// True while its process was not ended by us.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What the cluster looks like from it; `None` if it does not answer.
    pub async fn status(&self) -> Option<StatusReply> {
        status(&self.grpc).await
    }
}

/// What the cluster looks like from a node; `None` if it does not answer.
pub async fn status(address: &str) -> Option<StatusReply> {
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    let mut client = ClusterClient::new(channel(&dial, address).unwrap());
    client.status(StatusRequest {}).await.ok().map(tonic::Response::into_inner)
}

/// Copies of partitions that were moved to other nodes so far, as the events of a cluster say. Partitions are of one size where
/// keys are spread, so that this is how many bytes were moved, in parts of the whole.
pub async fn copies_moved(address: &str) -> usize {
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    let mut admin = ClusterAdminClient::new(channel(&dial, address).unwrap());
    let events = admin.events(EventsRequest {}).await.unwrap().into_inner().events;
    let is_copy = |text: &str| text.contains("has moved") && text.contains(" to node");
    events.iter().filter(|event| is_copy(&event.text)).count()
}

/// A disk that is full soon; gone with this.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 64 << 10]).is_ok() {}
    }

    /// Gives it back.
    pub fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the process on it may not have ended yet.
        let _gone = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
        for process in self.started() {
            let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
            let _ended = process.map(|id| rustix::process::kill_process(id, rustix::process::Signal::KILL));
        }
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.grpc, self.log());
        }
    }
}

/// `trimaran dev`: all three in one process, in memory, without the example.
pub struct Dev {
    /// The process; `front` is where functions are called over HTTP, `grpc` where they are over gRPC.
    pub node: Node,
    /// Where Redis clients connect.
    pub resp: String,
    /// gRPC address of the grid.
    pub grid: String,
    /// gRPC address of the database.
    pub database: String,
    /// Where liveness, readiness and metrics are.
    pub admin: String,
}

impl Dev {
    /// Starts it and waits until it takes requests.
    pub async fn start(more: &[&str]) -> Self {
        let ports: [String; 8] = std::array::from_fn(|_| format!("127.0.0.1:{}", free_port()));
        let [front, grpc, resp, http, grid, dynamodb, database, admin] = ports;
        let mut arguments = vec!["dev".to_owned()];
        for (flag, address) in [
            ("--http-listen", &front),
            ("--function-grpc-listen", &grpc),
            ("--resp-listen", &resp),
            ("--grid-http-listen", &http),
            ("--grid-grpc-listen", &grid),
            ("--dynamodb-listen", &dynamodb),
            ("--shard-grpc-listen", &database),
            ("--admin-listen", &admin),
        ] {
            arguments.extend([flag.to_owned(), address.clone()]);
        }
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let folder = tempfile::tempdir().unwrap();
        if !more.contains(&"--in-memory") {
            arguments.extend(["--data-folder".to_owned(), folder.path().join("data").display().to_string()]);
        }
        let mut node = Node {
            grpc,
            front,
            more_fronts: Vec::new(),
            arguments,
            environment: Vec::new(),
            program: None,
            folder,
            child: None,
        };
        node.start();
        let dev = Self { node, resp, grid, database, admin };
        dev.until_ready().await;
        dev
    }

    /// Waits until all parts take requests.
    pub async fn until_ready(&self) {
        self.node.until_ready().await;
    }
}

/// Nodes of one kind.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    recipe: Recipe,
}

/// How a node of a cluster is started.
#[derive(Clone, Default)]
struct Recipe {
    kind: &'static str,
    front_flags: &'static [&'static str],
    more: Vec<String>,
    program: Option<PathBuf>,
}

impl Recipe {
    fn node(&self, grpc: String, join: &str, more: &[(&str, String)]) -> Node {
        let address = || format!("127.0.0.1:{}", free_port());
        let mut fronts: Vec<String> = self.front_flags.iter().map(|_| address()).collect();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data").display().to_string();
        let mut arguments: Vec<String> = vec![self.kind.into()];
        for (flag, value) in [
            ("--data-folder", data),
            ("--grpc-listen", grpc.clone()),
            ("--admin-listen", address()),
            ("--join", join.to_owned()),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        for (flag, front) in self.front_flags.iter().zip(&fronts) {
            arguments.extend([(*flag).to_owned(), front.clone()]);
        }
        for (flag, value) in more {
            arguments.extend([(*flag).to_owned(), value.clone()]);
        }
        arguments.extend(self.more.iter().cloned());
        Node {
            grpc,
            front: fronts.remove(0),
            more_fronts: fronts,
            arguments,
            environment: Vec::new(),
            program: self.program.clone(),
            folder,
            child: None,
        }
    }
}

impl Cluster {
    /// Starts `count` grid-nodes as a new cluster and waits until every partition has all of its copies.
    pub async fn grid(count: usize, durability: &str, partitions: u64) -> Self {
        Self::grid_with(count, partitions, &["--durability", durability]).await
    }

    /// Likewise, each with more options.
    pub async fn grid_with(count: usize, partitions: u64, more: &[&str]) -> Self {
        Self::start("grid-node", &["--resp-listen", "--http-listen"], count, partitions, more).await
    }

    /// Starts `count` shard-nodes with a storage engine, likewise.
    pub async fn shard(count: usize, engine: &str, partitions: u64) -> Self {
        Self::shard_with(count, partitions, &["--engine", engine]).await
    }

    /// Likewise, each with more options.
    pub async fn shard_with(count: usize, partitions: u64, more: &[&str]) -> Self {
        Self::start("shard-node", &["--dynamodb-listen"], count, partitions, more).await
    }

    /// Starts `count` function-nodes that use a grid and a database, and waits until they take requests.
    pub async fn functions(count: usize, grid: &Self, shard: &Self) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..count {
            let [grpc, front, admin] =
                [free_port(), free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
            let folder = tempfile::tempdir().unwrap();
            let mut arguments = vec!["function-node".to_owned()];
            for (flag, value) in [
                ("--data-folder", folder.path().join("data").display().to_string()),
                ("--grpc-listen", grpc.clone()),
                ("--http-listen", front.clone()),
                ("--admin-listen", admin),
                ("--grid", grid.addresses().join(",")),
                ("--database", shard.addresses().join(",")),
                ("--redis-url", format!("redis://{}", grid.nodes[0].front)),
                ("--redis-rest-url", format!("http://{}", grid.nodes[0].more_fronts[0])),
                ("--dynamodb-url", format!("http://{}", shard.nodes[0].front)),
            ] {
                arguments.extend([flag.to_owned(), value]);
            }
            let mut node = Node {
                grpc,
                front,
                more_fronts: Vec::new(),
                arguments,
                environment: Vec::new(),
                program: None,
                folder,
                child: None,
            };
            node.start();
            nodes.push(node);
        }
        for node in &nodes {
            node.until_ready().await;
        }
        Self { nodes, recipe: Recipe::default() }
    }

    async fn start(
        kind: &'static str,
        front_flags: &'static [&'static str],
        count: usize,
        partitions: u64,
        more: &[&str],
    ) -> Self {
        let more = more.iter().map(|&argument| argument.to_owned()).collect();
        Self::found(Recipe { kind, front_flags, more, program: None }, count, partitions).await
    }

    /// The subcommand that its nodes are started with.
    pub fn kind(&self) -> &'static str {
        self.recipe.kind
    }

    /// Founds a cluster of another release than this one.
    pub async fn of_release(program: &Path, kind: &'static str, count: usize, partitions: u64) -> Self {
        let program = Some(program.to_owned());
        let (front_flags, more): (&[&str], &[&str]) = match kind {
            "grid-node" => (&["--resp-listen", "--http-listen"], &["--durability", "buffered"]),
            _ => (&["--dynamodb-listen"], &[]),
        };
        let more = more.iter().map(|&argument| argument.to_owned()).collect();
        Self::found(Recipe { kind, front_flags, more, program }, count, partitions).await
    }

    async fn found(recipe: Recipe, count: usize, partitions: u64) -> Self {
        let addresses: Vec<String> = (0..count).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let join = addresses.join(",");
        let born = [
            ("--bootstrap", count.to_string()),
            ("--partitions", partitions.to_string()),
            ("--replication-factor", count.min(3).to_string()),
        ];
        let mut nodes: Vec<Node> =
            addresses.into_iter().map(|grpc| recipe.node(grpc, &join, &born)).collect();
        nodes.iter_mut().for_each(Node::start);
        let cluster = Self { nodes, recipe };
        cluster.until_complete().await;
        cluster
    }

    /// Nodes that are added from now on are of another release; `None` = of this one.
    pub fn add_of_release(&mut self, program: Option<&Path>) {
        self.recipe.program = program.map(Path::to_owned);
    }

    /// Starts one more node, which joins the cluster. Returns its place.
    pub async fn add(&mut self) -> usize {
        let mut node =
            self.recipe.node(format!("127.0.0.1:{}", free_port()), &self.addresses().join(","), &[]);
        node.start();
        node.until_ready().await;
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// gRPC addresses of all nodes.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.grpc.clone()).collect()
    }

    /// A client of a grid that knows all nodes.
    pub async fn grid_client(&self) -> Grid {
        Grid::connect(self.addresses()).await.unwrap()
    }

    /// A client of a database that knows all nodes.
    pub async fn database_client(&self) -> Database {
        Database::connect(self.addresses()).await.unwrap()
    }

    /// Waits until every node that runs sees every partition with `copies` copies on nodes that run, all of them voters,
    /// opened under the ids that the table says, and nothing on its way; `also` may ask for more.
    pub async fn until_settled(&self, copies: usize, also: impl Fn(&Table) -> bool) {
        until("every partition has all of its copies, and none moves", async || {
            let mut open: HashSet<(u64, u64)> = HashSet::new();
            let mut tables = Vec::new();
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                let Some(status) = node.status().await else { return false };
                // A replica that follows somebody.
                let follows = |group: &&GroupStatus| group.leader != 0 && group.applied_index > 0;
                open.extend(status.groups.iter().filter(follows).map(|group| (group.group, group.replica)));
                tables.push(status.table.unwrap_or_default());
            }
            tables.iter().all(|table| {
                let is_whole = |partition: &Partition| {
                    let mut replicas: Vec<u64> =
                        partition.replicas.iter().map(|replica| replica.id).collect();
                    let mut voters = partition.voters.clone();
                    replicas.sort_unstable();
                    voters.sort_unstable();
                    replicas == voters
                        && partition.splitting_off.is_none()
                        && partition.merging.is_none()
                        && replicas.len() == copies
                        && partition.replicas.iter().all(|replica| {
                            replica.state() == ReplicaState::Unspecified
                                && open.contains(&(partition.id, replica.id))
                        })
                };
                !table.partitions.is_empty() && table.partitions.iter().all(is_whole) && also(table)
            })
        })
        .await;
    }

    /// Waits until every node takes requests and has every partition, or three have if there are more.
    pub async fn until_complete(&self) {
        // Its partitions do, a moment before a node itself does: one that is asked to stop between says that it was not done.
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            node.until_ready().await;
        }
        self.until_settled(self.nodes.len().min(3), |_| true).await;
    }

    /// As [`copies_moved`] says.
    pub async fn copies_moved(&self) -> usize {
        let node = self.nodes.iter().find(|node| node.child.is_some()).unwrap();
        copies_moved(&node.grpc).await
    }

    /// The ids of all nodes by place.
    pub async fn ids(&self) -> Vec<u64> {
        let mut ids = vec![0; self.nodes.len()];
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            let Some(status) = node.status().await else { continue };
            for known in status.table.unwrap_or_default().nodes {
                if let Some(at) = self.nodes.iter().position(|node| node.grpc == known.address) {
                    ids[at] = known.id;
                }
            }
        }
        ids
    }

    /// The nodes in the order in which they are to be killed: who leads most comes first.
    pub async fn leaders_first(&self) -> Vec<usize> {
        let mut leads = vec![0; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(status) = node.status().await {
                leads[at] = status.groups.iter().filter(|group| group.state == "leader").count();
            }
        }
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(leads[at]));
        order
    }
}
