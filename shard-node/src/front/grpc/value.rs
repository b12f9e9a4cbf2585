//! Values and items on the wire, and back.

use std::collections::BTreeMap;

use trimaran_proto::api::database as wire;
use trimaran_proto::api::database::attribute_value::Value as WireValue;

use crate::error::Invalid;
use crate::expression::parse::Placeholders;
use crate::item::{Item, Value, set};
use crate::limits::NESTING_MAX;
use crate::number::Number;

fn value(wire: wire::AttributeValue, depth: usize) -> Result<Value, Invalid> {
    if depth > NESTING_MAX {
        return Err(Invalid::new("Nesting Levels have exceeded supported limits"));
    }
    let number = |text: &String| text.parse::<Number>().map_err(Invalid::from);
    Ok(match wire.value {
        None => {
            return Err(Invalid::new(
                "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes",
            ));
        }
        Some(WireValue::S(text)) => Value::S(text),
        Some(WireValue::N(text)) => Value::N(number(&text)?),
        Some(WireValue::B(bytes)) => Value::B(bytes),
        Some(WireValue::Bool(truth)) => Value::Bool(truth),
        Some(WireValue::Null(true)) => Value::Null,
        Some(WireValue::Null(false)) => {
            return Err(Invalid::new(
                "One or more parameter values were invalid: Null attribute value types must have the value of true",
            ));
        }
        Some(WireValue::L(list)) => {
            Value::L(list.values.into_iter().map(|one| value(one, depth + 1)).collect::<Result<_, _>>()?)
        }
        Some(WireValue::M(map)) => Value::M(members(map, depth + 1)?),
        Some(WireValue::Ss(texts)) => Value::Ss(set("string", texts.values)?),
        Some(WireValue::Ns(texts)) => {
            let numbers = texts.values.iter().map(number).collect::<Result<_, _>>()?;
            Value::Ns(set("number", numbers)?)
        }
        Some(WireValue::Bs(bytes)) => {
            let count = bytes.values.len();
            let set: std::collections::BTreeSet<_> = bytes.values.into_iter().collect();
            if set.is_empty() || set.len() < count {
                return Err(Invalid::new(
                    "One or more parameter values were invalid: a binary set may not be empty or contain duplicates",
                ));
            }
            Value::Bs(set)
        }
    })
}

fn members(wire: wire::Item, depth: usize) -> Result<Item, Invalid> {
    wire.attributes.into_iter().map(|(name, one)| Ok((name, value(one, depth)?))).collect()
}

pub(super) fn item(wire: Option<wire::Item>) -> Result<Item, Invalid> {
    members(wire.unwrap_or_default(), 0)
}

fn put_value(value: Value) -> wire::AttributeValue {
    let value = match value {
        Value::S(text) => WireValue::S(text),
        Value::N(number) => WireValue::N(number.to_string()),
        Value::B(bytes) => WireValue::B(bytes),
        Value::Bool(truth) => WireValue::Bool(truth),
        Value::Null => WireValue::Null(true),
        Value::L(values) => {
            WireValue::L(wire::ListValue { values: values.into_iter().map(put_value).collect() })
        }
        Value::M(map) => WireValue::M(put_item(map)),
        Value::Ss(set) => WireValue::Ss(wire::StringSet { values: set.into_iter().collect() }),
        Value::Ns(set) => {
            WireValue::Ns(wire::NumberSet { values: set.iter().map(ToString::to_string).collect() })
        }
        Value::Bs(set) => WireValue::Bs(wire::BytesSet { values: set.into_iter().collect() }),
    };
    wire::AttributeValue { value: Some(value) }
}

/// An item as it is sent.
pub(in crate::front) fn put_item(item: Item) -> wire::Item {
    wire::Item { attributes: item.into_iter().map(|(name, value)| (name, put_value(value))).collect() }
}

pub(super) fn placeholders(wire: Option<wire::Placeholders>) -> Result<Placeholders, Invalid> {
    let wire = wire.unwrap_or_default();
    let values = wire.values.into_iter().map(|(name, one)| Ok((name, value(one, 0)?)));
    let values = values.collect::<Result<BTreeMap<_, _>, Invalid>>()?;
    Ok(Placeholders::new(wire.names.into_iter().collect(), values))
}
