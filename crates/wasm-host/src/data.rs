//! What guests reach besides their request: the grid and the database, as `wit/data.wit` describes them.
//!
//! Whoever runs components implements [`Grid`] and [`Database`]; the types are those of the WIT file.

use async_trait::async_trait;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::or_fun_call, reason = "generated code")]
pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "data",
        imports: { default: async },
        require_store_data_send: true,
    });
}

pub use bindings::trimaran::data::database::{
    Item, KeyType, Page, Placeholders, ReadOptions, ReturnValues, Table, Value, WriteOptions,
};
pub use bindings::trimaran::data::errors::Error;
pub use bindings::trimaran::data::grid::{Condition, Entry, Swap};

use bindings::trimaran::data::{database, errors, grid};

use crate::state::State;

/// The memory grid, as `trimaran:data/grid`.
#[async_trait]
pub trait Grid: Send + Sync + 'static {
    /// The value of a key.
    async fn get(&self, key: String) -> Result<Option<Entry>, Error>;

    /// Sets a key; its version, or nothing if the condition does not hold.
    async fn set(
        &self,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
        condition: Condition,
    ) -> Result<Option<u64>, Error>;

    /// Deletes a key; false if there was none.
    async fn delete(&self, key: String) -> Result<bool, Error>;

    /// Adds to the integer that a key holds.
    async fn increment(&self, key: String, by: i64) -> Result<i64, Error>;

    /// Sets a key if it holds what is expected.
    async fn compare_and_swap(
        &self,
        key: String,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
    ) -> Result<Swap, Error>;

    /// Gives a key another time to live; false if there is no such key.
    async fn expire(&self, key: String, ttl_ms: Option<u64>) -> Result<bool, Error>;
}

/// The database, as `trimaran:data/database`.
#[async_trait]
pub trait Database: Send + Sync + 'static {
    /// Makes a table.
    async fn create_table(&self, table: Table) -> Result<(), Error>;

    /// The item with a key.
    async fn get_item(&self, table: String, key: Item) -> Result<Option<Item>, Error>;

    /// Replaces an item or makes it.
    async fn put_item(&self, table: String, item: Item, options: WriteOptions)
    -> Result<Option<Item>, Error>;

    /// Changes attributes of an item.
    async fn update_item(
        &self,
        table: String,
        key: Item,
        update: String,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error>;

    /// Removes an item.
    async fn delete_item(
        &self,
        table: String,
        key: Item,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error>;

    /// One page of items by their key.
    async fn query(&self, table: String, key_condition: String, options: ReadOptions) -> Result<Page, Error>;

    /// One page of all items.
    async fn scan(&self, table: String, options: ReadOptions) -> Result<Page, Error>;
}

impl errors::Host for State {}

impl grid::Host for State {
    async fn get(&mut self, key: String) -> Result<Option<Entry>, Error> {
        self.grid.get(key).await
    }

    async fn set(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
        condition: Condition,
    ) -> Result<Option<u64>, Error> {
        self.grid.set(key, value, ttl_ms, condition).await
    }

    async fn delete(&mut self, key: String) -> Result<bool, Error> {
        self.grid.delete(key).await
    }

    async fn increment(&mut self, key: String, by: i64) -> Result<i64, Error> {
        self.grid.increment(key, by).await
    }

    async fn compare_and_swap(
        &mut self,
        key: String,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
    ) -> Result<Swap, Error> {
        self.grid.compare_and_swap(key, expected, value).await
    }

    async fn expire(&mut self, key: String, ttl_ms: Option<u64>) -> Result<bool, Error> {
        self.grid.expire(key, ttl_ms).await
    }
}

impl database::Host for State {
    async fn create_table(&mut self, table: Table) -> Result<(), Error> {
        self.database.create_table(table).await
    }

    async fn get_item(&mut self, table: String, key: Item) -> Result<Option<Item>, Error> {
        self.database.get_item(table, key).await
    }

    async fn put_item(
        &mut self,
        table: String,
        item: Item,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error> {
        self.database.put_item(table, item, options).await
    }

    async fn update_item(
        &mut self,
        table: String,
        key: Item,
        update: String,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error> {
        self.database.update_item(table, key, update, options).await
    }

    async fn delete_item(
        &mut self,
        table: String,
        key: Item,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error> {
        self.database.delete_item(table, key, options).await
    }

    async fn query(
        &mut self,
        table: String,
        key_condition: String,
        options: ReadOptions,
    ) -> Result<Page, Error> {
        self.database.query(table, key_condition, options).await
    }

    async fn scan(&mut self, table: String, options: ReadOptions) -> Result<Page, Error> {
        self.database.scan(table, options).await
    }
}
