//! The grid's commands over HTTP: single ones, pipelines, and bad input.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trimaran_tests::harness::PATIENCE;
use trimaran_tests::harness::http::{Answer, get, send, try_send};
use trimaran_tests::harness::process::Cluster;

async fn post(address: &str, path: &str, body: &Json) -> Answer {
    send(address, Method::POST, path, body.to_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_answered_in_json() {
    let cluster = Cluster::grid(1, "memory", 4).await;
    let http = cluster.nodes[0].more_fronts[0].as_str();
    for (command, status, expected) in [
        (json!(["SET", "k", "v"]), 200, json!({"result": "OK"})),
        (json!(["GET", "k"]), 200, json!({"result": "v"})),
        (json!(["GET", "none"]), 200, json!({"result": null})),
        (json!(["SET", "n", 41, "PX", 100_000]), 200, json!({"result": "OK"})),
        (json!(["INCR", "n"]), 200, json!({"result": 42})),
        (json!(["MGET", "k", "none", "n"]), 200, json!({"result": ["v", null, "42"]})),
        (json!(["INCR", "k"]), 400, json!({"error": "ERR value is not an integer or out of range"})),
        (json!(["GET"]), 400, json!({"error": "ERR wrong number of arguments for 'get' command"})),
        // Nothing that a request says of its connection is there for the next one.
        (json!(["CLIENT", "SETNAME", "me"]), 200, json!({"result": "OK"})),
        (json!(["CLIENT", "GETNAME"]), 200, json!({"result": null})),
    ] {
        let answer = post(http, "/", &command).await;
        assert_eq!((answer.status, answer.json()), (status, expected), "{command}");
    }
    let (mut cursor, mut keys) = (json!(0), Vec::new());
    loop {
        let page = post(http, "/", &json!(["SCAN", cursor, "COUNT", 1000])).await.json();
        keys.extend(page["result"][1].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()));
        cursor = page["result"][0].clone();
        if cursor == "0" {
            break;
        }
    }
    keys.sort_unstable();
    assert_eq!(keys, ["k", "n"]);

    // A command as a path; a body is its last argument.
    assert_eq!(get(http, "/set/a%2Fb/c%20d?EX=100&NX=&_token=any").await.json(), json!({"result": "OK"}));
    assert_eq!(get(http, "/set/a%2Fb/c%20d?NX").await.json(), json!({"result": null}));
    assert_eq!(send(http, Method::POST, "/set/body", "{\"x\": 1}").await.json(), json!({"result": "OK"}));
    assert_eq!(get(http, "/mget/a%2Fb/body").await.json(), json!({"result": ["c d", "{\"x\": 1}"]}));

    // In order: the write is there for the read behind it.
    let pipeline = json!([["SET", "p", "1"], ["GET", "p"], ["NO"], ["DEL", "p"], ["GET", "p"]]);
    let answer = post(http, "/pipeline", &pipeline).await;
    let error = "ERR unknown command 'NO', with args beginning with: ";
    let expected =
        json!([{"result": "OK"}, {"result": "1"}, {"error": error}, {"result": 1}, {"result": null}]);
    assert_eq!((answer.status, answer.json()), (200, expected));
    let ended = post(http, "/pipeline", &json!([["QUIT"], ["SET", "p", "2"]])).await.json();
    assert_eq!(ended[0], json!({"result": "OK"}));
    assert!(ended[1]["error"].as_str().unwrap().contains("ended"), "{ended}");
    assert_eq!(get(http, "/get/p").await.json(), json!({"result": null}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_text_come_in_base64() {
    let cluster = Cluster::grid(1, "memory", 1).await;
    let http = cluster.nodes[0].more_fronts[0].as_str();
    let set = send(http, Method::POST, "/set/k", Bytes::from_static(&[0xff, 0x00])).await;
    assert_eq!(set.json(), json!({"result": "OK"}));
    let text = get(http, "/get/k").await;
    assert!(text.json()["error"].as_str().unwrap().contains("Upstash-Encoding: base64"), "{}", text.text());
    let body = Full::new(Bytes::from_static(b"[\"GET\", \"k\"]"));
    let request = Request::post("/")
        .header("Host", "x")
        .header("Upstash-Encoding", "base64")
        .body(body.map_err(|never| match never {}).boxed_unsync())
        .unwrap();
    assert_eq!(try_send(http, request, PATIENCE).await.unwrap().json(), json!({"result": "/wA="}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_by_name_and_harms_nobody() {
    let cluster = Cluster::grid(1, "memory", 1).await;
    let http = cluster.nodes[0].more_fronts[0].as_str();
    let long_key = json!(["GET", "k".repeat(65_537)]).to_string();
    let long_value = json!(["SET", "k", "v".repeat((16 << 20) + 1)]).to_string();
    let deep = "[".repeat(1 << 20);
    let many = format!("[{}[\"PING\"]]", "[\"PING\"],".repeat(1024));
    for (method, path, body, status, text) in [
        (Method::POST, "/", "", 400, "has to be a command"),
        (Method::POST, "/", "{\"a\": 1}", 400, "has to be a command"),
        (Method::POST, "/", "[\"GET\"", 400, "has to be a command"),
        (Method::POST, "/", "[]", 400, "empty command"),
        (Method::POST, "/", "[\"GET\", {\"a\": 1}]", 400, "argument 1 is neither"),
        (Method::POST, "/", deep.as_str(), 400, "has to be a command"),
        (Method::POST, "/", long_key.as_str(), 400, "KEY_BYTES_MAX"),
        (Method::POST, "/", long_value.as_str(), 400, "VALUE_BYTES_MAX"),
        (Method::POST, "/pipeline", "[\"GET\", \"k\"]", 400, "has to be a command"),
        (Method::POST, "/pipeline", many.as_str(), 400, "PIPELINE_COMMANDS_MAX"),
        (Method::POST, "/multi-exec", "[[\"SET\", \"k\", \"v\"], [\"NOPE\"]]", 400, "unknown command"),
        (Method::DELETE, "/get/k", "", 405, "use GET or POST"),
        (Method::GET, "/nothing/k", "", 400, "unknown command"),
    ] {
        let answer = send(http, method, path, body.to_owned()).await;
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status, status, "{path} {error}");
        assert!(error.contains(text), "{path} {error}");
    }
    // Announced bodies that are too large are refused by name before they are sent.
    let mut huge = TcpStream::connect(http).await.unwrap();
    huge.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n[").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, huge.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("REQUEST_BYTES_MAX"), "{answer}");

    // Connections that say nothing, or half of something, are in nobody's way.
    let mut idle = Vec::new();
    for at in 0..1000 {
        let mut stream = TcpStream::connect(http).await.unwrap();
        if at % 2 == 0 {
            stream
                .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[\"SET\",")
                .await
                .unwrap();
        }
        idle.push(stream);
    }
    let answer = post(http, "/", &json!(["PING"])).await;
    assert_eq!(answer.json(), json!({"result": "PONG"}));
    let answer = post(http, "/multi-exec", &json!([["INCR", "n"], ["LPUSH", "n", "x"], ["GET", "n"]])).await;
    let wrong = "WRONGTYPE Operation against a key holding the wrong kind of value";
    assert_eq!(answer.json(), json!([{"result": 1}, {"error": wrong}, {"result": "1"}]));
    // Nothing waits over HTTP.
    let answer = post(http, "/", &json!(["BLPOP", "nothing", "0"])).await;
    assert_eq!(answer.json(), json!({"result": null}));
}
