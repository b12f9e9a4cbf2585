//! The link shortener: the same application as a component and as a process, with the same test.

use http::Method;
use serde_json::json;
use trimaran_client::database::{Database, Item};
use trimaran_client::functions::{Functions, LogOptions, Request};
use trimaran_client::grid::Grid;
use trimaran_tests::harness::http::{get, send};
use trimaran_tests::harness::process::Dev;
use trimaran_tests::harness::until;

use super::{Kind, dev};

async fn links_are_shortened_and_clicks_counted(kind: Kind) {
    let (dev, functions) = dev().await;
    let (spec, package) = kind.shortener();
    functions.deploy("shorten", spec, package).await.unwrap();
    let http = dev.node.front.as_str();
    let target = "https://example.com/a?b=\"c\"";

    let missing = get(http, "/shorten/rust").await;
    assert_eq!((missing.status, missing.json()), (404, json!({"error": "no such link"})));
    // The same URL has the same code, wherever it is made.
    for _ in 0..2 {
        let made = send(http, Method::POST, "/shorten/", target).await;
        assert_eq!((made.status, made.json()), (201, json!({"code": "mkYBjzN"})));
    }
    let put = send(http, Method::PUT, "/shorten/rust", "https://www.rust-lang.org\n").await;
    assert_eq!((put.status, put.json()), (201, json!({"code": "rust"})));
    let taken = send(http, Method::PUT, "/shorten/rust", "https://example.com").await;
    assert_eq!(taken.status, 409);

    let clicks: Vec<_> = (0..20)
        .map(|_| {
            let http = http.to_owned();
            tokio::spawn(async move { get(&http, "/shorten/rust").await })
        })
        .collect();
    for click in clicks {
        let click = click.await.unwrap();
        assert_eq!((click.status, click.header("location")), (302, "https://www.rust-lang.org"));
    }
    let counted = get(http, "/shorten/rust/clicks").await;
    let expected = json!({"code": "rust", "target": "https://www.rust-lang.org", "clicks": 20});
    assert_eq!((counted.status, counted.json()), (200, expected));

    // It is where the other two services say it is.
    let grid = Grid::connect([dev.grid.clone()]).await.unwrap();
    assert_eq!(grid.get("clicks:rust").await.unwrap().as_deref(), Some(&b"20"[..]));
    let hot = grid.get_versioned("link:rust").await.unwrap().unwrap();
    assert!(hot.ttl.is_some_and(|ttl| ttl.as_secs() <= 60), "{hot:?}");
    let database = Database::connect([dev.database.clone()]).await.unwrap();
    let key = Item::from([("code".to_owned(), "mkYBjzN".into())]);
    assert_eq!(database.get_item("links", key).await.unwrap().unwrap()["target"], target.into());

    for (method, path, body, status) in [
        (Method::PUT, "/shorten/x", "ftp://example.com", 400),
        (Method::PUT, "/shorten/x", "", 400),
        (Method::POST, "/shorten/", "https://example.com/ä", 400),
        (Method::POST, "/shorten/", &format!("https://example.com/{}", "a".repeat(2048)), 400),
        (Method::POST, "/shorten/", &"a".repeat(1 << 20), 400),
        (Method::GET, "/shorten/not.a.code", "", 400),
        (Method::GET, "/shorten/rust/nothing", "", 404),
        (Method::DELETE, "/shorten/rust", "", 204),
        (Method::DELETE, "/shorten/rust", "", 404),
        (Method::GET, "/shorten/rust", "", 404),
        (Method::GET, "/shorten/", "", 200),
    ] {
        let answer = send(http, method.clone(), path, body.to_owned()).await;
        assert_eq!(answer.status, status, "{method} {path} {answer:?}");
    }

    // Over gRPC it is the same function.
    let request =
        Request { method: "PUT".into(), path: "/grpc".into(), body: target.into(), ..Request::default() };
    assert_eq!(functions.invoke("shorten", request).await.unwrap().status, 201);
    let request = Request { path: "/grpc".into(), ..Request::default() };
    let followed = functions.invoke("shorten", request).await.unwrap();
    assert_eq!(followed.status, 302);
    assert!(followed.headers.contains(&("location".into(), target.into())), "{followed:?}");
    let line = format!("grpc -> {target}");
    until("its line is in the log", async || {
        let records = functions.logs("shorten", LogOptions::default()).await.unwrap();
        let records: Vec<_> = futures::StreamExt::collect(records).await;
        format!("{records:?}").contains(&format!("{line:?}").trim_matches('"').to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_shortens_links() {
    links_are_shortened_and_clicks_counted(Kind::Component).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_shortens_links() {
    if Kind::Process.is_here() {
        links_are_shortened_and_clicks_counted(Kind::Process).await;
    }
}

/// `trimaran dev` has the example from its first start, and everything again after the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_has_the_example_and_finds_it_again() {
    let mut dev = Dev::start(&[]).await;
    let http = dev.node.front.clone();
    until("the example answers", async || get(&http, "/shorten/").await.status == 200).await;
    assert_eq!(send(&http, Method::PUT, "/shorten/rust", "https://www.rust-lang.org").await.status, 201);
    assert_eq!(get(&http, "/shorten/rust").await.status, 302);
    assert!(dev.node.stop(), "it ends well");
    dev.node.start();
    dev.until_ready().await;
    assert_eq!(get(&http, "/shorten/rust").await.status, 302);
    let counted = get(&http, "/shorten/rust/clicks").await.json();
    assert_eq!(counted["clicks"], 2, "{counted}");
    let functions = Functions::connect([dev.node.grpc.clone()]).unwrap();
    assert_eq!(functions.describe("shorten").await.unwrap().function.revision, 1);
    // Its log is there too, of both lives.
    let records = functions.logs("shorten", LogOptions::default()).await.unwrap();
    let records: Vec<_> = futures::StreamExt::collect::<Vec<_>>(records).await;
    assert!(records.len() >= 5, "{records:?}");
}
