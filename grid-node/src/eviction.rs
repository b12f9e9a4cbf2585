//! Keeps the keys of a node within its memory: where this node leads, it chooses keys by the policy and proposes that they go,
//! so that every replica removes the same ones at the same place in the log. Where nothing can go, it proposes that commands
//! that may need more memory are refused.
//!
//! A command waits for room before it is proposed, as in Redis it is made before a command is carried out. What is on its way
//! already is not waited for: by that much more may be taken for a moment.

use std::cmp::Reverse;
use std::collections::HashSet;

use bytes::Bytes;
use prost::Message as _;
use rand::Rng as _;
use rand::rngs::StdRng;
use tracing::debug;
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::{Command, Evict, Victim};
use trimaran_replication::group::Group;

use crate::command::table::PIPELINE_FORMAT;
use crate::data::{Entry, Keys};
use crate::limits::{EVICT_AGAIN_AFTER, EVICT_EVERY, EVICTED_KEYS_MAX};
use crate::machine::GridMachine;
use crate::memory::{First, Memory, Policy};
use crate::metrics;
use crate::router::Router;

/// Runs as long as its node.
pub async fn run(router: Router, memory: Memory, mut random: StdRng) {
    loop {
        tokio::select! {
            () = memory.wanted() => {}
            () = tokio::time::sleep(EVICT_EVERY) => {}
        }
        // Older nodes would stop at what they do not know.
        if router.format() < PIPELINE_FORMAT {
            memory.tell(memory.excess() > 0);
            continue;
        }
        while memory.excess() > 0 && evict(&router, &memory, &mut random).await {
            // What others lead is theirs to make room in: they are given a moment.
            if memory.excess() > 0 && router.replicas().iter().any(|(_, group)| !group.is_leader()) {
                tokio::time::sleep(EVICT_AGAIN_AFTER).await;
            }
        }
        let is_full = memory.excess() > 0;
        for group in led(&router) {
            if group.read_now(|machine| machine.keys().is_full) != is_full {
                propose(&group, Vec::new(), is_full).await;
            }
        }
        // Those that wait for it find its partition full, if nothing could be done.
        memory.tell(is_full);
    }
}

fn led(router: &Router) -> Vec<Group<GridMachine>> {
    let groups = router.replicas().into_iter().map(|(_, group)| group);
    groups.filter(Group::is_leader).collect()
}

/// Has some keys removed, of each partition that is led here by what it holds. False if there was nothing that could go.
async fn evict(router: &Router, memory: &Memory, random: &mut StdRng) -> bool {
    let excess = memory.excess();
    // Of what is led elsewhere, whoever leads it has some removed.
    let all = memory.used();
    let mut went = false;
    for group in led(router) {
        let bytes = group.read_now(|machine| machine.keys().bytes() as u64);
        // Of those that hold much, more goes.
        let share =
            u64::try_from(u128::from(excess) * u128::from(bytes) / u128::from(all.max(1))).unwrap_or(excess);
        let now_ms = router.now_ms(&group);
        let victims = group.read_now(|machine| {
            choose(machine.keys(), memory.policy(), memory.samples(), share.max(1), now_ms, random)
        });
        let count = victims.len() as u64;
        if count > 0 && propose(&group, victims, false).await {
            memory.note_evicted(count);
            metrics::evicted().increment(count);
            went = true;
        }
    }
    went
}

async fn propose(group: &Group<GridMachine>, victims: Vec<Victim>, is_full: bool) -> bool {
    let command = Command { body: Some(Body::Evict(Evict { victims, is_full })), ..Command::default() };
    let proposed = group.propose(Bytes::from(command.encode_to_vec()), None).await;
    if let Err(error) = &proposed {
        // Tried again in a moment, by whoever leads then.
        debug!(partition = group.id(), %error, "no room was made");
    }
    proposed.is_ok()
}

/// Which keys go, of about so many bytes or as many as one command removes. For each of them several are looked at, and
/// those that are to go first go.
fn choose(
    keys: &Keys,
    policy: Policy,
    samples: usize,
    bytes: u64,
    now_ms: u64,
    random: &mut StdRng,
) -> Vec<Victim> {
    let Policy::Evict { volatile, first } = policy else { return Vec::new() };
    if keys.is_empty() {
        return Vec::new();
    }
    let mean = (keys.bytes() / keys.len()).max(1) as u64;
    let wanted = usize::try_from(bytes.div_ceil(mean)).unwrap_or(usize::MAX).clamp(1, EVICTED_KEYS_MAX);
    let mut found: Vec<(&[u8], &Entry)> = if first == First::SoonestToEnd {
        // They are in that order.
        keys.soonest().take(wanted).collect()
    } else {
        let samples = if first == First::Random { 1 } else { samples };
        let looked_at = wanted.saturating_mul(samples).min(SAMPLES_MAX);
        let some = std::iter::repeat_with(|| {
            if volatile { keys.some_volatile(random.random()) } else { keys.some(random.random()) }
        });
        let mut seen: HashSet<&[u8]> = HashSet::new();
        some.take(looked_at).flatten().filter(|(key, _)| seen.insert(key)).collect()
    };
    match first {
        First::LeastRecentlyUsed => found.sort_by_key(|(_, entry)| Reverse(entry.access.idle_s(now_ms))),
        First::LeastFrequentlyUsed => found.sort_by_key(|(_, entry)| entry.access.frequency(now_ms)),
        First::Random | First::SoonestToEnd => {}
    }
    let mut left = bytes;
    let mut victims = Vec::new();
    for (key, entry) in found.into_iter().take(wanted) {
        if left == 0 {
            break;
        }
        left = left.saturating_sub(keys.bytes_of_entry(key, entry) as u64);
        victims.push(Victim { key: Bytes::copy_from_slice(key), version: entry.version });
    }
    victims
}

/// Keys that are looked at for one command.
const SAMPLES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use trimaran_placement::token::Token;

    use super::*;
    use crate::data::ByteString;

    /// Keys with numbers; those with odd ones end, the greater the later. Each was used as many seconds after 1970, and as
    /// often, as its number says.
    fn keys(count: u64) -> Keys {
        let mut keys = Keys::new(Token(0), Token(u64::MAX));
        for number in 0..count {
            let end = if number % 2 == 1 { 1_000_000 + number } else { 0 };
            let key = format!("k{number}");
            keys.put(key.as_bytes(), ByteString::from(&b"value"[..]).into(), end);
            let access = &keys.get(key.as_bytes(), 0).unwrap().access;
            (0..number * 20).for_each(|_| access.note(number * 1000));
        }
        keys
    }

    fn chosen(policy: &str, samples: usize, bytes: u64) -> Vec<u64> {
        let keys = keys(100);
        let policy = Policy::parse(policy).unwrap();
        let victims = choose(&keys, policy, samples, bytes, 100_000, &mut StdRng::seed_from_u64(1));
        victims.iter().map(|victim| std::str::from_utf8(&victim.key[1..]).unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn those_go_first_that_the_policy_names() {
        let one = keys(1).bytes() as u64;
        assert!(chosen("noeviction", 5, one).is_empty());
        let some = chosen("allkeys-lru", 20, one * 20);
        assert!(some.len() >= 15 && some.iter().all(|number| *number < 40), "{some:?}");
        let some = chosen("allkeys-lfu", 20, one * 20);
        assert!(some.len() >= 15 && some.iter().all(|number| *number < 60), "{some:?}");
        for policy in ["volatile-lru", "volatile-lfu", "volatile-random"] {
            let some = chosen(policy, 20, one * 10);
            assert!(some.len() >= 5 && some.iter().all(|number| number % 2 == 1), "{policy}: {some:?}");
        }
        assert_eq!(chosen("volatile-ttl", 1, one * 3)[..3], [1, 3, 5]);
        let some: HashSet<u64> = chosen("allkeys-random", 1, one * 10).into_iter().collect();
        assert!(some.len() > 5 && some.iter().any(|number| *number > 50), "{some:?}");
    }

    #[test]
    fn no_more_go_than_are_needed() {
        let one = keys(1).bytes() as u64;
        assert_eq!(chosen("allkeys-lru", 5, 1).len(), 1);
        assert!(chosen("allkeys-random", 5, one * 1000).len() <= 100);
    }
}
