//! The operations on items: JSON to a request of ours, the answer to JSON. Those on tables are in `table`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value as Json, json};

use super::error::Refusal;
use super::json::{Given, GivenItem, Shown, item};
use super::table;
use crate::error::Invalid;
use crate::expression::parse::Placeholders;
use crate::item::Item;
use crate::op::create_table::{NAME_CHARACTERS, is_name_character};
use crate::op::{self, ReturnValues, Written, batch_get, batch_write, page};
use crate::router::Router;

pub(super) type Answer = Result<Vec<u8>, Refusal>;

/// Carries out the operation of a name.
pub(super) async fn run(router: &Router, operation: &str, body: &[u8]) -> Answer {
    match operation {
        "PutItem" => put_item(router, parse(body)?).await,
        "GetItem" => get_item(router, parse(body)?).await,
        "UpdateItem" => update_item(router, parse(body)?).await,
        "DeleteItem" => delete_item(router, parse(body)?).await,
        "Query" => query(router, parse(body)?).await,
        "Scan" => scan(router, parse(body)?).await,
        "BatchGetItem" => batch_get_item(router, parse(body)?).await,
        "BatchWriteItem" => batch_write_item(router, parse(body)?).await,
        "CreateTable" => table::create_table(router, parse(body)?).await,
        "DescribeTable" => table::describe_table(router, parse(body)?).await,
        "ListTables" => table::list_tables(router, parse(body)?).await,
        "DeleteTable" => table::delete_table(router, parse(body)?).await,
        _ => Err(Refusal::unknown_operation()),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::serialization(error.to_string()))
}

pub(super) fn encode(answer: &Json) -> Answer {
    serde_json::to_vec(answer).map_err(|error| Refusal::serialization(error.to_string()))
}

/// Something of ours within an answer.
fn shown<'a, T>(value: &'a T) -> Result<Json, Refusal>
where
    Shown<'a, T>: serde::Serialize,
{
    serde_json::to_value(Shown(value)).map_err(|error| Refusal::serialization(error.to_string()))
}

pub(super) fn required<T>(value: Option<T>, name: &str) -> Result<T, Refusal> {
    value.ok_or_else(|| {
        Invalid::new(format!(
            "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"
        ))
        .into()
    })
}

/// The name of a table that is to be there.
fn table_name(name: Option<String>) -> Result<String, Refusal> {
    let name = required(name, "tableName")?;
    let refused = if name.is_empty() {
        "Member must have length greater than or equal to 1"
    } else if name.len() > *NAME_CHARACTERS.end() {
        "Member must have length less than or equal to 255"
    } else if !name.bytes().all(is_name_character) {
        "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+"
    } else {
        return Ok(name);
    };
    Err(Invalid::new(format!(
        "1 validation error detected: Value '{name}' at 'tableName' failed to satisfy constraint: {refused}"
    ))
    .into())
}

/// Parameters from before expressions.
fn refuse_legacy(given: &[(&str, bool)]) -> Result<(), Refusal> {
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            let text = format!("the legacy parameter {name} is not supported; use expressions instead");
            Err(Invalid::new(text).into())
        }
        None => Ok(()),
    }
}

type Names = Option<BTreeMap<String, String>>;
type Values = Option<BTreeMap<String, Given>>;

fn placeholders(names: Names, values: Values, any_expression: bool) -> Result<Placeholders, Refusal> {
    for (given, name) in [(names.is_some(), "Names"), (values.is_some(), "Values")] {
        if given && !any_expression {
            return Err(Invalid::new(format!(
                "ExpressionAttribute{name} can only be specified when using expressions"
            ))
            .into());
        }
    }
    let empty = |is_empty: bool, name: &str| match is_empty {
        true => Err(Refusal::from(Invalid::new(format!("ExpressionAttribute{name} must not be empty")))),
        false => Ok(()),
    };
    empty(names.as_ref().is_some_and(BTreeMap::is_empty), "Names")?;
    empty(values.as_ref().is_some_and(BTreeMap::is_empty), "Values")?;
    let values = values.unwrap_or_default().into_iter().map(|(name, given)| Ok((name, given.value()?)));
    Ok(Placeholders::new(names.unwrap_or_default(), values.collect::<Result<_, Refusal>>()?))
}

fn return_values(text: Option<&str>) -> Result<ReturnValues, Refusal> {
    match text.unwrap_or("NONE") {
        "NONE" => Ok(ReturnValues::None),
        "ALL_OLD" => Ok(ReturnValues::AllOld),
        "UPDATED_OLD" => Ok(ReturnValues::UpdatedOld),
        "ALL_NEW" => Ok(ReturnValues::AllNew),
        "UPDATED_NEW" => Ok(ReturnValues::UpdatedNew),
        other => Err(Invalid::new(format!(
            "1 validation error detected: Value '{other}' at 'returnValues' failed to satisfy constraint: Member must \
             satisfy enum value set: [ALL_NEW, UPDATED_OLD, ALL_OLD, NONE, UPDATED_NEW]"
        ))
        .into()),
    }
}

/// What to say about capacity: nothing, or units for so many bytes.
fn capacity(answer: &mut Json, asked: Option<&str>, table: &str, units: f64) -> Result<(), Refusal> {
    let mut consumed = json!({ "TableName": table, "CapacityUnits": units });
    match asked.unwrap_or("NONE") {
        "NONE" => return Ok(()),
        "TOTAL" => {}
        "INDEXES" => consumed["Table"] = json!({ "CapacityUnits": units }),
        other => {
            return Err(Invalid::new(format!(
                "1 validation error detected: Value '{other}' at 'returnConsumedCapacity' failed to satisfy constraint: \
                 Member must satisfy enum value set: [INDEXES, TOTAL, NONE]"
            ))
            .into());
        }
    }
    answer["ConsumedCapacity"] = consumed;
    Ok(())
}

/// One for every kilobyte begun.
fn write_units(bytes: u32) -> f64 {
    f64::from(bytes.div_ceil(1024).max(1))
}

/// One for every four kilobytes begun, half as many for a read that need not be consistent.
fn read_units(bytes: u64, consistent: Option<bool>) -> f64 {
    let units = bytes.div_ceil(4096).max(1) as f64;
    if consistent == Some(true) { units } else { units / 2.0 }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Write {
    table_name: Option<String>,
    item: Option<GivenItem>,
    key: Option<GivenItem>,
    update_expression: Option<String>,
    condition_expression: Option<String>,
    expression_attribute_names: Names,
    expression_attribute_values: Values,
    return_values: Option<String>,
    return_values_on_condition_check_failure: Option<String>,
    return_consumed_capacity: Option<String>,
    expected: Option<IgnoredAny>,
    attribute_updates: Option<IgnoredAny>,
    conditional_operator: Option<IgnoredAny>,
}

/// What the three writes have in common, taken out of the request.
struct Common {
    table: String,
    placeholders: Placeholders,
    return_values: ReturnValues,
    want_old_on_failure: bool,
    capacity: Option<String>,
}

impl Write {
    fn common(&mut self) -> Result<Common, Refusal> {
        refuse_legacy(&[
            ("Expected", self.expected.is_some()),
            ("AttributeUpdates", self.attribute_updates.is_some()),
            ("ConditionalOperator", self.conditional_operator.is_some()),
        ])?;
        let any = self.update_expression.is_some() || self.condition_expression.is_some();
        let (names, values) =
            (self.expression_attribute_names.take(), self.expression_attribute_values.take());
        Ok(Common {
            table: table_name(self.table_name.take())?,
            placeholders: placeholders(names, values, any)?,
            return_values: return_values(self.return_values.as_deref())?,
            want_old_on_failure: self.return_values_on_condition_check_failure.as_deref() == Some("ALL_OLD"),
            capacity: self.return_consumed_capacity.take(),
        })
    }
}

fn written(table: &str, written: &Written, asked: Option<&str>) -> Answer {
    let mut answer = json!({});
    if let Some(attributes) = &written.attributes {
        answer["Attributes"] = shown(attributes)?;
    }
    capacity(&mut answer, asked, table, write_units(written.size))?;
    encode(&answer)
}

async fn put_item(router: &Router, mut request: Write) -> Answer {
    let common = request.common()?;
    let put = op::put_item::Request {
        table: common.table.clone(),
        item: item(required(request.item, "item")?)?,
        condition: request.condition_expression,
        placeholders: common.placeholders,
        return_values: common.return_values,
        want_old_on_failure: common.want_old_on_failure,
        request_id: None,
    };
    let outcome = router.run(put.prepare()?).await?;
    written(&common.table, &outcome, common.capacity.as_deref())
}

async fn update_item(router: &Router, mut request: Write) -> Answer {
    let common = request.common()?;
    let update = op::update_item::Request {
        table: common.table.clone(),
        key: item(required(request.key, "key")?)?,
        update: request.update_expression,
        condition: request.condition_expression,
        placeholders: common.placeholders,
        return_values: common.return_values,
        want_old_on_failure: common.want_old_on_failure,
        request_id: None,
    };
    let outcome = router.run(update.prepare()?).await?;
    written(&common.table, &outcome, common.capacity.as_deref())
}

async fn delete_item(router: &Router, mut request: Write) -> Answer {
    let common = request.common()?;
    let delete = op::delete_item::Request {
        table: common.table.clone(),
        key: item(required(request.key, "key")?)?,
        condition: request.condition_expression,
        placeholders: common.placeholders,
        return_values: common.return_values,
        want_old_on_failure: common.want_old_on_failure,
        request_id: None,
    };
    let outcome = router.run(delete.prepare()?).await?;
    written(&common.table, &outcome, common.capacity.as_deref())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Get {
    table_name: Option<String>,
    key: Option<GivenItem>,
    consistent_read: Option<bool>,
    projection_expression: Option<String>,
    expression_attribute_names: Names,
    return_consumed_capacity: Option<String>,
    attributes_to_get: Option<IgnoredAny>,
}

async fn get_item(router: &Router, request: Get) -> Answer {
    refuse_legacy(&[("AttributesToGet", request.attributes_to_get.is_some())])?;
    let table = table_name(request.table_name)?;
    let any = request.projection_expression.is_some();
    let get = op::get_item::Request {
        table: table.clone(),
        key: item(required(request.key, "key")?)?,
        projection: request.projection_expression,
        placeholders: placeholders(request.expression_attribute_names, None, any)?,
    };
    let found = router.run(get.prepare()?).await?;
    let mut answer = json!({});
    if let Some(item) = &found.item {
        answer["Item"] = shown(item)?;
    }
    let units = read_units(found.size.into(), request.consistent_read);
    capacity(&mut answer, request.return_consumed_capacity.as_deref(), &table, units)?;
    encode(&answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pages {
    table_name: Option<String>,
    index_name: Option<String>,
    key_condition_expression: Option<String>,
    filter_expression: Option<String>,
    projection_expression: Option<String>,
    expression_attribute_names: Names,
    expression_attribute_values: Values,
    scan_index_forward: Option<bool>,
    exclusive_start_key: Option<GivenItem>,
    limit: Option<i64>,
    select: Option<String>,
    segment: Option<i64>,
    total_segments: Option<i64>,
    consistent_read: Option<bool>,
    return_consumed_capacity: Option<String>,
    key_conditions: Option<IgnoredAny>,
    query_filter: Option<IgnoredAny>,
    scan_filter: Option<IgnoredAny>,
    attributes_to_get: Option<IgnoredAny>,
    conditional_operator: Option<IgnoredAny>,
}

impl Pages {
    fn take(&mut self) -> Result<(String, page::Options, Placeholders), Refusal> {
        refuse_legacy(&[
            ("KeyConditions", self.key_conditions.is_some()),
            ("QueryFilter", self.query_filter.is_some()),
            ("ScanFilter", self.scan_filter.is_some()),
            ("AttributesToGet", self.attributes_to_get.is_some()),
            ("ConditionalOperator", self.conditional_operator.is_some()),
        ])?;
        let table = table_name(self.table_name.take())?;
        let count_only = match self.select.as_deref() {
            None | Some("ALL_ATTRIBUTES") => false,
            Some("SPECIFIC_ATTRIBUTES") if self.projection_expression.is_some() => false,
            Some("COUNT") => true,
            Some("ALL_PROJECTED_ATTRIBUTES") => {
                return Err(Invalid::new(
                    "ALL_PROJECTED_ATTRIBUTES can be used only when Querying using an IndexName",
                )
                .into());
            }
            Some("SPECIFIC_ATTRIBUTES") => {
                return Err(Invalid::new("Must specify the AttributesToGet or ProjectionExpression when choosing to get SPECIFIC_ATTRIBUTES").into());
            }
            Some(other) => {
                return Err(Invalid::new(format!(
                    "1 validation error detected: Value '{other}' at 'select' failed to satisfy constraint: Member must \
                     satisfy enum value set: [SPECIFIC_ATTRIBUTES, COUNT, ALL_ATTRIBUTES, ALL_PROJECTED_ATTRIBUTES]"
                ))
                .into());
            }
        };
        if self.projection_expression.is_some()
            && matches!(self.select.as_deref(), Some("COUNT" | "ALL_ATTRIBUTES"))
        {
            let select = self.select.take().unwrap_or_default();
            return Err(Invalid::new(format!(
                "Cannot specify the ProjectionExpression when choosing to get {}",
                match select.as_str() {
                    "COUNT" => "only the Count",
                    _ => "ALL_ATTRIBUTES",
                }
            ))
            .into());
        }
        let any = self.key_condition_expression.is_some()
            || self.filter_expression.is_some()
            || self.projection_expression.is_some();
        let (names, values) =
            (self.expression_attribute_names.take(), self.expression_attribute_values.take());
        let placeholders = placeholders(names, values, any)?;
        let options = page::Options {
            filter: self.filter_expression.take(),
            projection: self.projection_expression.take(),
            limit: self.limit.map(|limit| at_least_one(limit, "Limit")).transpose()?,
            start_key: self.exclusive_start_key.take().map(item).transpose()?,
            count_only,
        };
        if let Some(index) = &self.index_name {
            return Err(Invalid::new(format!("The table does not have the specified index: {index}")).into());
        }
        Ok((table, options, placeholders))
    }

    fn answer(&self, table: &str, page: &page::Page) -> Answer {
        let mut answer = json!({ "Count": page.count, "ScannedCount": page.scanned });
        if self.select.as_deref() != Some("COUNT") {
            answer["Items"] = shown(&page.items)?;
        }
        if let Some(last_key) = &page.last_key {
            answer["LastEvaluatedKey"] = shown(last_key)?;
        }
        let units = read_units(page.bytes, self.consistent_read);
        capacity(&mut answer, self.return_consumed_capacity.as_deref(), table, units)?;
        encode(&answer)
    }
}

pub(super) fn at_least_one(number: i64, name: &str) -> Result<u32, Refusal> {
    u32::try_from(number).ok().filter(|&number| number > 0).ok_or_else(|| {
        Invalid::new(format!(
            "1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must have value greater \
             than or equal to 1"
        ))
        .into()
    })
}

async fn query(router: &Router, mut request: Pages) -> Answer {
    let key_condition = request.key_condition_expression.clone();
    let (table, options, placeholders) = request.take()?;
    let key_condition = key_condition.ok_or_else(|| {
        Invalid::new(
            "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.",
        )
    })?;
    let query = op::query::Request {
        table: table.clone(),
        key_condition,
        descending: request.scan_index_forward == Some(false),
        options,
        placeholders,
    };
    let page = router.run(query.prepare()?).await?;
    request.answer(&table, &page)
}

async fn scan(router: &Router, mut request: Pages) -> Answer {
    let (table, options, placeholders) = request.take()?;
    let segment = match (request.segment, request.total_segments) {
        (None, None) => None,
        (Some(_), None) => {
            return Err(Invalid::new(
                "The TotalSegments parameter is required but was not present in the request when Segment parameter is present",
            )
            .into());
        }
        (None, Some(_)) => {
            return Err(Invalid::new(
                "The Segment parameter is required but was not present in the request when parameter TotalSegments is present",
            )
            .into());
        }
        (Some(segment), Some(segments)) => {
            let segments = at_least_one(segments, "totalSegments")?;
            Some((u32::try_from(segment).unwrap_or(u32::MAX), segments))
        }
    };
    let scan = op::scan::Request { table: table.clone(), segment, options, placeholders };
    let page = router.run(scan.prepare()?).await?;
    request.answer(&table, &page)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchGet {
    request_items: Option<BTreeMap<String, Json>>,
    return_consumed_capacity: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchKeys {
    keys: Vec<GivenItem>,
    consistent_read: Option<bool>,
    projection_expression: Option<String>,
    expression_attribute_names: Names,
    attributes_to_get: Option<IgnoredAny>,
}

/// What a batch is about, by table.
fn some_items<T>(
    items: Option<BTreeMap<String, T>>,
    operation: &str,
) -> Result<BTreeMap<String, T>, Refusal> {
    items
        .filter(|items| !items.is_empty())
        .ok_or_else(|| Invalid::new(format!("The requestItems parameter is required for {operation}")).into())
}

async fn batch_get_item(router: &Router, request: BatchGet) -> Answer {
    let tables = some_items(request.request_items, "BatchGetItem")?;
    let mut asked = Vec::new();
    let mut consistent = Vec::new();
    for (table, keys) in &tables {
        let keys: BatchKeys = serde_json::from_value(keys.clone())
            .map_err(|error| Refusal::serialization(error.to_string()))?;
        refuse_legacy(&[("AttributesToGet", keys.attributes_to_get.is_some())])?;
        consistent.push(keys.consistent_read);
        let any = keys.projection_expression.is_some();
        asked.push(batch_get::Keys {
            table: table.clone(),
            keys: keys.keys.into_iter().map(item).collect::<Result<_, _>>()?,
            projection: keys.projection_expression,
            placeholders: placeholders(keys.expression_attribute_names, None, any)?,
        });
    }
    let found = batch_get::run(router, asked).await?;
    let mut answer = json!({ "Responses": {}, "UnprocessedKeys": {} });
    let mut consumed = Vec::new();
    for (((table, asked), found), consistent) in tables.into_iter().zip(found).zip(consistent) {
        let mut units = 0.0;
        let mut items: Vec<Item> = Vec::with_capacity(found.items.len());
        for (item, size) in found.items {
            units += read_units(size.into(), consistent);
            items.push(item);
        }
        answer["Responses"][&table] = shown(&items)?;
        if !found.unprocessed.is_empty() {
            let mut left = asked.clone();
            left["Keys"] = found.unprocessed.iter().map(|&place| asked["Keys"][place].clone()).collect();
            answer["UnprocessedKeys"][&table] = left;
        }
        let mut one = json!({});
        capacity(&mut one, request.return_consumed_capacity.as_deref(), &table, units)?;
        consumed.extend(one.get_mut("ConsumedCapacity").map(Json::take));
    }
    if !consumed.is_empty() {
        answer["ConsumedCapacity"] = consumed.into();
    }
    encode(&answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchWrite {
    request_items: Option<BTreeMap<String, Vec<BatchWriteOne>>>,
    return_consumed_capacity: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchWriteOne {
    put_request: Option<BatchPut>,
    delete_request: Option<BatchDelete>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchPut {
    item: GivenItem,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchDelete {
    key: GivenItem,
}

async fn batch_write_item(router: &Router, request: BatchWrite) -> Answer {
    let mut writes = Vec::new();
    for (table, requests) in some_items(request.request_items, "BatchWriteItem")? {
        for one in requests {
            let write = match (one.put_request, one.delete_request) {
                (Some(put), None) => batch_write::Write::Put(item(put.item)?),
                (None, Some(delete)) => batch_write::Write::Delete(item(delete.key)?),
                _ => {
                    return Err(Invalid::new(
                        "Supplied AttributeValue has more than one datatypes set, must contain exactly one of PutRequest \
                         and DeleteRequest",
                    )
                    .into());
                }
            };
            writes.push((table.clone(), write));
        }
    }
    let tables: Vec<String> = writes.iter().map(|(table, _)| table.clone()).collect();
    let sizes = batch_write::run(router, writes, None).await?;
    let mut units: BTreeMap<String, f64> = BTreeMap::new();
    for (table, size) in tables.into_iter().zip(sizes) {
        *units.entry(table).or_default() += write_units(size);
    }
    let mut answer = json!({ "UnprocessedItems": {} });
    let mut consumed = Vec::new();
    for (table, units) in units {
        let mut one = json!({});
        capacity(&mut one, request.return_consumed_capacity.as_deref(), &table, units)?;
        consumed.extend(one.get_mut("ConsumedCapacity").map(Json::take));
    }
    if !consumed.is_empty() {
        answer["ConsumedCapacity"] = consumed.into();
    }
    encode(&answer)
}
