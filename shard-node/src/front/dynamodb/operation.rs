//! Which operation it is, and what requests and answers have in common. The operations themselves are in [`write`](super::write),
//! [`read`](super::read), [`statement`](super::statement), [`table`](super::table) and [`settings`](super::settings).

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::error::Refusal;
use super::json::{Given, Shown};
use super::{read, settings, statement, table, write};
use crate::capacity::Consumed;
use crate::error::Invalid;
use crate::expression::parse::Placeholders;
use crate::op::create_table::{NAME_CHARACTERS, is_name_character};
use crate::router::Router;
use crate::table::Table;

pub(super) type Answer = Result<Vec<u8>, Refusal>;

/// Carries out the operation of a name.
pub(super) async fn run(router: &Router, operation: &str, body: &[u8]) -> Answer {
    match operation {
        "PutItem" => write::put_item(router, parse(body)?).await,
        "UpdateItem" => write::update_item(router, parse(body)?).await,
        "DeleteItem" => write::delete_item(router, parse(body)?).await,
        "BatchWriteItem" => write::batch_write_item(router, parse(body)?).await,
        "TransactWriteItems" => write::transact_write_items(router, parse(body)?).await,
        "GetItem" => read::get_item(router, parse(body)?).await,
        "Query" => read::query(router, parse(body)?).await,
        "Scan" => read::scan(router, parse(body)?).await,
        "BatchGetItem" => read::batch_get_item(router, parse(body)?).await,
        "TransactGetItems" => read::transact_get_items(router, parse(body)?).await,
        "CreateTable" => table::create_table(router, parse(body)?).await,
        "UpdateTable" => table::update_table(router, parse(body)?).await,
        "DescribeTable" => table::describe_table(router, parse(body)?).await,
        "ListTables" => table::list_tables(router, parse(body)?).await,
        "DeleteTable" => table::delete_table(router, parse(body)?).await,
        "UpdateTimeToLive" => settings::update_time_to_live(router, parse(body)?).await,
        "DescribeTimeToLive" => settings::describe_time_to_live(router, parse(body)?).await,
        "TagResource" => settings::tag_resource(router, parse(body)?).await,
        "UntagResource" => settings::untag_resource(router, parse(body)?).await,
        "ListTagsOfResource" => settings::list_tags_of_resource(router, parse(body)?).await,
        "ExecuteStatement" => statement::execute_statement(router, parse(body)?).await,
        "BatchExecuteStatement" => statement::batch_execute_statement(router, parse(body)?).await,
        "ExecuteTransaction" => statement::execute_transaction(router, parse(body)?).await,
        "DescribeLimits" => settings::describe_limits(),
        _ => Err(Refusal::unknown_operation()),
    }
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::serialization(error.to_string()))
}

pub(super) fn encode(answer: &Json) -> Answer {
    serde_json::to_vec(answer).map_err(|error| Refusal::serialization(error.to_string()))
}

/// Something of ours within an answer.
pub(super) fn shown<'a, T>(value: &'a T) -> Result<Json, Refusal>
where
    Shown<'a, T>: serde::Serialize,
{
    serde_json::to_value(Shown(value)).map_err(|error| Refusal::serialization(error.to_string()))
}

/// What a request breaks of the constraints of its shape, all of it told at once.
#[derive(Debug, Default)]
pub(super) struct Constraints(Vec<String>);

impl Constraints {
    /// A value that is not one of some words.
    pub(super) fn one_of(&mut self, value: Option<&str>, field: &str, words: &[&str]) {
        if let Some(value) = value.filter(|value| !words.contains(value)) {
            let words = words.join(", ");
            self.broken(
                &format!("'{value}'"),
                field,
                &format!("Member must satisfy enum value set: [{words}]"),
            );
        }
    }

    /// A number that is to be greater than nothing.
    pub(super) fn at_least_one(&mut self, value: Option<i64>, field: &str) {
        if let Some(value) = value.filter(|value| *value < 1) {
            self.broken(&format!("'{value}'"), field, "Member must have value greater than or equal to 1");
        }
    }

    /// A constraint that a value does not satisfy.
    pub(super) fn broken(&mut self, value: &str, field: &str, constraint: &str) {
        self.0.push(format!("Value {value} at '{field}' failed to satisfy constraint: {constraint}"));
    }

    /// Refuses the request if there is something.
    pub(super) fn check(self) -> Result<(), Refusal> {
        let count = self.0.len();
        if count == 0 {
            return Ok(());
        }
        let errors = if count == 1 { "error" } else { "errors" };
        Err(Invalid::new(format!("{count} validation {errors} detected: {}", self.0.join("; "))).into())
    }
}

/// Refuses a request for one thing that it breaks.
pub(super) fn broken(value: &str, field: &str, constraint: &str) -> Refusal {
    Invalid::new(format!(
        "1 validation error detected: Value {value} at '{field}' failed to satisfy constraint: {constraint}"
    ))
    .into()
}

pub(super) fn required<T>(value: Option<T>, name: &str) -> Result<T, Refusal> {
    value.ok_or_else(|| broken("null", name, "Member must not be null"))
}

/// The name of a table that is to be there, or its ARN.
pub(super) fn table_name(name: Option<String>) -> Result<String, Refusal> {
    let name = required(name, "tableName")?;
    if let Some(named) = name.strip_prefix("arn:").and_then(|arn| arn.split_once(":table/")) {
        return Ok(named.1.to_owned());
    }
    let refused = if name.is_empty() {
        "Member must have length greater than or equal to 1"
    } else if name.len() > *NAME_CHARACTERS.end() {
        "Member must have length less than or equal to 255"
    } else if !name.bytes().all(is_name_character) {
        "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+"
    } else {
        return Ok(name);
    };
    Err(broken(&format!("'{name}'"), "tableName", refused))
}

pub(super) type Names = Option<BTreeMap<String, String>>;
pub(super) type Values = Option<BTreeMap<String, Given>>;

/// What expressions name. `expressions` are the parameters that may use it, and whether they are given.
pub(super) fn placeholders(
    names: Names,
    values: Values,
    expressions: &[(&str, bool)],
) -> Result<Placeholders, Refusal> {
    let any = expressions.iter().any(|(_, given)| *given);
    for (given, name) in [(names.is_some(), "Names"), (values.is_some(), "Values")] {
        if given && !any {
            let missing = match expressions {
                [(one, _)] => format!(": {one} is null"),
                _ => String::new(),
            };
            return Err(Invalid::new(format!(
                "ExpressionAttribute{name} can only be specified when using expressions{missing}"
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
    let names = names.unwrap_or_default();
    let values = values.unwrap_or_default();
    for (given, what, sign) in [
        (names.keys().find(|name| !is_placeholder(name, '#')), "Names", '#'),
        (values.keys().find(|name| !is_placeholder(name, ':')), "Values", ':'),
    ] {
        if let Some(bad) = given {
            return Err(Invalid::new(format!(
                "ExpressionAttribute{what} contains invalid key: Syntax error; key: \"{bad}\"; it must begin with {sign}"
            ))
            .into());
        }
    }
    let values = values.into_iter().map(|(name, given)| {
        let value = given.value().map_err(|refusal| refusal.about_value(&name))?;
        Ok((name, value))
    });
    Ok(Placeholders::new(names, values.collect::<Result<_, Refusal>>()?))
}

fn is_placeholder(name: &str, sign: char) -> bool {
    let rest = name.strip_prefix(sign);
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

pub(super) const CAPACITIES: [&str; 3] = ["INDEXES", "TOTAL", "NONE"];

/// What was consumed as it is answered, if it was asked for. `kind` is said of a transaction.
pub(super) fn show_consumed(
    consumed: &Consumed,
    kind: Option<&'static str>,
    asked: Option<&str>,
    name: &str,
    table: Option<&Table>,
) -> Option<Json> {
    let asked = asked.filter(|asked| *asked != "NONE")?;
    let total = consumed.table + consumed.indexes.values().sum::<f64>();
    let units = |units: f64| {
        let mut one = json!({ "CapacityUnits": units });
        if let Some(kind) = kind {
            one[kind] = units.into();
        }
        one
    };
    let mut shown = units(total);
    shown["TableName"] = name.into();
    if asked == "INDEXES" {
        shown["Table"] = units(consumed.table);
        for (local, field) in [(true, "LocalSecondaryIndexes"), (false, "GlobalSecondaryIndexes")] {
            let indexes = table.into_iter().flat_map(|table| &table.indexes);
            for index in indexes.filter(|index| index.local == local) {
                if let Some(used) = consumed.indexes.get(&index.number) {
                    shown[field][&index.name] = units(*used);
                }
            }
        }
    }
    Some(shown)
}
