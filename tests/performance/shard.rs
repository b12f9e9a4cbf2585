//! The database against PostgreSQL: single-row writes that are on disk before they are acknowledged.
//!
//! PostgreSQL runs upserts (and selects) by primary key with synchronous commit, prepared, driven by pgbench with as
//! many clients; ours runs PutItem (and GetItem) of as many bytes over gRPC (the SDK) and over the DynamoDB API, with one copy and with three on
//! this machine. In turns, several rounds; the median of the rounds' ratios counts. Needs PostgreSQL 15 (Debian:
//! postgresql) and, as PostgreSQL does not run as root, the user "postgres".

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use trimaran_client::database::{Database, Item, KeyType, Table, Value};
use trimaran_tests::harness::process::{Cluster, free_port};

use crate::server::{load, median};

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
    load(CLIENTS, seconds, |_, mut random, stop, written| {
        let address = addresses[random.random_range(0..addresses.len())].clone();
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut answer = vec![0; 16 << 10];
            while !stop.load(Ordering::Acquire) {
                let body = body(random.random_range(0..KEYS));
                let request = format!(
                    "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                // Answers are small: one read has them whole, headers and all.
                let read = stream.read(&mut answer).await.unwrap();
                assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..read]));
                written.fetch_add(1, Ordering::Release);
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

/// What came out of the rounds of a case.
#[derive(Default)]
struct Row {
    case: &'static str,
    script: &'static str,
    theirs: Vec<f64>,
    ours: Vec<f64>,
    ratios: Vec<f64>,
}

/// Prints a row a case.
pub(crate) async fn run(rounds: usize, seconds: u64) {
    let postgres = Postgres::start();
    println!(
        "| case, {CLIENTS} clients, {VALUE_BYTES} bytes | PostgreSQL 15, statements/s | shard-node, requests/s | ratio |\n|---|---|---|---|"
    );
    for (name, nodes, engine) in [
        ("one copy, fjall", 1, "fjall"),
        ("one copy, sled", 1, "sled"),
        ("three copies on this machine, fjall", 3, "fjall"),
    ] {
        let (cluster, database) = cluster(nodes, if nodes == 1 { 1 } else { 3 }, engine).await;
        let fronts: Vec<String> = cluster.nodes.iter().map(|node| node.front.clone()).collect();
        let mut rows = [
            Row { case: "PutItem over gRPC", script: "upsert.sql", ..Row::default() },
            Row { case: "PutItem over HTTP", script: "upsert.sql", ..Row::default() },
            Row { case: "GetItem over HTTP", script: "select.sql", ..Row::default() },
        ];
        for _ in 0..rounds {
            for row in &mut rows {
                let their = postgres.measure(row.script, seconds);
                let our = match row.case {
                    "PutItem over gRPC" => over_grpc(&database, seconds).await,
                    "PutItem over HTTP" => over_http(&fronts, seconds, "PutItem", put).await,
                    _ => over_http(&fronts, seconds, "GetItem", get).await,
                };
                row.theirs.push(their);
                row.ours.push(our);
                row.ratios.push(our / their);
            }
        }
        for Row { case, mut theirs, mut ours, mut ratios, .. } in rows {
            let ratio = median(&mut ratios);
            println!(
                "| {case}, {name} | {:.0} | {:.0} | {ratio:.2} |",
                median(&mut theirs),
                median(&mut ours)
            );
        }
    }
}
