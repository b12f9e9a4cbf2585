//! How nodes and clients talk.
//!
//! [`clock`] (time enters here and nowhere below), [`listen`] (sockets with errors that name the flag), [`http1`] (connections of HTTP/1.1 that end well), [`dial`] and
//! [`peers`] (lines to other nodes by node id), [`pipeline`] (many calls on one stream), [`status`] (error classes and their one table), [`retry`].

pub mod clock;

pub mod listen;

pub mod http1;

pub mod dial;
pub mod exchange;

pub mod peers;

pub mod pipeline;

pub mod status;

pub mod retry;

pub mod placement;
