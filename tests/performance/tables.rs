//! A database with many tables that have nothing in them: how long it takes to start, and what it takes of memory. The peer
//! is the same node with one table; the floor is the start of a process that does nothing.

use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use trimaran_client::database::{KeyType, Table};
use trimaran_tests::harness::process::{Cluster, binary};

use crate::dynamodb::Line;
use crate::server::{median, memory_bytes};

const TABLES: [usize; 2] = [1, 100];

/// How often it is looked whether the node listens.
const LOOK_EVERY: Duration = Duration::from_millis(1);

fn name(number: usize) -> String {
    format!("table-{number}")
}

/// Milliseconds.
fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

/// Prints a row for each number of tables.
pub(crate) async fn run(rounds: usize) {
    println!(
        "| tables without items, one node | the process does nothing, ms | it answers GetItem after, ms | ratio | memory, MB |\n|---|---|---|---|---|"
    );
    for tables in TABLES {
        let mut cluster = Cluster::shard(1, "fjall", 4).await;
        let database = cluster.database_client().await;
        for number in 0..tables {
            let partition_key = ("id".to_owned(), KeyType::S);
            database.create_table(Table { name: name(number), partition_key, sort_key: None }).await.unwrap();
        }
        let (mut floors, mut starts, mut ratios, mut megabytes) = (vec![], vec![], vec![], vec![]);
        for _ in 0..rounds {
            let began = Instant::now();
            let ran = Command::new(binary()).arg("--version").stdout(Stdio::null()).status().unwrap();
            assert!(ran.success());
            let floor = ms(began);
            let node = &mut cluster.nodes[0];
            assert!(node.stop());
            let began = Instant::now();
            node.start();
            while TcpStream::connect(&node.front).await.is_err() {
                sleep(LOOK_EVERY).await;
            }
            let mut line = Line::connect(&node.front).await;
            // Of the last one, which is not there if the node does not know all of them yet.
            let body = format!(
                r#"{{"TableName":"{}","ConsistentRead":true,"Key":{{"id":{{"S":"a"}}}}}}"#,
                name(tables - 1)
            );
            line.ask("GetItem", &body).await;
            let start = ms(began);
            floors.push(floor);
            starts.push(start);
            ratios.push(start / floor);
            megabytes.push(memory_bytes(node.id()) / 1e6);
        }
        println!(
            "| {tables} | {:.1} | {:.1} | {:.1} | {:.1} |",
            median(&mut floors),
            median(&mut starts),
            median(&mut ratios),
            median(&mut megabytes)
        );
    }
}
