//! What the keys of some namespaces take. Not agreed on: each replica counts for itself, and comes to the same.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use hashbrown::HashMap;

use super::Entries;

/// Bytes of the name of a namespace.
pub const NAMESPACE_BYTES_MAX: usize = 64;

/// The namespace that a key is in, if there is one of that name: what is before its first colon, without a brace that it begins with.
pub fn namespace_of(key: &[u8]) -> Option<&[u8]> {
    let key = key.strip_prefix(b"{").unwrap_or(key);
    let end = key.iter().take(NAMESPACE_BYTES_MAX + 1).position(|byte| *byte == b':')?;
    Some(&key[..end])
}

/// Of one namespace.
#[derive(Debug, Default)]
struct Sum {
    keys: AtomicI64,
    bytes: AtomicI64,
}

/// Of some namespaces, in one partition.
#[derive(Debug)]
pub struct Tally {
    /// Of the list of namespaces.
    version: u64,
    sums: HashMap<Box<[u8]>, Sum>,
    /// What was there before it began is counted, too.
    is_complete: AtomicBool,
}

impl Tally {
    /// Of these namespaces, with nothing counted.
    pub fn new<'a>(version: u64, names: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let sums = names.into_iter().map(|name| (name.into(), Sum::default())).collect();
        Self { version, sums, is_complete: AtomicBool::new(false) }
    }

    /// Of which list of namespaces it is.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Notes that a key is there with what it takes, or takes more or less, or has gone.
    pub fn note(&self, key: &[u8], keys: i64, bytes: i64) {
        if let Some(sum) = namespace_of(key).and_then(|name| self.sums.get(name)) {
            sum.keys.fetch_add(keys, Ordering::Relaxed);
            sum.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts what was there when it began; what changes meanwhile is noted.
    pub fn count(&self, entries: &Entries) {
        for slot in (0..).map_while(|place| entries.slot(place)) {
            for (key, entry) in slot {
                self.note(key, 1, super::bytes_of_entry(key, entry) as i64);
            }
        }
        self.is_complete.store(true, Ordering::Release);
    }

    /// Keys and bytes of a namespace; `None` before everything is counted.
    pub fn sum(&self, name: &[u8]) -> Option<(u64, u64)> {
        let sum = self.sums.get(name).filter(|_| self.is_complete.load(Ordering::Acquire))?;
        let read = |number: &AtomicI64| u64::try_from(number.load(Ordering::Relaxed)).unwrap_or(0);
        Some((read(&sum.keys), read(&sum.bytes)))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    use trimaran_placement::token::Token;

    use super::*;
    use crate::data::list::List;
    use crate::data::{Change, Keys, Value};

    #[test]
    fn a_key_is_in_the_namespace_before_its_colon() {
        for (key, name) in [
            ("orders:17", Some("orders")),
            ("{orders:17}:lines", Some("orders")),
            ("orders", None),
            (":17", Some("")),
            ("a{orders:17}", Some("a{orders")),
        ] {
            assert_eq!(namespace_of(key.as_bytes()), name.map(str::as_bytes), "{key}");
        }
        let long = "x".repeat(NAMESPACE_BYTES_MAX);
        assert!(namespace_of(format!("{long}:").as_bytes()).is_some());
        assert!(namespace_of(format!("{long}x:").as_bytes()).is_none());
    }

    /// Whatever is done, what is counted along the way is what is there, also where the count begins in between.
    #[test]
    fn what_is_counted_is_what_is_there() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut keys = Keys::new(Token(0), Token(u64::MAX));
            let names = [&b"a"[..], b"b"];
            let mut begun = None;
            for step in 0..2000 {
                let key =
                    format!("{}:{}", ["a", "b", "c"][random.random_range(0..3)], random.random_range(0..50));
                let key = key.as_bytes();
                let length = random.random_range(0..200);
                match random.random_range(0..5) {
                    0 | 1 => drop(keys.put(key, Value::String(vec![b'x'; length][..].into()), 0)),
                    2 => drop(keys.remove(key, Change::Deleted)),
                    _ => {
                        let push = |list: &mut List| {
                            list.push_back(vec![b'y'; length][..].into());
                            (true, ())
                        };
                        // It may be no list.
                        let _wrong_type = keys.update(key, 0, push);
                    }
                }
                if step == 500 {
                    begun = Some((keys.begin_tally(Tally::new(7, names)), keys.entries()));
                }
                if let Some((tally, entries)) = &begun
                    && step == 1500
                {
                    assert_eq!(tally.sum(b"a"), None, "not all is counted");
                    tally.count(entries);
                }
            }
            let tally = keys.tally().unwrap();
            for name in names {
                let of_it = keys.iter(0).filter(|(key, _)| namespace_of(key) == Some(name));
                let (count, bytes) = of_it.fold((0, 0), |(count, bytes), (key, entry)| {
                    (count + 1, bytes + keys.bytes_of_entry(key, entry) as u64)
                });
                assert_eq!(tally.sum(name), Some((count, bytes)), "seed {seed}");
            }
            assert_eq!(tally.sum(b"c"), None);
            let gone = keys.split(trimaran_placement::token::slot_start(8192));
            assert!(keys.tally().is_none() && gone.tally().is_none(), "they are counted anew");
        }
    }
}
