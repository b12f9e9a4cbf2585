//! What operators of a Redis ask and change: SLOWLOG, ROLE, WAITAOF, MEMORY, LATENCY, CONFIG SET requirepass, CLIENT PAUSE.

use redis::{AsyncCommands as _, Value};
use tokio::task::JoinHandle;
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::until;

use crate::pubsub::connect;

/// Number, seconds, microseconds, arguments, address, name.
type Slow = (u64, u64, u64, Vec<String>, String, String);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_slow_is_kept_without_passwords() {
    let cluster = Cluster::grid(1, "memory", 2).await;
    let mut redis = connect(&cluster.nodes[0].front).await;
    let mut say = async |words: &[&str]| -> Value {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut redis).await.unwrap()
    };
    assert_eq!(say(&["SLOWLOG", "LEN"]).await, Value::Int(0));
    say(&["DEBUG", "SLEEP", "0.05"]).await;
    let slow: Vec<Slow> = redis::from_redis_value(say(&["SLOWLOG", "GET"]).await).unwrap();
    assert_eq!(slow.len(), 1);
    assert!(slow[0].2 >= 50_000 && slow[0].3 == ["DEBUG", "SLEEP", "0.05"], "{slow:?}");
    say(&["CLIENT", "SETNAME", "somebody"]).await;
    say(&["CONFIG", "SET", "slowlog-log-slower-than", "0", "slowlog-max-len", "3"]).await;
    say(&["ACL", "SETUSER", "me", "on", ">secret"]).await;
    for _ in 0..2 {
        say(&["SET", "k", "v"]).await;
    }
    // What waits for something to come is not slow.
    say(&["BLPOP", "nothing", "0.01"]).await;
    let slow: Vec<Slow> = redis::from_redis_value(say(&["SLOWLOG", "GET", "-1"]).await).unwrap();
    assert_eq!(
        slow.iter().map(|slow| slow.0).collect::<Vec<_>>(),
        [4, 3, 2],
        "the newest first, three of them"
    );
    assert_eq!((slow[0].3.join(" "), slow[0].5.as_str()), ("SET k v".to_owned(), "somebody"));
    assert_eq!(slow[2].3, ["ACL", "SETUSER", "(redacted)", "(redacted)", "(redacted)"]);
    say(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"]).await;
    say(&["SLOWLOG", "RESET"]).await;
    say(&["SET", "k", "v"]).await;
    assert_eq!(say(&["SLOWLOG", "LEN"]).await, Value::Int(0));
    let role: (String, u64, Vec<String>) = redis::from_redis_value(say(&["ROLE"]).await).unwrap();
    assert!(role.0 == "master" && role.1 > 0 && role.2.is_empty());
    let flushed: (u64, u64) = redis::from_redis_value(say(&["WAITAOF", "0", "0", "0"]).await).unwrap();
    assert_eq!(flushed, (0, 0), "in memory");
    assert!(redis::from_redis_value::<String>(say(&["MEMORY", "DOCTOR"]).await).unwrap().contains("bytes"));
    assert_eq!(say(&["MEMORY", "PURGE"]).await, Value::Okay);
    assert_eq!(say(&["LATENCY", "LATEST"]).await, Value::Array(Vec::new()));
    assert_eq!(say(&["LATENCY", "RESET"]).await, Value::Int(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_set_is_asked_for_at_every_node() {
    let cluster = Cluster::grid(3, "memory", 2).await;
    let mut redis = connect(&cluster.nodes[0].front).await;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("requirepass").arg("secret").exec_async(&mut redis).await.unwrap();
    for node in &cluster.nodes {
        let client =
            |password: &str| redis::Client::open(format!("redis://{password}{}", node.front)).unwrap();
        let refused = async |password: &str| match client(password).get_multiplexed_async_connection().await {
            Ok(mut connection) => connection.get::<_, Option<String>>("k").await.is_err(),
            Err(_refused) => true,
        };
        until("it asks for the password", async || refused("").await).await;
        assert!(refused(":wrong@").await);
        assert!(!refused(":secret@").await);
    }
    // Who has set it is in, and takes it away again.
    set = redis::cmd("CONFIG");
    set.arg("SET").arg("requirepass").arg("").exec_async(&mut redis).await.unwrap();
    connect(&cluster.nodes[0].front).await.get::<_, Option<String>>("k").await.unwrap();
}

/// Asks over a connection of its own, which waits as long as it takes.
async fn asks(address: &str, words: &'static [&'static str]) -> JoinHandle<Value> {
    let client = redis::Client::open(format!("redis://{address}")).unwrap();
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut redis = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
    tokio::spawn(async move {
        redis::cmd(words[0]).arg(&words[1..]).query_async::<Value>(&mut redis).await.unwrap()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_wait_while_they_are_paused() {
    let cluster = Cluster::grid(1, "memory", 2).await;
    let mut operator = connect(&cluster.nodes[0].front).await;
    let mut say = async |words: &[&str]| {
        redis::cmd(words[0]).arg(&words[1..]).query_async::<Value>(&mut operator).await
    };
    let front = cluster.nodes[0].front.clone();
    let mut reader = connect(&cluster.nodes[0].front).await;
    let paused = say(&["CLIENT", "PAUSE", "100000", "WRITE"]).await.unwrap();
    assert_eq!(paused, Value::Okay);
    let writes = [
        asks(&front, &["SET", "k", "v"]).await,
        asks(&front, &["EVAL", "return redis.call('SET', KEYS[1], 'v')", "1", "l"]).await,
        asks(&front, &["PUBLISH", "channel", "text"]).await,
    ];
    // Reads are answered, and find nothing of what waits.
    for _ in 0..50 {
        let found: Vec<Option<String>> = reader.mget(&["k", "l"]).await.unwrap();
        assert_eq!(found, [None, None]);
    }
    assert!(writes.iter().all(|write| !write.is_finished()));
    // A shorter pause for all is as long as the one under way, and what is paused by it is not less.
    say(&["CLIENT", "PAUSE", "1", "ALL"]).await.unwrap();
    let read = asks(&front, &["GET", "k"]).await;
    say(&["CLIENT", "PAUSE", "1", "WRITE"]).await.unwrap();
    for _ in 0..50 {
        say(&["CLIENT", "ID"]).await.unwrap();
    }
    assert!(!read.is_finished());
    say(&["CLIENT", "UNPAUSE"]).await.unwrap();
    for write in writes {
        write.await.unwrap();
    }
    read.await.unwrap();
    let found: Vec<Option<String>> = reader.mget(&["k", "l"]).await.unwrap();
    assert_eq!(found, [Some("v".to_owned()), Some("v".to_owned())]);
    // It ends by itself.
    say(&["CLIENT", "PAUSE", "50"]).await.unwrap();
    asks(&front, &["SET", "k", "w"]).await.await.unwrap();
    for (words, refused) in [
        (&["CLIENT", "PAUSE", "soon"][..], "timeout is not an integer or out of range"),
        (&["CLIENT", "PAUSE", "-1"], "timeout is negative"),
        (&["CLIENT", "PAUSE", "1", "SOME"], "syntax error"),
    ] {
        let said = say(words).await.unwrap_err().to_string();
        assert!(said.contains(refused), "{said}");
    }
}
