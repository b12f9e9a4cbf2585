//! Somebody who follows the changes of a table, and has what it has: every change is of the item as it was, so none is missed,
//! told twice or told too late; and transactions that leave a sum as it is never show another one.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use trimaran_client::database::{Change, ChangeKind, Database, Item, Value, WatchFrom};

use crate::harness::until;

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Changes.
    pub changes: u64,
    /// Transactions over several items, each told at once.
    pub transactions: u64,
    /// Times that the watch was given up and another one went on from its cursor.
    pub resumed: u64,
}

#[derive(Default)]
struct State {
    items: BTreeMap<String, Item>,
    seen: Seen,
}

/// Somebody who follows.
pub struct Follower {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

/// Calls after which another watch goes on.
const RESUME_EVERY: u64 = 50;

fn id(key: &Item) -> String {
    match &key["id"] {
        Value::S(id) => id.clone(),
        other => panic!("a key has {other:?}"),
    }
}

impl State {
    fn take_in(&mut self, change: Change) {
        let id = id(&change.key);
        assert!(!change.partial, "{change:?}");
        assert_eq!(change.old_image.as_ref(), self.items.get(&id), "{change:?}");
        let is_there = (change.old_image.is_some(), change.new_image.is_some());
        let kind = match is_there {
            (false, _) => ChangeKind::Insert,
            (true, true) => ChangeKind::Modify,
            (true, false) => ChangeKind::Remove,
        };
        assert_eq!(change.kind, kind, "{change:?}");
        match change.new_image {
            Some(image) => self.items.insert(id, image),
            None => self.items.remove(&id),
        };
        self.seen.changes += 1;
    }
}

impl Follower {
    /// Follows a table from its first change on. `check` is called with all items whenever everything is told that belongs
    /// together.
    pub async fn start(
        database: &Database,
        table: &str,
        check: impl Fn(&BTreeMap<String, Item>) + Send + 'static,
    ) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let mut watch = database.watch_table(table, WatchFrom::Oldest).await.unwrap();
        let (kept, database, table) = (Arc::clone(&state), database.clone(), table.to_owned());
        let task = tokio::spawn(async move {
            let mut calls = 0;
            while let Some(changes) = watch.next().await.unwrap() {
                {
                    let mut state = kept.lock();
                    let mut changes = changes.into_iter().peekable();
                    while let Some(change) = changes.next() {
                        let transaction = change.transaction.clone();
                        state.take_in(change);
                        if changes.peek().is_some_and(|next| next.transaction == transaction)
                            && transaction.is_some()
                        {
                            continue;
                        }
                        state.seen.transactions += u64::from(transaction.is_some());
                        check(&state.items);
                    }
                }
                calls += 1;
                if calls % RESUME_EVERY == 0 {
                    let cursor = watch.cursor();
                    watch = database.watch_table(&table, WatchFrom::Cursor(cursor)).await.unwrap();
                    kept.lock().seen.resumed += 1;
                }
            }
        });
        Self { state, task }
    }

    /// Waits until it has these items, and no others.
    pub async fn finish(self, items: &BTreeMap<String, Item>) -> Seen {
        until("whoever follows has what the table has", async || {
            assert!(!self.task.is_finished(), "following ended");
            self.state.lock().items == *items
        })
        .await;
        self.task.abort();
        let seen = self.state.lock().seen;
        assert!(seen.changes > 0);
        seen
    }
}
