//! FUNCTION and FCALL: libraries of functions. Source: "Redis functions" in the documentation of Redis, `functions.c` and
//! `function_lua.c` for what is refused and how.

use std::collections::BTreeMap;

use bytes::Bytes;
use mlua::{Error as LuaError, Table};

use super::super::arguments::{is, lower};
use super::super::reply::Answer;
use super::super::serialized::{self, Reader};
use super::super::table::Spec;
use super::super::{Done, Read, Refusal, Write, matches, refuse};
use super::{Failed, On, Part, Program, run};
use crate::data::library::{Libraries, Library, Registered};
use crate::data::set::canonical_integer;
use crate::limits::{LIBRARIES_BYTES_MAX, LIBRARIES_MAX};

/// Said of a name that is none.
const NO_NAME: &str = "Library names can only contain letters, numbers, or underscores(_) and must be at least one character long";

/// What a library in a dump begins with. Source: `RDB_OPCODE_FUNCTION2`.
const LIBRARY: u8 = 245;

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// The first line, `#!lua name=…`: the name, and where the code begins.
fn metadata(code: &[u8]) -> Done<(String, &[u8])> {
    let Some(rest) = code.strip_prefix(b"#!") else { return refuse("ERR Missing library metadata") };
    let Some(end) = memchr::memchr(b'\n', rest) else { return refuse("ERR Invalid library metadata") };
    let line = String::from_utf8_lossy(&rest[..end]).into_owned();
    let (engine, options) = line.split_once(' ').unwrap_or((&line, ""));
    let mut name = None;
    for option in options.split_whitespace() {
        let Some(value) = option.strip_prefix("name=") else {
            return refuse(format!("ERR Invalid metadata value given: {option}"));
        };
        if name.is_some() {
            return refuse("ERR Invalid metadata value, name argument was given multiple times");
        }
        let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        name = Some(unquoted.unwrap_or(value).to_owned());
    }
    let Some(name) = name else { return refuse("ERR Library name was not given") };
    if !is_name(name.as_bytes()) {
        return refuse(format!("ERR {NO_NAME}"));
    }
    let engine = engine.trim_end();
    if !engine.eq_ignore_ascii_case("lua") {
        return refuse(format!("ERR Engine '{engine}' not found"));
    }
    // The line end stays, so that lines are counted as they were written.
    Ok((name, &rest[end..]))
}

/// What a library has registered, as the prelude keeps it.
pub(super) fn registered(found: &Table) -> Result<(String, Registered), LuaError> {
    let description: Option<mlua::LuaString> = found.get("description")?;
    let description = description.map(|text| Bytes::copy_from_slice(&text.as_bytes()));
    let flags = found.get::<Table>("flags")?.sequence_values().collect::<Result<_, _>>()?;
    Ok((found.get("name")?, Registered { description, flags }))
}

/// Runs a library's code, and finds out which functions it has.
fn load(on: &mut Write<'_>, code: &Bytes) -> Done<(String, Library)> {
    let (name, body) = metadata(code)?;
    let mut functions = BTreeMap::new();
    let part = Part::Load(&mut functions);
    let program = Program { code: body, keys: &[], arguments: &[], part };
    match run(On::Read(&mut on.reading()), program, &mut Answer::default()) {
        Ok(()) if functions.is_empty() => refuse("ERR No functions registered"),
        // Those that come with a command are parts of a larger buffer.
        Ok(()) => Ok((name, Library { code: Bytes::copy_from_slice(code), functions })),
        Err(Failed::ToCompile(why)) => refuse(format!("ERR Error compiling function: {why}")),
        Err(Failed::TooLong(_)) => refuse("ERR FUNCTION LOAD timeout"),
        Err(Failed::Ran(why)) => {
            let why = why.strip_prefix("ERR ").unwrap_or(&why);
            refuse(format!("ERR Error registering functions: {why}"))
        }
    }
}

/// Adds libraries, all or none.
pub(crate) fn add(libraries: &mut Libraries, added: Vec<(String, Library)>, replaces: bool) -> Done {
    let mut changed = libraries.clone();
    for (name, library) in added {
        if !replaces && changed.get(&name).is_some() {
            return refuse(format!("ERR Library {name} already exists"));
        }
        if let Err(function) = changed.insert(&name, library) {
            return refuse(format!("ERR Function {function} already exists"));
        }
    }
    if changed.len() > LIBRARIES_MAX {
        return refuse(format!("ERR {} libraries exceed LIBRARIES_MAX = {LIBRARIES_MAX}", changed.len()));
    }
    if changed.bytes() > LIBRARIES_BYTES_MAX {
        let bytes = changed.bytes();
        return refuse(format!(
            "ERR {bytes} bytes of libraries exceed LIBRARIES_BYTES_MAX = {LIBRARIES_BYTES_MAX}"
        ));
    }
    *libraries = changed;
    Ok(())
}

pub(in super::super) fn function(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let sub = lower(&arguments[1]);
    match (sub.as_str(), &arguments[2..]) {
        ("load", [options @ .., code]) => {
            if let Some(option) = options.iter().find(|option| !is(option, "replace")) {
                return refuse(format!("ERR Unknown option given: {}", String::from_utf8_lossy(option)));
            }
            let (name, library) = load(on, code)?;
            if options.is_empty() && on.keys.libraries.get(&name).is_some() {
                return refuse(format!("ERR Library '{name}' already exists"));
            }
            add(&mut on.keys.libraries, vec![(name.clone(), library)], true)?;
            on.out.bulk(name.as_bytes());
        }
        ("delete", [name]) => {
            if !on.keys.libraries.remove(&String::from_utf8_lossy(name)) {
                return refuse("ERR Library not found");
            }
            on.out.ok();
        }
        ("flush", [] | [_]) => {
            if arguments.get(2).is_some_and(|how| !is(how, "sync") && !is(how, "async")) {
                return refuse("ERR FUNCTION FLUSH only supports SYNC|ASYNC option");
            }
            on.keys.libraries = Libraries::default();
            on.out.ok();
        }
        ("list", options) => list(on, options)?,
        ("stats", []) => {
            on.out.map(2);
            on.out.bulk(b"running_script");
            on.out.null();
            on.out.bulk(b"engines");
            on.out.map(1);
            on.out.bulk(b"LUA");
            on.out.map(2);
            on.out.bulk(b"libraries_count");
            on.out.count(on.keys.libraries.len());
            on.out.bulk(b"functions_count");
            on.out.count(on.keys.libraries.functions());
        }
        ("dump", []) => {
            let mut dumped = Vec::new();
            for (_, library) in on.keys.libraries.iter() {
                dumped.push(LIBRARY);
                serialized::put_string(&mut dumped, &library.code);
            }
            serialized::seal(&mut dumped, serialized::FUNCTIONS_VERSION);
            on.out.bulk(&dumped);
        }
        ("restore", [payload]) => restore(on, payload, None)?,
        ("restore", [payload, policy]) => restore(on, payload, Some(policy))?,
        // One ends by itself soon enough, and on every replica.
        ("kill", []) => return refuse("NOTBUSY No scripts in execution right now."),
        _ => {
            return refuse(format!(
                "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try FUNCTION HELP."
            ));
        }
    }
    Ok(())
}

fn restore(on: &mut Write<'_>, payload: &[u8], policy: Option<&Bytes>) -> Done {
    let (flushes, replaces) = match policy {
        None => (false, false),
        Some(policy) if is(policy, "append") => (false, false),
        Some(policy) if is(policy, "flush") => (true, false),
        Some(policy) if is(policy, "replace") => (false, true),
        Some(_) => {
            return refuse(
                "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
            );
        }
    };
    let mut reader = Reader::sealed(payload)?;
    let mut codes = Vec::new();
    while !reader.is_empty() {
        if reader.byte()? != LIBRARY {
            return refuse("ERR given type is not a function");
        }
        codes.push(Bytes::from(reader.string()?.into_owned()));
    }
    let added = codes.iter().map(|code| load(on, code)).collect::<Done<Vec<_>>>()?;
    let mut libraries = if flushes { Libraries::default() } else { on.keys.libraries.clone() };
    add(&mut libraries, added, replaces)?;
    on.keys.libraries = libraries;
    on.out.ok();
    Ok(())
}

fn list(on: &mut Write<'_>, options: &[Bytes]) -> Done {
    let (mut pattern, mut with_code) = (None, false);
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        if is(option, "withcode") && !with_code {
            with_code = true;
        } else if is(option, "libraryname") && pattern.is_none() {
            let name = rest.next().ok_or_else(|| Refusal::new("ERR library name argument was not given"))?;
            pattern = Some(name);
        } else {
            return refuse(format!("ERR Unknown argument {}", String::from_utf8_lossy(option)));
        }
    }
    let is_asked = |name: &str| pattern.is_none_or(|pattern| matches(pattern, name.as_bytes()));
    let libraries = &on.keys.libraries;
    on.out.counted(libraries.iter().filter(|(name, _)| is_asked(name)), |out, (name, library)| {
        out.map(3 + usize::from(with_code));
        out.bulk(b"library_name");
        out.bulk(name.as_bytes());
        out.bulk(b"engine");
        out.bulk(b"LUA");
        out.bulk(b"functions");
        out.array(library.functions.len());
        for (name, registered) in &library.functions {
            out.map(3);
            out.bulk(b"name");
            out.bulk(name.as_bytes());
            out.bulk(b"description");
            out.bulk_or_null(registered.description.as_deref());
            out.bulk(b"flags");
            out.set(registered.flags.len());
            registered.flags.iter().for_each(|flag| out.simple(flag));
        }
        if with_code {
            out.bulk(b"library_code");
            out.bulk(&library.code);
        }
    });
    Ok(())
}

/// A call: `function numkeys [key …] [argument …]`.
struct Call<'a> {
    code: Bytes,
    function: String,
    writes_nothing: bool,
    keys: &'a [Bytes],
    arguments: &'a [Bytes],
}

fn called<'a>(libraries: &Libraries, arguments: &'a [Bytes]) -> Done<Call<'a>> {
    let name = String::from_utf8_lossy(&arguments[1]);
    let Some((library, function, registered)) = libraries.function(&name) else {
        return refuse("ERR Function not found");
    };
    let count = canonical_integer(&arguments[2]);
    let count = count.ok_or_else(|| Refusal::new("ERR Bad number of keys provided"))?;
    let rest = &arguments[3..];
    let Ok(count) = usize::try_from(count) else { return refuse("ERR Number of keys can't be negative") };
    if count > rest.len() {
        return refuse("ERR Number of keys can't be greater than number of args");
    }
    let (keys, arguments) = rest.split_at(count);
    Ok(Call {
        code: library.code.clone(),
        function: function.to_owned(),
        writes_nothing: registered.is("no-writes"),
        keys,
        arguments,
    })
}

impl Call<'_> {
    fn run(&self, on: On<'_, '_>, answer: &mut Answer) -> Done {
        let (_, code) = metadata(&self.code)?;
        let part = Part::Function(&self.function);
        match run(on, Program { code, keys: self.keys, arguments: self.arguments, part }, answer) {
            Ok(()) => Ok(()),
            Err(Failed::ToCompile(why)) => refuse(format!("ERR Error compiling function: {why}")),
            Err(Failed::Ran(why) | Failed::TooLong(why)) => {
                refuse(format!("{why} script: {}, on @user_function.", self.function))
            }
        }
    }
}

pub(in super::super) fn fcall(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let call = called(&on.keys.libraries, arguments)?;
    let mut answer = Answer::default();
    if call.writes_nothing {
        call.run(On::Read(&mut on.reading()), &mut answer)?;
    } else {
        call.run(On::Write(on), &mut answer)?;
    }
    let (bytes, typed) = answer.finish();
    on.out.encoded(&bytes, typed);
    Ok(())
}

pub(in super::super) fn fcall_ro(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let call = called(&on.keys.libraries, arguments)?;
    if !call.writes_nothing {
        return refuse("ERR Can not execute a script with write flag using *_ro command.");
    }
    let mut answer = Answer::default();
    call.run(On::Read(on), &mut answer)?;
    let (bytes, typed) = answer.finish();
    on.out.encoded(&bytes, typed);
    Ok(())
}

/// True for FUNCTION where it changes something: every partition is to carry it out.
pub(crate) fn is_about_all(spec: &Spec, arguments: &[Bytes]) -> bool {
    spec.name == "function" && ["load", "delete", "flush", "restore"].iter().any(|sub| is(&arguments[1], sub))
}
