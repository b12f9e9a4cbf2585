//! BatchWriteItem: many puts and deletes; each as one, not all of them.

use std::collections::BTreeSet;

use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;
use trimaran_replication::session::RequestId;

use super::{Written, check_item, encode, written};
use crate::error::{Error, Invalid};
use crate::item::Item;
use crate::key::row_key;
use crate::limits::BATCH_WRITE_REQUESTS_MAX;
use crate::router::Router;

/// One write.
#[derive(Clone, Debug)]
pub enum Write {
    /// Replace or make this item.
    Put(Item),
    /// Remove the item with this key.
    Delete(Item),
}

/// Carries out writes; each with the name of its table. Returns what each did. With a `request_id`, what was done
/// is not done again if the caller asks again.
pub async fn run(
    router: &Router,
    writes: Vec<(String, Write)>,
    request_id: Option<RequestId>,
) -> Result<Vec<Written>, Error> {
    if writes.is_empty() || writes.len() > BATCH_WRITE_REQUESTS_MAX {
        return Err(Invalid::new("Too many items requested for the BatchWriteItem call").into());
    }
    for (_, write) in &writes {
        if let Write::Put(item) = write {
            check_item(item)?;
        }
    }
    match attempt(router, &writes, request_id).await {
        // A put or a delete may be done twice. What went to the table of before is gone with it.
        Err(Error::TableDropped) => {
            router.refresh_tables().await?;
            attempt(router, &writes, request_id).await
        }
        outcome => outcome,
    }
}

async fn attempt(
    router: &Router,
    writes: &[(String, Write)],
    request_id: Option<RequestId>,
) -> Result<Vec<Written>, Error> {
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
        commands.push((key, body));
    }
    let replies = router.write_all(commands, request_id).await;
    replies.into_iter().map(|reply| written(reply?)).collect()
}
