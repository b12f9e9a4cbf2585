use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::key::head;

const TABLE: u64 = 7;

/// One of a table's rows that has a token.
fn row(token: u64) -> Bytes {
    head(TABLE, Token(token)).freeze()
}

/// Asks a thousand times a second, for so long: for each hot key with its share, else for any of a million others.
fn ask(hot: &Hot, from_ms: u64, seconds: u64, shares: &[(u64, Asked, f64)], random: &mut StdRng) {
    for at in 0..seconds * 1000 {
        let mut chance: f64 = random.random();
        let mut what = (1_000_000 + random.random_range(0..1_000_000), Asked::Read);
        for &(token, asked, share) in shares {
            if (0.0..share).contains(&chance) {
                what = (token, asked);
            }
            chance -= share;
        }
        hot.note(what.1, 1, |_| Some(row(what.0)), || from_ms + at);
    }
}

#[test]
fn keys_that_are_hot_are_found_among_a_million_others_and_their_rates_are_about_right() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let hot = Hot::default();
        let shares = [(1, Asked::Read, 0.20), (2, Asked::Write, 0.10), (3, Asked::Read, 0.05)];
        ask(&hot, 0, 120, &shares, &mut random);
        let told = hot.of_table(TABLE, 120_000);
        assert_eq!(told.len(), 1);
        assert!((900.0..1100.0).contains(&told[0].rates.sum()), "seed {seed}: {:?}", told[0].rates);
        for (found, (token, asked, share)) in told[0].keys.iter().zip(shares) {
            assert_eq!(found.token, Token(token), "seed {seed}");
            let rate = if asked == Asked::Read { found.rates.reads } else { found.rates.writes };
            assert!((rate - found.rates.sum()).abs() < 1e-9);
            // At least: what was counted for others before it had its place is not said to be its own.
            assert!((share * 700.0..share * 1300.0).contains(&rate), "seed {seed}: {token} has {rate}");
        }
        assert!(told[0].keys[3..].iter().all(|key| key.rates.sum() < 20.0), "seed {seed}");
    }
}

#[test]
fn what_was_hot_cools_down_and_is_forgotten() {
    let mut random = StdRng::seed_from_u64(1);
    let hot = Hot::default();
    ask(&hot, 0, 300, &[(1, Asked::Read, 0.5)], &mut random);
    ask(&hot, 300_000, 300, &[(2, Asked::Read, 0.5)], &mut random);
    let told = hot.of_table(TABLE, 600_000);
    assert_eq!(told[0].keys[0].token, Token(2));
    let before = told[0].keys.iter().find(|key| key.token == Token(1));
    // Five half-lives.
    assert!(before.is_none_or(|before| before.rates.sum() < 500.0 / 16.0));
    assert_eq!(hot.of_table(TABLE, 600_000 + 60 * 60_000), Vec::new());
}

#[test]
fn every_sixteenth_of_rows_asked_for_together_is_counted_and_nothing_of_what_is_kept_beside_items() {
    let hot = Hot::default();
    let items: Vec<Bytes> = (0..100).map(row).collect();
    let intents: Vec<Bytes> =
        (0..160).map(|token| head(Kind::Intents.of(TABLE, 0), Token(token)).freeze()).collect();
    for _ in 0..8 {
        hot.note(Asked::Write, items.len(), |at| items.get(at).cloned(), || 0);
        hot.note(Asked::Write, intents.len(), |at| intents.get(at).cloned(), || 0);
    }
    let told = hot.of_table(TABLE, 0);
    assert_eq!((told.len(), told[0].keyspace), (1, TABLE));
    // Within the first second as if it had lasted one.
    assert!((800.0..810.0).contains(&told[0].rates.writes), "{:?}", told[0].rates);
}

#[test]
fn what_several_nodes_tell_is_one() {
    let told = |token, reads| HotRows {
        keyspace: TABLE,
        rates: Rates { reads, writes: 1.0 },
        keys: vec![HotKey { token: Token(token), row: row(token), rates: Rates { reads, writes: 0.0 } }],
    };
    let found = together([told(1, 5.0), told(2, 7.0), told(1, 4.0)], 10);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].rates, Rates { reads: 16.0, writes: 3.0 });
    let keys: Vec<(u64, f64)> = found[0].keys.iter().map(|key| (key.token.0, key.rates.reads)).collect();
    assert_eq!(keys, [(1, 9.0), (2, 7.0)]);
    assert_eq!(together([told(1, 5.0), told(2, 7.0)], 1)[0].keys.len(), 1);
}
