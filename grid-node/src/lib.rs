//! The memory data grid: a strongly consistent cache, replicated by Raft over many partitions.
//!
//! The way of a command: [`front`] (decode) → [`router`] (which partition, who leads it) → the group → [`machine`]
//! → [`command`] (what it does) → [`data`] (one file a data type) → back. [`access`] says who may do what, [`watch`] tells changes, [`tracking`] those who keep values, [`pubsub`] messages, [`waiters`] whose turn it is, [`lineage`] where they were before,
//! [`namespaces`] what tenants may use, [`expiry`] removes what is due, [`node`] starts all of it, [`limits`] names every bound.

pub mod config;

pub mod node;

pub mod front;

pub mod router;

pub mod machine;

pub mod data;

pub mod command;

pub mod watch;

pub mod waiters;

pub mod queue;

pub mod tracking;

pub mod access;

pub mod pubsub;

pub mod lineage;

pub mod expiry;

pub mod eviction;

pub mod memory;

pub mod namespaces;

pub mod limits;

pub mod error;

pub mod metrics;

pub use error::Error;
