//! What can go wrong, by what the caller can do.

use tonic::{Code, Status};
use trimaran_net::status::detail;

/// Why a request was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Change the request. The text names the field and its limit.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// There is nothing of that name.
    #[error("not found: {0}")]
    NotFound(String),
    /// Something stands in the way: the key holds no integer, a condition does not hold, say.
    #[error("conflict: {0}")]
    Conflict(String),
    /// A lock or a semaphore is not held any more, or may not be: what it was for must stop.
    #[error("the lease is lost: {0}")]
    LeaseLost(String),
    /// A watch cannot go back that far: read the keys again and begin anew.
    #[error("too late: {0}")]
    Compacted(String),
    /// A named limit of the service was reached; try again later.
    #[error("exhausted: {0}")]
    Exhausted(String),
    /// No node answered in time. A write may or may not have been carried out.
    #[error("no node answered in time: {0}")]
    Unavailable(String),
    /// Somebody has to act; the text says why.
    #[error("broken: {0}")]
    Broken(String),
    /// An address given to the client is none.
    #[error("not an address: {0}")]
    Address(String),
}

impl Error {
    pub(crate) fn from_code(code: Code, message: String) -> Self {
        match code {
            Code::InvalidArgument => Self::Invalid(message),
            Code::NotFound => Self::NotFound(message),
            Code::FailedPrecondition => Self::Conflict(message),
            Code::OutOfRange => Self::Compacted(message),
            Code::ResourceExhausted => Self::Exhausted(message),
            Code::Internal | Code::Unimplemented | Code::DataLoss => Self::Broken(message),
            _ => Self::Unavailable(message),
        }
    }

    pub(crate) fn from_status(status: &Status) -> Self {
        // HTTP/2 has this code for a connection that broke; what a node says of itself has a name.
        let is_of_a_node = status.code() != Code::Internal || !detail(status).code.is_empty();
        let code = if is_of_a_node { status.code() } else { Code::Unavailable };
        Self::from_code(code, status.message().to_owned())
    }

    /// True if another attempt may succeed.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
