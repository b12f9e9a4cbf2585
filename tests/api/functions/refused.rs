//! Bad input at the fronts of functions: a clear error or an end, and the next one is served.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trimaran_client::functions::{Functions, Request, Runtime, Spec};
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_net::status::detail;
use trimaran_proto::api::functions as wire;
use trimaran_proto::api::functions::deploy_request::Part;
use trimaran_proto::api::functions::functions_client::FunctionsClient;
use trimaran_tests::harness::PATIENCE;
use trimaran_tests::harness::http::get;

use super::{Kind, archive, dev};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_is_refused_when_it_is_deployed() {
    let (_dev, functions) = dev().await;
    let refused = async |name: &str, spec: Spec, package: Bytes| {
        functions.deploy(name, spec, package).await.unwrap_err().to_string()
    };
    let wasm = || Spec::new(Runtime::Wasm);
    let text = refused("probe", wasm(), Bytes::from_static(b"no component")).await;
    assert!(text.contains("not a WebAssembly component"), "{text}");
    // A module is none: eight bytes that say "module, version 1".
    let text = refused("probe", wasm(), Bytes::from_static(b"\0asm\x01\0\0\0")).await;
    assert!(text.contains("not a WebAssembly component"), "{text}");
    // A component without the export.
    let text = refused("probe", wasm(), Bytes::from_static(b"\0asm\x0d\0\x01\0")).await;
    assert!(text.contains("wasi:http"), "{text}");
    let text = refused("probe", Spec::new(Runtime::Process), Bytes::from_static(b"no zip")).await;
    assert!(text.contains("no zip archive"), "{text}");
    let text = refused("probe", Spec::new(Runtime::Process), archive("../out", b"")).await;
    assert!(text.contains("outside of the package"), "{text}");
    let text = refused("No Name", wasm(), Bytes::from_static(b"x")).await;
    assert!(text.contains("name = \"No Name\""), "{text}");
    let text = refused("probe", wasm(), Bytes::new()).await;
    assert!(text.contains("package_bytes = 0"), "{text}");
    let text = refused("probe", Spec { memory_bytes: Some(1), ..wasm() }, Bytes::from_static(b"x")).await;
    assert!(text.contains("memory_bytes = 1"), "{text}");
    assert!(functions.list().await.unwrap().is_empty());

    // A program that does not start says why.
    let spec = Spec {
        command: vec!["sh".into(), "-c".into(), "echo no luck; exit 1".into()],
        ..Spec::new(Runtime::Process)
    };
    functions.deploy("luckless", spec, archive("x", b"")).await.unwrap();
    let text = functions.invoke("luckless", Request::default()).await.unwrap_err().to_string();
    assert!(text.contains("does not start") && text.contains("no luck"), "{text}");
    let spec = Spec { command: vec!["./missing".into()], ..Spec::new(Runtime::Process) };
    functions.deploy("missing", spec, archive("x", b"")).await.unwrap();
    let text = functions.invoke("missing", Request::default()).await.unwrap_err().to_string();
    assert!(text.contains("No such file"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_has_to_be_what_was_announced() {
    let (dev, functions) = dev().await;
    let (spec, package) = Kind::Component.probe();
    let dial: std::sync::Arc<dyn Dial> = std::sync::Arc::new(TcpDial);
    let client = FunctionsClient::new(channel(&dial, &dev.node.grpc).unwrap());
    let digest: String = Sha256::digest(&package).iter().map(|byte| format!("{byte:02x}")).collect();
    let deploy = async |digest: &str, bytes: u64, parts: Vec<Part>| {
        let head = wire::DeployHead {
            name: "probe".into(),
            spec: Some(wire::Spec { runtime: wire::Runtime::Wasm.into(), ..Default::default() }),
            package_digest: digest.to_owned(),
            package_bytes: bytes,
        };
        let parts: Vec<_> = std::iter::once(Part::Head(head))
            .chain(parts)
            .map(|part| wire::DeployRequest { part: Some(part) })
            .collect();
        let outcome = client.clone().deploy(tokio_stream::iter(parts)).await;
        outcome.map(|_| ()).map_err(|status| (detail(&status).code, status.message().to_owned()))
    };
    let size = package.len() as u64;
    let chunk = |bytes: &Bytes| Part::Chunk(bytes.clone());
    assert_eq!(deploy(&digest, size, vec![]).await.unwrap_err().0, "PACKAGE_MISSING");
    let other = "0".repeat(64);
    let (code, text) = deploy(&other, size, vec![chunk(&package)]).await.unwrap_err();
    assert!(code == "PACKAGE_UNUSABLE" && text.contains("SHA-256"), "{code} {text}");
    let (code, text) = deploy(&digest, size, vec![chunk(&package.slice(..1000))]).await.unwrap_err();
    assert!(code == "PACKAGE_UNUSABLE" && text.contains("1000 of the announced"), "{code} {text}");
    let (code, text) = deploy(&digest, 10, vec![chunk(&package)]).await.unwrap_err();
    assert!(code == "PACKAGE_UNUSABLE" && text.contains("more than"), "{code} {text}");
    let (code, text) = deploy(&digest, 1 << 40, vec![]).await.unwrap_err();
    assert!(code == "VALIDATION" && text.contains("package_bytes"), "{code} {text}");
    assert_eq!(deploy("x", size, vec![]).await.unwrap_err().0, "VALIDATION");
    assert_eq!(deploy(&digest, size, vec![chunk(&package)]).await, Ok(()));
    // Once stored, it need not be sent.
    assert_eq!(deploy(&digest, size, vec![]).await, Ok(()));

    for (function, request, expected) in [
        ("nobody", Request::default(), "no function"),
        ("probe", Request { method: "NO METHOD".into(), ..Request::default() }, "method"),
        ("probe", Request { path: "no path".into(), ..Request::default() }, "path"),
        (
            "probe",
            Request { headers: vec![("no header".into(), "".into())], ..Request::default() },
            "headers",
        ),
    ] {
        let text = functions.invoke(function, request).await.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    let large = Request { path: "/echo".into(), body: vec![0; 20 << 20].into(), ..Request::default() };
    assert!(functions.invoke("probe", large).await.is_err());
    let most = Request { path: "/echo".into(), body: vec![7; 15 << 20].into(), ..Request::default() };
    assert_eq!(functions.invoke("probe", most.clone()).await.unwrap().body, most.body);
    drop(spec);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_http_is_answered_or_closed_and_others_are_served() {
    let (dev, functions) = dev().await;
    let (spec, package) = Kind::Component.probe();
    functions.deploy("probe", spec, package).await.unwrap();
    let http = dev.node.front.as_str();
    let raw = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(http).await.unwrap();
        // The node may answer and close before it has read everything.
        let _closed = stream.write_all(bytes).await;
        // Half a request ends here; a whole one says itself that it is the last.
        if !bytes.ends_with(b"\r\n\r\n") {
            let _closed = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        let _reset = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let garbage = raw(b"\0\x01\x02garbage\r\n\r\n").await;
    assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    let huge = raw(format!(
        "GET /probe/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {}\r\n\r\n",
        "a".repeat(100_000)
    )
    .as_bytes())
    .await;
    // The answer may be lost: the node closes while there is more to read.
    assert!(huge.is_empty() || huge.starts_with("HTTP/1.1 431"), "{huge}");
    let no_host = raw(b"GET /probe/ HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(no_host.starts_with("HTTP/1.1 404") || no_host.starts_with("HTTP/1.1 400"), "{no_host}");
    let unnamed = get(http, "/").await;
    assert_eq!((unnamed.status, unnamed.code().as_str()), (404, "FUNCTION_NOT_FOUND"));
    // Half a body: the function sees that it broke off, or nobody waits for an answer.
    raw(b"POST /probe/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf").await;
    raw(b"POST /probe/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;

    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(TcpStream::connect(http).await.unwrap());
    }
    idle[0]
        .write_all(b"POST /probe/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        .await
        .unwrap();
    idle[1].write_all(b"GET /pro").await.unwrap();
    assert_eq!(get(http, "/probe/").await.text(), "hello\n");
    let other = Functions::connect([dev.node.grpc.clone()]).unwrap();
    assert_eq!(other.invoke("probe", Request::default()).await.unwrap().status, 200);
    drop(idle);
    assert_eq!(get(http, "/probe/").await.text(), "hello\n");
}
