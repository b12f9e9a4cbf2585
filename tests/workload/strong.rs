//! Items in groups, of which a table has a strong index: of each pair one is in, the other one out, at any time; and whoever has put an
//! item into a group finds it there, and nowhere else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trimaran_client::Error;
use trimaran_client::database::{
    Action, Database, Item, KeyType, Placeholders, ReadOptions, TransactWrite, Value, WriteOptions,
};

use crate::harness::until;
use crate::workload::transactions::{create, until_verified};

const TABLE: &str = "groups";
const INDEX: &str = "by-group";
const PAIRS: u64 = 6;
const GROUPS: u64 = 4;

/// A load under way.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    database: Database,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Times that a group was looked at and had what it must.
    pairs: AtomicU64,
    own: AtomicU64,
    /// Writes without an answer that is known.
    unknown: AtomicU64,
}

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Times that all pairs were looked at.
    pub pairs: u64,
    /// Times that an item of one's own was looked for.
    pub own: u64,
    /// Writes of which it is not known what became.
    pub unknown: u64,
}

fn key(id: &str) -> Item {
    Item::from([("id".to_owned(), id.into())])
}

fn put(id: &str, group: &str, number: i64) -> Item {
    let mut item = key(id);
    item.extend([("group".to_owned(), group.into()), ("number".to_owned(), number.into())]);
    item
}

impl Load {
    /// Makes a table with pairs, and begins.
    pub async fn start(database: &Database, clients: u64, seed: u64) -> Self {
        create(database, TABLE, INDEX, ("group", KeyType::S), "number").await;
        for pair in 0..PAIRS as i64 {
            database.put_item(TABLE, put(&format!("a-{pair}"), "in", pair)).await.unwrap();
            database.put_item(TABLE, put(&format!("b-{pair}"), "out", pair)).await.unwrap();
        }
        database.set_strong_indexes(TABLE, true).await.unwrap();
        let shared = Arc::new(Shared::default());
        let clients = (0..clients)
            .map(|number| {
                let (shared, database) = (Arc::clone(&shared), database.clone());
                let random = StdRng::seed_from_u64(seed.wrapping_mul(1000) + number);
                let client = Client { shared, database, random, id: format!("own-{number}"), known: None };
                tokio::spawn(client.run())
            })
            .collect();
        Self { shared, clients, database: database.clone() }
    }

    /// Waits until groups were looked at so many times more.
    pub async fn goes_on(&self, more: u64) {
        let looks = || self.shared.pairs.load(Ordering::Acquire) + self.shared.own.load(Ordering::Acquire);
        let end = looks() + more;
        until("groups are looked at", async || looks() >= end).await;
    }

    /// Ends it, and checks everything.
    pub async fn finish(self) -> Report {
        self.shared.stop.store(true, Ordering::Release);
        for client in self.clients {
            client.await.unwrap();
        }
        let all = async |index: &str| {
            let options = ReadOptions { index: index.to_owned(), ..ReadOptions::default() };
            let mut pages = self.database.scan_pages(TABLE, options);
            let mut found = BTreeSet::new();
            while let Some(page) = pages.next().await.unwrap() {
                found.extend(page.items.into_iter().map(|item| format!("{item:?}")));
            }
            found
        };
        assert_eq!(all("").await, all(INDEX).await, "nobody writes");
        until_verified(&self.database).await;
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Shared { pairs, own, unknown, .. } = &*self.shared;
        Report { pairs: count(pairs), own: count(own), unknown: count(unknown) }
    }
}

struct Client {
    shared: Arc<Shared>,
    database: Database,
    random: StdRng,
    /// Of an item that nobody else writes.
    id: String,
    /// Where it is: a group and a number. `None` inside = it is not there.
    known: Option<Option<(String, i64)>>,
}

impl Client {
    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            match self.random.random_range(0..10) {
                0..3 => self.swap().await,
                3..6 => self.look_at_pairs().await,
                _ => self.move_own().await,
            }
        }
    }

    async fn group(&self, group: &str) -> Result<Vec<(String, i64)>, Error> {
        let placeholders = Placeholders::default().name("#group", "group").value(":group", group);
        let options = ReadOptions { index: INDEX.to_owned(), placeholders, ..ReadOptions::default() };
        let page = self.database.query(TABLE, "#group = :group", options).await?;
        assert_eq!(page.last_key, None);
        let entry = |item: Item| match (&item["id"], &item["number"]) {
            (Value::S(id), Value::N(number)) => (id.clone(), number.parse().unwrap()),
            other => panic!("{other:?}"),
        };
        Ok(page.items.into_iter().map(entry).collect())
    }

    /// Who is in goes out, and the other way round.
    async fn swap(&mut self) {
        let pair = self.random.random_range(0..PAIRS);
        let (a, b) = if self.random.random_bool(0.5) { ("a", "b") } else { ("b", "a") };
        let change = |from: &str, to: &str| {
            let placeholders =
                Placeholders::default().name("#group", "group").value(":from", from).value(":to", to);
            let condition = "#group = :from".to_owned();
            (
                "SET #group = :to".to_owned(),
                WriteOptions { condition, placeholders, ..WriteOptions::default() },
            )
        };
        let (goes_out, is_in) = change("in", "out");
        let (goes_in, is_out) = change("out", "in");
        let transaction = TransactWrite::default()
            .and(TABLE, Action::Update(key(&format!("{a}-{pair}")), goes_out), is_in)
            .and(TABLE, Action::Update(key(&format!("{b}-{pair}")), goes_in), is_out);
        match self.database.transact_write(transaction).await {
            Ok(()) | Err(Error::Conflict(_)) => {}
            Err(_) => drop(self.shared.unknown.fetch_add(1, Ordering::Relaxed)),
        }
    }

    async fn look_at_pairs(&mut self) {
        let group = if self.random.random_bool(0.5) { "in" } else { "out" };
        let Ok(found) = self.group(group).await else { return };
        let pairs: Vec<i64> = found.iter().map(|(_, number)| *number).collect();
        assert_eq!(pairs, (0..PAIRS as i64).collect::<Vec<_>>(), "{group}: {found:?}");
        self.shared.pairs.fetch_add(1, Ordering::Release);
    }

    /// Somewhere else, or away; and then it is there, and is not where it was.
    async fn move_own(&mut self) {
        let before = self.known.take();
        let group = format!("group-{}", self.random.random_range(0..GROUPS));
        let number = self.random.random_range(0..3);
        let wanted = self.random.random_bool(0.8).then(|| (group.clone(), number));
        let done = match &wanted {
            None => {
                let deleted = self.database.delete_item(TABLE, key(&self.id), WriteOptions::default()).await;
                deleted.map(|_| ())
            }
            Some(_) if before.is_some() && self.random.random_bool(0.5) => {
                let placeholders = Placeholders::default()
                    .name("#group", "group")
                    .name("#number", "number")
                    .value(":group", group)
                    .value(":number", number);
                let options = WriteOptions { placeholders, ..WriteOptions::default() };
                let update = "SET #group = :group, #number = :number";
                self.database.update_item(TABLE, key(&self.id), update, options).await.map(|_| ())
            }
            Some(_) => self.database.put_item(TABLE, put(&self.id, &group, number)).await,
        };
        if done.is_err() {
            // It may be carried out yet, at any time.
            let unknown = self.shared.unknown.fetch_add(1, Ordering::Relaxed);
            self.id = format!("{}-{unknown}", self.id);
            return;
        }
        let groups: BTreeSet<String> =
            [before.flatten(), wanted.clone()].into_iter().flatten().map(|(group, _)| group).collect();
        for group in groups {
            let Ok(found) = self.group(&group).await else { continue };
            let own: Vec<i64> =
                found.into_iter().filter(|(id, _)| *id == self.id).map(|(_, number)| number).collect();
            let expected: Vec<i64> =
                wanted.iter().filter(|(wanted, _)| *wanted == group).map(|(_, number)| *number).collect();
            assert_eq!(own, expected, "{} in {group}, of {wanted:?}", self.id);
        }
        self.shared.own.fetch_add(1, Ordering::Release);
        self.known = Some(wanted);
    }
}
