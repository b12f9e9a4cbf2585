//! GetShardIterator and GetRecords: the changes in a shard of a stream, in order.

use prost::Message as _;
use trimaran_proto::internal::shard as wire;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::change::Event;

use crate::error::{Error, Invalid};
use crate::item::{self, Item};
use crate::limits::{ITERATOR_KEPT, PAGE_BYTES_MAX, STREAM_RECORDS_MAX};
use crate::router::Router;
use crate::store::stamp_ms;
use crate::stream::{Sequence, Shard, ShardId, keep_key, place};
use crate::table::{Stream, Table};

/// Where to read in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The shard.
    pub shard: ShardId,
    /// The first change that is wanted, or where it would be; `None` = the first one that is there.
    pub from: Option<Sequence>,
}

impl Position {
    /// As it is told, and may be told back within [`ITERATOR_KEPT`].
    pub fn encode(self, now_ms: u64) -> Vec<u8> {
        let iterator = wire::ShardIterator {
            first_token: self.shard.first.0,
            begun: self.shard.begun,
            version: self.from.map(|from| from.version),
            place: self.from.map_or(0, |from| from.place.into()),
            issued_ms: now_ms,
        };
        iterator.encode_to_vec()
    }

    /// What was told. [`Error::IteratorExpired`] if that is too long ago.
    pub fn decode(told: &[u8], now_ms: u64) -> Result<Self, Error> {
        let malformed = || Invalid::new("Invalid ShardIterator");
        let iterator = wire::ShardIterator::decode(told).map_err(|_malformed| malformed())?;
        if iterator.issued_ms == 0 {
            return Err(malformed().into());
        }
        let place = u16::try_from(iterator.place).map_err(|_large| malformed())?;
        // A quarter of an hour.
        if iterator.issued_ms.saturating_add(ITERATOR_KEPT.as_millis() as u64) < now_ms {
            return Err(Error::IteratorExpired);
        }
        let shard =
            ShardId { begun: iterator.begun, first: trimaran_placement::token::Token(iterator.first_token) };
        Ok(Self { shard, from: iterator.version.map(|version| Sequence { version, place }) })
    }
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest change that is there.
    TrimHorizon,
    /// With what comes from now on.
    Latest,
    /// With this change.
    At(Sequence),
    /// Behind this change.
    After(Sequence),
}

/// A change of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Where it is in its stream.
    pub sequence: Sequence,
    /// When it was made, in milliseconds since 1970.
    pub at_ms: u64,
    /// What became of the item.
    pub event: Event,
    /// Its key.
    pub key: Item,
    /// The item as it was, if the stream has that.
    pub old_image: Option<Item>,
    /// The item as it is, if the stream has that.
    pub new_image: Option<Item>,
    /// Nobody asked for it: the item's time was over.
    pub expired: bool,
    /// The transaction that it is part of, and how many writes that has to this table.
    pub transaction: Option<(bytes::Bytes, u32)>,
}

impl Record {
    /// Bytes of what it has of the item.
    pub fn size(&self) -> usize {
        let images = self.old_image.iter().chain(&self.new_image);
        item::size(&self.key) + images.map(item::size).sum::<usize>()
    }

    fn decode(table: &Table, row: &state::Row) -> Option<Self> {
        let (_, sequence) = place(&row.row)?;
        let change = state::Change::decode(row.item.clone()).ok()?;
        let event = change.event();
        let decode = |image: Option<bytes::Bytes>| match image {
            Some(mut image) => item::decode_item(&mut image).map(Some).ok(),
            None => Some(None),
        };
        let (old_image, new_image) = (decode(change.old_image)?, decode(change.new_image)?);
        let key = match new_image.as_ref().or(old_image.as_ref()) {
            Some(image) => {
                let mut key = image.clone();
                keep_key(table, &mut key);
                key
            }
            None if change.key.is_empty() => Item::new(),
            None => item::decode_item(&mut change.key.clone()).ok()?,
        };
        Some(Self {
            sequence,
            at_ms: stamp_ms(sequence.version),
            event,
            key,
            old_image,
            new_image,
            expired: change.expired,
            transaction: Some((change.transaction, change.writes)).filter(|(id, _)| !id.is_empty()),
        })
    }
}

/// Some changes of a shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Records {
    /// In order.
    pub records: Vec<Record>,
    /// Where to go on; `None` = the shard has ended.
    pub next: Option<Position>,
}

async fn ask(
    router: &Router,
    (table, stream): (u64, u32),
    position: Position,
    limit: u32,
) -> Result<(Shard, Vec<state::Row>, wire::ReadReply), Error> {
    let shard = position.shard.row(table, stream);
    let range = position.shard.changes(table, stream, position.from);
    let question = || {
        wire::read_request::Body::Rows(wire::Rows {
            rows: vec![shard.clone()],
            start: range.start.clone(),
            end: range.end.clone().unwrap_or_default(),
            limit,
            bytes_max: PAGE_BYTES_MAX as u32,
            last_token: None,
        })
    };
    let not_found = || Error::StreamNotFound(position.shard.to_string());
    let mut reply = match router.read(position.shard.first, |_| question()).await {
        Ok((_, reply)) => reply,
        Err(Error::TableDropped) => return Err(not_found()),
        Err(error) => return Err(error),
    };
    let rows = std::mem::take(&mut reply.rows);
    let mut rows = rows.into_iter();
    let found = rows.next().filter(|found| found.row == shard);
    let found = found.and_then(|found| Shard::decode(&found.row, &found.item)).ok_or_else(not_found)?;
    Ok((found, rows.collect(), reply))
}

/// Where a reader of a shard begins.
///
/// Errors: [`Error::StreamNotFound`] of a shard that is not there; [`Error::Trimmed`] of a change that is not there any more.
pub async fn start(
    router: &Router,
    table: &Table,
    stream: &Stream,
    shard: ShardId,
    start: Start,
) -> Result<Position, Error> {
    let (found, _, reply) = ask(router, (table.id, stream.number), Position { shard, from: None }, 1).await?;
    let from = match start {
        Start::TrimHorizon => None,
        Start::Latest => Some(Sequence::after(reply.version)),
        Start::At(sequence) => Some(sequence),
        Start::After(sequence) => Some(sequence.next()),
    };
    if let Some(from) = from {
        check_horizon(&found, from)?;
    }
    Ok(Position { shard, from })
}

/// Refuses to begin where something is missing.
fn check_horizon(shard: &Shard, from: Sequence) -> Result<(), Error> {
    if shard.trimmed > 0 && from.version <= shard.trimmed { Err(Error::Trimmed) } else { Ok(()) }
}

/// Reads on in a shard. Writes of transactions that left their items as they were are told only if `unchanged`.
pub async fn run(
    router: &Router,
    table: &Table,
    stream: &Stream,
    position: Position,
    (limit, unchanged): (Option<u32>, bool),
) -> Result<Records, Error> {
    let limit = limit.unwrap_or(STREAM_RECORDS_MAX).min(STREAM_RECORDS_MAX);
    let (shard, rows, reply) = ask(router, (table.id, stream.number), position, limit).await?;
    if let Some(from) = position.from {
        check_horizon(&shard, from)?;
    }
    let mut records = Vec::with_capacity(rows.len());
    for row in &rows {
        let record = Record::decode(table, row);
        records.push(record.ok_or_else(|| Error::Storage("a change in a stream cannot be read".to_owned()))?);
    }
    let next = match (reply.more, shard.ended) {
        (true, _) => records.last().map(|last| last.sequence.next()),
        (false, Some(_)) => None,
        // Everything up to now is read.
        (false, None) => Some(Sequence::after(reply.version)),
    };
    records.retain(|record| unchanged || record.event != Event::Unchanged);
    Ok(Records { records, next: next.map(|from| Position { from: Some(from), ..position }) })
}
