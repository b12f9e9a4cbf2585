//! A cache that is full: `maxmemory` at three nodes, and what goes first.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, cmd, pipe};
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::until;

use crate::pubsub::connect;

const MIB: u64 = 1 << 20;

async fn info(redis: &mut MultiplexedConnection, field: &str) -> u64 {
    let text: String = cmd("INFO").query_async(redis).await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.parse().unwrap()
}

async fn configure(nodes: &mut [MultiplexedConnection], name: &str, value: &str) {
    for node in nodes {
        let () = cmd("CONFIG").arg("SET").arg(name).arg(value).query_async(node).await.unwrap();
    }
}

/// Sets so many keys of about a kibibyte; the errors of those that were refused.
async fn fill(redis: &mut MultiplexedConnection, name: &str, count: usize) -> Vec<RedisError> {
    let mut refused = Vec::new();
    for some in (0..count).collect::<Vec<_>>().chunks(100) {
        let mut commands = pipe();
        for number in some {
            commands.cmd("SET").arg(format!("{name}{number}")).arg(vec![b'x'; 1000]);
        }
        commands.ignore_errors();
        let answers: Vec<RedisResult<String>> = commands.query_async(redis).await.unwrap();
        refused.extend(answers.into_iter().filter_map(|answer| answer.err()));
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cache_makes_room_or_says_that_it_is_full() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    let mut nodes = Vec::new();
    for node in &cluster.nodes {
        nodes.push(connect(&node.front).await);
    }
    configure(&mut nodes, "maxmemory-policy", "allkeys-lru").await;
    configure(&mut nodes, "maxmemory", "2mb").await;
    assert!(fill(&mut nodes[0], "old", 6000).await.is_empty(), "room is made for all of them");
    let mut evicted = 0;
    for node in &mut nodes {
        // Each has a copy of everything, and what it took meanwhile was what was on its way.
        until("the node is within its limit", async || {
            info(&mut node.clone(), "used_memory").await <= 2 * MIB
        })
        .await;
        evicted += info(node, "evicted_keys").await;
    }
    assert!(evicted >= 3500, "{evicted}");
    // The same ones everywhere: reads at any node find the same.
    let mut left = Vec::new();
    for node in &mut nodes {
        left.push(cmd("DBSIZE").query_async::<u64>(node).await.unwrap());
    }
    assert!(left.iter().all(|count| *count == left[0] && *count > 500), "{left:?}");

    // What was used just now stays longer than what was not.
    let () = cmd("SET").arg("used").arg("v").query_async(&mut nodes[1]).await.unwrap();
    let idle: Option<u64> =
        cmd("OBJECT").arg("IDLETIME").arg("used").query_async(&mut nodes[1]).await.unwrap();
    assert_eq!(idle, Some(0));

    // Without a policy nothing goes: what needs memory is refused, what needs none is not.
    configure(&mut nodes, "maxmemory-policy", "noeviction").await;
    let refused = fill(&mut nodes[2], "new", 2000).await;
    let is_oom = |error: &RedisError| error.code() == Some("OOM");
    assert!(refused.len() > 500 && refused.iter().all(is_oom), "{}", refused.len());
    let is_there: bool = cmd("EXISTS").arg("used").query_async(&mut nodes[2]).await.unwrap();
    assert!(is_there);
    let () = cmd("FLUSHALL").query_async(&mut nodes[0]).await.unwrap();
    // There is room again from that moment on.
    let () = cmd("SET").arg("k").arg("v").query_async(&mut nodes[0]).await.unwrap();
}
