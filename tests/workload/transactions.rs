//! Clients of a database that append to lists and read them in transactions, and move money between accounts, without
//! pause. The history of the lists is checked in the end ([`crate::model::serializable`]); whoever looks at all accounts finds
//! the same sum, at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;
use trimaran_client::Error;
use trimaran_client::database::{
    Action, Database, Index, Item, KeyType, Placeholders, Projection, ReadOptions, StreamView, Table,
    TransactWrite, Value, VerifiedPartition, WriteOptions,
};

use crate::harness::until;
use crate::model::serializable::{Micro, Told, Transaction, check};
use crate::workload::changes::{Follower, Seen};
use crate::workload::moments::{CLOCKS_MS, all_as_of, check_lists, now_ms, until_kept};

/// Transactions that are done within the patience of a test, whatever happens.
const STEP: u64 = 300;

/// Lists that are appended to at the same time, and appends to one before another takes its place.
const LISTS: u64 = 6;
const APPENDS: u64 = 40;

const ACCOUNTS: u64 = 10;
const BALANCE: i64 = 1000;

/// For how long the table can be read as it was: longer than a test takes.
const HISTORY: Duration = Duration::from_secs(3600);

/// Moments of which all is looked at in the end, at most.
const MOMENTS: usize = 100;

/// Owners of accounts, of whom there is an index.
const OWNERS: u64 = 3;

const TABLE: &str = "transactions";
const INDEX: &str = "by-owner";

/// A load under way.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    follower: Follower,
    database: Database,
}

struct Shared {
    history: Mutex<Vec<Transaction>>,
    stop: AtomicBool,
    began: Instant,
    /// The same, since 1970.
    began_ms: u64,
    /// All accounts as they were, by the moment.
    moments: Mutex<BTreeMap<u64, Vec<Item>>>,
    next: AtomicU64,
    /// Transactions that were carried out.
    done: AtomicU64,
    sums: AtomicU64,
    cancelled: AtomicU64,
}

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Transactions on lists in the history, and those of them that were carried out.
    pub transactions: usize,
    /// Carried out.
    pub committed: usize,
    /// Without an answer.
    pub unknown: usize,
    /// All accounts together.
    pub sums: u64,
    /// The table as it was: moments at which it was looked at, all of it, when the load had ended.
    pub moments: usize,
    /// Transactions that were refused, since another one was at the same items or a condition did not hold.
    pub cancelled: u64,
    /// By somebody who followed the changes.
    pub followed: Seen,
}

fn key(id: String) -> Item {
    Item::from([("id".to_owned(), id.into())])
}

fn list(number: u64) -> Item {
    key(format!("list-{number}"))
}

fn account(number: u64) -> Item {
    key(format!("account-{number}"))
}

fn values(item: Option<&Item>) -> Vec<u64> {
    let Some(Value::L(values)) = item.and_then(|item| item.get("values")) else { return Vec::new() };
    let number = |value: &Value| match value {
        Value::N(text) => text.parse().unwrap(),
        other => panic!("a list has {other:?}"),
    };
    values.iter().map(number).collect()
}

fn balance(item: &Item) -> i64 {
    match &item["balance"] {
        Value::N(text) => text.parse().unwrap(),
        other => panic!("an account has {other:?}"),
    }
}

fn numbers(values: &[u64]) -> Value {
    Value::L(values.iter().map(|value| Value::N(value.to_string())).collect())
}

/// An append, as an update of its own or part of a transaction.
fn append(value: u64) -> (&'static str, WriteOptions) {
    let placeholders = Placeholders::default().value(":none", numbers(&[])).value(":one", numbers(&[value]));
    let placeholders = placeholders.name("#values", "values");
    let options = WriteOptions { placeholders, ..WriteOptions::default() };
    ("SET #values = list_append(if_not_exists(#values, :none), :one)", options)
}

impl Load {
    /// Makes a table with accounts and an index, and begins.
    pub async fn start(database: &Database, clients: u64, seed: u64) -> Self {
        create(database, TABLE, INDEX, ("owner", KeyType::N), "balance").await;
        database.enable_stream(TABLE, StreamView::NewAndOldImages).await.unwrap();
        database.keep_history(TABLE, Some(HISTORY)).await.unwrap();
        until_kept(database, TABLE).await;
        let sum = |items: &BTreeMap<String, Item>| {
            let accounts = items.iter().filter(|(id, _)| id.starts_with("account-"));
            let balances: Vec<i64> = accounts.map(|(_, item)| balance(item)).collect();
            let is_all = balances.len() as u64 == ACCOUNTS;
            assert!(!is_all || balances.iter().sum::<i64>() == ACCOUNTS as i64 * BALANCE, "{balances:?}");
        };
        let follower = Follower::start(database, TABLE, sum).await;
        for number in 0..ACCOUNTS {
            let mut item = account(number);
            item.insert("balance".to_owned(), BALANCE.into());
            item.insert("owner".to_owned(), 0.into());
            database.put_item(TABLE, item).await.unwrap();
        }
        let shared = Arc::new(Shared {
            history: Mutex::default(),
            stop: AtomicBool::new(false),
            began: Instant::now(),
            began_ms: now_ms(),
            moments: Mutex::default(),
            next: AtomicU64::new(1),
            done: AtomicU64::new(0),
            sums: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
        });
        let clients = (0..clients)
            .map(|client| {
                let (shared, database) = (Arc::clone(&shared), database.clone());
                let random = StdRng::seed_from_u64(seed.wrapping_mul(1000) + client);
                tokio::spawn(async move { Client { shared, database, random }.run().await })
            })
            .collect();
        Self { shared, clients, follower, database: database.clone() }
    }

    /// Transactions over lists that were carried out: those whose history is checked.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Acquire)
    }

    /// Waits until some more were.
    pub async fn goes_on(&self, more: u64) {
        let end = self.done() + more;
        while self.done() < end {
            // However many are wanted: that there are more, in time.
            let next = end.min(self.done() + STEP);
            until("transactions go on", async || self.done() >= next).await;
        }
    }

    /// Ends it, and checks everything.
    pub async fn finish(self) -> Report {
        self.shared.stop.store(true, Ordering::Release);
        for client in self.clients {
            client.await.unwrap();
        }
        let history = std::mem::take(&mut *self.shared.history.lock());
        let mut last = BTreeMap::new();
        let mut sum = 0;
        let mut owners = BTreeMap::new();
        let mut items = BTreeMap::new();
        for item in all(&self.database, "").await {
            let Value::S(id) = &item["id"] else { panic!("{item:?}") };
            items.insert(id.clone(), item.clone());
            match id.strip_prefix("list-") {
                Some(number) => drop(last.insert(number.parse().unwrap(), values(Some(&item)))),
                None => {
                    sum += balance(&item);
                    owners.insert(id.clone(), (item["owner"].clone(), item["balance"].clone()));
                }
            }
        }
        assert_eq!(sum, ACCOUNTS as i64 * BALANCE);
        // The index has what the items have, soon.
        until("the index has what the items have", async || {
            let entries = all(&self.database, INDEX).await.into_iter();
            let entries = entries.map(|entry| match &entry["id"] {
                Value::S(id) => (id.clone(), (entry["owner"].clone(), entry["balance"].clone())),
                other => panic!("{other:?}"),
            });
            let entries: Vec<_> = entries.collect();
            entries.len() == owners.len() && entries.into_iter().collect::<BTreeMap<_, _>>() == owners
        })
        .await;
        let followed = self.follower.finish(&items).await;
        until_verified(&self.database).await;
        let moments = std::mem::take(&mut *self.shared.moments.lock());
        let every = moments.len().div_ceil(MOMENTS);
        let chosen: Vec<_> = moments.into_iter().step_by(every.max(1)).collect();
        let moments = chosen.len();
        for (as_of_ms, before) in chosen {
            let (mut accounts, mut lists) = (BTreeMap::new(), BTreeMap::new());
            for item in all_as_of(&self.database, TABLE, as_of_ms).await {
                let Value::S(id) = &item["id"] else { panic!("{item:?}") };
                match id.strip_prefix("list-") {
                    Some(number) => drop(lists.insert(number.parse().unwrap(), values(Some(&item)))),
                    None => drop(accounts.insert(id.clone(), item)),
                }
            }
            let known: BTreeMap<String, Item> = before
                .into_iter()
                .map(|item| match &item["id"] {
                    Value::S(id) => (id.clone(), item.clone()),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(accounts, known, "as of {as_of_ms}");
            for (list, values) in &lists {
                assert!(last[list].starts_with(values), "list {list} as of {as_of_ms}: {values:?}");
            }
            check_lists(&history, self.shared.began_ms, as_of_ms, &lists);
        }
        let wrong = check(&history, &last);
        assert_eq!(wrong, BTreeSet::new(), "of {} transactions", history.len());
        let told = |told| history.iter().filter(|transaction| transaction.told == told).count();
        Report {
            transactions: history.len(),
            committed: told(Told::Yes),
            unknown: told(Told::Nothing),
            sums: self.shared.sums.load(Ordering::Relaxed),
            moments,
            cancelled: self.shared.cancelled.load(Ordering::Relaxed),
            followed,
        }
    }
}

/// Makes a table of items by their "id", with an index of their keys by one attribute, in the order of a number.
pub async fn create(
    database: &Database,
    table: &str,
    index: &str,
    (by, kind): (&str, KeyType),
    number: &str,
) {
    let table =
        Table { name: table.to_owned(), partition_key: ("id".to_owned(), KeyType::S), sort_key: None };
    let index = Index {
        name: index.to_owned(),
        local: false,
        partition_key: (by.to_owned(), kind),
        sort_key: Some((number.to_owned(), KeyType::N)),
        projection: Projection::KeysOnly,
    };
    database.create_table_with(table, vec![index]).await.unwrap();
}

/// Returns when all copies of every partition have said what they have, which must be the same.
pub async fn until_verified(database: &Database) {
    until("all copies answer", async || {
        let mut is_whole = true;
        let look = |found: VerifiedPartition| {
            assert!(found.equal, "copies differ: {found:?}");
            is_whole &= found.is_whole();
        };
        database.verify(look).await.is_ok() && is_whole
    })
    .await;
}

/// All items of the table, or all entries of an index.
async fn all(database: &Database, index: &str) -> Vec<Item> {
    let mut found = Vec::new();
    let mut options = ReadOptions { index: index.to_owned(), ..ReadOptions::default() };
    loop {
        let page = database.scan(TABLE, options.clone()).await.unwrap();
        found.extend(page.items);
        options.start_key = page.last_key;
        if options.start_key.is_none() {
            return found;
        }
    }
}

struct Client {
    shared: Arc<Shared>,
    database: Database,
    random: StdRng,
}

impl Client {
    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            match self.random.random_range(0..10) {
                0..2 => self.read_lists().await,
                2..5 => self.append_to_lists().await,
                5..7 => self.append_to_what_was_read().await,
                7..9 => self.transfer().await,
                _ => self.look_at_all_accounts().await,
            }
        }
    }

    fn now(&self) -> u64 {
        self.shared.began.elapsed().as_micros() as u64
    }

    /// Some different lists of those that are used now.
    fn lists(&mut self, count: u64) -> Vec<u64> {
        let turn = self.shared.next.load(Ordering::Relaxed) / (LISTS * APPENDS);
        let mut chosen = BTreeSet::new();
        while (chosen.len() as u64) < count {
            chosen.insert(turn * LISTS + self.random.random_range(0..LISTS));
        }
        chosen.into_iter().collect()
    }

    fn record<T>(&self, micros: Vec<Micro>, began: u64, outcome: &Result<T, Error>) {
        let told = match outcome {
            Ok(_) => Told::Yes,
            Err(Error::Conflict(_)) => Told::No,
            Err(_) => Told::Nothing,
        };
        match told {
            Told::Yes => self.shared.done.fetch_add(1, Ordering::Release),
            _ => self.shared.cancelled.fetch_add(u64::from(told == Told::No), Ordering::Relaxed),
        };
        let ended = self.now();
        self.shared.history.lock().push(Transaction { micros, began, ended, told });
    }

    async fn read(&self, lists: &[u64]) -> Result<Vec<Micro>, Error> {
        let found = if let [one] = lists {
            // Single reads are as strict as transactions.
            self.database.get_item(TABLE, list(*one)).await.map(|found| vec![found])
        } else {
            self.database.transact_get(lists.iter().map(|number| (TABLE, list(*number))).collect()).await
        };
        let read = lists.iter().zip(found?).map(|(number, item)| Micro::Read(*number, values(item.as_ref())));
        Ok(read.collect())
    }

    async fn read_lists(&mut self) {
        let count = self.random.random_range(1..5);
        let lists = self.lists(count);
        let began = self.now();
        let read = self.read(&lists).await;
        self.record(read.clone().unwrap_or_default(), began, &read);
    }

    async fn append_to_lists(&mut self) {
        let count = self.random.random_range(1..4);
        let lists = self.lists(count);
        let began = self.now();
        let mut micros = Vec::new();
        let mut transaction = TransactWrite::default();
        for number in &lists {
            let value = self.shared.next.fetch_add(1, Ordering::Relaxed);
            micros.push(Micro::Append(*number, value));
            let (update, options) = append(value);
            if lists.len() == 1 && self.random.random_bool(0.5) {
                let outcome = self.database.update_item(TABLE, list(*number), update, options).await;
                return self.record(micros, began, &outcome);
            }
            transaction = transaction.and(TABLE, Action::Update(list(*number), update.to_owned()), options);
        }
        let outcome = self.database.transact_write(transaction).await;
        self.record(micros, began, &outcome);
    }

    /// Reads some lists, and appends to another one if they are still what was read.
    async fn append_to_what_was_read(&mut self) {
        let mut lists = self.lists(3);
        let to = lists.swap_remove(self.random.random_range(0..3));
        let Ok(read) = self.read(&lists).await else { return };
        let began = self.now();
        let value = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (update, options) = append(value);
        let mut transaction =
            TransactWrite::default().and(TABLE, Action::Update(list(to), update.to_owned()), options);
        for micro in &read {
            let Micro::Read(number, seen) = micro else { continue };
            let placeholders = Placeholders::default().name("#values", "values");
            let (condition, placeholders) = if seen.is_empty() {
                ("attribute_not_exists(#values)", placeholders)
            } else {
                ("#values = :seen", placeholders.value(":seen", numbers(seen)))
            };
            let options =
                WriteOptions { condition: condition.to_owned(), placeholders, ..WriteOptions::default() };
            transaction = transaction.and(TABLE, Action::Check(list(*number)), options);
        }
        let outcome = self.database.transact_write(transaction).await;
        let micros = read.into_iter().chain([Micro::Append(to, value)]).collect();
        self.record(micros, began, &outcome);
    }

    async fn transfer(&mut self) {
        let from = self.random.random_range(0..ACCOUNTS);
        let to = (from + self.random.random_range(1..ACCOUNTS)) % ACCOUNTS;
        let amount: i64 = self.random.random_range(1..200);
        let owner = self.random.random_range(0..OWNERS) as i64;
        let options = |by: i64, least: i64| WriteOptions {
            condition: "balance >= :least".to_owned(),
            placeholders: Placeholders::default()
                .name("#owner", "owner")
                .value(":by", by)
                .value(":least", least)
                .value(":owner", owner),
            ..WriteOptions::default()
        };
        let update =
            |number| Action::Update(account(number), "ADD balance :by SET #owner = :owner".to_owned());
        let transaction = TransactWrite::default().and(TABLE, update(from), options(-amount, amount)).and(
            TABLE,
            update(to),
            options(amount, 0),
        );
        if self.database.transact_write(transaction).await.is_err() {
            self.shared.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn look_at_all_accounts(&mut self) {
        let keys = (0..ACCOUNTS).map(|number| (TABLE, account(number))).collect();
        let found = if self.random.random_bool(0.5) {
            self.database.transact_get(keys).await
        } else {
            let ago_ms = self.random.random_range(1..3000);
            let as_of_ms = now_ms().saturating_sub(ago_ms).max(self.shared.began_ms + CLOCKS_MS);
            let found = self.database.as_of(as_of_ms).transact_get(keys).await;
            if let Ok(found) = &found {
                let accounts: Vec<Item> = found.iter().flatten().cloned().collect();
                let before = self.shared.moments.lock().insert(as_of_ms, accounts.clone());
                assert!(before.is_none_or(|before| before == accounts), "as of {as_of_ms} it changes");
            }
            found
        };
        let Ok(found) = found else { return };
        assert_eq!(found.iter().flatten().count() as u64, ACCOUNTS);
        let sum: i64 = found.iter().flatten().map(balance).sum();
        assert_eq!(sum, ACCOUNTS as i64 * BALANCE, "{found:?}");
        self.shared.sums.fetch_add(1, Ordering::Relaxed);
    }
}
