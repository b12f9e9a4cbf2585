//! Functions against `wasmtime serve` and a bare HTTP server: a component that says hello, an instance for every
//! request, all limits on.
//!
//! In turns, several rounds; the median of the rounds' ratios counts. The load is wrk's (Debian: wrk). The peer is
//! wasmtime-cli of the same major version, which `cargo install wasmtime-cli@48.0.8 --locked` puts on the PATH.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use trimaran_client::functions::{Functions, Runtime, Spec};
use trimaran_tests::harness::http::get;
use trimaran_tests::harness::process::{Dev, free_port};

use crate::server::{Server, median, start};

/// Of wasmtime-cli; the same as in the workspace.
const MAJOR: &str = "wasmtime 48.";

const CONNECTIONS: [usize; 3] = [1, 16, 64];

/// What a bare server costs: the floor.
pub(crate) async fn serve_hello(port: u16) {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let hello = service_fn(async |_: Request<Incoming>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello\n"))))
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), hello),
        );
    }
}

/// Requests per second, and the 99th percentile in milliseconds, as wrk says.
fn wrk(url: &str, connections: usize, seconds: u64) -> (f64, f64) {
    let output = Command::new("wrk")
        .args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{seconds}s"), url])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("wrk does not start: {error} (Debian: wrk)"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    let word = |line: &str| {
        let line = said
            .lines()
            .find(|found| found.trim_start().starts_with(line))
            .unwrap_or_else(|| panic!("{said}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let p99 = word("99%");
    let (number, unit) = p99.split_at(p99.find(|letter: char| letter.is_alphabetic()).unwrap());
    let scale = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        _ => 1000.0,
    };
    (word("Requests/sec:").parse().unwrap(), number.parse::<f64>().unwrap() * scale)
}

async fn wasmtime_serve(component: &Path) -> Server {
    let version = Command::new("wasmtime").arg("--version").output();
    let version =
        version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    assert!(
        version.starts_with(MAJOR),
        "{MAJOR}x is not on the PATH ({version:?}): cargo install wasmtime-cli@48.0.8 --locked"
    );
    let port = free_port();
    let arguments = [
        "serve".to_owned(),
        format!("--addr=127.0.0.1:{port}"),
        "-Wtimeout=300s,max-memory-size=134217728".to_owned(),
        // The guest's standard library asks for an environment.
        "-Scli".to_owned(),
        component.display().to_string(),
    ];
    start(Path::new("wasmtime"), port, &arguments).await
}

pub(crate) async fn run(rounds: usize, seconds: u64) {
    let component = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/hello.wasm");
    let dev = Dev::start(&["--in-memory", "--no-example"]).await;
    let functions = Functions::connect([dev.node.grpc.clone()]).unwrap();
    let bytes = std::fs::read(&component).unwrap();
    functions.deploy("hello", Spec::new(Runtime::Wasm), bytes.into()).await.unwrap();
    assert_eq!(get(&dev.node.front, "/hello/").await.text(), "hello\n");
    let wasmtime = wasmtime_serve(&component).await;
    let port = free_port();
    let this = std::env::current_exe().unwrap();
    let bare = start(&this, port, &["--serve-hello".to_owned(), port.to_string()]).await;

    let url = |port: u16| format!("http://127.0.0.1:{port}/");
    let sides = [url(bare.port), url(wasmtime.port), format!("http://{}/hello/", dev.node.front)];
    println!(
        "| hello, connections | bare hyper | wasmtime serve | function-node | / wasmtime serve | / bare | p99 ms of each |"
    );
    println!("|---|---|---|---|---|---|---|");
    for connections in CONNECTIONS {
        let mut rates: [Vec<f64>; 3] = Default::default();
        let mut tails: [Vec<f64>; 3] = Default::default();
        let (mut to_wasmtime, mut to_bare) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            for (side, url) in sides.iter().enumerate() {
                let (rate, tail) = wrk(url, connections, seconds);
                rates[side].push(rate);
                tails[side].push(tail);
            }
            let last = |side: usize| *rates[side].last().unwrap();
            to_wasmtime.push(last(2) / last(1));
            to_bare.push(last(2) / last(0));
        }
        let [bare, wasmtime, ours] = rates.each_mut().map(|rates| median(rates));
        let tails = tails.each_mut().map(|tails| format!("{:.2}", median(tails))).join(" / ");
        println!(
            "| {connections} | {bare:.0} | {wasmtime:.0} | {ours:.0} | {:.2} | {:.2} | {tails} |",
            median(&mut to_wasmtime),
            median(&mut to_bare)
        );
    }
}
