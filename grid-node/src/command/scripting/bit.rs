//! `bit`: operations on 32 bits, for scripts. Source: Lua BitOp.

use mlua::{Error as LuaError, Lua, Table};

/// The library.
pub(super) fn library(lua: &Lua) -> Result<Table, LuaError> {
    let library = lua.create_table()?;
    let word = |number: f64| (number.rem_euclid(4_294_967_296.0)) as u32;
    let fold = |combine: fn(u32, u32) -> u32| {
        lua.create_function(move |_, numbers: mlua::Variadic<f64>| {
            let mut words = numbers.iter().map(|number| word(*number));
            let first = words.next().ok_or_else(|| LuaError::runtime("number expected, got no value"))?;
            Ok(words.fold(first, combine) as i32)
        })
    };
    library.set("band", fold(|a, b| a & b)?)?;
    library.set("bor", fold(|a, b| a | b)?)?;
    library.set("bxor", fold(|a, b| a ^ b)?)?;
    let shift = |shifted: fn(u32, u32) -> u32| {
        lua.create_function(
            move |_, (number, by): (f64, f64)| Ok(shifted(word(number), word(by) & 31) as i32),
        )
    };
    library.set("lshift", shift(|word, by| word << by)?)?;
    library.set("rshift", shift(|word, by| word >> by)?)?;
    library.set("arshift", shift(|word, by| (word as i32 >> by) as u32)?)?;
    library.set("rol", shift(u32::rotate_left)?)?;
    library.set("ror", shift(u32::rotate_right)?)?;
    let one =
        |changed: fn(u32) -> u32| lua.create_function(move |_, number: f64| Ok(changed(word(number)) as i32));
    library.set("tobit", one(|word| word)?)?;
    library.set("bnot", one(|word| !word)?)?;
    library.set("bswap", one(u32::swap_bytes)?)?;
    let hex = lua.create_function(move |_, (number, digits): (f64, Option<i64>)| {
        let digits = digits.unwrap_or(8);
        let width = usize::try_from(digits.unsigned_abs()).unwrap_or(8).clamp(1, 8);
        let text = format!("{:08x}", word(number));
        let text = &text[8 - width..];
        Ok(if digits < 0 { text.to_uppercase() } else { text.to_owned() })
    })?;
    library.set("tohex", hex)?;
    Ok(library)
}
