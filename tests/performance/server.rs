//! Processes that are measured, and what is made of the figures.

use std::process::{Child, Command, Stdio};

use trimaran_tests::harness::until;

/// A server that ends with this.
pub(crate) struct Server {
    pub(crate) port: u16,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Starts a program and waits until its port is open.
pub(crate) async fn start(program: &std::path::Path, port: u16, arguments: &[String]) -> Server {
    let child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
    let server = Server { port, child };
    until("the server answers", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok())
        .await;
    server
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
