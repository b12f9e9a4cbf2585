//! How a partition's rows become another one's, on a node that may have a copy of either, of both, or of none.
//!
//! The rows come with the log of the partition that takes them; what a copy of the other one has here may be older, and that
//! copy may still be at work. So who takes rows says so first, to those that run and on disk, and whoever finds that its rows
//! are taken writes none any more.

use std::collections::HashMap;

use bytes::Bytes;
use trimaran_placement::token::Token;
use trimaran_proto::state::shard::{SnapshotHead, TableStats};
use trimaran_storage::engine::{Batch, Order};

use super::{Current, Row, StorageError, Store, keyed};
use crate::key::parse_head;

/// The range of a partition that has no tokens.
const NONE: (Token, Token) = (Token(1), Token(0));

/// Partitions that became part of one and are remembered: as many as may still have a replica here that is behind.
const ABSORBED_KEPT: usize = 64;

/// The rows of another partition, and its tokens, both inclusive.
pub(super) struct Merging {
    first: Token,
    last: Token,
    rows: Vec<Row>,
}

impl Store {
    /// True if another partition has the rows by now.
    pub fn is_taken(&self) -> bool {
        self.first > self.last || self.shared.is_taken(self.partition)
    }

    /// Gives the tokens up if another partition has the rows by now.
    pub fn look_for_owner(&mut self) {
        if self.shared.is_taken(self.partition) {
            self.give_up();
        }
    }

    pub(super) fn give_up(&mut self) {
        ((self.first, self.last), self.tokens_changed) = (NONE, true);
        self.batch = Batch::default();
        self.fresh.clear();
        self.intents.clear();
        self.shards.clear();
    }

    /// Takes over everything of the partition behind, with the batch of the next [`Store::commit`].
    pub fn merge(&mut self, behind: SnapshotHead, rows: Vec<Row>) -> Result<(), StorageError> {
        let rows = self.learn(&behind, rows);
        for &TableStats { table, items, bytes, estimated } in &behind.tables {
            if !self.is_dropped(table) {
                let counts = self.stats.entry(table).or_default();
                counts.add(items.cast_signed(), bytes.cast_signed());
                counts.is_estimated |= estimated;
                self.stats_changed.insert(table);
            }
        }
        let (first, last) = (Token(behind.first_token), Token(behind.last_token));
        self.merging = Some(Merging { first, last, rows });
        (self.last, self.tokens_changed) = (last, true);
        // Those that became part of it before may still have replicas here too, where it had none.
        for partition in behind.absorbed.into_iter().chain([behind.partition]) {
            self.absorb(partition);
        }
        self.arrange_merged()
    }

    /// The log of a copy that has nothing yet has come to where the partition behind became part of this one; its tokens have gone
    /// on to others since. What transactions may depend on until then is kept aside.
    pub fn merge_behind(&mut self, behind: SnapshotHead, rows: Vec<Row>) -> Result<(), StorageError> {
        let known = self.aside.map_or(self.last, |aside| aside.max(self.last));
        if self.first > self.last || known.0.checked_add(1) != Some(behind.first_token) {
            return Ok(());
        }
        let rows = self.learn(&behind, rows);
        self.aside = Some(Token(behind.last_token));
        let mut batch = std::mem::take(&mut self.batch);
        for (row, version, item) in rows {
            batch.put(self.place_aside(&row), Current::encode(version, &item));
        }
        self.note_aside(&mut batch);
        self.batch = batch;
        self.arrange_merged()
    }

    /// What this partition knows from now on since the one behind did; returns the rows that count.
    fn learn(&mut self, behind: &SnapshotHead, rows: Vec<Row>) -> Vec<Row> {
        self.version = self.version.max(behind.state.map_or(0, |state| state.version));
        for &table in &behind.dropped_tables {
            if !self.is_dropped(table) {
                self.drop_table(table);
            }
        }
        for schema in &behind.schemas {
            if let Some(schema) = super::decode_schema(schema.clone()) {
                self.set_schema(schema);
            }
        }
        let is_kept = |(row, _, _): &Row| parse_head(row).is_some_and(|(table, _)| !self.is_dropped(table));
        let rows: Vec<Row> = rows.into_iter().filter(is_kept).collect();
        for (row, version, item) in &rows {
            self.remember(row, Current { version: *version, item: item.clone() });
        }
        self.forget_removals();
        self.is_waiting = true;
        rows
    }

    /// One of the two may not have known yet that a stream begins, or ends.
    fn arrange_merged(&mut self) -> Result<(), StorageError> {
        if self.has_streams() {
            self.version += 1;
            self.arrange_shards()?;
        }
        Ok(())
    }

    fn absorb(&mut self, partition: u64) {
        if self.absorbed.len() == ABSORBED_KEPT {
            self.absorbed.remove(0);
        }
        self.absorbed.push(partition);
    }

    /// Has the partitions that are part of this one write no rows here any more; those that run from now on, those that are
    /// opened once `batch` is written. A crash in between leaves them what they had, and this one without it.
    pub(super) fn take(&self, batch: &mut Batch) -> Result<(), StorageError> {
        self.shared.take(&self.absorbed);
        for &partition in &self.absorbed {
            let range = keyed(b'G', &[&partition.to_be_bytes()]);
            if self.engine.get(&range)?.is_some() {
                let (first, last) = NONE;
                batch.put(range, [first.0.to_be_bytes(), last.0.to_be_bytes()].concat());
            }
        }
        Ok(())
    }

    /// Writes a batch with rows of another partition, which has them no more.
    pub(super) fn write_merged(&self, merging: Merging, mut batch: Batch) -> Result<(), StorageError> {
        let rows = merging.rows.into_iter();
        let rows: HashMap<Bytes, Bytes> = rows
            .map(|(row, version, item)| (keyed(b'C', &[&row]), Current::encode(version, &item)))
            .collect();
        self.take(&mut batch)?;
        // A replica that was behind may have left older rows here.
        for space in *b"CH" {
            for range in self.ranges(space, merging.first, merging.last, None) {
                for pair in self.engine.scan(range?, Order::Ascending) {
                    let (key, _) = pair?;
                    if !rows.contains_key(&key) {
                        batch.delete(key);
                    }
                }
            }
        }
        for (key, row) in rows {
            batch.put(key, row);
        }
        self.engine.write(batch)
    }
}
