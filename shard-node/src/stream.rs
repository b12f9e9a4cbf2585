//! Streams of what changes: every change of an item is put down in the batch that makes it, and can be read for a day.
//!
//! A stream is divided into shards, each with the changes of items of a range of tokens, in the order in which they were
//! made; so the changes of one item are in order wherever it goes. A shard's rows stand at the first of its tokens: a
//! split, a merge, a move and a snapshot take them along as they take items. When a partition is split, the shard that is
//! cut ends, and two follow it, one on each side; whoever has read a shard to its end goes on with those. When partitions
//! are merged, their shards go on side by side: a shard with two parents could not be read in order by those who know
//! only of one. (docs/decisions/0024)
//!
//! What writes to streams is `apply`'s, on every replica: `record`, and `store::shards`, which has shards begin and
//! end. `trim` removes what is older than a day.

use bytes::{BufMut as _, Bytes};
use prost::Message as _;
use trimaran_placement::token::Token;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::change::Event;
use trimaran_replication::error::Stop;
use trimaran_storage::engine::Range;

use crate::item::{self, Item};
use crate::key::{HEAD_BYTES, head, parse_head};
use crate::keyspace::{self, Kind};
use crate::limits::STREAM_KEPT;
use crate::machine::stop;
use crate::op::encode;
use crate::store::{Current, Store, Stored, stamp_ms};
use crate::table::Table;

pub mod backlog;
pub mod follow;
pub(crate) mod trim;

/// Where a change is in its stream: changes of one item grow, whatever shards they are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence {
    /// Of the command that made it.
    pub version: u64,
    /// Among the changes of that command.
    pub place: u16,
}

/// Digits of a sequence number: at least what DynamoDB's have, at most what one of ours can have.
const SEQUENCE_DIGITS: std::ops::RangeInclusive<usize> = 21..=40;

impl Sequence {
    /// Behind every change of a version.
    pub fn after(version: u64) -> Self {
        Self { version: version.saturating_add(1), place: 0 }
    }

    /// The next one that there could be.
    #[must_use]
    pub fn next(self) -> Self {
        match self.place.checked_add(1) {
            Some(place) => Self { place, ..self },
            None => Self::after(self.version),
        }
    }

    /// From DynamoDB's form.
    pub fn parse(text: &str) -> Option<Self> {
        if !SEQUENCE_DIGITS.contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number: u128 = text.parse().ok()?;
        let version = u64::try_from(number >> u16::BITS).ok()?;
        // The lower half.
        Some(Self { version, place: (number & u128::from(u16::MAX)) as u16 })
    }
}

impl std::fmt::Display for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = (u128::from(self.version) << u16::BITS) | u128::from(self.place);
        write!(f, "{number:0width$}", width = SEQUENCE_DIGITS.start())
    }
}

/// A shard among those of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId {
    /// No change in it is older than this version. First, so that parents come before those that follow them.
    pub begun: u64,
    /// The first of its tokens.
    pub first: Token,
}

impl ShardId {
    /// Its row.
    pub fn row(self, table: u64, stream: u32) -> Bytes {
        let mut row = head(Kind::Shards.of(table, stream), self.first);
        row.put_u64(self.begun);
        row.freeze()
    }

    /// Where its changes are from one on.
    pub fn changes(self, table: u64, stream: u32, from: Option<Sequence>) -> Range {
        let mut row = head(Kind::Changes.of(table, stream), self.first);
        row.put_u64(self.begun);
        let mut all = Range::prefix(&row);
        if let Some(from) = from {
            row.put_u64(from.version);
            row.put_u16(from.place);
            all.start = row.freeze();
        }
        all
    }

    /// From DynamoDB's form.
    pub fn parse(text: &str) -> Option<Self> {
        let (begun, first) = text.strip_prefix(SHARD_ID)?.split_once('-')?;
        Some(Self { begun: begun.parse().ok()?, first: Token(u64::from_str_radix(first, 16).ok()?) })
    }
}

const SHARD_ID: &str = "shardId-";

impl std::fmt::Display for ShardId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SHARD_ID}{:020}-{:016x}", self.begun, self.first.0)
    }
}

/// A shard of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which it is.
    pub id: ShardId,
    /// The last of its tokens.
    pub last: Token,
    /// What had these tokens before, if something had.
    pub parent: Option<ShardId>,
    /// No change in it is newer than this version; `None` = it goes on.
    pub ended: Option<u64>,
    /// The newest version of changes that are not there any more since their time was over.
    pub trimmed: u64,
}

impl Shard {
    /// One that begins.
    pub(crate) fn begin(begun: u64, (first, last): (Token, Token), parent: Option<ShardId>) -> Self {
        Self { id: ShardId { begun, first }, last, parent, ended: None, trimmed: 0 }
    }

    /// From its row.
    pub fn decode(row: &[u8], stored: &[u8]) -> Option<Self> {
        let (_, first) = parse_head(row)?;
        let begun = u64::from_be_bytes(*row.get(HEAD_BYTES..)?.first_chunk::<8>()?);
        let stored = state::StreamShard::decode(stored).ok()?;
        let parent =
            stored.parent.map(|parent| ShardId { begun: parent.begun, first: Token(parent.first_token) });
        Some(Self {
            id: ShardId { begun, first },
            last: Token(stored.last_token),
            parent,
            ended: Some(stored.ended).filter(|ended| *ended > 0),
            trimmed: stored.trimmed,
        })
    }

    pub(crate) fn encode(&self) -> Stored {
        let parent = self
            .parent
            .map(|parent| state::StreamShardId { first_token: parent.first.0, begun: parent.begun });
        let stored = state::StreamShard {
            last_token: self.last.0,
            parent,
            ended: self.ended.unwrap_or_default(),
            trimmed: self.trimmed,
        };
        let bytes: Bytes = stored.encode_to_vec().into();
        // Some dozens of bytes.
        Stored { size: bytes.len() as u32, bytes }
    }
}

/// The shard that a change is in, and where in it.
pub fn place(row: &[u8]) -> Option<(ShardId, Sequence)> {
    let (_, first) = parse_head(row)?;
    let (begun, rest) = row.get(HEAD_BYTES..)?.split_first_chunk::<8>()?;
    let (version, place) = rest.split_first_chunk::<8>()?;
    let place = u16::from_be_bytes(*place.first_chunk::<2>()?);
    let id = ShardId { begun: u64::from_be_bytes(*begun), first };
    Some((id, Sequence { version: u64::from_be_bytes(*version), place }))
}

/// Why an item changes.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// Somebody asked for it.
    Request,
    /// Its time is over.
    Expiry,
    /// It is part of a transaction.
    Transaction {
        /// The transaction's.
        id: Bytes,
        /// How many writes that has to the item's table, over all partitions.
        writes: u32,
    },
}

/// Puts down what becomes of an item with the command that was begun, if its table has a stream. What stays as it is
/// counts only as part of a transaction.
pub(crate) fn record(
    store: &mut Store,
    schema: &Table,
    row: &Bytes,
    (before, after): (Option<&Current>, Option<&Stored>),
    cause: &Cause,
) -> Result<(), Stop> {
    let Some(stream) = schema.live_stream() else { return Ok(()) };
    let old = before.map(|before| &before.item.bytes);
    let new = after.map(|after| &after.bytes);
    let event = match (old, new) {
        _ if old == new => Event::Unchanged,
        (None, _) => Event::Insert,
        (Some(_), Some(_)) => Event::Modify,
        (Some(_), None) => Event::Remove,
    };
    let mut change = state::Change { event: event.into(), ..state::Change::default() };
    match cause {
        Cause::Request if event == Event::Unchanged => return Ok(()),
        Cause::Request => {}
        Cause::Expiry => change.expired = true,
        Cause::Transaction { id, writes } => (change.transaction, change.writes) = (id.clone(), *writes),
    }
    if event != Event::Unchanged {
        change.old_image = old.filter(|_| stream.view.has_old()).cloned();
        change.new_image = new.filter(|_| stream.view.has_new()).cloned();
        if let (None, None, Some(item)) = (&change.old_image, &change.new_image, new.or(old)) {
            let mut item = item::decode_item(&mut item.clone()).map_err(stop)?;
            keep_key(schema, &mut item);
            change.key = encode(&item).bytes;
        }
    }
    let Some(place) = store.next_change(row, stream.number).map_err(stop)? else { return Ok(()) };
    let bytes: Bytes = change.encode_to_vec().into();
    // Two items and a little.
    store.set(&place, None, Some(Stored { size: bytes.len() as u32, bytes }));
    Ok(())
}

/// Leaves only the key of an item.
pub fn keep_key(table: &Table, item: &mut Item) {
    item.retain(|name, _| table.key_attributes().any(|key| key.name == *name));
}

/// Whether a change is older than changes are kept, at this version.
pub(crate) fn is_spent(row: &[u8], now: u64) -> bool {
    place(row).is_some_and(|(_, sequence)| is_old(sequence.version, now))
}

/// Whether a shard has ended, and its changes are older than changes are kept.
pub(crate) fn is_over(shard: &Shard, now: u64) -> bool {
    shard.ended.is_some_and(|ended| is_old(ended, now))
}

fn is_old(version: u64, now: u64) -> bool {
    // Milliseconds of a day.
    stamp_ms(version) + (STREAM_KEPT.as_millis() as u64) < stamp_ms(now)
}

/// Notes in a shard that changes up to this version are removed.
pub(crate) fn note_trimmed(store: &mut Store, change: &[u8], version: u64) -> Result<(), Stop> {
    let (Some((rows, _)), Some((id, _))) = (parse_head(change), place(change)) else { return Ok(()) };
    let row = id.row(keyspace::table(rows), keyspace::number(rows));
    let before = store.get(&row).map_err(stop)?;
    let shard = before.as_ref().and_then(|before| Shard::decode(&row, &before.item.bytes));
    if let Some(shard) = shard.filter(|shard| shard.trimmed < version) {
        store.set(&row, before.as_ref(), Some(Shard { trimmed: version, ..shard }.encode()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
