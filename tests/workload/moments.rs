//! A table as it was at moments of a load: whole, with everything acknowledged before, without anything begun later, and the same
//! whenever it is looked at.

use std::collections::BTreeMap;

use trimaran_client::database::{Database, Item, ReadOptions};

use crate::harness::until;
use crate::model::serializable::{Micro, Told, Transaction};

/// How far clocks of processes on one machine may be from each other, milliseconds.
pub const CLOCKS_MS: u64 = 100;

/// Milliseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "what a client calls a moment")]
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_millis() as u64
}

/// Returns when a table's history has begun.
pub async fn until_kept(database: &Database, table: &str) {
    until("the history has begun", async || {
        let described = database.describe_table(table).await.unwrap();
        described.history.is_some_and(|history| history.since_ms.is_some_and(|since| since < now_ms()))
    })
    .await;
}

/// All items of a table as they were, page after page.
pub async fn all_as_of(database: &Database, table: &str, as_of_ms: u64) -> Vec<Item> {
    let mut pages =
        database.as_of(as_of_ms).scan_pages(table, ReadOptions { limit: 0, ..ReadOptions::default() });
    let mut found = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        found.extend(page.items);
    }
    found
}

/// Checks lists as they were against who appended to them; `began_ms` is when the history's clock began.
pub fn check_lists(history: &[Transaction], began_ms: u64, as_of_ms: u64, lists: &BTreeMap<u64, Vec<u64>>) {
    let wall_ms = |micros: u64| began_ms + micros / 1000;
    for transaction in history {
        for micro in &transaction.micros {
            let Micro::Append(list, value) = micro else { continue };
            let is_there = lists.get(list).is_some_and(|values| values.contains(value));
            if transaction.told == Told::Yes && wall_ms(transaction.ended) + CLOCKS_MS < as_of_ms {
                assert!(is_there, "{value} of list {list} is missing as of {as_of_ms}: {transaction:?}");
            }
            if transaction.told == Told::No || wall_ms(transaction.began) > as_of_ms + CLOCKS_MS {
                assert!(!is_there, "{value} of list {list} is there as of {as_of_ms}: {transaction:?}");
            }
        }
    }
    // Of a transaction, everything or nothing.
    for transaction in history {
        let appended = transaction.micros.iter().filter_map(|micro| match micro {
            Micro::Append(list, value) => Some(lists.get(list).is_some_and(|values| values.contains(value))),
            Micro::Read(..) => None,
        });
        let appended: Vec<bool> = appended.collect();
        assert!(
            appended.windows(2).all(|two| two[0] == two[1]),
            "half of it as of {as_of_ms}: {transaction:?}"
        );
    }
}
