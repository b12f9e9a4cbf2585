//! openraft's own suite of what a log and a state machine must do, over both kinds of log.

use std::sync::atomic::{AtomicU64, Ordering};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;
use trimaran_storage::faulty::FaultyDisk;
use trimaran_storage::wal::{Options, Wal};

use super::*;
use crate::apply::{Applier, Start};
use crate::error::Stop;
use crate::machine::{Committed, Machine, Reply, SnapshotChunks};

struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Reply>, Stop> {
        Ok(vec![Reply::Done(Bytes::new()); run.len()])
    }

    fn snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::empty())
    }

    fn restore(&mut self, _chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        Ok(())
    }
}

struct Memory;

impl StoreBuilder<Config, Log, Applier<Nothing>, ()> for Memory {
    async fn build(&self) -> Result<((), Log, Applier<Nothing>), StorageError<Config>> {
        let applier =
            Applier::new(1, Start::Opened(Nothing), None, tokio::sync::watch::Sender::default()).unwrap();
        Ok(((), Log::in_memory(1), applier))
    }
}

/// Many logs in one write-ahead log, as in a node.
struct Shared {
    wal: Arc<Wal>,
    next: AtomicU64,
}

impl StoreBuilder<Config, Log, Applier<Nothing>, ()> for Shared {
    async fn build(&self) -> Result<((), Log, Applier<Nothing>), StorageError<Config>> {
        let group = self.next.fetch_add(1, Ordering::Relaxed);
        let applier =
            Applier::new(group, Start::Opened(Nothing), None, tokio::sync::watch::Sender::default()).unwrap();
        Ok(((), Log::durable(group, Arc::clone(&self.wal), None, false).unwrap(), applier))
    }
}

#[tokio::test]
async fn the_log_in_memory_passes_the_suite() {
    Suite::test_all(Memory).await.unwrap();
}

#[tokio::test]
async fn the_durable_log_passes_the_suite() {
    let (wal, _) = Wal::open(Arc::new(FaultyDisk::new()), Options::default()).unwrap();
    Suite::test_all(Shared { wal: Arc::new(wal), next: AtomicU64::new(1) }).await.unwrap();
}

#[tokio::test]
async fn a_durable_log_goes_on_where_it_was() {
    let disk = FaultyDisk::new();
    let open = || {
        let (wal, mut recovered) = Wal::open(Arc::new(disk.clone()), Options::default()).unwrap();
        Log::durable(5, Arc::new(wal), recovered.groups.remove(&5), false).unwrap()
    };
    let mut log = open();
    let vote = Vote::new_committed(3, 9);
    log.save_vote(&vote).await.unwrap();
    let entries: Vec<Entry> = (1..=5)
        .map(|index| Entry { log_id: crate::types::log_id(3, index), payload: EntryPayload::Blank })
        .collect();
    let (tell, told) = Config::oneshot();
    log.append(entries, IOFlushed::signal(tell)).await.unwrap();
    told.await.unwrap().unwrap();
    log.purge(crate::types::log_id(3, 2)).await.unwrap();
    log.truncate_after(Some(crate::types::log_id(3, 4))).await.unwrap();
    drop(log);
    disk.lose_power(|| false);

    let mut log = open();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(crate::types::log_id(3, 2)));
    assert_eq!(state.last_log_id, Some(crate::types::log_id(3, 4)));
}
