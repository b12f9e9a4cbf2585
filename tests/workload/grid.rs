//! Clients of a grid that write and read a few registers and add to a few counters without pause.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Mutex;
use tokio::time::Instant;
use trimaran_client::grid::Grid;

use crate::model::linearizable::{Action, Operation, Verdict, check};

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
pub struct Load {
    history: Arc<Mutex<History>>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    grid: Grid,
    /// Writes acknowledged so far.
    pub acknowledged: Arc<AtomicU64>,
}

/// Registers and counters: few, so that clients meet.
const KEYS: u64 = 6;

impl Load {
    /// Starts `clients` clients; `seed` decides what they do.
    pub fn start(grid: &Grid, clients: u64, seed: u64) -> Self {
        let history: Arc<Mutex<History>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let acknowledged: Arc<AtomicU64> = Arc::default();
        let unique = Arc::new(AtomicU64::new(1));
        let began = Instant::now();
        let clients = (0..clients)
            .map(|client| {
                let client = Client {
                    grid: grid.clone(),
                    history: Arc::clone(&history),
                    unique: Arc::clone(&unique),
                    acknowledged: Arc::clone(&acknowledged),
                    began,
                    random: StdRng::seed_from_u64(seed * 1000 + client),
                };
                tokio::spawn(client.run(Arc::clone(&stop)))
            })
            .collect();
        Self { history, stop, clients, grid: grid.clone(), acknowledged }
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
            let now = self.grid.increment(key.clone(), 0).await.unwrap();
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

struct Client {
    grid: Grid,
    history: Arc<Mutex<History>>,
    unique: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    began: Instant,
    random: StdRng,
}

impl Client {
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
        let outcome = self.grid.set(key.clone(), value.to_string()).await;
        let ended = outcome.is_ok().then(|| self.now_us());
        self.record(key, Operation { action: Action::Write(value), began, ended }).await;
    }

    async fn read(&self, key: String) {
        let began = self.now_us();
        // A read without an answer says nothing.
        let Ok(found) = self.grid.get(key.clone()).await else { return };
        let value = found.map(|bytes: Bytes| std::str::from_utf8(&bytes).unwrap().parse().unwrap());
        let ended = Some(self.now_us());
        self.record(key, Operation { action: Action::Read(value), began, ended }).await;
    }

    async fn add(&self, key: String) {
        let outcome = self.grid.increment(key.clone(), 1).await;
        let now = self.now_us();
        let mut history = self.history.lock().await;
        let counter = history.counters.entry(key).or_default();
        match outcome {
            Ok(sum) => {
                counter.sums.push(sum);
                history.acknowledged_us.push(now);
                self.acknowledged.fetch_add(1, Ordering::Release);
            }
            Err(_) => counter.unanswered += 1,
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
