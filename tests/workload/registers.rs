//! Clients of a grid or of a database that write and read a few registers and add to a few counters without pause.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Mutex;
use tokio::time::Instant;
use trimaran_client::Error;
use trimaran_client::database::{
    Database, Item, KeyType, Placeholders, ReturnValues, Table, Value, WriteOptions,
};
use trimaran_client::grid::Grid;

use crate::harness::until;
use crate::model::linearizable::{Action, Operation, Verdict, check};

/// What the clients write to and read from.
pub trait Registers: Clone + Send + Sync + 'static {
    /// Writes a register.
    fn write(&self, key: &str, value: u64) -> impl Future<Output = Result<(), Error>> + Send;
    /// Reads one; `None` = nothing was written.
    fn read(&self, key: &str) -> impl Future<Output = Result<Option<u64>, Error>> + Send;
    /// Adds to a counter and returns the sum.
    fn add(&self, key: &str, by: i64) -> impl Future<Output = Result<i64, Error>> + Send;
}

impl Registers for Grid {
    async fn write(&self, key: &str, value: u64) -> Result<(), Error> {
        self.set(key.to_owned(), value.to_string()).await.map(drop)
    }

    async fn read(&self, key: &str) -> Result<Option<u64>, Error> {
        let found = self.get(key.to_owned()).await?;
        Ok(found.map(|bytes: Bytes| std::str::from_utf8(&bytes).unwrap().parse().unwrap()))
    }

    async fn add(&self, key: &str, by: i64) -> Result<i64, Error> {
        self.increment(key.to_owned(), by).await
    }
}

/// Where much can be written.
pub trait Large: Registers {
    /// Writes so many bytes under a key that is no register.
    fn write_large(&self, key: &str, bytes: usize) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Large for Grid {
    async fn write_large(&self, key: &str, bytes: usize) -> Result<(), Error> {
        self.set(key.to_owned(), vec![b'x'; bytes]).await.map(drop)
    }
}

impl Large for InTable {
    async fn write_large(&self, key: &str, bytes: usize) -> Result<(), Error> {
        let mut item = Self::key(key);
        item.insert("text".to_owned(), Value::S("x".repeat(bytes)));
        self.database.put_item(self.table, item).await
    }
}

/// A table that is there, with a partition key "id".
#[derive(Clone, Debug)]
pub struct InTable {
    /// The database.
    pub database: Database,
    /// The table's name.
    pub table: &'static str,
}

impl InTable {
    /// Makes the table.
    pub async fn create(database: Database, name: &'static str) -> Self {
        let partition_key = ("id".to_owned(), KeyType::S);
        database.create_table(Table { name: name.into(), partition_key, sort_key: None }).await.unwrap();
        Self { database, table: name }
    }

    fn key(id: &str) -> Item {
        Item::from([("id".to_owned(), id.into())])
    }
}

impl Registers for InTable {
    async fn write(&self, key: &str, value: u64) -> Result<(), Error> {
        let mut item = Self::key(key);
        item.insert("value".to_owned(), Value::N(value.to_string()));
        self.database.put_item(self.table, item).await
    }

    async fn read(&self, key: &str) -> Result<Option<u64>, Error> {
        let found = self.database.get_item(self.table, Self::key(key)).await?;
        Ok(found.map(|item| number(&item["value"]).try_into().unwrap()))
    }

    async fn add(&self, key: &str, by: i64) -> Result<i64, Error> {
        let options = WriteOptions {
            placeholders: Placeholders::default().value(":by", by),
            return_values: ReturnValues::UpdatedNew,
            ..WriteOptions::default()
        };
        let updated =
            self.database.update_item(self.table, Self::key(key), "ADD visits :by", options).await?;
        Ok(number(&updated.unwrap()["visits"]))
    }
}

/// Under kills an answer may be missing; it may not be a refusal.
fn no_answer(error: &Error) {
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
}

fn number(value: &Value) -> i64 {
    match value {
        Value::N(text) => text.parse().unwrap(),
        other => panic!("{other:?} is no number"),
    }
}

/// What clients did and saw.
#[derive(Debug, Default)]
pub struct History {
    registers: BTreeMap<String, Vec<Operation>>,
    counters: BTreeMap<String, Counter>,
    /// Ends of acknowledged writes, microseconds since the begin: to find pauses.
    acknowledged_us: Vec<u64>,
}

#[derive(Debug, Default)]
struct Counter {
    sums: Vec<i64>,
    unanswered: usize,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// Operations with an answer.
    pub answered: usize,
    /// Operations that no answer came to in the client's time.
    pub unanswered: usize,
    /// Acknowledged additions.
    pub additions: usize,
    /// The longest time between two acknowledged writes.
    pub longest_pause: Duration,
}

/// A load that runs.
pub struct Load<R> {
    history: Arc<Mutex<History>>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    began: Instant,
    registers: R,
    /// Writes acknowledged so far.
    pub acknowledged: Arc<AtomicU64>,
}

/// Registers and counters: few, so that clients meet.
const KEYS: u64 = 6;

impl<R: Registers> Load<R> {
    /// Starts `clients` clients; `seed` decides what they do.
    pub fn start(registers: &R, clients: u64, seed: u64) -> Self {
        let history: Arc<Mutex<History>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let acknowledged: Arc<AtomicU64> = Arc::default();
        let unique = Arc::new(AtomicU64::new(1));
        let began = Instant::now();
        let clients = (0..clients)
            .map(|client| {
                let client = Client {
                    registers: registers.clone(),
                    history: Arc::clone(&history),
                    unique: Arc::clone(&unique),
                    acknowledged: Arc::clone(&acknowledged),
                    began,
                    random: StdRng::seed_from_u64(seed * 1000 + client),
                };
                tokio::spawn(client.run(Arc::clone(&stop)))
            })
            .collect();
        Self { history, stop, clients, began, registers: registers.clone(), acknowledged }
    }

    /// The longest time between two acknowledged writes since then; with the time since the last one.
    pub async fn longest_pause_since(&self, since: Instant) -> Duration {
        let now = self.began.elapsed().as_micros() as u64;
        let from = since.saturating_duration_since(self.began).as_micros() as u64;
        let mut ends = self.history.lock().await.acknowledged_us.clone();
        ends.retain(|&end| end >= from);
        ends.extend([from, now]);
        ends.sort_unstable();
        Duration::from_micros(ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default())
    }

    /// Waits for more writes, several of each client; `what` is said if they do not come.
    pub async fn goes_on(&self, what: &str) {
        let acknowledged = || self.acknowledged.load(Ordering::Acquire);
        let now = acknowledged();
        until(what, async || acknowledged() > now + 200).await;
    }

    /// Stops the clients and checks what they saw; panics with the operations where it is not right.
    pub async fn finish(self) -> Report {
        self.stop.store(true, Ordering::Release);
        for client in self.clients {
            client.await.unwrap();
        }
        let mut history = self.history.lock().await;
        for (key, operations) in &history.registers {
            if let Verdict::Violation { around } = check(operations) {
                panic!("{key} is not linearizable around:\n{around:#?}");
            }
        }
        for (key, counter) in &history.counters {
            let mut sums = counter.sums.clone();
            sums.sort_unstable();
            let distinct = sums.windows(2).all(|pair| pair[0] != pair[1]);
            assert!(distinct, "{key}: two additions were answered with the same sum");
            let now = self.registers.add(key, 0).await.unwrap();
            let least = sums.len() as i64;
            let most = least + counter.unanswered as i64;
            assert!(
                (least..=most).contains(&now),
                "{key} is {now}, expected {least} to {most}: lost or repeated"
            );
        }
        history.acknowledged_us.sort_unstable();
        let longest_pause =
            history.acknowledged_us.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        let operations = || history.registers.values().flatten();
        let additions = history.counters.values().map(|counter| counter.sums.len()).sum();
        Report {
            answered: operations().filter(|operation| operation.ended.is_some()).count(),
            unanswered: operations().filter(|operation| operation.ended.is_none()).count()
                + history.counters.values().map(|counter| counter.unanswered).sum::<usize>(),
            additions,
            longest_pause: Duration::from_micros(longest_pause),
        }
    }
}

struct Client<R> {
    registers: R,
    history: Arc<Mutex<History>>,
    unique: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    began: Instant,
    random: StdRng,
}

impl<R: Registers> Client<R> {
    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Acquire) {
            let number = self.random.random_range(0..KEYS);
            match self.random.random_range(0..3) {
                0 => self.write(format!("register-{number}")).await,
                1 => self.read(format!("register-{number}")).await,
                _ => self.add(format!("counter-{number}")).await,
            }
        }
    }

    async fn write(&self, key: String) {
        let value = self.unique.fetch_add(1, Ordering::Relaxed);
        let began = self.now_us();
        let outcome = self.registers.write(&key, value).await;
        let ended = outcome.inspect_err(no_answer).is_ok().then(|| self.now_us());
        self.record(key, Operation { action: Action::Write(value), began, ended }).await;
    }

    async fn read(&self, key: String) {
        let began = self.now_us();
        // A read without an answer says nothing.
        let Ok(value) = self.registers.read(&key).await else { return };
        let ended = Some(self.now_us());
        self.record(key, Operation { action: Action::Read(value), began, ended }).await;
    }

    async fn add(&self, key: String) {
        let outcome = self.registers.add(&key, 1).await;
        let now = self.now_us();
        let mut history = self.history.lock().await;
        let counter = history.counters.entry(key).or_default();
        match outcome {
            Ok(sum) => {
                counter.sums.push(sum);
                history.acknowledged_us.push(now);
                self.acknowledged.fetch_add(1, Ordering::Release);
            }
            Err(error) => {
                no_answer(&error);
                counter.unanswered += 1;
            }
        }
    }

    async fn record(&self, key: String, operation: Operation) {
        let mut history = self.history.lock().await;
        if let (Action::Write(_), Some(ended)) = (&operation.action, operation.ended) {
            history.acknowledged_us.push(ended);
            self.acknowledged.fetch_add(1, Ordering::Release);
        }
        history.registers.entry(key).or_default().push(operation);
    }
}
