//! Error classes: what a caller can do, and the one table from class to gRPC code and HTTP status.

use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};
use trimaran_proto::api::error::{ErrorDetail, Failure};

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Change the request.
    Invalid,
    /// There is nothing of that name.
    NotFound,
    /// Something stands in the way: a condition, an existing thing, a position no longer kept.
    Conflict,
    /// Ask the node that the error names, or another one, at once.
    Elsewhere,
    /// Try again later; nothing is wrong with the request, and it was not carried out.
    Later,
    /// It may or may not have been carried out: retry with the same request id.
    Unknown,
    /// A named limit was reached.
    Exhausted,
    /// This cannot work until somebody acts.
    Broken,
}

/// The table. One row a class: gRPC code, HTTP status.
const TABLE: [(Class, Code, u16); 8] = [
    (Class::Invalid, Code::InvalidArgument, 400),
    (Class::NotFound, Code::NotFound, 404),
    (Class::Conflict, Code::FailedPrecondition, 409),
    (Class::Elsewhere, Code::Unavailable, 503),
    (Class::Later, Code::Unavailable, 503),
    (Class::Unknown, Code::DeadlineExceeded, 504),
    (Class::Exhausted, Code::ResourceExhausted, 429),
    (Class::Broken, Code::Internal, 500),
];

impl Class {
    /// The gRPC code of the class.
    pub fn grpc(self) -> Code {
        TABLE.iter().find(|row| row.0 == self).map_or(Code::Unknown, |row| row.1)
    }

    /// The HTTP status of the class.
    pub fn http(self) -> u16 {
        TABLE.iter().find(|row| row.0 == self).map_or(500, |row| row.2)
    }
}

/// An error that a front can answer with.
pub trait Classified: std::error::Error {
    /// What the caller can do.
    fn class(&self) -> Class;

    /// Stable name, as in docs/errors, and where to go instead.
    fn detail(&self) -> ErrorDetail;
}

/// The gRPC answer for an error: class, text, and the detail message as binary details.
pub fn status(error: &impl Classified) -> Status {
    let details = Bytes::from(error.detail().encode_to_vec());
    Status::with_details(error.class().grpc(), error.to_string(), details)
}

/// The same as one of many answers on a stream.
pub fn failure(status: &Status) -> Failure {
    Failure {
        grpc_code: status.code() as u32,
        message: status.message().to_owned(),
        details: Bytes::copy_from_slice(status.details()),
    }
}

/// And back.
pub fn of_failure(failure: Failure) -> Status {
    let code = i32::try_from(failure.grpc_code).map_or(Code::Unknown, Code::from_i32);
    Status::with_details(code, failure.message, failure.details)
}

/// What an answer says beyond its code; empty if it came from elsewhere (a proxy, say).
pub fn detail(status: &Status) -> ErrorDetail {
    ErrorDetail::decode(status.details()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("partition 3 is led by replica 9")]
    struct NotLeader;

    impl Classified for NotLeader {
        fn class(&self) -> Class {
            Class::Elsewhere
        }

        fn detail(&self) -> ErrorDetail {
            ErrorDetail { code: "NOT_LEADER".into(), leader_address: "a:1".into(), ..Default::default() }
        }
    }

    #[test]
    fn the_detail_travels_with_the_status() {
        let status = status(&NotLeader);
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(detail(&status).leader_address, "a:1");
        let again = of_failure(failure(&status));
        assert_eq!((again.code(), again.message()), (status.code(), status.message()));
        assert_eq!(detail(&again), detail(&status));
        assert_eq!(detail(&Status::internal("a proxy")), ErrorDetail::default());
    }
}
