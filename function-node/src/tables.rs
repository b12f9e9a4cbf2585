//! The tables of the database that functions are kept in.

use trimaran_client::database::{Database, Item, KeyType, Table, Value};

use crate::error::Error;

/// One item a function: its newest revision.
pub(crate) const FUNCTIONS: &str = "trimaran.functions";

/// One item a revision; they never change.
pub(crate) const REVISIONS: &str = "trimaran.revisions";

/// One item a package: that it is stored, and when it was last asked for.
pub(crate) const PACKAGES: &str = "trimaran.packages";

/// The bytes of packages, in pieces.
pub(crate) const CHUNKS: &str = "trimaran.chunks";

/// Batches of log records.
pub(crate) const LOGS: &str = "trimaran.logs";

/// Makes those that are not there.
pub(crate) async fn create(database: &Database) -> Result<(), Error> {
    let table = |name: &str, partition: &str, sort: Option<(&str, KeyType)>| Table {
        name: name.to_owned(),
        partition_key: (partition.to_owned(), KeyType::S),
        sort_key: sort.map(|(name, kind)| (name.to_owned(), kind)),
    };
    let there = database.list_tables().await?;
    let wanted = [
        table(FUNCTIONS, "name", None),
        table(REVISIONS, "name", Some(("revision", KeyType::N))),
        table(PACKAGES, "digest", None),
        table(CHUNKS, "upload", Some(("chunk", KeyType::N))),
        table(LOGS, "function", Some(("at", KeyType::S))),
    ];
    let missing = wanted.into_iter().filter(|table| !there.contains(&table.name));
    let made = futures::future::join_all(missing.map(|table| database.create_table(table))).await;
    for outcome in made {
        match outcome {
            // Another node was faster.
            Ok(()) | Err(trimaran_client::Error::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(crate) fn text(item: &Item, name: &str) -> Result<String, Error> {
    match item.get(name) {
        Some(Value::S(text)) => Ok(text.clone()),
        _ => Err(damaged(name)),
    }
}

pub(crate) fn number(item: &Item, name: &str) -> Result<u64, Error> {
    match item.get(name) {
        Some(Value::N(number)) => number.parse().map_err(|_bad| damaged(name)),
        _ => Err(damaged(name)),
    }
}

pub(crate) fn bytes(item: &Item, name: &str) -> Result<bytes::Bytes, Error> {
    match item.get(name) {
        Some(Value::B(bytes)) => Ok(bytes.clone()),
        _ => Err(damaged(name)),
    }
}

/// A number as the database has it.
pub(crate) fn n(number: u64) -> Value {
    Value::N(number.to_string())
}

fn damaged(name: &str) -> Error {
    Error::CatalogDamaged(format!("attribute {name} is missing or of another type"))
}
