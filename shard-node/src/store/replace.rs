//! A copy that is replaced by a snapshot, or removed; and rows of dropped tables, which are swept.

use bytes::Bytes;
use trimaran_placement::token::Token;
use trimaran_proto::state::shard::{SnapshotHead, TableStats};
use trimaran_storage::engine::{Batch, Engine, Order, Range};

use super::beside::decode_schema;
use super::counts::{Counts, Stats};
use super::{Current, Row, StorageError, Store, damaged_row, in_space, keyed};
use crate::key::{parse_head, token_range};
use crate::keyspace::{self, Kind};

/// Rows removed with one batch when a copy is replaced.
const WIPE_ROWS: usize = 4096;

/// Removes at most `max` pairs of a range. Returns how many.
pub(super) fn remove_some(engine: &dyn Engine, range: &Range, max: usize) -> Result<usize, StorageError> {
    let mut batch = Batch::default();
    for pair in engine.scan(range.clone(), Order::Ascending).take(max) {
        batch.delete(pair?.0);
    }
    let removed = batch.len();
    engine.write(batch)?;
    Ok(removed)
}

/// Removes some rows of a table, or of an index, that was dropped in this range of tokens. Returns how many; 0 = none are
/// left.
pub fn sweep(
    engine: &dyn Engine,
    table: u64,
    tokens: (Token, Token),
    max: usize,
) -> Result<usize, StorageError> {
    for rows in keyspaces(engine, b'C', None) {
        let rows = rows?;
        if is_of(rows, table) {
            let removed = remove_some(engine, &in_space(b'C', &token_range(rows, tokens.0, tokens.1)), max)?;
            if removed > 0 {
                return Ok(removed);
            }
        }
    }
    Ok(0)
}

/// Whether rows are those of a table or of an index, or belong to that table.
pub(super) fn is_of(rows: u64, table: u64) -> bool {
    let removed = Kind::Removed.of(keyspace::table(table), keyspace::number(table));
    let is_of_index = keyspace::kind(table) == Some(Kind::Index) && rows == removed;
    rows == table || keyspace::table(rows) == table || is_of_index
}

/// What rows there are in a space, by their first eight bytes; all, or those of a kind.
pub(super) fn keyspaces(
    engine: &dyn Engine,
    space: u8,
    kind: Option<Kind>,
) -> impl Iterator<Item = Result<u64, StorageError>> + use<'_> {
    let mut next = Some(kind.map_or(0, |kind| kind.of(0, 0)));
    std::iter::from_fn(move || {
        let rest = Range::new(keyed(space, &[&next?.to_be_bytes()]), vec![space + 1]);
        let key = match engine.scan(rest, Order::Ascending).next()? {
            Ok((key, _)) => key,
            Err(error) => return Some(Err(error)),
        };
        let (id, _) = parse_head(&key[1..])?;
        next = id.checked_add(1);
        (kind.is_none() || keyspace::kind(id) == kind).then_some(Ok(id))
    })
}

impl Store {
    /// Begins to replace everything: durably noted, then everything is removed.
    pub fn begin_restore(&mut self) -> Result<(), StorageError> {
        let mut mark = Batch::default();
        mark.put(self.own(b'R', &[]), Bytes::new());
        self.engine.write(mark)?;
        self.engine.flush()?;
        self.restoring = true;
        self.wipe_rows(b'C')?;
        self.wipe_rows(b'H')?;
        self.aside = None;
        for space in *b"ADTXSPQ" {
            self.wipe(&self.own_range(space))?;
        }
        self.fresh.clear();
        self.batch = Batch::default();
        self.merging = None;
        self.pins.forget(self.history.len());
        self.history.clear();
        self.stats.clear();
        self.stats_changed.clear();
        self.dropped.clear();
        self.schemas.clear();
        self.intents.clear();
        self.shards.clear();
        self.answered.clear();
        Ok(())
    }

    /// Removes everything of this partition. Interrupted, it is to be called again.
    pub fn forget(&mut self) -> Result<(), StorageError> {
        self.read_tokens()?;
        self.begin_restore()?;
        self.wipe(&self.own_range(b'G'))?;
        let mut mark = Batch::default();
        mark.delete(self.own(b'R', &[]));
        self.engine.write(mark)?;
        self.engine.flush()
    }

    /// Takes over what a snapshot says beside the rows. The partition may have been split or merged since this copy was
    /// made.
    pub fn restore_head(&mut self, head: SnapshotHead) -> Result<(), StorageError> {
        let SnapshotHead { tables, dropped_tables: dropped, absorbed, schemas, .. } = head;
        let (first, last) = (Token(head.first_token), Token(head.last_token));
        self.version = head.state.map_or(0, |state| state.version);
        self.absorbed = absorbed;
        if self.shared.is_taken(self.partition) {
            self.give_up();
            return Ok(());
        }
        let mut batch = Batch::default();
        self.take(&mut batch)?;
        self.engine.write(batch)?;
        if (first, last) != (self.first, self.last) {
            (self.first, self.last, self.tokens_changed) = (first, last, true);
            // What was wiped before were the rows of the range that this copy had.
            self.wipe_rows(b'C')?;
            self.wipe_rows(b'H')?;
        }
        for TableStats { table, items, bytes, estimated } in tables {
            self.stats_changed.insert(table);
            self.stats.insert(table, Counts { stats: Stats { items, bytes }, is_estimated: estimated });
        }
        for table in dropped {
            self.drop_table(table);
        }
        for schema in schemas {
            self.set_schema(decode_schema(schema).ok_or_else(damaged_row)?);
        }
        self.forget_removals();
        Ok(())
    }

    /// Before the first command after a restore.
    pub fn end_restore(&mut self) -> Result<(), StorageError> {
        self.read_beside()
    }

    /// Writes rows of a snapshot at once.
    pub fn restore_rows(&mut self, rows: impl Iterator<Item = Row>) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        for (row, version, item) in rows {
            batch.put(keyed(b'C', &[&row]), Current::encode(version, &item));
        }
        let writing = self.shared.writing();
        if writing.contains(&self.partition) { Ok(()) } else { self.engine.write(batch) }
    }

    /// Removes this partition's part of a space of rows, of every table that has rows there.
    pub(super) fn wipe_rows(&self, space: u8) -> Result<(), StorageError> {
        if self.first > self.last {
            return Ok(());
        }
        for range in self.ranges(space, self.first, self.last, None) {
            let range = range?;
            loop {
                let writing = self.shared.writing();
                if writing.contains(&self.partition)
                    || remove_some(&*self.engine, &range, WIPE_ROWS)? < WIPE_ROWS
                {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Where rows of these tokens, both inclusive, are in a space, all or those of a kind: a range for each table that has
    /// any.
    pub(super) fn ranges(
        &self,
        space: u8,
        first: Token,
        last: Token,
        kind: Option<Kind>,
    ) -> impl Iterator<Item = Result<Range, StorageError>> + use<'_> {
        let ids = keyspaces(&*self.engine, space, kind);
        ids.map(move |id| Ok(in_space(space, &token_range(id?, first, last))))
    }

    pub(super) fn wipe(&self, range: &Range) -> Result<(), StorageError> {
        while remove_some(&*self.engine, range, WIPE_ROWS)? == WIPE_ROWS {}
        Ok(())
    }
}
