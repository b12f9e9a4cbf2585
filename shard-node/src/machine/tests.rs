//! A machine against its own log: whatever the power takes, applying the log again from where the disk says gives the
//! same rows and the same replies; and so does a snapshot.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trimaran_storage::engine::Range;
use trimaran_storage::faulty_engine::FaultyEngine;

use super::*;
use crate::expression::codec::{encode_condition, encode_update};
use crate::expression::parse::{self, Placeholders};
use crate::item::{Item, Value};
use crate::key::head;
use crate::op::encode;

const TABLE: u64 = 4;

fn machine(engine: &FaultyEngine) -> ShardMachine {
    ShardMachine::new(Arc::new(engine.clone()), 1, Token(0), Token(u64::MAX))
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
        _ => Body::Delete(state::Delete::default()),
    };
    state::Command { row: row(random.random_range(0..40)), body: Some(body) }.encode_to_vec().into()
}

fn apply(machine: &mut ShardMachine, index: u64, entry: &[Bytes]) -> Vec<Bytes> {
    let run: Vec<_> = entry.iter().map(|payload| Committed { stamp_ms: index * 10, payload }).collect();
    let replies = machine.apply(&run).unwrap();
    let answered = vec![(index, Bytes::from(format!("answered {index}")))];
    let applied = Bytes::from(index.to_be_bytes().to_vec());
    machine.commit(Remember { applied, answered, forget_below: index.saturating_sub(10) }).unwrap();
    replies
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
    machine.apply(&[Committed { stamp_ms: 1, payload: &payload }]).unwrap();
    assert!(machine.commit(Remember::default()).is_err());
    let unknown = Bytes::from_static(b"\xff\xff");
    assert!(machine.apply(&[Committed { stamp_ms: 1, payload: &unknown }]).is_err());
}
