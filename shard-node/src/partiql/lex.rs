//! Text to tokens.

use crate::error::Invalid;

/// A piece of a statement.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A keyword, function or attribute name.
    Word(String),
    /// `"name"`
    Quoted(String),
    /// `'text'`
    Text(String),
    /// Digits, with what belongs to a number.
    Number(String),
    /// `( ) [ ] { } , . : ? * = <> != < <= > >= << >> + -`
    Symbol(&'static str),
    /// Behind the last one.
    End,
}

/// Longer ones first.
const SYMBOLS: [&str; 22] = [
    "<<", ">>", "<>", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}", ",", ".", ":", "?", "*", "=", "<", ">",
    "+", "-",
];

/// All tokens of a text, with [`Token::End`] last.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Invalid> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' | '"' => {
                let (text, length) = quoted(rest, first)?;
                (if first == '"' { Token::Quoted(text) } else { Token::Text(text) }, length)
            }
            first if first.is_ascii_digit() => {
                let length = number(rest.as_bytes());
                (Token::Number(rest[..length].to_owned()), length)
            }
            first if first.is_alphabetic() || first == '_' => {
                let is_part = |part: char| part.is_alphanumeric() || part == '_' || part == '$';
                let length = rest.find(|part: char| !is_part(part)).unwrap_or(rest.len());
                (Token::Word(rest[..length].to_owned()), length)
            }
            _ => {
                let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
                let symbol = symbol.ok_or_else(|| unexpected(&first.to_string()))?;
                (Token::Symbol(symbol), symbol.len())
            }
        };
        found.push(token);
        rest = rest[length..].trim_start();
    }
    found.push(Token::End);
    Ok(found)
}

pub(super) fn unexpected(what: &str) -> Invalid {
    Invalid::new(format!("Statement wasn't well formed, can't be processed: Unexpected token: {what}"))
}

/// What stands between two of a mark, which stands for itself if it is doubled, and how long that is with its marks.
fn quoted(text: &str, mark: char) -> Result<(String, usize), Invalid> {
    let mut inside = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != mark {
            inside.push(character);
        } else if characters.next_if(|(_, next)| *next == mark).is_some() {
            inside.push(mark);
        } else {
            return Ok((inside, at + 1));
        }
    }
    Err(Invalid::new("Statement wasn't well formed, can't be processed: a quoted text has no end"))
}

/// How long the number is that stands here.
fn number(text: &[u8]) -> usize {
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = digits(0);
    if text.get(end) == Some(&b'.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
        let exponent = text.get(end + 1 + sign).map_or(0, |_| digits(end + 1 + sign));
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    end
}
