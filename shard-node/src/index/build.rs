//! What partitions have to know of a table before the cluster relies on it: what follows from writes, which the node that
//! leads the meta group tells them. An index of a table with items is filled by it, online: writes that come after a
//! partition was told enter themselves, and those from before are entered as they are when they are come to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use trimaran_placement::table::Partition;
use trimaran_placement::token::Token;
use trimaran_proto::internal::shard as wire;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;
use trimaran_proto::state::shard::reply::Outcome;
use trimaran_storage::engine::Order;

use crate::error::Error;
use crate::expression::Path;
use crate::expression::codec::encode_paths;
use crate::key::{RowKey, head, row_key, token_range};
use crate::limits::{BACKFILL_ROWS, FILLED_PAUSE, PAGE_BYTES_MAX, SWEEP_EVERY};
use crate::op::get_item;
use crate::op::query::behind;
use crate::router::Router;
use crate::store::{encode_schema, stamp_ms, version_at};
use crate::table::{History, IndexStatus, Status, StreamStatus, StrongIndexes, Table};

/// How often an index that is being filled says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Runs until the task is dropped.
pub(crate) async fn run(router: Router) {
    // What is under way, by the table.
    let busy: Arc<Mutex<BTreeSet<(u64, Part)>>> = Arc::default();
    loop {
        tokio::select! {
            () = router.tables_changed() => {}
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        if !router.leads_meta() {
            continue;
        }
        for table in router.tables().all() {
            let indexes = table.indexes.iter().filter(|index| index.status != IndexStatus::Active);
            let streams = table.streams.iter().filter(|stream| stream.is_underway());
            let wanted: Vec<Part> = match table.status {
                Status::Creating => vec![Part::Table],
                Status::Active => indexes
                    .map(|index| Part::Index(index.number))
                    .chain(streams.map(|stream| Part::Stream(stream.number)))
                    .chain(table.history.filter(History::is_underway).map(|_| Part::History))
                    .chain(Some(Part::Strong).filter(|_| table.strong_indexes.is_underway()))
                    .collect(),
                Status::Deleting => Vec::new(),
            };
            for part in wanted {
                let what = (table.id, part);
                if !busy.lock().insert(what) {
                    continue;
                }
                let (router, table, busy) = (router.clone(), table.clone(), Arc::clone(&busy));
                tokio::spawn(async move {
                    if let Err(error) = carry_on(&router, &table, part).await {
                        tracing::warn!(table = table.name, ?part, %error, "it is not ready yet");
                    }
                    busy.lock().remove(&what);
                });
            }
        }
    }
}

/// What of a table is not ready yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// All of it.
    Table,
    /// An index, by its number.
    Index(u32),
    /// A stream, by its number.
    Stream(u32),
    /// What items were.
    History,
    /// Indexes that are written with their items.
    Strong,
}

async fn carry_on(router: &Router, table: &Table, part: Part) -> Result<(), Error> {
    let number = match part {
        Part::Index(number) => number,
        Part::Stream(number) => return tell_of_stream(router, table, number).await,
        Part::History => return tell_of_history(router, table).await,
        Part::Strong => return tell_of_strong(router, table).await,
        Part::Table => {
            tell(router, table).await?;
            edit(router, table, |table| {
                let is_new = table.status == Status::Creating;
                if is_new {
                    table.status = Status::Active;
                }
                is_new
            })
            .await?;
            tracing::info!(table = table.name, "a table takes requests");
            return Ok(());
        }
    };
    let status = table.indexes.iter().find(|index| index.number == number).map(|index| index.status);
    match status {
        Some(IndexStatus::Creating) => fill(router, table, number).await,
        Some(IndexStatus::Deleting) => remove(router, table, number).await,
        Some(IndexStatus::Active) | None => Ok(()),
    }
}

/// Changes a table that is still the same one.
async fn edit(router: &Router, table: &Table, edit: impl Fn(&mut Table) -> bool) -> Result<Table, Error> {
    router.edit(&table.name, |now| Ok(now.id == table.id && edit(now))).await
}

/// Does something at every partition, one after another. Returns the greatest version at which it was done.
async fn everywhere(router: &Router, table: u64, body: impl Fn() -> Body) -> Result<u64, Error> {
    let mut newest = 0;
    let mut next = Some(Token(0));
    while let Some(token) = next {
        let key = RowKey { token, row: head(table, token).freeze() };
        let told = router.write(&key, body(), None).await?;
        newest = newest.max(told.version);
        next = router.behind(token, told.last_token)?;
    }
    Ok(newest)
}

/// Tells every partition what follows from writes to a table. Returns from which version on all of them do it.
pub(crate) async fn tell(router: &Router, table: &Table) -> Result<u64, Error> {
    everywhere(router, table.id, || Body::SetSchema(encode_schema(table))).await
}

/// Has every partition begin, or end, to put changes into a stream.
async fn tell_of_stream(router: &Router, table: &Table, number: u32) -> Result<(), Error> {
    tell(router, table).await?;
    let now_ms = router.now_ms();
    edit(router, table, |table| {
        let stream = table.streams.iter_mut().find(|stream| stream.number == number && stream.is_underway());
        let Some(stream) = stream else { return false };
        match stream.status {
            StreamStatus::Enabling => stream.status = StreamStatus::Enabled,
            _ => (stream.status, stream.ended_ms) = (StreamStatus::Disabled, Some(now_ms)),
        }
        true
    })
    .await?;
    tracing::info!(table = table.name, stream = number, "a stream has begun, or ended, everywhere");
    Ok(())
}

/// Has every partition begin, or end, to keep what items were.
async fn tell_of_history(router: &Router, table: &Table) -> Result<(), Error> {
    let newest = tell(router, table).await?;
    edit(router, table, |table| {
        match &mut table.history {
            // From the next millisecond on nothing is missing.
            Some(history) if !history.ends && history.since_ms.is_none() => {
                history.since_ms = Some(stamp_ms(newest) + 1);
            }
            Some(history) if history.ends => table.history = None,
            _ => return false,
        }
        true
    })
    .await?;
    tracing::info!(table = table.name, "a table's history has begun, or ended, everywhere");
    Ok(())
}

/// Has every partition write entries of indexes with their items, or no more. What followed until then is waited for.
async fn tell_of_strong(router: &Router, table: &Table) -> Result<(), Error> {
    until_carried(router, table).await?;
    edit(router, table, |table| {
        table.strong_indexes = match table.strong_indexes {
            StrongIndexes::Enabling => StrongIndexes::On,
            StrongIndexes::Disabling => StrongIndexes::Off,
            StrongIndexes::On | StrongIndexes::Off => return false,
        };
        true
    })
    .await?;
    tracing::info!(table = table.name, "a table's indexes are strong, or end to be, everywhere");
    Ok(())
}

/// Enters the items that were there before the index.
async fn fill(router: &Router, table: &Table, number: u32) -> Result<(), Error> {
    tell(router, table).await?;
    let index = table.indexes.iter().find(|index| index.number == number);
    let mut token = Token(index.and_then(|index| index.filled_below).unwrap_or(0));
    let key: Vec<Path> = table.key_attributes().map(|key| Path::attribute(key.name.clone())).collect();
    let key = encode_paths(&key);
    let mut after: Option<Bytes> = None;
    let mut newest = version_at(router.now_ms());
    let mut said = tokio::time::Instant::now();
    let (mut items, mut done) = (0_u64, false);
    while !done {
        let question = |partition: &Partition| {
            let mut range = token_range(table.id, token, partition.last);
            if let Some(row) = &after {
                range = behind(range, Order::Ascending, row);
            }
            wire::read_request::Body::Page(wire::Page {
                start: range.start,
                end: range.end.unwrap_or_default(),
                // A few hundred.
                limit: BACKFILL_ROWS as u32,
                bytes_max: PAGE_BYTES_MAX as u32,
                projection: key.clone(),
                last_token: Some(partition.last.0),
                ..wire::Page::default()
            })
        };
        let (partition, reply) = router.read(token, question).await?;
        let mut rows = Vec::with_capacity(reply.items.len());
        for item in reply.items {
            let item = get_item::decode(item)?.item.unwrap_or_default();
            rows.push(row_key(table, &item)?);
        }
        if let Some(first) = rows.first() {
            let backfill =
                state::Backfill { index: number, rows: rows.iter().map(|key| key.row.clone()).collect() };
            let told = router.write(first, Body::Backfill(backfill), None).await?;
            if matches!(told.outcome(), Outcome::Apart | Outcome::Held) {
                router.wait_for_partitions().await;
                continue;
            }
            newest = newest.max(told.version);
            items += rows.len() as u64;
        }
        match (reply.last_item, rows.pop()) {
            (Some(_more), Some(last)) => {
                token = last.token;
                after = Some(last.row);
            }
            _ => {
                after = None;
                match partition.last.0.checked_add(1) {
                    Some(next) => token = Token(next),
                    None => done = true,
                }
            }
        }
        if said.elapsed() >= PROGRESS_EVERY {
            said = tokio::time::Instant::now();
            tracing::info!(table = table.name, index = number, items, %token, "an index is being filled");
            let now = edit(router, table, |table| {
                let index = table.indexes.iter_mut().find(|index| index.number == number);
                index.map(|index| index.filled_below = Some(token.0)).is_some()
            });
            let now = now.await?;
            if !now
                .indexes
                .iter()
                .any(|index| index.number == number && index.status == IndexStatus::Creating)
            {
                return Ok(());
            }
        }
    }
    wait_for(router, table, newest).await?;
    if table.strong_indexes.is_wanted() {
        until_carried(router, table).await?;
    }
    edit(router, table, |table| {
        let is_new = |index: &&mut crate::table::Index| {
            index.number == number && index.status == IndexStatus::Creating
        };
        let index = table.indexes.iter_mut().find(is_new);
        index.map(|index| (index.status, index.filled_below) = (IndexStatus::Active, None)).is_some()
    })
    .await?;
    tracing::info!(table = table.name, index = number, items, "an index takes queries");
    Ok(())
}

/// Returns when indexes have everything that was written before every partition knew what to write with its items. Transactions that
/// were prepared before put down what waits once they are decided on: so it is waited twice.
async fn until_carried(router: &Router, table: &Table) -> Result<(), Error> {
    for _ in 0..2 {
        let newest = tell(router, table).await?;
        wait_for(router, table, newest).await?;
    }
    Ok(())
}

/// Returns when nothing waits for indexes that was written at this version, or before, or is prepared to be.
async fn wait_for(router: &Router, table: &Table, version: u64) -> Result<(), Error> {
    let mut next = Some(Token(0));
    while let Some(token) = next {
        let stats = wire::Stats { table: table.id, token: token.0, waiting: true };
        let (_, reply) = router.read(token, |_| wire::read_request::Body::Stats(stats)).await?;
        if reply.oldest_waiting > 0 && reply.oldest_waiting <= version {
            tokio::time::sleep(FILLED_PAUSE).await;
            continue;
        }
        next = router.behind(token, reply.last_token)?;
    }
    Ok(())
}

/// Has nothing follow from writes for an index any more, and its entries removed.
async fn remove(router: &Router, table: &Table, number: u32) -> Result<(), Error> {
    tell(router, table).await?;
    if let Some(index) = table.indexes.iter().find(|index| index.number == number) {
        let rows = index.keyspace(table.id);
        everywhere(router, rows, || Body::DropTable(state::DropTable { table: rows })).await?;
    }
    edit(router, table, |table| {
        let before = table.indexes.len();
        table.indexes.retain(|index| index.number != number);
        table.indexes.len() != before
    })
    .await?;
    tracing::info!(table = table.name, index = number, "an index is deleted");
    Ok(())
}
