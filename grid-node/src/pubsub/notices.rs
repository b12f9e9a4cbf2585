//! From the machines of partitions to the hub: only the leader tells.
//!
//! Every replica carries every command out. What is to be told of it waits here for a moment and is dropped where the
//! partition is not led: told once as long as the leader stays, and, as in Redis, maybe not or twice when it changes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use super::Hub;
use crate::data::notice::{Classes, Notice};
use crate::limits::NOTICES_WAITING_MAX;
use crate::metrics;
use crate::router::Router;

/// What is waiting: a partition, and what happened there.
pub type Told = (u64, Vec<Notice>);

/// A machine's way to the hub. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Teller {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    wanted: AtomicU32,
    sender: OnceLock<mpsc::Sender<Told>>,
}

impl Teller {
    /// One that is heard, and what it says.
    pub fn new() -> (Self, mpsc::Receiver<Told>) {
        let (sender, receiver) = mpsc::channel(NOTICES_WAITING_MAX);
        let inner = Inner { wanted: AtomicU32::default(), sender: OnceLock::from(sender) };
        (Self { inner: Arc::new(inner) }, receiver)
    }

    /// Classes of events that somebody wants to be told of.
    pub fn wanted(&self) -> Classes {
        Classes::from_bits(self.inner.wanted.load(Ordering::Relaxed))
    }

    pub(super) fn want(&self, classes: Classes) {
        self.inner.wanted.store(classes.bits(), Ordering::Relaxed);
    }

    /// What happened in a partition. It is not waited: what is too much is lost, and counted.
    pub fn tell(&self, partition: u64, notices: Vec<Notice>) {
        if notices.is_empty() {
            return;
        }
        let Some(sender) = self.inner.sender.get() else { return };
        if let Err(mpsc::error::TrySendError::Full((_, lost))) = sender.try_send((partition, notices)) {
            metrics::notices_lost().increment(lost.len() as u64);
        }
    }
}

/// Hands on what machines tell, until there are none.
pub async fn run(mut told: mpsc::Receiver<Told>, hub: Hub, router: Router) {
    while let Some((partition, notices)) = told.recv().await {
        if router.replica(partition).is_ok_and(|group| group.is_leader()) {
            notices.into_iter().for_each(|notice| hub.tell(notice));
        }
    }
}
