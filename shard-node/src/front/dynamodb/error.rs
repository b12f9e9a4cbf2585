//! Errors as DynamoDB's clients know them.

use hyper::StatusCode;
use serde_json::json;
use trimaran_net::status::{Class, Classified as _};

use super::json::Shown;
use super::table::ARN;
use crate::access::Refused;
use crate::error::{Error, Invalid, Reason};
use crate::item::Item;
use crate::limits::BODY_BYTES_MAX;
use crate::throttle::{Limit, Throttled};

const OURS: &str = "com.amazonaws.dynamodb.v20120810#";
const CORAL: &str = "com.amazon.coral.service#";
const AVAILABILITY: &str = "com.amazon.coral.availability#";
const VALIDATION: &str = "com.amazon.coral.validate#ValidationException";

/// Errors whose message is called `Message` in the model of the service.
const CAPITAL: [&str; 3] = [
    "TransactionCanceledException",
    "IdempotentParameterMismatchException",
    "TransactionInProgressException",
];

/// A request that is not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    kind: String,
    message: String,
    item: Option<Item>,
    reasons: Option<Vec<Reason>>,
    throttled: Option<Box<Throttled>>,
}

impl Refusal {
    fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        let (kind, message) = (kind.into(), message.into());
        Self { status: StatusCode::BAD_REQUEST, kind, message, item: None, reasons: None, throttled: None }
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

    /// One that says which table there is not.
    pub(super) fn of_table(error: Error, name: &str) -> Self {
        match error {
            Error::TableNotFound { .. } => Self::no_table(name),
            other => other.into(),
        }
    }

    /// There is an item with its key.
    pub(super) fn duplicate_item() -> Self {
        Self::new(format!("{OURS}DuplicateItemException"), "Duplicate primary key exists in table")
    }

    /// Its name without where it is from, its text, and its item.
    pub(super) fn told(&self) -> (&str, &str, Option<&Item>) {
        let kind = self.kind.rsplit('#').next().unwrap_or_default();
        (kind, &self.message, self.item.as_ref())
    }

    /// The caller may not know whether there is such a thing.
    pub(super) fn access_denied(arn: &str) -> Self {
        Self::new(format!("{CORAL}AccessDeniedException"), format!("no access to the resource {arn}"))
    }

    /// The refusal of a value that an expression uses.
    pub(super) fn about_value(self, name: &str) -> Self {
        if self.kind != VALIDATION {
            return self;
        }
        let message =
            format!("ExpressionAttributeValues contains invalid value: {} for key {name}", self.message);
        Self { message, ..self }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = json!({ "__type": self.kind, "message": self.message });
        if CAPITAL.iter().any(|kind| self.kind.ends_with(kind)) {
            body["Message"] = self.message.as_str().into();
        }
        if let Some(reasons) = &self.reasons {
            let reasons = reasons.iter().map(|reason| {
                let mut shown = json!({ "Code": reason.code.unwrap_or("None") });
                if reason.code.is_some() {
                    shown["Message"] = reason.message.as_str().into();
                }
                if let Some(item) = &reason.item {
                    shown["Item"] = serde_json::to_value(Shown(item)).unwrap_or_default();
                }
                shown
            });
            body["CancellationReasons"] = reasons.collect::<Vec<_>>().into();
        }
        if let Some(throttled) = &self.throttled {
            let table = format!("{ARN}{}", throttled.table);
            let resource = match &throttled.index {
                Some(index) => format!("{table}/index/{index}"),
                None => table,
            };
            // Not all of the model's shapes have it with a capital.
            let field = if self.kind.ends_with("#ThrottlingException") {
                "throttlingReasons"
            } else {
                "ThrottlingReasons"
            };
            body[field] = json!([{ "reason": throttled.reason(), "resource": resource }]);
        }
        if let Some(item) = &self.item {
            body["Item"] = serde_json::to_value(Shown(item)).unwrap_or_default();
        }
        body.to_string().into_bytes()
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let kind = match refused {
            Refused::Missing => "MissingAuthenticationTokenException",
            Refused::Incomplete(_) => "IncompleteSignatureException",
            Refused::Unknown => "UnrecognizedClientException",
            Refused::Invalid(_) => "InvalidSignatureException",
        };
        Self::new(format!("{CORAL}{kind}"), refused.to_string())
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
            Error::IndexNotFound(_) | Error::StreamNotFound(_) | Error::AccessKeyNotFound(_) => {
                Self::new(format!("{OURS}ResourceNotFoundException"), message)
            }
            Error::HistoryTrimmed { .. } => Invalid::new(message).into(),
            Error::Trimmed => Self::new(format!("{OURS}TrimmedDataAccessException"), message),
            Error::IteratorExpired => Self::new(format!("{OURS}ExpiredIteratorException"), message),
            Error::Held => Self::new(format!("{OURS}TransactionConflictException"), message),
            Error::Cancelled(reasons) => Self {
                reasons: Some(reasons),
                ..Self::new(format!("{OURS}TransactionCanceledException"), message)
            },
            Error::TokenReused => Self::new(format!("{OURS}IdempotentParameterMismatchException"), message),
            Error::InProgress => Self::new(format!("{OURS}TransactionInProgressException"), message),
            Error::LimitExceeded(_) => Self::new(format!("{OURS}LimitExceededException"), message),
            Error::TableInUse(_) => Self::new(format!("{OURS}ResourceInUseException"), message),
            Error::Limit { .. } => Self::new(format!("{OURS}LimitExceededException"), message),
            Error::Throttled(throttled) => {
                let kind = match throttled.limit {
                    Limit::Provisioned => format!("{OURS}ProvisionedThroughputExceededException"),
                    Limit::MaxOnDemand => format!("{AVAILABILITY}ThrottlingException"),
                    Limit::Node => format!("{OURS}RequestLimitExceeded"),
                };
                Self { throttled: Some(throttled), ..Self::new(kind, message) }
            }
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
