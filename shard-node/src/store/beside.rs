//! What is kept beside items: what follows from writes to tables, what waits for indexes, intents of transactions.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes};
use prost::Message as _;
use trimaran_proto::state::shard::SetSchema;
use trimaran_storage::engine::{Order, Range};

use super::{Current, StorageError, Store, damaged_row, keyspace};
use crate::key::parse_head;
use crate::keyspace::Kind;
use crate::table::Table;

/// Kinds of rows whose last removal is told apart.
pub(super) const REMOVED_KINDS: usize = 256;

/// Which of them a row is of.
pub(super) fn removed_kind(row: &[u8]) -> usize {
    row.iter().fold(0_usize, |hash, &byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % REMOVED_KINDS
}

/// A range of a space as one of rows.
fn without_space(range: &Range) -> Range {
    Range { start: range.start.slice(1..), end: range.end.as_ref().map(|end| end.slice(1..)) }
}

/// What follows from writes to a table, from the log.
pub(crate) fn decode_schema(schema: SetSchema) -> Option<Table> {
    Table::decode(schema.table, schema.revision)
}

/// Likewise for the log.
pub(crate) fn encode_schema(table: &Table) -> SetSchema {
    SetSchema { table: table.encode(), revision: table.revision }
}

impl Store {
    /// What follows from writes to a table, if anything does.
    pub fn schema(&self, table: u64) -> Option<&Arc<Table>> {
        self.schemas.get(&table)
    }

    /// Whether a row is an item whose superseded versions are to be kept.
    pub fn has_history(&self, row: &[u8]) -> bool {
        parse_head(row).is_some_and(|(rows, _)| self.keeps_history(rows))
    }

    /// Whether that is so of a table's items.
    pub fn keeps_history(&self, table: u64) -> bool {
        let schema = self.schemas.get(&table);
        schema.is_some_and(|schema| schema.history.is_some_and(|history| !history.ends))
    }

    /// Says what follows from writes to a table, unless something newer was said.
    pub fn set_schema(&mut self, table: Table) {
        let (id, known) = (table.id, self.schemas.get(&table.id));
        if self.is_dropped(id) || known.is_some_and(|known| known.revision >= table.revision) {
            return;
        }
        self.batch.put(self.own(b'S', &id.to_be_bytes()), encode_schema(&table).encode_to_vec());
        self.schemas.insert(id, Arc::new(table));
    }

    /// All that is known of what follows from writes.
    pub fn schemas(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.schemas.values()
    }

    /// Where the command that was begun puts what waits for indexes beside an item; another place each time.
    pub fn next_waiting(&mut self, row: &[u8]) -> Option<Bytes> {
        let (table, token) = parse_head(row)?;
        let mut next = crate::key::head(Kind::Waiting.of(keyspace::table(table), 0), token);
        next.put_u64(self.version);
        next.put_u16(self.waiting);
        self.waiting += 1;
        self.is_waiting = true;
        Some(next.freeze())
    }

    /// The intents of transactions in a range of rows.
    pub fn intents(&self, range: &Range) -> impl Iterator<Item = (&Bytes, &Current)> {
        let end = range.end.clone().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let is_empty = range.is_empty();
        let found =
            (!is_empty).then(|| self.intents.range((std::ops::Bound::Included(range.start.clone()), end)));
        found.into_iter().flatten()
    }

    /// The intent at a row of intents.
    pub fn intent(&self, row: &[u8]) -> Option<&Current> {
        self.intents.get(row)
    }

    /// True if no transaction has a hold of anything.
    pub fn is_free(&self) -> bool {
        self.intents.is_empty()
    }

    /// Not before anything was removed that had this row: as new as that, or newer.
    pub fn removed(&self, row: &[u8]) -> u64 {
        self.removed[removed_kind(row)]
    }

    pub(super) fn forget_removals(&mut self) {
        *self.removed = [self.version; REMOVED_KINDS];
    }

    /// Reads what of it is in memory.
    pub(super) fn read_beside(&mut self) -> Result<(), StorageError> {
        self.intents.clear();
        self.shards.clear();
        if self.first > self.last {
            return Ok(());
        }
        let mut found = Vec::new();
        for kind in [Kind::Intents, Kind::Shards] {
            for range in self.ranges(b'C', self.first, self.last, Some(kind)) {
                for pair in self.engine.scan(range?, Order::Ascending) {
                    let (key, stored) = pair?;
                    found.push((key.slice(1..), Current::decode(&stored).ok_or_else(damaged_row)?));
                }
            }
        }
        found.into_iter().for_each(|(row, current)| self.remember(&row, current));
        self.read_beside_aside()
    }

    /// Keeps in mind what is in the engine, if it is of what is in memory.
    pub(super) fn remember(&mut self, row: &Bytes, current: Current) {
        match parse_head(row).and_then(|(rows, _)| keyspace::kind(rows)) {
            Some(Kind::Intents) => {
                self.intents.insert(row.clone(), current);
            }
            Some(Kind::Shards) => self.remember_shard(row, Some(&current.item.bytes)),
            _ => {}
        }
    }

    /// Where rows of a kind are that this partition has: a range for each table that has any.
    pub fn rows_of(&self, kind: Kind) -> Result<Vec<Range>, StorageError> {
        if self.first > self.last {
            return Ok(Vec::new());
        }
        let ranges = self.ranges(b'C', self.first, self.last, Some(kind));
        ranges.map(|range| range.map(|range| without_space(&range))).collect()
    }
}
