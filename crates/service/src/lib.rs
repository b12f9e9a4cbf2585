//! How a node process lives: [`config`] (defaults < file < environment < flags), [`telemetry`] (logs and metrics),
//! [`usage`] (of processors and memory), [`admin`] (liveness, readiness, metrics over HTTP), [`health`] (the same and
//! reflection over gRPC), [`shutdown`] (drain, then stop), [`entropy`] (the one place where randomness enters).

pub mod config;

pub mod telemetry;

pub mod usage;

pub mod admin;

pub mod health;

pub mod shutdown;

pub mod entropy;
