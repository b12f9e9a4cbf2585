//! Protocols: decode, one call to the router, encode. No rule of the product lives here but how a protocol says it.

pub mod grpc;

pub mod coordination;

pub mod backup;

pub mod namespaces;

pub mod resp;

pub(crate) mod watch;

pub(crate) mod http;

use crate::error::Error;
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// Refuses a key that is empty or too long.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::Invalid { field: "key", reason: "it must not be empty" });
    }
    check_length("key", "KEY_BYTES_MAX", key.len(), KEY_BYTES_MAX)
}

/// Refuses a value that is too long.
pub(crate) fn check_value(value: &[u8]) -> Result<(), Error> {
    check_length("value", "VALUE_BYTES_MAX", value.len(), VALUE_BYTES_MAX)
}

fn check_length(field: &'static str, limit: &'static str, actual: usize, max: usize) -> Result<(), Error> {
    if actual > max {
        Err(Error::Limit { field, limit, actual: actual as u64, max: max as u64 })
    } else {
        Ok(())
    }
}
