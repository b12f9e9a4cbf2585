//! Keys to 64-bit tokens. Fixed for ever: a stored cluster depends on every bit (golden vectors below).

use std::fmt;

use crc::{CRC_16_XMODEM, Crc, Table};
use twox_hash::XxHash3_64;

/// A point on the line that partitions cut into ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Slots of a grid, as in Redis Cluster.
pub const SLOTS: u16 = 16_384;

/// A slot is the high 14 bits of a grid token.
const SLOT_SHIFT: u32 = 64 - 14;

static CRC16: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);

/// The Redis Cluster slot of a key, 0 to 16,383: CRC-16/XMODEM of the key, or of what stands between the first
/// `{` and the next `}` if that is not empty (a hash tag).
///
/// Source: Redis Cluster specification, "Key distribution model" and "Hash tags".
pub fn slot(key: &[u8]) -> u16 {
    CRC16.checksum(hash_tag(key)) % SLOTS
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|&byte| byte == b'}') {
        Some(close) if close > 0 => &rest[..close],
        _ => key,
    }
}

/// The token of a grid key: its slot in the high 14 bits, XXH3-64 of the whole key below, so that keys of one slot
/// are neighbours and a scan can stop and go on anywhere.
pub fn grid(key: &[u8]) -> Token {
    Token((u64::from(slot(key)) << SLOT_SHIFT) | (XxHash3_64::oneshot(key) >> (64 - SLOT_SHIFT)))
}

/// The slot that a grid token lies in.
pub fn slot_of(token: Token) -> u16 {
    // 14 bits remain after the shift.
    (token.0 >> SLOT_SHIFT) as u16
}

/// True if ranges of tokens, both inclusive, have all tokens. Sorts them.
pub fn are_all(ranges: &mut [(Token, Token)]) -> bool {
    ranges.sort_unstable();
    let mut next = 0;
    for (first, last) in ranges {
        if first.0 > next {
            return false;
        }
        match last.0.checked_add(1) {
            Some(behind) => next = next.max(behind),
            None => return true,
        }
    }
    false
}

/// First token of a slot.
pub fn slot_start(slot: u16) -> Token {
    Token(u64::from(slot) << SLOT_SHIFT)
}

/// Last token of a slot.
pub fn slot_end(slot: u16) -> Token {
    Token(slot_start(slot).0 | (u64::MAX >> (64 - SLOT_SHIFT)))
}

/// The token of a database item: XXH3-64 of the table's id and the canonical bytes of its partition key, so that
/// every table spreads over all partitions.
pub fn shard(table_id: u64, partition_key: &[u8]) -> Token {
    Token(XxHash3_64::oneshot_with_seed(table_id, partition_key))
}

/// The point of the ring where a partition's walk begins: splitmix64 of its id, so that neighbours in id are not
/// neighbours on the ring.
pub fn partition_point(partition: u64) -> u64 {
    mix(partition)
}

/// What looks like chance and follows from a number: the finaliser of splitmix64 (Steele, Lea, Flood 2014).
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_all_tokens_when_none_is_missing() {
        let range = |first, last| (Token(first), Token(last));
        assert!(!are_all(&mut []));
        assert!(are_all(&mut [range(10, u64::MAX), range(0, 9)]));
        assert!(!are_all(&mut [range(11, u64::MAX), range(0, 9)]));
        assert!(are_all(&mut [range(0, 20), range(5, 9), range(21, u64::MAX)]));
    }

    #[test]
    fn slots_are_those_of_redis() {
        // From the Redis Cluster specification and `CLUSTER KEYSLOT` of redis-server 7.0.15.
        for (key, expected) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("bar", 5_061),
            ("foo{hash_tag}", 2_515),
            ("bar{hash_tag}", 2_515),
            ("{user1000}.following", 3_443),
            ("{user1000}.followers", 3_443),
            ("foo{}{bar}", 8_363),
            ("foo{{bar}}zap", 4_015),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn tokens_never_change() {
        // Checked against the reference implementation (PyPI xxhash).
        assert_eq!(grid(b"foo").to_string(), "be5aadb97d901df9");
        assert_eq!(shard(1, b"foo").to_string(), "54557a2c8b633298");
        assert_eq!(partition_point(1), 0x910a_2dec_8902_5cc1);
    }

    #[test]
    fn slots_follow_each_other() {
        for slot in 1..SLOTS {
            assert_eq!(slot_end(slot - 1).0 + 1, slot_start(slot).0, "{slot}");
        }
        assert_eq!((slot_start(0), slot_end(SLOTS - 1)), (Token(0), Token(u64::MAX)));
    }

    #[test]
    fn a_slot_contains_the_tokens_of_its_keys() {
        for key in [&b"a"[..], b"foo", b"{tag}x", b"\xff\x00"] {
            assert_eq!(slot_of(grid(key)), slot(key));
            assert!((slot_start(slot(key))..=slot_end(slot(key))).contains(&grid(key)));
        }
    }
}
