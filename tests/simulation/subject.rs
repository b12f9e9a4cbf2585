//! What a simulated cluster replicates: journals in memory, or the database's own machine, whose rows are on a disk that loses
//! what was not flushed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trimaran_cluster::identity::Identity;
use trimaran_placement::token::Token;
use trimaran_proto::api::placement::Partition;
use trimaran_proto::state::shard as state;
use trimaran_replication::groups::Durable;
use trimaran_replication::machine::Machine;
use trimaran_shard_node::expression::codec::encode_update;
use trimaran_shard_node::expression::parse::{self, Placeholders};
use trimaran_shard_node::item::{Item, Value, decode_item, encode_item};
use trimaran_shard_node::key::{HEAD_BYTES, head};
use trimaran_shard_node::machine::ShardMachine;
use trimaran_shard_node::store::Shared;
use trimaran_storage::disk::Disk;
use trimaran_storage::engine::{Batch, Engine as _, Order, Range};
use trimaran_storage::faulty::FaultyDisk;
use trimaran_storage::faulty_engine::FaultyEngine;
use trimaran_storage::wal;

use crate::invariant::Watcher;
use crate::journal::{ELSEWHERE, Journal, token_of};

/// Smallest files of the log: it begins new ones all the time.
const SEGMENT_BYTES: u64 = 32 << 10;

/// What a node keeps beside its rows: who it is, its log and its snapshots.
pub(crate) type Kept = (Arc<dyn Disk>, Identity, Durable);

/// The disks of a place.
#[derive(Clone, Default)]
pub(crate) struct Disks {
    home: FaultyDisk,
    log: FaultyDisk,
    snapshots: FaultyDisk,
    rows: FaultyEngine,
    /// How often the power was lost.
    lives: u64,
}

impl Disks {
    /// What was not flushed is gone, or some of it.
    pub(crate) fn lose_power(&mut self, random: &mut StdRng) {
        for disk in [&self.home, &self.log, &self.snapshots] {
            disk.lose_power(|| random.random_bool(0.5));
        }
        self.rows.lose_power(random.random_range(0..20));
        // The life before has an engine that may still be written to; nobody sees that any more.
        let rows = FaultyEngine::default();
        let mut batch = Batch::default();
        for pair in self.rows.scan(Range::prefix(&[]), Order::Ascending) {
            let (key, value) = pair.unwrap();
            batch.put(key, value);
        }
        rows.write(batch).unwrap();
        rows.flush().unwrap();
        self.rows = rows;
        self.lives += 1;
    }

    /// Who lives here, and what it kept.
    pub(crate) fn open(&self, seed: u64) -> Result<Kept, Box<dyn std::error::Error>> {
        let home: Arc<dyn Disk> = Arc::new(self.home.clone());
        let mut random = StdRng::seed_from_u64(seed);
        let identity = Identity::load(&*home, &self.lives.to_string(), &mut random)?;
        let options = wal::Options { segment_bytes: SEGMENT_BYTES, ..wal::Options::default() };
        let durable = Durable::open(Arc::new(self.log.clone()), Arc::new(self.snapshots.clone()), options)?;
        Ok((home, identity, durable))
    }

    /// The rows of all partitions.
    pub(crate) fn rows(&self) -> Arc<Shared> {
        Arc::new(Shared::new(Arc::new(self.rows.clone())))
    }
}

/// A machine that texts are written to.
pub(crate) trait Subject: Machine + Sized {
    /// True if nodes keep what they have; else a crash takes the node for good.
    const HAS_DISKS: bool;

    /// The machine of a partition.
    fn of(rows: &Arc<Shared>, partition: &Partition) -> Self;

    /// The command that writes a text.
    fn command(text: &str) -> Bytes;

    /// True if a text was written with this reply.
    fn is_written(reply: &[u8]) -> bool;

    /// True if another partition has everything, or is about to.
    fn is_frozen(&self) -> bool;

    /// Shows the watcher of the partition what must hold at any time.
    fn see(&self, replica: u64, watcher: &mut Watcher) -> Result<(), String>;

    /// What must hold at the end: every acknowledged text is there exactly once, every other at most once.
    fn at_the_end(&self, watcher: &Watcher, acknowledged: &[String]) -> Result<(), String>;
}

impl Subject for Journal {
    const HAS_DISKS: bool = false;

    fn of(_rows: &Arc<Shared>, partition: &Partition) -> Self {
        Self::of(partition.first_token, partition.last_token)
    }

    fn command(text: &str) -> Bytes {
        Bytes::from(text.to_owned())
    }

    fn is_written(reply: &[u8]) -> bool {
        reply != ELSEWHERE.as_bytes()
    }

    fn is_frozen(&self) -> bool {
        self.is_frozen()
    }

    fn see(&self, replica: u64, watcher: &mut Watcher) -> Result<(), String> {
        watcher.see_journal(replica, self)
    }

    fn at_the_end(&self, watcher: &Watcher, acknowledged: &[String]) -> Result<(), String> {
        if !self.adds_up() {
            return Err("its accounts are not what was transferred".to_owned());
        }
        watcher.at_the_end(acknowledged)
    }
}

/// The table that texts are counted in, one row each.
const TABLE: u64 = 7;

impl Subject for ShardMachine {
    const HAS_DISKS: bool = true;

    fn of(rows: &Arc<Shared>, partition: &Partition) -> Self {
        Self::new(Arc::clone(rows), partition.id, Token(partition.first_token), Token(partition.last_token))
    }

    fn command(text: &str) -> Bytes {
        let mut row = head(TABLE, token_of(text));
        row.extend_from_slice(text.as_bytes());
        let one = (":one".to_owned(), Value::N("1".parse().unwrap()));
        let mut placeholders = Placeholders::new(Default::default(), [one].into());
        let update = parse::update("ADD n :one", &mut placeholders).unwrap();
        let mut key = bytes::BytesMut::new();
        encode_item(&Item::new(), &mut key);
        let update =
            state::Update { key: key.freeze(), update: encode_update(&update), ..state::Update::default() };
        let body = Some(state::command::Body::Update(update));
        state::Command { row: row.freeze(), body }.encode_to_vec().into()
    }

    fn is_written(reply: &[u8]) -> bool {
        state::Reply::decode(reply).unwrap().outcome() == state::reply::Outcome::Applied
    }

    fn is_frozen(&self) -> bool {
        self.is_elsewhere()
    }

    fn see(&self, _replica: u64, _watcher: &mut Watcher) -> Result<(), String> {
        Ok(())
    }

    fn at_the_end(&self, _watcher: &Watcher, acknowledged: &[String]) -> Result<(), String> {
        let mut counts: BTreeMap<String, String> = BTreeMap::new();
        for row in self.view().scan(Range::prefix(&[]), Order::Ascending) {
            let (row, _, mut stored) = row.map_err(|error| error.to_string())?;
            if self.has_place_for(&row) {
                let item = decode_item(&mut stored.bytes).map_err(|error| error.to_string())?;
                let text = String::from_utf8_lossy(&row[HEAD_BYTES..]).into_owned();
                counts.insert(text, format!("{:?}", item.get("n")));
            }
        }
        let once = format!("{:?}", Some(Value::N("1".parse().unwrap())));
        if let Some((text, count)) = counts.iter().find(|(_, count)| **count != once) {
            return Err(format!("{text} was applied {count} times"));
        }
        match acknowledged.iter().find(|text| !counts.contains_key(*text)) {
            Some(lost) => Err(format!("{lost} was acknowledged and is gone")),
            None => Ok(()),
        }
    }
}
