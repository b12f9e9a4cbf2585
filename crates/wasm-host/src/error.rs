//! What can go wrong with a component, by whose fault it is.

/// Why a component was not taken, or did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The bytes are no component that this host can run.
    #[error("not a WebAssembly component that can run here: {0}")]
    NotAComponent(String),
    /// It imports what there is not, or does not export `wasi:http/incoming-handler`.
    #[error("the component does not fit the world wasi:http/proxy@0.2 with trimaran:data@0.1: {0}")]
    World(String),
    /// The compiled component could not be written or read.
    #[error("the compiled component cannot be kept at {path}: {reason}")]
    Cache {
        /// Where.
        path: String,
        /// What the operating system said.
        reason: String,
    },
    /// The engine could not start.
    #[error("the WebAssembly engine cannot start: {0}")]
    Engine(String),
    /// All instances of this host are in use.
    #[error("all {max} instances of this host are in use")]
    Instances {
        /// The limit.
        max: u32,
    },
    /// It ran for too long.
    #[error("the component did not end in time")]
    TimedOut,
    /// It wanted more memory than it may have, and ended.
    #[error("the component needs more than its {max} bytes of memory")]
    Memory {
        /// The limit, bytes.
        max: usize,
    },
    /// It trapped.
    #[error("the component trapped: {0}")]
    Trapped(String),
    /// It ended without an answer.
    #[error("the component returned without a response")]
    NoResponse,
    /// It answered with an error code of `wasi:http`.
    #[error("the component answered with an error: {0}")]
    Refused(String),
    /// The request cannot be given to a component.
    #[error("the request cannot be given to a component: {0}")]
    Request(String),
}
