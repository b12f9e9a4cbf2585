//! Watches of a few keys that somebody writes to without pause: each must see every change once, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;
use trimaran_client::grid::Grid;
use trimaran_proto::api::grid::watch_event::Kind;

use crate::harness::PATIENCE;
use crate::harness::process::Cluster;

const KEYS: usize = 16;

/// Rounds of writes at least.
const ROUNDS_MIN: u64 = 200;

/// What a watch has seen: how many partitions it was told of, and the values of each key.
type Seen = (u64, BTreeMap<Vec<u8>, Vec<u64>>);

/// A writer and its watches.
pub struct Watched {
    watches: Vec<JoinHandle<Seen>>,
    writing: JoinHandle<u64>,
    enough: Arc<AtomicBool>,
}

impl Watched {
    /// Begins to write, and to watch at these nodes of a grid: all keys, or one.
    pub async fn start(cluster: &Cluster, watches: &[(usize, bool)]) -> Self {
        let mut begun = Vec::new();
        for &(at, all) in watches {
            let grid = Grid::connect([cluster.nodes[at].grpc.clone()]).await.unwrap();
            begun.push(tokio::spawn(watch(grid, all)));
        }
        let writer = cluster.grid_client().await;
        let enough = Arc::new(AtomicBool::new(false));
        let writing = tokio::spawn(write(writer, Arc::clone(&enough)));
        Self { watches: begun, writing, enough }
    }

    /// Ends it and checks what each watch has seen. Returns how many partitions each was told of.
    pub async fn finish(self) -> Vec<u64> {
        self.enough.store(true, Ordering::Release);
        let written = self.writing.await.unwrap();
        let mut partitions = Vec::new();
        for watch in self.watches {
            let (begun, seen) = tokio::time::timeout(PATIENCE, watch).await.unwrap().unwrap();
            for (key, values) in seen {
                // It begins in the middle of the writer's work.
                let expected: Vec<u64> = (values[0]..written).chain([u64::MAX]).collect();
                assert_eq!(values, expected, "{}", String::from_utf8_lossy(&key));
            }
            partitions.push(begun);
        }
        partitions
    }
}

async fn watch(grid: Grid, all: bool) -> Seen {
    let (key, keys) = if all { ("watched:", KEYS) } else { ("watched:3", 1) };
    let mut stream = grid.watch(key, all, Vec::new()).await.unwrap();
    let mut begun = 0;
    let mut seen: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    while seen.values().filter(|values| values.last() == Some(&u64::MAX)).count() < keys {
        for event in stream.next().await.unwrap().events {
            if event.kind() == Kind::Begin {
                begun += 1;
                continue;
            }
            let value = String::from_utf8(event.value.unwrap().to_vec()).unwrap();
            seen.entry(event.key.to_vec()).or_default().push(value.parse().unwrap());
        }
    }
    (begun, seen)
}

async fn write(grid: Grid, enough: Arc<AtomicBool>) -> u64 {
    let mut written = 0;
    while !enough.load(Ordering::Acquire) || written < ROUNDS_MIN {
        for key in 0..KEYS {
            grid.set(format!("watched:{key}"), written.to_string()).await.unwrap();
        }
        written += 1;
    }
    for key in 0..KEYS {
        grid.set(format!("watched:{key}"), u64::MAX.to_string()).await.unwrap();
    }
    written
}
