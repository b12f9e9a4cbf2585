//! Three shard-nodes; clients write without pause while each node in turn, leaders included, is killed with -9 and
//! started again. Nothing acknowledged is lost or repeated, and no read is older than an acknowledged write.

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use trimaran_client::database::{Database, Item, KeyType, ReadOptions, Table};
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::until;
use trimaran_tests::workload::registers::{InTable, Load};

const SEED: u64 = 1;

async fn every_node_is_killed_in_turn(engine: &str) {
    let mut cluster = Cluster::shard(3, engine, 2).await;
    let registers = InTable::create(cluster.database_client().await, "registers").await;
    let load = Load::start(&registers, 6, SEED);
    let acknowledged = || load.acknowledged.load(Ordering::Acquire);
    until("clients write", async || acknowledged() > 200).await;
    for victim in cluster.leaders_first().await {
        let before = acknowledged();
        cluster.nodes[victim].kill();
        let died = Instant::now();
        // Several per client, so that all of them go on and not only those of other partitions.
        until("writes go on", async || acknowledged() > before + 100).await;
        println!("{engine}: node {victim} killed, 100 more writes after {:?}", died.elapsed());
        cluster.nodes[victim].start();
        cluster.until_complete().await;
        let now = acknowledged();
        until("clients write with all nodes back", async || acknowledged() > now + 200).await;
    }
    let report = load.finish().await;
    println!("{engine}: {report:?}");
    assert!(report.answered > 500, "{report:?}");
    // Nodes come back with their logs, under their old replica ids.
    let status = cluster.nodes[0].status().await.unwrap();
    assert!(status.table.unwrap().partitions.iter().all(|partition| partition.epoch == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_on_fjall_loses_nothing_when_each_node_is_killed_in_turn() {
    every_node_is_killed_in_turn("fjall").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_on_sled_loses_nothing_when_each_node_is_killed_in_turn() {
    every_node_is_killed_in_turn("sled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_finds_its_tables_and_items_after_all_nodes_were_killed() {
    let mut cluster = Cluster::shard(3, "fjall", 3).await;
    let database = cluster.database_client().await;
    let partition_key = ("id".to_owned(), KeyType::S);
    let sort_key = Some(("at".to_owned(), KeyType::N));
    database.create_table(Table { name: "events".into(), partition_key, sort_key }).await.unwrap();
    let item = |id: i64, at: i64| -> Item {
        [("id".to_owned(), format!("id-{id}").into()), ("at".to_owned(), at.into())].into()
    };
    for id in 0..20 {
        let items = (0..5).map(|at| item(id, at)).collect();
        database.batch_write("events", items, Vec::new()).await.unwrap();
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.until_complete().await;
    let described = database.describe_table("events").await.unwrap();
    assert_eq!(described.item_count, 100);
    let mut found = Vec::new();
    let mut options = ReadOptions { limit: 7, ..ReadOptions::default() };
    loop {
        let page = database.scan("events", options.clone()).await.unwrap();
        found.extend(page.items);
        options.start_key = page.last_key;
        if options.start_key.is_none() {
            break;
        }
    }
    found.sort_by_key(|item| format!("{item:?}"));
    let mut expected: Vec<Item> = (0..20).flat_map(|id| (0..5).map(move |at| item(id, at))).collect();
    expected.sort_by_key(|item| format!("{item:?}"));
    assert_eq!(found, expected);
}

/// What is written to a table is never swallowed by the end of one of the same name, whichever node is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_again_under_its_name_is_another_table() {
    let cluster = Cluster::shard(3, "fjall", 2).await;
    let mut databases = Vec::new();
    for address in cluster.addresses() {
        databases.push(Database::connect([address]).await.unwrap());
    }
    for round in 0..5 {
        let database = &databases[round % 3];
        InTable::create(database.clone(), "again").await;
        // The others may still know the table of before.
        let first = Item::from([("id".to_owned(), "first".into())]);
        database.put_item("again", first.clone()).await.unwrap();
        for other in databases.iter().rev() {
            let found = other.batch_get("again", vec![first.clone()]).await.unwrap();
            assert_eq!(found, std::slice::from_ref(&first), "round {round}");
        }
        for (number, other) in databases.iter().enumerate() {
            let key = Item::from([("id".to_owned(), format!("{round}-{number}").into())]);
            other.put_item("again", key).await.unwrap();
        }
        for other in &databases {
            let page = other.scan("again", ReadOptions::default()).await.unwrap();
            assert_eq!(page.items.len(), 4, "round {round}: {page:?}");
        }
        databases[(round + 1) % 3].delete_table("again").await.unwrap();
        until("the table is gone", async || {
            matches!(database.describe_table("again").await, Err(trimaran_client::Error::NotFound(_)))
        })
        .await;
    }
}
