//! A store against a model that keeps every state: what is read at any moment, by key and by range, both ways.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trimaran_storage::memory::MemoryEngine;

use super::*;
use crate::key::head;

const TABLE: u64 = 3;

fn row(number: u32) -> Bytes {
    let mut row = head(TABLE, Token(5));
    row.put_u32(number);
    row.freeze()
}

fn store(engine: &Arc<dyn Engine>) -> Store {
    Store::new(Arc::new(Shared::new(Arc::clone(engine))), 9, Token(0), Token(u64::MAX))
}

type Model = BTreeMap<Bytes, Stored>;

fn stored(text: &str) -> Stored {
    Stored { size: text.len() as u32, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

fn check(view: &View, expected: &Model, seed: u64) {
    let range = Range::prefix(&TABLE.to_be_bytes());
    let scanned = |order| -> Vec<_> {
        view.scan(range.clone(), order).map(|row| row.map(|(row, _, item)| (row, item)).unwrap()).collect()
    };
    let mut wanted: Vec<_> = expected.clone().into_iter().collect();
    assert_eq!(scanned(Order::Ascending), wanted, "seed {seed}");
    wanted.reverse();
    assert_eq!(scanned(Order::Descending), wanted, "seed {seed}");
    for number in 0..700 {
        let row = row(number);
        let found = view.get(&row).unwrap().map(|current| current.item);
        assert_eq!(found, expected.get(&row).cloned(), "seed {seed}");
    }
}

#[test]
fn a_view_never_changes_whatever_is_written_under_it() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
        let mut store = store(&engine);
        let mut model = Model::new();
        let mut views: Vec<(View, Model)> = Vec::new();
        for step in 0..60_u64 {
            for _ in 0..random.random_range(1..80) {
                store.begin(step / 3);
                let row = row(random.random_range(0..700));
                let before = store.get(&row).unwrap();
                assert_eq!(before.as_ref().map(|before| &before.item), model.get(&row), "seed {seed}");
                let item = random.random_bool(0.7).then(|| stored(&random.random::<u32>().to_string()));
                match &item {
                    Some(item) => model.insert(row.clone(), item.clone()),
                    None => model.remove(&row),
                };
                store.set(&row, before.as_ref(), item);
            }
            store.commit(b"applied", vec![(step, Bytes::new())], step.saturating_sub(5)).unwrap();
            assert_eq!(store.stats(TABLE).items, model.len() as u64);
            if random.random_bool(0.3) {
                views.push((store.view(), model.clone()));
            }
            if views.len() > 3 {
                views.remove(random.random_range(0..views.len()));
            }
            for (view, model) in &views {
                check(view, model, seed);
            }
        }
        views.clear();
        store.begin(0);
        store.commit(b"last", Vec::new(), 58).unwrap();
        let left = engine.scan(Range::prefix(b"H"), Order::Ascending).count();
        assert_eq!((left, store.pins.is_forgotten()), (0, true), "nobody needs the past");

        let mut again = self::store(&engine);
        let Found::Committed { applied, answered } = again.open().unwrap() else {
            panic!("it was committed")
        };
        assert_eq!((&applied[..], answered.len()), (&b"last"[..], 2));
        assert_eq!((again.version(), again.tables()), (store.version(), store.tables()));
        check(&again.view(), &model, seed);
    }
}

#[test]
fn partitions_of_one_engine_leave_each_other_alone() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
    let half = Token(1 << 63);
    let shared = Arc::new(Shared::new(Arc::clone(&engine)));
    let mut low = Store::new(Arc::clone(&shared), 1, Token(0), Token(half.0 - 1));
    let mut high = Store::new(Arc::clone(&shared), 2, half, Token(u64::MAX));
    for table in [1, 2, u64::from(u32::MAX)] {
        for (store, token) in [(&mut low, Token(7)), (&mut high, Token(half.0 + 7))] {
            store.begin(1);
            store.set(&head(table, token).freeze(), None, Some(stored("x")));
            store.commit(b"a", vec![(1, Bytes::new())], 0).unwrap();
        }
    }
    low.begin_restore().unwrap();
    assert!(matches!(Store::new(shared, 1, Token(0), half).open().unwrap(), Found::Interrupted));
    let rows = |store: &Store| store.view().scan(Range::new(vec![0], vec![255]), Order::Ascending).count();
    assert_eq!(rows(&high), 3, "all that is left in the engine");
    assert!(matches!(high.open().unwrap(), Found::Committed { .. }));
    low.begin(1);
    low.commit(b"restored", Vec::new(), 0).unwrap();
    assert!(matches!(low.open().unwrap(), Found::Committed { .. }));
}
