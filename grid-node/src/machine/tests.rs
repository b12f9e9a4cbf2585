use std::collections::BTreeMap;

use proptest::prelude::*;
use trimaran_proto::state::grid::expiry::When;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{
    Acquire, CompareAndSwap, Delete, Evict, Expire, Expiry, Fence, Increment, MultiSet, Pair, Reap, Release,
    Run, Set, Victim,
};

use super::*;
use crate::data::{Change, Entry, Value};
use crate::memory::Memory;
use crate::watch::Asked;

fn machine() -> GridMachine {
    GridMachine::new(
        &Partition { id: 1, first_token: 0, last_token: u64::MAX, ..Partition::default() },
        Teller::default(),
        Memory::default().share(),
    )
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn apply(machine: &mut GridMachine, now_ms: u64, body: Body) -> Reply {
    let payload = Bytes::from(Command { body: Some(body), ..Command::default() }.encode_to_vec());
    let replies =
        machine.apply(&[Committed { stamp_ms: now_ms, passed_ms: now_ms, payload: &payload }]).unwrap();
    Reply::decode(replies[0].clone().into_bytes()).unwrap()
}

fn set(key: &str, value: &str) -> Set {
    Set { key: text(key), value: text(value), ..Set::default() }
}

fn in_ms(ms: u64) -> Option<Expiry> {
    Some(Expiry { when: Some(When::InMs(ms)) })
}

fn value(machine: &GridMachine, key: &str, now_ms: u64) -> Option<String> {
    let entry = machine.keys().get(key.as_bytes(), now_ms)?;
    let Value::String(bytes) = &entry.value else { panic!("{key} is no string") };
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

#[test]
fn a_key_is_gone_when_its_time_is_over_even_before_it_is_reaped() {
    let mut machine = machine();
    apply(&mut machine, 1000, Body::Set(Set { expiry: in_ms(500), ..set("k", "v") }));
    assert_eq!(value(&machine, "k", 1499).as_deref(), Some("v"));
    assert_eq!(value(&machine, "k", 1500), None);
    assert_eq!(machine.keys().due(1500, 10), [text("k")]);
    let reaped = apply(&mut machine, 1400, Body::Reap(Reap { keys: vec![text("k")], ..Reap::default() }));
    assert_eq!(reaped.integer, 0, "not due at the stamp, whatever the proposer thought");
    apply(&mut machine, 1500, Body::Reap(Reap { keys: vec![text("k")], ..Reap::default() }));
    assert!(machine.keys().is_empty());
    assert_eq!(machine.keys().bytes(), 0);
}

#[test]
fn what_is_evicted_is_what_was_chosen_and_a_full_partition_takes_no_more() {
    let mut machine = machine();
    let first = apply(&mut machine, 1, Body::Set(set("a", "1"))).version;
    let second = apply(&mut machine, 1, Body::Set(set("b", "1"))).version;
    apply(&mut machine, 1, Body::Set(set("b", "2")));
    let victim = |key, version| Victim { key: text(key), version };
    let victims = vec![victim("a", first), victim("b", second), victim("c", 7)];
    let evicted = apply(&mut machine, 1, Body::Evict(Evict { victims, is_full: true }));
    assert_eq!(evicted.integer, 1, "what has changed since stays");
    assert_eq!((value(&machine, "a", 1), value(&machine, "b", 1).as_deref()), (None, Some("2")));

    assert_eq!(apply(&mut machine, 1, Body::Set(set("b", "3"))).outcome(), Outcome::Full);
    let run = |line: &str| {
        let arguments = line.split(' ').map(text).collect();
        Body::Run(Run { arguments, ..Run::default() })
    };
    assert!(apply(&mut machine, 1, run("APPEND b x")).said[0].starts_with(b"-OOM "));
    let script = "return(redis.pcall('lpush',KEYS[1],'x'))";
    assert!(apply(&mut machine, 1, run(&format!("EVAL {script} 1 b"))).said[0].starts_with(b"-OOM "));
    // A copy that is filled now refuses the same.
    let mut other = self::machine();
    other.restore(&mut machine.snapshot()).unwrap();
    assert_eq!(apply(&mut other, 1, Body::Set(set("b", "3"))).outcome(), Outcome::Full);

    assert_eq!(apply(&mut machine, 1, run("DEL b")).said[0], ":1\r\n");
    apply(&mut machine, 1, Body::Evict(Evict { victims: Vec::new(), is_full: false }));
    assert_eq!(apply(&mut machine, 1, Body::Set(set("b", "3"))).outcome(), Outcome::Applied);
}

#[test]
fn conditions_of_set_are_checked_where_the_write_is_made() {
    let mut machine = machine();
    let if_absent = |value| Body::Set(Set { condition: 1, ..set("k", value) });
    let if_present = |value| Body::Set(Set { condition: 2, ..set("k", value) });
    assert_eq!(apply(&mut machine, 1, if_present("a")).outcome(), Outcome::ConditionFailed);
    let first = apply(&mut machine, 1, if_absent("a"));
    assert_eq!(first.outcome(), Outcome::Applied);
    assert_eq!(apply(&mut machine, 1, if_absent("b")).outcome(), Outcome::ConditionFailed);
    let stale = Body::Set(Set { if_version: Some(first.version + 1), ..set("k", "c") });
    assert_eq!(apply(&mut machine, 1, stale).outcome(), Outcome::ConditionFailed);
    let fresh = Body::Set(Set { if_version: Some(first.version), want_previous: true, ..set("k", "c") });
    assert_eq!(apply(&mut machine, 1, fresh).value, Some(text("a")));
    assert_eq!(value(&machine, "k", 1).as_deref(), Some("c"));
}

#[test]
fn counters_refuse_what_is_no_integer_and_what_does_not_fit() {
    let mut machine = machine();
    let by = |by| Body::Increment(Increment { key: text("n"), by, expiry: None });
    assert_eq!(apply(&mut machine, 1, by(5)).integer, 5);
    assert_eq!(apply(&mut machine, 1, by(-7)).integer, -2);
    apply(&mut machine, 1, Body::Set(set("n", &i64::MAX.to_string())));
    assert_eq!(apply(&mut machine, 1, by(1)).outcome(), Outcome::Overflow);
    for bad in ["", "abc", " 1", "01", "+1", "1.0", "9223372036854775808"] {
        apply(&mut machine, 1, Body::Set(set("n", bad)));
        assert_eq!(apply(&mut machine, 1, by(1)).outcome(), Outcome::NotAnInteger, "{bad:?}");
    }
}

#[test]
fn a_swap_needs_the_expected_value_and_may_delete() {
    let mut machine = machine();
    let swap = |expected: Option<&str>, value: Option<&str>| {
        Body::CompareAndSwap(CompareAndSwap {
            key: text("k"),
            expected: expected.map(text),
            value: value.map(text),
        })
    };
    assert_eq!(apply(&mut machine, 1, swap(Some("x"), Some("a"))).outcome(), Outcome::ConditionFailed);
    assert_eq!(apply(&mut machine, 1, swap(None, Some("a"))).outcome(), Outcome::Applied);
    assert_eq!(apply(&mut machine, 1, swap(Some("a"), None)).value, Some(text("a")));
    assert_eq!(value(&machine, "k", 1), None);
}

#[test]
fn msetnx_is_all_or_nothing() {
    let mut machine = machine();
    apply(&mut machine, 1, Body::Set(set("b", "held")));
    let pairs = ["a", "b"].map(|key| Pair { key: text(key), value: text("new") }).to_vec();
    let body = Body::MultiSet(MultiSet { pairs, if_none_exists: true });
    assert_eq!(apply(&mut machine, 1, body).outcome(), Outcome::ConditionFailed);
    assert_eq!(value(&machine, "a", 1), None);
}

#[test]
fn expire_knows_its_conditions() {
    let mut machine = machine();
    apply(&mut machine, 1, Body::Set(set("k", "v")));
    let expire = |condition: i32, ms| Body::Expire(Expire { key: text("k"), expiry: in_ms(ms), condition });
    // (condition, new time to live, whether it applies), one after the other.
    for (condition, ms, applies) in [
        (2, 100, 0), // XX: has none
        (3, 100, 0), // GT: never is later than everything
        (1, 100, 1), // NX
        (1, 200, 0),
        (3, 200, 1),
        (3, 150, 0),
        (4, 150, 1),
        (2, 500, 1),
    ] {
        assert_eq!(apply(&mut machine, 1, expire(condition, ms)).integer, applies, "{condition} {ms}");
    }
    assert_eq!(machine.keys().get(b"k", 1).unwrap().expires_at_ms, 501);
}

fn any_body() -> impl Strategy<Value = Body> {
    let key = (0..12_u8).prop_map(|number| text(&format!("key:{number}")));
    let value = (0..4_u8).prop_map(|number| text(&number.to_string()));
    let expiry = prop_oneof![Just(None), (1..50_u64).prop_map(in_ms)];
    prop_oneof![
        (key.clone(), value, expiry.clone(), 0..3_i32).prop_map(|(key, value, expiry, condition)| {
            Body::Set(Set { key, value, expiry, condition, ..Set::default() })
        }),
        key.clone().prop_map(|key| Body::Delete(Delete { keys: vec![key], ..Delete::default() })),
        (key.clone(), -5..5_i64).prop_map(|(key, by)| Body::Increment(Increment { key, by, expiry: None })),
        (key.clone(), expiry, 0..5_i32).prop_map(|(key, expiry, condition)| Body::Expire(Expire {
            key,
            expiry,
            condition
        })),
        key.clone().prop_map(|key| Body::Reap(Reap { keys: vec![key.clone()], semaphores: vec![key] })),
        // A semaphore may have the name of a key: they have nothing to do with each other.
        (key.clone(), 0..4_u8, 1..3_u32, 1..80_u64, 0..60_u64).prop_map(
            |(name, holder, take, lease_ms, place_ms)| Body::Acquire(Acquire {
                name,
                holder: text(&holder.to_string()),
                permits: 2,
                take,
                lease_ms,
                place_ms,
                ..Acquire::default()
            })
        ),
        (key, 0..4_u8).prop_map(|(name, holder)| {
            Body::Release(Release { name, holder: text(&holder.to_string()), ..Release::default() })
        }),
    ]
}

fn dump(machine: &GridMachine) -> BTreeMap<Vec<u8>, Entry> {
    let entries = machine.keys().entries();
    let slots = (0..).map_while(|place| entries.slot(place));
    slots.flatten().map(|(key, entry)| (key.to_vec(), entry.clone())).collect()
}

#[test]
fn a_write_whose_holding_is_over_changes_nothing() {
    let mut machine = machine();
    let holder = text("a");
    let acquire =
        Acquire { name: text("lock"), holder, permits: 1, take: 1, lease_ms: 500, ..Acquire::default() };
    let token = apply(&mut machine, 1000, Body::Acquire(acquire)).acquired.unwrap().token;
    let fenced = |machine: &mut GridMachine, now_ms, token| {
        let fence = Some(Fence { name: text("lock"), token });
        let command = Command { body: Some(Body::Set(set("k", "v"))), fence, ..Command::default() };
        let payload = Bytes::from(command.encode_to_vec());
        let replies =
            machine.apply(&[Committed { stamp_ms: now_ms, passed_ms: now_ms, payload: &payload }]).unwrap();
        Reply::decode(replies[0].clone().into_bytes()).unwrap().outcome()
    };
    assert_eq!(fenced(&mut machine, 1001, token + 1), Outcome::Fenced);
    assert_eq!(
        fenced(&mut machine, 1500, token),
        Outcome::Fenced,
        "its lease has not been ended yet, but is over"
    );
    assert_eq!(value(&machine, "k", 1500), None);
    assert_eq!(fenced(&mut machine, 1499, token), Outcome::Applied);
    assert_eq!(value(&machine, "k", 1500).as_deref(), Some("v"));
}

/// Semaphores, by slot and name.
fn semaphores(machine: &GridMachine) -> Vec<Semaphore> {
    let entries = machine.keys().entries();
    let slots = (0..).take_while(|place| entries.slot(*place).is_some());
    slots
        .flat_map(|place| {
            let of_slot = entries.semaphores(place);
            of_slot.map(|(name, semaphore)| semaphore.state(name)).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn semaphores_of_one_slot_are_in_pieces_of_a_snapshot() {
    let mut machine = machine();
    for number in 0..600 {
        let acquire = Acquire {
            name: text(&format!("{{slot}}{number}")),
            holder: text("a"),
            permits: 1,
            take: 1,
            lease_ms: 500,
            value: vec![b'v'; 4096].into(),
            ..Acquire::default()
        };
        apply(&mut machine, 1, Body::Acquire(acquire));
    }
    let chunks: Vec<Bytes> = machine.snapshot().map(Result::unwrap).collect();
    assert!(chunks.len() > 2 && chunks.iter().all(|chunk| chunk.len() < CHUNK_BYTES + 8192));
    let mut restored = self::machine();
    restored.restore(&mut (Box::new(chunks.into_iter().map(Ok)) as SnapshotChunks)).unwrap();
    assert_eq!(semaphores(&restored), semaphores(&machine));
}

#[test]
fn a_snapshot_does_not_see_what_is_written_under_it() {
    let mut machine = machine();
    for number in 0..100 {
        apply(&mut machine, 1, Body::Set(set(&format!("key:{number}"), "before")));
    }
    let expected = dump(&machine);
    let mut snapshot = machine.snapshot();
    for number in 0..100 {
        apply(&mut machine, 2, Body::Set(set(&format!("key:{number}"), "after")));
        let keys = vec![text(&format!("key:{}", number / 2))];
        apply(&mut machine, 2, Body::Delete(Delete { keys, ..Delete::default() }));
    }
    let mut restored = self::machine();
    restored.restore(&mut snapshot).unwrap();
    assert_eq!(dump(&restored), expected);
}

#[test]
fn a_split_is_between_slots_in_the_middle_of_what_is_there() {
    let mut machine = machine();
    assert_eq!(machine.middle(), None);
    apply(&mut machine, 1, Body::Set(set("{a}", "v")));
    assert_eq!(machine.middle(), None, "one slot has everything");
    for number in 0..1000 {
        apply(&mut machine, 1, Body::Set(set(&format!("key:{number}"), "v")));
    }
    let middle = machine.middle().unwrap();
    let before = machine.bytes();
    let new = machine.split(middle, 2, Remember::default()).unwrap();
    assert_eq!((machine.tokens(), new.tokens()), ((0, middle - 1), (middle, u64::MAX)));
    assert_eq!(machine.bytes() + new.bytes(), before);
    assert!(machine.bytes().abs_diff(new.bytes()) < before / 50);
    assert!(machine.split(middle / 2 + 1, 3, Remember::default()).is_err());
}

proptest! {
    /// Two parts of a partition answer as the whole would have, each what is about its keys, and refuse the rest; and so does
    /// the one that they become again.
    #[test]
    fn two_parts_go_on_as_the_whole_would_have(
        bodies in proptest::collection::vec(any_body(), 1..120),
        cut in 0..120_usize,
        at in 1..16_384_u64,
        again in 0..240_usize,
    ) {
        let mut whole = machine();
        let mut parts = vec![machine()];
        let at = at << 50;
        let mut now_ms = 1000;
        for (step, body) in bodies.into_iter().enumerate() {
            if step == cut {
                let part = parts[0].split(at, 2, Remember::default()).unwrap();
                parts.push(part);
            }
            if step >= again && parts.len() == 2 {
                let mut behind = parts.remove(1);
                behind.freeze(true);
                parts[0].merge(&mut behind.snapshot(), now_ms).unwrap();
                prop_assert!(parts[0].keys().version() > behind.keys().version());
            }
            now_ms += 7;
            let expected = apply(&mut whole, now_ms, body.clone());
            let replies: Vec<Reply> =
                parts.iter_mut().map(|part| apply(part, now_ms, body.clone())).collect();
            let answers: Vec<&Reply> =
                replies.iter().filter(|reply| reply.outcome() != Outcome::WrongPartition).collect();
            // Whatever is reaped is looked for in both; versions are counted apart.
            let is_reap = matches!(body, Body::Reap(_));
            let asked = if is_reap { parts.len() } else { 1 };
            prop_assert_eq!(answers.len(), asked);
            prop_assert_eq!(answers.iter().map(|reply| reply.integer).sum::<i64>(), expected.integer);
            prop_assert!(is_reap || answers[0].outcome() == expected.outcome());
        }
        let values = |machine: &GridMachine| -> BTreeMap<Vec<u8>, (Value, u64)> {
            let entries = dump(machine).into_iter();
            entries.map(|(key, entry)| (key, (entry.value, entry.expires_at_ms))).collect()
        };
        let together: BTreeMap<_, _> = parts.iter().flat_map(values).collect();
        prop_assert_eq!(together, values(&whole));
        prop_assert_eq!(parts.iter().map(|part| part.keys().bytes()).sum::<usize>(), whole.keys().bytes());
        prop_assert_eq!(parts.iter().map(|part| part.keys().len()).sum::<usize>(), whole.keys().len());
        let due = |machine: &GridMachine| {
            let semaphores = machine.keys().due_semaphores(u64::MAX, usize::MAX).len();
            (machine.keys().due(u64::MAX, usize::MAX).len(), semaphores)
        };
        let dues = parts.iter().map(due).fold((0, 0), |sum, due| (sum.0 + due.0, sum.1 + due.1));
        prop_assert_eq!(dues, due(&whole));
        // Tokens are counted apart.
        let claims = |machine: &GridMachine| -> Vec<Vec<(Bytes, u64)>> {
            let claims = |semaphore: Semaphore| {
                let claims = semaphore.holdings.into_iter().chain(semaphore.queue);
                claims.map(|claim| (claim.holder, claim.ends_at_ms)).collect()
            };
            semaphores(machine).into_iter().map(claims).collect()
        };
        prop_assert_eq!(parts.iter().flat_map(claims).collect::<Vec<_>>(), claims(&whole));
    }

    /// A replica restored from a snapshot at any point answers everything after as one that saw it all.
    #[test]
    fn a_restored_replica_goes_on_as_the_others(bodies in proptest::collection::vec(any_body(), 1..120), cut in 0..120_usize) {
        let mut whole = machine();
        let mut restored = machine();
        let cut = cut.min(bodies.len());
        let mut now_ms = 1000;
        for (step, body) in bodies.into_iter().enumerate() {
            if step == cut {
                restored.restore(&mut whole.snapshot()).unwrap();
            }
            now_ms += 7;
            let reply = apply(&mut whole, now_ms, body.clone());
            if step >= cut {
                prop_assert_eq!(apply(&mut restored, now_ms, body), reply);
            }
        }
        // It is empty if the cut is behind the end.
        if restored.keys().version() != 0 {
            prop_assert_eq!(dump(&restored), dump(&whole));
            prop_assert_eq!(semaphores(&restored), semaphores(&whole));
            prop_assert_eq!(restored.keys().bytes(), whole.keys().bytes());
        }
    }

    /// A scan returns every key that is there all the time exactly once, however the pages are cut and whatever else
    /// comes and goes.
    #[test]
    fn a_scan_misses_nothing_that_stays(stay in proptest::collection::btree_set("[a-z]{1,3}", 0..60), count in 1..20_usize) {
        let mut machine = machine();
        for key in &stay {
            apply(&mut machine, 1, Body::Set(set(key, "v")));
        }
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut cursor = Some(Token(0));
        let mut round = 0;
        while let Some(from) = cursor {
            let (keys, next) = key::scan(machine.keys(), from, count, None, 1);
            for key in keys {
                *seen.entry(String::from_utf8(key.to_vec()).unwrap()).or_default() += 1;
            }
            cursor = next;
            round += 1;
            apply(&mut machine, 1, Body::Set(set(&format!("other-{round}"), "v")));
            if round > 2 {
                let keys = vec![text(&format!("other-{}", round - 2))];
                apply(&mut machine, 1, Body::Delete(Delete { keys, ..Delete::default() }));
            }
        }
        for key in &stay {
            prop_assert_eq!(seen.get(key), Some(&1), "{}", key);
        }
    }

    /// Whatever is split and merged meanwhile, a watch that was anywhere before finds every change that it has not seen,
    /// once, in order for each key; also in a copy that was restored from a snapshot, or it is told that it cannot.
    #[test]
    fn a_watch_finds_what_it_has_not_seen_wherever_it_went(
        steps in proptest::collection::vec(any_step(), 1..80),
        begins in proptest::collection::vec(0..80_usize, 1..4),
    ) {
        let mut parts = vec![machine()];
        let mut next = 2;
        // By key, how often it was written.
        let mut written: BTreeMap<Bytes, u64> = BTreeMap::new();
        let mut watches: Vec<Watching> = Vec::new();
        for (at, step) in steps.into_iter().enumerate() {
            if begins.contains(&at) {
                watches.push(Watching::begin(&parts, &written));
            }
            match step {
                Step::Write(number) => {
                    let key = text(&format!("key:{number}"));
                    let count = written.entry(key.clone()).or_default();
                    *count += 1;
                    let set = set(&format!("key:{number}"), &count.to_string());
                    let part = parts.iter_mut().find(|part| part.keys().has_place_for(&key)).unwrap();
                    apply(part, 1, Body::Set(set));
                }
                Step::Split(slot) => {
                    let token = token::slot_start(slot);
                    let has = |part: &GridMachine| {
                        let (first, last) = part.keys().range();
                        first < token && token <= last
                    };
                    let Some(place) = parts.iter().position(has) else { continue };
                    let new = parts[place].split(token.0, next, Remember::default()).unwrap();
                    parts.insert(place + 1, new);
                    next += 1;
                }
                Step::Merge(place) => {
                    if parts.len() < 2 {
                        continue;
                    }
                    let place = place % (parts.len() - 1);
                    let mut behind = parts.remove(place + 1);
                    behind.freeze(true);
                    parts[place].merge(&mut behind.snapshot(), 0).unwrap();
                }
                Step::Restore(place) => {
                    // It does not remember what the others do.
                    for watch in &mut watches {
                        prop_assert_eq!(watch.see(&parts), Ok(()));
                    }
                    let place = place % parts.len();
                    let mut restored = machine();
                    restored.restore(&mut parts[place].snapshot()).unwrap();
                    restored.partition = parts[place].partition;
                    parts[place] = restored;
                }
                Step::See(place) => {
                    if let Some(watch) = watches.get_mut(place) {
                        prop_assert_eq!(watch.see_some(&parts), Ok(()));
                    }
                }
            }
        }
        for mut watch in watches {
            prop_assert_eq!(watch.see(&parts), Ok(()));
            for (key, count) in &written {
                let before = watch.before.get(key).copied().unwrap_or_default();
                let expected: Vec<u64> = (before + 1..=*count).collect();
                prop_assert_eq!(watch.seen.get(key).cloned().unwrap_or_default(), expected);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u8),
    Split(u16),
    Merge(usize),
    Restore(usize),
    See(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..12_u8).prop_map(Step::Write),
        2 => (1..token::SLOTS).prop_map(Step::Split),
        2 => (0..8_usize).prop_map(Step::Merge),
        1 => (0..8_usize).prop_map(Step::Restore),
        2 => (0..3_usize).prop_map(Step::See),
    ]
}

/// A reader of all changes, who comes back from time to time.
#[derive(Debug)]
struct Watching {
    positions: Vec<Position>,
    before: BTreeMap<Bytes, u64>,
    seen: BTreeMap<Bytes, Vec<u64>>,
}

impl Watching {
    fn begin(parts: &[GridMachine], written: &BTreeMap<Bytes, u64>) -> Self {
        let position = |part: &GridMachine| {
            let (first, last) = part.keys().range();
            Position {
                partition: part.partition,
                version: part.keys().version(),
                first_token: first.0,
                last_token: last.0,
            }
        };
        let positions = parts.iter().map(position).collect();
        Self { positions, before: written.clone(), seen: BTreeMap::new() }
    }

    /// Sees everything, or errors.
    fn see(&mut self, parts: &[GridMachine]) -> Result<(), String> {
        while self.some(parts, usize::MAX)? {}
        Ok(())
    }

    /// Sees a few of the next changes of each range that it watches.
    fn see_some(&mut self, parts: &[GridMachine]) -> Result<(), String> {
        self.some(parts, 2).map(drop)
    }

    fn some(&mut self, parts: &[GridMachine], count: usize) -> Result<bool, String> {
        let mut positions = Vec::new();
        let mut has_seen = false;
        for position in std::mem::take(&mut self.positions) {
            let tokens = (Token(position.first_token), Token(position.last_token));
            for part in parts {
                let (first, last) = part.keys().range();
                if tokens.0.max(first) > tokens.1.min(last) {
                    continue;
                }
                let Placed::Here(places) =
                    part.place(tokens, Some(position)).map_err(|lost| format!("{lost:?}"))?
                else {
                    return Err("it does not know yet".to_owned());
                };
                for place in places {
                    let keys = |key: &[u8]| (place.first..=place.last).contains(&token::grid(key));
                    let generation = part.events().generation();
                    let asked = Asked { first: place.first, last: place.last, generation };
                    let after = part.events().after(place.version, asked, count, keys);
                    let (changes, upto) = after.map_err(|lost| format!("{lost:?}"))?;
                    for event in changes {
                        let Change::Set(value) = event.change else { continue };
                        let value = String::from_utf8(value.to_vec()).unwrap().parse().unwrap();
                        self.seen.entry(event.key).or_default().push(value);
                        has_seen = true;
                    }
                    positions.push(Position {
                        partition: place.partition_at(upto, part.partition),
                        version: upto,
                        first_token: place.first.0,
                        last_token: place.last.0,
                    });
                }
            }
        }
        self.positions = positions;
        Ok(has_seen)
    }
}
