//! What keys and values take in memory, and how much they may: `maxmemory`, and which keys go first.
//!
//! One account for all partitions of a node. Next: [`crate::eviction`], which keeps it within its limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::limits::ROOM_PATIENCE;

/// Which keys go when there is no room, as `maxmemory-policy` has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// None: what needs more memory is refused.
    #[default]
    NoEviction,
    /// Some.
    Evict {
        /// Only those with a time to live.
        volatile: bool,
        /// Which of them first.
        first: First,
    },
}

/// Which keys go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// Those that were not used for the longest time.
    LeastRecentlyUsed,
    /// Those that are used least often.
    LeastFrequentlyUsed,
    /// Any.
    Random,
    /// Those that end soonest.
    SoonestToEnd,
}

/// Names in their order.
const POLICIES: [(&str, Policy); 8] = {
    const fn evict(volatile: bool, first: First) -> Policy {
        Policy::Evict { volatile, first }
    }
    [
        ("noeviction", Policy::NoEviction),
        ("allkeys-lru", evict(false, First::LeastRecentlyUsed)),
        ("allkeys-lfu", evict(false, First::LeastFrequentlyUsed)),
        ("allkeys-random", evict(false, First::Random)),
        ("volatile-lru", evict(true, First::LeastRecentlyUsed)),
        ("volatile-lfu", evict(true, First::LeastFrequentlyUsed)),
        ("volatile-random", evict(true, First::Random)),
        ("volatile-ttl", evict(true, First::SoonestToEnd)),
    ]
};

impl Policy {
    /// The policy of a name.
    pub fn parse(name: &str) -> Option<Self> {
        POLICIES.iter().find(|(known, _)| *known == name).map(|(_, policy)| *policy)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        POLICIES.iter().find(|(_, policy)| *policy == self).map_or("noeviction", |(name, _)| name)
    }
}

/// A size as redis.conf has them: `100mb`, `1g`, bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// The account of a node. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    used: AtomicU64,
    /// 0 = none.
    most: AtomicU64,
    /// A place among the policies.
    policy: AtomicU8,
    samples: AtomicU64,
    evicted: AtomicU64,
    /// There is nothing that could go.
    is_stuck: AtomicBool,
    /// Somebody needs room.
    wanted: Notify,
    /// There may be some.
    made: Notify,
}

impl Memory {
    /// Bytes of keys and values of all partitions of this node.
    pub fn used(&self) -> u64 {
        self.inner.used.load(Ordering::Relaxed)
    }

    /// What they may be; 0 = anything.
    pub fn most(&self) -> u64 {
        self.inner.most.load(Ordering::Relaxed)
    }

    /// Sets what they may be.
    pub fn limit(&self, most: u64) {
        self.inner.most.store(most, Ordering::Relaxed);
        self.changed();
    }

    /// Which keys go.
    pub fn policy(&self) -> Policy {
        let place = usize::from(self.inner.policy.load(Ordering::Relaxed));
        POLICIES.get(place).map_or(Policy::NoEviction, |(_, policy)| *policy)
    }

    /// Sets which keys go.
    pub fn choose_by(&self, policy: Policy) {
        let place = POLICIES.iter().position(|(_, known)| *known == policy).unwrap_or(0);
        self.inner.policy.store(u8::try_from(place).unwrap_or(0), Ordering::Relaxed);
        self.changed();
    }

    /// How many keys are looked at for each that goes.
    pub fn samples(&self) -> usize {
        match self.inner.samples.load(Ordering::Relaxed) {
            0 => crate::limits::EVICTION_SAMPLES_DEFAULT,
            samples => usize::try_from(samples).unwrap_or(usize::MAX),
        }
    }

    /// Sets how many are looked at.
    pub fn look_at(&self, samples: u64) {
        self.inner.samples.store(samples, Ordering::Relaxed);
    }

    /// Keys that have gone at this node's word.
    pub fn evicted(&self) -> u64 {
        self.inner.evicted.load(Ordering::Relaxed)
    }

    pub(crate) fn note_evicted(&self, count: u64) {
        self.inner.evicted.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts from nothing again.
    pub(crate) fn forget_evicted(&self) {
        self.inner.evicted.store(0, Ordering::Relaxed);
    }

    /// Bytes that have to go.
    pub fn excess(&self) -> u64 {
        match self.most() {
            0 => 0,
            most => self.used().saturating_sub(most),
        }
    }

    fn changed(&self) {
        self.inner.is_stuck.store(false, Ordering::Relaxed);
        self.inner.wanted.notify_one();
    }

    /// True if partitions do not know yet that there is room, or that there is none.
    fn is_to_be_told(&self) -> bool {
        (self.excess() > 0) != self.inner.is_stuck.load(Ordering::Relaxed)
    }

    /// Returns when there is room, or none can be made, or not soon: what needs it is refused by the partition then.
    pub async fn room(&self) {
        if !self.is_to_be_told() {
            return;
        }
        let made = async {
            loop {
                let made = self.inner.made.notified();
                self.inner.wanted.notify_one();
                if !self.is_to_be_told() {
                    return;
                }
                made.await;
            }
        };
        // Without a leader here nothing can be made.
        let _elapsed = timeout(ROOM_PATIENCE, made).await;
    }

    /// Returns when somebody needs room.
    pub(crate) async fn wanted(&self) {
        self.inner.wanted.notified().await;
    }

    /// Tells those who wait for room that there is some, or that there will be none.
    pub(crate) fn tell(&self, is_stuck: bool) {
        self.inner.is_stuck.store(is_stuck, Ordering::Relaxed);
        self.inner.made.notify_waiters();
    }

    /// A share of it, of nothing yet.
    pub fn share(&self) -> Share {
        Share { memory: self.clone(), bytes: 0 }
    }
}

/// What one partition takes. It is given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    memory: Memory,
    bytes: u64,
}

impl Share {
    /// It takes so many bytes now.
    pub fn is(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        let used = &self.memory.inner.used;
        if bytes > self.bytes {
            used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// Another one of the same account.
    pub fn another(&self) -> Self {
        self.memory.share()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.is(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_redis_conf() {
        for (text, bytes) in [
            ("100", Some(100)),
            ("1k", Some(1000)),
            ("1Kb", Some(1024)),
            ("2gb", Some(2 << 30)),
            ("mb", None),
            ("1x", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
        for (name, policy) in POLICIES {
            assert_eq!((Policy::parse(name), policy.name()), (Some(policy), name));
        }
    }

    #[test]
    fn what_a_partition_takes_is_given_back() {
        let memory = Memory::default();
        let (mut one, mut other) = (memory.share(), memory.share());
        one.is(100);
        other.is(50);
        one.is(70);
        assert_eq!(memory.used(), 120);
        memory.limit(100);
        assert_eq!(memory.excess(), 20);
        drop(one);
        assert_eq!((memory.used(), memory.excess()), (50, 0));
    }
}
