//! Processes that are measured, and what is made of the figures.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;
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

impl Server {
    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

/// Microseconds of a processor that a process has used, its own and the kernel's for it. Source: proc(5), `/proc/PID/stat`.
pub(crate) fn processor_us(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Behind the name, which may have anything in it: the state is the first, times are the 12th and the 13th.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    ticks * 1e6 / rustix::param::clock_ticks_per_second() as f64
}

/// Bytes of memory that a process has. Source: proc(5), `/proc/PID/statm`.
pub(crate) fn memory_bytes(process: u32) -> f64 {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    let pages: f64 = statm.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as f64
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What clients do per second that each do one thing after the other: they count it, until they are to stop.
pub(crate) async fn load<F: Future<Output = ()> + Send + 'static>(
    clients: usize,
    seconds: u64,
    client: impl Fn(usize, StdRng, Arc<AtomicBool>, Arc<AtomicU64>) -> F,
) -> f64 {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|number| {
            let random = StdRng::seed_from_u64(number as u64);
            tokio::spawn(client(number, random, Arc::clone(&stop), Arc::clone(&done)))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let rate = done.load(Ordering::Acquire) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Release);
    for client in clients {
        client.await.unwrap();
    }
    rate
}
