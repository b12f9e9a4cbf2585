//! Which partition a key is in and who holds it.
//!
//! Pure: no time, no I/O, no randomness, so that every node and every client computes the same. The way of a key:
//! [`token`] (key → 64-bit token) → [`table`] (token → partition, as it *is*); [`ring`] and [`plan`] say where the
//! replicas of a partition *should* be, [`moves`] how they get there, [`splits`]
//! when one partition should become two, [`merges`] when two should become one.

pub mod token;

pub mod table;

pub mod ring;

pub mod plan;

pub mod moves;

pub mod splits;

pub mod merges;

/// A node of a cluster: drawn at random on its first start and kept in its data folder.
pub type NodeId = u64;

/// A Raft group of a cluster. Never used twice.
pub type PartitionId = u64;

/// One copy of a partition. Never used twice, so that a copy that lost its memory cannot vote under its old name.
pub type ReplicaId = u64;
