//! What is read as of any moment against a model that keeps every state: by key and by range, both ways.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trimaran_storage::engine::Engine;
use trimaran_storage::memory::MemoryEngine;

use super::*;
use crate::item::Type;
use crate::key::head;
use crate::store::{Shared, version_at};
use crate::table::{History, KeyAttribute, Table};

const TABLE: u64 = 3;
const ROWS: u32 = 40;

fn row(number: u32) -> Bytes {
    let mut row = head(TABLE, Token(5 + u64::from(number % 3)));
    row.put_u32(number);
    row.freeze()
}

fn keeping(revision: u64, keeps: bool) -> Table {
    let key = KeyAttribute { name: "id".to_owned(), kind: Type::S };
    let history = History { kept_ms: 1, since_ms: None, ends: !keeps };
    Table { id: TABLE, revision, history: Some(history), ..Table::new("items".to_owned(), key, None) }
}

fn stored(text: &str) -> Stored {
    Stored { size: text.len() as u32, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

type Model = BTreeMap<Bytes, Stored>;

/// A store with what it was at every version at which it changed.
struct Subject {
    store: Store,
    random: StdRng,
    states: BTreeMap<u64, Model>,
    stamp_ms: u64,
    applied: u64,
}

impl Subject {
    fn new(seed: u64) -> Self {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
        let mut store = Store::new(Arc::new(Shared::new(engine)), 9, Token(0), Token(u64::MAX));
        store.set_schema(keeping(1, true));
        let random = StdRng::seed_from_u64(seed);
        Self { store, random, states: BTreeMap::from([(0, Model::new())]), stamp_ms: 1, applied: 0 }
    }

    fn now(&self) -> Model {
        self.states.last_key_value().unwrap().1.clone()
    }

    fn write(&mut self) {
        self.stamp_ms += self.random.random_range(0..2);
        self.store.begin(self.stamp_ms);
        let mut now = self.now();
        for _ in 0..self.random.random_range(1..4) {
            let row = row(self.random.random_range(0..ROWS));
            let before = self.store.get(&row).unwrap();
            let item = self.random.random_bool(0.7).then(|| stored(&self.random.random::<u16>().to_string()));
            match &item {
                Some(item) => now.insert(row.clone(), item.clone()),
                None => now.remove(&row),
            };
            if before.is_some() || item.is_some() {
                self.store.set(&row, before.as_ref(), item);
            }
        }
        self.states.insert(self.store.version(), now);
        self.commit();
    }

    fn commit(&mut self) {
        self.applied += 1;
        self.store.commit(&self.applied.to_be_bytes(), Vec::new(), 0).unwrap();
    }

    /// Everything that is read as of a version is what it was then.
    fn check(&mut self, at: u64) {
        let model = self.states.range(..=at).next_back().unwrap().1.clone();
        let view = self.store.view();
        let (mut first, mut last) = (self.random.random_range(0..ROWS), self.random.random_range(0..ROWS));
        if row(first) > row(last) {
            std::mem::swap(&mut first, &mut last);
        }
        let all = Range::prefix(&TABLE.to_be_bytes());
        for range in [all, Range::new(row(first), row(last))] {
            let end = range.end.clone().unwrap();
            let within = |row: &Bytes| range.start <= *row && *row < end;
            let mut wanted: Vec<_> = model
                .iter()
                .filter(|(row, _)| within(row))
                .map(|(row, item)| (row.clone(), item.clone()))
                .collect();
            for order in [Order::Ascending, Order::Descending] {
                let found = scan(&view, range.clone(), order, at)
                    .map(|found| found.map(|(row, _, item)| (row, item)));
                assert_eq!(found.collect::<Result<Vec<_>, _>>().unwrap(), wanted, "as of {at}");
                wanted.reverse();
            }
        }
        for number in 0..ROWS {
            let found = get(&view, &row(number), at).unwrap().map(|current| current.item);
            assert_eq!(found.as_ref(), model.get(&row(number)), "row {number} as of {at}");
        }
    }

    fn somewhen(&mut self) -> u64 {
        let oldest = *self.states.first_key_value().unwrap().0;
        // In between, too.
        match self.random.random_bool(0.5) {
            true => *self.states.keys().nth(self.random.random_range(0..self.states.len())).unwrap(),
            false => self.random.random_range(oldest..=self.store.version()),
        }
    }

    /// Removes what was superseded until a version, as a leader does.
    fn forget(&mut self, until: u64) {
        let view = self.store.view();
        self.store.begin(self.stamp_ms);
        for place in
            view.scan(token_range(Kind::Past.of(TABLE, ITEMS), Token(0), Token(u64::MAX)), Order::Ascending)
        {
            let (place, _, _) = place.unwrap();
            if parse(&place).unwrap().1 <= until {
                let before = self.store.get(&place).unwrap();
                self.store.set(&place, before.as_ref(), None);
            }
        }
        self.commit();
        let then = self.states.range(..=until).next_back().unwrap().1.clone();
        self.states.retain(|version, _| *version > until);
        self.states.insert(until, then);
    }
}

#[test]
fn items_are_what_they_were_as_of_any_version() {
    for seed in 0..30 {
        let mut subject = Subject::new(seed);
        for _ in 0..150 {
            subject.write();
            let at = subject.somewhen();
            subject.check(at);
            if subject.random.random_bool(0.03) {
                let until = subject.somewhen();
                subject.forget(until);
            }
        }
        for at in subject.states.keys().copied().collect::<Vec<_>>() {
            subject.check(at);
        }
    }
}

#[test]
fn nothing_is_kept_of_a_table_that_does_not_ask_for_it() {
    let mut subject = Subject::new(1);
    let past = Kind::Past.of(TABLE, ITEMS);
    (0..50).for_each(|_| subject.write());
    let kept = subject.store.stats(past).items;
    assert!(kept > 20, "{kept}");
    subject.store.set_schema(keeping(2, false));
    (0..50).for_each(|_| subject.write());
    assert_eq!(subject.store.stats(past).items, kept);
    subject.forget(subject.store.version());
    assert_eq!(subject.store.stats(past).items, 0);
}

/// From the decision on an item is what the transaction made of it, before it is written and after.
#[test]
fn a_transaction_happens_when_it_is_decided_on() {
    let mut subject = Subject::new(1);
    let (changed, removed, made) = (row(1), row(2), row(3));
    subject.store.begin(10);
    subject.store.set(&changed, None, Some(stored("old")));
    subject.store.set(&removed, None, Some(stored("gone")));
    subject.commit();
    let decided = version_at(20);
    let at_once = |after: Option<&str>| state::Intent {
        item: after.map(|after| stored(after).bytes),
        size: after.map_or(0, |after| after.len() as u32),
        ..state::Intent::default()
    };
    // Each is written in its time.
    for (stamp_ms, row, after) in
        [(30, &changed, Some("new")), (40, &removed, None), (50, &made, Some("made"))]
    {
        subject.store.begin(stamp_ms);
        let before = subject.store.get(row).unwrap();
        keep_intent(&mut subject.store, row, &at_once(after), decided);
        subject.store.set(row, before.as_ref(), after.map(stored));
        subject.commit();
    }
    let view = subject.store.view();
    let all = || Range::prefix(&TABLE.to_be_bytes());
    let as_of = |at: u64| -> Vec<(Bytes, Bytes)> {
        scan(&view, all(), Order::Ascending, at)
            .map(Result::unwrap)
            .map(|(row, _, item)| (row, item.bytes))
            .collect()
    };
    let before = vec![(changed.clone(), stored("old").bytes), (removed.clone(), stored("gone").bytes)];
    let mut after = vec![(changed.clone(), stored("new").bytes), (made.clone(), stored("made").bytes)];
    after.sort();
    let mut sorted = before;
    sorted.sort();
    assert_eq!(as_of(decided - 1), sorted);
    for stamp_ms in [20, 25, 30, 35, 40, 45, 50, 60] {
        assert_eq!(as_of(version_at(stamp_ms)), after, "as of {stamp_ms}");
        for row in [&changed, &removed, &made] {
            let found = get(&view, row, version_at(stamp_ms)).unwrap().map(|current| current.item.bytes);
            let wanted = after.iter().find(|(known, _)| known == row).map(|(_, bytes)| bytes.clone());
            assert_eq!(found, wanted, "as of {stamp_ms}");
        }
    }
}
