//! Values and libraries as Redis writes them: DUMP, RESTORE, FUNCTION DUMP. Bytes of either go to and fro between a Redis and
//! this grid. [`packed`] has the layouts within. Source: `rdb.h`, `rdb.c`, `lzf_d.c` of Redis.

use std::borrow::Cow;

use crc::{CRC_64_REDIS, Crc};

use super::{Done, Refusal, refuse};
use crate::limits::{RESTORED_BYTES_MAX, VALUE_BYTES_MAX};

mod packed;
mod value;

pub(super) use value::{read as read_value, write as write_value};

/// The version of the format that knows libraries of functions: that of Redis 7.0.
pub(super) const FUNCTIONS_VERSION: u16 = 10;

/// The newest version that is read: that of Redis 7.4.
const VERSION_MAX: u16 = 12;

/// A version and a checksum.
const FOOTER_BYTES: usize = 10;

const CHECKSUM: Crc<u64> = Crc::<u64>::new(&CRC_64_REDIS);

pub(super) fn bad() -> Refusal {
    Refusal::new("ERR Bad data format")
}

/// Writes a length.
pub(super) fn put_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..=0x3f => out.push(length as u8),
        0x40..=0x3fff => out.extend([0x40 | (length >> 8) as u8, length as u8]),
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend((length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend(length.to_be_bytes());
        }
    }
}

/// Writes a string.
pub(super) fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    put_length(out, string.len() as u64);
    out.extend(string);
}

/// Writes behind it the version from which on Redis knows all of it, and the checksum.
pub(super) fn seal(out: &mut Vec<u8>, version: u16) {
    out.extend(version.to_le_bytes());
    out.extend(CHECKSUM.checksum(out).to_le_bytes());
}

/// Reads what was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Bytes that compressed strings may still become.
    expands: usize,
}

impl<'a> Reader<'a> {
    /// What is before a footer that is right.
    pub(super) fn sealed(payload: &'a [u8]) -> Done<Self> {
        const WRONG: &str = "ERR DUMP payload version or checksum are wrong";
        let Some(end) = payload.len().checked_sub(FOOTER_BYTES) else { return refuse(WRONG) };
        let (rest, footer) = payload.split_at(end);
        let mut version = [0; 2];
        version.copy_from_slice(&footer[..2]);
        let mut checksum = [0; 8];
        checksum.copy_from_slice(&footer[2..]);
        let checksum = u64::from_le_bytes(checksum);
        // 0 = it was not calculated.
        let is_right = checksum == 0 || checksum == CHECKSUM.checksum(&payload[..end + 2]);
        if u16::from_le_bytes(version) > VERSION_MAX || !is_right {
            return refuse(WRONG);
        }
        Ok(Self { rest, expands: RESTORED_BYTES_MAX })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn byte(&mut self) -> Done<u8> {
        Ok(self.bytes(1)?[0])
    }

    pub(super) fn bytes(&mut self, count: usize) -> Done<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or_else(bad)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Done<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// A number that something is written in front of with.
    fn prefix(&mut self) -> Done<Result<u64, u8>> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Ok(u64::from(first)),
            1 => Ok(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => Ok(u64::from(u32::from_be_bytes(self.array()?))),
            2 if first == 0x81 => Ok(u64::from_be_bytes(self.array()?)),
            2 => return Err(bad()),
            _ => Err(first & 0x3f),
        })
    }

    /// A length.
    pub(super) fn length(&mut self) -> Done<u64> {
        self.prefix()?.map_err(|_encoding| bad())
    }

    /// How many elements follow, each of which takes at least a byte.
    pub(super) fn count(&mut self) -> Done<usize> {
        usize::try_from(self.length()?).ok().filter(|count| *count <= self.rest.len()).ok_or_else(bad)
    }

    pub(super) fn u64(&mut self) -> Done<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn f64(&mut self) -> Done<f64> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// A string, which may be written as a number or compressed.
    pub(super) fn string(&mut self) -> Done<Cow<'a, [u8]>> {
        let number = |number: i64| Cow::Owned(number.to_string().into_bytes());
        Ok(match self.prefix()? {
            Ok(length) => Cow::Borrowed(self.bytes(usize::try_from(length).map_err(|_long| bad())?)?),
            Err(0) => number(i64::from(i8::from_le_bytes(self.array()?))),
            Err(1) => number(i64::from(i16::from_le_bytes(self.array()?))),
            Err(2) => number(i64::from(i32::from_le_bytes(self.array()?))),
            Err(3) => {
                let compressed = self.count()?;
                let length = usize::try_from(self.length()?).ok().filter(|length| *length <= VALUE_BYTES_MAX);
                let length = length.ok_or_else(bad)?;
                let Some(left) = self.expands.checked_sub(length) else {
                    return refuse(format!(
                        "ERR the value is larger than RESTORED_BYTES_MAX = {RESTORED_BYTES_MAX} when it is not compressed"
                    ));
                };
                self.expands = left;
                Cow::Owned(expand(self.bytes(compressed)?, length)?)
            }
            Err(_) => return Err(bad()),
        })
    }
}

/// What LibLZF has compressed. Source: `lzf_d.c`.
fn expand(mut compressed: &[u8], length: usize) -> Done<Vec<u8>> {
    let mut out = Vec::with_capacity(length);
    let mut next = |count: usize| {
        let (bytes, rest) = compressed.split_at_checked(count)?;
        compressed = rest;
        Some(bytes)
    };
    while out.len() < length {
        let control = usize::from(next(1).ok_or_else(bad)?[0]);
        if control < 32 {
            out.extend(next(control + 1).ok_or_else(bad)?);
            continue;
        }
        let mut count = control >> 5;
        if count == 7 {
            count += usize::from(next(1).ok_or_else(bad)?[0]);
        }
        let back = ((control & 0x1f) << 8 | usize::from(next(1).ok_or_else(bad)?[0])) + 1;
        let from = out.len().checked_sub(back).ok_or_else(bad)?;
        // It may repeat what it writes itself.
        for at in from..from + count + 2 {
            out.push(out[at]);
        }
    }
    if out.len() == length { Ok(out) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_back() {
        for length in [0, 63, 64, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_length(&mut out, length);
            assert_eq!(Reader { rest: &out, expands: 0 }.length().unwrap(), length);
        }
    }

    #[test]
    fn the_checksum_is_that_of_redis() {
        // Source: `crc64.c`, its own test.
        assert_eq!(CHECKSUM.checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert!(Reader::sealed(b"bad_payload").is_err());
    }

    #[test]
    fn what_was_compressed_is_expanded() {
        // One literal, then it is repeated.
        assert_eq!(expand(&[0, b'a', 0xe0, 12, 0], 22).unwrap(), [b'a'; 22]);
        assert!(expand(&[0xe0, 12, 0], 21).is_err());
        assert!(expand(&[], 1).is_err());
    }
}
