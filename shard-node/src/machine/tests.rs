//! A machine against its own log: whatever the power takes, applying the log again from where the disk says gives the
//! same rows and the same replies; and so does a snapshot.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trimaran_storage::engine::Range;
use trimaran_storage::faulty_engine::FaultyEngine;

use super::*;
use crate::expression::codec::{encode_condition, encode_update};
use crate::expression::parse::{self, Placeholders};
use crate::item::{Item, Type, Value};
use crate::key::head;
use crate::op::encode;
use crate::table::{KeyAttribute, StreamView, Table};

const TABLE: u64 = 4;

fn machine(engine: &FaultyEngine) -> ShardMachine {
    ShardMachine::new(Arc::new(Shared::new(Arc::new(engine.clone()))), 1, Token(0), Token(u64::MAX))
}

fn row(number: u8) -> Bytes {
    let mut row = head(TABLE + u64::from(number % 2), Token(u64::from(number) << 50));
    row.extend_from_slice(&[number]);
    row.freeze()
}

fn item(number: i64) -> Item {
    Item::from([("n".into(), Value::N(number.to_string().parse().unwrap()))])
}

fn command(random: &mut StdRng) -> Bytes {
    let mut placeholders =
        Placeholders::new(Default::default(), [(":one".to_owned(), Value::N("1".parse().unwrap()))].into());
    let body = match random.random_range(0..10) {
        0..4 => {
            let stored = encode(&item(random.random_range(0..1000)));
            let condition = random.random_bool(0.3).then(|| {
                parse::condition("ConditionExpression", "attribute_not_exists(n)", &mut placeholders).unwrap()
            });
            Body::Put(state::Put {
                item: stored.bytes,
                size: stored.size,
                condition: encode_condition(condition.as_ref()),
                want_old: true,
                want_old_on_failure: true,
                alone: false,
            })
        }
        4..7 => Body::Update(state::Update {
            key: encode(&Item::new()).bytes,
            update: encode_update(&parse::update("ADD n :one", &mut placeholders).unwrap()),
            return_values: state::ReturnValues::AllNew.into(),
            ..state::Update::default()
        }),
        7..9 => Body::Delete(state::Delete { want_old: true, ..state::Delete::default() }),
        _ if random.random_bool(0.02) => Body::DropTable(state::DropTable { table: TABLE + 1 }),
        _ if random.random_bool(0.1) => Body::SetSchema(schema(random.random_range(1..20))),
        _ => Body::Delete(state::Delete::default()),
    };
    state::Command { row: row(random.random_range(0..40)), body: Some(body) }.encode_to_vec().into()
}

/// A table with a stream in every other revision.
fn schema(revision: u64) -> state::SetSchema {
    let key = |name: &str| KeyAttribute { name: name.to_owned(), kind: Type::N };
    let mut table = Table { id: TABLE, revision, ..Table::new("t".to_owned(), key("n"), None) };
    if revision % 2 == 1 {
        table.last_stream = revision as u32;
        table.begin_stream(StreamView::NewAndOldImages, revision);
    }
    store::encode_schema(&table)
}

/// Rows of items, without what is kept beside them.
fn items_of(machine: &ShardMachine) -> Vec<(Bytes, Stored)> {
    let rows = state_of(machine).0.into_iter();
    let is_item = |row: &Bytes| keyspace::kind(parse_head(row).unwrap().0) == Some(Kind::Items);
    rows.map(|(row, _, item)| (row, item)).filter(|(row, _)| is_item(row)).collect()
}

fn apply(machine: &mut ShardMachine, index: u64, entry: &[Bytes]) -> Vec<Bytes> {
    let run: Vec<_> =
        entry.iter().map(|payload| Committed { stamp_ms: index * 10, passed_ms: 0, payload }).collect();
    let replies = machine.apply(&run).unwrap();
    let answered = vec![(index, Bytes::from(format!("answered {index}")))];
    let applied = Bytes::from(index.to_be_bytes().to_vec());
    machine.commit(Remember { applied, answered, forget_below: index.saturating_sub(10) }).unwrap();
    replies.into_iter().map(Reply::into_bytes).collect()
}

/// All rows of tables that are there, with their versions, and the counts. Rows of a dropped table are no part of a
/// snapshot, and are swept from the others by and by.
fn state_of(machine: &ShardMachine) -> (Vec<Row>, Vec<Option<Stats>>) {
    let all = Range::prefix(&[]);
    let is_there = |row: &Row| machine.stats(parse_head(&row.0).unwrap().0).is_some();
    let rows = machine.view().scan(all, Order::Ascending).map(Result::unwrap).filter(is_there).collect();
    (rows, vec![machine.stats(TABLE), machine.stats(TABLE + 1)])
}

#[test]
fn whatever_the_power_takes_the_log_brings_back() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let log: Vec<Vec<Bytes>> = (0..120)
            .map(|_| (0..random.random_range(1..12)).map(|_| command(&mut random)).collect())
            .collect();
        let undisturbed = FaultyEngine::default();
        let mut expected = machine(&undisturbed);
        let replies: Vec<_> =
            log.iter().zip(1..).map(|(entry, at)| apply(&mut expected, at, entry)).collect();

        let engine = FaultyEngine::default();
        let mut victim = machine(&engine);
        let mut applied = 0;
        while applied < log.len() {
            let upto = (applied + random.random_range(1..40)).min(log.len());
            for (at, entry) in log.iter().enumerate().take(upto).skip(applied) {
                assert_eq!(apply(&mut victim, at as u64 + 1, entry), replies[at], "seed {seed}, entry {at}");
                if random.random_bool(0.05) {
                    (victim.persist())().unwrap();
                }
            }
            engine.lose_power(random.random_range(0..30));
            victim = machine(&engine);
            applied = match victim.recover().unwrap() {
                Recovered::Nothing => 0,
                Recovered::Interrupted => panic!("seed {seed}: nothing was being restored"),
                Recovered::Applied { applied, answered } => {
                    let applied = u64::from_be_bytes(applied[..].try_into().unwrap());
                    let first = applied.saturating_sub(10).max(1);
                    let remembered: Vec<Bytes> =
                        (first..=applied).map(|at| Bytes::from(format!("answered {at}"))).collect();
                    assert_eq!(answered, remembered, "seed {seed}");
                    applied as usize
                }
            };
            if upto == log.len() && random.random_bool(0.5) {
                for (at, entry) in log.iter().enumerate().take(upto).skip(applied) {
                    apply(&mut victim, at as u64 + 1, entry);
                }
                applied = upto;
            }
        }
        assert_eq!(state_of(&victim), state_of(&expected), "seed {seed}");
    }
}

#[test]
fn a_snapshot_is_of_one_moment_and_a_restore_that_is_cut_off_is_begun_again() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let source = FaultyEngine::default();
        let mut leader = machine(&source);
        let mut entry = || -> Vec<Bytes> { (0..20).map(|_| command(&mut random)).collect() };
        for at in 1..30 {
            apply(&mut leader, at, &entry());
        }
        let expected = state_of(&leader);
        let mut snapshot = leader.snapshot();
        // Written under it while it is read.
        let mut chunks = Vec::new();
        for at in 30..40 {
            apply(&mut leader, at, &entry());
            chunks.extend(snapshot.next().map(Result::unwrap));
        }
        chunks.extend(snapshot.map(Result::unwrap));

        let engine = FaultyEngine::default();
        let mut follower = machine(&engine);
        for at in 1..10 {
            apply(&mut follower, at, &entry());
        }
        let given = || -> SnapshotChunks { Box::new(chunks.clone().into_iter().map(Ok)) };
        follower.restore(&mut given()).unwrap();
        engine.lose_power(seed as usize % 3);
        follower = machine(&engine);
        assert!(matches!(follower.recover().unwrap(), Recovered::Interrupted), "seed {seed}");
        follower.restore(&mut given()).unwrap();
        follower.commit(Remember { applied: Bytes::from_static(b"x"), ..Remember::default() }).unwrap();
        (follower.persist())().unwrap();
        engine.lose_power(0);
        follower = machine(&engine);
        assert!(matches!(follower.recover().unwrap(), Recovered::Applied { .. }), "seed {seed}");
        assert_eq!(state_of(&follower), expected, "seed {seed}");
    }
}

#[test]
fn a_failed_disk_stops_the_copy_and_is_no_reply() {
    let engine = FaultyEngine::default();
    let mut machine = machine(&engine);
    engine.fail_after(0);
    let mut random = StdRng::seed_from_u64(1);
    let payload = command(&mut random);
    machine.apply(&[Committed { stamp_ms: 1, passed_ms: 0, payload: &payload }]).unwrap();
    assert!(machine.commit(Remember::default()).is_err());
    let unknown = Bytes::from_static(b"\xff\xff");
    assert!(machine.apply(&[Committed { stamp_ms: 1, passed_ms: 0, payload: &unknown }]).is_err());
}

/// A split that the power takes away, and one that it does not: the parts are there, both or none, and what is written to
/// them goes on as if they had been one.
#[test]
fn two_parts_have_what_the_whole_would_have_whatever_the_power_takes() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        // A table is dropped in every partition, which no single command is about.
        let is_on_a_row = |payload: &Bytes| {
            let body = state::Command::decode(payload.clone()).unwrap().body;
            !matches!(body, Some(Body::DropTable(_)))
        };
        let mut entry =
            || -> Vec<Bytes> { (0..20).map(|_| command(&mut random)).filter(is_on_a_row).collect() };
        let (undisturbed, engine) = (FaultyEngine::default(), FaultyEngine::default());
        let (mut whole, mut left) = (machine(&undisturbed), machine(&engine));
        for at in 1..20 {
            let entry = entry();
            assert_eq!(apply(&mut whole, at, &entry), apply(&mut left, at, &entry));
        }
        (left.persist())().unwrap();
        let before = state_of(&left);
        let view = left.view();
        let at = Token((seed + 1) << 50);
        let remember = Remember { applied: Bytes::from_static(b"new"), ..Remember::default() };
        let mut right = left.split(at.0, 2, remember).unwrap();
        let entry_20 = entry();
        apply(&mut whole, 20, &entry_20);
        apply(&mut left, 20, &entry_20);
        apply(&mut right, 20, &entry_20);
        // Somebody who reads since before sees nothing of it.
        let rows = |view: &View| -> Vec<Row> {
            view.scan(Range::prefix(&[]), Order::Ascending).map(Result::unwrap).collect()
        };
        let old: Vec<Row> = before.0.clone();
        let is_there = |row: &Row| old.iter().any(|old| old.0 == row.0);
        assert_eq!(rows(&view).into_iter().filter(is_there).collect::<Vec<_>>(), old, "seed {seed}");
        drop(view);
        // The engine writes in order: the split, what the left did, what the right did.
        engine.lose_power(seed as usize % 4);
        let came_to_20 = |machine: &mut ShardMachine| match machine.recover().unwrap() {
            Recovered::Applied { applied, .. } => Some(applied == 20_u64.to_be_bytes()[..]),
            _ => None,
        };
        left = machine(&engine);
        let left_did = came_to_20(&mut left);
        right = ShardMachine::new(Arc::new(Shared::new(Arc::new(engine.clone()))), 2, at, Token(u64::MAX));
        let right_did = came_to_20(&mut right);
        assert_eq!(left.tokens().1 == at.0 - 1, right_did.is_some(), "seed {seed}: both or none");
        if right_did.is_none() {
            continue;
        }
        for (part, did) in [(&mut left, left_did), (&mut right, right_did)] {
            if did == Some(false) {
                apply(part, 20, &entry_20);
            }
        }
        for at in 21..30 {
            let entry = entry();
            apply(&mut whole, at, &entry);
            apply(&mut left, at, &entry);
            apply(&mut right, at, &entry);
        }
        let keys = items_of;
        assert_eq!(keys(&left), keys(&whole), "seed {seed}: rows stand together");
        for part in [&mut left, &mut right] {
            let (estimated, (first, last), view) = part.estimated();
            for (table, thought) in estimated {
                let rows = view.scan(token_range(table, first, last), Order::Ascending).map(Result::unwrap);
                let (items, bytes) = rows
                    .fold((0, 0), |(items, bytes), (_, _, item)| (items + 1, bytes + u64::from(item.size)));
                let correct = state::CorrectStats {
                    table,
                    last_token: last.0,
                    items: u64::wrapping_sub(items, thought.items).cast_signed(),
                    bytes: u64::wrapping_sub(bytes, thought.bytes).cast_signed(),
                };
                let command = state::Command { row: Bytes::new(), body: Some(Body::CorrectStats(correct)) };
                let command = Bytes::from(command.encode_to_vec());
                // The second time it is corrected already.
                apply(part, 30, &[command.clone(), command]);
            }
        }
        for table in [TABLE, TABLE + 1] {
            let sum = [&left, &right].map(|part| part.stats(table)).into_iter().flatten();
            let sum = sum.fold(Stats::default(), |sum, stats| Stats {
                items: sum.items + stats.items,
                bytes: sum.bytes + stats.bytes,
            });
            assert_eq!(sum, whole.stats(table).unwrap_or_default(), "seed {seed}, table {table}");
        }
        left.forget().unwrap();
        let rest = keys(&right);
        assert!(rest.iter().all(|(row, _)| parse_head(row).unwrap().1 >= at), "seed {seed}");
        assert_eq!(
            rest.len(),
            keys(&whole).iter().filter(|(row, _)| parse_head(row).unwrap().1 >= at).count()
        );
    }
}

/// A partition takes over the one behind it, on a node whose own copy of that one is behind: whatever the power takes, and
/// whatever that copy does afterwards, the rows are those that the other one gave.
#[test]
fn what_is_taken_over_is_not_touched_by_a_copy_that_is_behind_whatever_the_power_takes() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let is_on_a_row = |payload: &Bytes| {
            let body = state::Command::decode(payload.clone()).unwrap().body;
            !matches!(body, Some(Body::DropTable(_)))
        };
        let mut entry =
            || -> Vec<Bytes> { (0..20).map(|_| command(&mut random)).filter(is_on_a_row).collect() };
        let (undisturbed, engine, elsewhere) =
            (FaultyEngine::default(), FaultyEngine::default(), FaultyEngine::default());
        let mut whole = machine(&undisturbed);
        let open = |engine: &FaultyEngine, parts: [(u64, Token, Token); 2]| {
            let shared = Arc::new(Shared::new(Arc::new(engine.clone())));
            parts.map(|(id, first, last)| ShardMachine::new(Arc::clone(&shared), id, first, last))
        };
        let at = Token((seed % 39 + 1) << 50);
        let parts = [(1, Token(0), Token(at.0 - 1)), (2, at, Token(u64::MAX))];
        let [mut left, mut behind] = open(&engine, parts);
        let [_, mut right] = open(&elsewhere, parts);
        for machine in [&mut left, &mut behind, &mut right] {
            assert!(matches!(machine.recover().unwrap(), Recovered::Nothing));
        }
        let mut missed = Vec::new();
        for index in 1..20 {
            let entry = entry();
            apply(&mut whole, index, &entry);
            apply(&mut left, index, &entry);
            apply(&mut right, index, &entry);
            if index < 10 {
                apply(&mut behind, index, &entry);
            } else {
                missed.push((index, entry));
            }
        }
        (left.persist())().unwrap();
        right.freeze(true);
        let given: Vec<Bytes> = right.snapshot().map(Result::unwrap).collect();
        let take = |left: &mut ShardMachine| {
            left.merge(&mut (Box::new(given.clone().into_iter().map(Ok)) as SnapshotChunks), 0).unwrap();
            let applied = Bytes::from(20_u64.to_be_bytes().to_vec());
            left.commit(Remember { applied, ..Remember::default() }).unwrap();
        };
        // Applied by a copy that does not know yet, and written after the rows were taken.
        let (index, entry_10) = missed.remove(0);
        let run: Vec<_> = entry_10
            .iter()
            .map(|payload| Committed { stamp_ms: index * 10, passed_ms: 0, payload })
            .collect();
        behind.apply(&run).unwrap();
        take(&mut left);
        behind.commit(Remember { applied: Bytes::from_static(b"behind"), ..Remember::default() }).unwrap();
        assert!(behind.is_elsewhere());
        engine.lose_power(seed as usize % 3);
        [left, behind] = open(&engine, parts);
        let Recovered::Applied { applied, .. } = left.recover().unwrap() else { panic!("seed {seed}") };
        behind.recover().unwrap();
        let is_taken = applied == 20_u64.to_be_bytes()[..];
        assert_eq!(left.tokens().1 == u64::MAX, is_taken, "seed {seed}: both or none");
        assert_eq!(behind.is_elsewhere(), is_taken, "seed {seed}: both or none");
        if !is_taken {
            take(&mut left);
        }
        let keys = items_of;
        assert_eq!(keys(&left), keys(&whole), "seed {seed}");
        assert_eq!(left.stats(TABLE), whole.stats(TABLE), "seed {seed}");
        for (index, entry) in &missed {
            let replies = apply(&mut behind, *index, entry);
            assert!(replies.iter().all(|reply| *reply == behind.elsewhere()), "seed {seed}");
        }
        for index in 21..25 {
            let entry = entry();
            assert_eq!(
                apply(&mut whole, index, &entry).len(),
                apply(&mut left, index, &entry).len(),
                "seed {seed}"
            );
        }
        behind.forget().unwrap();
        assert_eq!(keys(&left), keys(&whole), "seed {seed}: nothing of it goes with the other copy");
        // A copy that comes later gets all of it, where the other one was before.
        let [mut late, mut stale] = open(&elsewhere, parts);
        stale.recover().unwrap();
        late.restore(&mut left.snapshot()).unwrap();
        late.commit(Remember { applied: Bytes::from_static(b"x"), ..Remember::default() }).unwrap();
        assert!(stale.is_elsewhere(), "seed {seed}");
        apply(&mut stale, 20, &entry());
        stale.forget().unwrap();
        assert_eq!(state_of(&late).0, state_of(&left).0, "seed {seed}");
    }
}

/// Of three partitions the last becomes part of the second, and that of the first. A node that has copies of the first and the
/// last, and none of the second, has the last one's rows twice, so to speak.
#[test]
fn what_came_by_way_of_another_partition_does_not_go_with_an_old_copy() {
    let (here, elsewhere) = (FaultyEngine::default(), FaultyEngine::default());
    let bounds = [0, 13 << 50, 26 << 50];
    let open = |engine: &FaultyEngine, id: u64| {
        let at = id as usize - 1;
        let last = bounds.get(at + 1).map_or(u64::MAX, |next| next - 1);
        let shared = Arc::new(Shared::new(Arc::new(engine.clone())));
        (shared, Token(bounds[at]), Token(last))
    };
    let machine = |(shared, first, last): (Arc<Shared>, Token, Token), id: u64| {
        let mut machine = ShardMachine::new(shared, id, first, last);
        machine.recover().unwrap();
        machine
    };
    let put = |number: u8| -> Bytes {
        let stored = encode(&item(i64::from(number)));
        let body = Body::Put(state::Put { item: stored.bytes, size: stored.size, ..state::Put::default() });
        state::Command { row: row(number), body: Some(body) }.encode_to_vec().into()
    };
    let (shared, first, last) = open(&here, 1);
    let mut left = machine((Arc::clone(&shared), first, last), 1);
    let (_, first, last) = open(&here, 3);
    let mut old = machine((shared, first, last), 3);
    let (shared, first, last) = open(&elsewhere, 2);
    let mut middle = machine((Arc::clone(&shared), first, last), 2);
    let (_, first, last) = open(&elsewhere, 3);
    let mut right = machine((shared, first, last), 3);
    let all: Vec<Bytes> = (0..40).map(put).collect();
    for machine in [&mut left, &mut old, &mut middle, &mut right] {
        apply(machine, 1, &all);
    }
    right.freeze(true);
    middle.merge(&mut right.snapshot(), 0).unwrap();
    middle.commit(Remember::default()).unwrap();
    middle.freeze(true);
    left.merge(&mut middle.snapshot(), 0).unwrap();
    left.commit(Remember::default()).unwrap();
    assert!(old.is_elsewhere());
    old.forget().unwrap();
    assert_eq!(state_of(&left).0.len(), 40);
}

/// Writes, and transactions over rows far from each other; each about a row.
fn writes_and_transactions(random: &mut StdRng) -> Vec<Bytes> {
    let one = |random: &mut StdRng| {
        if random.random_bool(0.5) {
            return command(random);
        }
        let (from, to) = (random.random_range(0..20_u8), random.random_range(20..40_u8));
        let action = |number: u8, what| state::Action { row: row(number), what: Some(what) };
        let stored = encode(&item(random.random_range(0..1000)));
        let mut placeholders = Placeholders::default();
        let text = if random.random_bool(0.5) { "attribute_exists(n)" } else { "attribute_not_exists(n)" };
        let condition = parse::condition("ConditionExpression", text, &mut placeholders).unwrap();
        let put = state::Put {
            item: stored.bytes,
            size: stored.size,
            condition: encode_condition(Some(&condition)),
            ..state::Put::default()
        };
        let delete = state::Delete::default();
        let actions = vec![
            action(from, state::action::What::Put(put)),
            action(to, state::action::What::Delete(delete)),
        ];
        let transact = state::Transact { transaction: None, actions };
        let body = Some(Body::Transact(transact));
        state::Command { row: row(from), body }.encode_to_vec().into()
    };
    let is_on_a_row = |payload: &Bytes| {
        let body = state::Command::decode(payload.clone()).unwrap().body;
        !matches!(body, Some(Body::DropTable(_) | Body::SetSchema(_)))
    };
    (0..20).map(|_| one(random)).filter(is_on_a_row).collect()
}

/// A copy that is made anew from a log that begins before a split, on a node that has the other part: it comes to what the
/// others have, also of transactions over rows of both parts, and does not touch the other part's rows.
#[test]
fn a_copy_made_from_a_log_that_began_before_a_split_has_what_the_others_have() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let at = Token((random.random_range(1..40_u64)) << 50);
        let mut log: Vec<Vec<Bytes>> = (0..40).map(|_| writes_and_transactions(&mut random)).collect();
        // Its reply says how far the partition goes.
        let told =
            state::Command { row: head(TABLE, Token(0)).freeze(), body: Some(Body::SetSchema(schema(21))) };
        log[0] = vec![told.encode_to_vec().into()];
        let (here, there) = (FaultyEngine::default(), FaultyEngine::default());
        let mut old = machine(&there);
        let shared = Arc::new(Shared::new(Arc::new(here.clone())));
        // The other part is on the new copy's node already, with what it has by now.
        let mut other = ShardMachine::new(Arc::clone(&shared), 2, at, Token(u64::MAX));
        other.recover().unwrap();
        let puts: Vec<Bytes> = (0..40)
            .map(|number| {
                let stored = encode(&item(7));
                let put = state::Put { item: stored.bytes, size: stored.size, ..state::Put::default() };
                state::Command { row: row(number), body: Some(Body::Put(put)) }.encode_to_vec().into()
            })
            .collect();
        apply(&mut other, 1, &puts);
        let others = |machine: &ShardMachine| -> Vec<Row> {
            let rows = state_of(machine).0.into_iter();
            rows.filter(|(row, _, _)| parse_head(row).unwrap().1 >= at).collect()
        };
        let expected = others(&other);
        let fresh = || {
            let machine = ShardMachine::new(Arc::clone(&shared), 1, Token(0), Token(at.0 - 1));
            machine.founded_with(Token(u64::MAX))
        };
        let mut new = fresh();
        assert!(matches!(new.recover().unwrap(), Recovered::Nothing));
        let mut dropped = None;
        for (entry, index) in log.iter().zip(1..) {
            if index == 20 {
                let remember = Remember { applied: Bytes::from_static(b"new"), ..Remember::default() };
                dropped = Some(old.split(at.0, 2, remember).unwrap());
                new.split_behind(at.0).unwrap();
            }
            let replies = (apply(&mut old, index, entry), apply(&mut new, index, entry));
            assert!(index == 1 || replies.0 == replies.1, "seed {seed}, {index}");
            if random.random_bool(0.2) {
                // The process ends, and goes on.
                new = fresh();
                assert!(matches!(new.recover().unwrap(), Recovered::Applied { .. }));
            }
        }
        drop(dropped);
        let own = |machine: &ShardMachine| -> Vec<Row> {
            let rows = state_of(machine).0.into_iter();
            rows.filter(|(row, _, _)| parse_head(row).unwrap().1 < at).collect()
        };
        assert_eq!(own(&new), own(&old), "seed {seed}");
        assert_eq!(others(&new), expected, "seed {seed}: nothing of the other part is touched");
    }
}

#[test]
fn copies_that_have_the_same_have_the_same_checksum_at_the_same_entry_and_no_others() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let checksum = |id: &'static [u8]| -> Bytes {
            let body = Body::Checksum(state::Checksum { id: Bytes::from_static(id) });
            state::Command { row: head(0, Token(0)).freeze(), body: Some(body) }.encode_to_vec().into()
        };
        let (engine, other) = (FaultyEngine::default(), FaultyEngine::default());
        let (mut leader, mut follower) = (machine(&engine), machine(&other));
        let entry = |random: &mut StdRng| -> Vec<Bytes> { (0..20).map(|_| command(random)).collect() };
        for at in 1..10 {
            apply(&mut leader, at, &entry(&mut random));
        }
        // One came by way of a snapshot, and looks later than the other.
        follower.restore(&mut leader.snapshot()).unwrap();
        let mut last = entry(&mut random);
        last.insert(7, checksum(b"first"));
        apply(&mut leader, 10, &last);
        apply(&mut follower, 10, &last);
        let sum = |machine: &ShardMachine, id: &[u8]| machine.moment(id).unwrap().sum().unwrap();
        let first = sum(&leader, b"first");
        let more = entry(&mut random);
        apply(&mut leader, 11, &more);
        apply(&mut follower, 11, &more);
        assert_eq!(sum(&follower, b"first"), first, "seed {seed}");
        assert_eq!(sum(&leader, b"first"), first, "seed {seed}: it is of that moment");
        assert!(leader.moment(b"second").is_none());
        let (row, version, _) =
            follower.view().scan(Range::prefix(&[]), Order::Ascending).next().unwrap().unwrap();
        assert!(version > 0);
        let mut damage = trimaran_storage::engine::Batch::default();
        damage.delete(Bytes::from([b"C", &row[..]].concat()));
        trimaran_storage::engine::Engine::write(&other, damage).unwrap();
        for machine in [&mut leader, &mut follower] {
            apply(machine, 12, &[checksum(b"second")]);
        }
        let dropped = leader.stats(parse_head(&row).unwrap().0).is_none();
        assert!(dropped || sum(&leader, b"second") != sum(&follower, b"second"), "seed {seed}");
    }
}

/// Likewise, where the partition was split, became one with what had been split off, and was split again elsewhere: the new copy
/// has never had the tokens that came back and went.
#[test]
fn a_copy_made_from_a_log_with_a_merge_between_two_splits_has_what_the_others_have() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let [low, high] = [random.random_range(1..20_u64), random.random_range(20..40_u64)];
        let [low, high] = [Token(low << 50), Token(high << 50)];
        let (here, there) = (FaultyEngine::default(), FaultyEngine::default());
        let mut old = machine(&there);
        let shared = Arc::new(Shared::new(Arc::new(here.clone())));
        let fresh = || {
            let machine = ShardMachine::new(Arc::clone(&shared), 1, Token(0), Token(low.0 - 1));
            machine.founded_with(Token(u64::MAX))
        };
        let mut new = fresh();
        assert!(matches!(new.recover().unwrap(), Recovered::Nothing));
        let told =
            state::Command { row: head(TABLE, Token(0)).freeze(), body: Some(Body::SetSchema(schema(21))) };
        let told = [Bytes::from(told.encode_to_vec())];
        apply(&mut old, 1, &told);
        apply(&mut new, 1, &told);
        let remember = || Remember { applied: Bytes::from_static(b"x"), ..Remember::default() };
        let mut right = None;
        for index in 2..60 {
            match index {
                20 => {
                    right = Some(old.split(high.0, 2, remember()).unwrap());
                    new.split_behind(high.0).unwrap();
                }
                30 => {
                    let mut behind = right.take().unwrap();
                    behind.freeze(true);
                    old.merge(&mut behind.snapshot(), 0).unwrap();
                    new.merge_behind(&mut behind.snapshot()).unwrap();
                }
                45 => {
                    right = Some(old.split(low.0, 3, remember()).unwrap());
                    new.split_behind(low.0).unwrap();
                }
                _ => {}
            }
            for machine in [&mut old, &mut new] {
                machine.commit(remember()).unwrap();
            }
            let entry = writes_and_transactions(&mut random);
            assert_eq!(
                apply(&mut old, index, &entry),
                apply(&mut new, index, &entry),
                "seed {seed}, {index}"
            );
            if let Some(right) = &mut right {
                apply(right, index, &writes_and_transactions(&mut random));
            }
            if random.random_bool(0.2) {
                // The process ends, and goes on.
                new = fresh();
                assert!(matches!(new.recover().unwrap(), Recovered::Applied { .. }));
            }
        }
        let own = |machine: &ShardMachine| -> Vec<Row> {
            let rows = state_of(machine).0.into_iter();
            rows.filter(|(row, _, _)| parse_head(row).unwrap().1 < low).collect()
        };
        assert_eq!(own(&new), own(&old), "seed {seed}");
        let all = new.view().scan(Range::prefix(&[]), Order::Ascending).map(Result::unwrap);
        assert_eq!(all.count(), own(&new).len(), "seed {seed}: nothing of others is here");
    }
}
