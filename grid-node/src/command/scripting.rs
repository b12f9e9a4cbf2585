//! EVAL: scripts in Lua 5.1, carried out by every replica at the same place of the log.
//!
//! A script has a Lua state of its own, made for it: nothing that another one left behind can make it run otherwise
//! here than on another replica. It sees the stamp of its command for a clock, and numbers that follow from the seed
//! of its command for chance. It ends after so many instructions and with so much memory, on every replica alike. Source: "Scripting
//! with Lua" and "Redis Lua API reference" in the documentation of Redis.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use mlua::chunk::ChunkMode;
use mlua::{
    Error as LuaError, Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, Value, VmState,
};
use sha1::{Digest as _, Sha1};

use super::arguments::{NOT_AN_INTEGER, integer, is, lower, positive};
use super::reply::{Answer, Protocol, double, transcode};
use super::stream::reading;
use super::table::{LIBRARIES_FORMAT, Run, Spec, find};
use super::{Done, Random, Read, Refusal, Write, read, refuse, write};
use crate::access::User;
use crate::data::library::Registered;
use crate::data::set::canonical_integer;
use crate::limits::{SCRIPT_INSTRUCTIONS_MAX, SCRIPT_MEMORY_MAX, SCRIPT_REPLY_DEPTH_MAX};

mod bit;
pub(crate) mod function;
mod json;
mod msgpack;
mod packed;

const PRELUDE: &str = include_str!("scripting/prelude.lua");

/// The Redis whose scripts these are.
const VERSION: (&str, u32) = ("7.4.0", 0x0007_0400);

/// After how many instructions it is looked whether there were too many.
const LOOK_EVERY: u32 = 10_000;

/// The digest by which a script is called: forty hexadecimal digits.
pub(crate) fn digest(script: &[u8]) -> String {
    Sha1::digest(script).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a script works with.
enum On<'a, 'b> {
    /// It may change something.
    Write(&'a mut Write<'b>),
    /// It may not.
    Read(&'a mut Read<'b>),
}

impl On<'_, '_> {
    /// A number by chance.
    fn number(&mut self) -> u64 {
        match self {
            Self::Write(context) => context.random.number(),
            Self::Read(context) => context.random.number(),
        }
    }

    /// Who runs it, if that one may not do everything.
    fn actor(&self) -> Option<&User> {
        match self {
            Self::Write(context) => context.actor,
            Self::Read(context) => context.actor,
        }
    }

    /// The format of the cluster in which the command was taken.
    fn format(&self) -> u32 {
        match self {
            Self::Write(context) => context.format,
            Self::Read(context) => context.format,
        }
    }
}

/// What is run, and with what.
struct Program<'a> {
    code: &'a [u8],
    keys: &'a [Bytes],
    arguments: &'a [Bytes],
    part: Part<'a>,
}

/// What of it is run.
enum Part<'a> {
    /// All: it is a script.
    Script,
    /// All, to find out which functions it registers.
    Load(&'a mut BTreeMap<String, Registered>),
    /// One of the functions that it registers.
    Function(&'a str),
}

impl Part<'_> {
    /// What errors call it.
    fn chunk(&self) -> &'static str {
        if matches!(self, Self::Script) { "@user_script" } else { "@user_function" }
    }
}

/// `script numkeys [key …] [argument …]`, and whether it says that it writes nothing.
fn script(arguments: &[Bytes]) -> Done<(Program<'_>, bool)> {
    let count = canonical_integer(&arguments[2]).ok_or_else(|| Refusal::new(NOT_AN_INTEGER))?;
    let rest = &arguments[3..];
    let Ok(count) = usize::try_from(count) else { return refuse("ERR Number of keys can't be negative") };
    if count > rest.len() {
        return refuse("ERR Number of keys can't be greater than number of args");
    }
    let (keys, rest) = rest.split_at(count);
    let (code, writes_nothing) = shebang(&arguments[1])?;
    Ok((Program { code, keys, arguments: rest, part: Part::Script }, writes_nothing))
}

/// `#!lua flags=…` in the first line; the code without it, and whether it says that it writes nothing.
fn shebang(code: &[u8]) -> Done<(&[u8], bool)> {
    let Some(rest) = code.strip_prefix(b"#!") else { return Ok((code, false)) };
    let Some(end) = memchr::memchr(b'\n', rest) else { return refuse("ERR Invalid script shebang") };
    let line = String::from_utf8_lossy(&rest[..end]).trim_end().to_owned();
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let engine = words.next().unwrap_or_default();
    if engine != "lua" {
        return refuse(format!("ERR Unexpected engine in script shebang: {engine}"));
    }
    let mut writes_nothing = false;
    for word in words {
        let Some(flags) = word.strip_prefix("flags=") else {
            return refuse(format!("ERR Unknown lua shebang option: {word}"));
        };
        for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
            match flag {
                "no-writes" => writes_nothing = true,
                "allow-oom" | "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                _ => return refuse(format!("ERR Unexpected flag in script shebang: {flag}")),
            }
        }
    }
    // The line end stays, so that lines are counted as they were written.
    Ok((&rest[end..], writes_nothing))
}

/// Refuses a script that is none.
pub(crate) fn check(code: &[u8]) -> Done {
    let (code, _) = shebang(code)?;
    let lua = Lua::new_with(StdLib::NONE, LuaOptions::new());
    match lua.map(|lua| lua.load(code).set_name("@user_script").set_mode(ChunkMode::Text).into_function()) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(LuaError::SyntaxError { message, .. })) => {
            refuse(format!("ERR Error compiling script (new function): {message}"))
        }
        Ok(Err(error)) | Err(error) => refuse(said_by(&error)),
    }
}

pub(super) fn eval(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let (program, writes_nothing) = script(arguments)?;
    let mut answer = Answer::default();
    let done = if writes_nothing {
        run(On::Read(&mut on.reading()), program, &mut answer)
    } else {
        run(On::Write(on), program, &mut answer)
    };
    finish(done, answer, on.out, &arguments[1])
}

pub(super) fn eval_ro(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (program, _) = script(arguments)?;
    let mut answer = Answer::default();
    let done = run(On::Read(on), program, &mut answer);
    finish(done, answer, on.out, &arguments[1])
}

fn finish(done: Result<(), Failed>, answer: Answer, out: &mut Answer, code: &[u8]) -> Done {
    match done {
        Ok(()) => {
            let (bytes, typed) = answer.finish();
            out.encoded(&bytes, typed);
            Ok(())
        }
        Err(Failed::ToCompile(why)) => refuse(format!("ERR Error compiling script (new function): {why}")),
        Err(Failed::Ran(why) | Failed::TooLong(why)) => {
            refuse(format!("{why} script: {}, on @user_script.", digest(code)))
        }
    }
}

/// Why a script came to nothing.
enum Failed {
    ToCompile(String),
    Ran(String),
    /// It was ended.
    TooLong(String),
}

impl From<LuaError> for Failed {
    fn from(error: LuaError) -> Self {
        Self::Ran(said_by(&error))
    }
}

/// What went wrong, in one line without the way there.
fn said_by(error: &LuaError) -> String {
    match error {
        LuaError::RuntimeError(text) => format!("ERR {}", first_line(text)),
        LuaError::CallbackError { cause, .. } => said_by(cause),
        LuaError::MemoryError(_) => {
            format!("ERR not enough memory: SCRIPT_MEMORY_MAX = {SCRIPT_MEMORY_MAX}")
        }
        LuaError::ExternalError(cause) => cause.to_string(),
        other => format!("ERR {}", first_line(&other.to_string())),
    }
}

fn first_line(text: &str) -> &str {
    text.split('\n').next().unwrap_or_default()
}

fn run(on: On<'_, '_>, program: Program<'_>, answer: &mut Answer) -> Result<(), Failed> {
    let Program { code, keys, arguments, part } = program;
    let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::OS;
    let lua = Lua::new_with(libraries, LuaOptions::new().catch_rust_panics(false))?;
    lua.set_memory_limit(SCRIPT_MEMORY_MAX)?;
    let left = Cell::new(SCRIPT_INSTRUCTIONS_MAX / u64::from(LOOK_EVERY));
    let is_over = Rc::new(Cell::new(false));
    let was_ended = Rc::clone(&is_over);
    lua.set_hook(HookTriggers::new().every_nth_instruction(LOOK_EVERY), move |_, _| {
        match left.get().checked_sub(1) {
            Some(rest) => {
                left.set(rest);
                Ok(VmState::Continue)
            }
            None => {
                was_ended.set(true);
                let max = SCRIPT_INSTRUCTIONS_MAX;
                let why = format!("the script was ended: it took more than SCRIPT_INSTRUCTIONS_MAX = {max}");
                Err(LuaError::runtime(why))
            }
        }
    })?;
    let format = on.format();
    let on = RefCell::new(on);
    let protocol = Cell::new(Protocol::Resp2);
    // Clusters of older nodes know one beginning only.
    let seed = if format >= LIBRARIES_FORMAT { on.borrow_mut().number() } else { 0 };
    let chance = RefCell::new(Random::new(seed));
    lua.scope(|scope| {
        let host = lua.create_table()?;
        let call = scope.create_function_mut(|lua, words: MultiValue| {
            call(lua, &mut on.borrow_mut(), protocol.get(), words)
        })?;
        host.set("call", call)?;
        if format >= LIBRARIES_FORMAT {
            let may = scope.create_function(|_, words: MultiValue| may(&on.borrow(), &words))?;
            host.set("acl_check_cmd", may)?;
        }
        let setresp = scope.create_function(|_, version: i64| {
            protocol.set(if version == 3 { Protocol::Resp3 } else { Protocol::Resp2 });
            Ok(())
        })?;
        host.set("setresp", setresp)?;
        host.set(
            "random",
            scope.create_function(|_, ()| {
                Ok((chance.borrow_mut().number() >> 11) as f64 / (1_u64 << 53) as f64)
            })?,
        )?;
        let seed = scope.create_function(|_, seed: f64| {
            *chance.borrow_mut() = Random::new(seed.to_bits());
            Ok(())
        })?;
        host.set("randomseed", seed)?;
        offer(&lua, &host, format)?;
        let (keys, argv) = (strings(&lua, keys)?, strings(&lua, arguments)?);
        if matches!(part, Part::Script) {
            host.set("keys", keys.clone())?;
            host.set("argv", argv.clone())?;
        } else {
            host.set("loading", true)?;
        }
        let over = Rc::clone(&is_over);
        host.set("is_over", lua.create_function(move |_, ()| Ok(over.get()))?)?;
        let prelude = lua.load(PRELUDE).set_name("=prelude").set_mode(ChunkMode::Text);
        let environment: Table = prelude.into_function()?.call((host.clone(), VERSION.0, VERSION.1))?;
        let code = lua.load(code).set_name(part.chunk()).set_mode(ChunkMode::Text);
        let function: Function = match code.set_environment(environment).into_function() {
            Ok(function) => function,
            Err(LuaError::SyntaxError { message, .. }) => return Ok(Err(Failed::ToCompile(message))),
            Err(error) => return Err(error),
        };
        // What is raised may be a table, which only Lua hands on.
        let guarded: Function = lua.load("return pcall(...)").set_mode(ChunkMode::Text).into_function()?;
        let attempt = |function: Function, keys: Value, argv: Value| {
            let mut values: MultiValue = guarded.call((function, keys, argv))?;
            let went_well = values.pop_front() == Some(Value::Boolean(true));
            let value = values.pop_front().unwrap_or(Value::Nil);
            Ok::<_, LuaError>(match went_well {
                true => Ok(value),
                false if is_over.get() => Err(Failed::TooLong(raised(&value))),
                false => Err(Failed::Ran(raised(&value))),
            })
        };
        let mut outcome = attempt(function, Value::Nil, Value::Nil)?;
        if matches!(part, Part::Script) {
            return match outcome {
                Ok(value) => say(&value, protocol.get(), answer, 0).map(Ok),
                Err(failed) => Ok(Err(failed)),
            };
        }
        host.set("loading", false)?;
        match (part, &outcome) {
            (Part::Load(functions), Ok(_)) => {
                for function in host.get::<Table>("registered")?.sequence_values::<Table>() {
                    let (name, function) = function::registered(&function?)?;
                    functions.insert(name, function);
                }
            }
            (Part::Function(name), Ok(_)) => {
                let callback: Option<Function> = host.get::<Table>("callbacks")?.get(name)?;
                let Some(callback) = callback else {
                    return Ok(Err(Failed::Ran("ERR Function not found".to_owned())));
                };
                outcome = attempt(callback, Value::Table(keys), Value::Table(argv))?;
                if let Ok(value) = &outcome {
                    say(value, protocol.get(), answer, 0)?;
                }
            }
            _ => {}
        }
        Ok(outcome.map(drop))
    })?
}

/// The text of what a script has raised.
fn raised(value: &Value) -> String {
    match value {
        Value::Table(table) => match table.raw_get::<Value>("err") {
            Ok(Value::String(text)) => text.to_string_lossy(),
            _ => "ERR unknown error".to_owned(),
        },
        Value::String(text) => {
            let text = text.to_string_lossy();
            text.strip_prefix('-').map_or_else(|| format!("ERR {text}"), str::to_owned)
        }
        Value::Error(error) => said_by(error),
        _ => "ERR unknown error".to_owned(),
    }
}

fn strings(lua: &Lua, words: &[Bytes]) -> Result<Table, LuaError> {
    let table = lua.create_table_with_capacity(words.len(), 0)?;
    for (at, word) in words.iter().enumerate() {
        table.raw_set(at + 1, lua.create_string(word)?)?;
    }
    Ok(table)
}

/// What needs no keys.
fn offer(lua: &Lua, host: &Table, format: u32) -> Result<(), LuaError> {
    let sha1 = lua.create_function(|_, text: mlua::LuaString| Ok(digest(&text.as_bytes())))?;
    host.set("sha1hex", sha1)?;
    let log = lua.create_function(|_, (level, text): (i64, mlua::LuaString)| {
        let text = text.to_string_lossy();
        match level {
            0 | 1 => tracing::debug!(%text, "said by a script"),
            2 => tracing::info!(%text, "said by a script"),
            _ => tracing::warn!(%text, "said by a script"),
        }
        Ok(())
    })?;
    host.set("log", log)?;
    host.set("cjson", json::library(lua)?)?;
    host.set("bit", bit::library(lua)?)?;
    if format >= LIBRARIES_FORMAT {
        host.set("cmsgpack", msgpack::library(lua)?)?;
        host.set("struct", packed::library(lua)?)?;
    }
    Ok(())
}

fn failure(lua: &Lua, text: &str) -> Result<Value, LuaError> {
    let table = lua.create_table()?;
    table.raw_set("err", text)?;
    Ok(Value::Table(table))
}

/// `redis.call`: the answer as Lua has it; a refusal is a table with `err`.
fn call(lua: &Lua, on: &mut On<'_, '_>, protocol: Protocol, words: MultiValue) -> Result<Value, LuaError> {
    if words.is_empty() {
        return failure(lua, "ERR Please specify at least one argument for this redis.call() call");
    }
    let Some(arguments) = arguments(&words) else {
        return failure(lua, "ERR Lua redis lib command arguments must be strings or integers");
    };
    let mut answer = Answer::default();
    if let Err(refusal) = carry_out(on, &arguments, &mut answer) {
        return failure(lua, refusal.text());
    }
    let (bytes, _) = answer.finish();
    let mut said = BytesMut::new();
    transcode(&bytes, protocol, &mut said);
    value(lua, &mut &said[..])
}

/// What a script gives a command, numbers as Lua writes them; `None` if something is neither.
fn arguments(words: &MultiValue) -> Option<Vec<Bytes>> {
    let argument = |word: &Value| match word {
        Value::String(text) => Some(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Integer(number) => Some(Bytes::from(number.to_string())),
        Value::Number(number) => Some(Bytes::from(number_text(*number))),
        _ => None,
    };
    words.iter().map(argument).collect()
}

/// `redis.acl_check_cmd`.
fn may(on: &On<'_, '_>, words: &MultiValue) -> Result<bool, LuaError> {
    let Some(arguments) = arguments(words) else {
        let why = "redis.acl_check_cmd() require all arguments to be strings or integers";
        return Err(LuaError::runtime(why));
    };
    let spec = arguments.first().and_then(|name| find(name)).filter(|spec| spec.format <= on.format());
    let Some(spec) = spec.filter(|spec| spec.takes(arguments.len())) else {
        return Err(LuaError::runtime("ERR Invalid command passed to redis.acl_check_cmd()"));
    };
    Ok(on.actor().is_none_or(|user| user.may(spec, &arguments).is_ok()))
}

fn number_text(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 { format!("{number:.0}") } else { double(number) }
}

fn carry_out(on: &mut On<'_, '_>, arguments: &[Bytes], out: &mut Answer) -> Done {
    // What a node of the cluster may not know is known to none.
    let Some(spec) = find(&arguments[0]).filter(|spec| spec.format <= on.format()) else {
        return refuse("ERR Unknown Redis command called from script");
    };
    if spec.is("noscript") {
        return refuse("ERR This Redis command is not allowed from script");
    }
    if !spec.takes(arguments.len()) {
        return refuse("ERR Wrong number of args calling Redis command from script");
    }
    if ["xread", "xreadgroup"].contains(&spec.name)
        && reading(arguments).is_ok_and(|reading| reading.block_ms.is_some())
    {
        return refuse(format!("ERR {} command is not allowed with BLOCK option from scripts", spec.name));
    }
    let keys = match on {
        On::Write(context) => &*context.keys,
        On::Read(context) => context.keys,
    };
    if !spec.keys(arguments).all(|key| keys.has_place_for(key)) {
        return refuse(
            "ERR Script attempted to access a key that is in another partition: give them a hash tag",
        );
    }
    if let Some(denied) = on.actor().and_then(|user| Some((user, user.may(spec, arguments).err()?))) {
        let (user, denied) = denied;
        return refuse(format!("ERR ACL failure in script: {}", denied.told(&user.name)));
    }
    if matches!(spec.run, Run::Front) {
        return without_keys(on, spec, arguments, out);
    }
    match on {
        On::Write(context) => {
            let mut inner = Write {
                keys: context.keys,
                now_ms: context.now_ms,
                encodings: context.encodings,
                format: context.format,
                actor: context.actor,
                random: context.random,
                out,
            };
            write(&mut inner, spec, arguments);
            context.random = inner.random;
        }
        On::Read(_) if matches!(spec.run, Run::Write(_)) => {
            return refuse("ERR Write commands are not allowed from read-only scripts.");
        }
        On::Read(context) => {
            let mut inner = Read {
                keys: context.keys,
                now_ms: context.now_ms,
                encodings: context.encodings,
                format: context.format,
                actor: context.actor,
                random: context.random,
                out,
            };
            read(&mut inner, spec, arguments);
            context.random = inner.random;
        }
    }
    Ok(())
}

/// Those of the front's commands that make sense within a script.
fn without_keys(on: &mut On<'_, '_>, spec: &Spec, arguments: &[Bytes], out: &mut Answer) -> Done {
    let now_ms = match on {
        On::Write(context) => context.now_ms,
        On::Read(context) => context.now_ms,
    };
    match (spec.name, arguments) {
        ("ping", [_]) => out.simple("PONG"),
        ("ping" | "echo", [_, text]) => out.bulk(text),
        ("publish" | "spublish", [_, channel, message]) => match on {
            On::Write(context) => {
                let is_sharded = spec.name == "spublish";
                context.keys.notices.publish(is_sharded, channel.clone(), message.clone());
                // Who gets it is not known here, and not the same on every replica.
                out.integer(0);
            }
            On::Read(_) => return refuse("ERR Write commands are not allowed from read-only scripts."),
        },
        // It is not on a majority before the script has ended.
        ("wait", [_, copies, timeout]) => {
            integer(copies)?;
            positive(timeout, "ERR timeout is negative")?;
            out.integer(0);
        }
        ("select", [_, database]) if is(database, "0") => out.ok(),
        ("select", _) => return refuse("ERR DB index is out of range: there is database 0 only"),
        ("time", _) => {
            out.array(2);
            out.bulk((now_ms / 1000).to_string().as_bytes());
            out.bulk((now_ms % 1000 * 1000).to_string().as_bytes());
        }
        _ => {
            let name = lower(&arguments[0]);
            return refuse(format!("ERR This Redis command is not allowed from script: {name}"));
        }
    }
    Ok(())
}

/// Takes the next answer off the front, as Lua has it.
fn value(lua: &Lua, said: &mut &[u8]) -> Result<Value, LuaError> {
    let bad = || LuaError::runtime("an answer that cannot be read");
    let end = memchr::memchr(b'\n', said).ok_or_else(bad)?;
    let (kind, line) = (said[0], &said[1..end - 1]);
    *said = &said[end + 1..];
    let text = std::str::from_utf8(line).unwrap_or_default();
    let count = || text.parse::<i64>().map_err(|_digits| bad());
    let named = |name: &str, value: Value| -> Result<Value, LuaError> {
        let table = lua.create_table()?;
        table.raw_set(name, value)?;
        Ok(Value::Table(table))
    };
    Ok(match kind {
        b'+' => named("ok", Value::String(lua.create_string(line)?))?,
        b'-' => named("err", Value::String(lua.create_string(line)?))?,
        b':' => Value::Number(count()? as f64),
        b',' => named("double", Value::Number(text.parse().unwrap_or(f64::NAN)))?,
        b'#' => Value::Boolean(line == b"t"),
        // Nothing: in RESP2 scripts take it for false.
        b'_' => Value::Nil,
        b'$' | b'=' => match usize::try_from(count()?) {
            Err(_negative) => Value::Boolean(false),
            Ok(length) => {
                let bytes = said.get(..length).ok_or_else(bad)?;
                let string = Value::String(lua.create_string(bytes)?);
                *said = said.get(length + 2..).ok_or_else(bad)?;
                string
            }
        },
        b'*' => match usize::try_from(count()?) {
            Err(_negative) => Value::Boolean(false),
            Ok(count) => {
                let table = lua.create_table_with_capacity(count, 0)?;
                for at in 1..=count {
                    table.raw_set(at, value(lua, said)?)?;
                }
                Value::Table(table)
            }
        },
        b'%' | b'~' => {
            let table = lua.create_table()?;
            for _ in 0..count()? {
                let name = value(lua, said)?;
                let held = if kind == b'%' { value(lua, said)? } else { Value::Boolean(true) };
                table.raw_set(name, held)?;
            }
            named(if kind == b'%' { "map" } else { "set" }, Value::Table(table))?
        }
        _ => return Err(bad()),
    })
}

/// How many keys a table has. Nothing is kept of it: a script's state holds few values at once for its host.
fn count(table: &Table) -> Result<usize, LuaError> {
    table.pairs::<Value, Value>().try_fold(0, |count, pair| pair.map(|_| count + 1))
}

/// Writes a value of Lua as an answer.
fn say(value: &Value, protocol: Protocol, out: &mut Answer, depth: usize) -> Result<(), LuaError> {
    if depth > SCRIPT_REPLY_DEPTH_MAX {
        out.error("ERR reached lua stack limit");
        return Ok(());
    }
    match value {
        Value::String(text) => out.bulk(&text.as_bytes()),
        Value::Boolean(true) if protocol == Protocol::Resp3 => out.boolean(true),
        Value::Boolean(true) => out.integer(1),
        Value::Boolean(false) if protocol == Protocol::Resp3 => out.boolean(false),
        Value::Integer(number) => out.integer(*number),
        Value::Number(number) => out.integer(*number as i64),
        Value::Table(table) => {
            let field = |name: &str| table.raw_get::<Value>(name);
            if let Value::String(text) = field("err")? {
                out.error(&text.to_string_lossy());
                return Ok(());
            }
            if let Value::String(text) = field("ok")? {
                out.simple(&text.to_string_lossy().replace(['\r', '\n'], " "));
                return Ok(());
            }
            match field("double")? {
                Value::Number(number) => {
                    out.double(number);
                    return Ok(());
                }
                Value::Integer(number) => {
                    out.double(number as f64);
                    return Ok(());
                }
                _ => {}
            }
            if let Value::Table(map) = field("map")? {
                out.map(count(&map)?);
                for pair in map.pairs::<Value, Value>() {
                    let (name, held) = pair?;
                    say(&name, protocol, out, depth + 1)?;
                    say(&held, protocol, out, depth + 1)?;
                }
                return Ok(());
            }
            if let Value::Table(set) = field("set")? {
                out.set(count(&set)?);
                for member in set.pairs::<Value, Value>() {
                    say(&member?.0, protocol, out, depth + 1)?;
                }
                return Ok(());
            }
            let mut count = 0;
            while !matches!(table.raw_get::<Value>(count + 1)?, Value::Nil) {
                count += 1;
            }
            out.array(count);
            for at in 1..=count {
                say(&table.raw_get(at)?, protocol, out, depth + 1)?;
            }
        }
        _ => out.null(),
    }
    Ok(())
}
