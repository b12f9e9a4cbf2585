//! What can go wrong with a function, by what the caller can do.

use std::time::Duration;

use trimaran_net::status::{Class, Classified};
use trimaran_proto::api::error::ErrorDetail;

/// Why a request was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Change the request. The text names the field and its limit.
    #[error("{0}")]
    Invalid(String),
    /// There is no such function.
    #[error("there is no function {0:?}")]
    FunctionNotFound(String),
    /// Deploy again with the package.
    #[error("the package {0} is not stored: send it")]
    PackageMissing(String),
    /// The bytes are not what they were announced to be, or no such code.
    #[error("the package cannot be used: {0}")]
    BadPackage(String),
    /// Two wanted to change the function at once; look and try again.
    #[error("the function {0:?} was changed meanwhile")]
    ChangedMeanwhile(String),
    /// All instances are busy, and enough requests wait.
    #[error("{max} requests wait for {function:?} already (its limit `queue`)")]
    QueueFull {
        /// The function.
        function: String,
        /// The limit.
        max: u32,
    },
    /// No instance was free in time.
    #[error("no instance of {function:?} was free within {after:?}")]
    NoInstance {
        /// The function.
        function: String,
        /// Its timeout.
        after: Duration,
    },
    /// The node has no room for another instance.
    #[error("the node runs {max} component instances already (its option `wasm_instances_max`)")]
    NodeFull {
        /// The limit.
        max: u32,
    },
    /// It did not end within its time.
    #[error("the function did not end within its timeout")]
    TimedOut,
    /// It could not be started.
    #[error("the function does not start: {0}")]
    StartFailed(String),
    /// It broke down, or answered what is no HTTP.
    #[error("the function failed: {0}")]
    Failed(String),
    /// It wanted more memory than it may have.
    #[error("the function needs more than its {max} bytes of memory (its limit `memory_bytes`)")]
    OutOfMemory {
        /// The limit, bytes.
        max: u64,
    },
    /// The answer is larger than one message may be; use `InvokeStream`.
    #[error("the response is larger than {max} bytes: use InvokeStream or HTTP")]
    ResponseTooLarge {
        /// The limit, bytes.
        max: usize,
    },
    /// The node is not ready, or stops.
    #[error("the node does not take requests yet, or no longer")]
    NotReady,
    /// The database, which has the catalog, did not answer.
    #[error("the catalog of functions cannot be reached: {0}")]
    Catalog(#[from] trimaran_client::Error),
    /// What the database holds cannot be read: written by a later release, or by somebody else.
    #[error("the catalog of functions cannot be read: {0}")]
    CatalogDamaged(String),
    /// The disk of this node.
    #[error("this node cannot keep code on its disk: {0}")]
    Disk(String),
}

impl From<trimaran_wasm_host::Error> for Error {
    fn from(error: trimaran_wasm_host::Error) -> Self {
        use trimaran_wasm_host::Error as Wasm;
        match error {
            Wasm::NotAComponent(_) | Wasm::World(_) => Self::BadPackage(error.to_string()),
            Wasm::Cache { .. } => Self::Disk(error.to_string()),
            Wasm::Engine(_) => Self::StartFailed(error.to_string()),
            Wasm::Instances { max } => Self::NodeFull { max },
            Wasm::TimedOut => Self::TimedOut,
            Wasm::Memory { max } => Self::OutOfMemory { max: max as u64 },
            Wasm::Trapped(_) | Wasm::NoResponse | Wasm::Refused(_) => Self::Failed(error.to_string()),
            Wasm::Request(_) => Self::Invalid(error.to_string()),
        }
    }
}

impl Error {
    /// The stable name, as in docs/errors.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "VALIDATION",
            Self::FunctionNotFound(_) => "FUNCTION_NOT_FOUND",
            Self::PackageMissing(_) => "PACKAGE_MISSING",
            Self::BadPackage(_) => "PACKAGE_UNUSABLE",
            Self::ChangedMeanwhile(_) => "CHANGED_MEANWHILE",
            Self::QueueFull { .. } => "QUEUE_FULL",
            Self::NoInstance { .. } => "NO_INSTANCE",
            Self::NodeFull { .. } => "NODE_FULL",
            Self::TimedOut => "FUNCTION_TIMED_OUT",
            Self::StartFailed(_) => "FUNCTION_START_FAILED",
            Self::Failed(_) => "FUNCTION_FAILED",
            Self::OutOfMemory { .. } => "FUNCTION_OUT_OF_MEMORY",
            Self::ResponseTooLarge { .. } => "RESPONSE_TOO_LARGE",
            Self::NotReady => "NOT_READY",
            Self::Catalog(_) => "CATALOG_UNREACHABLE",
            Self::CatalogDamaged(_) => "CATALOG_DAMAGED",
            Self::Disk(_) => "CODE_NOT_KEPT",
        }
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Invalid(_) | Self::BadPackage(_) => Class::Invalid,
            Self::FunctionNotFound(_) => Class::NotFound,
            Self::PackageMissing(_) | Self::ChangedMeanwhile(_) => Class::Conflict,
            Self::QueueFull { .. } | Self::ResponseTooLarge { .. } => Class::Exhausted,
            Self::NoInstance { .. } | Self::NodeFull { .. } | Self::NotReady | Self::Catalog(_) => {
                Class::Later
            }
            Self::TimedOut => Class::Unknown,
            Self::StartFailed(_)
            | Self::Failed(_)
            | Self::OutOfMemory { .. }
            | Self::CatalogDamaged(_)
            | Self::Disk(_) => Class::Broken,
        }
    }

    fn detail(&self) -> ErrorDetail {
        ErrorDetail { code: self.code().into(), ..ErrorDetail::default() }
    }
}
