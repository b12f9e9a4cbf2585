//! When a key was used last and about how often: what eviction chooses by.
//!
//! It is no part of the state that replicas agree on: each notes what it is asked itself, the leader chooses, and which keys
//! go is in the log. Source: `evict.c` of Redis 7.4 (LRU_CLOCK_RESOLUTION, LFULogIncr, LFUDecrAndReturn).

use std::sync::atomic::{AtomicU64, Ordering};

use trimaran_placement::token;

/// What a key begins with, so that it is not the first one to go (`LFU_INIT_VAL`).
const FREQUENCY_AT_FIRST: u8 = 5;

/// The more, the more uses each step of the frequency takes (`lfu-log-factor`).
pub const LOG_FACTOR: u64 = 10;

/// Minutes without use after which the frequency is one less (`lfu-decay-time`).
pub const DECAY_MINUTES: u64 = 1;

/// See the module. In one word: seconds since 1970 in the upper half, below them uses that are counted to look like chance,
/// and the frequency.
#[derive(Debug, Default)]
pub struct Access(AtomicU64);

/// Copies of a slot go to snapshots, which do not have it.
impl Clone for Access {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

/// Two replicas are the same, whatever each was asked.
impl PartialEq for Access {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

fn pack(used_s: u32, uses: u32, frequency: u8) -> u64 {
    u64::from(used_s) << 32 | u64::from(uses & 0x00ff_ffff) << 8 | u64::from(frequency)
}

impl Access {
    /// Of a key that is made now.
    pub fn new(now_ms: u64) -> Self {
        Self::of(now_ms, None)
    }

    /// With what is known of it (RESTORE).
    pub fn of(used_ms: u64, frequency: Option<u8>) -> Self {
        Self(AtomicU64::new(pack(seconds(used_ms), 0, frequency.unwrap_or(FREQUENCY_AT_FIRST))))
    }

    /// It is used now.
    pub fn note(&self, now_ms: u64) {
        // One of two at the same time may be lost.
        let before = self.0.load(Ordering::Relaxed);
        let uses = (before >> 8) as u32 + 1;
        let mut frequency = decayed(before, now_ms);
        let steps = u64::from(frequency.saturating_sub(FREQUENCY_AT_FIRST)) * LOG_FACTOR + 1;
        if frequency < u8::MAX && token::mix(before ^ now_ms).is_multiple_of(steps) {
            frequency += 1;
        }
        self.0.store(pack(seconds(now_ms), uses, frequency), Ordering::Relaxed);
    }

    /// Seconds since it was used.
    pub fn idle_s(&self, now_ms: u64) -> u64 {
        u64::from(seconds(now_ms)).saturating_sub(self.0.load(Ordering::Relaxed) >> 32)
    }

    /// How often, as a logarithm.
    pub fn frequency(&self, now_ms: u64) -> u8 {
        decayed(self.0.load(Ordering::Relaxed), now_ms)
    }
}

fn seconds(ms: u64) -> u32 {
    // Until 2106.
    u32::try_from(ms / 1000).unwrap_or(u32::MAX)
}

fn decayed(packed: u64, now_ms: u64) -> u8 {
    let minutes = (now_ms / 1000).saturating_sub(packed >> 32) / 60;
    let frequency = (packed & 0xff) as u8;
    frequency.saturating_sub(u8::try_from(minutes / DECAY_MINUTES).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in redis.conf, "lfu-log-factor", the row of factor 10: after 100, 1,000, 100,000 uses 10, 18, 142.
    #[test]
    fn a_frequency_grows_as_in_redis() {
        let access = Access::new(0);
        let mut uses = 0;
        for (upto, expected) in [(100, 10), (1000, 18), (100_000, 142)] {
            while uses < upto {
                access.note(0);
                uses += 1;
            }
            let found = access.frequency(0);
            assert!(found.abs_diff(expected) <= expected / 4, "{upto}: {found}");
        }
    }

    #[test]
    fn what_is_not_used_is_idle_and_becomes_rare() {
        let access = Access::new(60_000);
        assert_eq!((access.idle_s(60_000), access.frequency(60_000)), (0, 5));
        assert_eq!((access.idle_s(62_500), access.frequency(179_000)), (2, 4));
        assert_eq!(access.frequency(60_000 * 60), 0);
        access.note(60_000 * 60);
        assert_eq!((access.idle_s(60_000 * 60), access.frequency(60_000 * 60)), (0, 1));
    }
}
