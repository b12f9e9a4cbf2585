//! Arguments as Redis reads them, and what it says of bad ones.

use bytes::Bytes;

use super::table::STRICT_NUMBERS_FORMAT;
use super::{Done, Refusal, refuse};
use crate::data::dict::Blob;
use crate::data::set::canonical_integer;
use crate::limits::VALUE_BYTES_MAX;

/// Said of options that make no sense.
pub const SYNTAX: &str = "ERR syntax error";

/// Said of what should be an integer.
pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// Said of what should be a number.
pub const NOT_A_FLOAT: &str = "ERR value is not a valid float";

/// True if an argument is a word, in capitals or not.
pub fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

/// In small letters.
pub fn lower(argument: &[u8]) -> String {
    String::from_utf8_lossy(argument).to_ascii_lowercase()
}

/// A signed 64-bit integer.
pub fn integer(argument: &[u8]) -> Done<i64> {
    canonical_integer(argument).ok_or_else(|| Refusal::new(NOT_AN_INTEGER))
}

/// An integer that is not negative.
pub fn positive(argument: &[u8], text: &'static str) -> Done<usize> {
    let number = canonical_integer(argument).ok_or_else(|| Refusal::new(NOT_AN_INTEGER))?;
    usize::try_from(number).map_err(|_negative| Refusal::new(text))
}

/// How many elements to take or to return: at least none.
pub fn count(argument: &[u8]) -> Done<usize> {
    positive(argument, "ERR value is out of range, must be positive")
}

/// A number that is one.
pub fn float(argument: &[u8]) -> Option<f64> {
    // What Rust reads and C does not.
    let is_clean = argument.first().is_some_and(|first| !first.is_ascii_whitespace());
    let text = std::str::from_utf8(argument).ok().filter(|_| is_clean)?;
    // Integers may be hexadecimal, as for `strtod`.
    let number: f64 = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok()? as f64,
        None => text.parse().ok()?,
    };
    (!number.is_nan()).then_some(number)
}

/// A number, or what Redis says of one that is none.
pub fn number(argument: &[u8]) -> Done<f64> {
    float(argument).ok_or_else(|| Refusal::new(NOT_A_FLOAT))
}

/// True for the text of a number that does not fit 64 bits, which `strtod` calls so (`ERANGE`): too large, or too small and not zero.
pub fn is_out_of_range(argument: &[u8], number: f64) -> bool {
    let is_infinite =
        number.is_infinite() && !argument.iter().any(|letter| letter.eq_ignore_ascii_case(&b'n'));
    let digits = argument.split(|letter| letter.eq_ignore_ascii_case(&b'e')).next().unwrap_or_default();
    is_infinite || (number == 0.0 && digits.iter().any(|digit| (b'1'..=b'9').contains(digit)))
}

/// A number that fits 64 bits, as commands take it since a format of the cluster in which they do; before, any.
pub fn fitting(argument: &[u8], format: u32) -> Option<f64> {
    float(argument).filter(|number| format < STRICT_NUMBERS_FORMAT || !is_out_of_range(argument, *number))
}

/// The number of keys, and the keys that follow it.
pub fn numbered_keys(arguments: &[Bytes], at: usize) -> Done<(&[Bytes], &[Bytes])> {
    let count = canonical_integer(&arguments[at]).filter(|count| *count > 0);
    let Some(count) = count.and_then(|count| usize::try_from(count).ok()) else {
        return refuse("ERR numkeys should be greater than 0");
    };
    let rest = &arguments[at + 1..];
    if count > rest.len() {
        return refuse("ERR Number of keys can't be greater than number of args");
    }
    Ok(rest.split_at(count))
}

/// The element at an index that counts from the end if it is negative.
pub fn from_end(index: i64, len: usize) -> Option<usize> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let index = if index < 0 { index + len } else { index };
    usize::try_from(index).ok().filter(|_| index < len)
}

/// The range from `start` to `stop`, both inclusive and from the end if negative, as begin and length.
pub fn range(start: i64, stop: i64, len: usize) -> (usize, usize) {
    let count = i64::try_from(len).unwrap_or(i64::MAX);
    let start = if start < 0 { start.saturating_add(count) } else { start }.max(0);
    let stop = if stop < 0 { stop.saturating_add(count) } else { stop }.min(count - 1);
    if start > stop || start >= count {
        return (0, 0);
    }
    let begin = usize::try_from(start).unwrap_or(0);
    (begin, usize::try_from(stop - start + 1).unwrap_or(0))
}

/// An argument as an element of a value: one that is still a slice of the message it came in would keep all of that in memory.
pub fn blob(argument: &[u8]) -> Blob {
    argument.into()
}

/// Refuses a string that is longer than one may be.
pub fn must_fit(bytes: usize) -> Done {
    if bytes > VALUE_BYTES_MAX {
        return refuse(format!(
            "ERR string exceeds maximum allowed size (VALUE_BYTES_MAX = {VALUE_BYTES_MAX})"
        ));
    }
    Ok(())
}

/// Milliseconds since 1970 for a time to live that a command names.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// Milliseconds of one.
    pub ms: i64,
    /// From now on, or since 1970.
    pub is_relative: bool,
}

impl Unit {
    /// EX, PX, EXAT or PXAT.
    pub fn of(option: &[u8]) -> Option<Self> {
        let (ms, is_relative) = match lower(option).as_str() {
            "ex" => (1000, true),
            "px" => (1, true),
            "exat" => (1000, false),
            "pxat" => (1, false),
            _ => return None,
        };
        Some(Self { ms, is_relative })
    }

    /// When it is over. It may be in the past, or before 1970.
    pub fn end(self, argument: &[u8], now_ms: u64, command: &str) -> Done<i64> {
        let value = integer(argument)?;
        let now = if self.is_relative { i64::try_from(now_ms).unwrap_or(i64::MAX) } else { 0 };
        let end = value.checked_mul(self.ms).and_then(|ms| ms.checked_add(now));
        end.ok_or_else(|| invalid_expiry(command))
    }

    /// The same for a time to live that must not be over.
    pub fn later_end(self, argument: &[u8], now_ms: u64, command: &str) -> Done<u64> {
        if integer(argument)? <= 0 {
            return Err(invalid_expiry(command));
        }
        let end = self.end(argument, now_ms, command)?;
        Ok(u64::try_from(end).unwrap_or(1).max(1))
    }
}

fn invalid_expiry(command: &str) -> Refusal {
    Refusal::new(format!("ERR invalid expire time in '{command}' command"))
}
