//! Errors as DynamoDB's clients know them.

use hyper::StatusCode;
use serde_json::json;
use trimaran_net::status::{Class, Classified as _};

use super::json::Shown;
use crate::error::{Error, Invalid};
use crate::item::Item;
use crate::limits::BODY_BYTES_MAX;

const OURS: &str = "com.amazonaws.dynamodb.v20120810#";
const CORAL: &str = "com.amazon.coral.service#";
const VALIDATION: &str = "com.amazon.coral.validate#ValidationException";

/// A request that is not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    kind: String,
    message: String,
    item: Option<Item>,
}

impl Refusal {
    fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        let (kind, message) = (kind.into(), message.into());
        Self { status: StatusCode::BAD_REQUEST, kind, message, item: None }
    }

    /// JSON that is none, or of another shape.
    pub(super) fn serialization(message: impl Into<String>) -> Self {
        Self::new(format!("{CORAL}SerializationException"), message)
    }

    pub(super) fn unknown_operation() -> Self {
        Self::new(format!("{CORAL}UnknownOperationException"), "")
    }

    pub(super) fn too_large() -> Self {
        let message = format!("the request's body exceeds BODY_BYTES_MAX = {BODY_BYTES_MAX}");
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, ..Self::serialization(message) }
    }

    /// There is no such table.
    pub(super) fn no_table(name: &str) -> Self {
        let message = format!("Requested resource not found: Table: {name} not found");
        Self::new(format!("{OURS}ResourceNotFoundException"), message)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = json!({ "__type": self.kind, "message": self.message });
        if let Some(item) = &self.item {
            body["Item"] = serde_json::to_value(Shown(item)).unwrap_or_default();
        }
        body.to_string().into_bytes()
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::new(VALIDATION, invalid.to_string())
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Validation(invalid) => invalid.into(),
            Error::ConditionFailed { item } => {
                Self { item, ..Self::new(format!("{OURS}ConditionalCheckFailedException"), message) }
            }
            // Which one is said only where the table itself is asked for.
            Error::TableNotFound { .. } | Error::TableDropped => {
                Self::new(format!("{OURS}ResourceNotFoundException"), "Requested resource not found")
            }
            Error::TableInUse(_) => Self::new(format!("{OURS}ResourceInUseException"), message),
            Error::Limit { .. } => Self::new(format!("{OURS}LimitExceededException"), message),
            other if other.class() == Class::Exhausted => {
                Self::new(format!("{OURS}ProvisionedThroughputExceededException"), message)
            }
            // Clients try these again.
            other => {
                if other.class() == Class::Broken {
                    tracing::error!(error = %other, "a request cannot be answered");
                }
                let refusal = Self::new(format!("{OURS}InternalServerError"), message);
                Self { status: StatusCode::INTERNAL_SERVER_ERROR, ..refusal }
            }
        }
    }
}
