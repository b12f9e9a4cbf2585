//! Commands that know no data type: DEL, EXPIRE, SCAN, and the removal of keys that are due.

use bytes::Bytes;
use trimaran_placement::token::{self, Token};
use trimaran_proto::state::grid::expire::Condition;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{Delete, Evict, Expire, Reap, Reply};

use super::{Change, Keys, Value, expires_at};

/// DEL: the reply counts the keys that were there.
pub fn delete(keys: &mut Keys, delete: &Delete, now_ms: u64) -> Reply {
    if let (Some(version), Some(key)) = (delete.if_version, delete.keys.first())
        && keys.get(key, now_ms).map_or(0, |entry| entry.version) != version
    {
        return Reply { outcome: Outcome::ConditionFailed.into(), ..Reply::default() };
    }
    if delete.want_previous
        && let Some(entry) = delete.keys.first().and_then(|key| keys.get(key, now_ms))
        && !matches!(entry.value, Value::String(_))
    {
        return Reply { outcome: Outcome::WrongType.into(), ..Reply::default() };
    }
    let mut reply = Reply::default();
    for key in &delete.keys {
        // A key that is due is gone for everybody; it is the reaper's, and watches see it expire, not be deleted.
        if keys.get(key, now_ms).is_some()
            && let Some(before) = keys.remove(key, Change::Deleted)
        {
            reply.integer += 1;
            if let (true, Value::String(bytes)) = (delete.want_previous, before.value) {
                reply.value = Some(bytes.to_bytes());
            }
        }
    }
    reply.version = keys.version();
    reply
}

/// EXPIRE and PERSIST.
pub fn expire(keys: &mut Keys, expire: &Expire, now_ms: u64) -> Reply {
    let failed = || Reply { outcome: Outcome::ConditionFailed.into(), ..Reply::default() };
    let Some(held) = keys.get(&expire.key, now_ms).map(|entry| entry.expires_at_ms) else { return failed() };
    let wanted = expires_at(expire.expiry.as_ref(), now_ms, held);
    let meets = match expire.condition() {
        Condition::Always => true,
        Condition::IfNone => held == 0,
        Condition::IfAny => held != 0,
        // Never is later than every time.
        Condition::IfLater => held != 0 && wanted > held,
        Condition::IfEarlier => held == 0 || wanted < held,
    };
    if !meets {
        return failed();
    }
    if wanted != 0 && wanted <= now_ms {
        keys.remove(&expire.key, Change::Expired);
    } else {
        keys.set_expiry(&expire.key, wanted);
    }
    Reply { integer: 1, version: keys.version(), ..Reply::default() }
}

/// Removes keys to make room, those that have not changed since they were chosen, and says whether there is any.
pub fn evict(keys: &mut Keys, evict: &Evict) -> Reply {
    let mut removed = 0;
    for victim in &evict.victims {
        let held =
            keys.position(&victim.key).and_then(|position| keys.slots[position].entries.get(&victim.key[..]));
        if held.is_some_and(|entry| entry.version == victim.version)
            && keys.remove(&victim.key, Change::Deleted).is_some()
        {
            removed += 1;
        }
    }
    keys.is_full = evict.is_full;
    Reply { integer: removed, version: keys.version(), ..Reply::default() }
}

/// Removes those of the named keys that are due at the stamp: one may have got another time to live meanwhile.
pub fn reap(keys: &mut Keys, reap: &Reap, now_ms: u64) -> Reply {
    let mut removed = 0;
    for key in &reap.keys {
        let due = keys
            .position(key)
            .and_then(|position| keys.slots.get(position)?.entries.get(&key[..]))
            .is_some_and(|entry| entry.is_due(now_ms));
        if due && keys.remove(key, Change::Expired).is_some() {
            removed += 1;
        }
        // Its hash may have fields that are due.
        keys.reap_fields(key, now_ms);
    }
    for name in &reap.semaphores {
        keys.reap_semaphore(name, keys.passed_ms);
    }
    Reply { integer: removed, version: keys.version(), ..Reply::default() }
}

/// One page of a scan: keys with tokens from `cursor` on, and where to go on; `None` = this partition is done.
///
/// Keys come in the order of their tokens, which never change: one that is there from the begin to the end of a scan
/// is returned, whatever happens to others, and once. Those of another type than `kind` are left out, but count.
pub fn scan(
    keys: &Keys,
    cursor: Token,
    count: usize,
    kind: Option<&str>,
    now_ms: u64,
) -> (Vec<Bytes>, Option<Token>) {
    let (first, last) = keys.range();
    let start = cursor.max(first);
    let mut found: Vec<Bytes> = Vec::new();
    let mut seen = 0;
    for slot in token::slot_of(start)..=token::slot_of(last) {
        let Some(here) = keys.slots.get(usize::from(slot - token::slot_of(first))) else { break };
        let mut here: Vec<(Token, &[u8], bool)> = here
            .entries
            .iter()
            .filter(|(_, entry)| !entry.is_due(now_ms))
            .map(|(key, entry)| {
                let is_wanted = kind.is_none_or(|kind| entry.value.type_name() == kind);
                (token::grid(key), &**key, is_wanted)
            })
            .filter(|(token, ..)| *token >= start)
            .collect();
        here.sort_unstable();
        let mut rest = here.into_iter().peekable();
        while let Some((token, key, is_wanted)) = rest.next() {
            seen += 1;
            if is_wanted {
                found.push(Bytes::copy_from_slice(key));
            }
            // Never stop between two keys of one token: the cursor could not tell them apart.
            let same_again = rest.peek().is_some_and(|(next, ..)| *next == token);
            if seen >= count && !same_again {
                return (found, token.0.checked_add(1).map(Token).filter(|next| *next <= last));
            }
        }
    }
    (found, None)
}
