//! The DynamoDB API over raw HTTP: answers with their checksums, and bad input.

use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trimaran_tests::harness::PATIENCE;
use trimaran_tests::harness::process::Cluster;

struct Answer {
    status: u16,
    body: Json,
}

/// Sends a request and reads the answer; its checksum must be right.
async fn send(address: &str, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head = format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The node may answer and close before it has read everything.
    let _closed = stream.write_all(body).await;
    let mut raw = Vec::new();
    let _reset = timeout(PATIENCE, stream.read_to_end(&mut raw)).await.unwrap();
    let text = String::from_utf8_lossy(&raw).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(name));
        line.map(|line| line.split_once(':').unwrap().1.trim().to_owned())
    };
    if let Some(checksum) = header("x-amz-crc32") {
        assert_eq!(checksum, crc32fast::hash(body.as_bytes()).to_string());
        assert!(header("x-amzn-requestid").is_some());
    }
    Answer { status, body: serde_json::from_str(body).unwrap_or_else(|_text| body.into()) }
}

async fn call(address: &str, operation: &str, body: &Json) -> Answer {
    let head = format!("POST / HTTP/1.1\r\nX-Amz-Target: DynamoDB_20120810.{operation}");
    send(address, &head, body.to_string().as_bytes()).await
}

fn kind(answer: &Answer) -> &str {
    answer.body["__type"].as_str().unwrap().split_once('#').unwrap().1
}

async fn create(address: &str, table: &str) {
    let request = json!({
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    });
    let created = call(address, "CreateTable", &request).await;
    assert_eq!((created.status, &created.body["TableDescription"]["TableName"]), (200, &json!(table)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dynamodb_client_finds_what_it_expects_at_every_node() {
    let cluster = Cluster::shard(3, "fjall", 4).await;
    let at = |number: usize| cluster.nodes[number % 3].front.clone();
    let healthy = send(&at(0), "GET / HTTP/1.1", b"").await;
    assert!(healthy.body.as_str().unwrap().starts_with("healthy"));
    create(&at(0), "links").await;
    for number in 0..9 {
        let item = json!({"id": {"S": format!("id-{number}")}, "n": {"N": number.to_string()}});
        let put = call(&at(number), "PutItem", &json!({"TableName": "links", "Item": item})).await;
        assert_eq!((put.status, put.body), (200, json!({})));
        let key = json!({"id": {"S": format!("id-{number}")}});
        let get = call(&at(number + 1), "GetItem", &json!({"TableName": "links", "Key": key})).await;
        assert_eq!(get.body, json!({"Item": item}));
    }
    let failed = call(
        &at(1),
        "PutItem",
        &json!({
            "TableName": "links",
            "Item": {"id": {"S": "id-1"}},
            "ConditionExpression": "attribute_not_exists(id)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }),
    )
    .await;
    assert_eq!((failed.status, kind(&failed)), (400, "ConditionalCheckFailedException"));
    assert_eq!(failed.body["Item"], json!({"id": {"S": "id-1"}, "n": {"N": "1"}}));
    let updated = call(
        &at(2),
        "UpdateItem",
        &json!({
            "TableName": "links",
            "Key": {"id": {"S": "id-1"}},
            "UpdateExpression": "SET n = n + :v",
            "ExpressionAttributeValues": {":v": {"N": "0.5"}},
            "ReturnValues": "UPDATED_NEW",
            "ReturnConsumedCapacity": "TOTAL",
        }),
    )
    .await;
    assert_eq!(updated.body["Attributes"], json!({"n": {"N": "1.5"}}));
    assert_eq!(updated.body["ConsumedCapacity"], json!({"TableName": "links", "CapacityUnits": 1.0}));
    let scanned = call(&at(0), "Scan", &json!({"TableName": "links", "Select": "COUNT"})).await;
    assert_eq!(scanned.body, json!({"Count": 9, "ScannedCount": 9}));
    let table = call(&at(2), "DescribeTable", &json!({"TableName": "links"})).await;
    assert_eq!(table.body["Table"]["ItemCount"], 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_by_name_and_hurts_nobody() {
    let mut cluster = Cluster::shard(1, "fjall", 1).await;
    let address = cluster.nodes[0].front.clone();
    create(&address, "table").await;
    let put = |item: Json| json!({"TableName": "table", "Item": item});
    let mut deep = json!({"S": "bottom"});
    for _ in 0..33 {
        deep = json!({"L": [deep]});
    }
    let mut far_too_deep = String::from("{\"S\":\"bottom\"}");
    for _ in 0..5000 {
        far_too_deep = format!("{{\"L\":[{far_too_deep}]}}");
    }
    for (operation, body, expected, words) in [
        ("NoSuchThing", json!({}), "UnknownOperationException", ""),
        ("PutItem", json!([1, 2]), "SerializationException", "invalid"),
        ("PutItem", json!({"TableName": 7}), "SerializationException", "invalid type"),
        ("PutItem", json!({}), "ValidationException", "tableName"),
        ("PutItem", json!({"TableName": "none", "Item": {}}), "ResourceNotFoundException", "not found"),
        ("PutItem", put(json!({})), "ValidationException", "Missing the key id"),
        ("PutItem", put(json!({"id": {"N": "1"}})), "ValidationException", "Type mismatch for key id"),
        ("PutItem", put(json!({"id": {}})), "ValidationException", "AttributeValue is empty"),
        ("PutItem", put(json!({"id": {"S": ""}})), "ValidationException", "empty string value. Key: id"),
        ("PutItem", put(json!({"id": {"S": "x".repeat(2049)}})), "ValidationException", "2048"),
        ("PutItem", put(json!({"id": {"S": "a"}, "n": {"N": "1e999"}})), "ValidationException", "overflow"),
        (
            "PutItem",
            put(json!({"id": {"S": "a"}, "n": {"N": "nan"}})),
            "ValidationException",
            "numeric value",
        ),
        ("PutItem", put(json!({"id": {"S": "a"}, "b": {"B": "?"}})), "SerializationException", "base64"),
        (
            "PutItem",
            put(json!({"id": {"S": "a"}, "s": {"SS": []}})),
            "ValidationException",
            "may not be empty",
        ),
        (
            "PutItem",
            put(json!({"id": {"S": "a"}, "s": {"SS": ["x", "x"]}})),
            "ValidationException",
            "duplicates",
        ),
        ("PutItem", put(json!({"id": {"S": "a"}, "d": deep})), "ValidationException", "Nesting"),
        (
            "PutItem",
            put(json!({"id": {"S": "a"}, "t": {"S": "x".repeat(410_000)}})),
            "ValidationException",
            "Item size",
        ),
        (
            "Query",
            json!({"TableName": "table", "KeyConditionExpression": "id ="}),
            "ValidationException",
            "<EOF>",
        ),
        (
            "Scan",
            json!({"TableName": "table", "Limit": 0}),
            "ValidationException",
            "greater than or equal to 1",
        ),
    ] {
        let answer = call(&address, operation, &body).await;
        let told = answer.body["message"].as_str().unwrap();
        assert_eq!((answer.status, kind(&answer)), (400, expected), "{operation}: {told}");
        assert!(told.contains(words), "{operation}: {told}");
    }
    let head = "POST / HTTP/1.1\r\nX-Amz-Target: DynamoDB_20120810.PutItem";
    for (body, status) in [
        (b"{".to_vec(), 400),
        (b"\xff\xfe\0".to_vec(), 400),
        (format!("{{\"TableName\":\"table\",\"Item\":{{\"id\":{far_too_deep}}}}}").into_bytes(), 400),
        (vec![b' '; (16 << 20) + 1], 413),
    ] {
        assert_eq!(send(&address, head, &body).await.status, status);
    }
    let gzip = format!("{head}\r\nContent-Encoding: gzip");
    assert_eq!(kind(&send(&address, &gzip, b"no gzip").await), "SerializationException");

    // Half a request and no more, and a thousand connections that say nothing: others are served.
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(TcpStream::connect(&address).await.unwrap());
    }
    idle[0].write_all(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n{").await.unwrap();
    idle[1].write_all(b"POST / HT").await.unwrap();
    let item = json!({"id": {"S": "still here"}});
    assert_eq!(call(&address, "PutItem", &put(item)).await.status, 200);
    drop(idle);
    let scanned = call(&address, "Scan", &json!({"TableName": "table", "Select": "COUNT"})).await;
    assert_eq!(scanned.body["Count"], 1, "nothing of what was refused is there");
    assert!(cluster.nodes[0].runs());
    let log = cluster.nodes[0].log();
    assert!(!log.contains("panicked"), "{log}");
}
