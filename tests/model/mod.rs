//! What is right.

pub mod linearizable;
pub mod serializable;
