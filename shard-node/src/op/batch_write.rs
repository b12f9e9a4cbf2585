//! BatchWriteItem: many puts and deletes; each as one, not all of them.

use std::collections::{BTreeMap, BTreeSet};

use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;
use trimaran_proto::state::shard::reply::Outcome;
use trimaran_replication::session::RequestId;

use super::{Written, check_item, encode, written};
use crate::capacity::{Consumed, Use};
use crate::error::{Error, Invalid};
use crate::hot::Asked;
use crate::item::Item;
use crate::key::{RowKey, row_key};
use crate::limits::BATCH_WRITE_REQUESTS_MAX;
use crate::router::Router;
use crate::table::Table;

/// One write.
#[derive(Clone, Debug)]
pub enum Write {
    /// Replace or make this item.
    Put(Item),
    /// Remove the item with this key.
    Delete(Item),
}

/// Carries out writes; each with the name of its table. Returns what each did; `None` = nothing yet, its table is asked too much.
/// With a `request_id`, what was done is not done again if the caller asks again.
///
/// Errors: [`Error::Throttled`] if all of the tables are asked too much; with a `request_id`, if one of them is.
pub async fn run(
    router: &Router,
    writes: &[(String, Write)],
    request_id: Option<RequestId>,
) -> Result<Vec<Option<Written>>, Error> {
    if writes.is_empty() || writes.len() > BATCH_WRITE_REQUESTS_MAX {
        return Err(Invalid::new("Too many items requested for the BatchWriteItem call").into());
    }
    for (_, write) in writes {
        if let Write::Put(item) = write {
            check_item(item)?;
        }
    }
    match attempt(router, writes, request_id).await {
        // A put or a delete may be done twice. What went to the table of before is gone with it.
        Err(Error::TableDropped) => {
            router.refresh_tables().await?;
            attempt(router, writes, request_id).await
        }
        outcome => outcome,
    }
}

/// Writes to tables whose indexes are strong, or were lately, each by itself, side by side; the others go together.
async fn write_all(
    router: &Router,
    commands: Vec<(&Table, RowKey, Body)>,
    request_id: Option<RequestId>,
) -> Vec<Result<state::Reply, Error>> {
    let by_itself = |(at, (table, key, body)): (u64, (&Table, RowKey, Body))| {
        let (table, id) = (table.clone(), request_id.map(|id| id.following(at)));
        async move { router.write_item(&table, key, body, id, true).await }
    };
    let have_been = |(table, ..): &(&Table, RowKey, Body)| {
        table.strong_changed_ms > 0 || table.strong_indexes.is_wanted()
    };
    if commands.iter().any(have_been) {
        return futures::future::join_all((0..).zip(commands).map(by_itself)).await;
    }
    let together = commands.iter().map(|(_, key, body)| (key.clone(), body.clone())).collect();
    let mut replies = router.write_all(together, request_id).await;
    for (reply, (at, command)) in replies.iter_mut().zip((0..).zip(commands)) {
        // This node has not heard of it yet.
        if matches!(reply, Ok(reply) if reply.outcome() == Outcome::Indexed) {
            *reply = by_itself((at, command)).await;
        }
    }
    replies
}

async fn attempt(
    router: &Router,
    writes: &[(String, Write)],
    request_id: Option<RequestId>,
) -> Result<Vec<Option<Written>>, Error> {
    let tables = router.tables_of(writes.iter().map(|(name, _)| name.as_str()).collect()).await?;
    let mut seen = BTreeSet::new();
    let mut commands = Vec::with_capacity(writes.len());
    for (name, write) in writes {
        let Some(table) = tables.get(name.as_str()) else { continue };
        let (key, body) = match write {
            Write::Put(item) => {
                let stored = encode(item);
                let put = state::Put { item: stored.bytes, size: stored.size, ..state::Put::default() };
                let key = row_key(table, &table.key_of(item)?)?;
                table.check_index_keys(item)?;
                (key, Body::Put(put))
            }
            Write::Delete(key) => {
                table.check_key(key)?;
                (row_key(table, key)?, Body::Delete(state::Delete::default()))
            }
        };
        if !seen.insert(key.row.clone()) {
            return Err(Invalid::new("Provided list of item keys contains duplicates").into());
        }
        commands.push((table, key, body));
    }
    let admit = |(name, table): (&&str, &Table)| (name.to_string(), router.admit(table, Use::WRITE));
    let admitted: BTreeMap<String, Result<(), Error>> = tables.iter().map(admit).collect();
    // Ids of writes are told from their places among those that are sent: if the caller asks again, those are to be the same.
    if request_id.is_some() || admitted.values().all(Result::is_err) {
        admitted.values().cloned().collect::<Result<(), Error>>()?;
    }
    let is_admitted = |name: &str| admitted.get(name).is_some_and(Result::is_ok);
    let (places, commands): (Vec<usize>, Vec<_>) = commands
        .into_iter()
        .enumerate()
        .filter(|(at, _)| writes.get(*at).is_some_and(|(name, _)| is_admitted(name)))
        .unzip();
    let replies = write_all(router, commands, request_id).await;
    let mut done: Vec<Option<Written>> = vec![None; writes.len()];
    for (at, reply) in places.into_iter().zip(replies) {
        let written = written(reply?)?;
        if let Some(table) = tables.get(writes[at].0.as_str()) {
            router.charge(table, Asked::Write, || Consumed::write(&written));
        }
        done[at] = Some(written);
    }
    Ok(done)
}
