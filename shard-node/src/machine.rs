//! What a partition of the database replicates: commands on rows, kept in the node's engine.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use trimaran_placement::token::Token;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;
use trimaran_replication::error::Stop;
use trimaran_replication::machine::{
    Committed, Machine, Persist, Recovered, Remember, Reply, SnapshotChunks,
};
use trimaran_storage::engine::Order;

use crate::key::{parse_head, token_range};
use crate::op;
use crate::store::{Found, Row, Shared, Stats, Store, Stored, View};

/// Bytes of one chunk of a snapshot.
const CHUNK_BYTES: usize = 1 << 20;

/// The machine of one partition.
#[derive(Debug)]
pub struct ShardMachine {
    store: Store,
    is_frozen: bool,
}

/// Stops this copy: what the disk says cannot be trusted.
pub(crate) fn stop(error: impl std::error::Error) -> Stop {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Stop::new(format!("{error}{cause}"))
}

impl ShardMachine {
    /// A partition of these tokens, both inclusive, whose rows are with those of the node's other partitions.
    pub fn new(shared: Arc<Shared>, partition: u64, first: Token, last: Token) -> Self {
        Self { store: Store::new(shared, partition, first, last), is_frozen: false }
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

    /// Tables whose counts are estimated since a split: what is thought of each, and the rows that count.
    pub fn estimated(&self) -> (Vec<(u64, Stats)>, (Token, Token), View) {
        (self.store.estimated(), self.store.tokens(), self.store.view())
    }

    /// True if a row belongs here.
    pub fn has_place_for(&self, row: &[u8]) -> bool {
        let (first, last) = self.store.tokens();
        parse_head(row).is_some_and(|(_, token)| first <= token && token <= last)
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
        let (table, token) = parse_head(&command.row).ok_or_else(unknown)?;
        let (first, last) = self.store.tokens();
        if token < first || token > last {
            return Ok(op::reply(state::reply::Outcome::WrongPartition));
        }
        if let Body::DropTable(drop) = &body {
            self.store.drop_table(drop.table);
            return Ok(state::Reply { last_token: Some(last.0), ..state::Reply::default() });
        }
        if self.store.is_dropped(table) {
            return Ok(op::reply(state::reply::Outcome::TableDropped));
        }
        // A copy: the row is a slice of the whole log entry, and may be kept for long.
        let row = Bytes::copy_from_slice(&command.row);
        match body {
            Body::Put(put) => op::put_item::apply(&mut self.store, &row, put),
            Body::Update(update) => op::update_item::apply(&mut self.store, &row, update),
            Body::Delete(delete) => op::delete_item::apply(&mut self.store, &row, delete),
            Body::DropTable(_) | Body::CorrectStats(_) => Err(unknown()),
        }
    }
}

impl Machine for ShardMachine {
    const DURABLE: bool = true;

    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Reply>, Stop> {
        let mut replies = Vec::with_capacity(run.len());
        self.store.look_for_owner();
        for committed in run {
            self.store.begin(committed.stamp_ms);
            let reply = self.command(committed.payload)?;
            let encoded = reply.encode_to_vec().into();
            replies.push(match reply.outcome() {
                state::reply::Outcome::WrongPartition => Reply::Elsewhere(encoded),
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

    fn split(&mut self, at: u64, group: u64, remember: Remember) -> Result<Self, Stop> {
        let store = self.store.split(Token(at), group, &remember.applied, remember.answered);
        Ok(Self { store, is_frozen: false })
    }

    fn elsewhere(&self) -> Bytes {
        op::reply(state::reply::Outcome::WrongPartition).encode_to_vec().into()
    }

    fn freeze(&mut self, frozen: bool) {
        self.is_frozen = frozen;
    }

    fn merge(&mut self, chunks: &mut SnapshotChunks, _passed_ms: u64) -> Result<(), Stop> {
        let mut head = None;
        let mut rows = Vec::new();
        for chunk in chunks {
            let chunk = state::SnapshotChunk::decode(chunk?).map_err(stop)?;
            head = head.or(chunk.head);
            rows.extend(chunk.rows.into_iter().map(row));
        }
        self.store.merge(head.ok_or_else(|| Stop::new("a snapshot without its head"))?, rows);
        Ok(())
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
        Ok(())
    }
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
