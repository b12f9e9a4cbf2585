//! The database on each of its engines, under the same load: overwrites, deletions, a start after kill -9. What is written to the disk
//! is the Raft log, too, which is the same for both, and what others write to it meanwhile; the floors are the bytes of the items, and reading the files.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};
use trimaran_client::database::{Database, Item, KeyType, ReadOptions, Table, Value};
use trimaran_tests::harness::process::Cluster;

use crate::restart::read_all;
use crate::server::processor_us;

const ITEMS: u64 = 100_000;
const VALUE_BYTES: usize = 1024;
const CLIENTS: u64 = 64;
const BATCH: usize = 25;
const TABLE: &str = "items";

/// Of a hundred items, those that are deleted in the end.
const DELETED: u64 = 90;

/// How long an engine has to give space back.
const SETTLE: Duration = Duration::from_secs(30);

/// Microseconds, up to a minute.
type Times = Histogram<u64>;

fn key(number: u64) -> Item {
    Item::from([("id".to_owned(), Value::N(number.to_string()))])
}

fn item(number: u64, random: &mut StdRng) -> Item {
    // Nothing that can be made smaller.
    let value: Vec<u8> = std::iter::repeat_with(|| random.random()).take(VALUE_BYTES).collect();
    let mut item = key(number);
    item.insert("value".to_owned(), Value::B(value.into()));
    item
}

/// Bytes that the device of a folder has written, whoever had it written: what `/proc/PID/io` says of a process is whole folios of the
/// page cache for every few bytes. Source: Documentation/admin-guide/iostats.rst of the kernel.
fn written_bytes(folder: &Path) -> f64 {
    let device = folder.metadata().unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let all = std::fs::read_to_string("/proc/diskstats").unwrap();
    let of_device = |line: &&str| {
        let mut fields = line.split_ascii_whitespace();
        fields.next() == Some(&major.to_string()) && fields.next() == Some(&minor.to_string())
    };
    let line = all.lines().find(of_device).expect("the device of the folder counts what it writes");
    let sectors: f64 = line.split_ascii_whitespace().nth(9).unwrap().parse().unwrap();
    sectors * 512.0
}

/// Bytes that files under a folder take on the disk.
fn space(folder: &Path) -> f64 {
    let mut bytes = 0.0;
    // Files go while they are looked at.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { space(&entry.path()) } else { metadata.blocks() as f64 * 512.0 };
    }
    bytes
}

/// In batches, all clients side by side: puts of all items, or deletions of most.
async fn fill(database: &Database, deleted: Option<u64>) {
    let next = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (database, next) = (database.clone(), Arc::clone(&next));
            let mut random = StdRng::seed_from_u64(client);
            tokio::spawn(async move {
                loop {
                    let first = next.fetch_add(BATCH as u64, Ordering::Relaxed);
                    let numbers = first..(first + BATCH as u64).min(ITEMS);
                    if numbers.is_empty() {
                        return;
                    }
                    let (puts, deletes) = match deleted {
                        None => (numbers.map(|number| item(number, &mut random)).collect(), Vec::new()),
                        Some(deleted) => {
                            let goes = numbers.filter(|number| number % 100 < deleted);
                            (Vec::new(), goes.map(key).collect::<Vec<_>>())
                        }
                    };
                    database.batch_write(TABLE, puts, deletes).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

/// Overwrites for a while. Returns how long each took.
async fn overwrite(database: &Database, seconds: u64) -> Times {
    let times = Arc::new(Mutex::new(Times::new_with_bounds(1, 60_000_000, 3).unwrap()));
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (database, times) = (database.clone(), Arc::clone(&times));
            let mut random = StdRng::seed_from_u64(1000 + client);
            tokio::spawn(async move {
                while Instant::now() < end {
                    let item = item(random.random_range(0..ITEMS), &mut random);
                    let began = Instant::now();
                    database.put_item(TABLE, item).await.unwrap();
                    times.lock().saturating_record(began.elapsed().as_micros() as u64);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let times = times.lock();
    times.clone()
}

/// Returns when the files have stopped getting smaller, or after a while.
async fn settle(folder: &Path) -> f64 {
    let end = Instant::now() + SETTLE;
    let mut least = space(folder);
    let mut same = 0;
    while Instant::now() < end && same < 10 {
        sleep(Duration::from_secs(1)).await;
        let now = space(folder);
        same = if now < least * 0.99 { 0 } else { same + 1 };
        least = least.min(now);
    }
    least
}

/// Prints a table with a column for each engine.
pub(crate) async fn run(rounds: usize, seconds: u64) {
    println!(
        "| one node, {ITEMS} items of {VALUE_BYTES} bytes, {CLIENTS} clients | overwrites/s | p50, ms | p99 | p99.9 | µs of processor | bytes written a byte of items | space a byte of items, after overwrites | when settled | with {DELETED} % deleted | start after kill -9, s | its files are read in, s |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    for _ in 0..rounds {
        for engine in ["fjall", "sled"] {
            let mut cluster = Cluster::shard(1, engine, 4).await;
            let database = cluster.database_client().await;
            let partition_key = ("id".to_owned(), KeyType::N);
            database.create_table(Table { name: TABLE.into(), partition_key, sort_key: None }).await.unwrap();
            fill(&database, None).await;
            let (process, folder) = (cluster.nodes[0].id(), cluster.nodes[0].data());
            let before = (written_bytes(&folder), processor_us(process));
            let times = overwrite(&database, seconds).await;
            let count = times.len() as f64;
            let used = processor_us(process) - before.1;
            let after = space(&folder);
            let settled = settle(&folder).await;
            // What an engine puts off is its doing, too.
            let written = written_bytes(&folder) - before.0;
            let bytes = (ITEMS * VALUE_BYTES as u64) as f64;
            fill(&database, Some(DELETED)).await;
            let left = settle(&folder).await;
            cluster.nodes[0].kill();
            let began = Instant::now();
            read_all(&folder);
            let floor = began.elapsed().as_secs_f64();
            let began = Instant::now();
            cluster.nodes[0].start();
            cluster.nodes[0].until_ready().await;
            assert!(database.get_item(TABLE, key(ITEMS - 1)).await.unwrap().is_some());
            let started = began.elapsed().as_secs_f64();
            let mut pages = database.scan_pages(TABLE, ReadOptions::default());
            let mut found = 0;
            while let Some(page) = pages.next().await.unwrap() {
                found += page.items.len() as u64;
            }
            assert_eq!(found, ITEMS - ITEMS / 100 * DELETED, "what was acknowledged is there, and no more");
            let ms = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
            println!(
                "| {engine} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} | {:.1} | {:.2} | {:.2} | {:.2} | {started:.2} | {floor:.2} |",
                count / seconds as f64,
                ms(0.5),
                ms(0.99),
                ms(0.999),
                used / count,
                written / (count * VALUE_BYTES as f64),
                after / bytes,
                settled / bytes,
                left / bytes,
            );
        }
    }
}
