//! Text to tokens, with where they stand, since errors show their surroundings.

use std::ops::Range;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A word: keyword, function or attribute name.
    Word,
    /// `#name`
    NamePlaceholder,
    /// `:value`
    ValuePlaceholder,
    /// Digits.
    Number,
    /// `( ) [ ] , . = <> < <= > >= + -`
    Symbol,
    /// What belongs to no expression.
    Unknown,
    /// Behind the last one.
    End,
}

/// A piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) at: Range<usize>,
}

/// All tokens of a text, with [`Kind::End`] last.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let run = |from: usize, belongs: fn(u8) -> bool| {
        bytes[from..].iter().position(|&byte| !belongs(byte)).map_or(bytes.len(), |length| from + length)
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (kind, end) = match bytes[at] {
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            byte if byte.is_ascii_alphabetic() || byte == b'_' => (Kind::Word, run(at, is_name)),
            byte if byte.is_ascii_digit() => (Kind::Number, run(at, |byte| byte.is_ascii_digit())),
            b'#' if run(at + 1, is_name) > at + 1 => (Kind::NamePlaceholder, run(at + 1, is_name)),
            b':' if run(at + 1, is_name) > at + 1 => (Kind::ValuePlaceholder, run(at + 1, is_name)),
            b'<' if matches!(bytes.get(at + 1), Some(b'>' | b'=')) => (Kind::Symbol, at + 2),
            b'>' if bytes.get(at + 1) == Some(&b'=') => (Kind::Symbol, at + 2),
            b'(' | b')' | b'[' | b']' | b',' | b'.' | b'=' | b'<' | b'>' | b'+' | b'-' => {
                (Kind::Symbol, at + 1)
            }
            _ => {
                // A whole character, so that a slice of the text is text.
                let length = text[at..].chars().next().map_or(1, char::len_utf8);
                (Kind::Unknown, at + length)
            }
        };
        found.push(Token { kind, at: at..end });
        at = end;
    }
    found.push(Token { kind: Kind::End, at: bytes.len()..bytes.len() });
    found
}
