//! `cjson`: JSON for scripts. Source: lua-cjson, as Redis has it.

use std::cell::Cell;
use std::rc::Rc;

use mlua::{Error, Lua, LuaString, Table, Value};
use serde_json::Value as Json;

/// What a script may change for itself, as it is at first.
#[derive(Clone, Copy, Debug)]
struct Settings {
    /// What is nested deeper is refused.
    encode_depth: usize,
    decode_depth: usize,
    /// NaN and infinite numbers are written.
    odd_numbers: bool,
    /// Places of an array that may be empty before it is too many, and up to which it may always be an array; whether one
    /// with too many is written as an object.
    sparse_ratio: usize,
    sparse_safe: usize,
    sparse_as_object: bool,
    /// Digits of a number.
    precision: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            encode_depth: 1000,
            decode_depth: 1000,
            odd_numbers: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            sparse_as_object: false,
            precision: 14,
        }
    }
}

/// The library.
pub(super) fn library(lua: &Lua) -> Result<Table, Error> {
    let library = lua.create_table()?;
    let settings = Rc::new(Cell::new(Settings::default()));
    // Nothing that is something: a field with it is there.
    library.set("null", Value::NULL)?;
    let held = Rc::clone(&settings);
    let encoder = lua.create_function(move |lua, value: Value| {
        let mut out = Vec::new();
        encode(&value, 0, held.get(), &mut out)?;
        lua.create_string(&out)
    })?;
    library.set("encode", encoder)?;
    let held = Rc::clone(&settings);
    let decoder = lua.create_function(move |lua, text: LuaString| {
        let json: Json = serde_json::from_slice(&text.as_bytes())
            .map_err(|error| Error::runtime(format!("Expected value but found invalid token: {error}")))?;
        decode(lua, &json, held.get().decode_depth)
    })?;
    library.set("decode", decoder)?;
    library.set("encode_keep_buffer", lua.create_function(|_, keeps: Value| Ok(keeps))?)?;
    library.set("decode_invalid_numbers", lua.create_function(|_, allowed: Value| Ok(allowed))?)?;
    // Each sets something if it is given something, and answers with what it is.
    let number = |name: &str, place: fn(&mut Settings) -> &mut usize| {
        let held = Rc::clone(&settings);
        let setter = lua.create_function(move |_, given: Option<i64>| {
            let mut settings = held.get();
            if let Some(given) = given {
                let given =
                    usize::try_from(given).ok().filter(|given| (1..=i32::MAX as usize).contains(given));
                *place(&mut settings) = given.ok_or_else(|| {
                    Error::runtime("bad argument #1 (expected integer between 1 and 2147483647)")
                })?;
            }
            held.set(settings);
            Ok(*place(&mut settings) as f64)
        })?;
        library.set(name, setter)
    };
    number("encode_max_depth", |settings| &mut settings.encode_depth)?;
    number("decode_max_depth", |settings| &mut settings.decode_depth)?;
    number("encode_number_precision", |settings| &mut settings.precision)?;
    let held = Rc::clone(&settings);
    let setter = lua.create_function(move |_, allowed: Option<bool>| {
        let mut settings = held.get();
        settings.odd_numbers = allowed.unwrap_or(settings.odd_numbers);
        held.set(settings);
        Ok(settings.odd_numbers)
    })?;
    library.set("encode_invalid_numbers", setter)?;
    let setter = lua.create_function(
        move |_, (as_object, ratio, safe): (Option<bool>, Option<usize>, Option<usize>)| {
            let mut held = settings.get();
            held.sparse_as_object = as_object.unwrap_or(held.sparse_as_object);
            held.sparse_ratio = ratio.unwrap_or(held.sparse_ratio);
            held.sparse_safe = safe.unwrap_or(held.sparse_safe);
            settings.set(held);
            Ok((held.sparse_as_object, held.sparse_ratio as f64, held.sparse_safe as f64))
        },
    )?;
    library.set("encode_sparse_array", setter)?;
    library.set("_NAME", "cjson")?;
    library.set("_VERSION", "2.1.0")?;
    Ok(library)
}

fn encode(value: &Value, depth: usize, settings: Settings, out: &mut Vec<u8>) -> Result<(), Error> {
    match value {
        Value::Nil => out.extend(b"null"),
        Value::LightUserData(held) if held.0.is_null() => out.extend(b"null"),
        Value::Boolean(held) => out.extend(if *held { &b"true"[..] } else { b"false" }),
        Value::Integer(number) => out.extend(itoa::Buffer::new().format(*number).bytes()),
        Value::Number(number) if number.is_finite() => {
            out.extend(digits(*number, settings.precision).bytes())
        }
        Value::Number(number) if settings.odd_numbers => out.extend(match number {
            number if number.is_nan() => &b"nan"[..],
            number if *number > 0.0 => b"inf",
            _ => b"-inf",
        }),
        Value::Number(_) => return Err(Error::runtime("Cannot serialise number: must not be NaN or Inf")),
        Value::String(text) => quote(&text.as_bytes(), out),
        Value::Table(table) => {
            let depth = depth + 1;
            if depth > settings.encode_depth {
                return Err(Error::runtime(format!("Cannot serialise, excessive depth ({depth})")));
            }
            return encode_table(table, depth, settings, out);
        }
        other => {
            let kind = other.type_name();
            return Err(Error::runtime(format!("Cannot serialise {kind}: type not supported")));
        }
    }
    Ok(())
}

/// As `%.14g` of C writes it.
fn digits(number: f64, precision: usize) -> String {
    let precision = precision.clamp(1, 17);
    let scientific = format!("{number:.*e}", precision - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", short(mantissa), exponent.abs());
    }
    let places = usize::try_from(precision as i32 - 1 - exponent).unwrap_or(0);
    short(&format!("{number:.places$}"))
}

/// Bytes as they are, but for those that JSON says otherwise; as lua-cjson, a slash is one of them.
fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            b'/' => out.extend(b"\\/"),
            8 => out.extend(b"\\b"),
            b'\t' => out.extend(b"\\t"),
            b'\n' => out.extend(b"\\n"),
            12 => out.extend(b"\\f"),
            b'\r' => out.extend(b"\\r"),
            0..=31 | 127 => out.extend(format!("\\u{byte:04x}").bytes()),
            byte => out.push(*byte),
        }
    }
    out.push(b'"');
}

/// How long an array is that a table is; `None` if it is none.
fn array_length(table: &Table, settings: Settings) -> Result<Option<usize>, Error> {
    let (mut longest, mut count) = (0, 0_usize);
    for pair in table.pairs::<Value, Value>() {
        let place = match pair?.0 {
            Value::Integer(at) => usize::try_from(at).ok().filter(|at| *at > 0),
            Value::Number(at) if at.fract() == 0.0 && at >= 1.0 => Some(at as usize),
            _ => None,
        };
        let Some(place) = place else { return Ok(None) };
        longest = longest.max(place);
        count += 1;
    }
    if longest > settings.sparse_safe && longest > count.saturating_mul(settings.sparse_ratio) {
        if settings.sparse_as_object {
            return Ok(None);
        }
        return Err(Error::runtime("Cannot serialise table: excessively sparse array"));
    }
    Ok(Some(longest).filter(|longest| *longest > 0))
}

// What is in a table is taken out one by one: a script's state holds few values at once for its host.
fn encode_table(table: &Table, depth: usize, settings: Settings, out: &mut Vec<u8>) -> Result<(), Error> {
    if let Some(length) = array_length(table, settings)? {
        out.push(b'[');
        for at in 1..=length {
            if at > 1 {
                out.push(b',');
            }
            encode(&table.raw_get(at)?, depth, settings, out)?;
        }
        out.push(b']');
        return Ok(());
    }
    out.push(b'{');
    let begin = out.len();
    for pair in table.pairs::<Value, Value>() {
        let (name, held) = pair?;
        if out.len() > begin {
            out.push(b',');
        }
        match name {
            Value::String(text) => quote(&text.as_bytes(), out),
            Value::Integer(number) => quote(number.to_string().as_bytes(), out),
            Value::Number(number) => quote(digits(number, settings.precision).as_bytes(), out),
            _ => return Err(Error::runtime("Cannot serialise table: table key must be a number or string")),
        }
        out.push(b':');
        encode(&held, depth, settings, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn decode(lua: &Lua, json: &Json, depth_left: usize) -> Result<Value, Error> {
    let deeper =
        || depth_left.checked_sub(1).ok_or_else(|| Error::runtime("Found too many nested data structures"));
    Ok(match json {
        Json::Null => Value::NULL,
        Json::Bool(held) => Value::Boolean(*held),
        Json::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::String(lua.create_string(text)?),
        Json::Array(elements) => {
            let deeper = deeper()?;
            let table = lua.create_table_with_capacity(elements.len(), 0)?;
            for (at, element) in elements.iter().enumerate() {
                table.raw_set(at + 1, decode(lua, element, deeper)?)?;
            }
            Value::Table(table)
        }
        Json::Object(fields) => {
            let deeper = deeper()?;
            let table = lua.create_table()?;
            for (name, field) in fields {
                table.raw_set(name.as_str(), decode(lua, field, deeper)?)?;
            }
            Value::Table(table)
        }
    })
}
