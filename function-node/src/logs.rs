//! What functions write, and the report of each invocation: gathered here, kept in the database in batches.
//!
//! Nobody waits for a log: records go into a bounded queue, and what it cannot take is counted and said.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::warn;
use trimaran_client::database::{Database, Item, Page, Placeholders, ReadOptions, Value};
use trimaran_net::clock::Clock;
use trimaran_proto::api::functions::LogRecord;
use trimaran_proto::api::functions::log_record::What;
use trimaran_proto::state::functions::LogBatch;

use crate::error::Error;
use crate::limits::{
    LOG_BATCH_BYTES, LOG_FLUSH_BYTES_MAX, LOG_FLUSH_EVERY, LOG_KEEP, LOG_RECORDS_WAITING_MAX,
};
use crate::metrics;
use crate::tables::{self, LOGS};

/// Batches that are read, or removed, with one request.
const BATCHES_AT_ONCE: u32 = 25;

/// How far back a follower looks again, milliseconds: other nodes' clocks and ways are not this one's.
const FOLLOW_BACK_MS: u64 = 5_000;

/// Logs of all functions. Clones share them.
#[derive(Clone)]
pub(crate) struct Logs {
    sender: mpsc::Sender<Entry>,
    dropped: Arc<AtomicU64>,
    database: Database,
    clock: Arc<dyn Clock>,
}

enum Entry {
    Record(String, LogRecord),
    Flush(oneshot::Sender<()>),
}

impl Logs {
    /// Starts the writer; `node` tells nodes apart. It ends when the last clone is gone.
    pub(crate) fn start(database: Database, clock: Arc<dyn Clock>, node: String) -> Self {
        let (sender, receiver) = mpsc::channel(LOG_RECORDS_WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            database: database.clone(),
            clock: Arc::clone(&clock),
            node,
            number: 0,
            waiting: BTreeMap::new(),
            dropped: Arc::clone(&dropped),
        };
        tokio::spawn(writer.run(receiver));
        Self { sender, dropped, database, clock }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Takes a record, or counts it if there are too many.
    pub(crate) fn record(&self, function: &str, record: LogRecord) {
        if self.sender.try_send(Entry::Record(function.to_owned(), record)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            metrics::dropped().increment(1);
        }
    }

    /// Returns when everything recorded so far is in the database, or was given up.
    pub(crate) async fn flush(&self) {
        let (done, waits) = oneshot::channel();
        if self.sender.send(Entry::Flush(done)).await.is_ok() {
            let _gone = waits.await;
        }
    }

    /// The newest records of a function, oldest first, and where a follower goes on.
    pub(crate) async fn newest(
        &self,
        function: &str,
        limit: usize,
        wanted: impl Fn(&LogRecord) -> bool,
    ) -> Result<(Vec<LogRecord>, Follower), Error> {
        let mut follower = Follower { function: function.to_owned(), seen: HashSet::new() };
        let mut batches = Vec::new();
        let mut count = 0;
        let mut start_key = None;
        loop {
            let options = ReadOptions {
                placeholders: Placeholders::default()
                    .name("#function", "function")
                    .value(":function", function),
                limit: BATCHES_AT_ONCE,
                descending: true,
                start_key,
                ..ReadOptions::default()
            };
            let page = self.database.query(LOGS, "#function = :function", options).await?;
            start_key = page.last_key.clone();
            for (at, records) in read(page)? {
                follower.seen.insert(at);
                let records: Vec<LogRecord> = records.into_iter().filter(|record| wanted(record)).collect();
                count += records.len();
                batches.push(records);
            }
            if count >= limit || start_key.is_none() {
                break;
            }
        }
        let mut records: Vec<LogRecord> = batches.into_iter().rev().flatten().collect();
        records.sort_by_key(|record| record.time_ms);
        records.drain(..records.len().saturating_sub(limit));
        Ok((records, follower))
    }

    /// What came since.
    pub(crate) async fn more(&self, follower: &mut Follower) -> Result<Vec<LogRecord>, Error> {
        let from = format!("{:016x}", self.clock.now_ms().saturating_sub(FOLLOW_BACK_MS));
        let mut new = Vec::new();
        let mut start_key = None;
        loop {
            let options = ReadOptions {
                placeholders: Placeholders::default()
                    .name("#function", "function")
                    .name("#at", "at")
                    .value(":function", follower.function.as_str())
                    .value(":from", from.as_str()),
                start_key,
                ..ReadOptions::default()
            };
            let page = self.database.query(LOGS, "#function = :function AND #at > :from", options).await?;
            start_key = page.last_key.clone();
            for (at, records) in read(page)? {
                if follower.seen.insert(at) {
                    new.extend(records);
                }
            }
            if start_key.is_none() {
                break;
            }
        }
        follower.seen.retain(|at| *at > from);
        new.sort_by_key(|record| record.time_ms);
        Ok(new)
    }

    /// Deletes the logs of a function: all of them, or those that were kept for long enough.
    pub(crate) async fn delete(&self, function: &str, all: bool) -> Result<(), Error> {
        let keep_ms = u64::try_from(LOG_KEEP.as_millis()).unwrap_or(u64::MAX);
        let before = self.clock.now_ms().saturating_sub(keep_ms);
        // Letters sort after digits: everything.
        let before = if all { "g".to_owned() } else { format!("{before:016x}") };
        loop {
            let options = ReadOptions {
                placeholders: Placeholders::default()
                    .name("#function", "function")
                    .name("#at", "at")
                    .value(":function", function)
                    .value(":before", before.as_str()),
                limit: BATCHES_AT_ONCE,
                projection: "#function, #at".to_owned(),
                ..ReadOptions::default()
            };
            let page = self.database.query(LOGS, "#function = :function AND #at < :before", options).await?;
            if page.items.is_empty() {
                return Ok(());
            }
            self.database.batch_write(LOGS, Vec::new(), page.items).await?;
        }
    }
}

/// Who reads on: the batches it had already.
pub(crate) struct Follower {
    function: String,
    seen: HashSet<String>,
}

fn read(page: Page) -> Result<Vec<(String, Vec<LogRecord>)>, Error> {
    let batch = |item: Item| {
        let batch = LogBatch::decode(tables::bytes(&item, "batch")?)
            .map_err(|error| Error::CatalogDamaged(error.to_string()))?;
        Ok((tables::text(&item, "at")?, batch.records))
    };
    page.items.into_iter().map(batch).collect()
}

/// Gathers records and writes them in batches.
struct Writer {
    database: Database,
    clock: Arc<dyn Clock>,
    node: String,
    number: u64,
    waiting: BTreeMap<String, Waiting>,
    dropped: Arc<AtomicU64>,
}

#[derive(Default)]
struct Waiting {
    records: Vec<LogRecord>,
    bytes: usize,
    left_out: u64,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Entry>) {
        let mut ticks = interval_at(Instant::now() + LOG_FLUSH_EVERY, LOG_FLUSH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entry = receiver.recv() => match entry {
                    Some(Entry::Record(function, record)) => self.take(function, record),
                    Some(Entry::Flush(done)) => {
                        self.flush().await;
                        let _gone = done.send(());
                    }
                    None => return self.flush().await,
                },
                _ = ticks.tick(), if !self.waiting.is_empty() => self.flush().await,
            }
        }
    }

    fn take(&mut self, function: String, record: LogRecord) {
        let waiting = self.waiting.entry(function).or_default();
        let bytes = record.encoded_len();
        if waiting.bytes + bytes > LOG_FLUSH_BYTES_MAX {
            waiting.left_out += 1;
            metrics::dropped().increment(1);
            return;
        }
        waiting.bytes += bytes;
        waiting.records.push(record);
    }

    async fn flush(&mut self) {
        let mut left_out = self.dropped.swap(0, Ordering::Relaxed);
        for (function, mut waiting) in std::mem::take(&mut self.waiting) {
            // Who wrote what the queue could not take is not known: the first who is here is told.
            let missing = waiting.left_out + std::mem::take(&mut left_out);
            if missing > 0 {
                waiting.records.push(LogRecord {
                    time_ms: self.clock.now_ms(),
                    what: Some(What::Platform(format!(
                        "{missing} log records were too many and are left out"
                    ))),
                    ..LogRecord::default()
                });
            }
            let mut batch = LogBatch::default();
            let mut bytes = 0;
            for record in waiting.records {
                bytes += record.encoded_len();
                batch.records.push(record);
                if bytes >= LOG_BATCH_BYTES {
                    self.write(&function, std::mem::take(&mut batch)).await;
                    bytes = 0;
                }
            }
            if !batch.records.is_empty() {
                self.write(&function, batch).await;
            }
        }
    }

    async fn write(&mut self, function: &str, batch: LogBatch) {
        self.number += 1;
        let at = format!("{:016x}-{}-{:08x}", self.clock.now_ms(), self.node, self.number);
        let item = Item::from([
            ("function".to_owned(), function.into()),
            ("at".to_owned(), at.into()),
            ("batch".to_owned(), Value::B(batch.encode_to_vec().into())),
        ]);
        if let Err(error) = self.database.put_item(LOGS, item).await {
            let records = batch.records.len() as u64;
            warn!(%error, function, records, "log records are lost: the database does not take them");
            metrics::dropped().increment(records);
            self.dropped.fetch_add(records, Ordering::Relaxed);
        }
    }
}
