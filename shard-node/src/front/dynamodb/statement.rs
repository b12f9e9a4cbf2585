//! The operations that take PartiQL: statements to the operations that they mean.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::error::Refusal;
use super::json::{Given, GivenItem, Shown, item};
use super::operation::{Answer, CAPACITIES, Constraints, broken, encode, required, shown};
use super::write::check_count;
use crate::error::{Error, Invalid};
use crate::expression::evaluate::resolve;
use crate::expression::{Condition, Path, SortCondition, Stated, Step, key_condition};
use crate::item::Item;
use crate::limits::STATEMENTS_MAX;
use crate::op::transact_write::{self, Action};
use crate::op::{self, ReturnValues, get_item, page, transact_get};
use crate::partiql::{self, Select, Statement, take_key};
use crate::router::Router;
use crate::table::Table;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Execute {
    statement: Option<String>,
    parameters: Option<Vec<Given>>,
    consistent_read: Option<bool>,
    next_token: Option<String>,
    limit: Option<i64>,
    return_consumed_capacity: Option<String>,
    return_values_on_condition_check_failure: Option<String>,
}

impl Execute {
    fn parse(&mut self) -> Result<Statement, Refusal> {
        let text = required(self.statement.take(), "statement")?;
        let parameters = self.parameters.take().unwrap_or_default().into_iter().map(Given::value);
        Ok(partiql::parse(&text, parameters.collect::<Result<_, _>>()?)?)
    }

    fn want_old_on_failure(&self) -> bool {
        self.return_values_on_condition_check_failure.as_deref() == Some("ALL_OLD")
    }
}

/// The table's key in the condition of a write, and what else must hold. An item has to be there.
fn keyed(table: &Table, condition: Condition) -> Result<(Item, Option<Condition>), Refusal> {
    let names: Vec<&str> = table.key_attributes().map(|key| key.name.as_str()).collect();
    let refused = || {
        Invalid::new(format!(
            "Where clause does not contain a mandatory equality on all key attributes: {}",
            names.join(", ")
        ))
    };
    Ok(take_key(condition, &names).ok_or_else(refused)?)
}

/// Together with what must hold anyway.
fn and(first: Condition, more: Option<Condition>) -> Condition {
    match more {
        None => first,
        Some(more) => Condition::And(vec![first, more]),
    }
}

/// A statement that writes, or checks, as an action; none if it reads.
async fn action(
    router: &Router,
    statement: Statement,
    want_old_on_failure: bool,
) -> Result<Option<Action>, Refusal> {
    if matches!(statement, Statement::Select(_)) {
        return Ok(None);
    }
    let table = router.table(statement.table()).await?;
    let own = Path::attribute(table.partition_key.name.clone());
    let name = table.name.clone();
    Ok(Some(match statement {
        Statement::Select(_) => return Ok(None),
        Statement::Insert { item, .. } => Action::Put(op::put_item::Request {
            table: name,
            item,
            condition: Some(Stated::Tree(Condition::NotExists(own))),
            want_old_on_failure,
            ..op::put_item::Request::default()
        }),
        Statement::Update { update, condition, return_values, .. } => {
            let (key, rest) = keyed(&table, condition)?;
            Action::Update(op::update_item::Request {
                table: name,
                key,
                update: Some(Stated::Tree(update)),
                condition: Some(Stated::Tree(and(Condition::Exists(own), rest))),
                return_values,
                want_old_on_failure,
                ..op::update_item::Request::default()
            })
        }
        Statement::Delete { condition, return_values, .. } => {
            let (key, rest) = keyed(&table, condition)?;
            Action::Delete(op::delete_item::Request {
                table: name,
                key,
                condition: rest.map(Stated::Tree),
                return_values,
                want_old_on_failure,
                ..op::delete_item::Request::default()
            })
        }
        Statement::Exists { condition, .. } => {
            let (key, rest) = keyed(&table, condition)?;
            Action::Check(transact_write::Check {
                table: name,
                key,
                condition: Stated::Tree(and(Condition::Exists(own), rest)),
                want_old_on_failure,
                ..transact_write::Check::default()
            })
        }
    }))
}

/// Carries out one that writes; what it answers with.
async fn write(router: &Router, action: Action) -> Result<Option<Item>, Refusal> {
    let written = match action {
        Action::Put(put) => {
            let outcome = router.run(put.prepare()?).await;
            outcome.map_err(|error| match error {
                Error::ConditionFailed { .. } => Refusal::duplicate_item(),
                other => other.into(),
            })?
        }
        Action::Update(update) => router.run(update.prepare()?).await?,
        Action::Delete(delete) => router.run(delete.prepare()?).await?,
        Action::Check(_) => {
            return Err(Invalid::new("EXISTS can only be used in a transaction").into());
        }
    };
    Ok(written.attributes)
}

/// What a SELECT comes to: a query if the partition key is given, else a scan.
async fn read(
    router: &Router,
    select: &Select,
    limit: Option<u32>,
    start_key: Option<Item>,
    consistent: bool,
) -> Result<page::Page, Refusal> {
    let table = router.table(&select.table).await?;
    let index = select.index.as_deref();
    let (partition_key, sort_key) = match index {
        None => (&table.partition_key.name, table.sort_key.as_ref()),
        Some(name) => {
            let no_index = || Invalid::new(format!("The table does not have the specified index: {name}"));
            let index = table.index(name).ok_or_else(no_index)?;
            (&index.partition_key.name, index.sort_key.as_ref())
        }
    };
    let options = |filter: Option<Condition>| page::Options {
        filter: filter.map(Stated::Tree),
        limit,
        start_key,
        consistent,
        filters_keys: true,
        ..page::Options::default()
    };
    let found = select.condition.clone().and_then(|condition| take_key(condition, &[partition_key]));
    let Some((mut key, rest)) = found else {
        let scan = op::scan::Request {
            table: table.name.clone(),
            index: select.index.clone(),
            options: options(select.condition.clone()),
            ..op::scan::Request::default()
        };
        return Ok(router.run(scan.prepare()?).await?);
    };
    let value = key.remove(partition_key).ok_or_else(|| Invalid::new("a key without a value"))?;
    // One condition on the sort key may be part of the key's.
    let mut parts = match rest {
        None => Vec::new(),
        Some(Condition::And(parts)) => parts,
        Some(one) => vec![one],
    };
    let is_of_sort_key = |part: &Condition| {
        let Some(sort_key) = sort_key else { return false };
        let pair = Condition::And(vec![equal(partition_key, value.clone()), part.clone()]);
        let of = key_condition::of(pair, partition_key, Some(&sort_key.name));
        let fits = |condition: &SortCondition| match condition {
            SortCondition::Compare(_, value) => value.kind() == sort_key.kind,
            SortCondition::BeginsWith(value) => {
                value.kind() == sort_key.kind && sort_key.kind != crate::item::Type::N
            }
            SortCondition::Between(low, high) => low.kind() == sort_key.kind && high.kind() == sort_key.kind,
        };
        of.is_ok_and(|of| of.sort.as_ref().is_some_and(fits))
    };
    let sort = parts.iter().position(is_of_sort_key).map(|at| parts.remove(at));
    let key_condition = and(equal(partition_key, value.clone()), sort);
    let filter = match parts.len() {
        0 => None,
        1 => parts.pop(),
        _ => Some(Condition::And(parts)),
    };
    let query = op::query::Request {
        table: table.name.clone(),
        index: select.index.clone(),
        key_condition: Stated::Tree(key_condition),
        descending: select.descending,
        options: options(filter),
        ..op::query::Request::default()
    };
    Ok(router.run(query.prepare()?).await?)
}

fn equal(name: &str, value: crate::item::Value) -> Condition {
    use crate::expression::{Comparator, Operand};
    Condition::Compare(Operand::Path(Path::attribute(name)), Comparator::Equal, Operand::Value(value))
}

/// The parts of an item that a SELECT names, each under the last name of its path.
fn selected(item: Item, paths: &[Path]) -> Item {
    if paths.is_empty() {
        return item;
    }
    let part = |path: &Path| {
        let value = resolve(&item, path)?.clone();
        let last = path.steps.iter().rev().find_map(|step| match step {
            Step::Name(name) => Some(name.clone()),
            Step::Index(_) => None,
        });
        Some((last.unwrap_or_else(|| path.name.clone()), value))
    };
    paths.iter().filter_map(part).collect()
}

pub(super) async fn execute_statement(router: &Router, mut request: Execute) -> Answer {
    let mut constraints = Constraints::default();
    constraints.one_of(request.return_consumed_capacity.as_deref(), "returnConsumedCapacity", &CAPACITIES);
    constraints.at_least_one(request.limit, "limit");
    constraints.check()?;
    let statement = request.parse()?;
    let Statement::Select(select) = statement else {
        let wants_old = request.want_old_on_failure();
        let action = action(router, statement, wants_old).await?;
        let answered = match action {
            Some(action) => write(router, action).await?,
            None => None,
        };
        return encode(&json!({ "Items": shown(&answered.into_iter().collect::<Vec<_>>())? }));
    };
    let start_key = request.next_token.as_deref().map(position).transpose()?;
    // It is at least one.
    let limit = request.limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
    let page = read(router, &select, limit, start_key, request.consistent_read == Some(true)).await?;
    let items: Vec<Item> = page.items.into_iter().map(|item| selected(item, &select.paths)).collect();
    let mut answer = json!({ "Items": shown(&items)? });
    if let Some(last) = &page.last_key {
        answer["LastEvaluatedKey"] = shown(last)?;
        answer["NextToken"] = BASE64.encode(shown(last)?.to_string()).into();
    }
    encode(&answer)
}

/// Where a page before ended, from a token that was answered with it.
fn position(token: &str) -> Result<Item, Refusal> {
    let refused = || Invalid::new("Invalid NextToken: it was not answered by this operation");
    let decoded = BASE64.decode(token).map_err(|_bad| refused())?;
    let given: GivenItem = serde_json::from_slice(&decoded).map_err(|_bad| refused())?;
    item(given)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Batch {
    statements: Option<Vec<Execute>>,
}

pub(super) async fn batch_execute_statement(router: &Router, request: Batch) -> Answer {
    let statements = required(request.statements, "statements")?;
    if statements.is_empty() {
        return Err(broken("'[]'", "statements", "Member must have length greater than or equal to 1"));
    }
    if statements.len() > STATEMENTS_MAX {
        let constraint = "Member must have length less than or equal to 25";
        return Err(broken(&format!("'[{} statements]'", statements.len()), "statements", constraint));
    }
    let mut responses = Vec::with_capacity(statements.len());
    for statement in statements {
        responses.push(match one(router, statement).await {
            Ok((table, found)) => {
                let mut response = json!({ "TableName": table });
                if let Some(item) = &found {
                    response["Item"] = shown(item)?;
                }
                response
            }
            Err(refusal) => json!({ "Error": refusal.within_a_batch() }),
        });
    }
    encode(&json!({ "Responses": responses }))
}

/// One statement of a batch, about one item.
async fn one(router: &Router, mut request: Execute) -> Result<(String, Option<Item>), Refusal> {
    let statement = request.parse()?;
    let table = statement.table().to_owned();
    let Statement::Select(select) = statement else {
        let wants_old = request.want_old_on_failure();
        return match action(router, statement, wants_old).await? {
            Some(action) => Ok((table, write(router, action).await?)),
            None => Ok((table, None)),
        };
    };
    let found = router.run(get(router, &select).await?.prepare()?).await?;
    Ok((table, found.item.map(|item| selected(item, &select.paths))))
}

/// A SELECT of one item by its whole key.
async fn get(router: &Router, select: &Select) -> Result<get_item::Request, Refusal> {
    let table = router.table(&select.table).await?;
    let condition = select.condition.clone();
    let refused =
        || Invalid::new("Select statements within a batch must have the whole key, and nothing else");
    match keyed(&table, condition.ok_or_else(refused)?)? {
        (key, None) if select.index.is_none() => {
            Ok(get_item::Request { table: table.name, key, ..get_item::Request::default() })
        }
        _ => Err(refused().into()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Transaction {
    transact_statements: Option<Vec<Execute>>,
    client_request_token: Option<String>,
}

pub(super) async fn execute_transaction(router: &Router, request: Transaction) -> Answer {
    let mut statements = required(request.transact_statements, "transactStatements")?;
    if statements.is_empty() {
        let constraint = "Member must have length greater than or equal to 1";
        return Err(broken("'[]'", "transactStatements", constraint));
    }
    check_count(statements.len())?;
    let parsed = statements.iter_mut().map(Execute::parse).collect::<Result<Vec<_>, _>>()?;
    let reads = parsed.iter().filter(|statement| matches!(statement, Statement::Select(_))).count();
    if reads == parsed.len() {
        let mut gets = Vec::with_capacity(reads);
        let mut paths = Vec::with_capacity(reads);
        for statement in parsed {
            let Statement::Select(select) = statement else { continue };
            gets.push(get(router, &select).await?);
            paths.push(select.paths);
        }
        let found = transact_get::run(router, gets, None).await?;
        let responses = found.into_iter().zip(paths).map(|(found, paths)| {
            let item = found.item.map(|item| selected(item, &paths));
            item.map_or(Ok(json!({})), |item| Ok(json!({ "Item": shown(&item)? })))
        });
        return encode(&json!({ "Responses": responses.collect::<Result<Vec<Json>, Refusal>>()? }));
    }
    if reads > 0 {
        return Err(Invalid::new("A transaction either reads or writes; it cannot do both").into());
    }
    let inserts: Vec<bool> =
        parsed.iter().map(|statement| matches!(statement, Statement::Insert { .. })).collect();
    let mut actions = Vec::with_capacity(parsed.len());
    for (statement, request) in parsed.into_iter().zip(&statements) {
        if !matches!(
            statement,
            Statement::Update { return_values: ReturnValues::None, .. }
                | Statement::Delete { return_values: ReturnValues::None, .. }
                | Statement::Insert { .. }
                | Statement::Exists { .. }
        ) {
            return Err(Invalid::new("RETURNING is not supported in a transaction").into());
        }
        actions.extend(action(router, statement, request.want_old_on_failure()).await?);
    }
    let count = actions.len();
    let done = transact_write::run(router, actions, request.client_request_token.as_deref()).await;
    done.map_err(|error| match error {
        Error::Cancelled(mut reasons) => {
            for (reason, insert) in reasons.iter_mut().zip(inserts) {
                if insert && reason.code == Some("ConditionalCheckFailed") {
                    reason.code = Some("DuplicateItem");
                    "Duplicate primary key exists in table".clone_into(&mut reason.message);
                }
            }
            Error::Cancelled(reasons)
        }
        other => other,
    })?;
    encode(&json!({ "Responses": vec![json!({}); count] }))
}

impl Refusal {
    /// As it is told of one statement of a batch.
    fn within_a_batch(&self) -> Json {
        let (kind, message, item) = self.told();
        let code = match kind {
            "ValidationException" => "ValidationError",
            "ThrottlingException" => "ThrottlingError",
            "InternalServerError" => kind,
            other => other.strip_suffix("Exception").unwrap_or(other),
        };
        let mut told = json!({ "Code": code, "Message": message });
        if let Some(item) = item {
            told["Item"] = serde_json::to_value(Shown(item)).unwrap_or_default();
        }
        told
    }
}
