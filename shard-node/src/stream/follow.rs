//! Reads all of a stream: shards after their parents, the changes of each item in order, and those of a transaction
//! together. Whoever goes on from a [`Follower::cursor`] gets every change once.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tokio::time::Instant;
use trimaran_proto::internal::shard as wire;

use super::backlog::Backlog;
pub use super::backlog::Told;
use crate::error::{Error, Invalid};
use crate::limits::{FOLLOW_AT_ONCE, FOLLOW_BYTES, FOLLOW_PAUSE};
use crate::op::describe_stream::{readable, shards};
use crate::op::get_records::{self, Position, Start};
use crate::router::Router;
use crate::table::{Stream, Table};

/// Where somebody begins to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With what comes from now on.
    Now,
    /// With the oldest change that is there.
    Oldest,
    /// Where a [`Follower`] was.
    Cursor(Bytes),
}

/// Somebody who reads a stream.
#[derive(Debug)]
pub struct Follower {
    router: Router,
    table: Table,
    stream: Stream,
    backlog: Backlog,
    /// Which of the shards that have room was read first.
    turn: usize,
}

impl Follower {
    /// Begins to follow a table's changes.
    ///
    /// Errors: [`Error::StreamNotFound`] if it has no stream, or not the cursor's any more; [`Error::TableNotFound`].
    pub async fn begin(router: &Router, table: &str, begin: Begin) -> Result<Self, Error> {
        let table = router.table(table).await?;
        let none = || Error::StreamNotFound(table.name.clone());
        let cursor = match &begin {
            Begin::Cursor(cursor) => {
                let malformed = || Invalid::new("cursor: it is not one of this table's");
                let cursor = wire::StreamCursor::decode(cursor.clone()).map_err(|_bad| malformed())?;
                Some(cursor).filter(|cursor| cursor.table == table.id).ok_or_else(malformed)?
            }
            Begin::Now | Begin::Oldest => {
                let number = table.live_stream().ok_or_else(none)?.number;
                wire::StreamCursor { table: table.id, stream: number, shards: Vec::new() }
            }
        };
        let found = readable(&table, router.now_ms()).find(|stream| stream.number == cursor.stream);
        let stream = *found.ok_or_else(none)?;
        let backlog = match begin {
            Begin::Cursor(_) => Backlog::resume(cursor.shards)?,
            Begin::Now => Backlog::at(open(router, &table, &stream).await?),
            Begin::Oldest => {
                let found = shards(router, table.id, &stream).await?;
                let is_there = |id| found.iter().any(|shard| Some(shard.id) == id);
                let roots = found.iter().filter(|shard| !is_there(shard.parent));
                Backlog::at(roots.map(|shard| Position { shard: shard.id, from: None }))
            }
        };
        Ok(Self { router: router.clone(), table, stream, backlog, turn: 0 })
    }

    /// Where whoever has got everything up to now may go on.
    pub fn cursor(&self) -> Bytes {
        let (table, stream) = (self.table.id, self.stream.number);
        let cursor = wire::StreamCursor { table, stream, shards: self.backlog.cursor() };
        cursor.encode_to_vec().into()
    }

    /// The next changes, as soon as there are some; empty when the stream has ended.
    ///
    /// Errors: [`Error::Trimmed`] if changes behind the cursor are older than a day and gone; [`Error::StreamNotFound`] once the
    /// table is deleted.
    pub async fn next(&mut self) -> Result<Vec<Told>, Error> {
        loop {
            let told = self.backlog.tell(Instant::now());
            if !told.is_empty() || self.backlog.is_over() {
                return Ok(told);
            }
            if !self.read().await? {
                tokio::time::sleep(FOLLOW_PAUSE).await;
            }
        }
    }

    /// Reads on where there is room. True if there was something.
    async fn read(&mut self) -> Result<bool, Error> {
        let mut wanted = self.backlog.wanted();
        self.turn = self.turn.wrapping_add(FOLLOW_AT_ONCE);
        let turn = self.turn % wanted.len().max(1);
        wanted.rotate_left(turn);
        let mut is_news = false;
        for some in wanted.chunks(FOLLOW_AT_ONCE) {
            if self.backlog.bytes() < FOLLOW_BYTES {
                is_news |= self.read_some(some.to_vec()).await?;
            }
        }
        if self.backlog.has_ended() {
            // Those that follow were there before it ended.
            self.backlog.take_up(&shards(&self.router, self.table.id, &self.stream).await?);
            is_news = true;
        }
        Ok(is_news)
    }

    async fn read_some(&mut self, positions: Vec<Position>) -> Result<bool, Error> {
        let (router, table, stream) = (&self.router, &self.table, &self.stream);
        let reads = stream::iter(positions.into_iter().map(|position| async move {
            let records = get_records::run(router, table, stream, position, (None, true)).await?;
            Ok::<_, Error>((position.shard, records))
        }));
        let reads: Vec<_> = reads.buffer_unordered(FOLLOW_AT_ONCE).try_collect().await?;
        let (now, mut is_news) = (Instant::now(), false);
        for (shard, found) in reads {
            is_news |= self.backlog.add(shard, found, now);
        }
        Ok(is_news)
    }
}

/// Where the shards that go on are now.
async fn open(router: &Router, table: &Table, stream: &Stream) -> Result<Vec<Position>, Error> {
    let found = shards(router, table.id, stream).await?;
    let open = found.into_iter().filter(|shard| shard.ended.is_none());
    let starts = open
        .map(|shard| async move { get_records::start(router, table, stream, shard.id, Start::Latest).await });
    stream::iter(starts).buffer_unordered(FOLLOW_AT_ONCE).try_collect().await
}
