//! BatchGetItem: many items by their keys; each as new as everything acknowledged before, but not all of one moment.

use std::collections::BTreeSet;

use super::get_item::{Found, decode};
use crate::capacity::{Consumed, Use};
use crate::error::{Error, Invalid};
use crate::expression::evaluate::project;
use crate::expression::parse::{self, Placeholders};
use crate::expression::{Path, Stated};
use crate::hot::Asked as Asking;
use crate::item::Item;
use crate::key::{RowKey, row_key};
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
    /// See [`get_item::Request::consistent`](super::get_item::Request::consistent).
    pub consistent: bool,
}

/// What was found of one table.
#[derive(Debug, Default)]
pub struct Items {
    /// Items that are there, in no order.
    pub items: Vec<Item>,
    /// Positions of keys that were not looked up, because the answer became too large or the table is asked too much.
    pub unprocessed: Vec<usize>,
    /// What it cost.
    pub consumed: Consumed,
}

/// Looks keys up, of several tables at once; the answers stand as the questions do. With `as_of_ms` all items are as they were at the end of
/// that millisecond since 1970.
///
/// Errors: [`Error::Throttled`] if all of the tables are asked too much.
pub async fn run(router: &Router, tables: Vec<Keys>, as_of_ms: Option<u64>) -> Result<Vec<Items>, Error> {
    let count: usize = tables.iter().map(|table| table.keys.len()).sum();
    if count == 0 || count > BATCH_GET_KEYS_MAX {
        return Err(Invalid::new("Too many items requested for the BatchGetItem call").into());
    }
    let mut asked = Vec::with_capacity(tables.len());
    for Keys { table, keys, projection, mut placeholders, consistent } in tables {
        let parse = |stated: Stated<_>| stated.parse(|text| parse::projection(text, &mut placeholders));
        let projection = projection.map(parse).transpose()?;
        placeholders.check_used()?;
        asked.push(Asked { table, keys, projection, consistent });
    }
    match attempt(router, &asked, as_of_ms).await {
        // Deleted, and perhaps made again under the same name.
        Err(Error::TableDropped) => {
            router.refresh_tables().await?;
            attempt(router, &asked, as_of_ms).await
        }
        outcome => outcome,
    }
}

/// Of one table, as far as it could be checked without it.
struct Asked {
    table: String,
    keys: Vec<Item>,
    projection: Option<Vec<Path>>,
    consistent: bool,
}

async fn attempt(router: &Router, asked: &[Asked], as_of_ms: Option<u64>) -> Result<Vec<Items>, Error> {
    let mut tables = Vec::with_capacity(asked.len());
    let mut as_of = 0;
    // Each with its table and its place there.
    let mut wanted = Vec::new();
    for (position, Asked { table, keys, .. }) in asked.iter().enumerate() {
        let table = router.table(table).await?;
        as_of = router.as_of(&table, as_of_ms)?;
        let mut seen = BTreeSet::new();
        for (place, key) in keys.iter().enumerate() {
            table.check_key(key)?;
            let key = row_key(&table, key)?;
            if !seen.insert(key.row.clone()) {
                return Err(Invalid::new("Provided list of item keys contains duplicates").into());
            }
            wanted.push(((position, place), key));
        }
        tables.push(table);
    }
    let admitted: Vec<Result<(), Error>> =
        tables.iter().map(|table| router.admit(table, Use::read(None))).collect();
    let is_admitted = |position: usize| admitted[position].is_ok();
    let mut found: Vec<Items> = asked.iter().map(|_| Items::default()).collect();
    let (wanted, later): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|((position, _), _)| is_admitted(*position));
    if wanted.is_empty() {
        admitted.into_iter().collect::<Result<(), Error>>()?;
    }
    for ((position, place), _) in later {
        found[position].unprocessed.push(place);
    }
    let (places, wanted): (Vec<_>, Vec<RowKey>) = wanted.into_iter().unzip();
    let answers = router.get_as_of(wanted, as_of).await;
    let mut bytes = 0;
    for ((position, place), answer) in places.into_iter().zip(answers) {
        let Found { item, size } = decode(answer?)?;
        if bytes > BATCH_GET_BYTES_MAX {
            found[position].unprocessed.push(place);
            continue;
        }
        bytes += size as usize;
        let paths = asked[position].projection.as_ref();
        let shown = item.map(|item| paths.map_or_else(|| item.clone(), |paths| project(&item, paths)));
        found[position].items.extend(shown);
        found[position].consumed.add(Consumed::read(None, size.into(), asked[position].consistent));
    }
    for (table, found) in tables.iter().zip(&found) {
        router.charge(table, Asking::Read, || found.consumed.clone());
    }
    Ok(found)
}
