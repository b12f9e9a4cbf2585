//! What a partition of the database replicates: commands on rows, kept in the node's engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prost::Message as _;
use trimaran_placement::token::Token;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;
use trimaran_proto::state::shard::reply::Outcome;
use trimaran_replication::error::Stop;
use trimaran_replication::machine::{
    Committed, Machine, Persist, Recovered, Remember, Reply, SnapshotChunks,
};
use trimaran_storage::engine::{Order, Range};

use crate::index;
use crate::key::{parse_head, token_range};
use crate::keyspace::{self, Kind};
use crate::op::{self, change};
use crate::store::{self, Found, Row, Shared, Stats, Store, Stored, View};
use crate::stream::{self, Cause, Shard, ShardId};
use crate::transaction::apply;
use crate::verify::Moment;

/// Bytes of one chunk of a snapshot.
const CHUNK_BYTES: usize = 1 << 20;

/// The machine of one partition.
#[derive(Debug)]
pub struct ShardMachine {
    store: Store,
    is_frozen: bool,
    /// What a checksum is to be of, on this copy.
    moment: Option<Moment>,
    /// Where half of the bytes are on either side, as far as somebody here has looked; 0 = nobody has.
    middle: AtomicU64,
}

/// Stops this copy: what the disk says cannot be trusted.
pub(crate) fn stop(error: impl std::error::Error) -> Stop {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Stop::new(format!("{error}{cause}"))
}

impl ShardMachine {
    /// A partition of these tokens, both inclusive, whose rows are with those of the node's other partitions.
    pub fn new(shared: Arc<Shared>, partition: u64, first: Token, last: Token) -> Self {
        Self {
            store: Store::new(shared, partition, first, last),
            is_frozen: false,
            moment: None,
            middle: AtomicU64::new(0),
        }
    }

    /// One that, if it has nothing yet, may have to read a log that begins when the partition reached up to `founded_last`.
    #[must_use]
    pub fn founded_with(mut self, founded_last: Token) -> Self {
        self.store.found_with(founded_last);
        self
    }

    /// True if nothing is to be looked up here: another partition has the rows, or is about to.
    pub fn is_elsewhere(&self) -> bool {
        self.is_frozen || self.store.is_taken()
    }

    /// The rows as they are committed now.
    pub fn view(&self) -> View {
        self.store.view()
    }

    /// What a table counts here; `None` if it was dropped.
    pub fn stats(&self, table: u64) -> Option<Stats> {
        (!self.store.is_dropped(table)).then(|| self.store.stats(table))
    }

    /// Whether superseded versions of a table's items are kept here from now on.
    pub fn keeps_history(&self, table: u64) -> bool {
        self.store.keeps_history(table)
    }

    /// Tables of whose items superseded versions are here.
    pub fn with_history(&self) -> BTreeSet<u64> {
        let kinds = self.store.tables().into_iter().map(|stats| stats.table);
        kinds.filter(|rows| keyspace::kind(*rows) == Some(Kind::Past)).map(keyspace::table).collect()
    }

    /// Tables whose counts are estimated since a split: what is thought of each, and the rows that count.
    pub fn estimated(&self) -> (Vec<(u64, Stats)>, (Token, Token), View) {
        (self.store.estimated(), self.store.tokens(), self.store.view())
    }

    /// What there is, kind by kind, for somebody who looks at all of it.
    pub fn everything(&self) -> (Vec<u64>, (Token, Token), View) {
        let kinds = self.store.tables().into_iter().map(|stats| stats.table);
        (kinds.collect(), self.store.tokens(), self.store.view())
    }

    /// Notes where half of the bytes are on either side. Of this copy alone, and gone with a split or a merge.
    pub fn found_middle(&self, middle: Token) {
        self.middle.store(middle.0, Ordering::Relaxed);
    }

    /// True if a row belongs here.
    pub fn has_place_for(&self, row: &[u8]) -> bool {
        parse_head(row).is_some_and(|(_, token)| self.store.has_place_for(token))
    }

    /// What has a hold of rows, but transactions that are known not to be decided.
    pub fn held(&self, rows: &[Bytes], undecided: &[Bytes]) -> Result<Vec<state::Held>, Stop> {
        let mut found = Vec::new();
        if !self.store.is_free() {
            for row in rows {
                let is_open = |held: &state::Held| {
                    held.transaction.as_ref().is_none_or(|transaction| !undecided.contains(&transaction.id))
                };
                found.extend(apply::held(&self.store, row)?.filter(is_open));
            }
        }
        Ok(found)
    }

    /// What has a hold of items in a range of rows, likewise, or of entries of an index.
    pub fn held_within(&self, range: &Range, undecided: &[Bytes]) -> Result<Vec<state::Held>, Stop> {
        if self.store.is_free() {
            return Ok(Vec::new());
        }
        let Some((rows, first)) = parse_head(&range.start) else { return Ok(Vec::new()) };
        let table = keyspace::table(rows);
        let is_local = || {
            let schema = self.store.schema(table);
            let mut indexes = schema.iter().flat_map(|schema| &schema.indexes);
            indexes.any(|index| index.local && index.number == keyspace::number(rows))
        };
        // Entries of local indexes are written with their items, those of global ones have intents of their own.
        let of = match keyspace::kind(rows) {
            Some(Kind::Items) => 0,
            Some(Kind::Index) if is_local() => 0,
            Some(Kind::Index) => keyspace::number(rows),
            _ => return Ok(Vec::new()),
        };
        // All that stand with the tokens of the range: settling one more does no harm.
        let last =
            range.end.as_ref().and_then(|end| parse_head(end)).map_or(Token(u64::MAX), |(_, last)| last);
        let places = token_range(Kind::Intents.of(table, of), first, last);
        apply::held_within(&self.store, &places, undecided)
    }

    /// Not before anything was removed that had this row, see [`Store::removed`].
    pub fn removed(&self, row: &[u8]) -> u64 {
        self.store.removed(row)
    }

    /// Where rows of a kind are.
    pub fn rows_of(&self, kind: Kind) -> Result<Vec<Range>, Stop> {
        self.store.rows_of(kind).map_err(stop)
    }

    /// When the oldest of the intents was put down that transactions have beside a table's items; `None` = there is none.
    pub fn oldest_hold(&self, table: u64) -> Option<u64> {
        let (first, last) = self.store.tokens();
        let places = token_range(Kind::Intents.of(table, 0), first, last);
        self.store.intents(&places).map(|(_, current)| current.version).min()
    }

    /// Where what waits for a table's indexes is.
    pub fn waiting(&self, table: u64) -> Range {
        let (first, last) = self.store.tokens();
        token_range(Kind::Waiting.of(table, 0), first, last)
    }

    /// What this copy had when it came to where a checksum is asked of.
    pub fn moment(&self, id: &[u8]) -> Option<Moment> {
        self.moment.clone().filter(|moment| moment.is(id))
    }

    /// The version of the command applied last.
    pub fn version(&self) -> u64 {
        self.store.version()
    }

    /// Intents that were put down at this version, or before.
    pub fn holds_before(&self, version: u64) -> Result<Vec<state::Held>, Stop> {
        let all = Range { start: Bytes::new(), end: None };
        let held = apply::held_within(&self.store, &all, &[])?;
        Ok(held.into_iter().filter(|held| held.version <= version).collect())
    }

    /// Tables that were dropped, and the tokens that their rows are to be removed of.
    pub fn dropped(&self) -> (Vec<u64>, (Token, Token)) {
        (self.store.dropped(), self.store.tokens())
    }

    fn command(&mut self, payload: &Bytes) -> Result<state::Reply, Stop> {
        let command = state::Command::decode(payload.clone()).map_err(stop)?;
        let unknown = || Stop::new("a command of the database that this release does not know");
        let body = command.body.ok_or_else(unknown)?;
        if let Body::CorrectStats(correct) = &body {
            if self.store.tokens().1 == Token(correct.last_token) {
                self.store.correct(correct.table, correct.items, correct.bytes);
            }
            return Ok(state::Reply::default());
        }
        let (table, _) = parse_head(&command.row).ok_or_else(unknown)?;
        if !self.has_place_for(&command.row) {
            return Ok(op::reply(Outcome::WrongPartition));
        }
        let last = self.store.tokens().1;
        let version = self.store.version();
        let told = || Ok(state::Reply { last_token: Some(last.0), version, ..state::Reply::default() });
        if let Body::Checksum(checksum) = &body {
            self.moment = Some(Moment::of(&self.store, Bytes::copy_from_slice(&checksum.id)));
            return told();
        }
        if let Body::Advance(advance) = &body {
            self.store.follow(advance.at_least);
            return told();
        }
        if let Body::DropTable(drop) = &body {
            self.store.drop_table(drop.table);
            return told();
        }
        if let Body::SetSchema(schema) = body {
            self.store.set_schema(store::decode_schema(schema).ok_or_else(unknown)?);
            self.store.arrange_shards().map_err(stop)?;
            return told();
        }
        // A transaction goes on without an index that is dropped, and what it holds there is let go.
        let is_entry =
            matches!(body, Body::Prepare(_) | Body::Resolve(_)) && keyspace::kind(table) == Some(Kind::Index);
        if self.store.is_dropped(table) && !is_entry {
            return Ok(op::reply(Outcome::TableDropped));
        }
        // A copy: the row is a slice of the whole log entry, and may be kept for long.
        let row = Bytes::copy_from_slice(&command.row);
        match body {
            Body::Put(_) | Body::Update(_) | Body::Delete(_) => self.write(&row, body),
            Body::IndexWrite(write) => index::apply(&mut self.store, &row, write),
            Body::Trim(trim) => self.trim(&trim.rows),
            Body::Restamp(restamp) => {
                self.store.follow(restamp.at_least);
                change::restamp(&mut self.store, &row)?;
                Ok(op::reply(Outcome::Applied))
            }
            Body::Backfill(backfill) => {
                if !backfill.rows.iter().all(|row| self.has_place_for(row)) {
                    return Ok(op::reply(Outcome::Apart));
                }
                let held = change::backfill(&mut self.store, &backfill)?;
                if !held.is_empty() {
                    return Ok(state::Reply { held, ..op::reply(Outcome::Held) });
                }
                Ok(state::Reply { version: self.store.version(), ..op::reply(Outcome::Applied) })
            }
            Body::Expire(expire) => self.expire(&expire),
            Body::Transact(request) => match self.has_all(&request.actions, request.transaction.as_ref()) {
                true => apply::transact(&mut self.store, request),
                false => Ok(op::reply(Outcome::Apart)),
            },
            Body::Prepare(request) => match self.has_all(&request.actions, None) {
                true => apply::prepare(&mut self.store, request),
                false => Ok(op::reply(Outcome::Apart)),
            },
            Body::Decide(request) => apply::decide(&mut self.store, &row, request),
            Body::Resolve(request) => match keyspace::kind(table) {
                Some(Kind::Records) => apply::end(&mut self.store, &row),
                _ => apply::resolve(&mut self.store, &row, &request),
            },
            Body::DropTable(_)
            | Body::CorrectStats(_)
            | Body::SetSchema(_)
            | Body::Checksum(_)
            | Body::Advance(_) => Err(unknown()),
        }
    }

    /// A write to an item that nobody has a hold of.
    fn write(&mut self, row: &Bytes, body: Body) -> Result<state::Reply, Stop> {
        if let Some(held) = apply::held(&self.store, row)? {
            return Ok(apply::refuse_held(held));
        }
        let alone = match &body {
            Body::Put(put) => put.alone,
            Body::Update(update) => update.alone,
            Body::Delete(delete) => delete.alone,
            _ => false,
        };
        let evaluated = match body {
            Body::Put(put) => op::put_item::evaluate(&self.store, row, put)?,
            Body::Update(update) => op::update_item::evaluate(&self.store, row, update)?,
            Body::Delete(delete) => op::delete_item::evaluate(&self.store, row, delete)?,
            _ => return Err(Stop::new("no write to an item")),
        };
        if change::is_strong(&self.store, row)
            && (!alone || !change::entries(&self.store, row, &evaluated)?.changes.is_empty())
        {
            return Ok(op::reply(Outcome::Indexed));
        }
        change::carry_out(&mut self.store, row, evaluated, &Cause::Request)
    }

    /// Whether the rows of a transaction belong here, all of them.
    fn has_all(&self, actions: &[state::Action], transaction: Option<&state::Transaction>) -> bool {
        actions.iter().all(|action| self.has_place_for(&action.row))
            && transaction.is_none_or(|transaction| self.has_place_for(&transaction.record))
    }

    /// Removes rows that have done their duty, of those that are (still) here.
    fn trim(&mut self, rows: &[Bytes]) -> Result<state::Reply, Stop> {
        // Of each shard of a stream, the last change that is removed.
        let mut trimmed: BTreeMap<(u64, ShardId), (&Bytes, u64)> = BTreeMap::new();
        for row in rows {
            let here = self.has_place_for(row);
            let Some((table, _)) = parse_head(row).filter(|_| here) else { continue };
            let Some(found) = self.store.get(row).map_err(stop)? else { continue };
            let is_spent = match keyspace::kind(table) {
                // Who leads knows for how long a table's history is kept.
                Some(Kind::Waiting | Kind::Past) => true,
                Some(Kind::Removed) => index::is_spent(&found, self.store.version()),
                Some(Kind::Records) => apply::is_over(&found, self.store.version())?,
                Some(Kind::Changes) => stream::is_spent(row, self.store.version()),
                Some(Kind::Shards) => Shard::decode(row, &found.item.bytes)
                    .is_some_and(|shard| stream::is_over(&shard, self.store.version())),
                _ => false,
            };
            if is_spent
                && keyspace::kind(table) == Some(Kind::Changes)
                && let Some((shard, sequence)) = stream::place(row)
            {
                trimmed.insert((table, shard), (row, sequence.version));
            }
            if is_spent {
                self.store.set(&Bytes::copy_from_slice(row), Some(&found), None);
            }
        }
        for (row, version) in trimmed.into_values() {
            stream::note_trimmed(&mut self.store, row, version)?;
        }
        Ok(op::reply(Outcome::Applied))
    }

    /// Removes items whose time has come, but those that a transaction has a hold of.
    fn expire(&mut self, expire: &state::Expire) -> Result<state::Reply, Stop> {
        for row in &expire.rows {
            if !self.has_place_for(row) || apply::held(&self.store, row)?.is_some() {
                continue;
            }
            // A copy: the row is a slice of the whole log entry.
            let row = Bytes::copy_from_slice(row);
            let before = self.store.get(&row).map_err(stop)?;
            if op::expire::is_expired(&op::decode(before.as_ref())?, &expire.attribute, expire.now_s) {
                change::write(&mut self.store, &row, before.as_ref(), None, &Cause::Expiry)?;
            }
        }
        Ok(op::reply(Outcome::Applied))
    }
}

impl Machine for ShardMachine {
    const DURABLE: bool = true;

    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Reply>, Stop> {
        let mut replies = Vec::with_capacity(run.len());
        self.store.look_for_owner();
        for committed in run {
            self.store.begin(committed.stamp_ms);
            self.moment.take_if(|moment| moment.is_over(self.store.version()));
            let reply = self.command(committed.payload)?;
            let encoded = reply.encode_to_vec().into();
            replies.push(match reply.outcome() {
                Outcome::WrongPartition
                | Outcome::Held
                | Outcome::TooLate
                | Outcome::Apart
                | Outcome::Indexed => Reply::Elsewhere(encoded),
                _ => Reply::Done(encoded),
            });
        }
        Ok(replies)
    }

    fn tokens(&self) -> (u64, u64) {
        let (first, last) = self.store.tokens();
        (first.0, last.0)
    }

    fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    fn middle(&self) -> Option<u64> {
        Some(self.middle.load(Ordering::Relaxed)).filter(|&middle| middle != 0)
    }

    fn split(&mut self, at: u64, group: u64, remember: Remember) -> Result<Self, Stop> {
        let store = self.store.split(Token(at), group, &remember.applied, remember.answered);
        let store = store.map_err(stop)?;
        self.middle = AtomicU64::new(0);
        Ok(Self { store, is_frozen: false, moment: None, middle: AtomicU64::new(0) })
    }

    fn split_behind(&mut self, at: u64) -> Result<(), Stop> {
        self.store.give_aside(Token(at)).map_err(stop)
    }

    fn elsewhere(&self) -> Bytes {
        op::reply(Outcome::WrongPartition).encode_to_vec().into()
    }

    fn freeze(&mut self, frozen: bool) {
        self.is_frozen = frozen;
    }

    fn merge(&mut self, chunks: &mut SnapshotChunks, _passed_ms: u64) -> Result<(), Stop> {
        let (head, rows) = whole(chunks)?;
        self.middle = AtomicU64::new(0);
        self.store.merge(head, rows).map_err(stop)
    }

    fn merge_behind(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        let (head, rows) = whole(chunks)?;
        self.store.merge_behind(head, rows).map_err(stop)
    }

    fn commit(&mut self, remember: Remember) -> Result<(), Stop> {
        self.store.commit(&remember.applied, remember.answered, remember.forget_below).map_err(stop)
    }

    fn recover(&mut self) -> Result<Recovered, Stop> {
        Ok(match self.store.open().map_err(stop)? {
            Found::Nothing => Recovered::Nothing,
            Found::Interrupted => Recovered::Interrupted,
            Found::Committed { applied, answered } => Recovered::Applied { applied, answered },
        })
    }

    fn forget(&mut self) -> Result<(), Stop> {
        self.store.forget().map_err(stop)
    }

    fn persist(&self) -> Persist {
        let engine = Arc::clone(self.store.engine());
        Box::new(move || engine.flush().map_err(stop))
    }

    fn snapshot(&self) -> SnapshotChunks {
        let (first, last) = self.store.tokens();
        let tables = self.store.tables();
        let head = state::SnapshotHead {
            state: Some(state::PartitionState { version: self.store.version() }),
            first_token: first.0,
            last_token: last.0,
            tables: tables.clone(),
            dropped_tables: self.store.dropped(),
            partition: self.store.partition(),
            absorbed: self.store.absorbed().to_vec(),
            schemas: self.store.schemas().map(|table| store::encode_schema(table)).collect(),
        };
        let view = self.store.view();
        let rows = tables
            .into_iter()
            .flat_map(move |stats| view.scan(token_range(stats.table, first, last), Order::Ascending));
        Box::new(chunks(head, rows))
    }

    fn restore(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        self.store.begin_restore().map_err(stop)?;
        for chunk in chunks {
            let chunk = state::SnapshotChunk::decode(chunk?).map_err(stop)?;
            if let Some(head) = chunk.head {
                self.store.restore_head(head).map_err(stop)?;
            }
            self.store.restore_rows(chunk.rows.into_iter().map(row)).map_err(stop)?;
        }
        self.store.end_restore().map_err(stop)
    }
}

/// All of a snapshot that is small enough.
fn whole(chunks: &mut SnapshotChunks) -> Result<(state::SnapshotHead, Vec<Row>), Stop> {
    let (mut head, mut rows) = (None, Vec::new());
    for chunk in chunks {
        let chunk = state::SnapshotChunk::decode(chunk?).map_err(stop)?;
        head = head.or(chunk.head);
        rows.extend(chunk.rows.into_iter().map(row));
    }
    Ok((head.ok_or_else(|| Stop::new("a snapshot without its head"))?, rows))
}

fn row(row: state::Row) -> Row {
    (row.row, row.version, Stored { size: row.size, bytes: row.item })
}

fn chunks(
    head: state::SnapshotHead,
    rows: impl Iterator<Item = Result<Row, trimaran_storage::Error>> + Send,
) -> impl Iterator<Item = Result<Bytes, Stop>> + Send {
    let mut head = Some(head);
    let mut rows = rows.fuse();
    std::iter::from_fn(move || {
        let mut chunk = state::SnapshotChunk { head: head.take(), rows: Vec::new() };
        let mut bytes = 0;
        while bytes < CHUNK_BYTES {
            match rows.next() {
                Some(Ok((row, version, item))) => {
                    bytes += row.len() + item.bytes.len() + 32;
                    chunk.rows.push(state::Row { row, version, item: item.bytes, size: item.size });
                }
                Some(Err(error)) => return Some(Err(stop(error))),
                None => break,
            }
        }
        (chunk.head.is_some() || !chunk.rows.is_empty()).then(|| Ok(chunk.encode_to_vec().into()))
    })
}

#[cfg(test)]
mod tests;
