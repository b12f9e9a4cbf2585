//! Nodes of the release before this one and of this one together, while clients write and read without pause: a rolling
//! upgrade that is taken back in the middle, and then goes on to its end. What the older release does not know is refused
//! until no node of it is left, and from then on such a node is.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use trimaran_proto::api::cluster::MergeRequest;
use trimaran_tests::harness::process::{Cluster, release_before};
use trimaran_tests::harness::until;
use trimaran_tests::workload::registers::{InTable, Registers};

use crate::splits::{Whole, must_have_everything, settle_and_load, split, table};

const SEED: u64 = 13;

/// What a node answers to a merge of the first two partitions.
async fn ask_for_a_merge(cluster: &Cluster, at: usize) -> Result<u64, String> {
    let mut partitions = table(cluster).await.partitions;
    partitions.sort_by_key(|partition| partition.first_token);
    let request = MergeRequest { partition_id: partitions[0].id };
    let asked = cluster.nodes[at].admin().merge(request).await;
    asked.map(|reply| reply.into_inner().from_partition_id).map_err(|refused| refused.message().to_owned())
}

/// What a grid node answers to a command that the release before does not know; a database has none.
async fn push(cluster: &Cluster, at: usize) -> Option<String> {
    if cluster.kind() != "grid-node" {
        return None;
    }
    let mut stream = TcpStream::connect(&cluster.nodes[at].front).await.unwrap();
    stream.write_all(b"LPUSH pushed element\r\n").await.unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await.unwrap();
    Some(answer)
}

async fn a_rolling_upgrade<R: Registers + Whole>(
    name: &str,
    before: &Path,
    mut cluster: Cluster,
    registers: R,
) {
    let load = settle_and_load(&registers, SEED).await;
    load.goes_on("clients write to the release before").await;
    // One is upgraded, that is taken back, and it is upgraded again.
    for release in [None, Some(before), None] {
        assert!(cluster.nodes[0].stop());
        cluster.nodes[0].use_release(release);
        cluster.nodes[0].start();
        cluster.until_complete().await;
        load.goes_on("clients write to both releases").await;
    }
    // A cluster of both grows by nodes of both, and does what both know.
    for release in [None, Some(before)] {
        cluster.add_of_release(release);
        cluster.add().await;
        cluster.until_settled(3, |table| table.partitions.len() == 2).await;
        load.goes_on("clients write to more nodes").await;
    }
    let whole = table(&cluster).await.partitions[0].id;
    split(&cluster, whole).await;
    cluster.until_settled(3, |table| table.partitions.len() == 3).await;
    load.goes_on("clients write to what was split").await;
    let refused = ask_for_a_merge(&cluster, 0).await.unwrap_err();
    // By a leader of this release, or of the one before.
    let words = ["not every node knows how to merge", "a command of a newer release"];
    assert!(words.iter().any(|words| refused.contains(words)), "{refused}");
    if let Some(answer) = push(&cluster, 0).await {
        assert!(answer.starts_with("-TRYAGAIN not every node"), "{answer}");
    }
    // The rest, one after another. The last one is ended by force.
    let old = [1, 2, 4];
    for at in old {
        if at == 4 {
            cluster.nodes[at].kill();
        } else {
            assert!(cluster.nodes[at].stop());
        }
        cluster.nodes[at].use_release(None);
        cluster.nodes[at].start();
        cluster.nodes[at].until_ready().await;
        cluster.until_settled(3, |_| true).await;
        load.goes_on("clients write on").await;
    }
    until("what only this release knows is used", async || match push(&cluster, 1).await {
        Some(answer) => answer.starts_with(':'),
        None => true,
    })
    .await;
    until("partitions are merged", async || match ask_for_a_merge(&cluster, 1).await {
        Ok(_) => true,
        Err(refused) => {
            println!("{name}: not merged yet: {refused}");
            false
        }
    })
    .await;
    cluster.until_settled(3, |table| table.partitions.len() == 2).await;
    load.goes_on("clients write to what was merged").await;
    // Now there is no way back.
    assert!(cluster.nodes[3].stop());
    cluster.nodes[3].use_release(Some(before));
    cluster.nodes[3].start();
    assert!(!cluster.nodes[3].ended().await, "it is refused");
    let log = cluster.nodes[3].log();
    // By those that are there, or because it finds in the log what it does not know: it stops there.
    let words = ["start it with a newer release", "that this release does not know"];
    assert!(words.iter().any(|words| log.contains(words)), "{log}");
    cluster.nodes[3].use_release(None);
    cluster.nodes[3].start();
    cluster.nodes[3].until_ready().await;
    cluster.until_settled(3, |_| true).await;
    must_have_everything(name, &registers, load).await;
}

/// Where the binary of the release before is not to be had, the history is not either: nobody can be made to have it.
fn the_release_before() -> Option<PathBuf> {
    let before = release_before();
    if before.is_none() {
        println!("SKIPPED: TRIMARAN_TEST_RELEASE_BEFORE names no binary; tests/release-before.sh builds it");
    }
    before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_is_upgraded_node_by_node() {
    let Some(before) = the_release_before() else { return };
    let cluster = Cluster::of_release(&before, "grid-node", 3, 2).await;
    let grid = cluster.grid_client().await;
    a_rolling_upgrade("grid", &before, cluster, grid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_upgraded_node_by_node() {
    let Some(before) = the_release_before() else { return };
    let cluster = Cluster::of_release(&before, "shard-node", 3, 2).await;
    let table = InTable::create(cluster.database_client().await, "registers").await;
    a_rolling_upgrade("database", &before, cluster, table).await;
}
