//! The operations on tables: JSON to a request of ours, the answer to JSON.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value as Json, json};

use super::error::Refusal;
use super::operation::{Answer, at_least_one, encode, required};
use crate::error::{Error, Invalid};
use crate::item::Type;
use crate::op;
use crate::router::Router;
use crate::store::Stats;
use crate::table::{KeyAttribute, Status, Table};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateTable {
    table_name: Option<String>,
    attribute_definitions: Option<Vec<AttributeDefinition>>,
    key_schema: Option<Vec<KeySchemaElement>>,
    billing_mode: Option<String>,
    provisioned_throughput: Option<Throughput>,
    deletion_protection_enabled: Option<bool>,
    global_secondary_indexes: Option<Vec<IgnoredAny>>,
    local_secondary_indexes: Option<Vec<IgnoredAny>>,
    stream_specification: Option<Json>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AttributeDefinition {
    attribute_name: String,
    attribute_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeySchemaElement {
    attribute_name: String,
    key_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Throughput {
    read_capacity_units: i64,
    write_capacity_units: i64,
}

pub(super) async fn create_table(router: &Router, request: CreateTable) -> Answer {
    let name = required(request.table_name, "tableName")?;
    op::create_table::check_name(&name)?;
    let definitions = required(request.attribute_definitions, "attributeDefinitions")?;
    let schema = required(request.key_schema, "keySchema")?;
    for (given, what) in [
        (request.global_secondary_indexes.is_some(), "GlobalSecondaryIndexes"),
        (request.local_secondary_indexes.is_some(), "LocalSecondaryIndexes"),
        (
            request.stream_specification.is_some_and(|stream| stream["StreamEnabled"] == true),
            "StreamSpecification",
        ),
    ] {
        if given {
            return Err(Invalid::new(format!("{what} is not supported yet")).into());
        }
    }
    let invalid = |what: String| {
        Refusal::from(Invalid::new(format!("One or more parameter values were invalid: {what}")))
    };
    let throughput = match (request.billing_mode.as_deref(), request.provisioned_throughput) {
        (Some("PAY_PER_REQUEST"), None) => None,
        (Some("PAY_PER_REQUEST"), Some(_)) => {
            return Err(invalid(
                "Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST".into(),
            ));
        }
        (None | Some("PROVISIONED"), Some(throughput)) => {
            let reads =
                at_least_one(throughput.read_capacity_units, "provisionedThroughput.readCapacityUnits")?;
            let writes =
                at_least_one(throughput.write_capacity_units, "provisionedThroughput.writeCapacityUnits")?;
            Some((reads.into(), writes.into()))
        }
        (None | Some("PROVISIONED"), None) => {
            return Err(invalid(
                "ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is PROVISIONED".into(),
            ));
        }
        (Some(other), _) => {
            return Err(Invalid::new(format!(
                "1 validation error detected: Value '{other}' at 'billingMode' failed to satisfy constraint: Member must \
                 satisfy enum value set: [PROVISIONED, PAY_PER_REQUEST]"
            ))
            .into());
        }
    };
    let key = |position: usize, kind: &str| -> Result<Option<KeyAttribute>, Refusal> {
        let Some(element) = schema.get(position) else { return Ok(None) };
        if element.key_type != kind {
            return Err(Invalid::new(format!(
                "Invalid KeySchema: The {} KeySchemaElement is not a {kind} key type",
                if position == 0 { "first" } else { "second" }
            ))
            .into());
        }
        let name = element.attribute_name.clone();
        let Some(definition) = definitions.iter().find(|definition| definition.attribute_name == name) else {
            let keys: Vec<&str> = schema.iter().map(|element| element.attribute_name.as_str()).collect();
            let defined: Vec<&str> = definitions.iter().map(|one| one.attribute_name.as_str()).collect();
            return Err(invalid(format!(
                "Some index key attributes are not defined in AttributeDefinitions. Keys: [{}], AttributeDefinitions: [{}]",
                keys.join(", "),
                defined.join(", ")
            )));
        };
        let kind = Type::from_name(&definition.attribute_type)
            .filter(|kind| matches!(kind, Type::S | Type::N | Type::B))
            .ok_or_else(|| {
                Invalid::new(format!(
                    "1 validation error detected: Value '{}' at 'attributeDefinitions.1.member.attributeType' failed to \
                     satisfy constraint: Member must satisfy enum value set: [B, N, S]",
                    definition.attribute_type
                ))
            })?;
        Ok(Some(KeyAttribute { name, kind }))
    };
    if schema.is_empty() || schema.len() > 2 {
        return Err(Invalid::new(format!(
            "1 validation error detected: Value '[{} elements]' at 'keySchema' failed to satisfy constraint: Member must \
             have length less than or equal to 2",
            schema.len()
        ))
        .into());
    }
    let partition_key = required(key(0, "HASH")?, "keySchema")?;
    let sort_key = key(1, "RANGE")?;
    if definitions.len() != schema.len() {
        return Err(invalid(
            "Number of attributes in KeySchema does not exactly match number of attributes defined in \
             AttributeDefinitions"
                .into(),
        ));
    }
    let request = op::create_table::Request {
        table: name,
        partition_key,
        sort_key,
        throughput,
        deletion_protection: request.deletion_protection_enabled.unwrap_or(false),
    };
    let table = op::create_table::run(router, request).await?;
    // Nodes other than this one may not know of it for a moment; clients wait for ACTIVE.
    encode(&json!({ "TableDescription": description(&table, Stats::default(), "CREATING") }))
}

fn description(table: &Table, stats: Stats, status: &str) -> Json {
    let attributes: Vec<Json> = table
        .key_attributes()
        .map(|key| json!({ "AttributeName": key.name, "AttributeType": key.kind.name() }))
        .collect();
    let schema: Vec<Json> = table
        .key_attributes()
        .zip(["HASH", "RANGE"])
        .map(|(key, kind)| json!({ "AttributeName": key.name, "KeyType": kind }))
        .collect();
    let (reads, writes) = table.throughput.unwrap_or_default();
    let mut description = json!({
        "TableName": table.name,
        "TableId": format!("00000000-0000-0000-0000-{:012x}", table.id),
        "TableArn": format!("arn:aws:dynamodb:local:000000000000:table/{}", table.name),
        "TableStatus": status,
        "CreationDateTime": table.created_ms as f64 / 1000.0,
        "AttributeDefinitions": attributes,
        "KeySchema": schema,
        "ItemCount": stats.items,
        "TableSizeBytes": stats.bytes,
        "DeletionProtectionEnabled": table.deletion_protection,
        "ProvisionedThroughput": {
            "NumberOfDecreasesToday": 0, "ReadCapacityUnits": reads, "WriteCapacityUnits": writes,
        },
    });
    if table.throughput.is_none() {
        description["BillingModeSummary"] = json!({
            "BillingMode": "PAY_PER_REQUEST",
            "LastUpdateToPayPerRequestDateTime": table.created_ms as f64 / 1000.0,
        });
    }
    description
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TableName {
    table_name: Option<String>,
}

/// A refusal that says which table there is not.
fn named(error: Error, name: &str) -> Refusal {
    match error {
        Error::TableNotFound { .. } => Refusal::no_table(name),
        other => other.into(),
    }
}

pub(super) async fn describe_table(router: &Router, request: TableName) -> Answer {
    let name = required(request.table_name, "tableName")?;
    op::create_table::check_name(&name)?;
    let described = op::describe_table::run(router, &name).await;
    let (table, stats) = described.map_err(|error| named(error, &name))?;
    let status = if table.status == Status::Active { "ACTIVE" } else { "DELETING" };
    encode(&json!({ "Table": description(&table, stats, status) }))
}

pub(super) async fn delete_table(router: &Router, request: TableName) -> Answer {
    let name = required(request.table_name, "tableName")?;
    op::create_table::check_name(&name)?;
    let table = op::delete_table::run(router, &name).await.map_err(|error| named(error, &name))?;
    encode(&json!({ "TableDescription": description(&table, Stats::default(), "DELETING") }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListTables {
    exclusive_start_table_name: Option<String>,
    limit: Option<i64>,
}

pub(super) async fn list_tables(router: &Router, request: ListTables) -> Answer {
    let limit = request.limit.map(|limit| u32::try_from(limit.max(0)).unwrap_or(u32::MAX));
    if let Some(name) = &request.exclusive_start_table_name {
        op::create_table::check_name(name)?;
    }
    let (names, last) =
        op::list_tables::run(router, request.exclusive_start_table_name.as_deref(), limit).await?;
    let mut answer = json!({ "TableNames": names });
    if let Some(last) = last {
        answer["LastEvaluatedTableName"] = last.into();
    }
    encode(&answer)
}
