//! The operations on tables: JSON to a request of ours, the answer to JSON.

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::error::Refusal;
use super::operation::{Answer, Constraints, broken, encode, required, table_name};
use super::stream::StreamSpecification;
use crate::error::Invalid;
use crate::item::Type;
use crate::op;
use crate::op::create_table::NewIndex;
use crate::op::describe_table::Described;
use crate::op::update_table::{IndexUpdate, OnDemandUpdate};
use crate::router::Router;
use crate::store::Stats;
use crate::table::{Index, IndexStatus, KeyAttribute, OnDemand, Projection, Status, Table};

/// What the ARN of a table begins with.
pub(super) const ARN: &str = "arn:aws:dynamodb:us-east-1:000000000000:table/";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateTable {
    table_name: Option<String>,
    attribute_definitions: Option<Vec<AttributeDefinition>>,
    key_schema: Option<Vec<KeySchemaElement>>,
    billing_mode: Option<String>,
    provisioned_throughput: Option<Throughput>,
    on_demand_throughput: Option<MaxUnits>,
    deletion_protection_enabled: Option<bool>,
    global_secondary_indexes: Option<Vec<GivenIndex>>,
    local_secondary_indexes: Option<Vec<GivenIndex>>,
    stream_specification: Option<StreamSpecification>,
    tags: Option<Vec<Tag>>,
    table_class: Option<String>,
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

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Throughput {
    read_capacity_units: i64,
    write_capacity_units: i64,
}

/// The most that a table or an index is to be asked if it is paid by request; -1 = anything.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MaxUnits {
    max_read_request_units: Option<i64>,
    max_write_request_units: Option<i64>,
}

impl MaxUnits {
    /// What is said of a table, or of an index of this name.
    fn update(self, index: Option<&str>, on_demand: bool) -> Result<OnDemandUpdate, Refusal> {
        let of =
            |what: &str| index.map_or_else(|| what.to_owned(), |index| format!("{what} for index: {index}"));
        if !on_demand {
            return Err(invalid(of(
                "OnDemandThroughput can only be specified when BillingMode is PAY_PER_REQUEST",
            )));
        }
        let units = |units: Option<i64>, field: &str| match units {
            None => Ok(None),
            Some(-1) => Ok(Some(None)),
            Some(units) if units >= 1 => Ok(Some(Some(units.unsigned_abs()))),
            Some(units) => {
                Err(invalid(of(&format!("{field} must be at least 1, or -1 for no maximum, and is {units}"))))
            }
        };
        let update = OnDemandUpdate {
            reads: units(self.max_read_request_units, "MaxReadRequestUnits")?,
            writes: units(self.max_write_request_units, "MaxWriteRequestUnits")?,
        };
        if !update.is_any() {
            return Err(invalid(of(
                "OnDemandThroughput has neither MaxReadRequestUnits nor MaxWriteRequestUnits",
            )));
        }
        Ok(update)
    }

    /// Likewise of one that is to be.
    fn set(given: Option<Self>, index: Option<&str>, on_demand: bool) -> Result<OnDemand, Refusal> {
        let Some(given) = given else { return Ok(OnDemand::default()) };
        let OnDemandUpdate { reads, writes } = given.update(index, on_demand)?;
        Ok(OnDemand { reads: reads.flatten(), writes: writes.flatten() })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GivenIndex {
    index_name: Option<String>,
    key_schema: Option<Vec<KeySchemaElement>>,
    projection: Option<GivenProjection>,
    provisioned_throughput: Option<Throughput>,
    on_demand_throughput: Option<MaxUnits>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GivenProjection {
    projection_type: Option<String>,
    non_key_attributes: Option<Vec<String>>,
}

/// A word of a table's owner.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    pub(super) key: String,
    pub(super) value: String,
}

fn invalid(what: impl std::fmt::Display) -> Refusal {
    Invalid::new(format!("One or more parameter values were invalid: {what}")).into()
}

/// The name of a table that is to be.
fn new_name(name: Option<String>) -> Result<String, Refusal> {
    let missing = || Invalid::new("The parameter 'TableName' is required but was not present in the request");
    let name = name.ok_or_else(missing)?;
    let shown = format!("'{name}'");
    if name.len() < 3 {
        return Err(broken(&shown, "tableName", "Member must have length greater than or equal to 3"));
    }
    table_name(Some(name))
}

/// How a table, or an index, is paid for; `None` = by request.
fn billing(mode: Option<&str>, throughput: Option<Throughput>) -> Result<Option<(u64, u64)>, Refusal> {
    match (mode, throughput) {
        (Some("PAY_PER_REQUEST"), None) => Ok(None),
        (Some("PAY_PER_REQUEST"), Some(_)) => Err(invalid(
            "Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST",
        )),
        (_, Some(throughput)) => units(throughput).map(Some),
        (_, None) => Err(invalid(
            "ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is PROVISIONED",
        )),
    }
}

fn units(throughput: Throughput) -> Result<(u64, u64), Refusal> {
    let mut constraints = Constraints::default();
    let (reads, writes) = (throughput.read_capacity_units, throughput.write_capacity_units);
    constraints.at_least_one(Some(reads), "provisionedThroughput.readCapacityUnits");
    constraints.at_least_one(Some(writes), "provisionedThroughput.writeCapacityUnits");
    constraints.check()?;
    Ok((reads.unsigned_abs(), writes.unsigned_abs()))
}

/// The attributes that are defined, and which of them keys have used.
struct Definitions {
    defined: Vec<AttributeDefinition>,
}

impl Definitions {
    fn check(&self, constraints: &mut Constraints) {
        for (definition, at) in self.defined.iter().zip(1..) {
            let field = format!("attributeDefinitions.{at}.member.attributeType");
            constraints.one_of(Some(&definition.attribute_type), &field, &["B", "N", "S"]);
        }
    }

    fn attribute(&self, name: &str) -> Option<KeyAttribute> {
        let definition = self.defined.iter().find(|definition| definition.attribute_name == name)?;
        let kind = Type::from_name(&definition.attribute_type)?;
        Some(KeyAttribute { name: name.to_owned(), kind })
    }

    /// The key that a schema says.
    fn key(
        &self,
        schema: &[KeySchemaElement],
        of_index: bool,
    ) -> Result<(KeyAttribute, Option<KeyAttribute>), Refusal> {
        let kinds = ["HASH", "RANGE"];
        for ((element, kind), place) in schema.iter().zip(kinds).zip(["first", "second"]) {
            if element.key_type != kind {
                return Err(Invalid::new(format!(
                    "Invalid KeySchema: The {place} KeySchemaElement is not a {kind} key type"
                ))
                .into());
            }
        }
        let missing = || {
            let keys: Vec<&str> = schema.iter().map(|element| element.attribute_name.as_str()).collect();
            let defined: Vec<&str> = self.defined.iter().map(|one| one.attribute_name.as_str()).collect();
            invalid(format!(
                "Some index key attributes are not defined in AttributeDefinitions. Keys: [{}], AttributeDefinitions: [{}]",
                keys.join(", "),
                defined.join(", ")
            ))
        };
        let attribute =
            |element: &KeySchemaElement| self.attribute(&element.attribute_name).ok_or_else(missing);
        match schema {
            [hash] => Ok((attribute(hash)?, None)),
            [hash, range] if hash.attribute_name == range.attribute_name => Err(Invalid::new(if of_index {
                "Both the Hash Key and the Range Key element in the KeySchema have the same name"
            } else {
                "Invalid KeySchema: Some index key attribute have no definition"
            })
            .into()),
            [hash, range] => Ok((attribute(hash)?, Some(attribute(range)?))),
            _ => Err(invalid("a KeySchema has one or two elements")),
        }
    }
}

fn check_schema(schema: &[KeySchemaElement], field: &str, constraints: &mut Constraints) {
    if schema.is_empty() {
        constraints.broken("'[]'", field, "Member must have length greater than or equal to 1");
    }
    if schema.len() > 2 {
        let shown = |element: &KeySchemaElement| {
            format!(
                "KeySchemaElement(attributeName={}, keyType={})",
                element.attribute_name, element.key_type
            )
        };
        let shown: Vec<String> = schema.iter().map(shown).collect();
        let shown = format!("'[{}]'", shown.join(", "));
        constraints.broken(&shown, field, "Member must have length less than or equal to 2");
    }
    for (element, at) in schema.iter().zip(1..) {
        let field = format!("{field}.{at}.member.keyType");
        constraints.one_of(Some(&element.key_type), &field, &["HASH", "RANGE"]);
    }
}

impl GivenIndex {
    fn check(&self, field: &str, constraints: &mut Constraints) {
        if self.index_name.is_none() {
            constraints.broken("null", &format!("{field}.indexName"), "Member must not be null");
        }
        match &self.key_schema {
            Some(schema) => check_schema(schema, &format!("{field}.keySchema"), constraints),
            None => constraints.broken("null", &format!("{field}.keySchema"), "Member must not be null"),
        }
        match &self.projection {
            Some(projection) => constraints.one_of(
                projection.projection_type.as_deref(),
                &format!("{field}.projection.projectionType"),
                &["ALL", "INCLUDE", "KEYS_ONLY"],
            ),
            None => constraints.broken("null", &format!("{field}.projection"), "Member must not be null"),
        }
    }

    fn index(self, definitions: &Definitions, local: bool, on_demand: bool) -> Result<NewIndex, Refusal> {
        let (partition_key, sort_key) = definitions.key(&self.key_schema.unwrap_or_default(), true)?;
        let name = self.index_name.unwrap_or_default();
        let given =
            self.projection.unwrap_or(GivenProjection { projection_type: None, non_key_attributes: None });
        let more = given.non_key_attributes;
        let projection = match (given.projection_type.as_deref(), more) {
            (Some("INCLUDE"), more) => Projection::Include(more.unwrap_or_default()),
            (Some(kind), Some(_)) => {
                return Err(invalid(format!("ProjectionType is {kind}, but NonKeyAttributes is specified")));
            }
            (Some("ALL"), None) => Projection::All,
            (Some(_), None) => Projection::KeysOnly,
            (None, _) => return Err(invalid("Unknown ProjectionType: null")),
        };
        let throughput = match (local, on_demand, self.provisioned_throughput) {
            (true, _, _) | (false, true, None) => None,
            (false, true, Some(_)) => {
                return Err(invalid(format!(
                    "ProvisionedThroughput should not be specified for index: {name} when BillingMode is PAY_PER_REQUEST"
                )));
            }
            (false, false, Some(throughput)) => Some(units(throughput)?),
            (false, false, None) => {
                return Err(invalid(format!("ProvisionedThroughput is not specified for index: {name}")));
            }
        };
        let on_demand = match local {
            true => OnDemand::default(),
            false => MaxUnits::set(self.on_demand_throughput, Some(&name), on_demand)?,
        };
        Ok(NewIndex { name, local, partition_key, sort_key, projection, throughput, on_demand })
    }
}

pub(super) async fn create_table(router: &Router, request: CreateTable) -> Answer {
    let name = new_name(request.table_name)?;
    let mut constraints = Constraints::default();
    let definitions =
        Definitions { defined: required(request.attribute_definitions, "attributeDefinitions")? };
    let schema = required(request.key_schema, "keySchema")?;
    constraints.one_of(request.billing_mode.as_deref(), "billingMode", &["PROVISIONED", "PAY_PER_REQUEST"]);
    definitions.check(&mut constraints);
    check_schema(&schema, "keySchema", &mut constraints);
    let local = request.local_secondary_indexes;
    let global = request.global_secondary_indexes;
    for (indexes, field) in [(&local, "localSecondaryIndexes"), (&global, "globalSecondaryIndexes")] {
        for (index, at) in indexes.iter().flatten().zip(1..) {
            index.check(&format!("{field}.{at}.member"), &mut constraints);
        }
    }
    constraints.one_of(
        request.table_class.as_deref(),
        "tableClass",
        &["STANDARD", "STANDARD_INFREQUENT_ACCESS"],
    );
    if let Some(stream) = &request.stream_specification {
        stream.check(&mut constraints);
    }
    constraints.check()?;
    let stream = request.stream_specification.map(StreamSpecification::view).transpose()?.flatten();
    let throughput = billing(request.billing_mode.as_deref(), request.provisioned_throughput)?;
    let (partition_key, sort_key) = definitions.key(&schema, false)?;
    for (given, field) in [(&local, "LocalSecondaryIndexes"), (&global, "GlobalSecondaryIndexes")] {
        if given.as_ref().is_some_and(Vec::is_empty) {
            return Err(invalid(format!("List of {field} is empty")));
        }
    }
    let of = |indexes: Option<Vec<GivenIndex>>, local| {
        let indexes = indexes.into_iter().flatten();
        indexes
            .map(|index| index.index(&definitions, local, throughput.is_none()))
            .collect::<Result<Vec<_>, _>>()
    };
    let mut indexes = of(local, true)?;
    indexes.extend(of(global, false)?);
    let on_demand = MaxUnits::set(request.on_demand_throughput, None, throughput.is_none())?;
    let request = op::create_table::Request {
        throughput,
        on_demand,
        deletion_protection: request.deletion_protection_enabled.unwrap_or(false),
        tags: request.tags.unwrap_or_default().into_iter().map(|tag| (tag.key, tag.value)).collect(),
        class: request.table_class,
        indexes,
        stream,
        ..op::create_table::Request::new(name, partition_key, sort_key)
    };
    let keys = request.key_names();
    if definitions.defined.iter().any(|one| !keys.contains(one.attribute_name.as_str())) {
        return Err(invalid(
            "Number of attributes in KeySchema does not exactly match number of attributes defined in \
             AttributeDefinitions",
        ));
    }
    let table = op::create_table::run(router, request).await?;
    // Nodes other than this one may not know of it for a moment; clients wait for ACTIVE.
    let described = Described { table, items: Stats::default(), indexes: Default::default() };
    encode(&json!({ "TableDescription": description(&described, "CREATING") }))
}

/// A time as clients of DynamoDB expect it.
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// The key of a table, or of an index.
pub(super) fn schema<'a>(keys: impl Iterator<Item = &'a KeyAttribute>) -> Json {
    let elements =
        keys.zip(["HASH", "RANGE"]).map(|(key, kind)| json!({ "AttributeName": key.name, "KeyType": kind }));
    elements.collect::<Vec<_>>().into()
}

fn throughput(units: Option<(u64, u64)>) -> Json {
    let (reads, writes) = units.unwrap_or_default();
    json!({ "NumberOfDecreasesToday": 0, "ReadCapacityUnits": reads, "WriteCapacityUnits": writes })
}

/// Said of tables and indexes that have a maximum.
fn max_units(on_demand: OnDemand) -> Option<Json> {
    let units = |units: Option<u64>| units.map_or_else(|| Json::from(-1), Json::from);
    on_demand.is_limited().then(|| {
        json!({ "MaxReadRequestUnits": units(on_demand.reads), "MaxWriteRequestUnits": units(on_demand.writes) })
    })
}

fn index_description(table: &Table, index: &Index, stats: Stats) -> Json {
    let mut projection = json!({ "ProjectionType": match index.projection {
        Projection::All => "ALL",
        Projection::KeysOnly => "KEYS_ONLY",
        Projection::Include(_) => "INCLUDE",
    }});
    if let Projection::Include(names) = &index.projection {
        projection["NonKeyAttributes"] = json!(names);
    }
    let mut described = json!({
        "IndexName": index.name,
        "IndexArn": format!("{ARN}{}/index/{}", table.name, index.name),
        "KeySchema": schema(index.key_attributes()),
        "Projection": projection,
        "ItemCount": stats.items,
        "IndexSizeBytes": stats.bytes,
    });
    if !index.local {
        described["ProvisionedThroughput"] = throughput(index.throughput);
        if let Some(max) = max_units(index.on_demand) {
            described["OnDemandThroughput"] = max;
        }
        described["IndexStatus"] = match (table.status, index.status) {
            (Status::Creating, _) => "CREATING",
            (Status::Deleting, _) | (_, IndexStatus::Deleting) => "DELETING",
            (_, IndexStatus::Creating) => "CREATING",
            (_, IndexStatus::Active) => "ACTIVE",
        }
        .into();
        if index.status == IndexStatus::Creating {
            described["Backfilling"] = true.into();
        }
    }
    described
}

fn description(described: &Described, status: &str) -> Json {
    let Described { table, items, indexes } = described;
    let attributes: Vec<Json> = table
        .defined_attributes()
        .into_iter()
        .map(|key| json!({ "AttributeName": key.name, "AttributeType": key.kind.name() }))
        .collect();
    let mut description = json!({
        "TableName": table.name,
        "TableId": format!("00000000-0000-0000-0000-{:012x}", table.id),
        "TableArn": format!("{ARN}{}", table.name),
        "TableStatus": status,
        "CreationDateTime": seconds(table.created_ms),
        "AttributeDefinitions": attributes,
        "KeySchema": schema(table.key_attributes()),
        "ItemCount": items.items,
        "TableSizeBytes": items.bytes,
        "DeletionProtectionEnabled": table.deletion_protection,
        "ProvisionedThroughput": throughput(table.throughput),
    });
    if table.throughput.is_none() || table.on_demand_since_ms.is_some() {
        let since = table.on_demand_since_ms.unwrap_or(table.created_ms);
        let mode = if table.throughput.is_none() { "PAY_PER_REQUEST" } else { "PROVISIONED" };
        description["BillingModeSummary"] = json!({
            "BillingMode": mode,
            "LastUpdateToPayPerRequestDateTime": seconds(since),
        });
    }
    if let Some(max) = max_units(table.on_demand) {
        description["OnDemandThroughput"] = max;
    }
    if let Some(class) = &table.class {
        description["TableClassSummary"] = json!({ "TableClass": class });
    }
    for (local, field) in [(true, "LocalSecondaryIndexes"), (false, "GlobalSecondaryIndexes")] {
        let of = table.indexes.iter().filter(|index| index.local == local);
        let stats = |index: &Index| indexes.get(&index.number).copied().unwrap_or_default();
        let of: Vec<Json> = of.map(|index| index_description(table, index, stats(index))).collect();
        if !of.is_empty() {
            description[field] = of.into();
        }
    }
    super::stream::describe_in(table, &mut description);
    description
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UpdateTable {
    table_name: Option<String>,
    attribute_definitions: Option<Vec<AttributeDefinition>>,
    billing_mode: Option<String>,
    provisioned_throughput: Option<Throughput>,
    on_demand_throughput: Option<MaxUnits>,
    deletion_protection_enabled: Option<bool>,
    global_secondary_index_updates: Option<Vec<GivenUpdate>>,
    stream_specification: Option<StreamSpecification>,
    table_class: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GivenUpdate {
    create: Option<GivenIndex>,
    update: Option<GivenThroughput>,
    delete: Option<GivenName>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GivenThroughput {
    index_name: String,
    provisioned_throughput: Option<Throughput>,
    on_demand_throughput: Option<MaxUnits>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GivenName {
    index_name: String,
}

pub(super) async fn update_table(router: &Router, request: UpdateTable) -> Answer {
    let name = table_name(request.table_name)?;
    let definitions = Definitions { defined: request.attribute_definitions.unwrap_or_default() };
    let updates = request.global_secondary_index_updates;
    let mut constraints = Constraints::default();
    constraints.one_of(request.billing_mode.as_deref(), "billingMode", &["PROVISIONED", "PAY_PER_REQUEST"]);
    definitions.check(&mut constraints);
    for (update, at) in updates.iter().flatten().zip(1..) {
        if let Some(create) = &update.create {
            create.check(&format!("globalSecondaryIndexUpdates.{at}.member.create"), &mut constraints);
        }
    }
    if let Some(stream) = &request.stream_specification {
        stream.check(&mut constraints);
    }
    constraints.check()?;
    let on_failure = |error| Refusal::of_table(error, &name);
    router.refresh_tables().await?;
    let now = router.tables().get(&name).cloned().ok_or_else(|| Refusal::no_table(&name))?;
    let stream = request.stream_specification.map(StreamSpecification::view).transpose()?;
    let is_something = request.billing_mode.is_some()
        || request.provisioned_throughput.is_some()
        || request.on_demand_throughput.is_some()
        || request.deletion_protection_enabled.is_some()
        || updates.is_some()
        || stream.is_some()
        || request.table_class.is_some();
    if !is_something {
        return Err(Invalid::new(
            "At least one of ProvisionedThroughput, BillingMode, UpdateStreamEnabled, GlobalSecondaryIndexUpdates or \
             SSESpecification or ReplicaUpdates is required",
        )
        .into());
    }
    let billing = match (request.billing_mode.as_deref(), request.provisioned_throughput) {
        (None, None) => None,
        (None, Some(_)) if now.throughput.is_none() => {
            return Err(invalid(
                "Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST",
            ));
        }
        (mode, throughput) => Some(billing(mode, throughput)?),
    };
    let on_demand = billing.unwrap_or(now.throughput).is_none();
    let max = request.on_demand_throughput.map(|max| max.update(None, on_demand));
    let mut indexes = Vec::new();
    for update in updates.into_iter().flatten() {
        indexes.push(match (update.create, update.update, update.delete) {
            (Some(create), None, None) => {
                IndexUpdate::Create(create.index(&definitions, false, on_demand)?)
            }
            (None, Some(update), None) => {
                let name = update.index_name;
                let max = update.on_demand_throughput.map(|max| max.update(Some(&name), on_demand));
                let max = max.transpose()?.unwrap_or_default();
                let throughput = update.provisioned_throughput.map(units).transpose()?;
                if throughput.is_none() && !max.is_any() {
                    return Err(invalid(format!("ProvisionedThroughput is not specified for index: {name}")));
                }
                IndexUpdate::Update(name, throughput, max)
            }
            (None, None, Some(delete)) => IndexUpdate::Delete(delete.index_name),
            _ => {
                return Err(invalid(
                    "Only one of Create, Update or Delete can be specified in a GlobalSecondaryIndexUpdate",
                ));
            }
        });
    }
    let update = op::update_table::Request {
        table: name.clone(),
        billing,
        on_demand: max.transpose()?.unwrap_or_default(),
        deletion_protection: request.deletion_protection_enabled,
        class: request.table_class,
        indexes,
        stream,
        history_ms: None,
        strong_indexes: None,
    };
    let table = op::update_table::run(router, update).await.map_err(on_failure)?;
    let described = Described { table, items: Stats::default(), indexes: Default::default() };
    encode(&json!({ "TableDescription": description(&described, "UPDATING") }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TableName {
    table_name: Option<String>,
}

pub(super) async fn describe_table(router: &Router, request: TableName) -> Answer {
    let name = table_name(request.table_name)?;
    let described =
        op::describe_table::run(router, &name).await.map_err(|error| Refusal::of_table(error, &name))?;
    let status = match described.table.status {
        Status::Creating => "CREATING",
        Status::Active => "ACTIVE",
        Status::Deleting => "DELETING",
    };
    encode(&json!({ "Table": description(&described, status) }))
}

pub(super) async fn delete_table(router: &Router, request: TableName) -> Answer {
    let name = table_name(request.table_name)?;
    let table =
        op::delete_table::run(router, &name).await.map_err(|error| Refusal::of_table(error, &name))?;
    let described = Described { table, items: Stats::default(), indexes: Default::default() };
    encode(&json!({ "TableDescription": description(&described, "DELETING") }))
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
