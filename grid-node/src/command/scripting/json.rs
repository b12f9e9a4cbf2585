//! `cjson`: JSON for scripts. Source: lua-cjson, as Redis has it.

use mlua::{Error, Lua, Table, Value};
use serde_json::{Map, Number, Value as Json};

/// Deeper ones are refused.
const DEPTH_MAX: usize = 1000;

/// Places of an array that may be empty before it is an object, and up to which it may always be an array.
const SPARSE_RATIO: usize = 2;
const SPARSE_SAFE: usize = 10;

/// The library.
pub(super) fn library(lua: &Lua) -> Result<Table, Error> {
    let library = lua.create_table()?;
    // Nothing that is something: a field with it is there.
    library.set("null", Value::NULL)?;
    library.set(
        "encode",
        lua.create_function(|lua, value: Value| lua.create_string(encode(&value, 0)?.to_string()))?,
    )?;
    library.set(
        "decode",
        lua.create_function(|lua, text: mlua::LuaString| {
            let json: Json = serde_json::from_slice(&text.as_bytes()).map_err(|error| {
                Error::runtime(format!("Expected value but found invalid token: {error}"))
            })?;
            decode(lua, &json)
        })?,
    )?;
    library.set("encode_keep_buffer", lua.create_function(|_, keeps: Value| Ok(keeps))?)?;
    library.set("_NAME", "cjson")?;
    library.set("_VERSION", "2.1.0")?;
    Ok(library)
}

fn encode(value: &Value, depth: usize) -> Result<Json, Error> {
    if depth > DEPTH_MAX {
        return Err(Error::runtime(format!("Cannot serialise, excessive depth ({depth})")));
    }
    Ok(match value {
        Value::Nil => Json::Null,
        Value::LightUserData(held) if held.0.is_null() => Json::Null,
        Value::Boolean(held) => Json::Bool(*held),
        Value::Integer(number) => Json::Number((*number).into()),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 1e14 => {
            Json::Number((*number as i64).into())
        }
        Value::Number(number) => Json::Number(
            Number::from_f64(*number)
                .ok_or_else(|| Error::runtime("Cannot serialise number: must not be NaN or Inf"))?,
        ),
        Value::String(text) => Json::String(text.to_string_lossy()),
        Value::Table(table) => encode_table(table, depth)?,
        other => {
            return Err(Error::runtime(format!(
                "Cannot serialise {}: type not supported",
                other.type_name()
            )));
        }
    })
}

fn encode_table(table: &Table, depth: usize) -> Result<Json, Error> {
    let pairs = table.pairs::<Value, Value>().collect::<Result<Vec<_>, _>>()?;
    // An array has places from one on, not too few of them.
    let place = |name: &Value| match name {
        Value::Integer(at) => usize::try_from(*at).ok().filter(|at| *at > 0),
        Value::Number(at) if at.fract() == 0.0 && *at >= 1.0 => Some(*at as usize),
        _ => None,
    };
    let places: Option<Vec<usize>> = pairs.iter().map(|(name, _)| place(name)).collect();
    if let Some(places) = places.filter(|places| !places.is_empty()) {
        let len = places.iter().copied().max().unwrap_or(0);
        if len > SPARSE_SAFE && len > places.len() * SPARSE_RATIO {
            return Err(Error::runtime("Cannot serialise table: excessively sparse array"));
        }
        let mut array = vec![Json::Null; len];
        for (at, (_, held)) in places.into_iter().zip(&pairs) {
            array[at - 1] = encode(held, depth + 1)?;
        }
        return Ok(Json::Array(array));
    }
    let mut object = Map::new();
    for (name, held) in &pairs {
        let name = match name {
            Value::String(text) => text.to_string_lossy(),
            Value::Integer(number) => number.to_string(),
            Value::Number(number) => super::number_text(*number),
            _ => return Err(Error::runtime("Cannot serialise table: table key must be a number or string")),
        };
        object.insert(name, encode(held, depth + 1)?);
    }
    Ok(Json::Object(object))
}

fn decode(lua: &Lua, json: &Json) -> Result<Value, Error> {
    Ok(match json {
        Json::Null => Value::NULL,
        Json::Bool(held) => Value::Boolean(*held),
        Json::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::String(lua.create_string(text)?),
        Json::Array(elements) => {
            let table = lua.create_table_with_capacity(elements.len(), 0)?;
            for (at, element) in elements.iter().enumerate() {
                table.raw_set(at + 1, decode(lua, element)?)?;
            }
            Value::Table(table)
        }
        Json::Object(fields) => {
            let table = lua.create_table()?;
            for (name, field) in fields {
                table.raw_set(name.as_str(), decode(lua, field)?)?;
            }
            Value::Table(table)
        }
    })
}
