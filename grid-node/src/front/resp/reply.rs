//! Answers to bytes, in RESP2 or RESP3.

use bytes::{BufMut as _, BytesMut};

/// Version of the protocol that the client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Until HELLO says otherwise.
    Resp2,
    /// With types of its own for maps and for nothing.
    Resp3,
}

/// `+text`
pub fn simple(out: &mut BytesMut, text: &str) {
    out.put_u8(b'+');
    out.put_slice(text.as_bytes());
    out.put_slice(b"\r\n");
}

/// `-text`; line ends within it become spaces, so that a name sent by a client cannot forge another answer.
pub fn error(out: &mut BytesMut, text: &str) {
    out.put_u8(b'-');
    out.extend(text.bytes().map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
    out.put_slice(b"\r\n");
}

/// `:number`
pub fn integer(out: &mut BytesMut, value: i64) {
    header(out, b':', value);
}

/// `$length bytes`
pub fn bulk(out: &mut BytesMut, bytes: &[u8]) {
    header(out, b'$', bytes.len() as i64);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// Nothing.
pub fn null(out: &mut BytesMut, protocol: Protocol) {
    out.put_slice(match protocol {
        Protocol::Resp2 => b"$-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Head of an array; its elements follow.
pub fn array(out: &mut BytesMut, count: usize) {
    header(out, b'*', count as i64);
}

/// Head of a map; keys and values follow in turn. An array in RESP2.
pub fn map(out: &mut BytesMut, protocol: Protocol, pairs: usize) {
    match protocol {
        Protocol::Resp2 => array(out, pairs * 2),
        Protocol::Resp3 => header(out, b'%', pairs as i64),
    }
}

fn header(out: &mut BytesMut, kind: u8, value: i64) {
    let mut digits = itoa::Buffer::new();
    out.put_u8(kind);
    out.put_slice(digits.format(value).as_bytes());
    out.put_slice(b"\r\n");
}
