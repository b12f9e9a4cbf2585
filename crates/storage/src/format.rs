//! How stored records are framed: `length u32 · checksum u32 · kind u8 · group u64 · payload`, little-endian.
//!
//! The checksum is CRC-32C over everything behind it, seeded with the file's own number: a record left over from
//! an earlier life of a recycled file does not pass for one of this life.

use bytes::{Buf as _, BufMut as _, BytesMut};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 4 + 4 + 1 + 8;

/// Largest payload of one record: the largest Raft entry plus its head.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// One record, borrowed from a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the payload is; 0 is never used, so that zeros are no record.
    pub kind: u8,
    /// Whose it is.
    pub group: u64,
    /// The rest.
    pub payload: &'a [u8],
}

/// Appends one record to `buffer`. The payload is what `fill` writes.
pub fn put(buffer: &mut BytesMut, seed: u64, kind: u8, group: u64, fill: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.put_u32_le(0);
    buffer.put_u32_le(0);
    buffer.put_u8(kind);
    buffer.put_u64_le(group);
    fill(buffer);
    let length = (buffer.len() - start - HEADER_BYTES) as u32;
    let checksum = checksum(seed, length, &buffer[start + 8..]);
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    buffer[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// The record at the start of `bytes` and how many bytes it takes; `None` if there is none that is whole.
pub fn get(bytes: &[u8], seed: u64) -> Option<(Record<'_>, usize)> {
    if bytes.len() < HEADER_BYTES {
        return None;
    }
    let mut head = &bytes[..HEADER_BYTES];
    let length = head.get_u32_le();
    let expected = head.get_u32_le();
    let kind = head.get_u8();
    let group = head.get_u64_le();
    let end = HEADER_BYTES.checked_add(length as usize)?;
    if kind == 0 || length as usize > PAYLOAD_BYTES_MAX || bytes.len() < end {
        return None;
    }
    (checksum(seed, length, &bytes[8..end]) == expected)
        .then(|| (Record { kind, group, payload: &bytes[HEADER_BYTES..end] }, end))
}

/// How many bytes the record takes that begins with this header; `None` if none can.
pub fn record_bytes(header: &[u8; HEADER_BYTES]) -> Option<usize> {
    let length = (&header[..]).get_u32_le() as usize;
    (length <= PAYLOAD_BYTES_MAX).then_some(HEADER_BYTES + length)
}

/// CRC-32C of some bytes, for pieces that travel by themselves.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

fn checksum(seed: u64, length: u32, body: &[u8]) -> u32 {
    let mut head = [0; 12];
    head[..8].copy_from_slice(&seed.to_le_bytes());
    head[8..].copy_from_slice(&length.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_no_damaged_one_does() {
        let mut buffer = BytesMut::new();
        put(&mut buffer, 7, 3, 42, |out| out.put_slice(b"payload"));
        let (record, used) = get(&buffer, 7).unwrap();
        assert_eq!((record.kind, record.group, record.payload, used), (3, 42, &b"payload"[..], buffer.len()));
        assert!(get(&buffer, 8).is_none(), "a record of another life");
        for at in 0..buffer.len() {
            let mut damaged = buffer.clone();
            damaged[at] ^= 0x10;
            assert!(get(&damaged, 7).is_none(), "byte {at}");
        }
        for length in 0..buffer.len() {
            assert!(get(&buffer[..length], 7).is_none(), "cut at {length}");
        }
    }

    #[test]
    fn the_format_is_the_one_of_version_1() {
        let mut buffer = BytesMut::new();
        put(&mut buffer, 1, 2, 3, |out| out.put_slice(b"abc"));
        let golden =
            [3, 0, 0, 0, buffer[4], buffer[5], buffer[6], buffer[7], 2, 3, 0, 0, 0, 0, 0, 0, 0, 97, 98, 99];
        assert_eq!(&buffer[..], golden);
        assert_eq!(u32::from_le_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]), 2_784_892_044);
    }
}
