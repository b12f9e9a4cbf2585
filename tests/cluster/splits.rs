//! Partitions that become two while clients write and read without pause: by hand, also while the leader dies, and because
//! they hold much. Nothing acknowledged is lost or repeated, no read is older than an acknowledged write, a scan sees every
//! key once, a watch every change once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use trimaran_client::database::{Item, ReadOptions, Value};
use trimaran_client::grid::Grid;
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_proto::api::cluster::{EventsRequest, SplitRequest};
use trimaran_proto::api::placement::placement_client::PlacementClient;
use trimaran_proto::api::placement::{Partition, Table, WatchTableRequest};
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::{PATIENCE, until};
use trimaran_tests::workload::registers::{InTable, Load, Registers};
use trimaran_tests::workload::watches::Watched;

const SEED: u64 = 11;

/// Keys that nobody writes to again, enough for every partition.
pub(crate) const SETTLED_KEYS: u64 = 300;

pub(crate) async fn table(cluster: &Cluster) -> Table {
    let node = cluster.nodes.iter().find(|node| node.is_running()).unwrap();
    node.status().await.unwrap().table.unwrap()
}

/// What can be asked of everything that was written.
pub(crate) trait Whole {
    /// All keys, as a scan finds them.
    async fn keys(&self) -> Vec<String>;
    /// How many the cluster says there are, if it counts.
    async fn count(&self) -> Option<u64>;
}

impl Whole for Grid {
    async fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut cursor = 0;
        loop {
            let (found, next) = self.scan(cursor, 50, "").await.unwrap();
            keys.extend(found.into_iter().map(|key| String::from_utf8(key.to_vec()).unwrap()));
            cursor = next;
            if cursor == 0 {
                return keys;
            }
        }
    }

    async fn count(&self) -> Option<u64> {
        None
    }
}

impl Whole for InTable {
    async fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut start_key = None;
        loop {
            let options = ReadOptions { start_key, limit: 50, ..ReadOptions::default() };
            let page = self.database.scan(self.table, options).await.unwrap();
            for mut item in page.items {
                let Some(Value::S(id)) = item.remove("id") else { panic!("an item without its id") };
                keys.push(id);
            }
            start_key = page.last_key;
            if start_key.is_none() {
                return keys;
            }
        }
    }

    async fn count(&self) -> Option<u64> {
        Some(self.database.describe_table(self.table).await.unwrap().item_count)
    }
}

/// Asks for a split until somebody takes it.
pub(crate) async fn split(cluster: &Cluster, partition_id: u64) -> u64 {
    let mut new = 0;
    until("a split is begun", async || {
        let asked = cluster.nodes.iter().find(|node| node.is_running()).unwrap();
        let request = SplitRequest { partition_id, at_token: None };
        match asked.admin().split(request).await {
            Ok(reply) => new = reply.into_inner().new_partition_id,
            Err(refused) => println!("not split yet: {}", refused.message()),
        }
        new != 0
    })
    .await;
    new
}

async fn partitions_are_split_under_load<R: Registers + Whole>(
    name: &str,
    mut cluster: Cluster,
    registers: R,
) {
    let load = settle_and_load(&registers, SEED).await;
    load.goes_on("clients write").await;
    for partition in table(&cluster).await.partitions {
        split(&cluster, partition.id).await;
        load.goes_on("clients write beside a split").await;
    }
    cluster.until_settled(3, |table| table.partitions.len() == 4).await;
    // The node that leads is killed while a partition is being split, and comes back.
    for partition in table(&cluster).await.partitions.iter().take(2) {
        let leader = partition.replicas.iter().find(|replica| replica.id == partition.leader_hint);
        let leader = leader.map_or(0, |leader| leader.node_id);
        let victim = cluster.ids().await.iter().position(|&id| id == leader).unwrap();
        split(&cluster, partition.id).await;
        cluster.nodes[victim].kill();
        load.goes_on("clients write without it").await;
        cluster.nodes[victim].start();
        cluster.until_settled(3, |_| true).await;
        load.goes_on("clients write with it").await;
    }
    cluster.until_settled(3, |table| table.partitions.len() == 6).await;
    // All at once: whatever was being written is found again.
    for partition in table(&cluster).await.partitions {
        split(&cluster, partition.id).await;
    }
    load.goes_on("clients write while everything is split").await;
    cluster.until_settled(3, |table| table.partitions.len() == 12).await;
    load.goes_on("clients write to twelve partitions").await;

    must_have_everything(name, &registers, load).await;
}

/// Writes what nobody writes to again, and starts a load.
pub(crate) async fn settle_and_load<R: Registers>(registers: &R, seed: u64) -> Load<R> {
    for key in 0..SETTLED_KEYS {
        registers.write(&format!("settled-{key}"), key).await.unwrap();
    }
    Load::start(registers, 6, seed)
}

/// Ends the load: what was written is there, each key once, and is counted.
pub(crate) async fn must_have_everything<R: Registers + Whole>(name: &str, registers: &R, load: Load<R>) {
    let keys = registers.keys().await;
    let settled: Vec<&String> = keys.iter().filter(|key| key.starts_with("settled-")).collect();
    assert_eq!(settled.len() as u64, SETTLED_KEYS, "each once");
    assert_eq!(settled.into_iter().collect::<BTreeSet<_>>().len() as u64, SETTLED_KEYS);
    let report = load.finish().await;
    println!("{name}: {report:?}");
    assert!(report.answered > 500, "{report:?}");
    for key in 0..SETTLED_KEYS {
        assert_eq!(registers.read(&format!("settled-{key}")).await.unwrap(), Some(key), "settled-{key}");
    }
    if registers.count().await.is_some() {
        let all = registers.keys().await.len() as u64;
        until("what the parts have is counted", async || registers.count().await == Some(all)).await;
    }
}

/// Every watch, at whatever node, sees every change once and in order, while the partition under it is split, and split
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_misses_nothing_while_partitions_are_split() {
    let mut cluster = Cluster::grid(3, "buffered", 1).await;
    let fourth = cluster.add().await;
    // A node without any copy has watches too.
    let watches = [(0, true), (fourth, true), (1, false), (fourth, false)];
    let watched = Watched::start(&cluster, &watches).await;
    for count in [2, 4, 8] {
        for partition in table(&cluster).await.partitions {
            split(&cluster, partition.id).await;
        }
        cluster.until_settled(3, |table| table.partitions.len() == count).await;
    }
    let partitions = watched.finish().await;
    assert_eq!((partitions[0], partitions[1]), (8, 8));
}

/// A client of Redis Cluster: it goes where MOVED sends it.
struct Following {
    /// By slot, where it was sent last.
    known: BTreeMap<u16, String>,
    /// Where it asks first.
    any: String,
    moved: usize,
}

impl Following {
    async fn ask(&mut self, key: &str, command: &str) -> String {
        let slot = trimaran_placement::token::slot(key.as_bytes());
        let mut address = self.known.get(&slot).cloned().unwrap_or_else(|| self.any.clone());
        for _ in 0..5 {
            let answer = line(&address, command).await;
            let Some(moved) = answer.strip_prefix("-MOVED ") else { return answer };
            let (told, to) = moved.split_once(' ').unwrap();
            assert_eq!(told, slot.to_string());
            self.moved += 1;
            self.known.insert(slot, to.to_owned());
            address = to.to_owned();
        }
        panic!("sent to and fro: {command}");
    }
}

/// One inline command; the first line of the answer.
async fn line(address: &str, command: &str) -> String {
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    line.trim_end().to_owned()
}

/// Slots change hands at once: a client is told MOVED where they were, and served where they are; never ASK.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_redis_cluster_are_sent_to_where_a_slot_has_moved() {
    let mut cluster = Cluster::grid_with(3, 1, &["--resp-redirect"]).await;
    let mut client = Following { known: BTreeMap::new(), any: cluster.nodes[0].front.clone(), moved: 0 };
    let keys: Vec<String> = (0..100).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        assert_eq!(client.ask(key, &format!("INCR {key}")).await, ":1");
    }
    // There is one partition: the first node leads all of it, or nothing.
    assert!([0, keys.len()].contains(&client.moved), "{}", client.moved);
    assert_eq!(line(&cluster.nodes[0].front, "MGET a b").await.split(' ').next(), Some("-CROSSSLOT"));
    assert_eq!(line(&cluster.nodes[0].front, "CLUSTER KEYSLOT {user1000}.following").await, ":3443");
    for count in [2, 4] {
        for partition in table(&cluster).await.partitions {
            split(&cluster, partition.id).await;
        }
        cluster.until_settled(3, |table| table.partitions.len() == count).await;
    }
    cluster.add().await;
    // Leaders are spread over four nodes by now, or will be: a client is sent on until it is there.
    let leads = |table: &Table| {
        let led = table.partitions.iter().map(|found| found.leader_hint).collect::<BTreeSet<_>>();
        let nodes = table.partitions.iter().flat_map(|found| &found.replicas);
        nodes
            .filter(|replica| led.contains(&replica.id))
            .map(|replica| replica.node_id)
            .collect::<BTreeSet<_>>()
    };
    cluster.until_settled(3, |table| leads(table).len() == 4).await;
    let before = client.moved;
    for (round, key) in (2..5).flat_map(|round| keys.iter().map(move |key| (round, key))) {
        assert_eq!(client.ask(key, &format!("INCR {key}")).await, format!(":{round}"));
    }
    let moved = client.moved - before;
    assert!(
        moved > 0 && moved < 2 * keys.len(),
        "{moved}: each slot is looked for once or twice, not every time"
    );
}

/// Who follows the table is told what changes, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_the_table_is_told_of_a_split() {
    let cluster = Cluster::grid(3, "memory", 3).await;
    let node = &cluster.nodes[1];
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    let mut client = PlacementClient::new(channel(&dial, &node.grpc).unwrap());
    let mut changes = client.watch_table(WatchTableRequest {}).await.unwrap().into_inner();
    let first = changes.message().await.unwrap().unwrap();
    assert!(first.whole && first.partitions.len() == 3 && first.nodes.len() == 3, "{first:?}");
    let mut known: BTreeMap<u64, Partition> =
        first.partitions.into_iter().map(|partition| (partition.id, partition)).collect();
    let new = split(&cluster, 2).await;
    while !known.contains_key(&new) {
        let change = changes.message().await.unwrap().unwrap();
        assert!(!change.whole && change.partitions.len() < 3, "{change:?}");
        known.extend(change.partitions.into_iter().map(|partition| (partition.id, partition)));
    }
    assert_eq!(known[&2].last_token + 1, known[&new].first_token);
    // A node that stops does not wait for those who follow it.
    let mut cluster = cluster;
    let began = tokio::time::Instant::now();
    assert!(cluster.nodes[1].stop());
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

/// Nobody asks for it: what holds more than it may is split until it does not, and the cluster says why.
async fn what_holds_much_is_split<R: Registers + Whole>(
    cluster: Cluster,
    registers: R,
    write: impl AsyncFn(u64),
) {
    for key in 0..48 {
        write(key).await;
    }
    cluster.until_settled(3, |table| table.partitions.len() >= 4).await;
    let events = cluster.nodes[0].admin().events(EventsRequest {}).await.unwrap().into_inner().events;
    let because = events.iter().filter(|event| event.text.contains(": it holds much")).count();
    assert!(because >= 3, "{events:#?}");
    assert_eq!(registers.keys().await.len(), 48);
}

const SMALL: [&str; 2] = ["--split-above-mib", "1"];

/// What one write is, and 48 of them are 3 MiB.
const LARGE_BYTES: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_splits_what_holds_much() {
    let cluster = Cluster::grid_with(3, 1, &SMALL).await;
    let grid = cluster.grid_client().await;
    let write = async |key: u64| {
        grid.set(format!("large-{key}"), vec![b'x'; LARGE_BYTES]).await.unwrap();
    };
    what_holds_much_is_split(cluster, grid.clone(), write).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_splits_what_holds_much() {
    let cluster = Cluster::shard_with(3, 1, &SMALL).await;
    let table = InTable::create(cluster.database_client().await, "registers").await;
    let write = async |key: u64| {
        let text = Value::S("x".repeat(LARGE_BYTES));
        let item = Item::from([
            ("id".to_owned(), format!("large-{key}").as_str().into()),
            ("text".to_owned(), text),
        ]);
        table.database.put_item(table.table, item).await.unwrap();
    };
    what_holds_much_is_split(cluster, table.clone(), write).await;
}

async fn a_grid(durability: &str) {
    let cluster = Cluster::grid(3, durability, 2).await;
    let grid = cluster.grid_client().await;
    partitions_are_split_under_load(durability, cluster, grid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_a_grid_in_memory_are_split_under_load() {
    a_grid("memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_a_buffered_grid_are_split_under_load() {
    a_grid("buffered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_a_database_are_split_under_load() {
    let cluster = Cluster::shard(3, "fjall", 2).await;
    let table = InTable::create(cluster.database_client().await, "registers").await;
    partitions_are_split_under_load("database", cluster, table).await;
}
