//! DescribeStream and ListStreams: which streams there are, and their shards.

use trimaran_placement::token::Token;
use trimaran_proto::internal::shard as wire;
use trimaran_storage::engine::Order;

use crate::error::Error;
use crate::key::token_range;
use crate::keyspace::Kind;
use crate::limits::{PAGE_BYTES_MAX, STREAM_KEPT};
use crate::op::query::behind;
use crate::router::Router;
use crate::stream::{Shard, ShardId};
use crate::table::{Stream, Table};

/// The streams of a table that can be read: the one that goes on, and what ended less than a day ago.
pub fn readable(table: &Table, now_ms: u64) -> impl Iterator<Item = &Stream> {
    // A day.
    let kept_ms = STREAM_KEPT.as_millis() as u64;
    table.streams.iter().filter(move |stream| stream.ended_ms.is_none_or(|ended| ended + kept_ms > now_ms))
}

/// The stream of a table that began at a time.
pub async fn find(router: &Router, table: &str, created_ms: u64) -> Result<(Table, Stream), Error> {
    let look = || {
        let table = router.tables().get(table)?.clone();
        let stream = readable(&table, router.now_ms()).find(|stream| stream.created_ms == created_ms)?;
        let stream = *stream;
        Some((table, stream))
    };
    if let Some(found) = look() {
        return Ok(found);
    }
    // Another node may know of it already.
    router.refresh_tables().await?;
    look().ok_or_else(|| Error::StreamNotFound(table.to_owned()))
}

/// The shards of a stream, parents before those that follow them.
pub async fn shards(router: &Router, table: u64, stream: &Stream) -> Result<Vec<Shard>, Error> {
    let mut found = Vec::new();
    let mut next = Some(Token(0));
    let mut after = None;
    while let Some(token) = next {
        let question = |partition: &trimaran_placement::table::Partition| {
            let mut range = token_range(Kind::Shards.of(table, stream.number), token, partition.last);
            if let Some(row) = &after {
                range = behind(range, Order::Ascending, row);
            }
            wire::read_request::Body::Rows(wire::Rows {
                rows: Vec::new(),
                start: range.start,
                end: range.end.unwrap_or_default(),
                limit: 0,
                bytes_max: PAGE_BYTES_MAX as u32,
                last_token: Some(partition.last.0),
            })
        };
        let (partition, reply) = match router.read(token, question).await {
            Err(Error::TableDropped) => return Err(Error::StreamNotFound(table.to_string())),
            read => read?,
        };
        for row in &reply.rows {
            let shard = Shard::decode(&row.row, &row.item);
            found.push(shard.ok_or_else(|| Error::Storage("a shard of a stream cannot be read".to_owned()))?);
        }
        after = reply.rows.last().map(|row| row.row.clone()).filter(|_| reply.more);
        if after.is_none() {
            next = partition.last.0.checked_add(1).map(Token);
        }
    }
    found.sort_by_key(|shard| shard.id);
    Ok(found)
}

/// Those of some shards that follow another one.
pub fn children(shards: Vec<Shard>, of: ShardId) -> Vec<Shard> {
    shards.into_iter().filter(|shard| shard.parent == Some(of)).collect()
}
