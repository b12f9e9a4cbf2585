//! Runs functions: code that takes nothing until it is called. One admission path, several runtimes.
//!
//! A request finds its function and revision (`catalog`), waits in a bounded queue if no instance is free (`pool`),
//! runs under limits (`runtime`), and answers; its log and its times are kept (`invocation`, `logs`). A node has no
//! state that another does not find: catalog, packages and logs are in the database, reached through the SDK.

pub mod config;

pub mod error;

pub mod limits;

pub mod node;

mod catalog;

mod front;

mod host;

mod invocation;

mod logs;

mod metrics;

mod package;

mod pool;

mod router;

mod runtime;

mod scale;

mod spec;

mod tables;

pub use error::Error;
