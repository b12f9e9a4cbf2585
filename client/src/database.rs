//! The hash-sharded database: tables of items with typed attributes, as DynamoDB users know them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use trimaran_net::exchange::DatabaseCalls;
use trimaran_net::pipeline::Down;
use trimaran_net::retry::Backoff;
use trimaran_net::status::{detail, of_failure};
use trimaran_proto::api::database as wire;
use trimaran_proto::api::database::Call;
use trimaran_proto::api::database::answer::Body as Answered;
use trimaran_proto::api::database::attribute_value::Value as WireValue;
use trimaran_proto::api::database::call::Body as Called;
use trimaran_proto::api::database::database_client::DatabaseClient;

use crate::error::Error;
use crate::grid::identified;
use crate::route::{Pipelines, Routes, attempt_timeout};

mod access_key;
mod explain;
mod history;
mod hot;
mod index;
mod pages;
mod stream;
mod throughput;
mod transaction;
mod verify;

pub use access_key::AccessKey;
pub use explain::Explained;
pub use history::{AsOf, History};
pub use hot::{HotKey, HotKeys, HotReport, Rates};
pub use index::{Index, Projection};
pub use pages::Pages;
pub use stream::{Change, ChangeKind, StreamView, TableWatch, WatchFrom};
pub use throughput::MaxThroughput;
pub use transaction::{Action, TransactWrite};
pub use verify::{VerifiedCopy, VerifiedPartition};

/// How long a request is tried.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer, bytes: sixteen mebibytes of items and their names.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Attributes by name.
pub type Item = BTreeMap<String, Value>;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    S(String),
    /// A decimal number of up to 38 digits, as text, so that nothing is rounded.
    N(String),
    /// Bytes.
    B(Bytes),
    /// Truth.
    Bool(bool),
    /// Nothing, which is something.
    Null,
    /// Values in order.
    L(Vec<Value>),
    /// Values by name.
    M(Item),
    /// A set of texts; not empty.
    Ss(BTreeSet<String>),
    /// A set of numbers; not empty.
    Ns(BTreeSet<String>),
    /// A set of byte strings; not empty.
    Bs(BTreeSet<Bytes>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::S(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::S(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::N(number.to_string())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

/// The type of a key attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// Text, in the order of its bytes.
    S,
    /// Numbers, in their order.
    N,
    /// Bytes.
    B,
}

/// A table that is there, or is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// 3 to 255 characters of a-z, A-Z, 0-9, `_`, `.`, `-`.
    pub name: String,
    /// What items are spread by.
    pub partition_key: (String, KeyType),
    /// What items of one partition key are sorted by.
    pub sort_key: Option<(String, KeyType)>,
}

/// A table with what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDescription {
    /// What it is.
    pub table: Table,
    /// False while it is being made or deleted.
    pub active: bool,
    /// Its secondary indexes, and whether each takes queries.
    pub indexes: Vec<(Index, bool)>,
    /// What the stream of its changes has, if there is one.
    pub stream: Option<StreamView>,
    /// False while a stream begins or ends.
    pub stream_ready: bool,
    /// The most that it is to be asked.
    pub max_throughput: MaxThroughput,
    /// Likewise its global indexes, by name, where there is a most.
    pub index_throughput: BTreeMap<String, MaxThroughput>,
    /// For how long its items can be read as they were, if it keeps that.
    pub history: Option<History>,
    /// Whether its global indexes have what its items have, at any time, see [`Database::set_strong_indexes`].
    pub strong_indexes: bool,
    /// Items in it.
    pub item_count: u64,
    /// Bytes that they count for.
    pub size_bytes: u64,
}

/// What `#name` and `:value` stand for in the expressions of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placeholders {
    /// Names with their `#`.
    pub names: BTreeMap<String, String>,
    /// Values with their `:`.
    pub values: BTreeMap<String, Value>,
}

impl Placeholders {
    /// Adds a name.
    #[must_use]
    pub fn name(mut self, placeholder: &str, name: &str) -> Self {
        self.names.insert(placeholder.to_owned(), name.to_owned());
        self
    }

    /// Adds a value.
    #[must_use]
    pub fn value(mut self, placeholder: &str, value: impl Into<Value>) -> Self {
        self.values.insert(placeholder.to_owned(), value.into());
        self
    }
}

/// What a write answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReturnValues {
    /// Nothing.
    #[default]
    None,
    /// The item as it was.
    AllOld,
    /// Of what was changed, how it was.
    UpdatedOld,
    /// The item as it is.
    AllNew,
    /// Of what was changed, how it is.
    UpdatedNew,
}

/// How to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// What must hold of the item that is there; [`Error::Conflict`] if it does not. Empty = nothing.
    pub condition: String,
    /// For the condition and the update.
    pub placeholders: Placeholders,
    /// What to answer with.
    pub return_values: ReturnValues,
}

/// Which items, and which parts of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// What must hold of an item to be answered. Empty = nothing.
    pub filter: String,
    /// Parts of the items. Empty = all of them.
    pub projection: String,
    /// For all expressions.
    pub placeholders: Placeholders,
    /// Items read at most, before they are filtered; 0 = a mebibyte of them.
    pub limit: u32,
    /// [`Page::last_key`] of the page before.
    pub start_key: Option<Item>,
    /// Largest sort key first; for queries.
    pub descending: bool,
    /// This part (from 0) of so many, for scans side by side.
    pub segment: Option<(u32, u32)>,
    /// The index that is read. Empty = the table itself.
    pub index: String,
    /// As the items were at the end of this millisecond since 1970, see [`Database::as_of`]; `None` = as they are.
    pub as_of_ms: Option<u64>,
}

/// One page of items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In order.
    pub items: Vec<Item>,
    /// Items that were read, before they were filtered.
    pub scanned: u32,
    /// Where to go on; `None` = complete.
    pub last_key: Option<Item>,
}

/// A client of a database. Clones share its connections.
#[derive(Clone)]
pub struct Database {
    routes: Arc<Routes>,
    pipelines: Pipelines<DatabaseCalls>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

type Client = DatabaseClient<Channel>;

impl Database {
    /// Connects to a cluster of which these are some addresses, "host:port" of gRPC.
    pub async fn connect<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, Error> {
        Ok(Self { routes: Routes::connect(addresses, false).await?, pipelines: Pipelines::default() })
    }

    /// Connects through these addresses only, where those that nodes have for each other lead nowhere: from outside of a network of
    /// containers, through mapped ports or a load balancer. Any node serves any item, so that one is enough; it is a hop more.
    pub async fn connect_through<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Self, Error> {
        Ok(Self { routes: Routes::connect(addresses, true).await?, pipelines: Pipelines::default() })
    }

    /// Makes a table; it takes requests at once.
    pub async fn create_table(&self, table: Table) -> Result<(), Error> {
        self.create(table, Vec::new()).await
    }

    async fn create(&self, table: Table, indexes: Vec<Index>) -> Result<(), Error> {
        let request = wire::CreateTableRequest {
            name: table.name,
            partition_key: Some(put_key(table.partition_key)),
            sort_key: table.sort_key.map(put_key),
            deletion_protection: false,
            indexes: indexes.into_iter().map(index::put).collect(),
            stream: wire::StreamView::None.into(),
            max_throughput: None,
            history_s: 0,
            strong_indexes: false,
        };
        self.call(request, |mut client, request| async move { client.create_table(request).await }).await?;
        Ok(())
    }

    /// What a table is, and how much is in it now.
    pub async fn describe_table(&self, name: &str) -> Result<TableDescription, Error> {
        let request = wire::DescribeTableRequest { name: name.to_owned() };
        let reply =
            self.call(request, |mut client, request| async move { client.describe_table(request).await });
        let table = reply.await?.table.ok_or_else(|| missing("table"))?;
        Ok(TableDescription {
            active: table.status() == wire::TableStatus::Active,
            stream: stream::get(table.stream()),
            stream_ready: table.stream_ready,
            item_count: table.item_count,
            size_bytes: table.size_bytes,
            strong_indexes: table.strong_indexes,
            history: (table.history_s > 0).then(|| History {
                kept: Duration::from_secs(table.history_s.into()),
                since_ms: Some(table.history_since_ms).filter(|since| *since > 0),
            }),
            max_throughput: throughput::get(table.max_throughput.as_ref()),
            index_throughput: throughput::of_indexes(&table.indexes),
            indexes: table.indexes.into_iter().map(index::get).collect::<Result<_, _>>()?,
            table: Table {
                name: table.name,
                partition_key: get_key(table.partition_key.ok_or_else(|| missing("partition_key"))?)?,
                sort_key: table.sort_key.map(get_key).transpose()?,
            },
        })
    }

    /// The names of all tables.
    pub async fn list_tables(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        let mut after = String::new();
        loop {
            let request = wire::ListTablesRequest { after: after.clone(), limit: 0 };
            let reply =
                self.call(request, |mut client, request| async move { client.list_tables(request).await });
            let reply = reply.await?;
            names.extend(reply.names);
            after = reply.last;
            if after.is_empty() {
                return Ok(names);
            }
        }
    }

    /// Deletes a table with everything in it. The name is free once [`Database::describe_table`] says
    /// [`Error::NotFound`].
    pub async fn delete_table(&self, name: &str) -> Result<(), Error> {
        let request = wire::DeleteTableRequest { name: name.to_owned() };
        self.call(request, |mut client, request| async move { client.delete_table(request).await }).await?;
        Ok(())
    }

    /// Replaces an item or makes it.
    pub async fn put_item(&self, table: &str, item: Item) -> Result<(), Error> {
        self.put_item_with(table, item, WriteOptions::default()).await?;
        Ok(())
    }

    /// Replaces an item or makes it, under a condition. Returns what was asked for.
    pub async fn put_item_with(
        &self,
        table: &str,
        item: Item,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error> {
        let request = wire::PutItemRequest {
            table: table.to_owned(),
            item: Some(put_item(item)),
            condition: options.condition,
            placeholders: Some(put_placeholders(options.placeholders)),
            return_values: put_return_values(options.return_values),
        };
        match self.on_stream(Called::PutItem(request)).await? {
            Answered::PutItem(reply) => reply.attributes.map(get_item).transpose(),
            _ => Err(missing("answer to this call")),
        }
    }

    /// The item with a key; never older than any write acknowledged before.
    pub async fn get_item(&self, table: &str, key: Item) -> Result<Option<Item>, Error> {
        self.get(table, key, 0).await
    }

    async fn get(&self, table: &str, key: Item, as_of_ms: u64) -> Result<Option<Item>, Error> {
        let request = wire::GetItemRequest {
            table: table.to_owned(),
            key: Some(put_item(key)),
            as_of_ms,
            ..wire::GetItemRequest::default()
        };
        match self.on_stream(Called::GetItem(request)).await? {
            Answered::GetItem(reply) => reply.item.map(get_item).transpose(),
            _ => Err(missing("answer to this call")),
        }
    }

    /// Changes attributes of an item, making it if it is not there: `update` is an update expression. Returns what
    /// was asked for.
    pub async fn update_item(
        &self,
        table: &str,
        key: Item,
        update: &str,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error> {
        let request = wire::UpdateItemRequest {
            table: table.to_owned(),
            key: Some(put_item(key)),
            update: update.to_owned(),
            condition: options.condition,
            placeholders: Some(put_placeholders(options.placeholders)),
            return_values: put_return_values(options.return_values),
        };
        match self.on_stream(Called::UpdateItem(request)).await? {
            Answered::UpdateItem(reply) => reply.attributes.map(get_item).transpose(),
            _ => Err(missing("answer to this call")),
        }
    }

    /// Removes an item, if it is there. Returns what was asked for.
    pub async fn delete_item(
        &self,
        table: &str,
        key: Item,
        options: WriteOptions,
    ) -> Result<Option<Item>, Error> {
        let request = wire::DeleteItemRequest {
            table: table.to_owned(),
            key: Some(put_item(key)),
            condition: options.condition,
            placeholders: Some(put_placeholders(options.placeholders)),
            return_values: put_return_values(options.return_values),
        };
        match self.on_stream(Called::DeleteItem(request)).await? {
            Answered::DeleteItem(reply) => reply.attributes.map(get_item).transpose(),
            _ => Err(missing("answer to this call")),
        }
    }

    /// One page of the items for whose key a key condition holds, e.g. `id = :id AND seq > :from`.
    pub async fn query(&self, table: &str, key_condition: &str, options: ReadOptions) -> Result<Page, Error> {
        self.query_page(query_request(table, key_condition, options)).await
    }

    async fn query_page(&self, request: wire::QueryRequest) -> Result<Page, Error> {
        let reply =
            self.call(request, |mut client, request| async move { client.query(request).await }).await?;
        page(reply.items, reply.scanned, reply.last_key)
    }

    /// One page of all items.
    pub async fn scan(&self, table: &str, options: ReadOptions) -> Result<Page, Error> {
        self.scan_page(scan_request(table, options)).await
    }

    async fn scan_page(&self, request: wire::ScanRequest) -> Result<Page, Error> {
        let reply =
            self.call(request, |mut client, request| async move { client.scan(request).await }).await?;
        page(reply.items, reply.scanned, reply.last_key)
    }

    /// Items by their keys, at most 100, in no order; those that are not there are missing.
    pub async fn batch_get(&self, table: &str, keys: Vec<Item>) -> Result<Vec<Item>, Error> {
        self.batch(table, keys, 0).await
    }

    async fn batch(&self, table: &str, keys: Vec<Item>, as_of_ms: u64) -> Result<Vec<Item>, Error> {
        let mut items = Vec::new();
        let mut keys: Vec<wire::Item> = keys.into_iter().map(put_item).collect();
        while !keys.is_empty() {
            let asked = wire::TableKeys {
                table: table.to_owned(),
                keys: std::mem::take(&mut keys),
                ..Default::default()
            };
            let request = wire::BatchGetRequest { tables: vec![asked], as_of_ms };
            let reply =
                self.call(request, |mut client, request| async move { client.batch_get(request).await });
            let reply = reply.await?;
            for found in reply.tables.into_iter().flat_map(|table| table.items) {
                items.push(get_item(found)?);
            }
            keys.extend(reply.unprocessed.into_iter().flat_map(|table| table.keys));
        }
        Ok(items)
    }

    /// Puts and deletes, at most 25 in all; each as one, not all of them.
    pub async fn batch_write(&self, table: &str, puts: Vec<Item>, deletes: Vec<Item>) -> Result<(), Error> {
        let mut tables = vec![wire::TableWrites {
            table: table.to_owned(),
            puts: puts.into_iter().map(put_item).collect(),
            deletes: deletes.into_iter().map(put_item).collect(),
        }];
        while !tables.is_empty() {
            let request = wire::BatchWriteRequest { tables };
            let reply =
                self.call(request, |mut client, request| async move { client.batch_write(request).await });
            tables = reply.await?.unprocessed;
        }
        Ok(())
    }

    /// One operation on one item, on the stream of calls to a node.
    async fn on_stream(&self, body: Called) -> Result<Answered, Error> {
        let id = self.request_id();
        let body = &body;
        self.until_answered(|address| async move { self.on_stream_to(&address, body, id).await }).await
    }

    async fn on_stream_to(&self, address: &str, body: &Called, id: u128) -> Result<Answered, Attempt> {
        let pipeline = self.pipelines.to(&self.routes, address)?;
        let request_id = Bytes::copy_from_slice(&id.to_be_bytes());
        match pipeline.call(Call { id: 0, request_id, body: Some(body.clone()) }).await {
            Ok(answer) => match answer.body {
                Some(Answered::Failure(failure)) => Err(of_failure(failure).into()),
                Some(body) => Ok(body),
                None => Err(missing("answer").into()),
            },
            Err(Down::Broken) => Err(Status::unavailable(Down::Broken.to_string()).into()),
            Err(Down::Unsupported) => Ok(one_by_one(self.client(address)?, body.clone(), id).await?),
        }
    }

    /// Sends a request to a node, and again to another one until it is answered; always with the same id, which is
    /// what makes a retry safe.
    async fn call<Q, A, F>(&self, request: Q, send: impl Fn(Client, Request<Q>) -> F) -> Result<A, Error>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let id = self.request_id();
        self.until_answered(|address| {
            let sent = self.client(&address).map(|client| send(client, identified(request.clone(), id)));
            async move { Ok(sent?.await?.into_inner()) }
        })
        .await
    }

    fn request_id(&self) -> u128 {
        self.routes.random.lock().random()
    }

    fn client(&self, address: &str) -> Result<Client, Error> {
        Ok(DatabaseClient::new(self.routes.channel(address)?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Asks one node after the other until one answers, or refuses for good.
    async fn until_answered<A, F>(&self, ask: impl Fn(String) -> F) -> Result<A, Error>
    where
        F: Future<Output = Result<A, Attempt>>,
    {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let mut backoff = Backoff::default();
        let mut attempts = 0;
        loop {
            let attempt_deadline = deadline.min(Instant::now() + attempt_timeout(attempts));
            let error = match self.routes.any_address() {
                None => Error::Unavailable("no node of the cluster is known".to_owned()),
                Some(address) => match timeout_at(attempt_deadline, ask(address.clone())).await {
                    Ok(Ok(reply)) => return Ok(reply),
                    Ok(Err(Attempt::Impossible(error))) => return Err(error),
                    Ok(Err(Attempt::Refused(status))) => {
                        // What a node itself says has a code; without one its connection broke.
                        if detail(&status).code.is_empty() {
                            self.routes.shun(&address);
                        }
                        Error::from_status(&status)
                    }
                    Err(_elapsed) => {
                        self.routes.shun(&address);
                        Error::Unavailable(format!("{address} does not answer"))
                    }
                },
            };
            attempts += 1;
            let wait = backoff.next(&mut *self.routes.random.lock());
            if !error.is_passing() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            sleep(wait).await;
            if let Err(stale) = self.routes.refresh().await {
                tracing::debug!(error = %stale, "the nodes of the cluster were not looked up again");
            }
        }
    }
}

fn missing(what: &str) -> Error {
    Error::Broken(format!("an answer without its {what}"))
}

fn put_key((name, kind): (String, KeyType)) -> wire::KeyAttribute {
    let kind = match kind {
        KeyType::S => wire::KeyType::S,
        KeyType::N => wire::KeyType::N,
        KeyType::B => wire::KeyType::B,
    };
    wire::KeyAttribute { name, r#type: kind.into() }
}

fn get_key(key: wire::KeyAttribute) -> Result<(String, KeyType), Error> {
    let kind = match key.r#type() {
        wire::KeyType::S => KeyType::S,
        wire::KeyType::N => KeyType::N,
        wire::KeyType::B => KeyType::B,
        wire::KeyType::Unspecified => return Err(missing("type of a key attribute")),
    };
    Ok((key.name, kind))
}

fn put_return_values(values: ReturnValues) -> i32 {
    match values {
        ReturnValues::None => wire::ReturnValues::None,
        ReturnValues::AllOld => wire::ReturnValues::AllOld,
        ReturnValues::UpdatedOld => wire::ReturnValues::UpdatedOld,
        ReturnValues::AllNew => wire::ReturnValues::AllNew,
        ReturnValues::UpdatedNew => wire::ReturnValues::UpdatedNew,
    }
    .into()
}

/// Why an attempt has no answer.
enum Attempt {
    /// Another one may.
    Refused(Box<Status>),
    /// None will.
    Impossible(Error),
}

impl From<Status> for Attempt {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        Self::Impossible(error)
    }
}

/// For a node of a release that knows no streams of calls.
async fn one_by_one(mut client: Client, body: Called, id: u128) -> Result<Answered, Status> {
    Ok(match body {
        Called::GetItem(get) => Answered::GetItem(client.get_item(identified(get, id)).await?.into_inner()),
        Called::PutItem(put) => Answered::PutItem(client.put_item(identified(put, id)).await?.into_inner()),
        Called::UpdateItem(update) => {
            Answered::UpdateItem(client.update_item(identified(update, id)).await?.into_inner())
        }
        Called::DeleteItem(delete) => {
            Answered::DeleteItem(client.delete_item(identified(delete, id)).await?.into_inner())
        }
    })
}

fn query_request(table: &str, key_condition: &str, options: ReadOptions) -> wire::QueryRequest {
    wire::QueryRequest {
        table: table.to_owned(),
        key_condition: key_condition.to_owned(),
        filter: options.filter,
        projection: options.projection,
        placeholders: Some(put_placeholders(options.placeholders)),
        descending: options.descending,
        limit: options.limit,
        start_key: options.start_key.map(put_item),
        count_only: false,
        index: options.index,
        as_of_ms: options.as_of_ms.unwrap_or_default(),
    }
}

fn scan_request(table: &str, options: ReadOptions) -> wire::ScanRequest {
    let (segment, segments) = options.segment.unwrap_or_default();
    wire::ScanRequest {
        table: table.to_owned(),
        filter: options.filter,
        projection: options.projection,
        placeholders: Some(put_placeholders(options.placeholders)),
        limit: options.limit,
        start_key: options.start_key.map(put_item),
        count_only: false,
        segment,
        segments,
        index: options.index,
        as_of_ms: options.as_of_ms.unwrap_or_default(),
    }
}

fn put_placeholders(placeholders: Placeholders) -> wire::Placeholders {
    let values = placeholders.values.into_iter().map(|(name, value)| (name, put_value(value)));
    wire::Placeholders { names: placeholders.names.into_iter().collect(), values: values.collect() }
}

fn put_value(value: Value) -> wire::AttributeValue {
    let value = match value {
        Value::S(text) => WireValue::S(text),
        Value::N(text) => WireValue::N(text),
        Value::B(bytes) => WireValue::B(bytes),
        Value::Bool(truth) => WireValue::Bool(truth),
        Value::Null => WireValue::Null(true),
        Value::L(values) => {
            WireValue::L(wire::ListValue { values: values.into_iter().map(put_value).collect() })
        }
        Value::M(map) => WireValue::M(put_item(map)),
        Value::Ss(set) => WireValue::Ss(wire::StringSet { values: set.into_iter().collect() }),
        Value::Ns(set) => WireValue::Ns(wire::NumberSet { values: set.into_iter().collect() }),
        Value::Bs(set) => WireValue::Bs(wire::BytesSet { values: set.into_iter().collect() }),
    };
    wire::AttributeValue { value: Some(value) }
}

fn put_item(item: Item) -> wire::Item {
    wire::Item { attributes: item.into_iter().map(|(name, value)| (name, put_value(value))).collect() }
}

fn get_value(value: wire::AttributeValue) -> Result<Value, Error> {
    Ok(match value.value.ok_or_else(|| missing("value"))? {
        WireValue::S(text) => Value::S(text),
        WireValue::N(text) => Value::N(text),
        WireValue::B(bytes) => Value::B(bytes),
        WireValue::Bool(truth) => Value::Bool(truth),
        WireValue::Null(_) => Value::Null,
        WireValue::L(list) => Value::L(list.values.into_iter().map(get_value).collect::<Result<_, _>>()?),
        WireValue::M(map) => Value::M(get_item(map)?),
        WireValue::Ss(set) => Value::Ss(set.values.into_iter().collect()),
        WireValue::Ns(set) => Value::Ns(set.values.into_iter().collect()),
        WireValue::Bs(set) => Value::Bs(set.values.into_iter().collect()),
    })
}

fn get_item(item: wire::Item) -> Result<Item, Error> {
    item.attributes.into_iter().map(|(name, value)| Ok((name, get_value(value)?))).collect()
}

fn page(items: Vec<wire::Item>, scanned: u32, last_key: Option<wire::Item>) -> Result<Page, Error> {
    let items = items.into_iter().map(get_item).collect::<Result<_, _>>()?;
    Ok(Page { items, scanned, last_key: last_key.map(get_item).transpose()? })
}
