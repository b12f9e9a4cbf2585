//! Listening sockets, with errors that say which flag to change.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

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

#[cfg(test)]
mod tests {
    use super::*;

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
