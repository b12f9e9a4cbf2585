//! Clusters of real processes under kills, with recorded and checked histories.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and tells what it sees"
)]

mod autoscale;
mod backup;
mod compose_kill;
mod faults;
mod grid_kill;
mod grow_and_shrink;
mod hibernation;
mod kubernetes;
mod locks;
mod merges;
mod network;
mod shard_kill;
mod splits;
mod transactions;
mod trio_kill;
mod upgrade;
