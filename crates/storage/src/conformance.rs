//! What every engine must do, tried on every engine. What must survive is tried in `tests/crash.rs`.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::engine::{Batch, Engine, KEY_BYTES_MAX, Kind, Order, Range, after_prefix, open};
use crate::faulty_engine::FaultyEngine;

const ON_DISK: [Kind; 2] = [Kind::Fjall, Kind::Sled];

fn on_all(check: impl Fn(&dyn Engine)) {
    for kind in [Kind::Memory, Kind::Fjall, Kind::Sled] {
        let folder = tempfile::tempdir().unwrap();
        check(&*open(kind, folder.path()).unwrap());
    }
    check(&FaultyEngine::default());
}

fn all(engine: &dyn Engine) -> Vec<(Bytes, Bytes)> {
    engine.scan(Range { start: Bytes::new(), end: None }, Order::Ascending).map(Result::unwrap).collect()
}

#[test]
fn a_batch_happens_as_one_and_its_last_word_counts() {
    on_all(|engine| {
        let mut batch = Batch::default();
        batch.put("a", "1");
        batch.put("b", "2");
        batch.delete("a");
        batch.delete("never there");
        batch.put("c", "");
        engine.write(batch).unwrap();
        assert_eq!(engine.get(b"a").unwrap(), None);
        assert_eq!(engine.get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(engine.get(b"c").unwrap().as_deref(), Some(&b""[..]), "an empty value is a value");
        engine.write(Batch::default()).unwrap();
        engine.flush().unwrap();
        assert_eq!(all(engine).len(), 2);
    });
}

#[test]
fn a_key_beyond_the_limit_is_refused_and_nothing_of_its_batch_is_there() {
    on_all(|engine| {
        let mut batch = Batch::default();
        batch.put("small", "1");
        batch.put("", "2");
        assert!(engine.write(batch).is_err(), "an empty key");
        let mut batch = Batch::default();
        batch.put("small", "1");
        batch.put(vec![7; KEY_BYTES_MAX + 1], "2");
        assert!(engine.write(batch).is_err());
        assert!(all(engine).is_empty());
        let mut batch = Batch::default();
        batch.put(vec![7; KEY_BYTES_MAX], vec![1; 500_000]);
        engine.write(batch).unwrap();
        assert_eq!(engine.get(&[7; KEY_BYTES_MAX]).unwrap().unwrap().len(), 500_000);
    });
}

#[test]
fn a_scan_may_be_written_under() {
    on_all(|engine| {
        let mut batch = Batch::default();
        for number in 0..2_000_u32 {
            batch.put(number.to_be_bytes().to_vec(), "old");
        }
        engine.write(batch).unwrap();
        let mut seen = Vec::new();
        for pair in engine.scan(Range { start: Bytes::new(), end: None }, Order::Ascending) {
            let (key, _) = pair.unwrap();
            let mut batch = Batch::default();
            batch.delete(key.clone());
            engine.write(batch).unwrap();
            seen.push(key);
        }
        assert_eq!(seen.len(), 2_000);
        assert!(seen.is_sorted());
        assert!(all(engine).is_empty());
    });
}

#[test]
fn the_end_of_a_prefix_is_behind_everything_that_begins_with_it() {
    assert_eq!(after_prefix(b"ab").as_deref(), Some(&b"ac"[..]));
    assert_eq!(after_prefix(&[1, 255, 255]).as_deref(), Some(&[2][..]));
    assert_eq!(after_prefix(&[255, 255]), None);
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(Vec<u8>, Option<u8>)>),
    Scan(Vec<u8>, Option<Vec<u8>>, bool),
    Get(Vec<u8>),
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(127), Just(255)], 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec((key(), prop::option::of(any::<u8>())), 0..20).prop_map(Step::Write),
        2 => (key(), prop::option::of(key()), any::<bool>()).prop_map(|(start, end, up)| Step::Scan(start, end, up)),
        1 => key().prop_map(Step::Get),
        1 => Just(Step::Reopen),
    ]
}

/// Any run of operations gives what a sorted map gives.
fn behaves_like_a_map(kind: Kind, steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(kind, folder.path()).unwrap();
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Write(writes) => {
                let mut batch = Batch::default();
                for (key, value) in writes {
                    match value {
                        Some(value) => {
                            batch.put(key.clone(), vec![value]);
                            model.insert(key, vec![value]);
                        }
                        None => {
                            batch.delete(key.clone());
                            model.remove(&key);
                        }
                    }
                }
                engine.write(batch).unwrap();
            }
            Step::Scan(start, end, up) => {
                let within = |key: &&Vec<u8>| **key >= start && end.as_ref().is_none_or(|end| *key < end);
                let mut expected: Vec<_> = model.keys().filter(within).cloned().collect();
                if !up {
                    expected.reverse();
                }
                let range = Range { start: start.clone().into(), end: end.clone().map(Bytes::from) };
                let order = if up { Order::Ascending } else { Order::Descending };
                let found: Vec<_> = engine.scan(range, order).map(|pair| pair.unwrap().0.to_vec()).collect();
                assert_eq!(found, expected);
            }
            Step::Get(key) => {
                assert_eq!(engine.get(&key).unwrap().map(|value| value.to_vec()), model.get(&key).cloned());
            }
            Step::Reopen if kind != Kind::Memory => {
                engine.flush().unwrap();
                drop(engine);
                engine = open(kind, folder.path()).unwrap();
            }
            Step::Reopen => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn memory_behaves_like_a_map(steps in prop::collection::vec(step(), 1..40)) {
        behaves_like_a_map(Kind::Memory, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn engines_on_disk_behave_like_a_map(steps in prop::collection::vec(step(), 1..30)) {
        for kind in ON_DISK {
            behaves_like_a_map(kind, steps.clone());
        }
    }
}

#[test]
fn a_folder_of_another_engine_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(Kind::Fjall, folder.path()).unwrap());
    let error = open(Kind::Sled, folder.path()).err().unwrap().to_string();
    assert!(error.contains("written by engine \"fjall 1\""), "{error}");
}

#[test]
fn the_faulty_engine_keeps_what_was_flushed_and_a_prefix_of_the_rest() {
    let engine = FaultyEngine::default();
    let put = |value: u8| {
        let mut batch = Batch::default();
        batch.put(vec![value], vec![value]);
        engine.write(batch)
    };
    put(1).unwrap();
    engine.flush().unwrap();
    put(2).unwrap();
    put(3).unwrap();
    assert_eq!(engine.lose_power(1), 2);
    assert_eq!(all(&engine).len(), 2);
    engine.fail_after(1);
    put(4).unwrap();
    assert!(put(5).is_err());
    assert!(engine.flush().is_err());
}
