//! One machine with everything that follows from writes: items with a local and a global index, transactions in one phase and
//! in two, words for indexes that come late, twice and in any order, and a power that goes away. Afterwards indexes are what the
//! items say, and no transaction was done by half.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::action::What;
use trimaran_proto::state::shard::command::Body;
use trimaran_proto::state::shard::reply::Outcome;
use trimaran_replication::machine::{Committed, Machine as _, Recovered, Remember, Reply, SnapshotChunks};
use trimaran_storage::engine::Order;
use trimaran_storage::faulty_engine::FaultyEngine;

use super::*;
use crate::expression::codec::{encode_condition, encode_update};
use crate::expression::parse::{self, Placeholders};
use crate::item::{Item, Type, Value, decode_item};
use crate::key::{Layout, token_range};
use crate::machine::ShardMachine;
use crate::op::encode;
use crate::past;
use crate::store::{Shared, encode_schema};
use crate::table::{History, Index, IndexStatus, KeyAttribute, OnDemand, Projection, StrongIndexes, Table};

/// Items, all of them there from the beginning, and what they have together.
const ACCOUNTS: u32 = 12;
const BALANCE: i64 = 100;

fn attribute(name: &str, kind: Type) -> KeyAttribute {
    KeyAttribute { name: name.to_owned(), kind }
}

fn table() -> Table {
    let index = |name: &str, number, local, partition_key, sort_key| Index {
        name: name.to_owned(),
        number,
        local,
        partition_key,
        sort_key: Some(sort_key),
        projection: Projection::Include(vec!["note".to_owned()]),
        status: IndexStatus::Active,
        filled_below: None,
        throughput: None,
        on_demand: OnDemand::default(),
    };
    let id = || attribute("id", Type::S);
    Table {
        id: 9,
        indexes: vec![
            index("local", 1, true, id(), attribute("balance", Type::N)),
            index("global", 2, false, attribute("note", Type::S), attribute("balance", Type::N)),
        ],
        revision: 9,
        history: Some(History { kept_ms: 1, since_ms: None, ends: false }),
        ..Table::new("accounts".to_owned(), id(), Some(attribute("n", Type::N)))
    }
}

fn number(value: i64) -> Value {
    Value::N(value.to_string().parse().unwrap())
}

fn key(account: u32) -> Item {
    Item::from([
        ("id".to_owned(), Value::S(format!("owner-{}", account % 4))),
        ("n".to_owned(), number(account.into())),
    ])
}

fn row(account: u32) -> RowKey {
    Layout::of_table(&table()).row(&key(account)).unwrap()
}

fn add(account: u32, amount: i64, note: u32) -> What {
    let values = BTreeMap::from([
        (":amount".to_owned(), number(amount)),
        (":least".to_owned(), number(-amount)),
        (":note".to_owned(), Value::S(format!("note-{note}"))),
    ]);
    let mut placeholders = Placeholders::new(BTreeMap::new(), values);
    let update = parse::update("ADD balance :amount SET note = :note", &mut placeholders).unwrap();
    let condition = parse::condition("ConditionExpression", "balance >= :least", &mut placeholders).unwrap();
    What::Update(state::Update {
        key: encode(&key(account)).bytes,
        update: encode_update(&update),
        condition: encode_condition(Some(&condition)),
        ..state::Update::default()
    })
}

/// A machine with its log, which is not lost.
struct Subject {
    engine: FaultyEngine,
    machine: ShardMachine,
    log: Vec<Bytes>,
    random: StdRng,
    stamp_ms: u64,
    stamps: Vec<u64>,
}

impl Subject {
    fn new(seed: u64) -> Self {
        let engine = FaultyEngine::default();
        let machine = open(&engine);
        let random = StdRng::seed_from_u64(seed);
        Self { engine, machine, log: Vec::new(), random, stamp_ms: 1_000_000, stamps: Vec::new() }
    }

    fn apply(&mut self, row: Bytes, body: Body) -> state::Reply {
        self.stamp_ms += self.random.random_range(0..3);
        let payload = Bytes::from(state::Command { row, body: Some(body) }.encode_to_vec());
        self.log.push(payload);
        self.stamps.push(self.stamp_ms);
        state::Reply::decode(self.again(self.log.len() - 1)).unwrap()
    }

    /// Applies an entry of the log.
    fn again(&mut self, at: usize) -> Bytes {
        let committed = Committed { stamp_ms: self.stamps[at], passed_ms: 0, payload: &self.log[at] };
        let reply =
            self.machine.apply(&[committed]).unwrap().into_iter().map(Reply::into_bytes).next().unwrap();
        let applied = Bytes::from(((at + 1) as u64).to_be_bytes().to_vec());
        self.machine.commit(Remember { applied, ..Remember::default() }).unwrap();
        reply
    }

    /// The power goes, and what it takes comes back from the log; or the copy is made anew from a snapshot.
    fn disturb(&mut self) {
        if self.random.random_bool(0.5) {
            self.engine.lose_power(self.random.random_range(0..20));
            self.machine = open(&self.engine);
            let from = match self.machine.recover().unwrap() {
                Recovered::Applied { applied, .. } => u64::from_be_bytes(applied[..].try_into().unwrap()),
                _ => 0,
            };
            for at in from as usize..self.log.len() {
                self.again(at);
            }
        } else {
            let chunks: Vec<Bytes> = self.machine.snapshot().map(Result::unwrap).collect();
            let engine = FaultyEngine::default();
            let mut machine = open(&engine);
            machine.restore(&mut (Box::new(chunks.into_iter().map(Ok)) as SnapshotChunks)).unwrap();
            let applied = Bytes::from((self.log.len() as u64).to_be_bytes().to_vec());
            machine.commit(Remember { applied, ..Remember::default() }).unwrap();
            (machine.persist())().unwrap();
            (self.engine, self.machine) = (engine, machine);
        }
    }

    fn rows(&self, keyspace: u64) -> Vec<(Bytes, Bytes)> {
        let range = token_range(keyspace, Token(0), Token(u64::MAX));
        let rows = self.machine.view().scan(range, Order::Ascending).map(Result::unwrap);
        rows.map(|(row, _, stored)| (row, stored.bytes)).collect()
    }

    /// Carries some of what waits to the index: any of it, in any order, some of it twice, and some not trimmed.
    fn carry(&mut self, all: bool) {
        let mut waiting = self.rows(Kind::Waiting.of(9, 0));
        waiting.shuffle(&mut self.random);
        for (place, bytes) in waiting {
            if !all && self.random.random_bool(0.4) {
                continue;
            }
            let waiting = state::Waiting::decode(bytes).unwrap();
            for change in waiting.changes {
                let write =
                    state::IndexWrite { version: waiting.version, item: change.item, size: change.size };
                for _ in 0..self.random.random_range(1..3) {
                    let reply = self.apply(change.row.clone(), Body::IndexWrite(write.clone()));
                    assert_eq!(reply.outcome(), Outcome::Applied);
                }
            }
            match self.random.random_range(0..10) {
                _ if all => drop(self.apply(place.clone(), Body::Trim(state::Trim { rows: vec![place] }))),
                0 => drop(self.apply(place, Body::Restamp(state::Restamp { at_least: 0 }))),
                1..7 => drop(self.apply(place.clone(), Body::Trim(state::Trim { rows: vec![place] }))),
                _ => {}
            }
        }
    }

    fn items(&self) -> Vec<Item> {
        self.rows(9).into_iter().map(|(_, mut stored)| decode_item(&mut stored).unwrap()).collect()
    }

    /// What an index has, and what it is to have.
    fn index(&self, number: usize) -> (BTreeMap<Bytes, Item>, BTreeMap<Bytes, Item>) {
        let table = table();
        let index = &table.indexes[number];
        let found = self.rows(index.keyspace(9)).into_iter();
        let found = found.map(|(row, mut stored)| (row, decode_item(&mut stored).unwrap())).collect();
        let layout = Layout::of_index(&table, index);
        let wanted = self
            .items()
            .into_iter()
            .filter_map(|item| Some((layout.row(&item)?.row, index.project(&table, &item))));
        (found, wanted.collect())
    }

    fn items_as_of(&self, at: u64) -> Vec<Item> {
        let all = token_range(9, Token(0), Token(u64::MAX));
        let rows = past::scan(&self.machine.view(), all, Order::Ascending, at).map(Result::unwrap);
        rows.map(|(_, _, mut stored)| decode_item(&mut stored.bytes).unwrap()).collect()
    }
}

fn sum_of(items: &[Item]) -> i64 {
    let balance = |item: &Item| match &item["balance"] {
        Value::N(number) => number.to_string().parse::<i64>().unwrap(),
        other => panic!("a balance is {other:?}"),
    };
    items.iter().map(balance).sum()
}

fn open(engine: &FaultyEngine) -> ShardMachine {
    let shared = Arc::new(Shared::new(Arc::new(engine.clone())));
    ShardMachine::new(shared, 1, Token(0), Token(u64::MAX))
}

/// A transaction that is under way: what is known of it by whoever coordinates it.
struct Open {
    transaction: state::Transaction,
    record: RowKey,
    rows: Vec<Bytes>,
    prepared: u64,
}

#[test]
fn indexes_are_what_items_say_and_transactions_are_whole_whatever_happens_meanwhile() {
    for seed in 0..60 {
        let mut subject = Subject::new(seed);
        let schema = encode_schema(&table());
        subject.apply(head(9, Token(0)).freeze(), Body::SetSchema(schema));
        for account in 0..ACCOUNTS {
            let mut item = key(account);
            item.insert("balance".to_owned(), number(BALANCE));
            let stored = encode(&item);
            let put = state::Put { item: stored.bytes, size: stored.size, ..state::Put::default() };
            assert_eq!(subject.apply(row(account).row, Body::Put(put)).outcome(), Outcome::Applied);
        }
        let expected = i64::from(ACCOUNTS) * BALANCE;
        let (began, mut moments) = (subject.machine.version(), BTreeMap::new());
        let mut open: Vec<Open> = Vec::new();
        let (mut committed, mut cancelled, mut conflicts) = (0, 0, 0);
        for step in 0..300_u32 {
            let (from, to) =
                (subject.random.random_range(0..ACCOUNTS), subject.random.random_range(0..ACCOUNTS));
            if from == to {
                continue;
            }
            let amount = subject.random.random_range(1..60);
            let actions: Vec<state::Action> = [(from, -amount), (to, amount)]
                .into_iter()
                .map(|(account, amount)| state::Action {
                    row: row(account).row,
                    what: Some(add(account, amount, step % 5)),
                })
                .collect();
            match subject.random.random_range(0..10) {
                0..3 => {
                    let transact = state::Transact { transaction: None, actions };
                    match subject.apply(row(from).row, Body::Transact(transact)).outcome() {
                        Outcome::Applied => committed += 1,
                        Outcome::Cancelled => cancelled += 1,
                        other => panic!("seed {seed}: {other:?}"),
                    }
                }
                3..6 => {
                    let id: [u8; ID_BYTES] = subject.random.random();
                    let record = record(&id);
                    let transaction = state::Transaction {
                        id: Bytes::copy_from_slice(&id),
                        record: record.row.clone(),
                        fingerprint: Bytes::new(),
                        writes: Vec::new(),
                        single: false,
                    };
                    let rows = actions.iter().map(|action| action.row.clone()).collect();
                    let begun = crate::store::version_at(subject.stamp_ms);
                    let prepare = state::Prepare { transaction: Some(transaction.clone()), actions, begun };
                    let reply = subject.apply(row(from).row, Body::Prepare(prepare));
                    match reply.outcome() {
                        Outcome::Applied => {
                            open.push(Open { transaction, record, rows, prepared: reply.version });
                        }
                        Outcome::Cancelled => {
                            conflicts += usize::from(reply.replies.iter().any(|one| !one.held.is_empty()));
                        }
                        other => panic!("seed {seed}: {other:?}"),
                    }
                }
                6..8 if !open.is_empty() => {
                    let at = subject.random.random_range(0..open.len());
                    let one = open.swap_remove(at);
                    // Two who do not agree: whoever is first decides, and both are told.
                    let first = subject.random.random_bool(0.6);
                    let mut decide = |commit| {
                        let decide = state::Decide {
                            transaction: Some(one.transaction.clone()),
                            commit,
                            prepared: one.prepared,
                            items: Vec::new(),
                            reply: Bytes::new(),
                        };
                        let reply = subject.apply(one.record.row.clone(), Body::Decide(decide));
                        (reply.record.unwrap().committed, reply.version)
                    };
                    let ((yes, decided), (again, told)) = (decide(first), decide(!first));
                    assert_eq!((yes, again), (first, first), "seed {seed}");
                    assert_eq!(told, decided, "whoever is told of the decision is told when that was");
                    committed += i32::from(yes);
                    for row in one.rows {
                        let resolve = state::Resolve { id: one.transaction.id.clone(), commit: yes, decided };
                        for _ in 0..2 {
                            subject.apply(row.clone(), Body::Resolve(resolve.clone()));
                        }
                    }
                }
                8 => {
                    // Somebody who knows of no transaction: what is held is not written.
                    let holds: usize = open.iter().filter(|one| one.rows.contains(&row(from).row)).count();
                    let What::Update(update) = add(from, 0, step % 5) else { continue };
                    let outcome = subject.apply(row(from).row, Body::Update(update)).outcome();
                    assert_eq!(outcome == Outcome::Held, holds > 0, "seed {seed}");
                }
                _ => subject.carry(false),
            }
            if subject.random.random_bool(0.05) {
                subject.disturb();
            }
            // As of any version since all were there, between a decision and what it does too, nothing is missing, and nothing
            // changes any more.
            for _ in 0..2 {
                let at = subject.random.random_range(began..=subject.machine.version());
                let items = subject.items_as_of(at);
                assert_eq!(sum_of(&items), expected, "seed {seed}, step {step}, as of {at}");
                if let Some(before) = moments.insert(at, items.clone()) {
                    assert_eq!(before, items);
                }
            }
            assert_eq!(subject.index(0).0, subject.index(0).1, "seed {seed}, step {step}: the local index");
        }
        for one in open {
            let decide = state::Decide {
                transaction: Some(one.transaction.clone()),
                commit: false,
                prepared: one.prepared,
                items: Vec::new(),
                reply: Bytes::new(),
            };
            let reply = subject.apply(one.record.row.clone(), Body::Decide(decide));
            assert!(!reply.record.unwrap().committed);
            for row in one.rows {
                let resolve = state::Resolve { id: one.transaction.id.clone(), commit: false, decided: 0 };
                subject.apply(row, Body::Resolve(resolve));
            }
        }
        assert_eq!(sum_of(&subject.items()), expected, "seed {seed}");
        for (at, items) in moments {
            assert_eq!(subject.items_as_of(at), items, "seed {seed}, as of {at}");
        }
        assert!(
            committed > 10 && cancelled > 0 && conflicts > 0,
            "seed {seed}: {committed} {cancelled} {conflicts}"
        );
        subject.carry(true);
        assert!(subject.rows(Kind::Waiting.of(9, 0)).is_empty());
        assert_eq!(subject.index(1).0, subject.index(1).1, "seed {seed}: the global index");
        assert!(subject.rows(Kind::Intents.of(9, 0)).is_empty());
    }
}

/// Word that is older than what an index remembers of removed entries is refused, and said anew as the item is by then.
#[test]
fn word_for_an_index_that_comes_after_ten_minutes_brings_nothing_back() {
    let mut subject = Subject::new(1);
    subject.apply(head(9, Token(0)).freeze(), Body::SetSchema(encode_schema(&table())));
    let put = |balance: i64| {
        let mut item = key(1);
        item.extend([("balance".to_owned(), number(balance)), ("note".to_owned(), Value::S("a".to_owned()))]);
        let stored = encode(&item);
        Body::Put(state::Put { item: stored.bytes, size: stored.size, ..state::Put::default() })
    };
    subject.apply(row(1).row, put(1));
    let late = subject.rows(Kind::Waiting.of(9, 0));
    subject.apply(row(1).row, put(2));
    subject.carry(true);
    let waiting = state::Waiting::decode(late[0].1.clone()).unwrap();
    let write = |change: &state::IndexChange| {
        let write =
            state::IndexWrite { version: waiting.version, item: change.item.clone(), size: change.size };
        (change.row.clone(), Body::IndexWrite(write))
    };
    subject.stamp_ms += 11 * 60 * 1000;
    // The mark is removed in its time, and not before.
    let marks = subject.rows(Kind::Removed.of(9, 2));
    assert_eq!(marks.len(), 1);
    let trim = state::Trim { rows: vec![marks[0].0.clone()] };
    subject.apply(marks[0].0.clone(), Body::Trim(trim));
    assert!(subject.rows(Kind::Removed.of(9, 2)).is_empty());
    for change in &waiting.changes {
        let (row, body) = write(change);
        let reply = subject.apply(row, body);
        assert_eq!(reply.outcome(), Outcome::TooLate);
        assert!(reply.version > waiting.version);
    }
    assert_eq!(subject.index(1).0, subject.index(1).1);
    // What waits too long is said again.
    subject.apply(row(1).row, put(3));
    let waiting = subject.rows(Kind::Waiting.of(9, 0));
    let at_least = (subject.stamp_ms + 20 * 60 * 1000) << 20;
    subject.apply(waiting[0].0.clone(), Body::Restamp(state::Restamp { at_least }));
    subject.stamp_ms += 20 * 60 * 1000;
    subject.carry(true);
    assert_eq!(subject.index(1).0, subject.index(1).1);
}

#[test]
fn a_transaction_is_decided_on_once_and_not_when_it_is_too_old() {
    let mut subject = Subject::new(1);
    let id = [7; ID_BYTES];
    let record = record(&id);
    let transaction = state::Transaction {
        id: Bytes::copy_from_slice(&id),
        record: record.row.clone(),
        fingerprint: Bytes::from_static(b"what is asked"),
        writes: Vec::new(),
        single: false,
    };
    let decide = |transaction: &state::Transaction, commit, prepared| {
        Body::Decide(state::Decide {
            transaction: Some(transaction.clone()),
            commit,
            prepared,
            items: Vec::new(),
            reply: Bytes::new(),
        })
    };
    // It was prepared long ago by the clock of the record.
    let prepared = subject.stamp_ms << 20;
    subject.stamp_ms += 11 * 60 * 1000;
    let reply = subject.apply(record.row.clone(), decide(&transaction, true, prepared));
    assert!(!reply.record.unwrap().committed);
    // Another attempt with the same token is another transaction.
    let second = state::Transaction { id: Bytes::from_static(&[8; ID_BYTES]), ..transaction.clone() };
    let prepared = subject.stamp_ms << 20;
    let reply = subject.apply(record.row.clone(), decide(&second, true, prepared));
    assert!(reply.record.unwrap().committed);
    let reply = subject.apply(record.row.clone(), decide(&second, false, prepared));
    assert_eq!((reply.outcome(), reply.record.unwrap().committed), (Outcome::Known, true));
    // A third is told of the second.
    let third = state::Transaction { id: Bytes::from_static(&[9; ID_BYTES]), ..transaction };
    let reply = subject.apply(record.row.clone(), decide(&third, true, prepared));
    assert_eq!(reply.record.unwrap().id, second.id);
    // What is not written yet is not forgotten, however long that takes.
    let rows = || vec![record.row.clone()];
    subject.stamp_ms += 20 * 60 * 1000;
    subject.apply(record.row.clone(), Body::Trim(state::Trim { rows: rows() }));
    assert_eq!(subject.rows(Kind::Records.of(0, 0)).len(), 2);
    let end = state::Resolve { id: second.id, commit: true, decided: 0 };
    subject.apply(record.row.clone(), Body::Resolve(end));
    subject.stamp_ms += 11 * 60 * 1000;
    subject.apply(record.row.clone(), Body::Trim(state::Trim { rows: rows() }));
    assert_eq!(subject.rows(Kind::Records.of(0, 0)).len(), 1);
}

/// A transaction that is decided on, and not written everywhere.
struct Decided {
    id: Bytes,
    rows: Vec<Bytes>,
    commit: bool,
    decided: u64,
}

impl Subject {
    /// Has rows prepared; the reply of each, or nothing if something stands against it.
    fn prepare(
        &mut self,
        transaction: &state::Transaction,
        actions: Vec<state::Action>,
    ) -> Option<Vec<state::Reply>> {
        let begun = crate::store::version_at(self.stamp_ms);
        let row = actions[0].row.clone();
        let prepare = state::Prepare { transaction: Some(transaction.clone()), actions, begun };
        let reply = self.apply(row, Body::Prepare(prepare));
        match reply.outcome() {
            Outcome::Applied => Some(reply.replies),
            Outcome::Cancelled => None,
            other => panic!("{other:?}"),
        }
    }

    fn resolve(&mut self, one: &Decided, row: &Bytes) {
        let resolve = state::Resolve { id: one.id.clone(), commit: one.commit, decided: one.decided };
        self.apply(row.clone(), Body::Resolve(resolve));
    }
}

/// Entries of a strong index are written with their items: whoever settles what is decided finds all of it, whatever is under way.
#[test]
fn strong_indexes_are_what_items_say_whatever_is_under_way() {
    let table = Table { strong_indexes: StrongIndexes::On, ..table() };
    for seed in 0..60 {
        let mut subject = Subject::new(seed);
        subject.apply(head(9, Token(0)).freeze(), Body::SetSchema(encode_schema(&table)));
        for account in 0..ACCOUNTS {
            let mut item = key(account);
            item.insert("balance".to_owned(), number(BALANCE));
            let stored = encode(&item);
            let put =
                state::Put { item: stored.bytes, size: stored.size, alone: true, ..state::Put::default() };
            // It is in no global index yet.
            assert_eq!(subject.apply(row(account).row, Body::Put(put)).outcome(), Outcome::Applied);
        }
        let mut open: Vec<(state::Transaction, RowKey, Vec<Bytes>)> = Vec::new();
        let mut decided: Vec<Decided> = Vec::new();
        let (mut committed, mut refused, mut conflicts) = (0, 0, 0);
        for step in 0..300_u32 {
            let from = subject.random.random_range(0..ACCOUNTS);
            let to = (from + subject.random.random_range(1..ACCOUNTS)) % ACCOUNTS;
            let amount = subject.random.random_range(1..60);
            match subject.random.random_range(0..10) {
                0..4 => {
                    let single = subject.random.random_bool(0.5);
                    let id: [u8; ID_BYTES] = subject.random.random();
                    let transaction = state::Transaction {
                        id: Bytes::copy_from_slice(&id),
                        record: record(&id).row,
                        single,
                        ..state::Transaction::default()
                    };
                    let changes = [(from, -amount), (to, amount)];
                    let actions = changes.into_iter().take(if single { 1 } else { 2 });
                    let actions: Vec<state::Action> = actions
                        .map(|(account, amount)| state::Action {
                            row: row(account).row,
                            what: Some(add(account, amount, step % 5)),
                        })
                        .collect();
                    let mut rows: Vec<Bytes> = actions.iter().map(|action| action.row.clone()).collect();
                    let Some(replies) = subject.prepare(&transaction, actions) else {
                        conflicts += 1;
                        continue;
                    };
                    let entry = |change: state::IndexChange| state::Action {
                        row: change.row,
                        what: Some(What::Entry(state::IndexEntry { item: change.item, size: change.size })),
                    };
                    let entries: Vec<state::Action> =
                        replies.into_iter().flat_map(|reply| reply.entries).map(entry).collect();
                    assert!(!entries.is_empty(), "seed {seed}, step {step}: a balance is part of the index");
                    rows.extend(entries.iter().map(|entry| entry.row.clone()));
                    let place = subject.random.random_range(0..=open.len());
                    match subject.prepare(&transaction, entries) {
                        Some(_) => open.insert(place, (transaction, record(&id), rows)),
                        // Another one is decided on, and not written there yet.
                        None => {
                            assert!(!decided.is_empty(), "seed {seed}, step {step}");
                            decided.push(Decided { id: transaction.id, rows, commit: false, decided: 0 });
                        }
                    }
                }
                4..7 if !open.is_empty() => {
                    let (transaction, record, rows) = open.pop().unwrap();
                    let commit = subject.random.random_bool(0.8);
                    let id = transaction.id.clone();
                    let prepared = subject.machine.version();
                    let transaction = Some(transaction);
                    let decide = state::Decide { transaction, commit, prepared, ..state::Decide::default() };
                    let reply = subject.apply(record.row, Body::Decide(decide));
                    assert_eq!(reply.record.unwrap().committed, commit);
                    committed += u32::from(commit);
                    decided.push(Decided { id, rows, commit, decided: reply.version });
                }
                7..9 if !decided.is_empty() => {
                    // Some of it, in any order, some of it again.
                    let one = decided.swap_remove(subject.random.random_range(0..decided.len()));
                    for _ in 0..2 {
                        let place = subject.random.random_range(0..one.rows.len());
                        let row = one.rows[place].clone();
                        subject.resolve(&one, &row);
                    }
                    decided.push(one);
                }
                _ => {
                    let What::Update(mut update) = add(from, 1, step % 5) else { continue };
                    update.alone = subject.random.random_bool(0.5);
                    match subject.apply(row(from).row, Body::Update(update)).outcome() {
                        Outcome::Indexed => refused += 1,
                        Outcome::Held => {}
                        other => panic!("seed {seed}: {other:?}"),
                    }
                }
            }
            if subject.random.random_bool(0.05) {
                subject.disturb();
            }
            if subject.random.random_bool(0.3) {
                for mut one in std::mem::take(&mut decided) {
                    one.rows.shuffle(&mut subject.random);
                    for row in &one.rows {
                        subject.resolve(&one, row);
                    }
                }
                let (found, wanted) = subject.index(1);
                assert_eq!(found, wanted, "seed {seed}, step {step}");
            }
        }
        assert!(subject.rows(Kind::Waiting.of(9, 0)).is_empty(), "nothing follows");
        assert!(
            committed > 10 && refused > 0 && conflicts > 0,
            "seed {seed}: {committed} {refused} {conflicts}"
        );
    }
}

/// What changes no entry may pass alone, if whoever asks knows of strong indexes and has no id; nobody else may.
#[test]
fn a_write_that_changes_no_entry_of_a_strong_index_passes_alone_if_it_knows_of_it() {
    let mut subject = Subject::new(1);
    let mut revision = 10;
    let mut outcome = |strong_indexes, touches: bool, alone: bool| {
        revision += 1;
        let table = Table { strong_indexes, revision, ..table() };
        subject.apply(head(9, Token(0)).freeze(), Body::SetSchema(encode_schema(&table)));
        let mut values = BTreeMap::from([(":text".to_owned(), Value::S(revision.to_string()))]);
        let text = if touches { "SET note = :text, balance = :number" } else { "SET color = :text" };
        if touches {
            values.insert(":number".to_owned(), number(1));
        }
        let update = parse::update(text, &mut Placeholders::new(BTreeMap::new(), values)).unwrap();
        let update = state::Update {
            key: encode(&key(1)).bytes,
            update: encode_update(&update),
            alone,
            ..state::Update::default()
        };
        subject.apply(row(1).row, Body::Update(update)).outcome()
    };
    assert_eq!(outcome(StrongIndexes::Off, true, false), Outcome::Applied, "it has an entry by now");
    for wanted in [StrongIndexes::Enabling, StrongIndexes::On] {
        assert_eq!(outcome(wanted, false, false), Outcome::Indexed);
        assert_eq!(outcome(wanted, false, true), Outcome::Applied);
        assert_eq!(outcome(wanted, true, true), Outcome::Indexed);
    }
    assert_eq!(outcome(StrongIndexes::Disabling, true, false), Outcome::Applied);
}
