//! What running code may reach: one file a capability.

pub(crate) mod database;
pub(crate) mod grid;

use trimaran_client::Error;
use trimaran_wasm_host::data;

/// The SDK's errors as components see them.
fn error(error: Error) -> data::Error {
    match error {
        Error::Invalid(text) | Error::Address(text) => data::Error::Invalid(text),
        Error::NotFound(text) => data::Error::NotFound(text),
        Error::Conflict(text) | Error::Compacted(text) | Error::LeaseLost(text) => {
            data::Error::Conflict(text)
        }
        Error::Exhausted(text) => data::Error::Exhausted(text),
        Error::Unavailable(text) => data::Error::Unavailable(text),
        Error::Broken(text) => data::Error::Broken(text),
    }
}
