//! Agrees on commands and applies them: many Raft groups in one process. The only crate that names openraft.
//!
//! The way of a command: [`Group::propose`](group::Group::propose) → `batch` (concurrent proposals become one entry)
//! → openraft → `log` (memory, or one flush for all groups) and `network` (one line a node pair) → `apply` (committed
//! runs, each request once) → [`Machine`](machine::Machine) → the reply. `rpc` is the receiving end of the line,
//! `snapshot` what a replica that fell behind gets instead of entries, `hibernation` why idle groups cost nothing,
//! [`Groups`](groups::Groups) holds all of it.

pub mod machine;

pub mod group;

pub mod members;

pub mod split;

pub mod merge;

pub mod groups;

pub mod session;

pub mod error;

pub mod planted;

mod apply;
mod batch;
mod codec;
mod dedup;
mod hibernation;
mod log;
mod network;
mod pace;
mod passing;
mod rpc;
mod sleepers;
mod snapshot;
mod types;

pub use error::Error;
