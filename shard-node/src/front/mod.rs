//! The protocols. A front decodes, calls one operation, and encodes; it holds no rule of the database.

pub mod dynamodb;
pub mod grpc;
pub mod internal;
mod pages;
mod watch;
