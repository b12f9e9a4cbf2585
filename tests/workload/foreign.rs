//! Registers over the protocols of other systems, from outside of the cluster's network: a request goes to one node
//! after the other, a new connection each, and is not sent again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use trimaran_client::Error;

use super::registers::Registers;
use crate::harness::http::{request, try_send};

/// How long a request may take: longer than a change of leader.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long others are asked instead of a node that did not answer.
const SHUN_FOR: Duration = Duration::from_secs(3);

/// Which node is asked next.
#[derive(Clone, Debug)]
struct Nodes {
    addresses: Arc<Vec<String>>,
    next: Arc<AtomicUsize>,
    /// Those that did not answer, and when.
    silent: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Nodes {
    fn new(addresses: Vec<String>) -> Self {
        Self { addresses: Arc::new(addresses), next: Arc::default(), silent: Arc::default() }
    }

    /// The next one that is not known to be silent, or just the next one.
    fn turn(&self) -> &str {
        let next = || {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            &self.addresses[turn % self.addresses.len()]
        };
        let is_silent = |address: &str| {
            self.silent.lock().unwrap().get(address).is_some_and(|at| at.elapsed() < SHUN_FOR)
        };
        let mut found = next();
        for _ in 1..self.addresses.len() {
            if !is_silent(found) {
                break;
            }
            found = next();
        }
        found
    }

    /// Asks one of them over a connection of its own.
    async fn ask<T, F>(&self, ask: impl FnOnce(TcpStream) -> F) -> Result<T, Error>
    where
        F: Future<Output = std::io::Result<T>>,
    {
        let address = self.turn();
        match timeout(PATIENCE, async { ask(TcpStream::connect(address).await?).await }).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Error::Unavailable(error.to_string())),
            Err(elapsed) => {
                self.silent.lock().unwrap().insert(address.to_owned(), Instant::now());
                Err(Error::Unavailable(elapsed.to_string()))
            }
        }
    }
}

/// A grid over the Redis protocol.
#[derive(Clone, Debug)]
pub struct OverResp(Nodes);

/// Likewise with hashes: a register is two fields that are always written together, a counter a field.
#[derive(Clone, Debug)]
pub struct HashesOverResp(OverResp);

impl OverResp {
    /// With the RESP addresses of its nodes.
    pub fn new(addresses: Vec<String>) -> Self {
        Self(Nodes::new(addresses))
    }

    /// The same grid with hashes.
    pub fn hashes(&self) -> HashesOverResp {
        HashesOverResp(self.clone())
    }

    /// One command whose answer is a list of texts.
    async fn ask_for_texts(&self, command: String) -> Result<Vec<Option<String>>, Error> {
        let asked = async |stream: TcpStream| {
            let mut stream = BufReader::new(stream);
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut head = String::new();
            stream.read_line(&mut head).await?;
            let Some(count) = head.trim_end().strip_prefix('*') else {
                return Ok(Err(Error::Unavailable(head)));
            };
            let mut texts = Vec::new();
            for _ in 0..count.parse().unwrap_or(0) {
                let (mut length, mut text) = (String::new(), String::new());
                stream.read_line(&mut length).await?;
                let is_there = !length.starts_with("$-1");
                if is_there {
                    stream.read_line(&mut text).await?;
                }
                texts.push(is_there.then(|| text.trim_end().to_owned()));
            }
            Ok(Ok(texts))
        };
        self.0.ask(asked).await?
    }

    /// One command; the first line of its answer and, for a text, the text.
    async fn ask(&self, command: String) -> Result<(String, String), Error> {
        let asked = async |stream: TcpStream| {
            let mut stream = BufReader::new(stream);
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let (mut head, mut text) = (String::new(), String::new());
            stream.read_line(&mut head).await?;
            if head.starts_with('$') && !head.starts_with("$-1") {
                stream.read_line(&mut text).await?;
            }
            Ok((head.trim_end().to_owned(), text.trim_end().to_owned()))
        };
        match self.0.ask(asked).await? {
            (head, _) if head.is_empty() || head.starts_with('-') => Err(Error::Unavailable(head)),
            answer => Ok(answer),
        }
    }
}

impl Registers for OverResp {
    async fn write(&self, key: &str, value: u64) -> Result<(), Error> {
        self.ask(format!("SET {key} {value}")).await.map(drop)
    }

    async fn read(&self, key: &str) -> Result<Option<u64>, Error> {
        let (head, text) = self.ask(format!("GET {key}")).await?;
        Ok((head != "$-1").then(|| text.parse().unwrap()))
    }

    async fn add(&self, key: &str, by: i64) -> Result<i64, Error> {
        let (head, _) = self.ask(format!("INCRBY {key} {by}")).await?;
        Ok(head.strip_prefix(':').unwrap().parse().unwrap())
    }
}

impl Registers for HashesOverResp {
    async fn write(&self, key: &str, value: u64) -> Result<(), Error> {
        self.0.ask(format!("HSET hash-{key} value {value} copy {value}")).await.map(drop)
    }

    async fn read(&self, key: &str) -> Result<Option<u64>, Error> {
        let texts = self.0.ask_for_texts(format!("HMGET hash-{key} value copy")).await?;
        let [value, copy] = <[Option<String>; 2]>::try_from(texts)
            .map_err(|cut| Error::Unavailable(format!("an answer that was cut off: {cut:?}")))?;
        assert_eq!(value, copy, "{key}: half of a write was seen");
        Ok(value.map(|text| text.parse().unwrap()))
    }

    async fn add(&self, key: &str, by: i64) -> Result<i64, Error> {
        let (head, _) = self.0.ask(format!("HINCRBY counters {key} {by}")).await?;
        Ok(head.strip_prefix(':').unwrap().parse().unwrap())
    }
}

/// A table of a database over the DynamoDB API, with a partition key "id".
#[derive(Clone, Debug)]
pub struct OverDynamoDb(Nodes);

const TABLE: &str = "registers";

impl OverDynamoDb {
    /// With the HTTP addresses of its nodes.
    pub fn new(addresses: Vec<String>) -> Self {
        Self(Nodes::new(addresses))
    }

    /// Makes the table.
    pub async fn create(&self) -> Result<(), Error> {
        let request = json!({
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        });
        self.ask("CreateTable", request).await.map(drop)
    }

    /// Deletes the table with everything in it; the name is free a moment later.
    pub async fn delete(&self) -> Result<(), Error> {
        self.ask("DeleteTable", json!({})).await.map(drop)
    }

    async fn ask(&self, operation: &str, mut request: Json) -> Result<Json, Error> {
        request["TableName"] = TABLE.into();
        let body = request.to_string();
        let asked = async |mut stream: TcpStream| {
            let head = format!(
                "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\n\
                 Content-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        let answer = self.0.ask(asked).await?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(serde_json::from_str(body).unwrap()),
            // A node that cannot find a leader says 500; one that refuses says 400, which must not be.
            Some((head, body)) if head.starts_with("HTTP/1.1 400") => Err(Error::Invalid(body.to_owned())),
            _ => Err(Error::Unavailable(answer)),
        }
    }
}

impl Registers for OverDynamoDb {
    async fn write(&self, key: &str, value: u64) -> Result<(), Error> {
        let item = json!({"id": {"S": key}, "value": {"N": value.to_string()}});
        self.ask("PutItem", json!({"Item": item})).await.map(drop)
    }

    async fn read(&self, key: &str) -> Result<Option<u64>, Error> {
        let request = json!({"Key": {"id": {"S": key}}, "ConsistentRead": true});
        let answer = self.ask("GetItem", request).await?;
        Ok(answer["Item"]["value"]["N"].as_str().map(|text| text.parse().unwrap()))
    }

    async fn add(&self, key: &str, by: i64) -> Result<i64, Error> {
        let request = json!({
            "Key": {"id": {"S": key}},
            "UpdateExpression": "ADD visits :by",
            "ExpressionAttributeValues": {":by": {"N": by.to_string()}},
            "ReturnValues": "UPDATED_NEW",
        });
        let answer = self.ask("UpdateItem", request).await?;
        Ok(answer["Attributes"]["visits"]["N"].as_str().unwrap().parse().unwrap())
    }
}

/// Registers in the database and counters in the grid, through a function (`tests/guests/probe`) that has them.
#[derive(Clone, Debug)]
pub struct OverFunction(Nodes);

impl OverFunction {
    /// With the HTTP addresses of function-nodes; the function is called "probe".
    pub fn new(addresses: Vec<String>) -> Self {
        Self(Nodes::new(addresses))
    }

    /// One call; `None` = 404.
    async fn ask(&self, method: Method, path: String, body: String) -> Result<Option<String>, Error> {
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        let address = &self.0.addresses[turn % self.0.addresses.len()];
        let answer = try_send(address, request(address, method, &path, body), PATIENCE).await;
        match answer {
            Ok(answer) if answer.status == 200 && answer.complete => Ok(Some(answer.text())),
            Ok(answer) if answer.status == 404 && answer.body.is_empty() => Ok(None),
            Ok(answer) => Err(Error::Unavailable(format!("{}: {}", answer.status, answer.text()))),
            Err(error) => Err(Error::Unavailable(error)),
        }
    }
}

impl Registers for OverFunction {
    async fn write(&self, key: &str, value: u64) -> Result<(), Error> {
        let written = self.ask(Method::PUT, format!("/probe/registers/{key}"), value.to_string()).await?;
        written.map(drop).ok_or_else(|| Error::Unavailable("no such register".to_owned()))
    }

    async fn read(&self, key: &str) -> Result<Option<u64>, Error> {
        let found = self.ask(Method::GET, format!("/probe/registers/{key}"), String::new()).await?;
        Ok(found.map(|value| value.parse().unwrap()))
    }

    async fn add(&self, key: &str, by: i64) -> Result<i64, Error> {
        let sum = self.ask(Method::POST, format!("/probe/counters/{key}"), by.to_string()).await?;
        sum.and_then(|sum| sum.parse().ok()).ok_or_else(|| Error::Unavailable("no such function".to_owned()))
    }
}
