//! What every runtime keeps: one suite, run over each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use trimaran_client::functions::{Functions, LogOptions, LogRecord, Report, Spec, What};
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_proto::api::functions as wire;
use trimaran_proto::api::functions::functions_client::FunctionsClient;
use trimaran_proto::api::functions::invoke_stream_reply::Part as ReplyPart;
use trimaran_proto::api::functions::invoke_stream_request::Part as RequestPart;
use trimaran_tests::harness::http::{Answer, begin, get, request, send, try_send};
use trimaran_tests::harness::process::Dev;
use trimaran_tests::harness::{PATIENCE, until};

use super::{Kind, dev};

/// The probe as a function of some spec.
struct Probe {
    dev: Dev,
    functions: Functions,
    kind: Kind,
}

impl Probe {
    async fn start(kind: Kind) -> Self {
        let (dev, functions) = dev().await;
        Self { dev, functions, kind }
    }

    async fn deploy(&self, name: &str, change: impl FnOnce(&mut Spec)) {
        let (mut spec, package) = self.kind.probe();
        change(&mut spec);
        self.functions.deploy(name, spec, package).await.unwrap();
    }

    fn http(&self) -> &str {
        &self.dev.node.front
    }

    async fn get(&self, path: &str) -> Answer {
        get(self.http(), path).await
    }

    async fn logs(&self, function: &str, invocation_id: &str) -> Vec<LogRecord> {
        let options = LogOptions { invocation_id: invocation_id.to_owned(), ..LogOptions::default() };
        let records = self.functions.logs(function, options).await.unwrap();
        records.map(Result::unwrap).collect().await
    }

    /// True if the function has no request, running or waiting.
    async fn is_idle(&self, function: &str) -> bool {
        let now = self.functions.describe(function).await.unwrap();
        now.running == 0 && now.queued == 0
    }

    async fn report(&self, function: &str, answer: &Answer) -> Report {
        let id = answer.header("x-trimaran-invocation-id").to_owned();
        assert!(!id.is_empty(), "{answer:?}");
        let mut report = None;
        // The invocation ends a moment after its caller has read the last byte.
        until("the invocation is reported", async || {
            let mut records = self.logs(function, &id).await;
            report = records.pop().and_then(|record| match record.what {
                Some(What::Report(report)) => Some(report),
                _ => None,
            });
            report.is_some()
        })
        .await;
        report.unwrap()
    }
}

async fn requests_and_answers_arrive_as_they_were_sent(kind: Kind) {
    let probe = Probe::start(kind).await;
    probe
        .deploy("probe", |spec| {
            spec.environment.insert("GREETING".into(), "hello".into());
        })
        .await;
    let mut asked = request(probe.http(), Method::PUT, "/probe/request?a=1&b=%20", "body");
    asked.headers_mut().insert("x-mine", "mine".parse().unwrap());
    asked.headers_mut().insert("connection", "x-hop".parse().unwrap());
    asked.headers_mut().insert("x-hop", "hop".parse().unwrap());
    let seen = try_send(probe.http(), asked, PATIENCE).await.unwrap().text();
    let mut lines = seen.lines();
    assert_eq!(lines.next(), Some("PUT /request a=1&b=%20"), "{seen}");
    let headers: Vec<&str> = lines.collect();
    assert!(headers.contains(&"x-mine: mine"), "{seen}");
    assert!(headers.contains(&"x-forwarded-for: 127.0.0.1"), "{seen}");
    assert!(headers.contains(&"x-forwarded-proto: http"), "{seen}");
    assert!(headers.contains(&"x-forwarded-prefix: /probe"), "{seen}");
    assert!(
        !headers.iter().any(|header| header.starts_with("x-hop") || header.starts_with("connection")),
        "{seen}"
    );

    // By host name there is no prefix.
    let mut by_host = request(probe.http(), Method::GET, "/request", "");
    by_host.headers_mut().insert("host", "probe.localhost:8080".parse().unwrap());
    let seen = try_send(probe.http(), by_host, PATIENCE).await.unwrap().text();
    assert!(seen.starts_with("GET /request \n") && !seen.contains("x-forwarded-prefix"), "{seen}");

    let teapot = probe.get("/probe/status/418").await;
    assert_eq!((teapot.status, teapot.headers.get_all("x-probe").iter().count()), (418, 2));
    assert!(teapot.header("server-timing").contains("queue;dur="), "{teapot:?}");

    let large: Bytes = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect::<Vec<_>>().into();
    let echo = send(probe.http(), Method::POST, "/probe/echo", large.clone()).await;
    assert!(echo.complete && echo.body == large, "{} of {} bytes", echo.body.len(), large.len());

    let environment = probe.get("/probe/environment").await.text();
    for expected in ["GREETING=hello", "K_SERVICE=probe", "K_REVISION=probe-1"] {
        assert!(environment.lines().any(|line| line == expected), "{environment}");
    }
    // Nothing of the node's own environment.
    assert!(!environment.contains("CARGO"), "{environment}");
}

async fn bodies_stream_both_ways(kind: Kind) {
    let probe = Probe::start(kind).await;
    probe.deploy("probe", |_| {}).await;
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let body = StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync();
    let asked = Request::post("/probe/echo").header("host", probe.http()).body(body).unwrap();
    let one = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
    sender.send(one("first")).await.unwrap();
    // Each piece comes back before the next is sent.
    let mut answer = timeout(PATIENCE, begin(probe.http(), asked)).await.unwrap().unwrap();
    for text in ["first", "second", "third"] {
        if text != "first" {
            sender.send(one(text)).await.unwrap();
        }
        let mut came = Vec::new();
        while came.len() < text.len() {
            let frame = timeout(PATIENCE, answer.frame()).await.unwrap().unwrap().unwrap();
            came.extend(frame.into_data().unwrap_or_default());
        }
        assert_eq!(came, text.as_bytes());
        // An answer that goes on holds up nobody else's.
        assert_eq!(probe.get("/probe/").await.text(), "hello\n");
    }
    drop(sender);
    while let Some(frame) = timeout(PATIENCE, answer.frame()).await.unwrap() {
        assert!(frame.unwrap().into_data().unwrap_or_default().is_empty());
    }
}

async fn bodies_stream_both_ways_over_grpc(kind: Kind) {
    let probe = Probe::start(kind).await;
    probe.deploy("probe", |_| {}).await;
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    let mut client = FunctionsClient::new(channel(&dial, &probe.dev.node.grpc).unwrap());
    let (sender, receiver) = mpsc::channel(1);
    let send = async |part| sender.send(wire::InvokeStreamRequest { part: Some(part) }).await.unwrap();
    let head = wire::RequestHead { function: "probe".into(), path: "/echo".into(), ..Default::default() };
    send(RequestPart::Head(head)).await;
    let answer = client.invoke_stream(ReceiverStream::new(receiver));
    let mut answer = timeout(PATIENCE, answer).await.unwrap().unwrap().into_inner();
    let mut head = None;
    let mut came = Vec::new();
    for text in ["first", "second", "third"] {
        send(RequestPart::Chunk(Bytes::from_static(text.as_bytes()))).await;
        came.clear();
        while came.len() < text.len() {
            match timeout(PATIENCE, answer.message()).await.unwrap().unwrap().unwrap().part.unwrap() {
                ReplyPart::Head(first) => head = Some(first),
                ReplyPart::Chunk(chunk) => came.extend(chunk),
            }
        }
        assert_eq!(came, text.as_bytes());
    }
    let head = head.unwrap();
    assert!(head.status == 200 && !head.invocation_id.is_empty(), "{head:?}");
    drop(sender);
    while let Some(more) = timeout(PATIENCE, answer.message()).await.unwrap().unwrap() {
        assert!(matches!(more.part, Some(ReplyPart::Chunk(chunk)) if chunk.is_empty()));
    }
}

async fn what_is_written_is_found_by_invocation(kind: Kind) {
    let probe = Probe::start(kind).await;
    probe.deploy("probe", |_| {}).await;
    probe.get("/probe/").await;
    // A place is given back a moment after the response has come; before, the next one would need another instance.
    until("the place is free again", async || probe.is_idle("probe").await).await;
    let answer = probe.get("/probe/log").await;
    let report = probe.report("probe", &answer).await;
    assert_eq!((report.status, report.error.as_str()), (204, ""));
    assert!(report.run_us > 0, "{report:?}");
    let id = answer.header("x-trimaran-invocation-id");
    let mut lines = Vec::new();
    // What a process writes may come a moment after its answer, and then belongs to nobody.
    until("the lines are there", async || {
        let records = probe.logs("probe", if kind == Kind::Component { id } else { "" }).await;
        lines = records
            .into_iter()
            .filter_map(|record| match record.what {
                Some(What::Stdout(line)) => Some(format!("out {line}")),
                Some(What::Stderr(line)) => Some(format!("err {line}")),
                _ => None,
            })
            .collect();
        lines.len() >= 3
    })
    .await;
    lines.sort();
    assert_eq!(lines, ["err to stderr", "out to stdout", "out without an end"]);
    // The first invocation waited for its instance, this one did not.
    assert_eq!(report.init_us, 0, "{report:?}");
}

async fn time_is_limited(kind: Kind) {
    let probe = Probe::start(kind).await;
    probe.deploy("probe", |spec| spec.timeout = Some(Duration::from_millis(700))).await;
    let loops = tokio::spawn({
        let http = probe.http().to_owned();
        async move { get(&http, "/probe/loop").await }
    });
    // Others are served meanwhile.
    if kind == Kind::Component {
        assert_eq!(probe.get("/probe/").await.text(), "hello\n");
    }
    let late = loops.await.unwrap();
    assert_eq!((late.status, late.code().as_str()), (504, "FUNCTION_TIMED_OUT"));
    assert_eq!(probe.report("probe", &late).await.error, "FUNCTION_TIMED_OUT");
    // A response that has begun breaks off; it never looks complete.
    let begun = probe.get("/probe/begin-and-loop").await;
    assert_eq!((begun.status, begun.text().as_str(), begun.complete), (200, "begun\n", false));
    assert_eq!(probe.report("probe", &begun).await.error, "FUNCTION_TIMED_OUT");
}

async fn memory_is_limited(kind: Kind) {
    let probe = Probe::start(kind).await;
    probe.deploy("probe", |spec| spec.memory_bytes = Some(96 << 20)).await;
    assert_eq!(probe.get("/probe/memory/1000000").await.status, 200);
    let refused = probe.get("/probe/memory/200000000").await;
    match kind {
        Kind::Component => {
            assert_eq!((refused.status, refused.code().as_str()), (500, "FUNCTION_OUT_OF_MEMORY"));
        }
        // What a program makes of it is its own affair; ours says nothing and closes.
        Kind::Process => assert_eq!((refused.status, refused.code().as_str()), (500, "FUNCTION_FAILED")),
    }
    assert_eq!(probe.get("/probe/memory/1000000").await.status, 200);
}

async fn a_crash_is_an_error_of_one_request(kind: Kind) {
    let probe = Probe::start(kind).await;
    probe.deploy("probe", |_| {}).await;
    let crashed = probe.get("/probe/crash").await;
    assert_eq!((crashed.status, crashed.code().as_str()), (500, "FUNCTION_FAILED"));
    assert_eq!(probe.report("probe", &crashed).await.error, "FUNCTION_FAILED");
    for _ in 0..3 {
        assert_eq!(probe.get("/probe/").await.text(), "hello\n");
    }
    // What it wrote before may be lost with the connection; in no case does it look complete.
    let begun = request(probe.http(), Method::GET, "/probe/begin-and-crash", "");
    match try_send(probe.http(), begun, PATIENCE).await {
        Ok(failed) if failed.status == 500 => assert_eq!(failed.code(), "FUNCTION_FAILED"),
        Ok(begun) => {
            assert!(!begun.complete && "begun\n".starts_with(&begun.text()), "{begun:?}");
        }
        Err(_cut_off) => {}
    }
    assert_eq!(probe.get("/probe/").await.text(), "hello\n");
}

async fn requests_wait_in_a_bounded_queue(kind: Kind) {
    let probe = Probe::start(kind).await;
    probe
        .deploy("probe", |spec| {
            spec.concurrency = Some(1);
            spec.max_instances = Some(1);
            spec.queue = Some(2);
        })
        .await;
    assert_eq!(probe.get("/probe/").await.status, 200);
    // A place is given back a moment after the response has come.
    let is_idle = async || probe.is_idle("probe").await;
    until("the place is free again", is_idle).await;
    let asked: Vec<_> = (0..6)
        .map(|_| {
            let http = probe.http().to_owned();
            tokio::spawn(async move { get(&http, "/probe/sleep/400").await })
        })
        .collect();
    let mut served = 0;
    for asked in asked {
        let answer = asked.await.unwrap();
        if answer.status == 200 {
            served += 1;
        } else {
            assert_eq!((answer.status, answer.code().as_str()), (429, "QUEUE_FULL"));
            assert_eq!(answer.header("retry-after"), "1");
            assert!(answer.text().contains("queue"), "{answer:?}");
        }
    }
    // One in the instance, two in the queue.
    assert_eq!(served, 3);
    // One who gives up leaves no trace.
    for _ in 0..5 {
        let asked = request(probe.http(), Method::GET, "/probe/sleep/100", "");
        let _gave_up = try_send(probe.http(), asked, Duration::from_millis(20)).await;
    }
    until("those who gave up are reported", async || {
        let records = probe.logs("probe", "").await;
        records
            .iter()
            .any(|record| matches!(&record.what, Some(What::Report(report)) if report.error == "CALLER_GONE"))
    })
    .await;
    until("the queue is empty", is_idle).await;
    assert_eq!(probe.get("/probe/").await.status, 200);
}

async fn instances_come_from_zero_and_go_back_to_zero(kind: Kind) {
    let probe = Probe::start(kind).await;
    probe
        .deploy("probe", |spec| {
            spec.idle = Some(Duration::from_millis(300));
            spec.concurrency = Some(2);
            spec.max_instances = Some(3);
        })
        .await;
    let instances = async || probe.functions.describe("probe").await.unwrap().instances;
    for _round in 0..2 {
        assert_eq!(instances().await, 0);
        // Nobody is dropped on the way from zero.
        let asked: Vec<_> = (0..12)
            .map(|_| {
                let http = probe.http().to_owned();
                tokio::spawn(async move { get(&http, "/probe/sleep/50").await })
            })
            .collect();
        for asked in asked {
            let answer = asked.await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "slept\n"));
        }
        assert_eq!(instances().await, 3);
        until("all instances are gone", async || instances().await == 0).await;
    }
}

async fn a_new_revision_takes_over_without_a_lost_request(kind: Kind) {
    let probe = Probe::start(kind).await;
    let version = |version: &'static str| {
        move |spec: &mut Spec| {
            spec.environment.insert("VERSION".into(), version.into());
        }
    };
    probe.deploy("probe", version("1")).await;
    let slow = tokio::spawn({
        let http = probe.http().to_owned();
        async move { get(&http, "/probe/sleep/800").await }
    });
    until("the slow request runs", async || probe.functions.describe("probe").await.unwrap().running == 1)
        .await;
    let steady = tokio::spawn({
        let http = probe.http().to_owned();
        async move {
            let mut versions = Vec::new();
            while versions.last() != Some(&"VERSION=2".to_owned()) {
                let answer = get(&http, "/probe/environment").await;
                assert_eq!(answer.status, 200, "{answer:?}");
                let text = answer.text();
                versions.push(text.lines().find(|line| line.starts_with("VERSION")).unwrap().to_owned());
            }
            versions
        }
    });
    probe.deploy("probe", version("2")).await;
    let versions = steady.await.unwrap();
    assert!(versions.is_sorted(), "{versions:?}");
    assert_eq!(slow.await.unwrap().text(), "slept\n");
    assert_eq!(probe.functions.describe("probe").await.unwrap().function.revision, 2);

    // The same again is no new revision.
    let (mut spec, package) = kind.probe();
    version("2")(&mut spec);
    let (same, changed) = probe.functions.deploy("probe", spec, package).await.unwrap();
    assert_eq!((same.revision, changed), (2, false));

    probe.functions.delete("probe").await.unwrap();
    let gone = probe.get("/probe/").await;
    assert_eq!((gone.status, gone.code().as_str()), (404, "FUNCTION_NOT_FOUND"));
    assert!(probe.functions.list().await.unwrap().is_empty());
    assert!(probe.functions.delete("probe").await.is_err());
}

macro_rules! contract {
    ($($test:ident)*) => {
        mod component {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Kind::Component).await;
            })*
        }

        mod process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                if super::Kind::Process.is_here() {
                    super::$test(super::Kind::Process).await;
                }
            })*
        }
    };
}

contract! {
    requests_and_answers_arrive_as_they_were_sent
    bodies_stream_both_ways
    bodies_stream_both_ways_over_grpc
    what_is_written_is_found_by_invocation
    time_is_limited
    memory_is_limited
    a_crash_is_an_error_of_one_request
    requests_wait_in_a_bounded_queue
    instances_come_from_zero_and_go_back_to_zero
    a_new_revision_takes_over_without_a_lost_request
}

/// Each request has an instance of its own; nothing goes out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_is_alone_with_its_request() {
    let probe = Probe::start(Kind::Component).await;
    probe.deploy("probe", |_| {}).await;
    for _ in 0..3 {
        assert_eq!(probe.get("/probe/requests").await.text(), "1\n");
    }
    let outside = probe.get(&format!("/probe/outside?{}", probe.dev.admin)).await;
    assert!(outside.text().contains("HttpRequestDenied"), "{outside:?}");
}

/// Processes keep what they know, and end with their node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_serves_many_requests_and_dies_with_its_node() {
    if !Kind::Process.is_here() {
        return;
    }
    let mut probe = Probe::start(Kind::Process).await;
    probe.deploy("probe", |_| {}).await;
    for number in 1..4 {
        assert_eq!(probe.get("/probe/requests").await.text(), format!("{number}\n"));
    }
    let environment = probe.get("/probe/environment").await.text();
    let port = environment.lines().find_map(|line| line.strip_prefix("PORT=")).unwrap().to_owned();
    let address = format!("127.0.0.1:{port}");
    assert_eq!(get(&address, "/").await.text(), "hello\n");
    probe.dev.node.kill();
    until("the process is gone", async || tokio::net::TcpStream::connect(&address).await.is_err()).await;
}
