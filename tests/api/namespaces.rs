//! Namespaces with quotas, as tenants and operators meet them.

use std::process::Command;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};
use tokio::time::Instant;
use trimaran_client::Error;
use trimaran_client::grid::Grid;
use trimaran_client::namespaces::{Namespace, Quotas};
use trimaran_tests::harness::process::{Cluster, binary};
use trimaran_tests::harness::until;

const VALUE_BYTES: usize = 16 << 10;

async fn redis_of(cluster: &Cluster, node: usize) -> MultiplexedConnection {
    let client = redis::Client::open(format!("redis://{}", cluster.nodes[node].front)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn described(grid: &Grid, name: &str) -> Option<Namespace> {
    grid.namespaces().await.unwrap().into_iter().find(|found| found.name == name)
}

async fn set(redis: &mut MultiplexedConnection, key: &str) -> RedisResult<()> {
    cmd("SET").arg(key).arg(vec![b'x'; VALUE_BYTES]).exec_async(redis).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_takes_no_more_memory_than_its_quota() {
    let mut cluster = Cluster::grid(3, "memory", 4).await;
    let grid = cluster.grid_client().await;
    let mut redis = redis_of(&cluster, 0).await;
    // What is there before there is a namespace counts too.
    for key in 0..8 {
        set(&mut redis, &format!("orders:{key}")).await.unwrap();
    }
    const MEMORY: u64 = 1 << 20;
    grid.put_namespace("orders", Quotas { memory_bytes: Some(MEMORY), operations: None }).await.unwrap();
    until("the keys are counted", async || described(&grid, "orders").await.is_some_and(|it| it.keys == 8))
        .await;
    let before = described(&grid, "orders").await.unwrap().bytes;
    assert!((8 * VALUE_BYTES as u64..9 * VALUE_BYTES as u64).contains(&before), "{before}");
    let mut at = 8;
    let refused = loop {
        match set(&mut redis, &format!("{{orders:{at}}}lines")).await {
            Ok(()) => at += 1,
            Err(refused) => break refused,
        }
        assert!(at <= 2 * MEMORY / VALUE_BYTES as u64, "{at} keys were taken");
        // As fast as it can, it would have written far more until the nodes have heard of it.
        if at.is_multiple_of(8) {
            until("they are counted", async || described(&grid, "orders").await.unwrap().keys >= at).await;
        }
    };
    let said = refused.to_string();
    assert!(said.contains("OOM") && said.contains("'orders'") && said.contains("1048576"), "{said}");
    // The leader of that key hears of it by itself.
    until("it is refused everywhere", async || grid.set("orders:sdk", "x").await.is_err()).await;
    let sdk = grid.set("orders:sdk", "x").await.unwrap_err();
    assert!(matches!(sdk, Error::Exhausted(_)) && sdk.to_string().contains("orders"), "{sdk}");
    // Others go on, and so does what needs no memory.
    set(&mut redis, "invoices:1").await.unwrap();
    let value: Vec<u8> = cmd("GET").arg("orders:1").query_async(&mut redis).await.unwrap();
    assert_eq!(value.len(), VALUE_BYTES);
    // A new leader counts as the one before did.
    let victim = cluster.leaders_first().await[0];
    cluster.nodes[victim].kill();
    let mut other = redis_of(&cluster, (victim + 1) % 3).await;
    until("others lead", async || set(&mut other, "invoices:2").await.is_ok()).await;
    until("it is full there too", async || {
        described(&grid, "orders").await.is_some_and(|it| it.keys >= at && it.bytes >= MEMORY)
    })
    .await;
    until("it is refused there too", async || set(&mut other, "orders:other").await.is_err()).await;
    // More than half: how much more there was than the quota depends on how late it was heard of.
    for key in (0..at).filter(|key| key % 4 != 0) {
        let keys = (format!("orders:{key}"), format!("{{orders:{key}}}lines"));
        let delete = cmd("DEL").arg(keys.0).arg(keys.1).clone();
        // Its partition may have no leader yet.
        until("they are deleted", async || delete.exec_async(&mut other).await.is_ok()).await;
    }
    until("there is room again", async || set(&mut other, "orders:again").await.is_ok()).await;
    assert!(grid.delete_namespace("orders").await.unwrap());
    assert!(!grid.delete_namespace("orders").await.unwrap());
    assert!(described(&grid, "orders").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_asked_no_more_than_its_quota() {
    const OPERATIONS: u64 = 300;
    let cluster = Cluster::grid(3, "memory", 4).await;
    let grid = cluster.grid_client().await;
    let quotas = Quotas { memory_bytes: None, operations: Some(OPERATIONS) };
    grid.put_namespace("busy", quotas).await.unwrap();
    let mut redis = redis_of(&cluster, 1).await;
    let mut throttled = None;
    let began = Instant::now();
    while throttled.is_none() {
        let get: RedisResult<Option<String>> = cmd("GET").arg("busy:1").query_async(&mut redis).await;
        throttled = get.err();
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was refused");
    }
    let said = throttled.unwrap().to_string();
    assert!(said.contains("THROTTLED") && said.contains("'busy'"), "{said}");
    cmd("GET").arg("idle:1").exec_async(&mut redis).await.unwrap();
    until("it is told", async || described(&grid, "busy").await.unwrap().operations > 0).await;
    until("it is let through again", async || {
        let get: RedisResult<Option<String>> = cmd("GET").arg("busy:1").query_async(&mut redis).await;
        get.is_ok()
    })
    .await;
    grid.put_namespace("busy", Quotas::default()).await.unwrap();
    let all: Vec<Option<String>> = {
        let mut pipeline = redis::pipe();
        (0..OPERATIONS * 5).for_each(|_| {
            pipeline.get("busy:1");
        });
        until("every node has heard of it", async || {
            pipeline.query_async::<Vec<Option<String>>>(&mut redis).await.is_ok()
        })
        .await;
        pipeline.query_async(&mut redis).await.unwrap()
    };
    assert_eq!(all.len() as u64, OPERATIONS * 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_what_namespaces_use_and_hears_what_is_wrong() {
    let cluster = Cluster::grid(1, "memory", 1).await;
    let trimaran = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["grid", "--address", &cluster.addresses()[0], "namespace"]).args(words);
        let output = command.output().unwrap();
        let text = [&output.stdout[..], &output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    assert_eq!(trimaran(&["list"]), (0, "no namespaces\n".to_owned()));
    assert_eq!(trimaran(&["put", "shop", "--memory", "2mb", "--operations", "500"]), (0, String::new()));
    let mut redis = redis_of(&cluster, 0).await;
    cmd("RPUSH").arg("shop:list").arg("a").arg("b").exec_async(&mut redis).await.unwrap();
    until("the key is counted", async || {
        let (code, listed) = trimaran(&["list", "--output", "json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        code == 0 && listed[0]["keys"] == 1 && listed[0]["memory_quota"] == 2 << 20
    })
    .await;
    assert!(trimaran(&["list"]).1.contains("shop"));
    let (code, said) = trimaran(&["put", "a:b"]);
    assert!(code == 1 && said.contains("name: it must be letters"), "{said}");
    let (code, said) = trimaran(&["put", &"x".repeat(65)]);
    assert!(code == 1 && said.contains("NAMESPACE_BYTES_MAX is 64"), "{said}");
    let (code, said) = trimaran(&["put", "a", "--operations", "0"]);
    assert!(code == 1 && said.contains("quotas: a quota of 0"), "{said}");
    let (code, said) = trimaran(&["put", "a", "--memory", "much"]);
    assert!(code == 2 && said.contains("number of bytes"), "{said}");
    assert_eq!(trimaran(&["delete", "shop"]).0, 0);
    assert_eq!(trimaran(&["delete", "shop"]).0, 1);
}
