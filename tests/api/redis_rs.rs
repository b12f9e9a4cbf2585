//! The Redis protocol through a client library that was written for Redis: redis-rs, in RESP2 and RESP3, and as a client of
//! Redis Cluster.

use std::collections::{BTreeMap, BTreeSet};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands as _, Client, RedisResult, Script, Value};
use trimaran_tests::harness::process::Cluster;

async fn connect(address: &str, protocol: &str) -> MultiplexedConnection {
    let client = Client::open(format!("redis://{address}/?protocol={protocol}")).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Commands of every family, typed as the library types them.
async fn every_family(redis: &mut (impl ConnectionLike + Send + Sync), tag: &str) -> RedisResult<()> {
    let key = |name: &str| format!("{{{tag}}}{name}");
    // Strings and bits.
    let _: () = redis.set_ex(key("s"), "value", 100).await?;
    assert_eq!(redis.get::<_, String>(key("s")).await?, "value");
    assert_eq!(redis.append::<_, _, usize>(key("s"), "!").await?, 6);
    assert_eq!(redis.incr::<_, _, i64>(key("n"), 41).await?, 41);
    assert_eq!(redis.incr::<_, _, f64>(key("n"), 0.5).await?, 41.5);
    assert!(!redis.setbit::<_, bool>(key("b"), 9, true).await?);
    assert_eq!(redis.bitcount::<_, usize>(key("b")).await?, 1);
    let nothing: Option<String> = redis.get(key("nothing")).await?;
    assert_eq!(nothing, None);
    let both: Vec<Option<String>> = redis.mget(&[key("s"), key("nothing")]).await?;
    assert_eq!(both, [Some("value!".to_owned()), None]);
    // Keys.
    assert!((1..=100).contains(&redis.ttl::<_, i64>(key("s")).await?));
    assert!(redis.persist::<_, bool>(key("s")).await?);
    assert!(redis.exists::<_, bool>(key("s")).await?);
    let _: () = redis.rename(key("s"), key("t")).await?;
    assert_eq!(redis.del::<_, usize>(&[key("s"), key("t")]).await?, 1);
    // Lists.
    assert_eq!(redis.rpush::<_, _, usize>(key("l"), &["a", "b", "c"]).await?, 3);
    assert_eq!(redis.lrange::<_, Vec<String>>(key("l"), 0, -1).await?, ["a", "b", "c"]);
    assert_eq!(redis.lpop::<_, Vec<String>>(key("l"), std::num::NonZeroUsize::new(2)).await?, ["a", "b"]);
    let popped: Option<(String, String)> = redis.blpop(key("l"), 1.0).await?;
    assert_eq!(popped, Some((key("l"), "c".to_owned())));
    // Hashes.
    let _: () = redis.hset_multiple(key("h"), &[("f", 1), ("g", 2)]).await?;
    let all: BTreeMap<String, i64> = redis.hgetall(key("h")).await?;
    assert_eq!(all, BTreeMap::from([("f".to_owned(), 1), ("g".to_owned(), 2)]));
    assert_eq!(redis.hincr::<_, _, _, i64>(key("h"), "f", 5).await?, 6);
    // Sets.
    assert_eq!(redis.sadd::<_, _, usize>(key("x"), &["1", "2", "3"]).await?, 3);
    assert_eq!(redis.sadd::<_, _, usize>(key("y"), &["2", "3", "4"]).await?, 3);
    let both: BTreeSet<i64> = redis.sinter(&[key("x"), key("y")]).await?;
    assert_eq!(both, BTreeSet::from([2, 3]));
    assert_eq!(redis.smismember::<_, _, Vec<bool>>(key("x"), &["1", "9"]).await?, [true, false]);
    // Sorted sets.
    let _: () = redis.zadd_multiple(key("z"), &[(1.0, "a"), (2.5, "b")]).await?;
    let ranked: Vec<(String, f64)> = redis.zrange_withscores(key("z"), 0, -1).await?;
    assert_eq!(ranked, [("a".to_owned(), 1.0), ("b".to_owned(), 2.5)]);
    assert_eq!(redis.zscore::<_, _, Option<f64>>(key("z"), "b").await?, Some(2.5));
    assert_eq!(redis.zrank::<_, _, Option<usize>>(key("z"), "b").await?, Some(1));
    // HyperLogLogs.
    assert!(redis.pfadd::<_, _, bool>(key("p"), &["a", "b"]).await?);
    assert_eq!(redis.pfcount::<_, usize>(key("p")).await?, 2);
    // Streams.
    let id: String = redis.xadd(key("st"), "*", &[("field", "value")]).await?;
    let _: () = redis.xgroup_create(key("st"), "group", "0").await?;
    let options = StreamReadOptions::default().group("group", "one").count(10);
    let read: StreamReadReply = redis.xread_options(&[key("st")], &[">"], &options).await?;
    assert_eq!(read.keys[0].ids[0].id, id);
    assert_eq!(redis.xack::<_, _, _, usize>(key("st"), "group", &[&id]).await?, 1);
    // Transactions, and scripts by their digest.
    let counts: (i64, i64) =
        redis::pipe().atomic().incr(key("c"), 1).incr(key("c"), 1).query_async(redis).await?;
    assert_eq!(counts, (1, 2));
    let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    assert_eq!(script.key(key("c")).arg(40).invoke_async::<i64>(redis).await?, 42);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_library_for_redis_finds_every_family_at_any_node() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    for (node, protocol) in cluster.nodes.iter().zip(["resp2", "resp3", "resp2"]) {
        let mut redis = connect(&node.front, protocol).await;
        every_family(&mut redis, &node.front).await.unwrap();
    }
    // All keys of all partitions, page by page.
    let mut redis = connect(&cluster.nodes[0].front, "resp2").await;
    let mut found = BTreeSet::new();
    let mut keys = redis.scan_match::<_, String>("{*}*").await.unwrap();
    while let Some(key) = keys.next_item().await {
        found.insert(key.unwrap());
    }
    drop(keys);
    // What is left of one run: n, b, h, x, y, z, p, st, c.
    assert_eq!(found.len(), 3 * 9, "{found:?}");
    assert_eq!(redis::cmd("DBSIZE").query_async::<usize>(&mut redis).await.unwrap(), 3 * 9);
    // An error is one for the library too, with its class.
    let wrong = redis.lpush::<_, _, Value>(format!("{{{}}}n", cluster.nodes[0].front), 1).await.unwrap_err();
    assert_eq!(wrong.code(), Some("WRONGTYPE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_redis_cluster_finds_the_leaders_itself() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    let nodes: Vec<String> = cluster.nodes.iter().map(|node| format!("redis://{}", node.front)).collect();
    let mut redis = redis::cluster::ClusterClient::new(nodes).unwrap().get_async_connection().await.unwrap();
    for tag in ["a", "b", "c", "d", "e", "f"] {
        every_family(&mut redis, tag).await.unwrap();
    }
}
