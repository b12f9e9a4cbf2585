//! The Rust SDK of Trimaran.
//!
//! A client is told the addresses of some nodes, learns the partition table from them, and from then on sends each
//! request straight to the leader of its partition. Errors correct it; requests are retried with a request id, so that
//! a retry never applies a write twice.
//!
//! ```no_run
//! # async fn example() -> Result<(), trimaran_client::Error> {
//! use trimaran_client::grid::{Grid, SetOptions};
//!
//! let grid = Grid::connect(["127.0.0.1:7002"]).await?;
//! grid.set("greeting", "hello").await?;
//! assert_eq!(grid.get("greeting").await?.as_deref(), Some(&b"hello"[..]));
//!
//! // Atomic counters, and values that go by themselves.
//! assert_eq!(grid.increment("visits", 1).await?, 1);
//! let ttl = SetOptions { ttl: Some(std::time::Duration::from_secs(60)), ..SetOptions::default() };
//! grid.set_with("session", "abc", ttl).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Locks whose holder stops when its lease is lost, and whose late writes are refused; values that are kept until they change:
//!
//! ```no_run
//! # async fn example(grid: trimaran_client::grid::Grid) -> Result<(), trimaran_client::Error> {
//! use std::time::Duration;
//! use trimaran_client::near_cache::{NearCache, Options};
//!
//! if let Some(guard) = grid.lock("{order-17}/lock").acquire(Duration::from_secs(30)).await? {
//!     guard.run(async { guard.grid().set("{order-17}/state", "paid").await }).await??;
//!     guard.release().await?;
//! }
//! let settings = NearCache::begin(&grid, "settings/", Options::default()).await?;
//! let colour = settings.get("settings/colour").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Tables of items with typed attributes; conditions and updates are expressions, as DynamoDB users know them:
//!
//! ```no_run
//! # async fn example() -> Result<(), trimaran_client::Error> {
//! use trimaran_client::database::{Database, Item, KeyType, Placeholders, ReturnValues, Table, WriteOptions};
//!
//! let database = Database::connect(["127.0.0.1:7003"]).await?;
//! let key = ("code".to_owned(), KeyType::S);
//! database.create_table(Table { name: "links".into(), partition_key: key, sort_key: None }).await?;
//! let link = Item::from([("code".into(), "rust".into()), ("target".into(), "https://rust-lang.org".into())]);
//! database.put_item("links", link).await?;
//!
//! let key = Item::from([("code".into(), "rust".into())]);
//! let count = WriteOptions {
//!     placeholders: Placeholders::default().value(":one", 1),
//!     return_values: ReturnValues::UpdatedNew,
//!     ..WriteOptions::default()
//! };
//! let clicks = database.update_item("links", key, "ADD clicks :one", count).await?;
//! # Ok(())
//! # }
//! ```

//! Functions that use both; the service keeps their code and starts it when it is called:
//!
//! ```no_run
//! # async fn example(component: bytes::Bytes) -> Result<(), trimaran_client::Error> {
//! use trimaran_client::functions::{Functions, Request, Runtime, Spec};
//!
//! let functions = Functions::connect(["127.0.0.1:7001"])?;
//! functions.deploy("shorten", Spec::new(Runtime::Wasm), component).await?;
//! let request = Request { body: "https://www.rust-lang.org".into(), ..Request::default() };
//! let response = functions.invoke("shorten", request).await?;
//! assert_eq!(response.status, 201);
//! # Ok(())
//! # }
//! ```

pub mod error;

pub mod functions;

pub mod grid;

pub mod backup;

pub mod namespaces;

pub mod coordination;

pub mod near_cache;

pub mod watch;

pub mod database;

mod route;

pub use error::Error;
