//! Loads that record a history.

pub mod changes;
pub mod foreign;
pub mod locks;
pub mod moments;
pub mod registers;
pub mod strong;
pub mod transactions;

pub mod watches;
