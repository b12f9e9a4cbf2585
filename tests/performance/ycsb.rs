//! The core workloads of the Yahoo! Cloud Serving Benchmark against both fronts of the database, at a fixed rate; and what
//! is lost when some items are asked for much more often than others.
//!
//! Source: Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010; workloads/workload[a-f] and
//! `dynamodb/DynamoDBClient.java` of YCSB 0.17. Items are of ten fields of 100 bytes; an update writes one of them.
//! Which item it is comes from Zipf's law with exponent 0.99, the most wanted items being scattered over all keys; D asks
//! for what was inserted last. Requests are due at fixed times, whether those before were answered or not, and the time
//! of one that has to wait for the one before counts from when it was due ("coordinated omission").
//!
//! The floors of the same run: what a request costs that does nothing, and a flush of the disk.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};
use tokio::time::{Instant, sleep_until};
use trimaran_client::database::{
    Database, Item, KeyType, Placeholders, ReadOptions, Table, Value, WriteOptions,
};
use trimaran_tests::harness::process::Cluster;

use crate::dynamodb::Line;
use crate::server::{load, median};

const ITEMS: u64 = 20_000;
const FIELDS: usize = 10;
const FIELD_BYTES: usize = 100;
const SCAN_MAX: u32 = 100;
const EXPONENT: f64 = 0.99;
const CLIENTS: u64 = 64;

/// Requests a second of all clients together: well below what the machine can do, so that times are of requests and not
/// of queues. A scan reads fifty items.
const RATE: u64 = 2_000;
const SCAN_RATE: u64 = 200;

/// What of a hundred requests are what.
struct Workload {
    name: &'static str,
    read: u32,
    update: u32,
    insert: u32,
    scan: u32,
    /// Which items are asked for.
    of: Wanted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    Popular,
    Latest,
}

const A: Workload =
    Workload { name: "A: read, update", read: 50, update: 50, insert: 0, scan: 0, of: Wanted::Popular };
const C: Workload = Workload { name: "C: read", read: 100, update: 0, ..A };

/// What is left to a hundred is read, changed and written.
static WORKLOADS: [Workload; 6] = [
    A,
    Workload { name: "B: mostly read", read: 95, update: 5, ..A },
    C,
    Workload { name: "D: read latest", read: 95, insert: 5, of: Wanted::Latest, ..C },
    Workload { name: "E: scan", read: 0, insert: 5, scan: 95, ..C },
    Workload { name: "F: read, modify, write", read: 50, ..C },
];

/// The same requests, for all items alike and by Zipf's law.
static SKEWED: [[Workload; 2]; 2] =
    [[Workload { of: Wanted::Any, ..A }, A], [Workload { of: Wanted::Any, ..C }, C]];

/// Fowler, Noll and Vo's hash (FNV-1a, 64 bits) of a number, as YCSB scatters keys.
fn scattered(number: u64) -> u64 {
    number
        .to_le_bytes()
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Which item the next request is about.
#[derive(Clone)]
struct Keys {
    popular: Zipf<f64>,
    /// Items that are there; more come with inserts.
    items: Arc<AtomicU64>,
}

impl Keys {
    fn new() -> Self {
        let popular = Zipf::new(ITEMS as f64, EXPONENT).unwrap();
        Self { popular, items: Arc::new(AtomicU64::new(ITEMS)) }
    }

    fn next(&self, of: Wanted, random: &mut StdRng) -> String {
        let rank = self.popular.sample(random) as u64 - 1;
        let number = match of {
            Wanted::Any => random.random_range(0..ITEMS),
            Wanted::Popular => scattered(rank) % ITEMS,
            // The last ones may not be acknowledged yet: nothing is found, which takes as long.
            Wanted::Latest => self.items.load(Ordering::Relaxed) - 1 - rank,
        };
        key(number)
    }
}

fn key(number: u64) -> String {
    format!("user{:020}", scattered(number))
}

fn field(random: &mut StdRng) -> String {
    std::iter::repeat_with(|| random.sample(rand::distr::Alphanumeric) as char).take(FIELD_BYTES).collect()
}

/// A client's way to the database.
enum Front {
    Grpc(Database),
    Http(Line),
}

const TABLE: &str = "usertable";

impl Front {
    async fn read(&mut self, key: &str) {
        match self {
            Self::Grpc(database) => {
                database.get_item(TABLE, Item::from([("id".into(), key.into())])).await.unwrap();
            }
            Self::Http(line) => {
                let body = format!(
                    r#"{{"TableName":"{TABLE}","Key":{{"id":{{"S":"{key}"}}}},"ConsistentRead":true}}"#
                );
                line.ask("GetItem", &body).await;
            }
        }
    }

    async fn update(&mut self, key: &str, number: usize, value: String) {
        match self {
            Self::Grpc(database) => {
                let placeholders = Placeholders::default().value(":value", value);
                let options = WriteOptions { placeholders, ..WriteOptions::default() };
                let key = Item::from([("id".into(), key.into())]);
                database
                    .update_item(TABLE, key, &format!("SET field{number} = :value"), options)
                    .await
                    .unwrap();
            }
            Self::Http(line) => {
                let body = format!(
                    r#"{{"TableName":"{TABLE}","Key":{{"id":{{"S":"{key}"}}}},"UpdateExpression":"SET field{number} = :value","ExpressionAttributeValues":{{":value":{{"S":"{value}"}}}}}}"#
                );
                line.ask("UpdateItem", &body).await;
            }
        }
    }

    async fn insert(&mut self, key: &str, fields: Vec<String>) {
        match self {
            Self::Grpc(database) => {
                let fields = fields
                    .into_iter()
                    .enumerate()
                    .map(|(number, value)| (format!("field{number}"), Value::S(value)));
                let item: Item = fields.chain([("id".to_owned(), key.into())]).collect();
                database.put_item(TABLE, item).await.unwrap();
            }
            Self::Http(line) => {
                let fields: String = fields
                    .into_iter()
                    .enumerate()
                    .map(|(number, value)| format!(r#","field{number}":{{"S":"{value}"}}"#))
                    .collect();
                let body = format!(r#"{{"TableName":"{TABLE}","Item":{{"id":{{"S":"{key}"}}{fields}}}}}"#);
                line.ask("PutItem", &body).await;
            }
        }
    }

    /// From an item on, in the order that the database has them in, as YCSB's own client for DynamoDB.
    async fn scan(&mut self, key: &str, limit: u32) {
        match self {
            Self::Grpc(database) => {
                let start_key = Some(Item::from([("id".into(), key.into())]));
                let options = ReadOptions { limit, start_key, ..ReadOptions::default() };
                database.scan(TABLE, options).await.unwrap();
            }
            Self::Http(line) => {
                let body = format!(
                    r#"{{"TableName":"{TABLE}","Limit":{limit},"ConsistentRead":true,"ExclusiveStartKey":{{"id":{{"S":"{key}"}}}}}}"#
                );
                line.ask("Scan", &body).await;
            }
        }
    }

    /// One request of a workload. Returns what it was.
    async fn ask(&mut self, workload: &Workload, keys: &Keys, random: &mut StdRng) -> &'static str {
        let key_wanted = keys.next(workload.of, random);
        let mut chance = random.random_range(0..100);
        let mut is = |share: u32| {
            let is = chance < share;
            chance = chance.saturating_sub(share);
            is
        };
        if is(workload.read) {
            self.read(&key_wanted).await;
            "read"
        } else if is(workload.update) {
            self.update(&key_wanted, random.random_range(0..FIELDS), field(random)).await;
            "update"
        } else if is(workload.insert) {
            let number = keys.items.fetch_add(1, Ordering::Relaxed);
            self.insert(&key(number), (0..FIELDS).map(|_| field(random)).collect()).await;
            "insert"
        } else if is(workload.scan) {
            self.scan(&key_wanted, random.random_range(1..=SCAN_MAX)).await;
            "scan"
        } else {
            self.read(&key_wanted).await;
            self.update(&key_wanted, random.random_range(0..FIELDS), field(random)).await;
            "read, modify, write"
        }
    }
}

/// Microseconds that requests took since they were due, by what they were.
type Times = BTreeMap<&'static str, Histogram<u64>>;

async fn front(cluster: &Cluster, database: &Database, over_grpc: bool, client: u64) -> Front {
    if over_grpc {
        return Front::Grpc(database.clone());
    }
    Front::Http(Line::connect(&cluster.nodes[client as usize % cluster.nodes.len()].front).await)
}

/// Every client has its own times at which it is due, evenly within those of the others.
async fn at_rate(
    cluster: &Cluster,
    database: &Database,
    over_grpc: bool,
    workload: &'static Workload,
    keys: &Keys,
    seconds: u64,
) -> Times {
    let rate = if workload.scan > 0 { SCAN_RATE } else { RATE };
    let every = Duration::from_secs(1) * u32::try_from(CLIENTS).unwrap() / u32::try_from(rate).unwrap();
    let begin = Instant::now() + Duration::from_millis(100);
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut front = front(cluster, database, over_grpc, number).await;
        let keys = keys.clone();
        clients.push(tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(number);
            let mut times = Times::new();
            let mut due = begin + every * u32::try_from(number).unwrap() / u32::try_from(CLIENTS).unwrap();
            let end = begin + Duration::from_secs(seconds);
            while due < end {
                // A timer may be a millisecond late, which is nobody's time; a request that is late because the one before
                // took so long has waited.
                let begun = if Instant::now() < due {
                    sleep_until(due).await;
                    Instant::now()
                } else {
                    due
                };
                let what = front.ask(workload, &keys, &mut random).await;
                let took = begun.elapsed().as_micros() as u64;
                times.entry(what).or_insert_with(|| Histogram::new(3).unwrap()).record(took).unwrap();
                due += every;
            }
            times
        }));
    }
    let mut times = Times::new();
    for client in clients {
        for (what, took) in client.await.unwrap() {
            times.entry(what).or_insert_with(|| Histogram::new(3).unwrap()).add(took).unwrap();
        }
    }
    times
}

/// As many requests as there can be, one after the other for each client.
async fn as_fast(
    cluster: &Cluster,
    database: &Database,
    workload: &'static Workload,
    keys: &Keys,
    seconds: u64,
) -> f64 {
    let mut lines = Vec::new();
    for number in 0..CLIENTS {
        lines.push(Some(front(cluster, database, false, number).await));
    }
    let lines = parking_lot::Mutex::new(lines);
    load(CLIENTS as usize, seconds, |number, mut random, stop, done| {
        let mut front = lines.lock()[number].take().unwrap();
        let keys = keys.clone();
        async move {
            while !stop.load(Ordering::Acquire) {
                front.ask(workload, &keys, &mut random).await;
                done.fetch_add(1, Ordering::Release);
            }
        }
    })
    .await
}

fn show(name: &str, what: &str, times: &Histogram<u64>) {
    let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    println!("| {name} | {what} | {} | {:.2} | {:.2} | {:.2} |", times.len(), ms(0.5), ms(0.99), ms(0.999));
}

/// What nothing here can be faster than.
async fn floors(cluster: &Cluster, seconds: u64) {
    let mut line = Line::connect(&cluster.nodes[0].front).await;
    let (mut asked, mut flushed) = (Histogram::new(3).unwrap(), Histogram::new(3).unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let began = Instant::now();
        line.health().await;
        asked.record(began.elapsed().as_micros() as u64).unwrap();
    }
    show("floor: one after the other", "GET /", &asked);
    let folder = tempfile::tempdir_in(cluster.nodes[0].data()).unwrap();
    let file = std::fs::File::create(folder.path().join("file")).unwrap();
    file.write_all_at(&vec![1; 16 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    for at in (0..).map(|at| at % (16 << 10) * 1024) {
        if Instant::now() >= end {
            break;
        }
        let began = Instant::now();
        file.write_all_at(&[2; 1024], at).unwrap();
        file.sync_data().unwrap();
        flushed.record(began.elapsed().as_micros() as u64).unwrap();
    }
    show("floor: one after the other", "1 KiB and fdatasync", &flushed);
}

/// Prints rows for each cluster and front, and what Zipf's law costs.
pub(crate) async fn run(rounds: usize, seconds: u64) {
    for nodes in [1, 3] {
        let cluster = Cluster::shard(nodes, "fjall", 4).await;
        let database = cluster.database_client().await;
        let partition_key = ("id".to_owned(), KeyType::S);
        database.create_table(Table { name: TABLE.into(), partition_key, sort_key: None }).await.unwrap();
        let keys = Keys::new();
        let writers = (0..CLIENTS).map(|writer| {
            let mut front = Front::Grpc(database.clone());
            let mut random = StdRng::seed_from_u64(writer);
            tokio::spawn(async move {
                for number in (writer..ITEMS).step_by(CLIENTS as usize) {
                    front.insert(&key(number), (0..FIELDS).map(|_| field(&mut random)).collect()).await;
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        println!(
            "\n| YCSB, {nodes} node(s), {CLIENTS} clients, {RATE} requests/s ({SCAN_RATE} of E) | | requests | p50 ms | p99 ms | p99.9 ms |\n|---|---|---|---|---|---|"
        );
        floors(&cluster, 2).await;
        for over_grpc in [true, false] {
            for workload in &WORKLOADS {
                let times = at_rate(&cluster, &database, over_grpc, workload, &keys, seconds).await;
                let front = if over_grpc { "gRPC" } else { "HTTP" };
                for (what, times) in &times {
                    show(&format!("{}, {front}", workload.name), what, times);
                }
            }
        }
        println!(
            "\n| YCSB, {nodes} node(s), {CLIENTS} clients over HTTP | all alike, requests/s | Zipf {EXPONENT}, requests/s | ratio |\n|---|---|---|---|"
        );
        for workload in &SKEWED {
            let (mut alike, mut skewed, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                alike.push(as_fast(&cluster, &database, &workload[0], &keys, seconds).await);
                skewed.push(as_fast(&cluster, &database, &workload[1], &keys, seconds).await);
                ratios.push(skewed.last().unwrap() / alike.last().unwrap());
            }
            println!(
                "| {} | {:.0} | {:.0} | {:.2} |",
                workload[0].name,
                median(&mut alike),
                median(&mut skewed),
                median(&mut ratios)
            );
        }
    }
}
