//! Clients that keep values themselves: CLIENT TRACKING, with a client library that knows it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands as _, AsyncConnectionConfig, Client, PushInfo, PushKind, Value};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::until;

use crate::pubsub::connect;

const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that is told of what it reads.
async fn tracking(address: &str, options: &[&str]) -> (MultiplexedConnection, UnboundedReceiver<PushInfo>) {
    let client = Client::open(format!("redis://{address}/?protocol=resp3")).unwrap();
    let (sender, pushes) = unbounded_channel();
    let config = AsyncConnectionConfig::new().set_push_sender(sender);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let mut on = redis::cmd("CLIENT");
    on.arg("TRACKING").arg("ON").arg(options).exec_async(&mut connection).await.unwrap();
    (connection, pushes)
}

/// Keys that are invalid; `None` = all are.
fn keys(push: &PushInfo) -> Option<Vec<String>> {
    assert_eq!(push.kind, PushKind::Invalidate);
    match &push.data[0] {
        Value::Nil => None,
        keys => Some(redis::from_redis_value::<Vec<String>>(keys.clone()).unwrap()),
    }
}

async fn next(pushes: &mut UnboundedReceiver<PushInfo>) -> Vec<String> {
    keys(&timeout(PATIENCE, pushes.recv()).await.unwrap().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_read_a_key_is_told_that_it_has_changed_at_whichever_node() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    let (mut reader, mut pushes) = tracking(&cluster.nodes[0].front, &[]).await;
    let mut writer = connect(&cluster.nodes[1].front).await;
    let text = |number: u32| format!("key-{number}");
    for number in 0..40 {
        assert_eq!(reader.get::<_, Option<String>>(text(number)).await.unwrap(), None);
    }
    // Twice: it is told once.
    for number in (0..40).chain(0..40) {
        writer.set::<_, _, ()>(text(number), number).await.unwrap();
    }
    let mut told = Vec::new();
    while told.len() < 40 {
        told.extend(next(&mut pushes).await);
    }
    told.sort_unstable();
    let mut expected: Vec<String> = (0..40).map(text).collect();
    expected.sort_unstable();
    assert_eq!(told, expected);
    // What ends by itself, and what is deleted.
    writer.pset_ex::<_, _, ()>("short", "lived", 100).await.unwrap();
    assert!(reader.exists::<_, bool>("short").await.unwrap());
    assert_eq!(next(&mut pushes).await, ["short"]);
    reader.get::<_, i64>(text(7)).await.unwrap();
    writer.del::<_, ()>(text(7)).await.unwrap();
    assert_eq!(next(&mut pushes).await, [text(7)]);
    // Another one that is told of prefixes, but not of what it changes itself.
    let (mut own, mut of_prefix) =
        tracking(&cluster.nodes[2].front, &["BCAST", "PREFIX", "news:", "NOLOOP"]).await;
    for number in 0..20 {
        own.set::<_, _, ()>(format!("news:own-{number}"), 1).await.unwrap();
        writer.set::<_, _, ()>(format!("other:{number}"), 1).await.unwrap();
        writer.set::<_, _, ()>(format!("news:{number}"), 1).await.unwrap();
        assert_eq!(next(&mut of_prefix).await, [format!("news:{number}")]);
    }
    let off = redis::cmd("CLIENT").arg("TRACKING").arg("OFF").exec_async(&mut own).await;
    off.unwrap();
    let refused = redis::cmd("CLIENT").arg("CACHING").arg("YES").exec_async(&mut own).await.unwrap_err();
    assert!(refused.to_string().contains("tracking mode"), "{refused}");
}

/// What a client keeps.
#[derive(Default)]
struct Kept {
    values: HashMap<String, String>,
    /// Counts what was told of each key, and of all.
    told: HashMap<String, u64>,
    told_all: u64,
}

impl Kept {
    fn told(&self, key: &str) -> (u64, u64) {
        (self.told.get(key).copied().unwrap_or(0), self.told_all)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_keeps_does_not_stay_wrong_when_nodes_die() {
    let mut cluster = Cluster::grid(3, "memory", 4).await;
    let (reader, mut pushes) = tracking(&cluster.nodes[0].front, &[]).await;
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let hears = Arc::clone(&kept);
    tokio::spawn(async move {
        while let Some(push) = pushes.recv().await {
            let mut kept = hears.lock();
            match keys(&push) {
                Some(keys) => keys.into_iter().for_each(|key| {
                    kept.values.remove(&key);
                    *kept.told.entry(key).or_default() += 1;
                }),
                None => {
                    kept.values.clear();
                    kept.told_all += 1;
                }
            }
        }
    });
    let grid = cluster.grid_client().await;
    let mut random = StdRng::seed_from_u64(7);
    let text = |number: u32| format!("key-{number}");
    let round = async |random: &mut StdRng, count: u32| {
        for _ in 0..count {
            let (key, value) = (text(random.random_range(0..30)), random.random::<u32>().to_string());
            if random.random_bool(0.3) {
                grid.set(key, value).await.unwrap();
                continue;
            }
            if kept.lock().values.contains_key(&key) {
                continue;
            }
            let told = kept.lock().told(&key);
            let Ok(Some(found)) = reader.clone().get::<_, Option<String>>(&key).await else { continue };
            let mut kept = kept.lock();
            if kept.told(&key) == told {
                kept.values.insert(key, found);
            }
        }
    };
    round(&mut random, 500).await;
    assert!(!kept.lock().values.is_empty());
    for victim in [1, 2] {
        cluster.nodes[victim].kill();
        round(&mut random, 500).await;
        cluster.nodes[victim].start();
        cluster.until_complete().await;
        round(&mut random, 500).await;
    }
    until("what is kept is what is there", async || {
        for number in 0..30 {
            let there = grid.get(text(number)).await.unwrap();
            let kept = kept.lock().values.get(&text(number)).cloned();
            if kept.is_some_and(|kept| there.as_deref() != Some(kept.as_bytes())) {
                return false;
            }
        }
        true
    })
    .await;
}
