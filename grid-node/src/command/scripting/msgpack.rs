//! `cmsgpack`: MessagePack for scripts. Source: lua-cmsgpack, as Redis has it.

use mlua::{Error, Lua, LuaString, MultiValue, Table, Value};
use rmp::Marker;
use rmp::encode;

/// What is nested deeper is packed as nothing.
const DEPTH_MAX: usize = 16;

/// The library.
pub(super) fn library(lua: &Lua) -> Result<Table, Error> {
    let library = lua.create_table()?;
    let packed = lua.create_function(|lua, values: MultiValue| {
        if values.is_empty() {
            return Err(Error::runtime("bad argument #0 to 'pack' (MessagePack pack needs input.)"));
        }
        let mut out = Vec::new();
        values.iter().try_for_each(|value| pack(value, 0, &mut out))?;
        lua.create_string(&out)
    })?;
    library.set("pack", packed)?;
    let all = lua.create_function(|lua, text: LuaString| {
        let bytes = text.as_bytes();
        let mut rest = &bytes[..];
        let mut values = MultiValue::new();
        while !rest.is_empty() {
            values.push_back(unpack(lua, &mut rest, 0)?);
        }
        Ok(values)
    })?;
    library.set("unpack", all)?;
    let one = lua.create_function(|lua, (text, offset): (LuaString, Option<i64>)| {
        unpack_some(lua, &text, 1, offset.unwrap_or(0))
    })?;
    library.set("unpack_one", one)?;
    let limited = lua.create_function(|lua, (text, limit, offset): (LuaString, i64, Option<i64>)| {
        unpack_some(lua, &text, limit, offset.unwrap_or(0))
    })?;
    library.set("unpack_limit", limited)?;
    library.set("_NAME", "cmsgpack")?;
    library.set("_VERSION", "lua-cmsgpack 0.4.0")?;
    Ok(library)
}

/// Where to go on, or -1 at the end; then so many values.
fn unpack_some(lua: &Lua, text: &LuaString, limit: i64, offset: i64) -> Result<MultiValue, Error> {
    let bytes = text.as_bytes();
    let (Ok(limit), Ok(begin)) = (usize::try_from(limit), usize::try_from(offset)) else {
        return Err(Error::runtime(format!(
            "Invalid request to unpack with offset of {offset} and limit of {}.",
            bytes.len()
        )));
    };
    let Some(mut rest) = bytes.get(begin..) else {
        let length = bytes.len();
        return Err(Error::runtime(format!("Start offset {begin} greater than input length {length}.")));
    };
    let mut values = MultiValue::new();
    while !rest.is_empty() && (limit == 0 || values.len() < limit) {
        values.push_back(unpack(lua, &mut rest, 0)?);
    }
    let next = if rest.is_empty() { -1 } else { (bytes.len() - rest.len()) as i64 };
    values.push_front(Value::Number(next as f64));
    Ok(values)
}

/// A `Vec` takes everything.
fn never(error: impl std::fmt::Display) -> Error {
    Error::runtime(error.to_string())
}

fn length(length: usize) -> Result<u32, Error> {
    u32::try_from(length).map_err(|_long| Error::runtime("too long for MessagePack"))
}

fn pack(value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    match value {
        Value::Boolean(held) => encode::write_bool(out, *held).map_err(never),
        Value::Integer(number) => encode::write_sint(out, *number).map(drop).map_err(never),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 9.2e18 => {
            encode::write_sint(out, *number as i64).map(drop).map_err(never)
        }
        Value::Number(number) if f64::from(*number as f32) == *number => {
            encode::write_f32(out, *number as f32).map_err(never)
        }
        Value::Number(number) => encode::write_f64(out, *number).map_err(never),
        Value::String(text) => {
            let bytes = text.as_bytes();
            encode::write_str_len(out, length(bytes.len())?).map_err(never)?;
            out.extend_from_slice(&bytes);
            Ok(())
        }
        Value::Table(table) if depth < DEPTH_MAX => pack_table(table, depth, out),
        _ => encode::write_nil(out).map_err(never),
    }
}

fn pack_table(table: &Table, depth: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let place = |key: &Value| match key {
        Value::Integer(place) => usize::try_from(*place).ok(),
        Value::Number(place) if place.fract() == 0.0 && *place >= 1.0 => Some(*place as usize),
        _ => None,
    };
    // It is an array if its keys are 1 to the number of them. What is in it is taken out one by one: a script's state holds
    // few values at once for its host.
    let (mut count, mut longest, mut is_array) = (0, 0, true);
    for pair in table.pairs::<Value, Value>() {
        match place(&pair?.0) {
            Some(place) => longest = longest.max(place),
            None => is_array = false,
        }
        count += 1;
    }
    if is_array && longest == count {
        encode::write_array_len(out, length(count)?).map_err(never)?;
        return (1..=count).try_for_each(|at| pack(&table.raw_get(at)?, depth + 1, out));
    }
    encode::write_map_len(out, length(count)?).map_err(never)?;
    for pair in table.pairs::<Value, Value>() {
        let (key, held) = pair?;
        pack(&key, depth + 1, out)?;
        pack(&held, depth + 1, out)?;
    }
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Error> {
    let missing = || Error::runtime("Missing bytes in input.");
    let (taken, behind) = rest.split_at_checked(count).ok_or_else(missing)?;
    *rest = behind;
    Ok(taken)
}

fn big(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn unpack(lua: &Lua, rest: &mut &[u8], depth: usize) -> Result<Value, Error> {
    /// How deep what is unpacked may be nested: each level is one of the stack here.
    const NESTED_MAX: usize = 128;
    if depth > NESTED_MAX {
        return Err(Error::runtime("Bad data format in input."));
    }
    let marker = Marker::from_u8(take(rest, 1)?[0]);
    let mut number = |bytes: usize| take(rest, bytes).map(big);
    let signed = |value: u64, bytes: u32| {
        Value::Number(((value << (64 - 8 * bytes)) as i64 >> (64 - 8 * bytes)) as f64)
    };
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let string = |rest: &mut &[u8], size: usize| Ok(Value::String(lua.create_string(take(rest, size)?)?));
    match marker {
        Marker::Null => Ok(Value::Nil),
        Marker::True => Ok(Value::Boolean(true)),
        Marker::False => Ok(Value::Boolean(false)),
        Marker::FixPos(value) => Ok(Value::Number(f64::from(value))),
        Marker::FixNeg(value) => Ok(Value::Number(f64::from(value))),
        Marker::U8 => Ok(Value::Number(number(1)? as f64)),
        Marker::U16 => Ok(Value::Number(number(2)? as f64)),
        Marker::U32 => Ok(Value::Number(number(4)? as f64)),
        Marker::U64 => Ok(Value::Number(number(8)? as f64)),
        Marker::I8 => Ok(signed(number(1)?, 1)),
        Marker::I16 => Ok(signed(number(2)?, 2)),
        Marker::I32 => Ok(signed(number(4)?, 4)),
        Marker::I64 => Ok(signed(number(8)?, 8)),
        Marker::F32 => Ok(Value::Number(f64::from(f32::from_bits(number(4)? as u32)))),
        Marker::F64 => Ok(Value::Number(f64::from_bits(number(8)?))),
        Marker::FixStr(size) => string(rest, usize::from(size)),
        Marker::Str8 | Marker::Bin8 => {
            let size = size(number(1)?);
            string(rest, size)
        }
        Marker::Str16 | Marker::Bin16 => {
            let size = size(number(2)?);
            string(rest, size)
        }
        Marker::Str32 | Marker::Bin32 => {
            let size = size(number(4)?);
            string(rest, size)
        }
        Marker::FixArray(count) => array(lua, rest, usize::from(count), depth),
        Marker::Array16 => {
            let count = size(number(2)?);
            array(lua, rest, count, depth)
        }
        Marker::Array32 => {
            let count = size(number(4)?);
            array(lua, rest, count, depth)
        }
        Marker::FixMap(count) => map(lua, rest, usize::from(count), depth),
        Marker::Map16 => {
            let count = size(number(2)?);
            map(lua, rest, count, depth)
        }
        Marker::Map32 => {
            let count = size(number(4)?);
            map(lua, rest, count, depth)
        }
        _ => Err(Error::runtime("Bad data format in input.")),
    }
}

fn array(lua: &Lua, rest: &mut &[u8], count: usize, depth: usize) -> Result<Value, Error> {
    let table = lua.create_table()?;
    for at in 1..=count {
        table.raw_set(at, unpack(lua, rest, depth + 1)?)?;
    }
    Ok(Value::Table(table))
}

fn map(lua: &Lua, rest: &mut &[u8], count: usize, depth: usize) -> Result<Value, Error> {
    let table = lua.create_table()?;
    for _ in 0..count {
        let key = unpack(lua, rest, depth + 1)?;
        let held = unpack(lua, rest, depth + 1)?;
        if matches!(key, Value::Nil) {
            return Err(Error::runtime("table index is nil"));
        }
        table.raw_set(key, held)?;
    }
    Ok(Value::Table(table))
}
