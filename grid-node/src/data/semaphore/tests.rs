use proptest::prelude::*;
use prost::Message as _;
use trimaran_placement::token::Token;

use super::*;

const LEASE_MS: u64 = 100;

fn keys() -> Keys {
    Keys::new(Token(0), Token(u64::MAX))
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn wanted(holder: &str) -> Acquire {
    Acquire {
        name: text("lock"),
        holder: text(holder),
        permits: 1,
        take: 1,
        lease_ms: LEASE_MS,
        place_ms: 1000,
        ..Acquire::default()
    }
}

/// The token, or `None` if it has to wait.
fn acquires(keys: &mut Keys, holder: &str, now_ms: u64) -> Option<u64> {
    let acquired = acquire(keys, &wanted(holder), now_ms).acquired.unwrap();
    Some(acquired.token).filter(|token| *token > 0)
}

fn releases(keys: &mut Keys, holder: &str, token: u64, now_ms: u64) -> bool {
    let asked = Release { name: text("lock"), holder: text(holder), token, attempt: None };
    release(keys, &asked, now_ms).integer == 1
}

fn renews(keys: &mut Keys, holder: &str, token: u64, now_ms: u64) -> bool {
    let asked =
        Renew { name: text("lock"), holder: text(holder), token, lease_ms: LEASE_MS, ..Renew::default() };
    renew(keys, &asked, now_ms).outcome() == Outcome::Applied
}

fn is_held(keys: &Keys, token: u64, now_ms: u64) -> bool {
    keys.is_held(&Fence { name: text("lock"), token }, now_ms)
}

#[test]
fn what_is_given_back_is_the_next_ones_at_once_and_nobody_overtakes() {
    let mut keys = keys();
    let first = acquires(&mut keys, "a", 0).unwrap();
    assert_eq!(acquires(&mut keys, "b", 1), None);
    assert_eq!(acquires(&mut keys, "c", 2), None);
    assert_eq!(acquire(&mut keys, &wanted("c"), 3).acquired.unwrap().ahead, 1, "it keeps its place");
    assert!(releases(&mut keys, "a", first, 4));
    // Who had it comes back before the next one has heard of it.
    assert_eq!(acquires(&mut keys, "a", 5), None);
    let second = acquires(&mut keys, "b", 6).unwrap();
    assert!(second > first);
    assert!(!releases(&mut keys, "a", first, 7), "it is not its own any more");
    assert!(releases(&mut keys, "b", second, 8));
    assert!(acquires(&mut keys, "c", 9).unwrap() > second);
    assert!(releases(&mut keys, "a", 0, 9), "a place in the queue");
    assert!(releases(&mut keys, "c", 0, 9));
    assert!(keys.semaphore(b"lock").is_none());
    assert_eq!((keys.bytes(), keys.due_semaphores(u64::MAX, 9).len()), (0, 0));
    assert!(
        acquires(&mut keys, "a", 10).unwrap() > second,
        "it is forgotten, but its tokens are not given again"
    );
}

#[test]
fn a_lease_ends_whatever_its_holder_believes() {
    let mut keys = keys();
    let first = acquires(&mut keys, "a", 0).unwrap();
    assert_eq!(acquires(&mut keys, "b", 1), None);
    assert!(renews(&mut keys, "a", first, 90));
    assert!(is_held(&keys, first, 189) && !is_held(&keys, first, 190));
    assert_eq!(keys.due_semaphores(189, 9).len(), 0);
    assert_eq!(keys.due_semaphores(190, 9), [text("lock")]);
    keys.reap_semaphore(&text("lock"), 189);
    assert!(is_held(&keys, first, 189), "not due at the stamp, whatever the proposer thought");
    keys.reap_semaphore(&text("lock"), 190);
    // The next one has it from then on, whether it knows or not.
    let second = keys.semaphore(b"lock").unwrap().state(b"lock").holdings[0].token;
    assert!(second > first && is_held(&keys, second, 289) && !is_held(&keys, first, 190));
    assert!(!renews(&mut keys, "a", first, 200) && !renews(&mut keys, "b", first, 200));
    assert!(renews(&mut keys, "b", second, 200));
    // Without anybody who looks for what is due: who asks finds it ended.
    assert!(acquires(&mut keys, "c", 300).unwrap() > second);
    assert!(!renews(&mut keys, "b", second, 300));
    assert!(!releases(&mut keys, "b", second, 300));
}

#[test]
fn who_does_not_ask_again_loses_its_place() {
    let mut keys = keys();
    let held = acquires(&mut keys, "a", 0).unwrap();
    let place = |keys: &mut Keys, holder, place_ms, now_ms| {
        acquire(keys, &Acquire { place_ms, ..wanted(holder) }, now_ms).acquired
    };
    assert_eq!(place(&mut keys, "b", 0, 1), None, "it does not wait");
    assert_eq!(place(&mut keys, "b", 20, 1).unwrap().ahead, 0);
    assert_eq!(place(&mut keys, "c", 20, 2).unwrap().ahead, 1);
    assert_eq!(place(&mut keys, "b", 50, 10).unwrap().ahead, 0);
    assert_eq!(place(&mut keys, "d", 50, 30).unwrap().ahead, 1, "c has come to its end");
    assert_eq!(place(&mut keys, "b", 0, 31), None, "it gives its place up");
    assert!(releases(&mut keys, "a", held, 40));
    assert!(acquires(&mut keys, "d", 41).is_some());
}

#[test]
fn one_that_takes_much_is_not_overtaken_by_those_that_take_little() {
    let mut keys = keys();
    let mut take = |holder: &str, take, permits, now_ms| {
        acquire(&mut keys, &Acquire { take, permits, ..wanted(holder) }, now_ms)
    };
    let token = |reply: Reply| reply.acquired.unwrap().token;
    assert!(token(take("a", 2, 3, 0)) > 0);
    assert_eq!(token(take("all", 3, 3, 1)), 0);
    assert_eq!(token(take("b", 1, 3, 2)), 0, "one is free, but not for it");
    assert_eq!(take("c", 1, 4, 3).outcome(), Outcome::Differs, "three, say the others");
    assert_eq!(take("a", 1, 3, 3).outcome(), Outcome::Differs, "it has two");
    assert_eq!(take("c", 4, 3, 3).outcome(), Outcome::Differs);
    assert!(token(take("all", 3, 3, 100)) > 0, "the lease of the two is over");
    assert_eq!(take("c", 1, 4, 3).outcome(), Outcome::Differs);
    assert!(token(take("b", 1, 3, 200)) > 0);
    assert!(token(take("c", 1, 4, 301)) > 0, "nobody is there who says otherwise");
}

#[test]
fn what_is_broken_off_is_given_up_unless_it_was_asked_for_again() {
    let mut keys = keys();
    let asks = |keys: &mut Keys, holder, attempt| acquire(keys, &Acquire { attempt, ..wanted(holder) }, 1);
    let breaks_off = |keys: &mut Keys, holder: &str, attempt| {
        let asked = Release { name: text("lock"), holder: text(holder), token: 0, attempt: Some(attempt) };
        release(keys, &asked, 2).integer == 1
    };
    asks(&mut keys, "a", 1);
    asks(&mut keys, "a", 2);
    assert!(!breaks_off(&mut keys, "a", 1), "the second has it, however late the end of the first is told");
    asks(&mut keys, "b", 1);
    assert!(breaks_off(&mut keys, "a", 2));
    assert!(acquires(&mut keys, "b", 3).is_some());
}

#[test]
fn leases_last_as_long_as_they_would_have_where_partitions_become_one() {
    let (middle, after) = (Token(1 << 63), Token((1 << 63) - 1));
    let mut low = Keys::new(Token(0), after);
    let mut high = Keys::new(middle, Token(u64::MAX));
    let name =
        |keys: &Keys| (0..).map(|n| text(&n.to_string())).find(|name| keys.has_place_for(name)).unwrap();
    let (in_low, in_high) = (name(&low), name(&high));
    let takes = |keys: &mut Keys, name: &Bytes, passed_ms| {
        keys.passed_ms = passed_ms;
        let asked = Acquire { name: name.clone(), ..wanted("a") };
        acquire(keys, &asked, passed_ms).acquired.unwrap().token
    };
    let of_low = Fence { name: in_low.clone(), token: takes(&mut low, &in_low, 5000) };
    let of_high = Fence { name: in_high.clone(), token: takes(&mut high, &in_high, 70) };
    (low.passed_ms, high.passed_ms) = (5040, 90);
    low.merge(high);
    assert!(low.is_held(&of_low, 5099) && !low.is_held(&of_low, 5100));
    assert!(low.is_held(&of_high, 5119) && !low.is_held(&of_high, 5120), "20 of 100 had passed");
    assert_eq!(low.due_semaphores(5119, 9), [in_low]);
    assert_eq!(low.due_semaphores(5120, 9).last(), Some(&in_high));
    low.reap_semaphore(&in_high, 5120);
    assert!(low.semaphore(&in_high).is_none());
}

#[test]
fn what_is_told_of_a_semaphore_fits_a_message() {
    let mut keys = keys();
    let value = Bytes::from(vec![b'v'; 4096]);
    let asks = |keys: &mut Keys, holder: u32, value: &Bytes| {
        let holder = text(&format!("{holder:032x}"));
        acquire(keys, &Acquire { holder, value: value.clone(), permits: 9, ..wanted("") }, 0).outcome()
    };
    let told = |keys: &Keys| keys.semaphore(b"lock").unwrap().state(b"lock").encoded_len();
    let held = (0..).take_while(|holder| asks(&mut keys, *holder, &value) == Outcome::Applied).count();
    assert!(held > 700 && told(&keys) <= SEMAPHORE_BYTES_MAX, "{held}");
    // Nor by saying more afterwards.
    let token = keys.semaphore(b"lock").unwrap().state(b"lock").holdings[0].token;
    let (name, holder) = (text("lock"), text(&format!("{:032x}", 0)));
    let says = |value| {
        let (name, holder) = (name.clone(), holder.clone());
        Renew { name, holder, token, lease_ms: LEASE_MS, value }
    };
    let longer = Bytes::from(vec![b'v'; 8500]);
    assert_eq!(renew(&mut keys, &says(Some(longer)), 1).outcome(), Outcome::Crowded);
    assert_eq!(renew(&mut keys, &says(Some(value)), 1).outcome(), Outcome::Applied);
    assert_eq!(renew(&mut keys, &says(None), 1).outcome(), Outcome::Applied);
    // Those that say nothing are many.
    let mut keys = self::keys();
    let held = (0..).take_while(|holder| asks(&mut keys, *holder, &Bytes::new()) == Outcome::Applied).count();
    assert!(held > 30_000 && told(&keys) <= SEMAPHORE_BYTES_MAX, "{held} {}", told(&keys));
}

/// Claims as plain lists.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Holder, permits, end.
    held: Vec<(u8, u32, u64)>,
    /// Holder, permits, lease, end of the place.
    waiting: Vec<(u8, u32, u64, u64)>,
}

const PERMITS: u32 = 3;

impl Model {
    fn settle(&mut self, now_ms: u64) {
        self.held.retain(|held| held.2 > now_ms);
        self.waiting.retain(|waiting| waiting.3 > now_ms);
        self.give(now_ms);
    }

    fn give(&mut self, now_ms: u64) {
        while let Some(&(holder, take, lease_ms, _)) = self.waiting.first()
            && self.held.iter().map(|held| held.1).sum::<u32>() + take <= PERMITS
        {
            self.waiting.remove(0);
            self.held.push((holder, take, now_ms + lease_ms));
        }
    }

    fn acquire(&mut self, holder: u8, take: u32, lease_ms: u64, place_ms: u64, now_ms: u64) {
        self.settle(now_ms);
        if let Some(held) = self.held.iter_mut().find(|held| held.0 == holder) {
            if held.1 == take {
                held.2 = now_ms + lease_ms;
            }
            return;
        }
        match self.waiting.iter().position(|waiting| waiting.0 == holder) {
            Some(at) if self.waiting[at].1 != take => {}
            Some(at) if place_ms == 0 => {
                self.waiting.remove(at);
            }
            Some(at) => (self.waiting[at].2, self.waiting[at].3) = (lease_ms, now_ms + place_ms),
            None => {
                self.waiting.push((holder, take, lease_ms, now_ms + place_ms));
                self.give(now_ms);
                if place_ms == 0 {
                    self.waiting.retain(|waiting| waiting.0 != holder);
                }
            }
        }
        self.give(now_ms);
    }

    fn release(&mut self, holder: u8, now_ms: u64) {
        self.settle(now_ms);
        self.held.retain(|held| held.0 != holder);
        self.waiting.retain(|waiting| waiting.0 != holder);
        self.give(now_ms);
    }
}

proptest! {
    /// Whatever is asked in whatever order: the same claims as in plain lists, never more permits than there are, and each
    /// token greater than all before.
    #[test]
    fn a_semaphore_is_as_lists_of_who_holds_and_who_waits(
        steps in proptest::collection::vec(
            (0..4_u8, 0..5_u8, 1..=PERMITS, 1..60_u64, prop_oneof![Just(0), 1..60_u64], 0..20_u64),
            1..200,
        )
    ) {
        let (mut keys, mut model) = (keys(), Model::default());
        let (mut now_ms, mut newest, mut seen) = (0, 0, std::collections::HashSet::new());
        for (kind, holder, take, lease_ms, place_ms, passes_ms) in steps {
            now_ms += passes_ms;
            let name = text(&holder.to_string());
            match kind {
                0 => {
                    let asked = Release { name: text("lock"), holder: name, ..Release::default() };
                    release(&mut keys, &asked, now_ms);
                    model.release(holder, now_ms);
                }
                1 => {
                    keys.reap_semaphore(&text("lock"), now_ms);
                    model.settle(now_ms);
                }
                _ => {
                    let asked =
                        Acquire { holder: name, permits: PERMITS, take, lease_ms, place_ms, ..wanted("") };
                    acquire(&mut keys, &asked, now_ms);
                    model.acquire(holder, take, lease_ms, place_ms, now_ms);
                }
            }
            let state = keys.semaphore(b"lock").map(|held| held.state(b"lock")).unwrap_or_default();
            let held: Vec<_> = state.holdings.iter().map(|claim| (claim.holder.clone(), claim.ends_at_ms)).collect();
            let expected: Vec<_> = model.held.iter().map(|held| (text(&held.0.to_string()), held.2)).collect();
            prop_assert_eq!(held, expected);
            let waiting: Vec<_> = state.queue.iter().map(|claim| (claim.holder.clone(), claim.ends_at_ms)).collect();
            let expected: Vec<_> = model.waiting.iter().map(|held| (text(&held.0.to_string()), held.3)).collect();
            prop_assert_eq!(waiting, expected);
            prop_assert!(state.holdings.iter().map(|claim| claim.take).sum::<u32>() <= PERMITS);
            for claim in state.holdings {
                if seen.insert((claim.holder, claim.token)) {
                    prop_assert!(claim.token > newest);
                    newest = claim.token;
                }
            }
            prop_assert_eq!(keys.due_semaphores(u64::MAX, 9).len(), usize::from(keys.bytes() > 0));
        }
    }
}
