//! Commands out of JSON, and answers into it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

/// How strings in answers are said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strings {
    Text,
    Base64,
}

/// One command: an array of strings and numbers.
pub(super) fn command(body: &[u8]) -> Result<Vec<Bytes>, String> {
    let arguments: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|error| format!("ERR the body has to be a command, [\"GET\", \"key\"]: {error}"))?;
    arguments.into_iter().enumerate().map(|(at, argument)| self::argument(at, argument)).collect()
}

/// An array of commands.
pub(super) fn commands(body: &[u8]) -> Result<Vec<Vec<Bytes>>, String> {
    let commands: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|error| format!("ERR the body has to be commands, [[\"GET\", \"key\"], …]: {error}"))?;
    commands.into_iter().map(|one| command(one.get().as_bytes())).collect()
}

fn argument(at: usize, argument: &RawValue) -> Result<Bytes, String> {
    let text = argument.get();
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(text)
            .map(Bytes::from)
            .map_err(|error| format!("ERR argument {at}: {error}")),
        // As it was written: a number of JSON may have more digits than any type of ours.
        Some(b'-' | b'0'..=b'9') => Ok(Bytes::copy_from_slice(text.as_bytes())),
        _ => Err(format!("ERR argument {at} is neither a string nor a number")),
    }
}

/// An answer of a command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Null,
    Integer(i64),
    String(Bytes),
    Array(Vec<Answer>),
    Error(String),
}

impl Answer {
    /// As a client gets it.
    pub(super) fn to_json(&self, strings: Strings) -> Json {
        match self.value(strings) {
            Ok(result) => json!({ "result": result }),
            Err(error) => json!({ "error": error }),
        }
    }

    fn value(&self, strings: Strings) -> Result<Json, String> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Integer(value) => (*value).into(),
            Self::String(bytes) => match strings {
                Strings::Base64 => STANDARD.encode(bytes).into(),
                Strings::Text => std::str::from_utf8(bytes)
                    .map_err(|_bytes| {
                        "ERR the answer is not UTF-8: ask with the header Upstash-Encoding: base64".to_owned()
                    })?
                    .into(),
            },
            Self::Array(answers) => {
                answers.iter().map(|answer| answer.value(strings)).collect::<Result<_, _>>()?
            }
            Self::Error(text) => return Err(text.clone()),
        })
    }
}

/// The answers that a front of the Redis protocol has written, in order. Maps are arrays of keys and values in turn.
pub(super) fn answers(mut said: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(answer) = next(&mut said) {
        answers.push(answer);
    }
    answers
}

/// Takes the next answer off the front. Ours are whole and well formed, and no deeper than commands make them.
fn next(said: &mut &[u8]) -> Option<Answer> {
    let end = memchr::memchr(b'\r', said)?;
    let (kind, line) = (*said.first()?, said.get(1..end)?);
    *said = said.get(end + 2..)?;
    let number = || std::str::from_utf8(line).ok()?.parse::<i64>().ok();
    Some(match kind {
        b'+' => Answer::String(Bytes::copy_from_slice(line)),
        b'-' => Answer::Error(String::from_utf8_lossy(line).into_owned()),
        b':' => Answer::Integer(number()?),
        b'_' => Answer::Null,
        b'$' => match usize::try_from(number()?) {
            Err(_negative) => Answer::Null,
            Ok(length) => {
                let bytes = Bytes::copy_from_slice(said.get(..length)?);
                *said = said.get(length + 2..)?;
                Answer::String(bytes)
            }
        },
        b'*' | b'%' => match usize::try_from(number()?) {
            Err(_negative) => Answer::Null,
            Ok(count) => {
                let count = if kind == b'%' { count * 2 } else { count };
                Answer::Array((0..count).map(|_| next(said)).collect::<Option<_>>()?)
            }
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::command::reply::{Answer as Said, Protocol, transcode};

    #[test]
    fn arguments_are_strings_and_numbers_as_they_were_written() {
        let check = |body: &str, expected: Result<&[&str], &str>| match (command(body.as_bytes()), expected) {
            (Ok(arguments), Ok(expected)) => assert_eq!(arguments, expected),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (found, expected) => panic!("{body}: {found:?} is not {expected:?}"),
        };
        check(
            r#"["SET", "a\u00e4\n", 12345678901234567890123, -1.50]"#,
            Ok(&["SET", "aä\n", "12345678901234567890123", "-1.50"]),
        );
        check("[]", Ok(&[]));
        check(r#"["GET", null]"#, Err("argument 1 is neither"));
        check(r#"["GET", ["a"]]"#, Err("argument 1 is neither"));
        check(r#"{"GET": 1}"#, Err("has to be a command"));
        check(r#"["GET", "a"#, Err("has to be a command"));
        check("", Err("has to be a command"));
        // Deeper than any stack.
        check(&"[".repeat(1 << 20), Err("has to be a command"));
    }

    #[test]
    fn what_the_redis_protocol_says_is_said_in_json() {
        let mut said = Said::default();
        said.simple("OK");
        said.integer(-7);
        said.bulk(b"a\r\n+b");
        said.null();
        said.error("ERR no \"such\" thing");
        said.array(2);
        said.bulk(b"0");
        said.array(1);
        said.bulk(&[0xff]);
        let mut out = BytesMut::new();
        transcode(said.bytes(), Protocol::Resp2, &mut out);
        let said: Vec<Json> = answers(&out).iter().map(|answer| answer.to_json(Strings::Base64)).collect();
        let expected = json!([
            {"result": "T0s="}, {"result": -7}, {"result": "YQ0KK2I="}, {"result": null},
            {"error": "ERR no \"such\" thing"}, {"result": ["MA==", ["/w=="]]},
        ]);
        assert_eq!(Json::from(said), expected);
        let text: Vec<Json> = answers(&out).iter().map(|answer| answer.to_json(Strings::Text)).collect();
        assert_eq!(text[2], json!({"result": "a\r\n+b"}));
        assert!(text[5]["error"].as_str().unwrap().contains("base64"), "{}", text[5]);
    }
}
