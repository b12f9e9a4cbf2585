//! Values that the SDK keeps until they change.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;
use trimaran_client::near_cache::{NearCache, Options};
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_what_is_there() {
    let mut cluster = Cluster::grid(3, "memory", 4).await;
    let (reads, writes) = (cluster.grid_client().await, cluster.grid_client().await);
    let cache = NearCache::begin(&reads, "k:", Options::default()).await.unwrap();
    assert_eq!(cache.get("k:1").await.unwrap(), None);
    assert_eq!(cache.get("k:1").await.unwrap(), None);
    assert_eq!((cache.counts().hits, cache.counts().misses), (1, 1), "that there is none is kept too");
    // What it writes itself it reads at once.
    for value in ["a", "b", "c"] {
        cache.set("k:1", value).await.unwrap();
        assert_eq!(cache.get("k:1").await.unwrap().unwrap(), value);
    }
    assert!(cache.delete("k:1").await.unwrap());
    assert_eq!(cache.get("k:1").await.unwrap(), None);
    // What others write it reads soon.
    writes.set("k:1", "of another").await.unwrap();
    until("it hears of it", async || cache.get("k:1").await.unwrap().is_some()).await;
    writes.expire("k:1", Some(Duration::from_millis(50))).await.unwrap();
    until("it hears that it has ended", async || cache.get("k:1").await.unwrap().is_none()).await;
    // Keys with another prefix are not kept.
    let before = cache.counts();
    cache.get("other").await.unwrap();
    cache.get("other").await.unwrap();
    assert_eq!(cache.counts(), before);

    let mut random = StdRng::seed_from_u64(3);
    let round = async |random: &mut StdRng| {
        for _ in 0..600 {
            let key = format!("k:{}", random.random_range(0..30));
            match random.random_bool(0.2) {
                true => drop(writes.set(key, random.random::<u32>().to_string()).await.unwrap()),
                false => drop(cache.get(key).await.unwrap()),
            }
        }
    };
    round(&mut random).await;
    for victim in 0..3 {
        cluster.nodes[victim].kill();
        round(&mut random).await;
        cluster.nodes[victim].start();
        cluster.until_complete().await;
        round(&mut random).await;
    }
    assert!(cache.counts().hits > cache.counts().misses / 4, "{:?}", cache.counts());
    until("what is kept is what is there", async || {
        for number in 0..30 {
            let key = format!("k:{number}");
            if cache.get(key.clone()).await.unwrap() != writes.get(key).await.unwrap() {
                return false;
            }
        }
        true
    })
    .await;
    println!("{:?}", cache.counts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_kept_for_so_long_and_so_much_is() {
    let cluster = Cluster::grid(1, "memory", 2).await;
    let grid = cluster.grid_client().await;
    let options = Options { bytes_max: 2048, age_max: Duration::from_millis(200) };
    let cache = NearCache::begin(&grid, "", options).await.unwrap();
    grid.set("k", "v").await.unwrap();
    until("it is kept", async || {
        let before = cache.counts();
        cache.get("k").await.unwrap();
        cache.counts().hits > before.hits
    })
    .await;
    let (misses, began) = (cache.counts().misses, Instant::now());
    until("it is read again", async || {
        cache.get("k").await.unwrap();
        cache.counts().misses > misses
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5));
    for number in 0..100 {
        cache.get(format!("n:{number}")).await.unwrap();
    }
    let before = cache.counts().misses;
    for number in 0..100 {
        cache.get(format!("n:{number}")).await.unwrap();
    }
    assert!(cache.counts().misses - before >= 84, "sixteen are kept at most");
}
