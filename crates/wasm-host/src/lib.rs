//! Runs WebAssembly components: `wasi:http/proxy` (0.2), a fresh instance for every request.
//!
//! [`Host`] has the engine, the memory of all instances and the threads that guests run on, which are no others':
//! a guest that loops starves nobody. [`Program`] is a component ready to be instantiated; [`Program::call`] answers
//! one request under [`Limits`]. What guests may reach besides their request are the traits of [`data`].
//!
//! It knows no function catalog, and is a crate of its own because wasmtime makes it slow to build.

pub mod data;

pub mod error;

pub mod limits;

mod host;

mod log;

mod program;

mod state;

pub use error::Error;
pub use host::{Host, Options};
pub use limits::Limits;
pub use log::{Log, Stream};
pub use program::{Body, Call, Ended, Program};
