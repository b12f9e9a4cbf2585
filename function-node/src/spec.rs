//! What a function is: checked, with its defaults filled in.

use std::collections::BTreeMap;
use std::time::Duration;

use trimaran_proto::api::functions as wire;

use crate::error::Error;
use crate::limits::{
    COMMAND_WORDS_MAX, CONCURRENCY_DEFAULT, CONCURRENCY_MAX, ENVIRONMENT_BYTES_MAX, IDLE_DEFAULT, IDLE_MAX,
    INSTANCES_MAX, MEMORY_MAX, MEMORY_MIN, NAME_LETTERS_MAX, PROCESS_INSTANCES_DEFAULT,
    PROCESS_MEMORY_DEFAULT, QUEUE_DEFAULT, QUEUE_MAX, TIMEOUT_DEFAULT, TIMEOUT_MAX, WASM_INSTANCES_DEFAULT,
    WASM_MEMORY_DEFAULT,
};

/// How code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Wasm,
    Process,
}

/// What to run and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    pub(crate) command: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) timeout: Duration,
    pub(crate) memory_bytes: u64,
    pub(crate) concurrency: u32,
    pub(crate) max_instances: u32,
    pub(crate) queue: u32,
    pub(crate) idle: Duration,
}

/// One immutable state of a function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Revision {
    pub(crate) function: String,
    pub(crate) number: u64,
    pub(crate) spec: Spec,
    /// As it was sent, to be shown.
    pub(crate) wire: wire::Spec,
    pub(crate) digest: String,
    pub(crate) bytes: u64,
    pub(crate) created_ms: u64,
}

impl Spec {
    /// Checks what was sent; absent fields get their defaults.
    pub(crate) fn read(spec: &wire::Spec) -> Result<Self, Error> {
        let kind = match spec.runtime() {
            wire::Runtime::Wasm => Kind::Wasm,
            wire::Runtime::Process => Kind::Process,
            wire::Runtime::Unspecified => {
                return Err(invalid(format!("runtime = {} is none that this node has", spec.runtime)));
            }
        };
        let mut command = spec.command.clone();
        if command.len() > COMMAND_WORDS_MAX {
            return Err(invalid(format!("command has more than {COMMAND_WORDS_MAX} words")));
        }
        if kind == Kind::Wasm && !command.is_empty() {
            return Err(invalid("command is for processes; a component has none".to_owned()));
        }
        if kind == Kind::Process && command.is_empty() {
            command.push("./bootstrap".to_owned());
        }
        if command.iter().any(|word| word.contains('\0')) || command.first().is_some_and(String::is_empty) {
            return Err(invalid("command has an empty program, or a zero byte".to_owned()));
        }
        let environment: BTreeMap<String, String> = spec.environment.clone().into_iter().collect();
        check_environment(&environment)?;
        let defaults = match kind {
            Kind::Wasm => (WASM_MEMORY_DEFAULT, WASM_INSTANCES_DEFAULT),
            Kind::Process => (PROCESS_MEMORY_DEFAULT, PROCESS_INSTANCES_DEFAULT),
        };
        let concurrency = ranged("concurrency", spec.concurrency, CONCURRENCY_DEFAULT, 1, CONCURRENCY_MAX)?;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Ok(Self {
            kind,
            command,
            environment,
            timeout: Duration::from_millis(ranged(
                "timeout_ms",
                spec.timeout_ms,
                millis(TIMEOUT_DEFAULT),
                1,
                millis(TIMEOUT_MAX),
            )?),
            memory_bytes: ranged("memory_bytes", spec.memory_bytes, defaults.0, MEMORY_MIN, MEMORY_MAX)?,
            concurrency: if kind == Kind::Wasm { 1 } else { concurrency },
            max_instances: ranged("max_instances", spec.max_instances, defaults.1, 1, INSTANCES_MAX)?,
            queue: ranged("queue", spec.queue, QUEUE_DEFAULT, 0, QUEUE_MAX)?,
            idle: Duration::from_millis(ranged(
                "idle_ms",
                spec.idle_ms,
                millis(IDLE_DEFAULT),
                0,
                millis(IDLE_MAX),
            )?),
        })
    }
}

/// Checks a function's name.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = (1..=NAME_LETTERS_MAX).contains(&name.len())
        && name.bytes().all(is_letter)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-');
    if fits {
        return Ok(());
    }
    Err(invalid(format!(
        "name = {name:?}: 1 to {NAME_LETTERS_MAX} characters of a-z, 0-9 and -, beginning with a letter, not ending \
         with -"
    )))
}

/// Checks a digest: SHA-256 in lower-case hexadecimal digits.
pub(crate) fn check_digest(digest: &str) -> Result<(), Error> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digest.len() == 64 && digest.bytes().all(is_digit) {
        return Ok(());
    }
    Err(invalid("package_digest: SHA-256 in 64 hexadecimal digits, lower case".to_owned()))
}

fn check_environment(environment: &BTreeMap<String, String>) -> Result<(), Error> {
    let bytes: usize = environment.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > ENVIRONMENT_BYTES_MAX {
        return Err(invalid(format!("environment has {bytes} bytes, more than {ENVIRONMENT_BYTES_MAX}")));
    }
    for (name, value) in environment {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_name = name.bytes().all(is_letter) && name.starts_with(|first: char| !first.is_ascii_digit());
        if name.is_empty() || !is_name || value.contains('\0') {
            return Err(invalid(format!(
                "environment: {name:?} is no name of a variable, or its value has a zero byte"
            )));
        }
        if name == "PORT" || name.starts_with("K_") {
            return Err(invalid(format!("environment: {name} is set by the platform")));
        }
    }
    Ok(())
}

fn ranged<T: PartialOrd + Copy + std::fmt::Display>(
    field: &str,
    asked: Option<T>,
    default: T,
    least: T,
    most: T,
) -> Result<T, Error> {
    let value = asked.unwrap_or(default);
    if value < least || value > most {
        return Err(invalid(format!("{field} = {value}: from {least} to {most}")));
    }
    Ok(value)
}

fn invalid(text: String) -> Error {
    Error::Invalid(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_of_host_names() {
        for good in ["a", "shorten", "a-1", "x9"] {
            check_name(good).unwrap();
        }
        for bad in ["", "A", "9a", "-a", "a-", "a.b", "a_b", &"a".repeat(64)] {
            check_name(bad).unwrap_err();
        }
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let of = |spec: wire::Spec| Spec::read(&spec).map_err(|error| error.to_string());
        let wasm = wire::Spec { runtime: wire::Runtime::Wasm.into(), ..Default::default() };
        let process = wire::Spec { runtime: wire::Runtime::Process.into(), ..Default::default() };
        assert_eq!(of(process.clone()).unwrap().command, ["./bootstrap"]);
        assert_eq!(of(wasm.clone()).unwrap().concurrency, 1);
        let late = wire::Spec { timeout_ms: Some(3_600_001), ..wasm.clone() };
        assert_eq!(of(late).unwrap_err(), "timeout_ms = 3600001: from 1 to 3600000");
        assert!(of(wire::Spec::default()).unwrap_err().contains("runtime"));
        let port = wire::Spec { environment: [("PORT".into(), "1".into())].into(), ..process };
        assert!(of(port).unwrap_err().contains("PORT"));
        assert!(of(wire::Spec { command: vec!["x".into()], ..wasm }).unwrap_err().contains("command"));
    }
}
