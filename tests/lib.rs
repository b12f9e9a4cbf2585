//! What the test programs share: [`harness`] (clusters of real processes), [`workload`] (loads that record a
//! history), [`model`] (what is right).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on panics, and tells what it sees"
)]

#[path = "harness/mod.rs"]
pub mod harness;

#[path = "workload/mod.rs"]
pub mod workload;

#[path = "model/mod.rs"]
pub mod model;
