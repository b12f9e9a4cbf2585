//! The native API of the database through the SDK: every operation, pages, and what is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use trimaran_client::Error;
use trimaran_client::database::{
    Action, Database, Index, Item, KeyType, MaxThroughput, Placeholders, Projection, ReadOptions,
    ReturnValues, Table, TransactWrite, Value, VerifiedPartition, WriteOptions,
};
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_net::exchange::DatabaseCalls;
use trimaran_net::pipeline::Pipeline;
use trimaran_proto::api::database as wire;
use trimaran_proto::api::database::database_client::DatabaseClient;
use trimaran_tests::harness::process::{Cluster, binary};
use trimaran_tests::harness::{PATIENCE, until};
use trimaran_tests::workload::moments::{CLOCKS_MS, now_ms, until_kept};

fn item(id: &str, at: i64) -> Item {
    [("id".to_owned(), id.into()), ("seq".to_owned(), at.into())].into()
}

async fn events(database: &Database) {
    let table = Table {
        name: "events".into(),
        partition_key: ("id".into(), KeyType::S),
        sort_key: Some(("seq".into(), KeyType::N)),
    };
    database.create_table(table).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_are_written_read_and_paged_through_three_nodes() {
    let cluster = Cluster::shard(3, "fjall", 4).await;
    let database = cluster.database_client().await;
    events(&database).await;
    assert_eq!(database.list_tables().await.unwrap(), ["events"]);
    for at in (-5..20).rev() {
        database.put_item("events", item("a", at)).await.unwrap();
    }
    // Numbers sort as numbers; a filter takes from what was read; pages meet without gap or overlap.
    let mut found = Vec::new();
    let mut options = ReadOptions {
        filter: "seq <> :odd".into(),
        placeholders: Placeholders::default().value(":id", "a").value(":from", -3).value(":odd", 7),
        limit: 6,
        ..ReadOptions::default()
    };
    let refused = database.query("events", "id = :id AND seq >= :from", options.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("non-primary key attributes"), "{refused}");
    options.filter.clear();
    options.placeholders.values.remove(":odd");
    loop {
        let page = database.query("events", "id = :id AND seq >= :from", options.clone()).await.unwrap();
        found.extend(page.items.into_iter().map(|item| item["seq"].clone()));
        options.start_key = page.last_key;
        if options.start_key.is_none() {
            break;
        }
    }
    assert_eq!(found, (-3..20).map(Value::from).collect::<Vec<_>>());
    options = ReadOptions {
        placeholders: Placeholders::default().value(":id", "a"),
        descending: true,
        limit: 2,
        ..ReadOptions::default()
    };
    let newest = database.query("events", "id = :id", options).await.unwrap();
    assert_eq!(newest.items, [item("a", 19), item("a", 18)]);

    // Parts of a scan side by side are the whole.
    for number in 0..40 {
        database.put_item("events", item(&format!("id-{number}"), 0)).await.unwrap();
    }
    let mut count = 0;
    for part in 0..5 {
        let options = ReadOptions { segment: Some((part, 5)), ..ReadOptions::default() };
        count += database.scan("events", options).await.unwrap().items.len();
    }
    assert_eq!(count, 65);

    let old = WriteOptions { return_values: ReturnValues::AllOld, ..WriteOptions::default() };
    assert_eq!(database.delete_item("events", item("a", 3), old.clone()).await.unwrap(), Some(item("a", 3)));
    assert_eq!(database.delete_item("events", item("a", 3), old).await.unwrap(), None);
    database.batch_write("events", vec![item("b", 1), item("b", 2)], vec![item("a", 4)]).await.unwrap();
    let mut batch =
        database.batch_get("events", vec![item("b", 1), item("b", 2), item("a", 4)]).await.unwrap();
    batch.sort_by_key(|item| format!("{item:?}"));
    assert_eq!(batch, [item("b", 1), item("b", 2)]);

    database.delete_table("events").await.unwrap();
    until("the table is gone", async || {
        matches!(database.describe_table("events").await, Err(Error::NotFound(_)))
    })
    .await;
    assert!(matches!(database.get_item("events", item("a", 1)).await, Err(Error::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_by_name() {
    let mut cluster = Cluster::shard(1, "sled", 1).await;
    let database = cluster.database_client().await;
    events(&database).await;
    let with = |value: Value| {
        let mut item = item("a", 1);
        item.insert("x".into(), value);
        item
    };
    let mut deep = Value::Null;
    for _ in 0..40 {
        deep = Value::L(vec![deep]);
    }
    for (item, words) in [
        (Item::new(), "Missing the key"),
        ([("id".to_owned(), 7.into()), ("seq".to_owned(), 7.into())].into(), "Type mismatch"),
        (with(Value::N("seven".into())), "cannot be converted to a numeric value"),
        (with(Value::N("1".repeat(39))), "38 significant digits"),
        (with(Value::Ss([].into())), "may not be empty"),
        (with(Value::S("x".repeat(500_000))), "maximum allowed size"),
        (with(deep), "Nesting"),
    ] {
        let refused = database.put_item("events", item).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)) && refused.to_string().contains(words), "{refused}");
    }
    let never = WriteOptions { condition: "attribute_exists(nothing)".into(), ..WriteOptions::default() };
    let refused = database.put_item_with("events", item("a", 1), never).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict(_)), "{refused}");
    let again = Table { name: "events".into(), partition_key: ("id".into(), KeyType::S), sort_key: None };
    assert!(matches!(database.create_table(again).await, Err(Error::Conflict(_))));
    // An update that fails leaves everything as it was.
    database.put_item("events", with(Value::S("text".into()))).await.unwrap();
    let options =
        WriteOptions { placeholders: Placeholders::default().value(":one", 1), ..WriteOptions::default() };
    let refused = database.update_item("events", item("a", 1), "SET y = :one ADD x :one", options).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    let found = database.get_item("events", item("a", 1)).await.unwrap();
    assert_eq!(found, Some(with(Value::S("text".into()))));
    assert!(cluster.nodes[0].runs());
    assert!(!cluster.nodes[0].log().contains("panicked"));
}

/// What a caller sends again under its id is answered from memory, whichever node it goes to; and under the same name
/// another table is another thing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_sent_again_is_carried_out_once() {
    let cluster = Cluster::shard(3, "fjall", 2).await;
    let database = cluster.database_client().await;
    let mut clients = Vec::new();
    for address in cluster.addresses() {
        clients.push(DatabaseClient::connect(format!("http://{address}")).await.unwrap());
    }
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    let to_first = channel(&dial, &cluster.addresses()[0]).unwrap();
    let pipeline: Pipeline<DatabaseCalls> = Pipeline::new(to_first);
    let identified = |number: u128| format!("{number:032x}").parse::<MetadataValue<_>>().unwrap();
    let update = wire::UpdateItemRequest {
        table: "events".into(),
        key: Some(wire_item("a", 1)),
        update: "ADD visits :one".into(),
        placeholders: Some(wire::Placeholders {
            values: [(":one".into(), number(1))].into(),
            ..Default::default()
        }),
        return_values: wire::ReturnValues::AllNew.into(),
        ..wire::UpdateItemRequest::default()
    };
    let batch = wire::BatchWriteRequest {
        tables: vec![wire::TableWrites {
            table: "events".into(),
            puts: (0..5).map(|seq| wire_item("b", seq)).collect(),
            deletes: Vec::new(),
        }],
    };
    for round in 0..4 {
        events(&database).await;
        // What is written with its index is a transaction, each time.
        if round >= 2 {
            let index = Index {
                name: "by-seq".to_owned(),
                local: false,
                partition_key: ("seq".to_owned(), KeyType::N),
                sort_key: None,
                projection: Projection::All,
            };
            database.create_index("events", index).await.unwrap();
            database.set_strong_indexes("events", round == 2).await.unwrap();
        }
        for client in &mut clients {
            let mut request = tonic::Request::new(update.clone());
            request.metadata_mut().insert("trimaran-request-id", identified(7));
            let reply = client.update_item(request).await.unwrap().into_inner();
            let visits = reply.attributes.unwrap().attributes["visits"].clone();
            assert_eq!(visits, number(1), "round {round}: counted once, answered every time");
            // On a stream of calls it is the same request.
            let call = wire::Call {
                id: 0,
                request_id: Bytes::copy_from_slice(&7_u128.to_be_bytes()),
                body: Some(wire::call::Body::UpdateItem(update.clone())),
            };
            let answer = pipeline.call(call).await.unwrap().body.unwrap();
            let wire::answer::Body::UpdateItem(reply) = answer else { panic!("{answer:?}") };
            assert_eq!(reply.attributes.unwrap().attributes["visits"], number(1), "round {round}");
            let mut request = tonic::Request::new(batch.clone());
            request.metadata_mut().insert("trimaran-request-id", identified(8));
            client.batch_write(request).await.unwrap();
            // Written since: the batch that comes again must not undo it.
            database.delete_item("events", item("b", 2), WriteOptions::default()).await.unwrap();
        }
        let mut found = database.scan("events", ReadOptions::default()).await.unwrap().items;
        found.retain(|item| item["id"] == "b".into());
        assert_eq!(found.len(), 4, "round {round}: {found:?}");
        // Also once it would be carried out in another way.
        if round >= 2 {
            database.set_strong_indexes("events", round == 3).await.unwrap();
            for client in &mut clients {
                let mut request = tonic::Request::new(update.clone());
                request.metadata_mut().insert("trimaran-request-id", identified(7));
                let reply = client.update_item(request).await.unwrap().into_inner();
                assert_eq!(reply.attributes.unwrap().attributes["visits"], number(1), "round {round}");
            }
        }
        database.delete_table("events").await.unwrap();
        until("the table is gone", async || {
            matches!(database.describe_table("events").await, Err(Error::NotFound(_)))
        })
        .await;
    }
}

fn number(value: i64) -> wire::AttributeValue {
    wire::AttributeValue { value: Some(wire::attribute_value::Value::N(value.to_string())) }
}

fn wire_item(id: &str, seq: i64) -> wire::Item {
    let id = wire::AttributeValue { value: Some(wire::attribute_value::Value::S(id.to_owned())) };
    wire::Item { attributes: [("id".to_owned(), id), ("seq".to_owned(), number(seq))].into() }
}

/// What the command line does with a table: an index, a transaction's items among others, out to a file and into another table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_an_index_goes_to_a_file_and_comes_back() {
    let cluster = Cluster::shard(3, "fjall", 4).await;
    let database = cluster.database_client().await;
    events(&database).await;
    for at in 0..40 {
        let mut event = item(&format!("id-{}", at % 7), at);
        event.insert("kind".to_owned(), if at % 2 == 0 { "even" } else { "odd" }.into());
        event.insert("bytes".to_owned(), Value::B(vec![0, 255, at as u8].into()));
        database.put_item("events", event).await.unwrap();
    }
    let write = TransactWrite::default()
        .and("events", Action::Delete(item("id-0", 0)), WriteOptions::default())
        .and("events", Action::Put(item("id-1", 100)), WriteOptions::default());
    database.transact_write(write.clone()).await.unwrap();
    let condition =
        WriteOptions { condition: "attribute_not_exists(id)".to_owned(), ..WriteOptions::default() };
    let refused =
        database.transact_write(write.and("events", Action::Check(item("id-2", 2)), condition)).await;
    assert!(
        matches!(refused, Err(Error::Conflict(text)) if text.contains("[None, None, ConditionalCheckFailed]"))
    );
    let found = database.transact_get(vec![("events", item("id-0", 0)), ("events", item("id-1", 100))]).await;
    assert_eq!(found.unwrap(), [None, Some(item("id-1", 100))]);

    let addresses = cluster.addresses().join(",");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.json").display().to_string();
    let say = async |words: &[&str]| {
        let mut command = tokio::process::Command::new(binary());
        command.arg("db").args(words).args(["--address", &addresses, "-o", "json"]).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    say(&["create-index", "events", "by-kind", "--partition-key", "kind:S", "--sort-key", "seq:N"]).await;
    let odd =
        say(&["query", "events", "kind = :odd", "--index", "by-kind", "--values", r#"{":odd": "odd"}"#])
            .await;
    assert_eq!(odd.matches("\"id\"").count(), 20, "{odd}");
    assert!(say(&["describe-table", "events"]).await.contains("by-kind"));
    // Where an item is: all of one partition key are together, and the cluster says who leads them.
    let there = say(&["explain", "events", r#"{"id": "id-3", "seq": 3}"#]).await;
    let other = say(&["explain", "events", r#"{"id": "id-3", "seq": 1000}"#]).await;
    let [there, other]: [serde_json::Value; 2] =
        [there, other].map(|said| serde_json::from_str(&said).unwrap());
    assert!(there["item"]["bytes"].as_u64() > Some(20) && other["item"].is_null(), "{there} {other}");
    assert_eq!((&there["token"], &there["partition"]["id"]), (&other["token"], &other["partition"]["id"]));
    assert!(addresses.contains(there["partition"]["leader"].as_str().unwrap()), "{there}");
    say(&["export", "events", &file]).await;
    say(&["create-table", "copy", "--partition-key", "id:S", "--sort-key", "seq:N"]).await;
    assert!(say(&["import", "copy", &file]).await.contains("40"));
    let all = async |table: &str| {
        let mut items = database.scan(table, ReadOptions::default()).await.unwrap().items;
        items.sort_by_key(|item| format!("{item:?}"));
        items
    };
    assert_eq!(all("events").await, all("copy").await);
    say(&["delete-index", "events", "by-kind"]).await;
    until("the index is gone", async || database.describe_table("events").await.unwrap().indexes.is_empty())
        .await;
}

/// What is asked for much is found over all nodes, of a table and of an index, by the SDK and the command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_keys_are_found_wherever_they_are_asked_for() {
    let cluster = Cluster::shard(3, "fjall", 4).await;
    let database = cluster.database_client().await;
    events(&database).await;
    let by_kind = Index {
        name: "by-kind".to_owned(),
        local: false,
        partition_key: ("kind".to_owned(), KeyType::N),
        sort_key: None,
        projection: Projection::All,
    };
    database.create_index("events", by_kind).await.unwrap();
    assert!(matches!(database.hot_keys("nothing", 0).await, Err(Error::NotFound(_))));
    let refused = database.hot_keys("events", 65).await;
    assert!(matches!(&refused, Err(Error::Invalid(text)) if text.contains("HOT_KEYS_MAX")), "{refused:?}");
    // Every second write is to one partition key, with many sort keys; every third read asks for another one.
    for at in 0..600 {
        let mut event = item(&if at % 2 == 0 { "written".to_owned() } else { format!("id-{at}") }, at);
        event.insert("kind".to_owned(), (at % 50).into());
        database.put_item("events", event).await.unwrap();
        let read = if at % 3 == 0 { "read".to_owned() } else { format!("other-{at}") };
        for _ in 0..3 {
            database.get_item("events", item(&read, 1)).await.unwrap();
        }
        let kind = if at % 4 == 0 { -17 } else { at };
        let options = ReadOptions {
            index: "by-kind".to_owned(),
            placeholders: Placeholders::default().value(":kind", kind),
            ..ReadOptions::default()
        };
        database.query("events", "kind = :kind", options).await.unwrap();
    }
    let report = database.hot_keys("events", 0).await.unwrap();
    assert_eq!(report.silent, Vec::<u64>::new());
    let table = report.parts.iter().find(|part| part.index.is_none()).unwrap();
    let key = |name: &str| Item::from([("id".to_owned(), name.into())]);
    let [first, second] = &table.keys[..2] else { panic!("{table:?}") };
    assert_eq!([&first.key, &second.key], [&key("read"), &key("written")], "{table:?}");
    assert!(first.rates.reads > 0.0 && first.rates.writes == 0.0, "{first:?}");
    assert!(second.rates.writes > 0.0 && second.rates.reads == 0.0, "{second:?}");
    assert!(table.rates.reads > first.rates.reads && table.keys.len() == 10, "{table:?}");
    let index = report.parts.iter().find(|part| part.index.as_deref() == Some("by-kind")).unwrap();
    assert_eq!(index.keys[0].key, Item::from([("kind".to_owned(), (-17).into())]), "{index:?}");

    let mut command = tokio::process::Command::new(binary());
    command.args(["db", "hot", "events", "--limit", "1", "--address", &cluster.addresses()[1]]);
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(r#"{"id":"read"}"#), "{said}");
    assert!(said.contains("index by-kind: about"), "{said}");
    assert!(!said.contains("written"), "{said}");
}

/// A scan and a query as streams of pages: everything once, whichever node of those that read them is killed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_come_to_their_end_when_the_nodes_that_read_them_die() {
    let mut cluster = Cluster::shard(3, "fjall", 4).await;
    let database = cluster.database_client().await;
    events(&database).await;
    // Eight mebibytes: a page is one.
    let items: Vec<Item> = (0..400)
        .map(|at| {
            let mut event = item(&format!("id-{}", at % 7), at);
            event.insert("text".to_owned(), "x".repeat(20 << 10).into());
            event
        })
        .collect();
    for items in items.chunks(25) {
        database.batch_write("events", items.to_vec(), Vec::new()).await.unwrap();
    }
    let place = |item: &Item| (item["id"].clone(), item["seq"].clone());
    let mut expected: Vec<_> = items.iter().map(|item| format!("{:?}", place(item))).collect();
    expected.sort();

    let mut pages = database.scan_pages("events", ReadOptions::default());
    let (mut found, mut count) = (Vec::new(), 0);
    let mut victims = 0..3;
    while let Some(page) = pages.next().await.unwrap() {
        found.extend(page.items.iter().map(|item| format!("{:?}", place(item))));
        count += 1;
        // One of them sends the pages.
        if let Some(victim) = victims.next() {
            cluster.nodes[victim].kill();
            cluster.nodes[victim].start();
            cluster.until_complete().await;
        }
    }
    found.sort();
    assert_eq!(found, expected);
    assert!(count >= 8, "{count}");

    let mut seen = 0;
    let options = ReadOptions { limit: 123, ..ReadOptions::default() };
    let mut pages = database.scan_pages("events", options);
    while let Some(page) = pages.next().await.unwrap() {
        seen += page.items.len();
    }
    assert_eq!(seen, 123, "of all pages together");
    assert_eq!(pages.next().await.unwrap(), None);

    let options = ReadOptions {
        placeholders: Placeholders::default().value(":id", "id-3"),
        descending: true,
        ..ReadOptions::default()
    };
    let mut pages = database.query_pages("events", "id = :id", options);
    let mut sequence = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        sequence.extend(page.items.into_iter().map(|item| item["seq"].clone()));
    }
    let expected = (0..400_i64).rev().filter(|at| at % 7 == 3).map(Value::from).collect::<Vec<_>>();
    assert_eq!(sequence, expected);
    let refused = database.query_pages("events", "id <> :id", ReadOptions::default()).next().await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

/// A table that is asked more than it may be says so to the SDK; the command waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_may_be_asked_so_much_is_filled_and_read_as_fast_as_that() {
    let cluster = Cluster::shard(1, "fjall", 2).await;
    let database = cluster.database_client().await;
    events(&database).await;
    let addresses = cluster.addresses().join(",");
    let say = async |words: &[&str]| {
        let mut command = tokio::process::Command::new(binary());
        command.arg("db").args(words).args(["--address", &addresses, "-o", "json"]).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let lines = |at| format!("{{\"id\": {{\"S\": \"{at}\"}}, \"seq\": {{\"N\": \"{at}\"}}}}\n");
    std::fs::write(file("in"), (0..60).map(lines).collect::<String>()).unwrap();
    say(&["limit", "events", "--write-units", "20", "--read-units", "20"]).await;
    let limited = database.describe_table("events").await.unwrap().max_throughput;
    assert_eq!(limited, MaxThroughput { read_units: Some(20), write_units: Some(20) });
    // Four times what it may be asked in a second; whoever asks then has to wait.
    let mut large = item("large", 0);
    large.insert("text".to_owned(), "x".repeat(80_000).into());
    let throttled = async {
        loop {
            if let Err(error) = database.put_item("events", large.clone()).await {
                return error;
            }
        }
    };
    let throttled = timeout(PATIENCE, throttled).await.unwrap();
    assert!(matches!(throttled, Error::Exhausted(_)), "{throttled}");
    assert!(say(&["import", "events", &file("in")]).await.contains("60"));
    let found = async {
        loop {
            if let Err(error) = database.get_item("events", item("large", 0)).await {
                return error;
            }
        }
    };
    assert!(matches!(timeout(PATIENCE, found).await.unwrap(), Error::Exhausted(_)));
    say(&["export", "events", &file("out")]).await;
    assert_eq!(std::fs::read_to_string(file("out")).unwrap().lines().count(), 61);
    // Nothing said is anything.
    say(&["limit", "events"]).await;
    assert_eq!(database.describe_table("events").await.unwrap().max_throughput, MaxThroughput::default());
    let refused = database.limit_throughput("events", Some("no-such"), MaxThroughput::default()).await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
}

/// What items were is there as of any moment that is kept, at every node, whoever dies; and goes when it is kept no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_are_read_as_they_were() {
    let mut cluster = Cluster::shard(3, "fjall", 4).await;
    let database = cluster.database_client().await;
    events(&database).await;
    let version = |at: i64, version: &str| {
        let mut event = item("a", at);
        event.insert("version".to_owned(), version.into());
        event
    };
    // A moment that is over.
    let moment = async || {
        let at = now_ms();
        until("the moment is over", async || now_ms() > at + CLOCKS_MS).await;
        at + CLOCKS_MS / 2
    };
    let early = moment().await;
    let refused = database.as_of(early).get_item("events", item("a", 1)).await;
    assert!(
        matches!(&refused, Err(Error::Invalid(text)) if text.contains("keeps no history")),
        "{refused:?}"
    );
    for bad in [Duration::from_millis(999), Duration::from_secs(604_801), Duration::MAX] {
        let refused = database.keep_history("events", Some(bad)).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{bad:?}: {refused:?}");
    }
    database.keep_history("events", Some(Duration::from_secs(3600))).await.unwrap();
    until_kept(&database, "events").await;
    let refused = database.as_of(early).get_item("events", item("a", 1)).await;
    assert!(matches!(&refused, Err(Error::Conflict(text)) if text.contains("or later")), "{refused:?}");

    let empty = moment().await;
    for at in 0..30 {
        database.put_item("events", version(at, "first")).await.unwrap();
    }
    let first = moment().await;
    for at in (0..30).step_by(2) {
        database.put_item("events", version(at, "second")).await.unwrap();
    }
    let write = TransactWrite::default()
        .and("events", Action::Delete(item("a", 1)), WriteOptions::default())
        .and("events", Action::Put(item("b", 1)), WriteOptions::default());
    database.transact_write(write).await.unwrap();
    let second = moment().await;
    database.delete_item("events", item("a", 0), WriteOptions::default()).await.unwrap();

    let look = async |database: &Database| {
        for (as_of_ms, count, of_0) in
            [(empty, 0, None), (first, 30, Some("first")), (second, 30, Some("second"))]
        {
            let then = database.as_of(as_of_ms);
            let of = |found: Option<Item>| found.map(|found| found["version"].clone());
            assert_eq!(of(then.get_item("events", item("a", 0)).await.unwrap()), of_0.map(Value::from));
            assert_eq!(then.scan("events", ReadOptions::default()).await.unwrap().items.len(), count);
            let placeholders = Placeholders::default().value(":id", "a").value(":seq", 10);
            let options = ReadOptions { placeholders, descending: true, ..ReadOptions::default() };
            let found = then.query("events", "id = :id AND seq < :seq", options).await.unwrap().items;
            let seqs: Vec<Value> = found.iter().map(|item| item["seq"].clone()).collect();
            let is_there = |at: &i64| count > 0 && (as_of_ms == first || *at != 1);
            let wanted: Vec<Value> = (0..10).rev().filter(is_there).map(Value::from).collect();
            assert_eq!(seqs, wanted);
            let both = vec![("events", item("a", 1)), ("events", item("b", 1))];
            let both: Vec<bool> =
                then.transact_get(both).await.unwrap().iter().map(Option::is_some).collect();
            assert_eq!(both, [as_of_ms == first, as_of_ms == second]);
            let keys = vec![item("a", 1), item("a", 2), item("b", 1)];
            let found = then.batch_get("events", keys).await.unwrap();
            assert_eq!(found.len(), if count == 0 { 0 } else { 2 });
        }
    };
    look(&database).await;
    let ahead = database.as_of(now_ms() + 60_000).get_item("events", item("a", 0)).await;
    assert!(matches!(&ahead, Err(Error::Invalid(text)) if text.contains("not over yet")), "{ahead:?}");

    // The command says moments in words.
    let addresses = cluster.addresses().join(",");
    let say = async |words: &[&str]| {
        let mut command = tokio::process::Command::new(binary());
        command.arg("db").args(words).args(["--address", &addresses, "-o", "json"]).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let key = r#"{"id": "a", "seq": 0}"#;
    assert!(say(&["get", "events", key, "--as-of", &first.to_string()]).await.contains("first"));
    assert_eq!(say(&["get", "events", key, "--as-of", "0s"]).await, "");
    assert_eq!(say(&["export", "events", "-", "--as-of", &first.to_string()]).await.lines().count(), 30);

    for victim in cluster.leaders_first().await {
        cluster.nodes[victim].kill();
        look(&database).await;
        cluster.nodes[victim].start();
        cluster.until_complete().await;
    }

    database.keep_history("events", Some(Duration::from_secs(1))).await.unwrap();
    until("it is too long ago", async || {
        let found = database.as_of(first).get_item("events", item("a", 0)).await;
        matches!(found, Err(Error::Conflict(_)))
    })
    .await;
    assert!(say(&["history", "events", "off"]).await.contains("null"));
    until("nothing is left of it", async || {
        let (mut rows, mut is_whole) = (0, true);
        let look = |partition: VerifiedPartition| {
            is_whole &= partition.is_whole();
            rows += partition.copies.first().map_or(0, |copy| copy.rows);
        };
        let is_verified = database.verify(look).await.is_ok() && is_whole;
        let is_off = database.describe_table("events").await.unwrap().history.is_none();
        // Items, and the record of the transaction.
        is_verified && is_off && rows == 30
    })
    .await;
}
