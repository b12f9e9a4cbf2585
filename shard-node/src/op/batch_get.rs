//! BatchGetItem: many items by their keys; each as new as everything acknowledged before, but not all of one moment.

use std::collections::BTreeSet;

use super::get_item::{Found, decode};
use crate::error::{Error, Invalid};
use crate::expression::evaluate::project;
use crate::expression::parse::{self, Placeholders};
use crate::expression::{Path, Stated};
use crate::item::Item;
use crate::key::row_key;
use crate::limits::{BATCH_GET_BYTES_MAX, BATCH_GET_KEYS_MAX};
use crate::router::Router;

/// What is asked of one table.
#[derive(Debug, Default)]
pub struct Keys {
    /// Name of the table.
    pub table: String,
    /// The keys.
    pub keys: Vec<Item>,
    /// Parts of the items; all of them if absent.
    pub projection: Option<Stated<Vec<Path>>>,
    /// For the projection.
    pub placeholders: Placeholders,
}

/// What was found of one table.
#[derive(Debug, Default)]
pub struct Items {
    /// Items that are there, in no order, with the bytes that they count for.
    pub items: Vec<(Item, u32)>,
    /// Keys that nothing was found for.
    pub missing: usize,
    /// Positions of keys that were not looked up, because the answer became too large.
    pub unprocessed: Vec<usize>,
}

/// Looks keys up, of several tables at once; the answers stand as the questions do.
pub async fn run(router: &Router, tables: Vec<Keys>) -> Result<Vec<Items>, Error> {
    let count: usize = tables.iter().map(|table| table.keys.len()).sum();
    if count == 0 || count > BATCH_GET_KEYS_MAX {
        return Err(Invalid::new("Too many items requested for the BatchGetItem call").into());
    }
    let mut asked = Vec::with_capacity(tables.len());
    for Keys { table, keys, projection, mut placeholders } in tables {
        let parse = |stated: Stated<_>| stated.parse(|text| parse::projection(text, &mut placeholders));
        let projection = projection.map(parse).transpose()?;
        placeholders.check_used()?;
        asked.push(Asked { table, keys, projection });
    }
    match attempt(router, &asked).await {
        // Deleted, and perhaps made again under the same name.
        Err(Error::TableDropped) => {
            router.refresh_tables().await?;
            attempt(router, &asked).await
        }
        outcome => outcome,
    }
}

/// Of one table, as far as it could be checked without it.
struct Asked {
    table: String,
    keys: Vec<Item>,
    projection: Option<Vec<Path>>,
}

async fn attempt(router: &Router, tables: &[Asked]) -> Result<Vec<Items>, Error> {
    // Each with its table and its place there.
    let (mut places, mut wanted) = (Vec::new(), Vec::new());
    for (position, Asked { table, keys, .. }) in tables.iter().enumerate() {
        let table = router.table(table).await?;
        let mut seen = BTreeSet::new();
        for (place, key) in keys.iter().enumerate() {
            table.check_key(key)?;
            let key = row_key(&table, key)?;
            if !seen.insert(key.row.clone()) {
                return Err(Invalid::new("Provided list of item keys contains duplicates").into());
            }
            places.push((position, place));
            wanted.push(key);
        }
    }
    let answers = router.get(wanted).await;
    let mut found: Vec<Items> = tables.iter().map(|_| Items::default()).collect();
    let mut bytes = 0;
    for ((position, place), answer) in places.into_iter().zip(answers) {
        let Found { item, size } = decode(answer?)?;
        if bytes > BATCH_GET_BYTES_MAX {
            found[position].unprocessed.push(place);
            continue;
        }
        bytes += size as usize;
        let paths = tables[position].projection.as_ref();
        let shown = item.map(|item| paths.map_or_else(|| item.clone(), |paths| project(&item, paths)));
        found[position].missing += usize::from(shown.is_none());
        found[position].items.extend(shown.map(|item| (item, size)));
    }
    Ok(found)
}
