//! The operations that write items: JSON to a request of ours, the answer to JSON.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::error::Refusal;
use super::json::{GivenItem, item};
use super::legacy::{self, AttributeUpdate, Expectations};
use super::operation::{
    Answer, CAPACITIES, Constraints, Names, Values, broken, encode, placeholders, required, show_consumed,
    shown, table_name,
};
use crate::capacity::Consumed;
use crate::error::Invalid;
use crate::expression::{Condition, Stated, Update};
use crate::item::Item;
use crate::limits::{ACTIONS_MAX, BATCH_WRITE_REQUESTS_MAX};
use crate::op::transact_write::{self, Action};
use crate::op::{self, ReturnValues, Written, batch_write, describe_table};
use crate::router::Router;
use crate::table::Table;

const RETURN_VALUES: [&str; 5] = ["ALL_NEW", "UPDATED_OLD", "ALL_OLD", "NONE", "UPDATED_NEW"];
const METRICS: [&str; 2] = ["SIZE", "NONE"];
const ON_FAILURE: [&str; 2] = ["ALL_OLD", "NONE"];

fn return_values(text: Option<&str>) -> ReturnValues {
    match text {
        Some("ALL_OLD") => ReturnValues::AllOld,
        Some("UPDATED_OLD") => ReturnValues::UpdatedOld,
        Some("ALL_NEW") => ReturnValues::AllNew,
        Some("UPDATED_NEW") => ReturnValues::UpdatedNew,
        _ => ReturnValues::None,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Write {
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
    return_item_collection_metrics: Option<String>,
    expected: Option<Expectations>,
    attribute_updates: Option<BTreeMap<String, AttributeUpdate>>,
    conditional_operator: Option<String>,
}

/// What the three writes have in common, taken out of the request.
struct Common {
    table: String,
    update: Option<Stated<Update>>,
    condition: Option<Stated<Condition>>,
    placeholders: crate::expression::parse::Placeholders,
    return_values: ReturnValues,
    want_old_on_failure: bool,
}

impl Write {
    fn common(&mut self, is_update: bool) -> Result<Common, Refusal> {
        let table = table_name(self.table_name.take())?;
        let mut constraints = Constraints::default();
        constraints.one_of(self.return_consumed_capacity.as_deref(), "returnConsumedCapacity", &CAPACITIES);
        constraints.one_of(
            self.return_item_collection_metrics.as_deref(),
            "returnItemCollectionMetrics",
            &METRICS,
        );
        constraints.one_of(self.return_values.as_deref(), "returnValues", &RETURN_VALUES);
        constraints.one_of(
            self.return_values_on_condition_check_failure.as_deref(),
            "returnValuesOnConditionCheckFailure",
            &ON_FAILURE,
        );
        constraints.check()?;
        let condition = ("ConditionExpression", self.condition_expression.is_some());
        let update = ("UpdateExpression", self.update_expression.is_some());
        let expressions: &[_] = if is_update { &[update, condition] } else { &[condition] };
        legacy::refuse_both(
            &[
                ("AttributeUpdates", self.attribute_updates.is_some()),
                ("Expected", self.expected.is_some()),
                ("ConditionalOperator", self.conditional_operator.is_some()),
            ],
            expressions,
        )?;
        let expected = self.expected.take().unwrap_or_default();
        if self.conditional_operator.is_some() && expected.len() < 2 {
            return Err(Invalid::new(if expected.is_empty() {
                "ConditionalOperator cannot be used without Filter or Expected"
            } else {
                "ConditionalOperator can only be used with Filter or Expected for more than one element"
            })
            .into());
        }
        let old = legacy::condition(expected, self.conditional_operator.as_deref())?;
        let condition = self.condition_expression.take().map(Stated::Text);
        let update = match self.attribute_updates.take() {
            Some(updates) => Some(Stated::Tree(legacy::update(updates)?)),
            None => self.update_expression.take().map(Stated::Text),
        };
        let (names, values) =
            (self.expression_attribute_names.take(), self.expression_attribute_values.take());
        Ok(Common {
            table,
            update,
            condition: condition.or_else(|| old.map(Stated::Tree)),
            placeholders: placeholders(names, values, expressions)?,
            return_values: return_values(self.return_values.as_deref()),
            want_old_on_failure: self.return_values_on_condition_check_failure.as_deref() == Some("ALL_OLD"),
        })
    }

    /// What metrics will be about; nothing is copied for those who do not ask.
    fn key_for_metrics(&self, item: &Item) -> Item {
        match self.return_item_collection_metrics.as_deref() {
            Some("SIZE") => item.clone(),
            _ => Item::new(),
        }
    }

    async fn answer(&self, router: &Router, name: &str, key: &Item, written: &Written) -> Answer {
        let mut answer = json!({});
        if let Some(attributes) = &written.attributes {
            answer["Attributes"] = shown(attributes)?;
        }
        let tables = router.tables();
        let table = tables.get(name);
        let asked = self.return_consumed_capacity.as_deref();
        if let Some(consumed) = show_consumed(&Consumed::write(written), None, asked, name, table) {
            answer["ConsumedCapacity"] = consumed;
        }
        if self.return_item_collection_metrics.as_deref() == Some("SIZE")
            && let Some(metrics) = collection(router, table, key, &mut BTreeMap::new()).await?
        {
            answer["ItemCollectionMetrics"] = metrics;
        }
        encode(&answer)
    }
}

/// Of a table with local indexes: how large all items of one partition key may be together. The bounds are wide, and true.
/// `counted` has the bytes of tables that were counted for the same answer.
async fn collection(
    router: &Router,
    table: Option<&Table>,
    key: &Item,
    counted: &mut BTreeMap<u64, u64>,
) -> Result<Option<Json>, Refusal> {
    let Some(table) = table.filter(|table| table.indexes.iter().any(|index| index.local)) else {
        return Ok(None);
    };
    let name = &table.partition_key.name;
    let Some(value) = key.get(name) else { return Ok(None) };
    let bytes = match counted.get(&table.id) {
        Some(bytes) => *bytes,
        None => describe_table::count(router, table.id).await?.bytes,
    };
    counted.insert(table.id, bytes);
    // Gibibytes begun, of the whole table.
    let most = (bytes >> 30) + 1;
    let key = Item::from([(name.clone(), value.clone())]);
    Ok(Some(json!({ "ItemCollectionKey": shown(&key)?, "SizeEstimateRangeGB": [0.0, most as f64] })))
}

fn put(request: &mut Write, field: &str) -> Result<op::put_item::Request, Refusal> {
    let common = request.common(false)?;
    Ok(op::put_item::Request {
        table: common.table,
        item: item(required(request.item.take(), field)?)?,
        condition: common.condition,
        placeholders: common.placeholders,
        return_values: common.return_values,
        want_old_on_failure: common.want_old_on_failure,
        request_id: None,
    })
}

fn update(request: &mut Write, field: &str) -> Result<op::update_item::Request, Refusal> {
    let common = request.common(true)?;
    Ok(op::update_item::Request {
        table: common.table,
        key: item(required(request.key.take(), field)?)?,
        update: common.update,
        condition: common.condition,
        placeholders: common.placeholders,
        return_values: common.return_values,
        want_old_on_failure: common.want_old_on_failure,
        request_id: None,
    })
}

fn delete(request: &mut Write, field: &str) -> Result<op::delete_item::Request, Refusal> {
    let common = request.common(false)?;
    Ok(op::delete_item::Request {
        table: common.table,
        key: item(required(request.key.take(), field)?)?,
        condition: common.condition,
        placeholders: common.placeholders,
        return_values: common.return_values,
        want_old_on_failure: common.want_old_on_failure,
        request_id: None,
    })
}

pub(super) async fn put_item(router: &Router, mut request: Write) -> Answer {
    let put = put(&mut request, "item")?;
    let (table, key) = (put.table.clone(), request.key_for_metrics(&put.item));
    let outcome = router.run(put.prepare()?).await?;
    request.answer(router, &table, &key, &outcome).await
}

pub(super) async fn update_item(router: &Router, mut request: Write) -> Answer {
    let update = update(&mut request, "key")?;
    let (table, key) = (update.table.clone(), request.key_for_metrics(&update.key));
    let outcome = router.run(update.prepare()?).await?;
    request.answer(router, &table, &key, &outcome).await
}

pub(super) async fn delete_item(router: &Router, mut request: Write) -> Answer {
    let delete = delete(&mut request, "key")?;
    let (table, key) = (delete.table.clone(), request.key_for_metrics(&delete.key));
    let outcome = router.run(delete.prepare()?).await?;
    request.answer(router, &table, &key, &outcome).await
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchWrite {
    request_items: Option<BTreeMap<String, Vec<BatchWriteOne>>>,
    return_consumed_capacity: Option<String>,
    return_item_collection_metrics: Option<String>,
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

pub(super) async fn batch_write_item(router: &Router, request: BatchWrite) -> Answer {
    let mut constraints = Constraints::default();
    constraints.one_of(request.return_consumed_capacity.as_deref(), "returnConsumedCapacity", &CAPACITIES);
    constraints.one_of(
        request.return_item_collection_metrics.as_deref(),
        "returnItemCollectionMetrics",
        &METRICS,
    );
    constraints.check()?;
    let tables = request.request_items.unwrap_or_default();
    if tables.is_empty() {
        return Err(Invalid::new("The requestItems parameter is required for BatchWriteItem").into());
    }
    for (table, requests) in &tables {
        if requests.len() > BATCH_WRITE_REQUESTS_MAX || requests.is_empty() {
            let shown = format!("'{{{table}=[{} requests]}}'", requests.len());
            return Err(broken(
                &shown,
                "requestItems",
                "Map value must satisfy constraint: [Member must have length less than or equal to 25, Member must have \
                 length greater than or equal to 1]",
            ));
        }
    }
    let mut writes = Vec::new();
    for (table, requests) in tables {
        let table = table_name(Some(table))?;
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
    let done = batch_write::run(router, &writes, None).await?;
    let mut used: BTreeMap<String, Consumed> = BTreeMap::new();
    let mut metrics: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    let mut counted = BTreeMap::new();
    let tables = router.tables();
    let mut unprocessed: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    for ((name, write), written) in writes.into_iter().zip(&done) {
        let Some(written) = written else {
            unprocessed.entry(name).or_default().push(match &write {
                batch_write::Write::Put(item) => json!({ "PutRequest": { "Item": shown(item)? } }),
                batch_write::Write::Delete(key) => json!({ "DeleteRequest": { "Key": shown(key)? } }),
            });
            continue;
        };
        let (batch_write::Write::Put(key) | batch_write::Write::Delete(key)) = write;
        if request.return_item_collection_metrics.as_deref() == Some("SIZE")
            && let Some(one) = collection(router, tables.get(&name), &key, &mut counted).await?
        {
            let known = metrics.entry(name.clone()).or_default();
            if !known.contains(&one) {
                known.push(one);
            }
        }
        used.entry(name).or_default().add(Consumed::write(written));
    }
    let mut answer = json!({ "UnprocessedItems": unprocessed });
    all_consumed(&mut answer, &used, None, request.return_consumed_capacity.as_deref(), router);
    if !metrics.is_empty() {
        answer["ItemCollectionMetrics"] = json!(metrics);
    }
    encode(&answer)
}

/// Adds what was consumed of several tables.
pub(super) fn all_consumed(
    answer: &mut Json,
    used: &BTreeMap<String, Consumed>,
    kind: Option<&'static str>,
    asked: Option<&str>,
    router: &Router,
) {
    let tables = router.tables();
    let shown =
        used.iter().filter_map(|(name, used)| show_consumed(used, kind, asked, name, tables.get(name)));
    let shown: Vec<Json> = shown.collect();
    if !shown.is_empty() {
        answer["ConsumedCapacity"] = shown.into();
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TransactWrite {
    transact_items: Option<Vec<TransactOne>>,
    client_request_token: Option<String>,
    return_consumed_capacity: Option<String>,
    return_item_collection_metrics: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TransactOne {
    put: Option<Write>,
    update: Option<Write>,
    delete: Option<Write>,
    condition_check: Option<Write>,
}

impl TransactOne {
    fn action(self) -> Result<(Action, String), Refusal> {
        let given = [&self.put, &self.update, &self.delete, &self.condition_check];
        if given.into_iter().flatten().count() != 1 {
            return Err(
                Invalid::new("TransactItems can only contain one of Check, Put, Update or Delete").into()
            );
        }
        if let Some(mut request) = self.put {
            let put = put(&mut request, "transactItems.1.member.put.item")?;
            let name = put.table.clone();
            return Ok((Action::Put(put), name));
        }
        if let Some(mut request) = self.update {
            let update = update(&mut request, "transactItems.1.member.update.key")?;
            required(update.update.as_ref(), "transactItems.1.member.update.updateExpression")?;
            let name = update.table.clone();
            return Ok((Action::Update(update), name));
        }
        if let Some(mut request) = self.delete {
            let delete = delete(&mut request, "transactItems.1.member.delete.key")?;
            let name = delete.table.clone();
            return Ok((Action::Delete(delete), name));
        }
        let mut check = required(self.condition_check, "transactItems.1.member.conditionCheck")?;
        let common = check.common(false)?;
        let name = common.table.clone();
        let condition =
            required(common.condition, "transactItems.1.member.conditionCheck.conditionExpression")?;
        let check = transact_write::Check {
            table: common.table,
            key: item(required(check.key, "transactItems.1.member.conditionCheck.key")?)?,
            condition,
            placeholders: common.placeholders,
            want_old_on_failure: common.want_old_on_failure,
        };
        Ok((Action::Check(check), name))
    }
}

/// Refuses a transaction with no actions, or too many.
pub(super) fn check_count(count: usize) -> Result<(), Refusal> {
    let refused = |value: &str, constraint| Err(broken(value, "transactItems", constraint));
    match count {
        0 => refused("'[]'", "Member must have length greater than or equal to 1"),
        1..=ACTIONS_MAX => Ok(()),
        _ => refused(&format!("'[{count} items]'"), "Member must have length less than or equal to 100"),
    }
}

pub(super) async fn transact_write_items(router: &Router, request: TransactWrite) -> Answer {
    let mut constraints = Constraints::default();
    constraints.one_of(request.return_consumed_capacity.as_deref(), "returnConsumedCapacity", &CAPACITIES);
    constraints.one_of(
        request.return_item_collection_metrics.as_deref(),
        "returnItemCollectionMetrics",
        &METRICS,
    );
    constraints.check()?;
    let items = required(request.transact_items, "transactItems")?;
    check_count(items.len())?;
    let actions = items.into_iter().map(TransactOne::action).collect::<Result<Vec<_>, _>>()?;
    let keys: Vec<(String, Item)> = actions
        .iter()
        .map(|(action, name)| {
            let key = match action {
                Action::Put(put) => &put.item,
                Action::Update(update) => &update.key,
                Action::Delete(delete) => &delete.key,
                Action::Check(check) => &check.key,
            };
            (name.clone(), key.clone())
        })
        .collect();
    let actions = actions.into_iter().map(|(action, _)| action).collect();
    let token = request.client_request_token.as_deref();
    let done = transact_write::run(router, actions, token).await?;
    let kind = if done.repeated { "ReadCapacityUnits" } else { "WriteCapacityUnits" };
    let mut answer = json!({});
    all_consumed(
        &mut answer,
        &done.consumed,
        Some(kind),
        request.return_consumed_capacity.as_deref(),
        router,
    );
    if request.return_item_collection_metrics.as_deref() == Some("SIZE") {
        let tables = router.tables();
        let mut metrics: BTreeMap<String, Vec<Json>> = BTreeMap::new();
        let mut counted = BTreeMap::new();
        for (name, key) in keys {
            if let Some(one) = collection(router, tables.get(&name), &key, &mut counted).await? {
                metrics.entry(name).or_default().push(one);
            }
        }
        if !metrics.is_empty() {
            answer["ItemCollectionMetrics"] = json!(metrics);
        }
    }
    encode(&answer)
}
