//! How a connection is opened: through the operating system, or through a simulated network.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Uri};

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Silence after which a connection is asked whether it still lives, and how long it has to answer. Together they
/// bound how long a request waits on a peer whose machine vanished.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(2);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(2);

/// Flow-control windows: 64 KiB, HTTP/2's default, would cut an append of many entries into round trips.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections to "host:port".
pub trait Dial: Send + Sync + 'static {
    /// Opens one.
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// Through the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// A gRPC channel to "host:port" that connects when first used and again when broken.
///
/// Errors: [`io::ErrorKind::InvalidInput`] if the address is none.
pub fn channel(dial: &Arc<dyn Dial>, address: &str) -> io::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| io::Error::new(io::ErrorKind::InvalidInput, source))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_AFTER)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let dial = Arc::clone(dial);
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
        let dial = Arc::clone(&dial);
        async move {
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            dial.dial(authority).await.map(TokioIo::new)
        }
    })))
}
