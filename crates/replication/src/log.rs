//! The Raft log of one group: all entries that are not purged are in memory; with a write-ahead log behind it they
//! survive the process too.
//!
//! Reading never touches the disk: the log is cut by bytes (see `groups::Options::log_bytes_max`), so what is kept
//! fits in memory, and a follower that is further behind gets a snapshot.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::oneshot;
use trimaran_proto::state::log as state;
use trimaran_storage::wal::{self, Op, Wal};

use crate::codec;
use crate::types::{Config, Entry, LogId, Vote};

/// Slots of the small values in the write-ahead log. Fixed for ever.
const SLOT_VOTE: u8 = 1;
const SLOT_PURGED: u8 = 2;

/// What an entry costs in memory beyond its commands.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// Bytes of entries handed to a follower's stream at once.
const READ_BYTES_MAX: usize = 4 << 20;

/// openraft counts entries from 0, the write-ahead log from 1, so that 0 can mean "none" there.
fn wal_index(raft_index: u64) -> u64 {
    raft_index + 1
}

/// One group's log. Clones share it.
#[derive(Clone)]
pub(crate) struct Log {
    group: u64,
    wal: Option<Arc<Wal>>,
    /// Flushed before it counts as done, whatever the write-ahead log does for others.
    flushed: bool,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: VecDeque<Entry>,
    /// Of the entries held.
    bytes: usize,
}

fn entry_bytes(entry: &Entry) -> usize {
    ENTRY_OVERHEAD_BYTES
        + match &entry.payload {
            EntryPayload::Normal(batch) => batch.bytes(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        }
}

impl Log {
    /// A log that is gone with the process.
    pub(crate) fn in_memory(group: u64) -> Self {
        Self { group, wal: None, flushed: false, held: Arc::default() }
    }

    /// A log that goes on from what the write-ahead log had of the group.
    pub(crate) fn durable(
        group: u64,
        wal: Arc<Wal>,
        recovered: Option<wal::Group>,
        flushed: bool,
    ) -> Result<Self, codec::Malformed> {
        let mut held = Held::default();
        if let Some(recovered) = recovered {
            if let Some(vote) = recovered.states.get(&SLOT_VOTE) {
                let vote = state::Vote::decode(&vote[..]).map_err(|_bad| codec::Malformed("stored vote"))?;
                held.vote = Some(codec::get_vote(Some(&vote))?);
            }
            if let Some(purged) = recovered.states.get(&SLOT_PURGED) {
                let purged =
                    state::LogId::decode(&purged[..]).map_err(|_bad| codec::Malformed("stored log id"))?;
                held.purged = Some(codec::get_log_id(&purged));
            }
            for entry in recovered.entries.into_values() {
                let entry = state::Entry::decode(entry).map_err(|_bad| codec::Malformed("stored entry"))?;
                held.push(codec::get_entry(entry)?);
            }
        }
        Ok(Self { group, wal: Some(wal), flushed, held: Arc::new(Mutex::new(held)) })
    }

    /// The last entry that is purged.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.held.lock().purged
    }

    /// True if it is gone with the process.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.wal.is_none()
    }

    /// Bytes of the entries that are not purged.
    pub(crate) fn bytes(&self) -> usize {
        self.held.lock().bytes
    }

    /// Forgets everything, here and on disk.
    pub(crate) async fn wipe(&self) -> io::Result<()> {
        *self.held.lock() = Held::default();
        self.write(vec![Op::Remove]).await
    }

    async fn write(&self, ops: Vec<Op>) -> io::Result<()> {
        if self.wal.is_none() {
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        self.submit(ops, move |outcome| {
            // The asker may have gone away; the write counts all the same.
            let _gone = tell.send(outcome);
        });
        match told.await {
            Ok(outcome) => outcome.map_err(io::Error::other),
            Err(_gone) => Err(io::Error::other("the log's writer has stopped")),
        }
    }
}

impl Log {
    fn submit(&self, ops: Vec<Op>, done: impl FnOnce(Result<(), trimaran_storage::Error>) + Send + 'static) {
        match &self.wal {
            None => done(Ok(())),
            Some(wal) if self.flushed => wal.submit_flushed(self.group, ops, done),
            Some(wal) => wal.submit(self.group, ops, done),
        }
    }
}

impl Held {
    fn push(&mut self, entry: Entry) {
        self.bytes += entry_bytes(&entry);
        self.entries.push_back(entry);
    }

    fn first_index(&self) -> u64 {
        self.entries.front().map_or(0, |entry| entry.log_id.index())
    }

    /// Position of an index, or where it would be.
    fn position(&self, index: u64) -> usize {
        let ahead = index.saturating_sub(self.first_index());
        usize::try_from(ahead).unwrap_or(usize::MAX).min(self.entries.len())
    }

    fn last_log_id(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    fn recount(&mut self) {
        self.bytes = self.entries.iter().map(entry_bytes).sum();
    }
}

impl RaftLogReader<Config> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let held = self.held.lock();
        let start = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&index) => index.saturating_add(1),
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        };
        let (from, to) = (held.position(start), held.position(end));
        Ok(held.entries.range(from..to.max(from)).cloned().collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.held.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let held = self.held.lock();
        let (from, to) = (held.position(start), held.position(end));
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in held.entries.range(from..to.max(from)) {
            bytes += entry_bytes(entry);
            entries.push(entry.clone());
            if bytes >= READ_BYTES_MAX {
                break;
            }
        }
        Ok(entries)
    }
}

impl RaftLogStorage<Config> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Config>, io::Error> {
        let held = self.held.lock();
        Ok(LogState { last_purged_log_id: held.purged, last_log_id: held.last_log_id() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let value = Bytes::from(codec::put_vote(vote).encode_to_vec());
        self.write(vec![Op::State { slot: SLOT_VOTE, value }]).await?;
        self.held.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Config>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut ops = Vec::new();
        {
            let mut held = self.held.lock();
            for entry in entries {
                if self.wal.is_some() {
                    let bytes = Bytes::from(codec::put_entry(&entry).encode_to_vec());
                    ops.push(Op::Append { index: wal_index(entry.log_id.index()), entry: bytes });
                }
                held.push(entry);
            }
        }
        self.submit(ops, move |outcome| callback.io_completed(outcome.map_err(io::Error::other)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let index = last.map_or(0, |last| last.index() + 1);
        {
            let mut held = self.held.lock();
            let keep = held.position(index);
            held.entries.truncate(keep);
            held.recount();
        }
        self.write(vec![Op::Truncate { index: wal_index(index) }]).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut held = self.held.lock();
            let count = held.position(upto.index() + 1);
            let gone: usize = held.entries.drain(..count).map(|entry| entry_bytes(&entry)).sum();
            held.bytes -= gone;
            held.purged = held.purged.max(Some(upto));
        }
        let value = Bytes::from(codec::put_log_id(&upto).encode_to_vec());
        self.write(vec![Op::State { slot: SLOT_PURGED, value }, Op::Purge { index: wal_index(upto.index()) }])
            .await
    }
}

#[cfg(test)]
mod tests;
