//! What a command answers, before it is known in which protocol the client wants it.
//!
//! It is RESP3, with three types more, for what RESP2 says otherwise than by leaving the type out:
//! `N` is nothing where an array was asked for (RESP2: `*-1`), `P` is an array of pairs (RESP2: one flat array), `M` is a
//! map (RESP2: an array of pairs).
//! [`transcode`] makes it what a connection speaks. Most answers are the same in both, and are copied.

use bytes::{BufMut as _, BytesMut};

use super::Refusal;

/// An answer that is being written.
#[derive(Debug, Default)]
pub struct Answer {
    bytes: BytesMut,
    typed: bool,
}

impl Answer {
    /// The bytes, and whether something in them is said otherwise in RESP2.
    pub fn finish(self) -> (BytesMut, bool) {
        (self.bytes, self.typed)
    }

    /// How long it is so far.
    pub fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Takes back what was written from a position on.
    pub fn truncate(&mut self, position: usize) {
        self.bytes.truncate(position);
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn header(&mut self, kind: u8, value: i64) {
        let mut digits = itoa::Buffer::new();
        self.bytes.put_u8(kind);
        self.bytes.put_slice(digits.format(value).as_bytes());
        self.bytes.put_slice(b"\r\n");
    }

    fn typed(&mut self, kind: u8, count: usize) {
        self.typed = true;
        self.header(kind, count as i64);
    }

    /// `+text`
    pub fn simple(&mut self, text: &str) {
        self.bytes.put_u8(b'+');
        self.bytes.put_slice(text.as_bytes());
        self.bytes.put_slice(b"\r\n");
    }

    /// `+OK`
    pub fn ok(&mut self) {
        self.bytes.put_slice(b"+OK\r\n");
    }

    /// `-text`; line ends within it become spaces, so that a name sent by a client cannot forge another answer.
    pub fn error(&mut self, text: &str) {
        self.bytes.put_u8(b'-');
        self.bytes.extend(text.bytes().map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
        self.bytes.put_slice(b"\r\n");
    }

    /// A refusal in the place of what was written from a position on.
    pub fn refused(&mut self, position: usize, refusal: &Refusal) {
        self.truncate(position);
        self.error(refusal.text());
    }

    /// `:number`
    pub fn integer(&mut self, value: i64) {
        self.header(b':', value);
    }

    /// `:number` of something counted.
    pub fn count(&mut self, value: usize) {
        self.header(b':', i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// `:1` or `:0`
    pub fn flag(&mut self, value: bool) {
        self.header(b':', i64::from(value));
    }

    /// `$length bytes`
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len() as i64);
        self.bytes.put_slice(bytes);
        self.bytes.put_slice(b"\r\n");
    }

    /// The bulk string, or nothing.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Nothing.
    pub fn null(&mut self) {
        self.typed = true;
        self.bytes.put_slice(b"_\r\n");
    }

    /// Nothing, where an array was asked for.
    pub fn null_array(&mut self) {
        self.typed = true;
        self.bytes.put_slice(b"N\r\n");
    }

    /// Head of an array; its elements follow.
    pub fn array(&mut self, count: usize) {
        self.header(b'*', count as i64);
    }

    /// Head of a map; keys and values follow in turn.
    pub fn map(&mut self, pairs: usize) {
        self.typed(b'%', pairs);
    }

    /// Head of a set; its members follow.
    pub fn set(&mut self, count: usize) {
        self.typed(b'~', count);
    }

    /// Head of what is said without having been asked for; its elements follow.
    pub fn push(&mut self, count: usize) {
        self.typed(b'>', count);
    }

    /// Head of an array of pairs, both of each follow in turn.
    pub fn pairs(&mut self, count: usize) {
        self.typed(b'P', count);
    }

    /// Head of a map that is an array of pairs where there are no maps.
    pub fn paired_map(&mut self, pairs: usize) {
        self.typed(b'M', pairs);
    }

    /// A number with a fraction.
    pub fn double(&mut self, value: f64) {
        self.typed = true;
        self.bytes.put_u8(b',');
        self.bytes.put_slice(double(value).as_bytes());
        self.bytes.put_slice(b"\r\n");
    }

    /// True or false.
    pub fn boolean(&mut self, value: bool) {
        self.typed = true;
        self.bytes.put_slice(if value { b"#t\r\n" } else { b"#f\r\n" });
    }

    /// Text for people.
    pub fn verbatim(&mut self, text: &str) {
        self.typed = true;
        self.header(b'=', text.len() as i64 + 4);
        self.bytes.put_slice(b"txt:");
        self.bytes.put_slice(text.as_bytes());
        self.bytes.put_slice(b"\r\n");
    }

    /// What was written elsewhere, and whether something in it is said otherwise in RESP2.
    pub fn encoded(&mut self, bytes: &[u8], typed: bool) {
        self.typed |= typed;
        self.bytes.put_slice(bytes);
    }

    /// An array whose elements are counted as they are written.
    pub fn counted<T>(&mut self, elements: impl Iterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        // The head is known last: the elements are written behind a place for it.
        let mut body = Self::default();
        let mut count = 0;
        for element in elements {
            write(&mut body, element);
            count += 1;
        }
        self.array(count);
        self.typed |= body.typed;
        self.bytes.put_slice(&body.bytes);
    }
}

/// A score as Redis writes it: the fewest digits that are read back as the same number.
pub fn double(value: f64) -> String {
    /// Decimal places up to which no exponent is used. Source: `fpconv_dtoa`.
    const PLAIN_EXPONENT: i32 = 21;
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let magnitude = value.abs();
    if magnitude < 1e17 && value.fract() == 0.0 {
        return format!("{value}");
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.trim_start_matches('-').len() as i32 - i32::from(mantissa.contains('.'));
    let is_plain = if exponent >= 0 { exponent < PLAIN_EXPONENT.min(digits + 7) } else { exponent > -7 };
    if is_plain {
        format!("{value}")
    } else {
        format!("{mantissa}e{}{}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

/// The number that an answer is.
pub fn integer_of(answer: &[u8]) -> Option<i64> {
    match first_line(answer)? {
        (b':', line, _) => std::str::from_utf8(line).ok()?.parse().ok(),
        _ => None,
    }
}

/// How many elements an array has, and the elements as they were written.
pub fn elements_of(answer: &[u8]) -> Option<(usize, &[u8])> {
    match first_line(answer)? {
        (b'*', line, rest) => Some((std::str::from_utf8(line).ok()?.parse().ok()?, rest)),
        _ => None,
    }
}

/// True for the refusal of a command.
pub fn is_error(answer: &[u8]) -> bool {
    answer.first() == Some(&b'-')
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Until HELLO says otherwise.
    Resp2,
    /// With types of its own for maps and for nothing.
    Resp3,
}

/// Writes whole answers as a protocol has them. What is no answer of [`Answer`] is left out.
pub fn transcode(mut answer: &[u8], protocol: Protocol, out: &mut BytesMut) {
    let header = |out: &mut BytesMut, kind: u8, value: i64| {
        out.put_u8(kind);
        out.put_slice(itoa::Buffer::new().format(value).as_bytes());
        out.put_slice(b"\r\n");
    };
    // Pairs are arrays of two in one of the protocols: every second element opens one. Pairs have no pairs in them.
    let mut pair_elements_left: usize = 0;
    let mut nested: Vec<usize> = Vec::new();
    while let Some((kind, line, rest)) = first_line(answer) {
        if nested.is_empty() && pair_elements_left > 0 {
            if pair_elements_left.is_multiple_of(2) {
                header(out, b'*', 2);
            }
            pair_elements_left -= 1;
        }
        let count = || std::str::from_utf8(line).ok().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        let copy = |out: &mut BytesMut, kind: u8, line: &[u8]| {
            out.put_u8(kind);
            out.put_slice(line);
            out.put_slice(b"\r\n");
        };
        answer = rest;
        let old = protocol == Protocol::Resp2;
        match kind {
            b'$' | b'=' => {
                let length = usize::try_from(count()).unwrap_or(0).min(rest.len().saturating_sub(2));
                let text = &rest[..length];
                answer = &rest[length + 2..];
                if kind == b'=' && old {
                    let text = text.get(4..).unwrap_or_default();
                    header(out, b'$', text.len() as i64);
                    out.put_slice(text);
                } else {
                    copy(out, kind, line);
                    out.put_slice(text);
                }
                out.put_slice(b"\r\n");
            }
            b'_' if old => out.put_slice(b"$-1\r\n"),
            b'N' => out.put_slice(if old { b"*-1\r\n" } else { b"_\r\n" }),
            b',' if old => {
                header(out, b'$', line.len() as i64);
                copy_line(out, line);
            }
            b'#' if old => header(out, b':', i64::from(line == b"t")),
            b'%' if old => header(out, b'*', count() * 2),
            b'~' | b'>' if old => header(out, b'*', count()),
            b'P' | b'M' => {
                let in_pairs = (kind == b'M') == old;
                match (kind, old) {
                    (b'P', true) => header(out, b'*', count() * 2),
                    (b'M', false) => header(out, b'%', count()),
                    _ => header(out, b'*', count()),
                }
                if in_pairs {
                    pair_elements_left = usize::try_from(count()).unwrap_or(0) * 2;
                    continue;
                }
            }
            _ => copy(out, kind, line),
        }
        // What is nested in an element of a pair is no element of it.
        if pair_elements_left > 0 || !nested.is_empty() {
            let children = match kind {
                b'*' | b'~' => count(),
                b'%' => count() * 2,
                _ => 0,
            };
            if let Some(open) = nested.last_mut() {
                *open -= 1;
            }
            if children > 0 {
                nested.push(usize::try_from(children).unwrap_or(0));
            }
            while nested.last() == Some(&0) {
                nested.pop();
            }
        }
    }
}

fn copy_line(out: &mut BytesMut, line: &[u8]) {
    out.put_slice(line);
    out.put_slice(b"\r\n");
}

/// The type, the rest of the first line, and what is behind that.
fn first_line(answer: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let end = memchr::memchr(b'\n', answer)?;
    let line = answer.get(1..end.checked_sub(1)?)?;
    Some((*answer.first()?, line, &answer[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(write: impl Fn(&mut Answer)) -> (String, String) {
        let mut answer = Answer::default();
        write(&mut answer);
        let (bytes, _) = answer.finish();
        let say = |protocol| {
            let mut out = BytesMut::new();
            transcode(&bytes, protocol, &mut out);
            String::from_utf8(out.to_vec()).unwrap().replace("\r\n", " ")
        };
        (say(Protocol::Resp2), say(Protocol::Resp3))
    }

    #[test]
    fn each_protocol_says_it_in_its_own_way() {
        let check = |write: &dyn Fn(&mut Answer), old: &str, new: &str| {
            assert_eq!(both(write), (old.to_owned(), new.to_owned()));
        };
        check(&|out| out.null(), "$-1 ", "_ ");
        check(&|out| out.null_array(), "*-1 ", "_ ");
        check(&|out| out.double(1.5), "$3 1.5 ", ",1.5 ");
        check(&|out| out.boolean(true), ":1 ", "#t ");
        check(&|out| out.verbatim("a"), "$1 a ", "=5 txt:a ");
        let map = |out: &mut Answer| {
            out.map(1);
            out.bulk(b"k");
            out.set(1);
            out.integer(1);
        };
        check(&map, "*2 $1 k *1 :1 ", "%1 $1 k ~1 :1 ");
        let pairs = |out: &mut Answer| {
            out.array(2);
            out.pairs(2);
            for member in [b"a", b"b"] {
                out.bulk(member);
                out.double(2.0);
            }
            out.integer(7);
        };
        let map = |out: &mut Answer| {
            out.paired_map(2);
            for key in [b"a", b"b"] {
                out.bulk(key);
                out.array(1);
                out.map(1);
                out.integer(1);
                out.null();
            }
        };
        check(&map, "*2 *2 $1 a *1 *2 :1 $-1 *2 $1 b *1 *2 :1 $-1 ", "%2 $1 a *1 %1 :1 _ $1 b *1 %1 :1 _ ");
        check(&pairs, "*2 *4 $1 a $1 2 $1 b $1 2 :7 ", "*2 *2 *2 $1 a ,2 *2 $1 b ,2 :7 ");
    }

    #[test]
    fn numbers_are_short_and_exact() {
        for (value, text) in [
            (3.0, "3"),
            (-2.5, "-2.5"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e16, "10000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (1e-7, "1e-7"),
            (0.000001, "0.000001"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(double(value), text);
        }
    }
}
