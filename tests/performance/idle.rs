//! What partitions cost that nobody asks anything: processor time of each of three nodes that have 256 of them, as a share
//! of one processor. The floor is the same nodes with one partition.

use std::time::Duration;

use trimaran_tests::harness::process::Cluster;

/// Ticks of the kernel in a second, as all Linux systems have them.
const TICKS_PER_SECOND: f64 = 100.0;

/// Time after the start in which leaders find their places.
const SETTLE: Duration = Duration::from_secs(20);

/// Processor time of a process so far, user and system, seconds.
fn used(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Behind the name, which may have spaces: fields 14 and 15 of proc(5).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = [fields[11], fields[12]].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / TICKS_PER_SECOND
}

async fn shares(partitions: u64, seconds: u64) -> Vec<f64> {
    let cluster = Cluster::grid(3, "buffered", partitions).await;
    tokio::time::sleep(SETTLE).await;
    let before: Vec<f64> = cluster.nodes.iter().map(|node| used(node.id())).collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = cluster.nodes.iter().map(|node| used(node.id()));
    after.zip(before).map(|(after, before)| (after - before) / seconds as f64 * 100.0).collect()
}

pub(crate) async fn run(seconds: u64) {
    println!("| idle partitions on three nodes | processor of each node, percent of one |");
    println!("|---|---|");
    for partitions in [1, 256] {
        let shares: Vec<String> =
            shares(partitions, seconds).await.iter().map(|share| format!("{share:.1}")).collect();
        println!("| {partitions} | {} |", shares.join(", "));
    }
}
