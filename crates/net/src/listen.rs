//! Listening sockets, with errors that say which flag to change.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tracing::warn;

/// Connections that the operating system queues before they are accepted.
pub const BACKLOG: u32 = 1024;

/// A port could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}; choose another with {flag}")]
pub struct Error {
    /// What was asked for.
    pub address: SocketAddr,
    /// In the user's words.
    pub reason: &'static str,
    /// The flag that sets it, e.g. `--resp-listen`.
    pub flag: &'static str,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// Binds and listens. `flag` is the option that the user would change.
pub fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, Error> {
    try_listen(address).map_err(|source| {
        let reason = match source.kind() {
            io::ErrorKind::AddrInUse => "the port is taken",
            io::ErrorKind::PermissionDenied => "permission denied (ports below 1024 need root)",
            io::ErrorKind::AddrNotAvailable => "this machine does not have the address",
            _ => "the operating system refused",
        };
        Error { address, reason, flag, source }
    })
}

#[allow(clippy::disallowed_types, reason = "this is the one place where sockets are made")]
fn try_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    // A restarted node takes its port again at once; on Linux this does not share a port that is listened on.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The connections of a listener, as a gRPC server takes them. Without TCP_NODELAY an answer of a few bytes waits for
/// the acknowledgement of the one before: 40 ms on Linux.
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

/// A listener that lets a bounded number of connections in.
#[derive(Debug)]
pub struct Doorway {
    listener: TcpListener,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

/// A connection that has arrived. Its small answers leave at once (TCP_NODELAY).
#[derive(Debug)]
pub enum Arrival {
    /// It has a place, which it keeps as long as this is held.
    Admitted(TcpStream, SocketAddr, OwnedSemaphorePermit),
    /// All places are taken.
    Refused(TcpStream),
}

/// Pause after a connection could not be accepted: others may give back what is short.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(10);

impl Doorway {
    /// Lets `connections_max` in at once, until `stop`.
    pub fn new(listener: TcpListener, connections_max: usize, stop: CancellationToken) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections_max)), stop }
    }

    /// The next one; `None` once it stops.
    pub async fn next(&self) -> Option<Arrival> {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.stop.cancelled() => return None,
            };
            match accepted.and_then(|(stream, peer)| stream.set_nodelay(true).map(|()| (stream, peer))) {
                Ok((stream, peer)) => {
                    return Some(match Arc::clone(&self.places).try_acquire_owned() {
                        Ok(place) => Arrival::Admitted(stream, peer, place),
                        Err(_full) => Arrival::Refused(stream),
                    });
                }
                Err(error) => {
                    // Out of file handles, say: those that are open go on.
                    warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_more_than_there_are_places_is_refused_until_one_leaves() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), "--resp-listen").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let doorway = Doorway::new(listener, 1, stop.clone());
        let _clients = [
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        ];
        let Some(Arrival::Admitted(_, _, place)) = doorway.next().await else { panic!("there is a place") };
        assert!(matches!(doorway.next().await, Some(Arrival::Refused(_))));
        drop(place);
        assert!(matches!(doorway.next().await, Some(Arrival::Admitted(..))));
        stop.cancel();
        assert!(doorway.next().await.is_none());
    }

    #[tokio::test]
    async fn a_taken_port_names_the_flag() {
        let first = listen("127.0.0.1:0".parse().unwrap(), "--resp-listen").unwrap();
        let address = first.local_addr().unwrap();
        let refused = listen(address, "--resp-listen").unwrap_err().to_string();
        assert_eq!(
            refused,
            format!("cannot listen on {address}: the port is taken; choose another with --resp-listen")
        );
    }
}
