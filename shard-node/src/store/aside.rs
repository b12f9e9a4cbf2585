//! What a copy knows of tokens that its partition does not have any more.
//!
//! A copy that has nothing yet may have to read its group's log from the beginning, when the partition had more tokens. Rows
//! of those stand with the rows of whoever has them now, maybe on this node, and must not be touched. But what a transaction
//! does to the rows here depends on all of its rows. So until the log comes to the split at which they went, those rows are
//! kept aside, under the partition's own keys.

use bytes::Bytes;
use trimaran_placement::token::Token;
use trimaran_storage::engine::{Batch, Order};

use super::{Current, StorageError, Store, damaged_row};
use crate::key::parse_head;

/// Bytes before a row that is kept aside: the space and the partition.
const PLACE_BYTES: usize = 9;

impl Store {
    /// Says where the partition ended when its group was founded. It counts for a copy that has nothing yet.
    pub fn found_with(&mut self, founded_last: Token) {
        self.aside = Some(founded_last).filter(|&founded| founded > self.last);
    }

    /// True if rows of a token belong here, or did when the log was written that is being read.
    pub fn has_place_for(&self, token: Token) -> bool {
        self.first <= token && token <= self.aside.map_or(self.last, |aside| aside.max(self.last))
    }

    pub(super) fn is_aside(&self, row: &[u8]) -> bool {
        self.aside.is_some() && parse_head(row).is_some_and(|(_, token)| token > self.last)
    }

    pub(super) fn place_aside(&self, row: &[u8]) -> Bytes {
        self.own(b'P', row)
    }

    pub(super) fn get_aside(&self, row: &[u8]) -> Result<Option<Current>, StorageError> {
        let stored = self.engine.get(&self.place_aside(row))?;
        stored.map(|stored| Current::decode(&stored).ok_or_else(damaged_row)).transpose()
    }

    /// Notes up to where rows are kept aside.
    pub(super) fn note_aside(&self, batch: &mut Batch) {
        let key = self.own(b'Q', &[]);
        match self.aside {
            Some(aside) => batch.put(key, aside.0.to_be_bytes().to_vec()),
            None => batch.delete(key),
        }
    }

    pub(super) fn read_aside(&mut self) -> Result<(), StorageError> {
        let noted = self.engine.get(&self.own(b'Q', &[]))?;
        self.aside = noted.and_then(|noted| Some(Token(u64::from_be_bytes(*noted.first_chunk::<8>()?))));
        Ok(())
    }

    pub(super) fn read_beside_aside(&mut self) -> Result<(), StorageError> {
        let kept: Vec<_> =
            self.engine.scan(self.own_range(b'P'), Order::Ascending).collect::<Result<_, _>>()?;
        for (key, stored) in kept {
            let row = key.slice(PLACE_BYTES..);
            self.remember(&row, Current::decode(&stored).ok_or_else(damaged_row)?);
        }
        Ok(())
    }

    /// The log has come to where the tokens from `at` on went to another partition.
    pub fn give_aside(&mut self, at: Token) -> Result<(), StorageError> {
        if self.aside.is_none_or(|aside| aside < at) {
            return Ok(());
        }
        self.split_shards(at)?;
        let goes = |row: &[u8]| parse_head(row).is_some_and(|(_, token)| token >= at);
        let kept = self.engine.scan(self.own_range(b'P'), Order::Ascending);
        let kept: Vec<Bytes> = kept.map(|pair| pair.map(|(key, _)| key)).collect::<Result<_, _>>()?;
        // Also what the batch is about to write.
        let fresh = self.fresh.keys().filter(|row| self.is_aside(row)).map(|row| self.place_aside(row));
        let gone: Vec<Bytes> =
            kept.into_iter().chain(fresh).filter(|key| goes(&key[PLACE_BYTES..])).collect();
        gone.into_iter().for_each(|key| self.batch.delete(key));
        self.fresh.retain(|row, _| !goes(row));
        self.intents.retain(|row, _| !goes(row));
        self.shards.retain(|row, _| !goes(row));
        self.aside = Some(Token(at.0 - 1)).filter(|&aside| aside > self.last);
        let mut batch = std::mem::take(&mut self.batch);
        self.note_aside(&mut batch);
        self.batch = batch;
        Ok(())
    }
}
