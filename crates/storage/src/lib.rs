//! Bytes that survive.
//!
//! [`disk`] is the only way to files, so that a test can take the power away; [`faulty`] is the disk that does.
//! [`wal`] is a write-ahead log that many writers share with one flush; [`mod@format`] is how everything stored is
//! framed: version, length, checksum. [`engine`] is ordered bytes behind one trait, with an engine in memory, one on
//! fjall and one on sled.

pub mod disk;

pub mod faulty;

pub mod format;

pub mod wal;

pub mod progress;

pub mod engine;

pub mod memory;

pub mod fjall;

pub mod sled;

pub mod faulty_engine;

#[cfg(test)]
mod conformance;

/// What went wrong with stored bytes, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused. Nothing after it may be trusted: stop, and say why.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, e.g. "write".
        action: &'static str,
        /// The file or folder.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// Stored bytes are not what was written: replace this copy from a replica or a backup.
    #[error("{path} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// Where in the file.
        offset: u64,
        /// What does not fit.
        what: String,
    },
    /// Written by a newer release: upgrade before opening it.
    #[error("{path} has format version {found}, this release reads up to {newest}")]
    TooNew {
        /// The file.
        path: String,
        /// Version in the file.
        found: u16,
        /// Newest version known here.
        newest: u16,
    },
    /// An earlier write or flush failed; this store takes no more.
    #[error("the store stopped after an earlier failure: {0}")]
    Poisoned(String),
    /// A key without bytes.
    #[error("a key has at least one byte")]
    EmptyKey,
    /// More bytes than the named limit.
    #[error("{bytes} bytes exceed {limit} = {max}")]
    TooLarge {
        /// Size asked for.
        bytes: usize,
        /// Name of the limit.
        limit: &'static str,
        /// The limit, bytes.
        max: usize,
    },
}

/// An error with all of its causes, for what is remembered of it.
pub(crate) fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl std::fmt::Display, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_string(), source }
    }
}
