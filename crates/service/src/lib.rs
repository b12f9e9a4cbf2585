//! How a node process lives: [`config`] (defaults < file < environment < flags), [`telemetry`] (logs and metrics),
//! [`admin`] (liveness, readiness, metrics over HTTP), [`shutdown`] (drain, then stop), [`entropy`] (the one place
//! where randomness enters).

pub mod config;

pub mod telemetry;

pub mod admin;

pub mod shutdown;

pub mod entropy;
