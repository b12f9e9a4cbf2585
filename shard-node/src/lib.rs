//! The hash-sharded database: replicated by Raft, on disk, also for DynamoDB clients.
//!
//! Global secondary indexes follow their items through [`index`]; [`transaction`] joins items of many partitions.
//!
//! The way of a request: [`front`] (decode) → [`op`] (check) → [`router`] (which partition, who leads it) → the group
//! → [`machine`] → [`op`] (apply) → [`store`] (rows in an engine) → back. [`item`], [`number`], [`table`], [`key`] and
//! [`expression`] are the data model, [`node`] starts all of it, [`limits`] names every bound.

pub mod config;

pub mod node;

pub mod front;

pub mod op;

pub mod router;

pub mod machine;

pub mod access;

pub mod index;

pub mod transaction;

pub mod store;
pub mod stream;

pub mod expression;

pub mod partiql;

pub mod item;

pub mod number;

pub mod table;

pub mod key;

pub mod keyspace;

pub mod capacity;
pub mod hot;
pub mod middle;
pub mod past;
pub mod throttle;

pub mod sweep;
pub mod verify;

pub mod limits;

pub mod error;

pub mod metrics;

pub use error::Error;
