//! Shards of streams begin and end where the partition's tokens or the table's streams change, on every replica at the
//! same command. Those that go on are in memory: every change of an item looks for its own.

use std::ops::Bound;

use bytes::{BufMut as _, Bytes};
use trimaran_placement::token::Token;

use super::{StorageError, Store};
use crate::key::{head, parse_head};
use crate::keyspace::{self, Kind};
use crate::stream::{Shard, ShardId};

impl Store {
    /// Where the command that was begun puts a change of the item at a row; another place each time.
    pub fn next_change(&mut self, row: &[u8], stream: u32) -> Result<Option<Bytes>, StorageError> {
        let Some((rows, token)) = parse_head(row) else { return Ok(None) };
        let table = keyspace::table(rows);
        if self.shard_at(table, stream, token).is_none() {
            self.arrange_shards()?;
        }
        let Some(shard) = self.shard_at(table, stream, token) else { return Ok(None) };
        let mut place = head(Kind::Changes.of(table, stream), shard.id.first);
        place.put_u64(shard.id.begun);
        place.put_u64(self.version);
        place.put_u16(self.changes);
        self.changes += 1;
        Ok(Some(place.freeze()))
    }

    /// The shard that goes on and has a token.
    fn shard_at(&self, table: u64, stream: u32, token: Token) -> Option<&Shard> {
        let last = ShardId { begun: u64::MAX, first: token }.row(table, stream);
        let (_, shard) = self.shards.range(..=last).next_back().filter(|(row, _)| {
            parse_head(row).is_some_and(|(rows, _)| rows == Kind::Shards.of(table, stream))
        })?;
        (shard.id.first <= token && token <= shard.last).then_some(shard)
    }

    /// Those of a stream that go on, in the order of their tokens.
    fn shards_of(&self, table: u64, stream: u32) -> impl Iterator<Item = (&Bytes, &Shard)> {
        let first = head(Kind::Shards.of(table, stream), Token(0)).freeze();
        let of = move |(row, _): &(&Bytes, &Shard)| {
            parse_head(row).is_some_and(|(rows, _)| rows == Kind::Shards.of(table, stream))
        };
        self.shards.range((Bound::Included(first), Bound::Unbounded)).take_while(of)
    }

    /// Has shards begin where a stream that goes on has none, with the command that was begun, and those of other streams
    /// end.
    pub fn arrange_shards(&mut self) -> Result<(), StorageError> {
        let (first, last) = (self.first, self.aside.map_or(self.last, |aside| aside.max(self.last)));
        if first > last {
            return Ok(());
        }
        let live = |store: &Self, rows: u64| {
            let schema = store.schema(keyspace::table(rows));
            let live = schema.and_then(|schema| schema.live_stream());
            live.is_some_and(|live| live.number == keyspace::number(rows))
        };
        let over = |row: &&Bytes| parse_head(row).is_some_and(|(rows, _)| !live(self, rows));
        let over: Vec<Bytes> = self.shards.keys().filter(over).cloned().collect();
        for row in over {
            self.end_shard(&row)?;
        }
        let streams =
            self.schemas.values().filter_map(|schema| Some((schema.id, schema.live_stream()?.number)));
        for (table, stream) in streams.collect::<Vec<_>>() {
            let mut gaps = Vec::new();
            let mut next = Some(first);
            for (_, shard) in self.shards_of(table, stream) {
                if let Some(gap) = next.filter(|next| *next < shard.id.first) {
                    gaps.push((gap, Token(shard.id.first.0 - 1)));
                }
                next = shard.last.0.checked_add(1).map(Token);
            }
            gaps.extend(next.filter(|next| *next <= last).map(|next| (next, last)));
            for tokens in gaps {
                self.begin_shard((table, stream), Shard::begin(self.version, tokens, None));
            }
        }
        Ok(())
    }

    /// Whether [`Store::arrange_shards`] would have something begin or end.
    pub(super) fn has_streams(&self) -> bool {
        !self.shards.is_empty() || self.schemas.values().any(|schema| schema.live_stream().is_some())
    }

    fn begin_shard(&mut self, (table, stream): (u64, u32), shard: Shard) {
        self.set(&shard.id.row(table, stream), None, Some(shard.encode()));
    }

    fn end_shard(&mut self, row: &Bytes) -> Result<Option<Shard>, StorageError> {
        let before = self.get(row)?;
        let Some(shard) = before.as_ref().and_then(|before| Shard::decode(row, &before.item.bytes)) else {
            return Ok(None);
        };
        let ended = Shard { ended: Some(self.version), ..shard };
        self.set(row, before.as_ref(), Some(ended.encode()));
        Ok(Some(ended))
    }

    /// Ends the shards that have tokens on both sides, and has two follow each. Where the log of a partition says that it
    /// is split at `at`, whether or not this copy still knows of both sides.
    pub(super) fn split_shards(&mut self, at: Token) -> Result<(), StorageError> {
        let is_cut = |shard: &Shard| shard.id.first < at && at <= shard.last;
        let cut = self.shards.iter().filter(|(_, shard)| is_cut(shard)).map(|(row, _)| row.clone());
        let cut: Vec<Bytes> = cut.collect();
        if cut.is_empty() {
            return Ok(());
        }
        // What follows is told apart from what was there by when it begins.
        self.version += 1;
        for row in cut {
            let Some((rows, _)) = parse_head(&row) else { continue };
            let Some(parent) = self.end_shard(&row)? else { continue };
            let of = (keyspace::table(rows), keyspace::number(rows));
            let sides = [(parent.id.first, Token(at.0 - 1)), (at, parent.last)];
            for tokens in sides {
                self.begin_shard(of, Shard::begin(self.version, tokens, Some(parent.id)));
            }
        }
        Ok(())
    }

    /// Keeps in mind what is written of a shard.
    pub(super) fn remember_shard(&mut self, row: &Bytes, stored: Option<&[u8]>) {
        let shard = stored.and_then(|stored| Shard::decode(row, stored));
        match shard.filter(|shard| shard.ended.is_none()) {
            Some(shard) => self.shards.insert(row.clone(), shard),
            None => self.shards.remove(row),
        };
    }
}
