//! Partitions that become one while clients write and read without pause: by hand, also while the leaders of either die, and
//! because nobody asks them anything any more. Nothing acknowledged is lost or repeated, no read is older than an
//! acknowledged write, a scan sees every key once, a watch every change once.

use std::collections::BTreeMap;

use bytes::Bytes;
use trimaran_client::grid::Grid;
use trimaran_client::watch::Watch;
use trimaran_proto::api::cluster::{EventsRequest, MergeRequest};
use trimaran_proto::api::grid::watch_event::Kind;
use trimaran_proto::api::placement::Partition;
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::until;
use trimaran_tests::workload::registers::{InTable, Registers};
use trimaran_tests::workload::watches::Watched;

use crate::splits::{SETTLED_KEYS, Whole, must_have_everything, settle_and_load, split, table};

const SEED: u64 = 12;

/// In the order of their tokens.
async fn partitions(cluster: &Cluster) -> Vec<Partition> {
    let mut partitions = table(cluster).await.partitions;
    partitions.sort_by_key(|partition| partition.first_token);
    partitions
}

/// Asks for a merge until somebody takes it. Returns the partition that goes, and the version of the table that tells of it.
async fn begin_merge(cluster: &Cluster, partition_id: u64) -> (u64, u64) {
    let mut begun = None;
    until("a merge is begun", async || {
        let asked = cluster.nodes.iter().find(|node| node.is_running()).unwrap();
        match asked.admin().merge(MergeRequest { partition_id }).await {
            Ok(reply) => begun = Some(reply.into_inner()),
            Err(refused) => println!("not merged yet: {}", refused.message()),
        }
        begun.is_some()
    })
    .await;
    let begun = begun.unwrap();
    (begun.from_partition_id, begun.version)
}

/// Merges until the partition behind is gone: one that a kill interrupts may be given up.
async fn merge(cluster: &Cluster, partition_id: u64) {
    let (from, mut version) = begin_merge(cluster, partition_id).await;
    let mut is_gone = false;
    while !is_gone {
        until("the merge is decided", async || {
            let table = table(cluster).await;
            is_gone = table.partitions.iter().all(|partition| partition.id != from);
            // A node that is asked may not know of it yet.
            let is_decided = table.partitions.iter().all(|partition| partition.merging.is_none());
            is_gone || (table.version >= version && is_decided)
        })
        .await;
        if !is_gone {
            let (again, begun) = begin_merge(cluster, partition_id).await;
            assert_eq!(again, from);
            version = begun;
        }
    }
}

/// Where the node is that leads a partition.
async fn leader_of(cluster: &Cluster, partition: &Partition) -> usize {
    let leader = partition.replicas.iter().find(|replica| replica.id == partition.leader_hint);
    let leader = leader.map_or(0, |leader| leader.node_id);
    cluster.ids().await.iter().position(|&id| id == leader).unwrap()
}

async fn partitions_are_merged_under_load<R: Registers + Whole>(
    name: &str,
    mut cluster: Cluster,
    registers: R,
) {
    let load = settle_and_load(&registers, SEED).await;
    load.goes_on("clients write").await;
    for count in [4, 6] {
        for partition in partitions(&cluster).await.into_iter().take(2) {
            split(&cluster, partition.id).await;
        }
        cluster.until_settled(3, |table| table.partitions.len() == count).await;
    }
    load.goes_on("clients write to six partitions").await;
    // Each with the one behind it, those that were never one too.
    for count in [5, 4] {
        let first = partitions(&cluster).await[1].id;
        merge(&cluster, first).await;
        cluster.until_settled(3, |table| table.partitions.len() == count).await;
        load.goes_on("clients write beside a merge").await;
    }
    // The node that leads one of the two is killed while they become one, and comes back.
    for (count, killed) in [(3, 0), (2, 1)] {
        let pair = partitions(&cluster).await;
        let victim = leader_of(&cluster, &pair[killed]).await;
        let (_, begun) = begin_merge(&cluster, pair[0].id).await;
        cluster.nodes[victim].kill();
        load.goes_on("clients write without it").await;
        cluster.nodes[victim].start();
        cluster.until_settled(3, |table| table.version >= begun).await;
        load.goes_on("clients write with it").await;
        if partitions(&cluster).await.len() > count {
            println!("{name}: the merge was given up when a leader died");
            merge(&cluster, pair[0].id).await;
        }
        cluster.until_settled(3, |table| table.partitions.len() == count).await;
    }
    let first = partitions(&cluster).await[0].id;
    merge(&cluster, first).await;
    cluster.until_settled(3, |table| table.partitions.len() == 1).await;
    load.goes_on("clients write to one partition").await;
    // What was merged can be split again, and starts again.
    let whole = partitions(&cluster).await[0].id;
    split(&cluster, whole).await;
    cluster.until_settled(3, |table| table.partitions.len() == 2).await;
    for at in 0..cluster.nodes.len() {
        cluster.nodes[at].kill();
        load.goes_on("clients write without it").await;
        cluster.nodes[at].start();
        cluster.until_settled(3, |_| true).await;
    }
    load.goes_on("clients write to all that came back").await;

    must_have_everything(name, &registers, load).await;
}

async fn a_grid(durability: &str) {
    let cluster = Cluster::grid(3, durability, 2).await;
    let grid = cluster.grid_client().await;
    partitions_are_merged_under_load(durability, cluster, grid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_a_grid_in_memory_are_merged_under_load() {
    a_grid("memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_a_buffered_grid_are_merged_under_load() {
    a_grid("buffered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_a_database_are_merged_under_load() {
    let cluster = Cluster::shard(3, "fjall", 2).await;
    let table = InTable::create(cluster.database_client().await, "registers").await;
    partitions_are_merged_under_load("database", cluster, table).await;
}

/// Every watch, at whatever node, sees every change once and in order, while the partition under it becomes part of another
/// one, and is split off again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_misses_nothing_while_partitions_are_merged() {
    let mut cluster = Cluster::grid(3, "buffered", 4).await;
    let fourth = cluster.add().await;
    // A node without a copy of everything has watches too.
    let watches = [(0, true), (fourth, true), (1, false), (fourth, false)];
    let watched = Watched::start(&cluster, &watches).await;
    for count in (1..4).rev() {
        let first = partitions(&cluster).await[0].id;
        merge(&cluster, first).await;
        cluster.until_settled(3, |table| table.partitions.len() == count).await;
    }
    let whole = partitions(&cluster).await[0].id;
    split(&cluster, whole).await;
    cluster.until_settled(3, |table| table.partitions.len() == 2).await;
    merge(&cluster, whole).await;
    watched.finish().await;
}

/// Reads a watch of [`KEYS`] keys until it has seen this value of each, and checks that it sees each one from `next` on.
async fn must_see(watch: &mut Watch, next: u64, upto: u64) {
    let mut seen: BTreeMap<Bytes, u64> = BTreeMap::new();
    while seen.len() < KEYS || seen.values().any(|&value| value < upto) {
        let events = watch.next().await.unwrap().events;
        for event in events.into_iter().filter(|event| event.kind() == Kind::Set) {
            let value: u64 = str::from_utf8(&event.value.unwrap()).unwrap().parse().unwrap();
            let expected = seen.get(&event.key).map_or(next, |last| last + 1);
            assert_eq!(value, expected, "{:?}", event.key);
            seen.insert(event.key, value);
        }
    }
}

const KEYS: usize = 16;

/// Of one round.
const WRITES: u64 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_was_away_goes_on_wherever_its_keys_went_meanwhile() {
    let cluster = Cluster::grid(3, "buffered", 2).await;
    let grid = cluster.grid_client().await;
    let write = async |value: u64| {
        for key in 0..KEYS {
            grid.set(format!("away:{key}"), value.to_string()).await.unwrap();
        }
    };
    let mut watch = grid.watch("away:", true, Vec::new()).await.unwrap();
    let mut begun = 0;
    while begun < 2 {
        begun += watch.next().await.unwrap().events.len();
    }
    // Where a reader was that has gone away, and the value that it had not seen yet.
    let mut away = vec![(watch.positions(), 0)];
    for round in 0..2 {
        let two = partitions(&cluster).await;
        let (first, second) = (two[0].id, two[1].id);
        let value = round * WRITES;
        write(value).await;
        split(&cluster, second).await;
        cluster.until_settled(3, |table| table.partitions.len() == 3).await;
        write(value + 1).await;
        must_see(&mut watch, value, value + 1).await;
        away.push((watch.positions(), value + 2));
        write(value + 2).await;
        merge(&cluster, second).await;
        merge(&cluster, first).await;
        cluster.until_settled(3, |table| table.partitions.len() == 1).await;
        write(value + 3).await;
        split(&cluster, first).await;
        cluster.until_settled(3, |table| table.partitions.len() == 2).await;
        write(value + 4).await;
        must_see(&mut watch, value + 2, value + 4).await;
        away.push((watch.positions(), value + WRITES));
    }
    let value = 2 * WRITES;
    write(value).await;
    for (positions, next) in away {
        for node in &cluster.nodes {
            let grid = Grid::connect([node.grpc.clone()]).await.unwrap();
            let mut again = grid.watch("away:", true, positions.clone()).await.unwrap();
            must_see(&mut again, next, value).await;
        }
    }
}

/// Nobody asks for it: what was split and is asked nothing any more becomes one again, and what the cluster began with stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_were_one_and_are_cold_become_one_again() {
    let cluster = Cluster::grid_with(3, 2, &["--merge-after-s", "3"]).await;
    let grid = cluster.grid_client().await;
    for key in 0..SETTLED_KEYS {
        grid.write(&format!("settled-{key}"), key).await.unwrap();
    }
    let before = partitions(&cluster).await;
    for partition in &before {
        split(&cluster, partition.id).await;
    }
    cluster.until_settled(3, |table| table.partitions.len() == 4).await;
    cluster.until_settled(3, |table| table.partitions.len() == 2).await;
    let ranges = |partitions: &[Partition]| -> Vec<(u64, u64)> {
        partitions.iter().map(|partition| (partition.id, partition.last_token)).collect()
    };
    assert_eq!(ranges(&partitions(&cluster).await), ranges(&before));
    let events = cluster.nodes[0].admin().events(EventsRequest {}).await.unwrap().into_inner().events;
    let because = events.iter().filter(|event| event.text.contains(": neither holds or is asked much"));
    assert_eq!(because.count(), 2, "{events:#?}");
    for key in 0..SETTLED_KEYS {
        assert_eq!(grid.read(&format!("settled-{key}")).await.unwrap(), Some(key));
    }
}

/// Split and merged without a break: what a request sees of it is always one of the two, and never what was before.
async fn again_and_again<R: Registers + Whole>(name: &str, cluster: Cluster, registers: R) {
    let load = settle_and_load(&registers, SEED).await;
    for _ in 0..ROUNDS {
        let whole = partitions(&cluster).await[0].id;
        split(&cluster, whole).await;
        cluster.until_settled(3, |table| table.partitions.len() == 2).await;
        merge(&cluster, whole).await;
        cluster.until_settled(3, |table| table.partitions.len() == 1).await;
    }
    must_have_everything(name, &registers, load).await;
}

const ROUNDS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_is_split_and_merged_again_and_again() {
    let cluster = Cluster::grid(3, "buffered", 1).await;
    let grid = cluster.grid_client().await;
    again_and_again("grid", cluster, grid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_split_and_merged_again_and_again() {
    let cluster = Cluster::shard(3, "fjall", 1).await;
    let table = InTable::create(cluster.database_client().await, "registers").await;
    again_and_again("database", cluster, table).await;
}
