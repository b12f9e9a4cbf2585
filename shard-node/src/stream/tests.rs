//! Partitions that are split, merged, copied and opened again while items change: every change is in the stream once, and
//! whoever reads shards after their parents has the changes of each item in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trimaran_placement::token::Token;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::action::What;
use trimaran_proto::state::shard::command::Body;
use trimaran_replication::machine::{Committed, Machine as _, Recovered, Remember, SnapshotChunks};
use trimaran_storage::engine::{Order, Range};
use trimaran_storage::faulty_engine::FaultyEngine;

use super::*;
use crate::item::{Type, Value};
use crate::machine::ShardMachine;
use crate::store::{Shared, encode_schema, version_at};
use crate::table::{KeyAttribute, StreamStatus, StreamView};

const TABLE: u64 = 6;
const ITEMS: u8 = 30;

fn table(view: StreamView) -> Table {
    let key = KeyAttribute { name: "id".to_owned(), kind: Type::N };
    let mut table = Table { id: TABLE, revision: 1, ..Table::new("t".to_owned(), key, None) };
    table.begin_stream(view, 1);
    table
}

fn number(value: u64) -> Value {
    Value::N(value.to_string().parse().unwrap())
}

fn row(item: u8) -> Bytes {
    let mut row = head(TABLE, Token(u64::from(item) << 56));
    row.extend_from_slice(&[item]);
    row.freeze()
}

fn image(item: u8, value: u64) -> Stored {
    encode(&Item::from([("id".to_owned(), number(item.into())), ("value".to_owned(), number(value))]))
}

fn put(item: u8, value: u64) -> state::Put {
    let stored = image(item, value);
    state::Put { item: stored.bytes, size: stored.size, ..state::Put::default() }
}

/// What an item was and is.
type Step = (Option<Bytes>, Option<Bytes>);

struct World {
    random: StdRng,
    shared: Arc<Shared>,
    /// In the order of their tokens.
    parts: Vec<ShardMachine>,
    ids: Vec<u64>,
    next_partition: u64,
    now_ms: u64,
    items: BTreeMap<u8, Bytes>,
    expected: BTreeMap<u8, Vec<Step>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let shared = Arc::new(Shared::new(Arc::new(FaultyEngine::default())));
        let mut first = ShardMachine::new(Arc::clone(&shared), 1, Token(0), Token(u64::MAX));
        assert!(matches!(first.recover().unwrap(), Recovered::Nothing));
        Self {
            random: StdRng::seed_from_u64(seed),
            shared,
            parts: vec![first],
            ids: vec![1],
            next_partition: 2,
            now_ms: 1_000_000,
            items: BTreeMap::new(),
            expected: BTreeMap::new(),
        }
    }

    fn part_of(&self, item: u8) -> usize {
        let row = row(item);
        self.parts.iter().position(|part| part.has_place_for(&row)).unwrap()
    }

    fn apply(&mut self, part: usize, row: Bytes, body: Body) -> state::Reply {
        self.now_ms += self.random.random_range(0..3);
        let payload: Bytes = state::Command { row, body: Some(body) }.encode_to_vec().into();
        let committed = Committed { stamp_ms: self.now_ms, passed_ms: 0, payload: &payload };
        let replies = self.parts[part].apply(&[committed]).unwrap();
        self.parts[part]
            .commit(Remember { applied: Bytes::from_static(b"x"), ..Remember::default() })
            .unwrap();
        let reply = replies.into_iter().next().unwrap().into_bytes();
        state::Reply::decode(reply).unwrap()
    }

    fn tell(&mut self, table: &Table) {
        for part in 0..self.parts.len() {
            let at = head(TABLE, Token(self.parts[part].tokens().0)).freeze();
            self.apply(part, at, Body::SetSchema(encode_schema(table)));
        }
    }

    fn expect(&mut self, item: u8, after: Option<Bytes>) {
        let before = match &after {
            Some(after) => self.items.insert(item, after.clone()),
            None => self.items.remove(&item),
        };
        if before != after {
            self.expected.entry(item).or_default().push((before, after));
        }
    }

    fn write(&mut self) {
        let item = self.random.random_range(0..ITEMS);
        let part = self.part_of(item);
        // Few values, so that some writes change nothing.
        let value = self.random.random_range(0..4);
        match self.random.random_range(0..4) {
            0 => {
                self.apply(part, row(item), Body::Delete(state::Delete::default()));
                self.expect(item, None);
            }
            1 => {
                let others = (0..ITEMS).filter(|&other| other != item && self.part_of(other) == part);
                let others: Vec<u8> = others.take(2).collect();
                let mut actions =
                    vec![state::Action { row: row(item), what: Some(What::Put(put(item, value))) }];
                actions.extend(others.iter().map(|&other| state::Action {
                    row: row(other),
                    what: Some(What::Delete(state::Delete::default())),
                }));
                self.apply(part, row(item), Body::Transact(state::Transact { transaction: None, actions }));
                self.expect(item, Some(image(item, value).bytes));
                others.into_iter().for_each(|other| self.expect(other, None));
            }
            _ => {
                self.apply(part, row(item), Body::Put(put(item, value)));
                self.expect(item, Some(image(item, value).bytes));
            }
        }
    }

    fn split(&mut self) {
        let part = self.random.random_range(0..self.parts.len());
        let (first, last) = self.parts[part].tokens();
        let at = self.random.random_range(0..ITEMS);
        let at = u64::from(at) << 56;
        if at <= first || at > last {
            return;
        }
        let applied = Bytes::from_static(b"x");
        let remember = Remember { applied: applied.clone(), ..Remember::default() };
        let right = self.parts[part].split(at, self.next_partition, remember).unwrap();
        self.parts[part].commit(Remember { applied, ..Remember::default() }).unwrap();
        self.parts.insert(part + 1, right);
        self.ids.insert(part + 1, self.next_partition);
        self.next_partition += 1;
    }

    fn merge(&mut self) {
        if self.parts.len() < 2 {
            return;
        }
        let part = self.random.random_range(1..self.parts.len());
        let mut behind = self.parts.remove(part);
        self.ids.remove(part);
        behind.freeze(true);
        let left = &mut self.parts[part - 1];
        left.merge(&mut behind.snapshot(), 0).unwrap();
        left.commit(Remember { applied: Bytes::from_static(b"x"), ..Remember::default() }).unwrap();
        behind.forget().unwrap();
    }

    /// The process ends, and another one goes on; or a copy takes the place of one.
    fn open_again(&mut self) {
        let part = self.random.random_range(0..self.parts.len());
        let (first, last) = self.parts[part].tokens();
        let id = self.next_partition;
        if self.random.random_bool(0.5) {
            let chunks: Vec<_> = self.parts[part].snapshot().collect();
            let elsewhere = Arc::new(Shared::new(Arc::new(FaultyEngine::default())));
            let mut copy = ShardMachine::new(elsewhere, id, Token(first), Token(last));
            copy.restore(&mut (Box::new(chunks.clone().into_iter()) as SnapshotChunks)).unwrap();
            copy.commit(Remember { applied: Bytes::from_static(b"x"), ..Remember::default() }).unwrap();
            let back: Vec<_> = copy.snapshot().collect();
            // The chunks of the snapshots are the same but for the name of the partition.
            assert_eq!(back.len(), chunks.len());
            self.parts[part].restore(&mut (Box::new(back.into_iter()) as SnapshotChunks)).unwrap();
            self.parts[part]
                .commit(Remember { applied: Bytes::from_static(b"x"), ..Remember::default() })
                .unwrap();
        }
        let mut again =
            ShardMachine::new(Arc::clone(&self.shared), self.ids[part], Token(first), Token(last));
        assert!(matches!(again.recover().unwrap(), Recovered::Applied { .. }));
        self.parts[part] = again;
    }

    fn step(&mut self) {
        match self.random.random_range(0..40) {
            0 | 1 => self.split(),
            2 | 3 => self.merge(),
            4 => self.open_again(),
            _ => self.write(),
        }
    }

    /// The shards of a stream, parents first, each with its changes.
    fn read(&self, stream: u32) -> Vec<(Shard, Vec<(Sequence, state::Change)>)> {
        let mut found = Vec::new();
        for part in &self.parts {
            let (first, last) = part.tokens();
            let view = part.view();
            let range = crate::key::token_range(Kind::Shards.of(TABLE, stream), Token(first), Token(last));
            for row in view.scan(range, Order::Ascending) {
                let (row, _, stored) = row.unwrap();
                let shard = Shard::decode(&row, &stored.bytes).unwrap();
                let changes = view.scan(shard.id.changes(TABLE, stream, None), Order::Ascending);
                let changes = changes.map(|change| {
                    let (row, _, stored) = change.unwrap();
                    let (of, sequence) = place(&row).unwrap();
                    assert_eq!(of, shard.id);
                    (sequence, state::Change::decode(stored.bytes).unwrap())
                });
                found.push((shard, changes.collect()));
            }
        }
        found.sort_by_key(|(shard, _)| shard.id);
        found
    }

    fn check(&self, seed: u64) {
        let shards = self.read(1);
        let mut seen: BTreeSet<ShardId> = BTreeSet::new();
        let mut told: BTreeMap<u8, Vec<Step>> = BTreeMap::new();
        let mut writes: BTreeMap<Bytes, (u32, u32)> = BTreeMap::new();
        for (shard, changes) in &shards {
            assert!(shard.parent.is_none_or(|parent| seen.contains(&parent)), "seed {seed}: {shard:?}");
            assert!(seen.insert(shard.id), "seed {seed}: {shard:?} is there twice");
            for (sequence, change) in changes {
                assert!(shard.id.begun <= sequence.version, "seed {seed}");
                assert!(shard.ended.is_none_or(|ended| sequence.version <= ended), "seed {seed}");
                if !change.transaction.is_empty() {
                    let (found, _) = writes.entry(change.transaction.clone()).or_insert((0, change.writes));
                    *found += 1;
                }
                if change.event() == Event::Unchanged {
                    continue;
                }
                let image = change.new_image.as_ref().or(change.old_image.as_ref()).unwrap();
                let item = item::decode_item(&mut image.clone()).unwrap();
                let Value::N(id) = &item["id"] else { panic!() };
                let id: u8 = id.to_string().parse().unwrap();
                let token = parse_head(&row(id)).unwrap().1;
                assert!(shard.id.first <= token && token <= shard.last, "seed {seed}");
                told.entry(id).or_default().push((change.old_image.clone(), change.new_image.clone()));
            }
        }
        assert_eq!(told, self.expected, "seed {seed}");
        assert!(writes.values().all(|(found, all)| found == all), "seed {seed}: {writes:?}");
        // Shards that go on have every token once.
        let mut open: Vec<_> = shards.iter().filter(|(shard, _)| shard.ended.is_none()).collect();
        open.sort_by_key(|(shard, _)| shard.id.first);
        let mut next = Some(0);
        for (shard, _) in open {
            assert_eq!(Some(shard.id.first.0), next, "seed {seed}");
            next = shard.last.0.checked_add(1);
        }
        assert_eq!(next, None, "seed {seed}");
    }
}

#[test]
fn every_change_is_told_once_and_in_order_wherever_its_item_goes() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        world.tell(&table(StreamView::NewAndOldImages));
        for _ in 0..600 {
            world.step();
        }
        world.check(seed);
    }
}

#[test]
fn partitions_that_are_merged_before_one_of_them_knew_of_the_stream_have_all_of_it() {
    for knows in [0, 1] {
        let mut world = World::new(7);
        while world.parts.len() != 2 {
            world.split();
        }
        let at = head(TABLE, Token(world.parts[knows].tokens().0)).freeze();
        world.apply(knows, at, Body::SetSchema(encode_schema(&table(StreamView::NewAndOldImages))));
        world.merge();
        for _ in 0..100 {
            world.write();
        }
        world.check(7);
    }
}

#[test]
fn a_stream_that_is_ended_has_nothing_more_and_the_next_one_is_another() {
    let mut world = World::new(3);
    let mut table = table(StreamView::KeysOnly);
    world.tell(&table);
    world.apply(0, row(1), Body::Put(put(1, 1)));
    table.streams[0].status = StreamStatus::Disabling;
    table.revision = 2;
    world.tell(&table);
    world.apply(0, row(1), Body::Put(put(1, 2)));
    table.begin_stream(StreamView::NewImage, 2);
    table.revision = 3;
    world.tell(&table);
    world.apply(0, row(1), Body::Put(put(1, 3)));
    let [(ended, first), (open, second)] = [world.read(1), world.read(2)].map(|mut shards| {
        assert_eq!(shards.len(), 1);
        shards.remove(0)
    });
    assert!(ended.ended.is_some() && open.ended.is_none());
    let key = encode(&Item::from([("id".to_owned(), number(1))])).bytes;
    let told = |changes: &[(Sequence, state::Change)]| -> Vec<_> {
        let parts = |(_, change): &(_, state::Change)| {
            (change.key.clone(), change.old_image.clone(), change.new_image.clone())
        };
        changes.iter().map(parts).collect()
    };
    assert_eq!(told(&first), [(key, None, None)]);
    assert_eq!(told(&second), [(Bytes::new(), None, Some(image(1, 3).bytes))]);
}

#[test]
fn what_is_older_than_a_day_is_removed_and_it_is_known_that_something_is_missing() {
    let mut world = World::new(5);
    let mut table = table(StreamView::NewAndOldImages);
    world.tell(&table);
    for value in 0..10 {
        world.apply(0, row(1), Body::Put(put(1, value)));
    }
    let rows = |world: &World| -> Vec<Bytes> {
        let all = world.parts[0].view().scan(Range::prefix(&[]), Order::Ascending).map(|row| row.unwrap().0);
        all.filter(|row| keyspace::kind(parse_head(row).unwrap().0) != Some(Kind::Items)).collect()
    };
    let trim = |world: &mut World| {
        let rows = rows(world);
        world.apply(0, row(0), Body::Trim(state::Trim { rows }));
    };
    // Nothing is old yet, and a shard that goes on is never removed.
    trim(&mut world);
    assert_eq!(world.read(1)[0].1.len(), 10);
    let last = world.read(1)[0].1.last().unwrap().0;
    // A day and a little.
    world.now_ms += STREAM_KEPT.as_millis() as u64 + 1000;
    world.apply(0, row(1), Body::Put(put(1, 10)));
    trim(&mut world);
    let (shard, changes) = world.read(1).remove(0);
    assert_eq!((shard.trimmed, changes.len()), (last.version, 1));
    assert!(!is_over(&shard, version_at(world.now_ms)));
    table.streams[0].status = StreamStatus::Disabling;
    table.revision = 2;
    world.tell(&table);
    trim(&mut world);
    assert_eq!(rows(&world).len(), 2);
    world.now_ms += STREAM_KEPT.as_millis() as u64 + 1000;
    trim(&mut world);
    assert_eq!(rows(&world), Vec::<Bytes>::new());
}

#[test]
fn sequence_numbers_and_shard_ids_are_those_of_version_1_and_sort_as_they_are_told() {
    let sequence = Sequence { version: 0x0123_4567_89ab_cdef, place: 3 };
    assert_eq!(sequence.to_string(), "5373003642731685150723");
    assert_eq!(Sequence::parse(&sequence.to_string()), Some(sequence));
    let early = Sequence { version: 1, place: 0 };
    assert_eq!(early.to_string(), "000000000000000065536");
    assert_eq!(Sequence::parse("000000000000000065536"), Some(early));
    assert_eq!(Sequence { version: 1, place: u16::MAX }.next(), Sequence { version: 2, place: 0 });
    for text in ["", "65536", "00000000000000006553x", "99999999999999999999999999999999999999999"] {
        assert_eq!(Sequence::parse(text), None, "{text}");
    }
    let id = ShardId { begun: 77, first: Token(255) };
    assert_eq!(id.to_string(), "shardId-00000000000000000077-00000000000000ff");
    assert_eq!(ShardId::parse(&id.to_string()), Some(id));
    assert_eq!(ShardId::parse("shardId-1"), None);
}
