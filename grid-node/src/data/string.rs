//! Strings and counters: SET, MSET, INCRBY, compare-and-swap.

use bytes::Bytes;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::set::Condition;
use trimaran_proto::state::grid::{CompareAndSwap, Increment, MultiSet, Reply, Set};

use super::set::canonical_integer;
use super::{ByteString, Change, Keys, Value, expires_at};

/// A value of its own: one that is still a slice of the message it came in would keep all of that in memory.
fn own(bytes: &Bytes) -> Value {
    Value::String(ByteString::from(&bytes[..]))
}

fn bytes(value: &Value) -> Option<&ByteString> {
    match value {
        Value::String(bytes) => Some(bytes),
        _ => None,
    }
}

fn wrong_type() -> Reply {
    Reply { outcome: Outcome::WrongType.into(), ..Reply::default() }
}

/// SET with its options. The reply has the value before if asked for.
pub fn set(keys: &mut Keys, set: &Set, now_ms: u64) -> Reply {
    let held = keys.get(&set.key, now_ms);
    let held_version = held.map_or(0, |entry| entry.version);
    let previous = match held.filter(|_| set.want_previous).map(|entry| bytes(&entry.value)) {
        None => None,
        Some(Some(bytes)) => Some(bytes.to_bytes()),
        Some(None) => return wrong_type(),
    };
    let held_expiry = held.map_or(0, |entry| entry.expires_at_ms);
    let meets = match set.condition() {
        Condition::Always => true,
        Condition::IfAbsent => held.is_none(),
        Condition::IfPresent => held.is_some(),
    } && set.if_version.is_none_or(|version| version == held_version);
    if !meets {
        return Reply {
            outcome: Outcome::ConditionFailed.into(),
            version: held_version,
            value: previous,
            ..Reply::default()
        };
    }
    let version = keys.put(&set.key, own(&set.value), expires_at(set.expiry.as_ref(), now_ms, held_expiry));
    Reply { version, value: previous, ..Reply::default() }
}

/// MSET, and MSETNX with `if_none_exists`.
pub fn multi_set(keys: &mut Keys, set: &MultiSet, now_ms: u64) -> Reply {
    if set.if_none_exists && set.pairs.iter().any(|pair| keys.get(&pair.key, now_ms).is_some()) {
        return Reply { outcome: Outcome::ConditionFailed.into(), ..Reply::default() };
    }
    let mut version = keys.version();
    for pair in &set.pairs {
        version = keys.put(&pair.key, own(&pair.value), 0);
    }
    Reply { version, ..Reply::default() }
}

/// INCRBY: adds to the decimal 64-bit integer; a missing key counts as 0 and gets the command's time to live.
pub fn increment(keys: &mut Keys, increment: &Increment, now_ms: u64) -> Reply {
    let held = keys.get(&increment.key, now_ms);
    let before = match held.map(|entry| bytes(&entry.value).map(|bytes| canonical_integer(bytes))) {
        None => 0,
        Some(Some(Some(before))) => before,
        Some(Some(None)) => return Reply { outcome: Outcome::NotAnInteger.into(), ..Reply::default() },
        Some(None) => return wrong_type(),
    };
    let Some(after) = before.checked_add(increment.by) else {
        return Reply { outcome: Outcome::Overflow.into(), ..Reply::default() };
    };
    let expiry = match held {
        Some(entry) => entry.expires_at_ms,
        None => expires_at(increment.expiry.as_ref(), now_ms, 0),
    };
    let mut digits = itoa::Buffer::new();
    let text = ByteString::from(digits.format(after).as_bytes());
    let version = keys.put(&increment.key, Value::String(text), expiry);
    Reply { integer: after, version, ..Reply::default() }
}

/// Replaces (or deletes) the value if it is the expected one; the reply has the value before.
pub fn compare_and_swap(keys: &mut Keys, swap: &CompareAndSwap, now_ms: u64) -> Reply {
    let held = keys.get(&swap.key, now_ms);
    let previous = match held.map(|entry| bytes(&entry.value)) {
        None => None,
        Some(Some(bytes)) => Some(bytes.to_bytes()),
        Some(None) => return wrong_type(),
    };
    let (held_version, expiry) = held.map_or((0, 0), |entry| (entry.version, entry.expires_at_ms));
    if previous != swap.expected {
        return Reply {
            outcome: Outcome::ConditionFailed.into(),
            value: previous,
            version: held_version,
            ..Reply::default()
        };
    }
    let version = match &swap.value {
        Some(value) => keys.put(&swap.key, own(value), expiry),
        None => {
            keys.remove(&swap.key, Change::Deleted);
            keys.version()
        }
    };
    Reply { value: previous, version, ..Reply::default() }
}
