//! `struct`: values at fixed widths in a string. Source: lua-struct 0.2, as Redis has it.

use mlua::{Error, Lua, LuaString, MultiValue, Table, Value, Variadic};

use crate::limits::VALUE_BYTES_MAX;

/// Integers are at most as wide.
const WIDTH_MAX: usize = 32;

/// What a machine of 64 bits aligns to at most.
const ALIGNMENT: usize = 8;

/// The library.
pub(super) fn library(lua: &Lua) -> Result<Table, Error> {
    let library = lua.create_table()?;
    let packed = lua.create_function(|lua, (format, values): (LuaString, Variadic<Value>)| {
        lua.create_string(pack(&format.as_bytes(), &values)?)
    })?;
    library.set("pack", packed)?;
    let unpacked =
        lua.create_function(|lua, (format, text, begin): (LuaString, LuaString, Option<i64>)| {
            let begin = usize::try_from(begin.unwrap_or(1)).ok().filter(|begin| *begin > 0);
            let begin = begin.ok_or_else(|| bad(3, "unpack", "offset must be 1 or greater"))?;
            unpack(lua, &format.as_bytes(), &text.as_bytes(), begin - 1)
        })?;
    library.set("unpack", unpacked)?;
    let size = lua.create_function(|_, format: LuaString| {
        let format = format.as_bytes();
        let mut size = 0;
        for step in Steps::new(&format) {
            let step = step?;
            if matches!(step.kind, Kind::Text | Kind::Chars(None)) {
                return Err(bad(1, "size", "variable-length format"));
            }
            size += step.padding(size) + step.width;
        }
        Ok(size)
    })?;
    library.set("size", size)?;
    Ok(library)
}

fn bad(argument: usize, function: &str, why: &str) -> Error {
    Error::runtime(format!("bad argument #{argument} to '{function}' ({why})"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer {
        signed: bool,
    },
    Float,
    /// With a zero behind it.
    Text,
    /// As many bytes; `None`: as many as the number before says, or as the string has.
    Chars(Option<usize>),
    Skip,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    kind: Kind,
    width: usize,
    is_big: bool,
    alignment: usize,
}

impl Step {
    /// Bytes that are left out before it at a place.
    fn padding(&self, at: usize) -> usize {
        let is_aligned = matches!(self.kind, Kind::Integer { .. } | Kind::Float);
        let to = self.width.min(self.alignment);
        if is_aligned && to > 1 { (to - at % to) % to } else { 0 }
    }
}

/// The letters of a format, one after the other.
struct Steps<'a> {
    rest: &'a [u8],
    is_big: bool,
    alignment: usize,
}

impl<'a> Steps<'a> {
    fn new(format: &'a [u8]) -> Self {
        Self { rest: format, is_big: false, alignment: 1 }
    }

    fn number(&mut self) -> Result<Option<usize>, Error> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at(digits);
        self.rest = rest;
        if digits.is_empty() {
            return Ok(None);
        }
        let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        let number = number.filter(|number| *number <= VALUE_BYTES_MAX);
        number.map(Some).ok_or_else(|| Error::runtime("integral size overflow"))
    }

    fn step(&mut self, letter: u8) -> Result<Option<Step>, Error> {
        let integer = |width, signed| (Kind::Integer { signed }, width);
        let (kind, width) = match letter {
            b'b' => integer(1, true),
            b'B' => integer(1, false),
            b'h' => integer(2, true),
            b'H' => integer(2, false),
            b'l' => integer(8, true),
            b'L' | b'T' => integer(8, false),
            b'i' | b'I' => {
                let width = self.number()?.unwrap_or(4);
                if width > WIDTH_MAX {
                    return Err(Error::runtime(format!(
                        "integral size {width} is larger than limit of {WIDTH_MAX}"
                    )));
                }
                integer(width, letter == b'i')
            }
            b'f' => (Kind::Float, 4),
            b'd' | b'n' => (Kind::Float, 8),
            b's' => (Kind::Text, 0),
            b'c' => {
                let count = self.number()?.unwrap_or(1);
                (Kind::Chars(Some(count).filter(|count| *count > 0)), count)
            }
            b'x' => (Kind::Skip, 1),
            b'<' | b'>' => {
                self.is_big = letter == b'>';
                return Ok(None);
            }
            b'!' => {
                let alignment = self.number()?.unwrap_or(ALIGNMENT);
                if !alignment.is_power_of_two() {
                    return Err(Error::runtime("alignment is not a power of 2"));
                }
                self.alignment = alignment;
                return Ok(None);
            }
            b' ' => return Ok(None),
            other => {
                return Err(Error::runtime(format!("invalid format option '{}'", char::from(other))));
            }
        };
        Ok(Some(Step { kind, width, is_big: self.is_big, alignment: self.alignment }))
    }
}

impl Iterator for Steps<'_> {
    type Item = Result<Step, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (letter, rest) = self.rest.split_first()?;
            self.rest = rest;
            if let Some(step) = self.step(*letter).transpose() {
                return Some(step);
            }
        }
    }
}

fn pack(format: &[u8], values: &[Value]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let mut values = values.iter().enumerate();
    for step in Steps::new(format) {
        let step = step?;
        out.resize(out.len() + step.padding(out.len()), 0);
        if step.kind == Kind::Skip {
            out.push(0);
            continue;
        }
        let Some((at, value)) = values.next() else {
            return Err(bad(2, "pack", "too few values"));
        };
        let number = || match value {
            Value::Integer(number) => Ok(*number as f64),
            Value::Number(number) => Ok(*number),
            Value::String(text) => text
                .to_string_lossy()
                .trim()
                .parse()
                .map_err(|_text| bad(at + 2, "pack", "number expected, got string")),
            other => Err(bad(at + 2, "pack", &format!("number expected, got {}", other.type_name()))),
        };
        let text = || match value {
            Value::String(text) => Ok(text.as_bytes().to_vec()),
            Value::Integer(number) => Ok(number.to_string().into_bytes()),
            Value::Number(number) => Ok(super::number_text(*number).into_bytes()),
            other => Err(bad(at + 2, "pack", &format!("string expected, got {}", other.type_name()))),
        };
        match step.kind {
            Kind::Integer { .. } => {
                let number = number()?;
                // As C does: through the widest integer, modulo its width.
                let bits = if number < 0.0 { number as i64 as u64 } else { number as u64 };
                let filled = if number < 0.0 { 0xff } else { 0 };
                let mut bytes = vec![filled; step.width.max(8)];
                bytes[..8].copy_from_slice(&bits.to_le_bytes());
                bytes.truncate(step.width);
                if step.is_big {
                    bytes.reverse();
                }
                out.extend(bytes);
            }
            Kind::Float => {
                let number = number()?;
                let mut bytes = if step.width == 4 {
                    (number as f32).to_le_bytes().to_vec()
                } else {
                    number.to_le_bytes().to_vec()
                };
                if step.is_big {
                    bytes.reverse();
                }
                out.extend(bytes);
            }
            Kind::Text => {
                out.extend(text()?);
                out.push(0);
            }
            Kind::Chars(count) => {
                let text = text()?;
                let count = count.unwrap_or(text.len());
                let text = text.get(..count).ok_or_else(|| bad(at + 2, "pack", "string too short"))?;
                out.extend(text);
            }
            Kind::Skip => {}
        }
    }
    Ok(out)
}

fn unpack(lua: &Lua, format: &[u8], bytes: &[u8], begin: usize) -> Result<MultiValue, Error> {
    let short = || bad(2, "unpack", "data string too short");
    let mut values: Vec<Value> = Vec::new();
    let mut at = begin;
    for step in Steps::new(format) {
        let step = step?;
        at += step.padding(at);
        let width = match step.kind {
            Kind::Text => {
                let rest = bytes.get(at..).ok_or_else(short)?;
                memchr::memchr(0, rest).ok_or_else(|| bad(2, "unpack", "unfinished string in data"))?
            }
            Kind::Chars(None) => match values.pop() {
                Some(Value::Number(count)) if count >= 0.0 => count as usize,
                _ => return Err(Error::runtime("format 'c0' needs a previous size")),
            },
            _ => step.width,
        };
        let end = at.checked_add(width).ok_or_else(short)?;
        let found = bytes.get(at..end).ok_or_else(short)?;
        at = end;
        let ordered = || {
            let mut found = found.to_vec();
            if step.is_big {
                found.reverse();
            }
            found
        };
        values.push(match step.kind {
            Kind::Skip => continue,
            Kind::Text => {
                at += 1;
                Value::String(lua.create_string(found)?)
            }
            Kind::Chars(_) => Value::String(lua.create_string(found)?),
            Kind::Float => {
                let found = ordered();
                Value::Number(match <[u8; 4]>::try_from(&found[..]) {
                    Ok(four) => f64::from(f32::from_le_bytes(four)),
                    Err(_) => f64::from_le_bytes(found.try_into().map_err(|_width| short())?),
                })
            }
            Kind::Integer { signed } => {
                let found = ordered();
                let is_negative = signed && found.last().is_some_and(|last| last & 0x80 != 0);
                let mut all = [if is_negative { 0xff } else { 0 }; 8];
                let width = found.len().min(8);
                all[..width].copy_from_slice(&found[..width]);
                Value::Number(if signed {
                    i64::from_le_bytes(all) as f64
                } else {
                    u64::from_le_bytes(all) as f64
                })
            }
        });
    }
    // Where to go on.
    values.push(Value::Number((at + 1) as f64));
    Ok(values.into_iter().collect())
}
