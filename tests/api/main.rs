//! The fronts as foreign clients see them: the real binary, raw sockets.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and tells what it sees"
)]

mod access;
mod backup;
mod coordination;
mod database;
mod differential;
mod dynamodb;
mod dynamodb_differential;
mod functions;
mod grpc;
mod http;
mod memory;
mod namespaces;
mod near_cache;
mod operators;
mod pubsub;
mod python;
mod redis_rs;
mod resp;
mod tracking;
