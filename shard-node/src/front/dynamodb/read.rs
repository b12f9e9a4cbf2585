//! The operations that read items: JSON to a request of ours, the answer to JSON.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::error::Refusal;
use super::json::{GivenItem, item};
use super::legacy::{self, Expectations};
use super::operation::{
    Answer, CAPACITIES, Constraints, Names, Values, broken, encode, placeholders, required, show_consumed,
    shown, table_name,
};
use super::write::{all_consumed, check_count};
use crate::capacity::Consumed;
use crate::error::Invalid;
use crate::expression::parse::Placeholders;
use crate::expression::{Path, Stated};
use crate::limits::BATCH_GET_KEYS_MAX;
use crate::op::{self, batch_get, get_item, page, transact_get};
use crate::router::Router;

/// What is wanted of items, said in the new way or in the old.
fn projection(
    expression: Option<String>,
    attributes_to_get: Option<Vec<String>>,
) -> Result<Option<Stated<Vec<Path>>>, Refusal> {
    legacy::refuse_both(
        &[("AttributesToGet", attributes_to_get.is_some())],
        &[("ProjectionExpression", expression.is_some())],
    )?;
    let old = attributes_to_get.map(legacy::projection).transpose()?;
    Ok(expression.map(Stated::Text).or_else(|| old.map(Stated::Tree)))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Get {
    table_name: Option<String>,
    key: Option<GivenItem>,
    consistent_read: Option<bool>,
    projection_expression: Option<String>,
    expression_attribute_names: Names,
    return_consumed_capacity: Option<String>,
    attributes_to_get: Option<Vec<String>>,
}

impl Get {
    fn request(self) -> Result<get_item::Request, Refusal> {
        let table = table_name(self.table_name)?;
        let given = [("ProjectionExpression", self.projection_expression.is_some())];
        Ok(get_item::Request {
            table,
            placeholders: placeholders(self.expression_attribute_names, None, &given)?,
            projection: projection(self.projection_expression, self.attributes_to_get)?,
            key: item(required(self.key, "key")?)?,
            consistent: self.consistent_read == Some(true),
            as_of_ms: None,
        })
    }
}

pub(super) async fn get_item(router: &Router, mut request: Get) -> Answer {
    let name = table_name(request.table_name.clone())?;
    let capacity = request.return_consumed_capacity.take();
    let mut constraints = Constraints::default();
    constraints.one_of(capacity.as_deref(), "returnConsumedCapacity", &CAPACITIES);
    constraints.check()?;
    let consistent = request.consistent_read == Some(true);
    let found = router.run(request.request()?.prepare()?).await?;
    let mut answer = json!({});
    if let Some(item) = &found.item {
        answer["Item"] = shown(item)?;
    }
    let used = Consumed::read(None, found.size.into(), consistent);
    if let Some(consumed) = show_consumed(&used, None, capacity.as_deref(), &name, None) {
        answer["ConsumedCapacity"] = consumed;
    }
    encode(&answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Pages {
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
    key_conditions: Option<Expectations>,
    query_filter: Option<Expectations>,
    scan_filter: Option<Expectations>,
    attributes_to_get: Option<Vec<String>>,
    conditional_operator: Option<String>,
}

const SELECTS: [&str; 4] = ["SPECIFIC_ATTRIBUTES", "COUNT", "ALL_ATTRIBUTES", "ALL_PROJECTED_ATTRIBUTES"];

impl Pages {
    /// Checks the shape, then takes out what both operations have.
    fn take(&mut self) -> Result<(String, page::Options, Placeholders), Refusal> {
        let table = table_name(self.table_name.take())?;
        let mut constraints = Constraints::default();
        constraints.one_of(self.return_consumed_capacity.as_deref(), "returnConsumedCapacity", &CAPACITIES);
        constraints.one_of(self.select.as_deref(), "select", &SELECTS);
        match self.limit {
            // This one does not say what it was.
            Some(limit) if limit < 1 && self.is_query() => {
                let constraint = "Member must have value greater than or equal to 1";
                return Err(Invalid::new(format!(
                    "1 validation error detected: Value at 'Limit' failed to satisfy constraint: {constraint}"
                ))
                .into());
            }
            limit => constraints.at_least_one(limit, "limit"),
        }
        constraints.check()?;
        let expressions = [
            ("ProjectionExpression", self.projection_expression.is_some()),
            ("FilterExpression", self.filter_expression.is_some()),
            ("KeyConditionExpression", self.key_condition_expression.is_some()),
        ];
        legacy::refuse_both(
            &[
                ("AttributesToGet", self.attributes_to_get.is_some()),
                ("QueryFilter", self.query_filter.is_some()),
                ("ScanFilter", self.scan_filter.is_some()),
                ("ConditionalOperator", self.conditional_operator.is_some()),
                ("KeyConditions", self.key_conditions.is_some()),
            ],
            &expressions,
        )?;
        let expressions = if self.is_query() { &expressions[..] } else { &expressions[..2] };
        self.check_select()?;
        let (names, values) =
            (self.expression_attribute_names.take(), self.expression_attribute_values.take());
        let placeholders = placeholders(names, values, expressions)?;
        let old = self.query_filter.take().or_else(|| self.scan_filter.take()).unwrap_or_default();
        let old = legacy::condition(old, self.conditional_operator.as_deref())?;
        let filter = self.filter_expression.take().map(Stated::Text).or_else(|| old.map(Stated::Tree));
        let options = page::Options {
            filter,
            projection: projection(self.projection_expression.take(), self.attributes_to_get.take())?,
            // It is at least one.
            limit: self.limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
            start_key: self.exclusive_start_key.take().map(item).transpose()?,
            count_only: self.select.as_deref() == Some("COUNT"),
            whole_items: self.select.as_deref() == Some("ALL_ATTRIBUTES"),
            filters_keys: false,
            consistent: self.consistent_read == Some(true),
            as_of_ms: None,
        };
        Ok((table, options, placeholders))
    }

    fn is_query(&self) -> bool {
        self.key_condition_expression.is_some() || self.key_conditions.is_some()
    }

    fn check_select(&self) -> Result<(), Refusal> {
        let refuse = |what: &str| Err(Refusal::from(Invalid::new(what)));
        let names = self.projection_expression.is_some() || self.attributes_to_get.is_some();
        let parameter =
            if self.attributes_to_get.is_some() { "AttributesToGet" } else { "ProjectionExpression" };
        match self.select.as_deref() {
            Some("ALL_PROJECTED_ATTRIBUTES") if self.index_name.is_none() => {
                refuse("ALL_PROJECTED_ATTRIBUTES can be used only when Querying using an IndexName")
            }
            Some("SPECIFIC_ATTRIBUTES") if !names => refuse(
                "Must specify the AttributesToGet or ProjectionExpression when choosing to get SPECIFIC_ATTRIBUTES",
            ),
            Some("COUNT") if names => {
                refuse(&format!("Cannot specify the {parameter} when choosing to get only the Count"))
            }
            Some(select @ ("ALL_ATTRIBUTES" | "ALL_PROJECTED_ATTRIBUTES")) if names => {
                refuse(&format!("Cannot specify the {parameter} when choosing to get {select}"))
            }
            _ => Ok(()),
        }
    }

    fn answer(&self, router: &Router, name: &str, page: &page::Page) -> Answer {
        let mut answer = json!({ "Count": page.count, "ScannedCount": page.scanned });
        if self.select.as_deref() != Some("COUNT") {
            answer["Items"] = shown(&page.items)?;
        }
        if let Some(last_key) = &page.last_key {
            answer["LastEvaluatedKey"] = shown(last_key)?;
        }
        let tables = router.tables();
        let asked = self.return_consumed_capacity.as_deref();
        if let Some(table) = tables.get(name) {
            let used = page.consumed(table, self.index_name.as_deref(), self.consistent_read == Some(true));
            if let Some(consumed) = show_consumed(&used, None, asked, name, Some(table)) {
                answer["ConsumedCapacity"] = consumed;
            }
        }
        encode(&answer)
    }
}

pub(super) async fn query(router: &Router, mut request: Pages) -> Answer {
    if !request.is_query() {
        let name = table_name(request.table_name.clone())?;
        let table = router.table(&name).await?;
        drop(table);
        return Err(Invalid::new(
            "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.",
        )
        .into());
    }
    let (name, options, placeholders) = request.take()?;
    let key_condition = match request.key_condition_expression.take() {
        Some(text) => Stated::Text(text),
        None => {
            let conditions = request.key_conditions.take().unwrap_or_default();
            let tree = legacy::condition(conditions, None)?;
            let missing = "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.";
            Stated::Tree(tree.ok_or_else(|| Invalid::new(missing))?)
        }
    };
    let query = op::query::Request {
        table: name.clone(),
        index: request.index_name.clone(),
        key_condition,
        descending: request.scan_index_forward == Some(false),
        options,
        placeholders,
    };
    let page = router.run(query.prepare()?).await?;
    request.answer(router, &name, &page)
}

pub(super) async fn scan(router: &Router, mut request: Pages) -> Answer {
    let (name, options, placeholders) = request.take()?;
    let mut constraints = Constraints::default();
    constraints.at_least_one(request.total_segments, "totalSegments");
    constraints.check()?;
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
            let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
            Some((number(segment), number(segments)))
        }
    };
    let index = request.index_name.clone();
    let scan = op::scan::Request { table: name.clone(), index, segment, options, placeholders };
    let page = router.run(scan.prepare()?).await?;
    request.answer(router, &name, &page)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchGet {
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
    attributes_to_get: Option<Vec<String>>,
}

pub(super) async fn batch_get_item(router: &Router, request: BatchGet) -> Answer {
    let mut constraints = Constraints::default();
    constraints.one_of(request.return_consumed_capacity.as_deref(), "returnConsumedCapacity", &CAPACITIES);
    constraints.check()?;
    let tables = request.request_items.unwrap_or_default();
    if tables.is_empty() {
        return Err(Invalid::new("The requestItems parameter is required for BatchGetItem").into());
    }
    let mut asked = Vec::new();
    for (table, keys) in &tables {
        let keys: BatchKeys = serde_json::from_value(keys.clone())
            .map_err(|error| Refusal::serialization(error.to_string()))?;
        let field = format!("RequestItems.{table}.member.Keys");
        if keys.keys.len() > BATCH_GET_KEYS_MAX || keys.keys.is_empty() {
            let constraint = match keys.keys.len() {
                0 => "Member must have length greater than or equal to 1",
                _ => "Member must have length less than or equal to 100",
            };
            return Err(Invalid::new(format!(
                "1 validation error detected: Value at '{field}' failed to satisfy constraint: {constraint}"
            ))
            .into());
        }
        let given = [("ProjectionExpression", keys.projection_expression.is_some())];
        asked.push(batch_get::Keys {
            table: table_name(Some(table.clone()))?,
            keys: keys.keys.into_iter().map(item).collect::<Result<_, _>>()?,
            placeholders: placeholders(keys.expression_attribute_names, None, &given)?,
            projection: projection(keys.projection_expression, keys.attributes_to_get)?,
            consistent: keys.consistent_read == Some(true),
        });
    }
    let found = batch_get::run(router, asked, None).await?;
    let mut answer = json!({ "Responses": {}, "UnprocessedKeys": {} });
    let mut used: BTreeMap<String, Consumed> = BTreeMap::new();
    for ((table, asked), found) in tables.into_iter().zip(found) {
        answer["Responses"][&table] = shown(&found.items)?;
        if !found.unprocessed.is_empty() {
            let mut left = asked.clone();
            left["Keys"] = found.unprocessed.iter().map(|&place| asked["Keys"][place].clone()).collect();
            answer["UnprocessedKeys"][&table] = left;
        }
        used.entry(table).or_default().add(found.consumed);
    }
    all_consumed(&mut answer, &used, None, request.return_consumed_capacity.as_deref(), router);
    encode(&answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TransactGet {
    transact_items: Option<Vec<TransactGetOne>>,
    return_consumed_capacity: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TransactGetOne {
    get: Option<Get>,
}

pub(super) async fn transact_get_items(router: &Router, request: TransactGet) -> Answer {
    let mut constraints = Constraints::default();
    constraints.one_of(request.return_consumed_capacity.as_deref(), "returnConsumedCapacity", &CAPACITIES);
    constraints.check()?;
    let items = required(request.transact_items, "transactItems")?;
    check_count(items.len())?;
    let gets = items.into_iter().zip(1..).map(|(one, at)| {
        let get = one.get.ok_or_else(|| {
            broken("null", &format!("transactItems.{at}.member.get"), "Member must not be null")
        });
        get?.request()
    });
    let gets = gets.collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = gets.iter().map(|get| get.table.clone()).collect();
    let found = transact_get::run(router, gets, None).await?;
    let mut responses = Vec::with_capacity(found.len());
    let mut used: BTreeMap<String, Consumed> = BTreeMap::new();
    for (name, found) in names.into_iter().zip(found) {
        used.entry(name).or_default().add(Consumed::read(None, found.size.into(), true).twice());
        responses.push(match &found.item {
            Some(item) => json!({ "Item": shown(item)? }),
            None => json!({}),
        });
    }
    let mut answer = json!({ "Responses": responses });
    all_consumed(
        &mut answer,
        &used,
        Some("ReadCapacityUnits"),
        request.return_consumed_capacity.as_deref(),
        router,
    );
    encode(&answer)
}
