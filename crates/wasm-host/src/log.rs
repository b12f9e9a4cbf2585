//! What guests write to stdout and stderr, line by line.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use crate::limits::LOG_LINE_BYTES_MAX;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes the lines of one instance. Must not wait.
pub trait Log: Send + Sync + 'static {
    /// One line, without its end.
    fn line(&self, stream: Stream, line: &str);
}

/// One of the two streams of an instance.
pub(crate) struct LogStream {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) stream: Stream,
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines { log: Arc::clone(&self.log), stream: self.stream, open: Vec::new() })
    }
}

/// Cuts what is written into lines. What is left without an end is a line when the stream is dropped.
struct Lines {
    log: Arc<dyn Log>,
    stream: Stream,
    open: Vec<u8>,
}

impl Lines {
    fn write(&mut self, bytes: &[u8]) {
        for (number, part) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if number > 0 {
                self.end();
            }
            for piece in part.chunks(LOG_LINE_BYTES_MAX) {
                if self.open.len() + piece.len() > LOG_LINE_BYTES_MAX {
                    self.end();
                }
                self.open.extend_from_slice(piece);
            }
        }
    }

    fn end(&mut self) {
        let line = String::from_utf8_lossy(&self.open);
        self.log.line(self.stream, line.trim_end_matches('\r'));
        self.open.clear();
    }
}

impl AsyncWrite for Lines {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.open.is_empty() {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Log for Kept {
        fn line(&self, _: Stream, line: &str) {
            self.0.lock().push(line.to_owned());
        }
    }

    #[test]
    fn lines_are_joined_cut_and_never_lost() {
        let kept = Arc::new(Kept::default());
        let log: Arc<dyn Log> = Arc::clone(&kept) as _;
        let mut lines = Lines { log, stream: Stream::Stdout, open: Vec::new() };
        lines.write(b"one\ntw");
        lines.write(b"o\r\n\nopen");
        lines.write(&vec![b'x'; LOG_LINE_BYTES_MAX]);
        drop(lines);
        let kept = kept.0.lock();
        assert_eq!(kept[..4], ["one", "two", "", "open"]);
        assert_eq!(kept[4].len(), LOG_LINE_BYTES_MAX);
        assert_eq!(kept.len(), 5);
    }
}
