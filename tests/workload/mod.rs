//! Loads that record a history.

pub mod registers;
