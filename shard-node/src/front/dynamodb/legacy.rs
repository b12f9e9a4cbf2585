//! Parameters from before expressions, as the expressions that they mean.
//!
//! Source: DynamoDB developer guide, "Legacy conditional parameters".

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::Refusal;
use super::json::Given;
use crate::error::Invalid;
use crate::expression::{Comparator, Condition, Operand, Path, Update};
use crate::item::Value;

/// What is said of one attribute: what is expected of it, or what it is filtered by.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Expectation {
    value: Option<Given>,
    exists: Option<bool>,
    comparison_operator: Option<String>,
    attribute_value_list: Option<Vec<Given>>,
}

/// By the attribute.
pub(super) type Expectations = BTreeMap<String, Expectation>;

/// How one attribute is changed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AttributeUpdate {
    value: Option<Given>,
    action: Option<String>,
}

/// Refuses old parameters beside new ones. Both lists have the names of parameters, and whether they are given.
pub(super) fn refuse_both(old: &[(&str, bool)], new: &[(&str, bool)]) -> Result<(), Refusal> {
    let given = |all: &[(&str, bool)]| -> Vec<String> {
        all.iter().filter(|(_, given)| *given).map(|(name, _)| (*name).to_owned()).collect()
    };
    let (old, new) = (given(old), given(new));
    if old.is_empty() || new.is_empty() {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "Can not use both expression and non-expression parameters in the same request: Non-expression parameters: {{{}}} \
         Expression parameters: {{{}}}",
        old.join(", "),
        new.join(", ")
    ))
    .into())
}

fn invalid(what: impl std::fmt::Display) -> Refusal {
    Invalid::new(format!("One or more parameter values were invalid: {what}")).into()
}

fn values(given: Option<Vec<Given>>) -> Result<Vec<Value>, Refusal> {
    given.unwrap_or_default().into_iter().map(Given::value).collect()
}

/// What must hold, all of it or one of it.
pub(super) fn condition(
    expectations: Expectations,
    conditional_operator: Option<&str>,
) -> Result<Option<Condition>, Refusal> {
    let any = match conditional_operator {
        None | Some("AND") => false,
        Some("OR") => true,
        Some(other) => {
            return Err(Invalid::new(format!(
                "1 validation error detected: Value '{other}' at 'conditionalOperator' failed to satisfy constraint: Member \
                 must satisfy enum value set: [OR, AND]"
            ))
            .into());
        }
    };
    let parts = expectations.into_iter().map(|(name, expectation)| one(&name, expectation));
    let mut parts = parts.collect::<Result<Vec<_>, _>>()?;
    Ok(match parts.len() {
        0 => None,
        1 => parts.pop(),
        _ if any => Some(Condition::Or(parts)),
        _ => Some(Condition::And(parts)),
    })
}

fn one(name: &str, expectation: Expectation) -> Result<Condition, Refusal> {
    let Expectation { value, exists, comparison_operator, attribute_value_list } = expectation;
    let path = || Path::attribute(name);
    let value = value.map(Given::value).transpose()?;
    let Some(operator) = comparison_operator else {
        return match (exists, value) {
            (None | Some(true), Some(value)) => {
                Ok(Condition::Compare(Operand::Path(path()), Comparator::Equal, Operand::Value(value)))
            }
            (Some(false), None) => Ok(Condition::NotExists(path())),
            (Some(false), Some(_)) => {
                Err(invalid(format!("Value cannot be used when Exists is false for Attribute: {name}")))
            }
            (exists, None) => Err(invalid(format!(
                "Value must be provided when Exists is {} for Attribute: {name}",
                exists.map_or_else(|| "null".to_owned(), |exists| exists.to_string())
            ))),
        };
    };
    if exists.is_some() {
        return Err(invalid(format!(
            "Exists and ComparisonOperator cannot be used together for Attribute: {name}"
        )));
    }
    let mut operands = values(attribute_value_list)?;
    if let Some(value) = value {
        if !operands.is_empty() {
            return Err(invalid(format!(
                "Value and AttributeValueList cannot be used together for Attribute: {name}"
            )));
        }
        operands.push(value);
    }
    let count = operands.len();
    let wrong_count =
        || invalid(format!("Invalid number of argument(s) for the {operator} ComparisonOperator"));
    let mut operands = operands.into_iter();
    let mut single = || match (count, operands.next()) {
        (1, Some(value)) => Ok(value),
        _ => Err(wrong_count()),
    };
    let compare = |comparator, value| {
        let ordered = !matches!(comparator, Comparator::Equal | Comparator::NotEqual);
        if ordered && !matches!(value, Value::S(_) | Value::N(_) | Value::B(_)) {
            return Err(invalid(format!(
                "ComparisonOperator {operator} is not valid for {} AttributeValue type",
                value.kind().name()
            )));
        }
        Ok(Condition::Compare(Operand::Path(path()), comparator, Operand::Value(value)))
    };
    match operator.as_str() {
        "EQ" => compare(Comparator::Equal, single()?),
        "NE" => compare(Comparator::NotEqual, single()?),
        "LE" => compare(Comparator::LessOrEqual, single()?),
        "LT" => compare(Comparator::Less, single()?),
        "GE" => compare(Comparator::GreaterOrEqual, single()?),
        "GT" => compare(Comparator::Greater, single()?),
        "CONTAINS" => Ok(Condition::Contains(Operand::Path(path()), Operand::Value(single()?))),
        "NOT_CONTAINS" => {
            let contains = Condition::Contains(Operand::Path(path()), Operand::Value(single()?));
            Ok(Condition::And(vec![Condition::Exists(path()), Condition::Not(Box::new(contains))]))
        }
        "BEGINS_WITH" => match single()? {
            value @ (Value::S(_) | Value::B(_)) => {
                Ok(Condition::BeginsWith(Operand::Path(path()), Operand::Value(value)))
            }
            other => Err(invalid(format!(
                "ComparisonOperator BEGINS_WITH is not valid for {} AttributeValue type",
                other.kind().name()
            ))),
        },
        "NOT_NULL" if count == 0 => Ok(Condition::Exists(path())),
        "NULL" if count == 0 => Ok(Condition::NotExists(path())),
        "IN" if count > 0 => {
            Ok(Condition::In(Operand::Path(path()), operands.map(Operand::Value).collect()))
        }
        "BETWEEN" => match (operands.next(), operands.next(), operands.next()) {
            (Some(low), Some(high), None) => {
                Ok(Condition::Between(Operand::Path(path()), Operand::Value(low), Operand::Value(high)))
            }
            _ => Err(wrong_count()),
        },
        "NOT_NULL" | "NULL" | "IN" => Err(wrong_count()),
        other => Err(Invalid::new(format!(
            "1 validation error detected: Value '{other}' at 'comparisonOperator' failed to satisfy constraint: Member must \
             satisfy enum value set: [IN, NULL, BETWEEN, LT, NOT_CONTAINS, EQ, GT, NOT_NULL, NE, LE, BEGINS_WITH, GE, \
             CONTAINS]"
        ))
        .into()),
    }
}

/// What is to be changed.
pub(super) fn update(updates: BTreeMap<String, AttributeUpdate>) -> Result<Update, Refusal> {
    let mut update = Update::default();
    for (name, AttributeUpdate { value, action }) in updates {
        let path = Path::attribute(&name);
        let value = value.map(Given::value).transpose()?;
        match (action.as_deref().unwrap_or("PUT"), value) {
            ("PUT", Some(value)) => {
                let assigned = crate::expression::Assigned::One(crate::expression::Source::Value(value));
                update.set.push((path, assigned));
            }
            ("ADD", Some(value @ (Value::N(_) | Value::Ss(_) | Value::Ns(_) | Value::Bs(_)))) => {
                update.add.push((path, value));
            }
            ("DELETE", None) => update.remove.push(path),
            ("DELETE", Some(value @ (Value::Ss(_) | Value::Ns(_) | Value::Bs(_)))) => {
                update.delete.push((path, value));
            }
            (action @ ("ADD" | "DELETE"), Some(value)) => {
                return Err(invalid(format!(
                    "{action} action is not supported for the type {}",
                    value.kind().name()
                )));
            }
            (action @ ("PUT" | "ADD"), None) => {
                return Err(invalid(format!(
                    "Only DELETE action is allowed when no attribute value is specified: {name}: {action}"
                )));
            }
            (other, _) => {
                return Err(Invalid::new(format!(
                    "1 validation error detected: Value '{other}' at 'attributeUpdates.{name}.member.action' failed to \
                     satisfy constraint: Member must satisfy enum value set: [ADD, PUT, DELETE]"
                ))
                .into());
            }
        }
    }
    Ok(update)
}

/// The attributes that are wanted.
pub(super) fn projection(names: Vec<String>) -> Result<Vec<Path>, Refusal> {
    if names.is_empty() {
        return Err(Invalid::new(
            "1 validation error detected: Value '[]' at 'attributesToGet' failed to satisfy constraint: Member must have \
             length greater than or equal to 1",
        )
        .into());
    }
    let mut seen = std::collections::BTreeSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(name) => Err(invalid(format!("Duplicate value in attribute name: {name}"))),
        None => Ok(names.into_iter().map(Path::attribute).collect()),
    }
}
