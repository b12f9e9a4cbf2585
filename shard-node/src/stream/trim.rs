//! The leader of a partition removes what is older than a day from the streams there.

use bytes::Bytes;
use trimaran_replication::group::Group;
use trimaran_storage::engine::Order;

use super::{Sequence, Shard, is_over, is_spent};
use crate::error::Error;
use crate::index::propagate::trim;
use crate::key::parse_head;
use crate::keyspace::{self, Kind};
use crate::limits::STREAM_TRIM_ROWS;
use crate::machine::ShardMachine;

/// Removes what is over at this version, until nothing is.
pub(crate) async fn run(group: &Group<ShardMachine>, now: u64) -> Result<(), Error> {
    loop {
        let spent = spent(group, now).await?;
        if spent.is_empty() || !group.is_leader() {
            return Ok(());
        }
        trim(group, spent).await?;
    }
}

/// Some of what is over: changes from the front of each shard, and shards that have none left.
async fn spent(group: &Group<ShardMachine>, now: u64) -> Result<Vec<Bytes>, Error> {
    let (view, ranges) = group.read_now(|machine| (machine.view(), machine.rows_of(Kind::Shards)));
    let ranges = ranges.map_err(|stop| Error::Storage(stop.to_string()))?;
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let read = tokio::task::spawn_blocking(move || {
        let mut spent = Vec::new();
        for shard in ranges.into_iter().flat_map(|range| view.scan(range, Order::Ascending)) {
            let (row, _, stored) = shard?;
            let (Some((rows, _)), Some(shard)) = (parse_head(&row), Shard::decode(&row, &stored.bytes))
            else {
                return Err(Error::Storage("a shard of a stream cannot be read".to_owned()));
            };
            // Not from the beginning: an engine steps over what was removed there.
            let from = Some(Sequence { version: shard.trimmed, place: 0 });
            let changes = shard.id.changes(keyspace::table(rows), keyspace::number(rows), from);
            let mut is_empty = true;
            for change in view.scan(changes, Order::Ascending) {
                let (change, _, _) = change?;
                if !is_spent(&change, now) || spent.len() >= STREAM_TRIM_ROWS {
                    is_empty = false;
                    break;
                }
                spent.push(change);
            }
            if is_empty && is_over(&shard, now) && spent.len() < STREAM_TRIM_ROWS {
                spent.push(row);
            }
        }
        Ok(spent)
    });
    read.await.map_err(|panicked| Error::Storage(panicked.to_string()))?
}
