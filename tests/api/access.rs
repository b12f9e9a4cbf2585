//! Who may do what, and functions, as clients at different nodes see them.

use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands as _, Client, RedisResult, Value};
use serde_json::json;
use tokio::time::timeout;
use trimaran_tests::harness::PATIENCE;
use trimaran_tests::harness::http::try_send;
use trimaran_tests::harness::process::Cluster;

async fn connect(address: &str, credentials: &str) -> RedisResult<MultiplexedConnection> {
    Client::open(format!("redis://{credentials}{address}"))?.get_multiplexed_async_connection().await
}

/// Tries until a change that was made at another node is in force at this one.
async fn until_in(address: &str, credentials: &str) -> MultiplexedConnection {
    let entered = async {
        loop {
            if let Ok(connection) = connect(address, credentials).await {
                return connection;
            }
        }
    };
    timeout(PATIENCE, entered).await.unwrap()
}

async fn ask(redis: &mut MultiplexedConnection, line: &str) -> RedisResult<Value> {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query_async(redis).await
}

fn code(answer: RedisResult<Value>) -> String {
    answer.unwrap_err().code().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_those_of_the_cluster_and_outlive_its_processes() {
    let mut cluster = Cluster::grid_with(3, 4, &["--requirepass", "secret"]).await;
    let fronts: Vec<String> = cluster.nodes.iter().map(|node| node.front.clone()).collect();
    // Nobody without the password.
    let mut nobody = connect(&fronts[0], "").await.unwrap();
    assert_eq!(code(ask(&mut nobody, "GET k").await), "NOAUTH");
    assert!(connect(&fronts[1], ":wrong@").await.is_err());
    let mut admin = connect(&fronts[0], ":secret@").await.unwrap();
    ask(&mut admin, "SET k v").await.unwrap();
    ask(&mut admin, "ACL SETUSER alice on >pw ~a:* &news +@read +@write +@scripting +@connection")
        .await
        .unwrap();
    // At another node, as soon as that has heard of it.
    let mut alice = until_in(&fronts[2], "alice:pw@").await;
    ask(&mut alice, "SET a:1 v").await.unwrap();
    assert_eq!(code(ask(&mut alice, "SET b:1 v").await), "NOPERM");
    assert_eq!(code(ask(&mut alice, "ACL LIST").await), "NOPERM");
    // A script may do as much as who runs it, wherever its keys are.
    for tag in ["{1}", "{2}", "{3}", "{4}", "{5}", "{6}"] {
        let script =
            redis::Script::new("return redis.call('SET', KEYS[1], redis.call('INCR', 'b:' .. ARGV[1]))");
        let refused =
            script.key(format!("a:{tag}")).arg(tag).invoke_async::<Value>(&mut alice).await.unwrap_err();
        assert!(refused.to_string().contains("ACL failure in script"), "{refused}");
    }
    assert_eq!(ask(&mut admin, "EXISTS b:{1}").await.unwrap(), Value::Int(0));
    // Over HTTP.
    let http = cluster.nodes[1].more_fronts[0].clone();
    for (credentials, status) in [
        (None, 401),
        (Some("Bearer secret"), 200),
        (Some("Bearer wrong"), 401),
        (Some("Basic YWxpY2U6cHc="), 403),
    ] {
        let body = Full::new(json!(["GET", "k"]).to_string().into()).map_err(|never| match never {});
        let mut request = Request::builder().method(Method::POST).uri("/").header("host", &http);
        if let Some(credentials) = credentials {
            request = request.header("authorization", credentials);
        }
        let answer = try_send(&http, request.body(body.boxed_unsync()).unwrap(), PATIENCE).await.unwrap();
        assert_eq!(answer.status, status, "{credentials:?}");
    }
    // What is taken away is taken away from those who are connected, too.
    ask(&mut admin, "ACL SETUSER alice -set").await.unwrap();
    let taken = async { while ask(&mut alice, "SET a:1 w").await.is_ok() {} };
    timeout(PATIENCE, taken).await.unwrap();
    ask(&mut admin, "ACL SETUSER default >changed <secret").await.unwrap();
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.until_complete().await;
    let front = cluster.nodes[1].front.clone();
    assert!(connect(&front, ":secret@").await.is_err());
    let mut admin = until_in(&front, ":changed@").await;
    let mut alice = connect(&front, "alice:pw@").await.unwrap();
    ask(&mut admin, "ACL DELUSER alice").await.unwrap();
    let gone = async { while ask(&mut alice, "PING").await.is_ok() {} };
    timeout(PATIENCE, gone).await.unwrap();
    assert!(connect(&front, "alice:pw@").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_is_there_for_every_key_and_after_the_death_of_every_process() {
    let mut cluster = Cluster::grid(3, "buffered", 4).await;
    let mut redis = connect(&cluster.nodes[0].front, "").await.unwrap();
    let library = "#!lua name=counters\n\
                   redis.register_function('bump', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)\n\
                   redis.register_function{function_name='look', flags={'no-writes'}, \
                   callback=function(keys) return redis.call('GET', keys[1]) end}";
    let loaded: String =
        redis::cmd("FUNCTION").arg("LOAD").arg(library).query_async(&mut redis).await.unwrap();
    assert_eq!(loaded, "counters");
    for node in &cluster.nodes {
        let mut redis = connect(&node.front, "").await.unwrap();
        for key in 0..20 {
            let _: i64 =
                redis::cmd("FCALL").arg("bump").arg(1).arg(key).arg(7).query_async(&mut redis).await.unwrap();
        }
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.until_complete().await;
    let mut redis = connect(&cluster.nodes[2].front, "").await.unwrap();
    for key in 0..20 {
        let held: i64 =
            redis::cmd("FCALL_RO").arg("look").arg(1).arg(key).query_async(&mut redis).await.unwrap();
        assert_eq!(held, 21);
    }
    let again: RedisResult<Value> =
        redis::cmd("FUNCTION").arg("LOAD").arg(library).query_async(&mut redis).await;
    assert!(again.unwrap_err().to_string().contains("already exists"));
    // What it wrote is dumped, and restored under another key.
    let dumped: Vec<u8> = redis::cmd("DUMP").arg("3").query_async(&mut redis).await.unwrap();
    let _: () = redis::cmd("RESTORE").arg("copy").arg(0).arg(dumped).query_async(&mut redis).await.unwrap();
    assert_eq!(redis.get::<_, i64>("copy").await.unwrap(), 21);
    let _: () = redis::cmd("FUNCTION").arg("FLUSH").query_async(&mut redis).await.unwrap();
    let gone: RedisResult<Value> =
        redis::cmd("FCALL").arg("bump").arg(1).arg("k").arg(1).query_async(&mut redis).await;
    assert!(gone.unwrap_err().to_string().contains("Function not found"));
}
