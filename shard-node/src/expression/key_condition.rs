//! Key conditions: which items a query is about. A condition of which only some forms are allowed.

use super::{Comparator, Condition, KeyCondition, Operand, Path, SortCondition};
use crate::error::Invalid;

/// The name of the parameter.
pub const KIND: &str = "KeyConditionExpression";

/// What a condition, parsed as one, says of the key of a table with these key attributes.
pub fn of(
    condition: Condition,
    partition_key: &str,
    sort_key: Option<&str>,
) -> Result<KeyCondition, Invalid> {
    let parts = match condition {
        Condition::And(parts) => parts,
        one => vec![one],
    };
    let (mut partition, mut sort) = (None, None);
    for part in parts {
        let (name, condition) = key_part(part)?;
        if name == partition_key && partition.is_none() {
            match condition {
                SortCondition::Compare(Comparator::Equal, value) => partition = Some(value),
                _ => return Err(Invalid::new("Query key condition not supported")),
            }
        } else if Some(name.as_str()) == sort_key && sort.is_none() {
            sort = Some(condition);
        } else if name == partition_key || Some(name.as_str()) == sort_key {
            return Err(Invalid::new(format!(
                "Invalid {KIND}: KeyConditionExpressions must only contain one condition per key"
            )));
        } else {
            let missing = if partition.is_none() { partition_key } else { sort_key.unwrap_or(partition_key) };
            return Err(Invalid::new(format!("Query condition missed key schema element: {missing}")));
        }
    }
    let partition = partition
        .ok_or_else(|| Invalid::new(format!("Query condition missed key schema element: {partition_key}")))?;
    Ok(KeyCondition { partition, sort })
}

/// One condition on a key attribute.
fn key_part(part: Condition) -> Result<(String, SortCondition), Invalid> {
    let operator = |name: &str| {
        Invalid::new(format!(
            "Invalid KeyConditionExpression: Invalid operator used in KeyConditionExpression: {name}"
        ))
    };
    let name = |path: Path| match path.steps.is_empty() {
        true => Ok(path.name),
        false => Err(Invalid::new(
            "Invalid KeyConditionExpression: KeyConditionExpressions cannot have conditions on nested attributes",
        )),
    };
    match part {
        Condition::Compare(_, Comparator::NotEqual, _) => Err(operator("<>")),
        Condition::Compare(Operand::Path(path), comparator, Operand::Value(value)) => {
            Ok((name(path)?, SortCondition::Compare(comparator, value)))
        }
        Condition::Compare(Operand::Value(value), comparator, Operand::Path(path)) => {
            Ok((name(path)?, SortCondition::Compare(mirrored(comparator), value)))
        }
        Condition::Between(Operand::Path(path), Operand::Value(low), Operand::Value(high)) => {
            Ok((name(path)?, SortCondition::Between(low, high)))
        }
        Condition::BeginsWith(Operand::Path(path), Operand::Value(prefix)) => {
            Ok((name(path)?, SortCondition::BeginsWith(prefix)))
        }
        Condition::Or(_) => Err(operator("OR")),
        Condition::Not(_) => Err(operator("NOT")),
        Condition::In(..) => Err(operator("IN")),
        Condition::Exists(_) => Err(operator("attribute_exists")),
        Condition::NotExists(_) => Err(operator("attribute_not_exists")),
        Condition::HasType(..) => Err(operator("attribute_type")),
        Condition::Contains(..) => Err(operator("contains")),
        Condition::Compare(Operand::Size(_), ..) | Condition::Compare(_, _, Operand::Size(_)) => {
            Err(operator("size"))
        }
        _ => Err(Invalid::new(
            "Invalid condition in KeyConditionExpression: Multiple attribute names used in one condition",
        )),
    }
}

fn mirrored(comparator: Comparator) -> Comparator {
    match comparator {
        Comparator::Less => Comparator::Greater,
        Comparator::LessOrEqual => Comparator::GreaterOrEqual,
        Comparator::Greater => Comparator::Less,
        Comparator::GreaterOrEqual => Comparator::LessOrEqual,
        same => same,
    }
}
