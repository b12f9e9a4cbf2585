//! Items as they were.

use std::time::Duration;

use trimaran_proto::api::database::update_table_request::Change;

use super::{Database, Item, Page, Pages, ReadOptions};
use crate::error::Error;

/// For how long a table's items can be read as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// So long.
    pub kept: Duration,
    /// From when on, milliseconds since 1970; `None` = not yet: the partitions are being told.
    pub since_ms: Option<u64>,
}

impl Database {
    /// Has what a table's items were kept for so long, a second to a week, or no more. Says so and returns: see
    /// [`TableDescription::history`](super::TableDescription::history) for when it has begun.
    pub async fn keep_history(&self, table: &str, kept: Option<Duration>) -> Result<(), Error> {
        let seconds = match kept.map(|kept| kept.as_secs()) {
            None => 0,
            // It would mean none.
            Some(0) => return Err(Error::Invalid("a history of less than a second".to_owned())),
            // The node says what is too long.
            Some(seconds) => u32::try_from(seconds).unwrap_or(u32::MAX),
        };
        self.update(table, Change::HistoryS(seconds)).await
    }

    /// The database as it was at the end of a millisecond since 1970, as far as its tables keep a history. All that is read of it
    /// fits together: of a transaction everything is seen, or nothing.
    pub fn as_of(&self, as_of_ms: u64) -> AsOf {
        AsOf { database: self.clone(), as_of_ms }
    }
}

/// A database as it was, see [`Database::as_of`].
///
/// Errors of all operations: [`Error::Invalid`] if the table keeps no history, or that millisecond is not over yet by the clocks of the
/// nodes; [`Error::Conflict`] if it is longer ago than is kept.
#[derive(Clone, Debug)]
pub struct AsOf {
    database: Database,
    as_of_ms: u64,
}

impl AsOf {
    fn options(&self, options: ReadOptions) -> ReadOptions {
        ReadOptions { as_of_ms: Some(self.as_of_ms), ..options }
    }

    /// See [`Database::get_item`].
    pub async fn get_item(&self, table: &str, key: Item) -> Result<Option<Item>, Error> {
        self.database.get(table, key, self.as_of_ms).await
    }

    /// See [`Database::batch_get`].
    pub async fn batch_get(&self, table: &str, keys: Vec<Item>) -> Result<Vec<Item>, Error> {
        self.database.batch(table, keys, self.as_of_ms).await
    }

    /// See [`Database::query`].
    pub async fn query(&self, table: &str, key_condition: &str, options: ReadOptions) -> Result<Page, Error> {
        self.database.query(table, key_condition, self.options(options)).await
    }

    /// See [`Database::scan`].
    pub async fn scan(&self, table: &str, options: ReadOptions) -> Result<Page, Error> {
        self.database.scan(table, self.options(options)).await
    }

    /// See [`Database::query_pages`].
    pub fn query_pages(&self, table: &str, key_condition: &str, options: ReadOptions) -> Pages {
        self.database.query_pages(table, key_condition, self.options(options))
    }

    /// See [`Database::scan_pages`]: all items of one moment.
    pub fn scan_pages(&self, table: &str, options: ReadOptions) -> Pages {
        self.database.scan_pages(table, self.options(options))
    }

    /// See [`Database::transact_get`].
    pub async fn transact_get(&self, keys: Vec<(&str, Item)>) -> Result<Vec<Option<Item>>, Error> {
        self.database.get_at_once(keys, self.as_of_ms).await
    }
}
