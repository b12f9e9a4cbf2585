//! Transactions over any partitions, strictly serializable.
//!
//! Where all items share a partition, with the record of the idempotency token if there is one, a transaction is one
//! entry of the log (`apply::transact`). Otherwise the node that was asked ([`coordinate`]) has each partition check
//! its conditions and put down intents beside its items (`apply::prepare`), all at once, then has the decision recorded
//! (`apply::decide`): that is the moment at which it happens, and from then on the caller can be told. The intents are
//! carried out or let go afterwards (`apply::resolve`).
//!
//! While an item has an intent nobody else writes it: another transaction is cancelled (nobody waits for anybody, so there
//! are no deadlocks), another write waits a little. Who reads it looks at the record: what is decided is carried out first,
//! and before it is decided the item is what it was. Whoever meets an intent whose coordinator is gone decides
//! against it ([`recover`]); a decision is made once, so whoever comes second is told what it is.
//!
//! Where a table's global indexes are strong, what is to become of their entries is told by the partitions that prepare the items, and is
//! prepared where the entries are before it is decided; a write of a single item is a transaction, then (decision 0028).
//!
//! Time: decisions for a transaction are refused once it is older than [`crate::limits::TRANSACTION_MAX`], and what was
//! decided against one is remembered for longer than that, both by the clock of the record's partition, which is never behind what
//! it decides on (versions are a hybrid logical clock). So a message that the network kept for however long decides nothing.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use trimaran_placement::token::{self, Token};
use trimaran_proto::state::shard as state;

use crate::key::{RowKey, head, parse_head};
use crate::keyspace::{Kind, beside, number, table};

pub mod apply;
pub mod coordinate;
pub mod recover;

/// Bytes of the id of a transaction.
pub const ID_BYTES: usize = 16;

/// Of a record that says "yes", and of one that says "no": neither is the beginning of the other.
const YES: u8 = 0;
const NO: u8 = 1;

/// Where the decision for a transaction is recorded: `key` is of its idempotency token, or its id.
pub fn record(key: &[u8; ID_BYTES]) -> RowKey {
    let token = token::shard(0, key);
    let mut row = head(Kind::Records.of(0, 0), token);
    row.put_u8(YES);
    row.put_slice(key);
    RowKey { token, row: row.freeze() }
}

/// Where it is recorded that a transaction was decided against.
pub fn refusal(record: &[u8], id: &[u8]) -> Bytes {
    let mut row = BytesMut::from(record);
    if let Some(tag) = row.get_mut(crate::key::HEAD_BYTES) {
        *tag = NO;
    }
    row.put_slice(id);
    row.freeze()
}

/// Where the intent of an item stands, or that of an entry of an index.
pub fn intent(row: &[u8]) -> Bytes {
    let rows = parse_head(row).map_or(0, |(rows, _)| rows);
    beside(row, Kind::Intents.of(table(rows), number(rows)))
}

/// The item that an intent is about, or the entry of an index.
pub fn item_of(intent: &[u8]) -> Bytes {
    let rows = parse_head(intent).map_or(0, |(rows, _)| rows);
    let kind = if number(rows) == 0 { Kind::Items } else { Kind::Index };
    beside(intent, kind.of(table(rows), number(rows)))
}

/// How many of some rows that are written are of each table.
pub(crate) fn writes<'a>(rows: impl Iterator<Item = &'a Bytes>) -> Vec<state::TableWrites> {
    let mut writes: BTreeMap<u64, u32> = BTreeMap::new();
    for row in rows {
        *writes.entry(parse_head(row).map_or(0, |(rows, _)| table(rows))).or_default() += 1;
    }
    writes.into_iter().map(|(table, writes)| state::TableWrites { table, writes }).collect()
}

/// Where a row stands.
pub(crate) fn row_key(row: Bytes) -> RowKey {
    let token = parse_head(&row).map_or(Token(0), |(_, token)| token);
    RowKey { token, row }
}

#[cfg(test)]
mod tests;
