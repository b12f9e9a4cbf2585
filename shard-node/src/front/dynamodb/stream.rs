//! DynamoDB Streams: an API of its own (`DynamoDBStreams_20120810`), at the same port.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use trimaran_proto::state::shard::change::Event;

use super::error::Refusal;
use super::operation::{Answer, Constraints, encode, parse, required, shown, table_name};
use super::table::{ARN, schema, seconds};
use crate::error::{Error, Invalid};
use crate::limits::{ITERATOR_BYTES_MAX, STREAM_PAGE_MAX, STREAM_RECORDS_MAX};
use crate::op::describe_stream::{children, find, readable, shards};
use crate::op::get_records::{self, Position, Record, Start};
use crate::router::Router;
use crate::stream::{Sequence, Shard, ShardId};
use crate::table::{Stream, StreamStatus, StreamView, Table};

/// Carries out the operation of a name.
pub(super) async fn run(router: &Router, operation: &str, body: &[u8]) -> Answer {
    match operation {
        "ListStreams" => list_streams(router, parse(body)?).await,
        "DescribeStream" => describe_stream(router, parse(body)?).await,
        "GetShardIterator" => get_shard_iterator(router, parse(body)?).await,
        "GetRecords" => get_records(router, parse(body)?).await,
        _ => Err(Refusal::unknown_operation()),
    }
}

/// What a table's owner wants of a stream.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StreamSpecification {
    stream_enabled: Option<bool>,
    stream_view_type: Option<String>,
}

impl StreamSpecification {
    pub(super) fn check(&self, constraints: &mut Constraints) {
        if self.stream_enabled.is_none() {
            constraints.broken("null", "streamSpecification.streamEnabled", "Member must not be null");
        }
        constraints.one_of(
            self.stream_view_type.as_deref(),
            "streamSpecification.streamViewType",
            &StreamView::ALL.map(|(_, name)| name),
        );
    }

    /// What the stream is to have; `None` = there is to be none.
    pub(super) fn view(self) -> Result<Option<StreamView>, Refusal> {
        let view = self.stream_view_type.as_deref().and_then(StreamView::from_name);
        let invalid = |what: &str| {
            Err(Invalid::new(format!("One or more parameter values were invalid: {what}")).into())
        };
        match (self.stream_enabled.unwrap_or(false), view) {
            (true, Some(view)) => Ok(Some(view)),
            (true, None) => invalid("StreamViewType is required when StreamEnabled is true"),
            (false, Some(_)) => invalid("StreamViewType cannot be specified when StreamEnabled is false"),
            (false, None) => Ok(None),
        }
    }
}

/// When a stream began, which is its name within its table.
fn label(stream: &Stream) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(stream.created_ms);
    humantime::format_rfc3339_millis(at).to_string().trim_end_matches('Z').to_owned()
}

fn arn(table: &Table, stream: &Stream) -> String {
    format!("{ARN}{}/stream/{}", table.name, label(stream))
}

/// Adds to a table's description what there is to say of its streams.
pub(super) fn describe_in(table: &Table, description: &mut Json) {
    if let Some(live) = table.live_stream() {
        description["StreamSpecification"] =
            json!({ "StreamEnabled": true, "StreamViewType": live.view.name() });
    }
    if let Some(latest) = table.streams.last() {
        description["LatestStreamLabel"] = label(latest).into();
        description["LatestStreamArn"] = arn(table, latest).into();
    }
}

/// The stream of an ARN.
async fn named(router: &Router, named: &str) -> Result<(Table, Stream), Refusal> {
    let parts = named
        .strip_prefix("arn:")
        .and_then(|arn| arn.split_once(":table/"))
        .and_then(|(_, of)| of.split_once("/stream/"));
    let invalid = || Invalid::new(format!("Invalid StreamArn: {named}"));
    let (table, label) = parts.ok_or_else(invalid)?;
    let at = humantime::parse_rfc3339(&format!("{label}Z")).map_err(|_malformed| invalid())?;
    let created = at.duration_since(UNIX_EPOCH).map_err(|_early| invalid())?;
    // Milliseconds of a date.
    match find(router, table, created.as_millis() as u64).await {
        Err(Error::StreamNotFound(_)) => Err(Error::StreamNotFound(named.to_owned()).into()),
        found => Ok(found?),
    }
}

/// A number from 1 to `max`.
fn limit(given: Option<i64>, max: u32, constraints: &mut Constraints) -> u32 {
    constraints.at_least_one(given, "limit");
    if let Some(large) = given.filter(|given| *given > i64::from(max)) {
        constraints.broken(
            &format!("'{large}'"),
            "limit",
            &format!("Member must have value less than or equal to {max}"),
        );
    }
    given.and_then(|given| u32::try_from(given).ok()).unwrap_or(max).min(max)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListStreams {
    table_name: Option<String>,
    limit: Option<i64>,
    exclusive_start_stream_arn: Option<String>,
}

async fn list_streams(router: &Router, request: ListStreams) -> Answer {
    let mut constraints = Constraints::default();
    let limit = limit(request.limit, STREAM_PAGE_MAX, &mut constraints) as usize;
    constraints.check()?;
    let name = request.table_name.map(|name| table_name(Some(name))).transpose()?;
    router.refresh_tables().await?;
    let (tables, now_ms) = (router.tables(), router.now_ms());
    let mut found = Vec::new();
    for table in tables.all().filter(|table| name.as_ref().is_none_or(|name| *name == table.name)) {
        found.extend(readable(table, now_ms).map(|stream| (arn(table, stream), table, stream)));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let after = request.exclusive_start_stream_arn;
    let mut rest = found.into_iter().filter(|(arn, ..)| after.as_ref().is_none_or(|after| arn > after));
    let page: Vec<_> = rest.by_ref().take(limit).collect();
    let streams = page.iter().map(|(arn, table, stream)| {
        json!({ "StreamArn": arn, "TableName": table.name, "StreamLabel": label(stream) })
    });
    let mut answer = json!({ "Streams": streams.collect::<Vec<_>>() });
    if let (Some(_more), Some((last, ..))) = (rest.next(), page.last()) {
        answer["LastEvaluatedStreamArn"] = last.as_str().into();
    }
    encode(&answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeStream {
    stream_arn: Option<String>,
    limit: Option<i64>,
    exclusive_start_shard_id: Option<String>,
    shard_filter: Option<ShardFilter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShardFilter {
    #[serde(rename = "Type")]
    kind: Option<String>,
    shard_id: Option<String>,
}

fn shard_id(text: &str) -> Result<ShardId, Refusal> {
    Ok(ShardId::parse(text).ok_or_else(|| Invalid::new(format!("Invalid ShardId: {text}")))?)
}

fn shown_shard(shard: &Shard) -> Json {
    let mut range = json!({
        "StartingSequenceNumber": Sequence { version: shard.id.begun, place: 0 }.to_string(),
    });
    if let Some(ended) = shard.ended {
        range["EndingSequenceNumber"] = Sequence { version: ended, place: u16::MAX }.to_string().into();
    }
    let mut shown = json!({ "ShardId": shard.id.to_string(), "SequenceNumberRange": range });
    if let Some(parent) = shard.parent {
        shown["ParentShardId"] = parent.to_string().into();
    }
    shown
}

async fn describe_stream(router: &Router, request: DescribeStream) -> Answer {
    let mut constraints = Constraints::default();
    let named_arn = required(request.stream_arn, "streamArn")?;
    let limit = limit(request.limit, STREAM_PAGE_MAX, &mut constraints) as usize;
    let filter = request.shard_filter.as_ref().and_then(|filter| filter.kind.as_deref());
    constraints.one_of(filter, "shardFilter.type", &["CHILD_SHARDS"]);
    constraints.check()?;
    let (table, stream) = named(router, &named_arn).await?;
    let mut found = shards(router, table.id, &stream).await?;
    if let Some(filter) = request.shard_filter {
        found = children(found, shard_id(&required(filter.shard_id, "shardFilter.shardId")?)?);
    }
    if let Some(after) = request.exclusive_start_shard_id {
        let after = shard_id(&after)?;
        found.retain(|shard| shard.id > after);
    }
    let is_more = found.len() > limit;
    found.truncate(limit);
    let status = match stream.status {
        StreamStatus::Enabled => "ENABLED",
        StreamStatus::Enabling => "ENABLING",
        StreamStatus::Disabling => "DISABLING",
        StreamStatus::Disabled => "DISABLED",
    };
    let mut description = json!({
        "StreamArn": arn(&table, &stream),
        "StreamLabel": label(&stream),
        "StreamStatus": status,
        "StreamViewType": stream.view.name(),
        "CreationRequestDateTime": seconds(stream.created_ms),
        "TableName": table.name,
        "KeySchema": schema(table.key_attributes()),
        "Shards": found.iter().map(shown_shard).collect::<Vec<_>>(),
    });
    if let Some(last) = found.last().filter(|_| is_more) {
        description["LastEvaluatedShardId"] = last.id.to_string().into();
    }
    encode(&json!({ "StreamDescription": description }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetShardIterator {
    stream_arn: Option<String>,
    shard_id: Option<String>,
    shard_iterator_type: Option<String>,
    sequence_number: Option<String>,
}

async fn get_shard_iterator(router: &Router, request: GetShardIterator) -> Answer {
    let mut constraints = Constraints::default();
    constraints.one_of(
        request.shard_iterator_type.as_deref(),
        "shardIteratorType",
        &["AFTER_SEQUENCE_NUMBER", "LATEST", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON"],
    );
    constraints.check()?;
    let named_arn = required(request.stream_arn, "streamArn")?;
    let shard = required(request.shard_id, "shardId")?;
    let kind = required(request.shard_iterator_type, "shardIteratorType")?;
    let sequence = |given: Option<String>| -> Result<Sequence, Refusal> {
        let missing = || Invalid::new(format!("SequenceNumber is required for ShardIteratorType {kind}"));
        let given = given.ok_or_else(missing)?;
        Ok(Sequence::parse(&given).ok_or_else(|| Invalid::new(format!("Invalid SequenceNumber: {given}")))?)
    };
    let start = match kind.as_str() {
        "TRIM_HORIZON" => Start::TrimHorizon,
        "LATEST" => Start::Latest,
        "AT_SEQUENCE_NUMBER" => Start::At(sequence(request.sequence_number)?),
        _ => Start::After(sequence(request.sequence_number)?),
    };
    let (table, stream) = named(router, &named_arn).await?;
    let position = get_records::start(router, &table, &stream, shard_id(&shard)?, start).await?;
    encode(&json!({ "ShardIterator": iterator(&arn(&table, &stream), position, router) }))
}

/// An iterator as it is told: whose it is, and where it is.
fn iterator(arn: &str, position: Position, router: &Router) -> String {
    format!("{arn}|1|{}", BASE64.encode(position.encode(router.now_ms())))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetRecords {
    shard_iterator: Option<String>,
    limit: Option<i64>,
}

/// What no other change has, in any stream: sequence numbers are those of a shard.
fn event_id(table: u64, shard: ShardId, sequence: Sequence) -> String {
    let of = format!("{table} {shard} {sequence}");
    Sha256::digest(of).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn shown_record(record: &Record, stream: &Stream, (table, shard): (u64, ShardId)) -> Result<Json, Refusal> {
    let event = match record.event {
        Event::Insert => "INSERT",
        Event::Modify | Event::Unchanged => "MODIFY",
        Event::Remove => "REMOVE",
    };
    let mut change = json!({
        // Whole seconds, as DynamoDB tells it.
        "ApproximateCreationDateTime": record.at_ms / 1000,
        "Keys": shown(&record.key)?,
        "SequenceNumber": record.sequence.to_string(),
        "SizeBytes": record.size(),
        "StreamViewType": stream.view.name(),
    });
    for (image, name) in [(&record.old_image, "OldImage"), (&record.new_image, "NewImage")] {
        if let Some(image) = image {
            change[name] = shown(image)?;
        }
    }
    let mut shown = json!({
        "eventID": event_id(table, shard, record.sequence),
        "eventName": event,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": change,
    });
    if record.expired {
        shown["userIdentity"] = json!({ "Type": "Service", "PrincipalId": "dynamodb.amazonaws.com" });
    }
    Ok(shown)
}

async fn get_records(router: &Router, request: GetRecords) -> Answer {
    let mut constraints = Constraints::default();
    let given = required(request.shard_iterator, "shardIterator")?;
    let limit = limit(request.limit, STREAM_RECORDS_MAX, &mut constraints);
    constraints.check()?;
    let invalid = || Invalid::new("Invalid ShardIterator");
    let parts = Some(&given).filter(|given| given.len() <= ITERATOR_BYTES_MAX);
    let (arn, told) = parts.and_then(|given| given.split_once("|1|")).ok_or_else(invalid)?;
    let told = BASE64.decode(told).map_err(|_malformed| invalid())?;
    let position = Position::decode(&told, router.now_ms())?;
    let (table, stream) = named(router, arn).await?;
    let found = get_records::run(router, &table, &stream, position, (Some(limit), false)).await?;
    let of = (table.id, position.shard);
    let records = found.records.iter().map(|record| shown_record(record, &stream, of));
    let mut answer = json!({ "Records": records.collect::<Result<Vec<_>, _>>()? });
    if let Some(next) = found.next {
        answer["NextShardIterator"] = iterator(arn, next, router).into();
    }
    encode(&answer)
}
