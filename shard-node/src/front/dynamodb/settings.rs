//! What is said of tables beside their shape: expiry, tags, limits.

use serde::Deserialize;
use serde_json::json;

use super::error::Refusal;
use super::operation::{Answer, broken, encode, required, table_name};
use super::table::ARN;
use crate::error::Invalid;
use crate::op::update_table;
use crate::router::Router;
use crate::table::Table;

async fn table(router: &Router, name: &str) -> Result<Table, Refusal> {
    router.refresh_tables().await?;
    let found = router.tables().get(name).cloned();
    found.ok_or_else(|| Refusal::no_table(name))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UpdateTimeToLive {
    table_name: Option<String>,
    time_to_live_specification: Option<TimeToLive>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TimeToLive {
    enabled: Option<bool>,
    attribute_name: Option<String>,
}

pub(super) async fn update_time_to_live(router: &Router, request: UpdateTimeToLive) -> Answer {
    let name = table_name(request.table_name)?;
    let wanted = required(request.time_to_live_specification, "timeToLiveSpecification")?;
    let enabled = required(wanted.enabled, "timeToLiveSpecification.enabled")?;
    let attribute = required(wanted.attribute_name, "timeToLiveSpecification.attributeName")?;
    if attribute.is_empty() || attribute.len() > 255 {
        return Err(broken(
            &format!("'{attribute}'"),
            "timeToLiveSpecification.attributeName",
            "Member must have length between 1 and 255",
        ));
    }
    table(router, &name).await?;
    update_table::set_ttl(router, &name, &attribute, enabled).await?;
    encode(&json!({ "TimeToLiveSpecification": { "Enabled": enabled, "AttributeName": attribute } }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TableName {
    table_name: Option<String>,
}

pub(super) async fn describe_time_to_live(router: &Router, request: TableName) -> Answer {
    let name = table_name(request.table_name)?;
    let table = table(router, &name).await?;
    let description = match &table.ttl_attribute {
        Some(attribute) => json!({ "TimeToLiveStatus": "ENABLED", "AttributeName": attribute }),
        None => json!({ "TimeToLiveStatus": "DISABLED" }),
    };
    encode(&json!({ "TimeToLiveDescription": description }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tagged {
    resource_arn: Option<String>,
    tags: Option<Vec<super::table::Tag>>,
    tag_keys: Option<Vec<String>>,
}

/// The table that an ARN names.
fn resource(arn: Option<String>) -> Result<String, Refusal> {
    let arn = required(arn, "resourceArn")?;
    match arn.strip_prefix(ARN) {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        // One of somewhere else.
        _ if arn.starts_with("arn:aws:dynamodb:") && arn.contains(":table/") => {
            Err(Refusal::access_denied(&arn))
        }
        _ => {
            Err(Invalid::new(format!("Invalid TableArn: Invalid ResourceArn provided as input {arn}")).into())
        }
    }
}

async fn tagged(router: &Router, arn: Option<String>) -> Result<Table, Refusal> {
    let shown = arn.clone().unwrap_or_default();
    let name = resource(arn)?;
    table(router, &name).await.map_err(|_none| Refusal::access_denied(&shown))
}

pub(super) async fn tag_resource(router: &Router, request: Tagged) -> Answer {
    let table = tagged(router, request.resource_arn).await?;
    let tags = required(request.tags, "tags")?;
    for tag in &tags {
        if tag.key.is_empty() || tag.key.chars().count() > 128 || tag.value.chars().count() > 256 {
            return Err(Invalid::new("a tag's key has 1 to 128 characters, and its value at most 256").into());
        }
    }
    let tags = tags.into_iter().map(|tag| (tag.key, tag.value)).collect();
    update_table::tag(router, &table.name, tags).await?;
    Ok(Vec::new())
}

pub(super) async fn untag_resource(router: &Router, request: Tagged) -> Answer {
    let table = tagged(router, request.resource_arn).await?;
    update_table::untag(router, &table.name, &required(request.tag_keys, "tagKeys")?).await?;
    Ok(Vec::new())
}

pub(super) async fn list_tags_of_resource(router: &Router, request: Tagged) -> Answer {
    let table = tagged(router, request.resource_arn).await?;
    let tags = table.tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value }));
    encode(&json!({ "Tags": tags.collect::<Vec<_>>() }))
}

/// No account has a limit of capacity here; what DynamoDB answers for a new one.
pub(super) fn describe_limits() -> Answer {
    encode(&json!({
        "AccountMaxReadCapacityUnits": 80_000,
        "AccountMaxWriteCapacityUnits": 80_000,
        "TableMaxReadCapacityUnits": 40_000,
        "TableMaxWriteCapacityUnits": 40_000,
    }))
}

/// Whoever asks has found a node, and any node will do.
pub(super) fn describe_endpoints(host: &str) -> Answer {
    encode(&json!({ "Endpoints": [{ "Address": host, "CachePeriodInMinutes": 1440 }] }))
}
