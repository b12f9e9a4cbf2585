//! Who is in a cluster, and who holds what.
//!
//! [`meta`] is the state that all nodes agree on; [`join`] how nodes find each other and how a cluster is born;
//! [`member`] a node's own view of it, kept up to date, and `serve` what others may ask of it; `liveness` says who is heard
//! of and `load` what they carry, `mover` what moves where, what is split or merged, and who votes in the meta group; [`replicas`] makes the groups on this node what the
//! descriptors say, and `merger` makes two of them one; [`identity`] who this node is, on disk, and [`home`] what else is there;
//! [`route`] finds who leads a partition; [`autoscale`] how many nodes there should be.
//!
//! Data never waits for any of this: every node has the whole table and is corrected by errors.

pub mod identity;

pub mod home;

pub mod join;

pub mod member;

pub mod meta;

pub mod autoscale;
pub mod bucket;

mod liveness;
mod load;
mod merger;
mod mover;
mod serve;

pub mod replicas;

pub mod route;

pub mod usage;

pub mod error;

pub use error::Error;
