//! What is right.

pub mod linearizable;
