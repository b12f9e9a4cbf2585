//! The database against PostgreSQL and etcd: single-row writes that are on disk before they are acknowledged.
//!
//! PostgreSQL, one of it whatever we are, runs upserts (and selects) by primary key with synchronous commit, prepared, driven by pgbench with as
//! many clients; ours runs PutItem (and GetItem) of as many bytes over gRPC (the SDK) and over the DynamoDB API, with one copy and with three on
//! this machine. etcd runs puts, as many members as there are of us. In turns, several rounds; the median of the rounds' ratios counts. Needs PostgreSQL 15 (Debian:
//! postgresql), etcd (etcd-server) and, as PostgreSQL does not run as root, the user "postgres".

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use rand::Rng as _;
use trimaran_client::database::{Database, Item, KeyType, Table, Value};
use trimaran_tests::harness::process::{Cluster, free_port};

use crate::dynamodb::Line;
use crate::etcd::{connections, etcd, on_etcd};
use crate::server::{load, median, processor_us};

const CLIENTS: usize = 64;
const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 256;

struct Postgres {
    bin: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    fn start() -> Self {
        let bin = Path::new("/usr/lib/postgresql/15/bin").to_owned();
        assert!(bin.exists(), "PostgreSQL 15 is not here (Debian: postgresql)");
        let folder = tempfile::tempdir().unwrap();
        let postgres = Self { bin, folder, port: free_port() };
        Command::new("chown").args(["postgres", &postgres.path("")]).status().unwrap();
        let data = postgres.path("data");
        postgres.run("initdb", &["-D", &data, "-A", "trust"]);
        let options = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1 -c synchronous_commit=on -c max_connections=200 -c shared_buffers=512MB -c max_wal_size=4GB",
            postgres.port,
            postgres.path("")
        );
        postgres.run("pg_ctl", &["-D", &data, "-w", "-l", &postgres.path("log"), "-o", &options, "start"]);
        let create = "create table items (id bigint primary key, value text not null)";
        postgres.run(
            "psql",
            &["-h", "127.0.0.1", "-p", &postgres.port.to_string(), "-d", "postgres", "-c", create],
        );
        let script = format!(
            "\\set id random(1, {KEYS})\ninsert into items values (:id, '{}') on conflict (id) do update set value = excluded.value;\n",
            "x".repeat(VALUE_BYTES)
        );
        std::fs::write(postgres.path("upsert.sql"), script).unwrap();
        let script = format!("\\set id random(1, {KEYS})\nselect value from items where id = :id;\n");
        std::fs::write(postgres.path("select.sql"), script).unwrap();
        postgres
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new("runuser")
            .args(["-u", "postgres", "--"])
            .arg(self.bin.join(program))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "{program} failed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Statements of a script per second, as pgbench says.
    fn measure(&self, script: &str, seconds: u64) -> f64 {
        let (clients, port, seconds) = (CLIENTS.to_string(), self.port.to_string(), seconds.to_string());
        let script = self.path(script);
        let said = self.run(
            "pgbench",
            &[
                "-n",
                "-M",
                "prepared",
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-c",
                &clients,
                "-j",
                "2",
                "-T",
                &seconds,
                "-f",
                &script,
                "postgres",
            ],
        );
        let line = said.lines().find(|line| line.starts_with("tps = ")).unwrap_or_else(|| panic!("{said}"));
        line.split(' ').nth(2).unwrap().parse().unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.path("data");
        self.run("pg_ctl", &["-D", &data, "-m", "immediate", "stop"]);
    }
}

async fn over_grpc(database: &Database, seconds: u64) -> f64 {
    load(CLIENTS, seconds, |_, mut random, stop, written| {
        let database = database.clone();
        async move {
            while !stop.load(Ordering::Acquire) {
                let id = Value::N(random.random_range(0..KEYS).to_string());
                let item = Item::from([("id".into(), id), ("value".into(), "x".repeat(VALUE_BYTES).into())]);
                database.put_item("items", item).await.unwrap();
                written.fetch_add(1, Ordering::Release);
            }
        }
    })
    .await
}

/// `operation` with a body made from a key; each client keeps its connection.
async fn over_http(
    addresses: &[String],
    seconds: u64,
    operation: &'static str,
    body: fn(u64) -> String,
) -> f64 {
    load(CLIENTS, seconds, |client, mut random, stop, done| {
        let address = addresses[client % addresses.len()].clone();
        async move {
            let mut line = Line::connect(&address).await;
            while !stop.load(Ordering::Acquire) {
                line.ask(operation, &body(random.random_range(0..KEYS))).await;
                done.fetch_add(1, Ordering::Release);
            }
        }
    })
    .await
}

fn put(key: u64) -> String {
    let value = "x".repeat(VALUE_BYTES);
    format!(
        "{{\"TableName\":\"items\",\"Item\":{{\"id\":{{\"N\":\"{key}\"}},\"value\":{{\"S\":\"{value}\"}}}}}}"
    )
}

fn get(key: u64) -> String {
    format!("{{\"TableName\":\"items\",\"Key\":{{\"id\":{{\"N\":\"{key}\"}}}},\"ConsistentRead\":true}}")
}

async fn cluster(nodes: usize, partitions: u64, engine: &str) -> (Cluster, Database) {
    let cluster = Cluster::shard(nodes, engine, partitions).await;
    let database = cluster.database_client().await;
    let partition_key = ("id".to_owned(), KeyType::N);
    database.create_table(Table { name: "items".into(), partition_key, sort_key: None }).await.unwrap();
    (cluster, database)
}

/// Who it is measured against.
#[derive(Clone, Copy)]
enum Peer {
    /// One server, whatever we are.
    Postgres(&'static str),
    /// As many members as we are nodes.
    Etcd,
}

/// What came out of the rounds of a case.
struct Row {
    case: &'static str,
    peer: Peer,
    theirs: Vec<f64>,
    ours: Vec<f64>,
    ratios: Vec<f64>,
    /// Of all of our nodes together, for a request.
    processor_us: Vec<f64>,
}

const PUT_OVER_GRPC: &str = "PutItem over gRPC";
const PUT_OVER_HTTP: &str = "PutItem over HTTP";
const GET_OVER_HTTP: &str = "GetItem over HTTP";

/// Prints a row a case.
pub(crate) async fn run(rounds: usize, seconds: u64) {
    let postgres = Postgres::start();
    println!(
        "| case, {CLIENTS} clients, {VALUE_BYTES} bytes | peer | its requests/s | shard-node, requests/s | ratio | processor of our nodes, µs a request |\n|---|---|---|---|---|---|"
    );
    for (name, nodes, engine) in [
        ("one copy, fjall", 1, "fjall"),
        ("one copy, sled", 1, "sled"),
        ("three copies on this machine, fjall", 3, "fjall"),
    ] {
        let (cluster, database) = cluster(nodes, if nodes == 1 { 1 } else { 3 }, engine).await;
        let fronts: Vec<String> = cluster.nodes.iter().map(|node| node.front.clone()).collect();
        let folder = tempfile::tempdir().unwrap();
        let (_members, addresses) = etcd(folder.path(), nodes).await;
        let channels = connections(&addresses, CLIENTS).await;
        for (case, peer) in [
            (PUT_OVER_GRPC, Peer::Postgres("upsert.sql")),
            (PUT_OVER_HTTP, Peer::Postgres("upsert.sql")),
            (GET_OVER_HTTP, Peer::Postgres("select.sql")),
            (PUT_OVER_HTTP, Peer::Etcd),
        ] {
            let mut row = Row {
                case,
                peer,
                theirs: Vec::new(),
                ours: Vec::new(),
                ratios: Vec::new(),
                processor_us: Vec::new(),
            };
            for _ in 0..rounds {
                let their = match row.peer {
                    Peer::Postgres(script) => postgres.measure(script, seconds),
                    Peer::Etcd => on_etcd(&channels, true, seconds).await,
                };
                let used = || cluster.nodes.iter().map(|node| processor_us(node.id())).sum::<f64>();
                let before = used();
                let our = match row.case {
                    PUT_OVER_GRPC => over_grpc(&database, seconds).await,
                    PUT_OVER_HTTP => over_http(&fronts, seconds, "PutItem", put).await,
                    _ => over_http(&fronts, seconds, "GetItem", get).await,
                };
                row.processor_us.push((used() - before) / (our * seconds as f64));
                row.theirs.push(their);
                row.ours.push(our);
                row.ratios.push(our / their);
            }
            let peer = match row.peer {
                Peer::Postgres(_) => "PostgreSQL 15",
                Peer::Etcd => "etcd 3.4",
            };
            println!(
                "| {}, {name} | {peer} | {:.0} | {:.0} | {:.2} | {:.0} |",
                row.case,
                median(&mut row.theirs),
                median(&mut row.ours),
                median(&mut row.ratios),
                median(&mut row.processor_us)
            );
        }
    }
}
