//! Shards with lives and lineages at random, read bit by bit in any order by somebody who ends now and then and goes on from
//! the last cursor: everything is told once, in order for each item, and transactions whole.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::item::{Item, Value};

struct Script {
    random: StdRng,
    /// Each with its changes, in order.
    shards: BTreeMap<ShardId, (Shard, Vec<Record>)>,
    open: Vec<ShardId>,
    version: u64,
    next_value: u64,
    transactions: u64,
}

const ITEMS: u64 = 24;

fn number(value: u64) -> Value {
    Value::N(value.to_string().parse().unwrap())
}

fn shown(key: &Item) -> String {
    let Value::N(id) = &key["id"] else { panic!("{key:?}") };
    id.to_string()
}

impl Script {
    fn new(seed: u64) -> Self {
        let shard = Shard::begin(1, (Token(0), Token(ITEMS - 1)), None);
        Self {
            random: StdRng::seed_from_u64(seed),
            shards: BTreeMap::from([(shard.id, (shard, Vec::new()))]),
            open: vec![shard.id],
            version: 1,
            next_value: 0,
            transactions: 0,
        }
    }

    fn write(&mut self, item: u64, version: u64, transaction: Option<(Bytes, u32)>) {
        self.next_value += 1;
        let is_unchanged = transaction.is_some() && self.random.random_bool(0.1);
        let key = Item::from([("id".to_owned(), number(item))]);
        let mut image = key.clone();
        image.insert("value".to_owned(), number(self.next_value));
        let holds = |shard: &Shard| shard.id.first.0 <= item && item <= shard.last.0;
        let id = *self.open.iter().find(|id| holds(&self.shards[id].0)).unwrap();
        let changes = &mut self.shards.get_mut(&id).unwrap().1;
        let place = changes.iter().filter(|change| change.sequence.version == version).count() as u16;
        changes.push(Record {
            sequence: Sequence { version, place },
            at_ms: 0,
            event: if is_unchanged { Event::Unchanged } else { Event::Modify },
            key: if is_unchanged { Item::new() } else { key },
            old_image: None,
            new_image: (!is_unchanged).then_some(image),
            expired: false,
            transaction,
        });
    }

    /// Some transactions, whose parts are carried out in any order as long as the order for each item is the same.
    fn transactions(&mut self) {
        let mut parts: Vec<(u64, u64, Bytes, u32)> = Vec::new();
        for _ in 0..self.random.random_range(1..4) {
            self.transactions += 1;
            let writes = self.random.random_range(1..5_u32);
            let start = self.random.random_range(0..ITEMS);
            for part in 0..u64::from(writes) {
                let item = (start + part * 5) % ITEMS;
                parts.push((
                    item,
                    self.transactions,
                    self.transactions.to_be_bytes().to_vec().into(),
                    writes,
                ));
            }
        }
        while !parts.is_empty() {
            let any = self.random.random_range(0..parts.len());
            let item = parts[any].0;
            // The oldest of its item.
            let at = parts.iter().position(|part| part.0 == item).unwrap();
            let (item, _, id, writes) = parts.remove(at);
            self.version += 1;
            self.write(item, self.version, Some((id, writes)));
            if self.random.random_bool(0.1) {
                self.split();
            }
        }
    }

    fn split(&mut self) {
        let any = self.random.random_range(0..self.open.len());
        let id = self.open[any];
        let (first, last) = (id.first.0, self.shards[&id].0.last.0);
        if first == last {
            return;
        }
        let at = self.random.random_range(first + 1..=last);
        self.version += 1;
        self.open.remove(any);
        self.shards.get_mut(&id).unwrap().0.ended = Some(self.version);
        for tokens in [(first, at - 1), (at, last)] {
            let shard = Shard::begin(self.version, (Token(tokens.0), Token(tokens.1)), Some(id));
            self.shards.insert(shard.id, (shard, Vec::new()));
            self.open.push(shard.id);
        }
    }

    fn end(&mut self) {
        self.version += 1;
        for id in std::mem::take(&mut self.open) {
            self.shards.get_mut(&id).unwrap().0.ended = Some(self.version);
        }
    }

    /// Some of what there is from a place on.
    fn read(&mut self, position: Position) -> Records {
        let (shard, changes) = &self.shards[&position.shard];
        let from = position.from.unwrap_or(Sequence { version: 0, place: 0 });
        let rest: Vec<Record> = changes.iter().filter(|change| change.sequence >= from).cloned().collect();
        let count = self.random.random_range(0..=rest.len().min(5));
        let some: Vec<Record> = rest[..count].to_vec();
        let next = match some.last() {
            _ if count == rest.len() && shard.ended.is_some() => None,
            Some(last) => Some(Some(last.sequence.next())),
            None => Some(position.from),
        };
        let next = next.map(|from| Position { from, ..position });
        Records { records: some, next }
    }
}

#[test]
fn everything_is_told_once_and_in_order_and_transactions_whole_whoever_goes_on() {
    for seed in 0..300 {
        let mut script = Script::new(seed);
        let mut backlog = Backlog::at([Position { shard: script.open[0], from: None }]);
        let now = Instant::now();
        let mut told: Vec<Told> = Vec::new();
        let mut rounds = 0;
        while !backlog.is_over() {
            rounds += 1;
            assert!(rounds < 5000, "seed {seed}: it does not come to an end");
            if rounds < 60 {
                match script.random.random_range(0..6) {
                    0 => script.transactions(),
                    1 => script.split(),
                    _ => {
                        let item = script.random.random_range(0..ITEMS);
                        script.version += 1;
                        script.write(item, script.version, None);
                    }
                }
            } else if rounds == 60 {
                script.end();
            }
            for position in backlog.wanted() {
                if script.random.random_bool(0.5) {
                    let found = script.read(position);
                    backlog.add(position.shard, found, now);
                }
            }
            if backlog.has_ended() {
                let all: Vec<Shard> = script.shards.values().map(|(shard, _)| *shard).collect();
                backlog.take_up(&all);
            }
            told.extend(backlog.tell(now));
            // Who goes on reads what was left of shards again, one after another; in the end there is time for that.
            if script.random.random_bool(if rounds < 60 { 0.1 } else { 0.01 }) {
                backlog = Backlog::resume(backlog.cursor()).unwrap();
            }
        }
        let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (_, changes) in script.shards.values() {
            for change in changes.iter().filter(|change| change.event != Event::Unchanged) {
                expected.entry(shown(&change.key)).or_default().push(change.sequence.version);
            }
        }
        expected.values_mut().for_each(|changes| changes.sort_unstable());
        let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut transactions = HashSet::new();
        for one in &told {
            assert!(one.is_whole, "seed {seed}");
            if let Some(id) = &one.transaction {
                assert!(transactions.insert(id), "seed {seed}: a transaction is told in two");
            }
            for record in &one.records {
                found.entry(shown(&record.key)).or_default().push(record.sequence.version);
            }
        }
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[test]
fn a_transaction_of_which_a_part_never_comes_holds_nothing_up_for_long() {
    let mut script = Script::new(1);
    script.split();
    let [left, right] = [script.open[0], script.open[1]];
    let item = script.shards[&left].0.id.first.0;
    script.version += 1;
    script.write(item, script.version, Some((Bytes::from_static(b"half"), 2)));
    script.version += 1;
    script.write(item, script.version, None);
    let place = |shard| Position { shard, from: None };
    let mut backlog = Backlog::at([place(left), place(right)]);
    let now = Instant::now();
    let mut records = script.shards[&left].1.clone();
    records.iter_mut().for_each(|record| {
        // All of it is there at once.
        record.event = Event::Modify;
    });
    let next = Some(Position { shard: left, from: records.last().map(|last| last.sequence.next()) });
    backlog.add(left, Records { records, next }, now);
    assert_eq!(backlog.tell(now), Vec::new());
    let told = backlog.tell(now + TOGETHER_MAX + Duration::from_millis(1));
    let parts: Vec<_> = told.iter().map(|told| (told.transaction.is_some(), told.is_whole)).collect();
    assert_eq!(parts, [(true, false), (false, true)]);
}
