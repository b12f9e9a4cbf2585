//! Requests out of a buffer: arrays of bulk strings, or a line typed by hand.
//!
//! Source: the Redis serialization protocol specification, "Sending commands to a Redis server", "Inline commands".

use bytes::{Buf as _, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::limits::{ARGUMENTS_MAX, INLINE_BYTES_MAX, REQUEST_BYTES_MAX};

/// Bytes of the shortest request, an empty line.
pub const SHORTEST: usize = 2;

/// What the buffer began with.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A request; its bytes are taken out of the buffer.
    Request(Vec<Bytes>),
    /// An empty line or array, taken out of the buffer: to be passed over.
    Nothing,
    /// Not a whole request yet; the buffer is as it was.
    Incomplete,
}

/// The bytes are no request, and where the next one begins is unknown: the connection has to end.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// As Redis says it.
    #[error("invalid multibulk length (ARGUMENTS_MAX = {ARGUMENTS_MAX})")]
    Arguments,
    /// As Redis says it.
    #[error("invalid bulk length (REQUEST_BYTES_MAX = {REQUEST_BYTES_MAX})")]
    Length,
    /// As Redis says it.
    #[error("expected '$', got '{0}'")]
    ExpectedBulk(char),
    /// A line without an end.
    #[error("too big inline request (INLINE_BYTES_MAX = {INLINE_BYTES_MAX})")]
    InlineTooLong,
    /// As Redis says it.
    #[error("unbalanced quotes in request")]
    Quotes,
}

/// Takes the next request out of the buffer.
pub fn next(buffer: &mut BytesMut) -> Result<Parsed, Error> {
    match buffer.first() {
        None => Ok(Parsed::Incomplete),
        Some(b'*') => array(buffer),
        Some(_) => inline(buffer),
    }
}

fn array(buffer: &mut BytesMut) -> Result<Parsed, Error> {
    let Some((count, mut at)) = number(buffer, 1).ok_or(Error::Arguments)? else {
        return Ok(Parsed::Incomplete);
    };
    if count > ARGUMENTS_MAX as i64 {
        return Err(Error::Arguments);
    }
    if count <= 0 {
        buffer.advance(at);
        return Ok(Parsed::Nothing);
    }
    // Where each argument is. First the whole request is found, then it is taken out in one piece.
    let mut places: SmallVec<[(usize, usize); 16]> = SmallVec::new();
    let mut bytes = 0;
    for _ in 0..count {
        match buffer.get(at) {
            None => return Ok(Parsed::Incomplete),
            Some(b'$') => {}
            Some(&other) => return Err(Error::ExpectedBulk(char::from(other))),
        }
        let Some((length, start)) = number(buffer, at + 1).ok_or(Error::Length)? else {
            return Ok(Parsed::Incomplete);
        };
        let length = usize::try_from(length).map_err(|_negative| Error::Length)?;
        bytes += length;
        if bytes > REQUEST_BYTES_MAX {
            return Err(Error::Length);
        }
        at = start + length + 2;
        if buffer.len() < at {
            return Ok(Parsed::Incomplete);
        }
        places.push((start, start + length));
    }
    let request = buffer.split_to(at).freeze();
    Ok(Parsed::Request(places.into_iter().map(|(start, end)| request.slice(start..end)).collect()))
}

/// The decimal number from `start` to the next CRLF, and where what follows begins. `None` = it is no number;
/// `Some(None)` = it is not whole yet.
#[allow(clippy::option_option, reason = "three outcomes, of which the caller names the first")]
fn number(buffer: &[u8], start: usize) -> Option<Option<(i64, usize)>> {
    /// Digits of the largest number that makes sense here, and a sign.
    const DIGITS_MAX: usize = 20;
    let rest = &buffer[start.min(buffer.len())..];
    // Most are of a digit or two.
    match rest {
        [ones @ b'0'..=b'9', b'\r', b'\n', ..] => return Some(Some((i64::from(ones - b'0'), start + 3))),
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => {
            return Some(Some((i64::from(tens - b'0') * 10 + i64::from(ones - b'0'), start + 4)));
        }
        _ => {}
    }
    let line = &rest[..rest.len().min(DIGITS_MAX + 2)];
    let Some(end) = memchr::memchr(b'\r', line) else {
        return if rest.len() > DIGITS_MAX { None } else { Some(None) };
    };
    if rest.len() < end + 2 {
        return Some(None);
    }
    let value = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    (rest[end + 1] == b'\n').then_some(Some((value, start + end + 2)))
}

fn inline(buffer: &mut BytesMut) -> Result<Parsed, Error> {
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() > INLINE_BYTES_MAX {
            Err(Error::InlineTooLong)
        } else {
            Ok(Parsed::Incomplete)
        };
    };
    if end > INLINE_BYTES_MAX {
        return Err(Error::InlineTooLong);
    }
    let line = buffer.split_to(end + 1).freeze();
    let line = &line[..end];
    let arguments = words(line.strip_suffix(b"\r").unwrap_or(line))?;
    Ok(if arguments.is_empty() { Parsed::Nothing } else { Parsed::Request(arguments) })
}

/// Words of a line typed by hand; quotes as in Redis' `sdssplitargs`.
fn words(line: &[u8]) -> Result<Vec<Bytes>, Error> {
    let mut words = Vec::new();
    let mut rest = line.iter().copied().peekable();
    loop {
        while rest.next_if(u8::is_ascii_whitespace).is_some() {}
        let Some(&first) = rest.peek() else { return Ok(words) };
        let mut word = Vec::new();
        match first {
            quote @ (b'"' | b'\'') => {
                rest.next();
                loop {
                    match rest.next().ok_or(Error::Quotes)? {
                        end if end == quote => break,
                        b'\\' if quote == b'"' => word.push(match rest.next().ok_or(Error::Quotes)? {
                            b'n' => b'\n',
                            b'r' => b'\r',
                            b't' => b'\t',
                            b'x' => {
                                let mut digit =
                                    || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                                match (digit(), digit()) {
                                    (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(0),
                                    _ => return Err(Error::Quotes),
                                }
                            }
                            other => other,
                        }),
                        b'\\' if rest.peek() == Some(&b'\'') => {
                            rest.next();
                            word.push(b'\'');
                        }
                        other => word.push(other),
                    }
                }
                if rest.peek().is_some_and(|next| !next.is_ascii_whitespace()) {
                    return Err(Error::Quotes);
                }
            }
            _ => {
                while let Some(byte) = rest.next_if(|byte| !byte.is_ascii_whitespace()) {
                    word.push(byte);
                }
            }
        }
        words.push(Bytes::from(word));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Vec<Bytes>>, Error> {
        let mut buffer = BytesMut::from(bytes);
        let mut requests = Vec::new();
        loop {
            match next(&mut buffer)? {
                Parsed::Request(request) => requests.push(request),
                Parsed::Nothing => {}
                Parsed::Incomplete => return Ok(requests),
            }
        }
    }

    #[test]
    fn requests_come_out_in_order() {
        let got =
            all(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\r\nPING\r\n*0\r\nset a \"b c\\x41\\n\"\r\n*1\r\n$4\r\nPI")
                .unwrap();
        let text: Vec<Vec<String>> = got
            .iter()
            .map(|request| request.iter().map(|word| String::from_utf8(word.to_vec()).unwrap()).collect())
            .collect();
        assert_eq!(text, [vec!["GET", "k"], vec!["PING"], vec!["set", "a", "b cA\n"]]);
    }

    #[test]
    fn what_is_no_request_is_refused_as_redis_does() {
        let check = |bytes: &[u8], expected: Error| assert_eq!(all(bytes), Err(expected), "{bytes:?}");
        check(b"*x\r\n", Error::Arguments);
        check(b"*99999999\r\n", Error::Arguments);
        check(b"*1\r\n:5\r\n", Error::ExpectedBulk(':'));
        check(b"*1\r\n$-5\r\n", Error::Length);
        check(b"*1\r\n$999999999999\r\n", Error::Length);
        check(b"*123456789012345678901234", Error::Arguments);
        check(b"set a \"b\r\n", Error::Quotes);
        check(&[b'a'; INLINE_BYTES_MAX + 1], Error::InlineTooLong);
    }

    proptest! {
        /// However a stream is cut into packets, the same requests come out of it.
        #[test]
        fn packets_do_not_matter(words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..6), cut in 0..100_usize) {
            let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
            for word in &words {
                bytes.extend(format!("${}\r\n", word.len()).as_bytes());
                bytes.extend(word);
                bytes.extend(b"\r\n");
            }
            let cut = cut.min(bytes.len() - 1);
            let mut buffer = BytesMut::from(&bytes[..cut]);
            prop_assert_eq!(next(&mut buffer).unwrap(), Parsed::Incomplete);
            buffer.extend_from_slice(&bytes[cut..]);
            let expected: Vec<Bytes> = words.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(next(&mut buffer).unwrap(), Parsed::Request(expected));
        }

        /// No bytes make it panic or go round for ever.
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _whatever = all(&bytes);
        }
    }
}
