//! Replies that a retry may still ask for. The same on every replica, because it depends on the log only.
//!
//! What is remembered is a queue of records, one an entry of the log: forgetting takes whole records from its front,
//! by the group's own time or by number. So a replica that was opened again or restored from a snapshot, which has read
//! the same records in the same order, forgets and remembers exactly what the others do.
//!
//! A copy shares everything with the original, in parts that are copied when they are written to: a snapshot takes one while
//! writes wait, and encodes it afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use prost::Message as _;
use trimaran_proto::state::log as state;

use crate::session::RequestId;

/// How long a reply is remembered, in the group's own time.
const REMEMBER_MS: u64 = 10 * 60 * 1000;

/// Requests remembered for all sessions of a group; beyond, the oldest are forgotten.
const REQUESTS_MAX: usize = 1 << 20;

/// About how many bytes of records are in one block, which is one chunk of a snapshot.
const BLOCK_BYTES: usize = 1 << 20;

/// What a request counts for in a block beside its reply.
const REQUEST_BYTES: usize = 32;

/// Parts of the sessions.
const SHARDS: usize = 256;

#[derive(Clone)]
pub(crate) struct Dedup {
    /// By the remainder of the session's id.
    sessions: Vec<Arc<HashMap<u64, Session>>>,
    /// None of them empty.
    blocks: VecDeque<Arc<Block>>,
    /// Of the entry that is being applied.
    unsealed: Vec<RequestId>,
    unsealed_bytes: usize,
    /// In all records and unsealed.
    requests: usize,
    /// There are records of an older release.
    is_undated: bool,
}

impl Default for Dedup {
    fn default() -> Self {
        // One that all share, until something is in it.
        let sessions = vec![Arc::default(); SHARDS];
        Self {
            sessions,
            blocks: VecDeque::new(),
            unsealed: Vec::new(),
            unsealed_bytes: 0,
            requests: 0,
            is_undated: false,
        }
    }
}

/// Some records in order.
#[derive(Clone, Default)]
struct Block {
    records: VecDeque<Record>,
    /// When they were made; replies that nobody needs any more are gone since.
    bytes: usize,
}

#[derive(Clone, Default)]
struct Session {
    /// Requests in records.
    requests: usize,
    answered_below: u64,
    answers: BTreeMap<u64, Bytes>,
}

#[derive(Clone)]
struct Record {
    index: u64,
    stamp_ms: u64,
    /// `None` until the next entry, where an older release has written it.
    passed_ms: Option<u64>,
    requests: Arc<[RequestId]>,
}

fn shard(session: u64) -> usize {
    (session % SHARDS as u64) as usize
}

impl Dedup {
    fn session(&self, session: u64) -> Option<&Session> {
        self.sessions.get(shard(session))?.get(&session)
    }

    /// The part that a session is in, to be written to.
    fn shard_mut(&mut self, session: u64) -> &mut HashMap<u64, Session> {
        Arc::make_mut(&mut self.sessions[shard(session)])
    }

    /// The reply, if this request was applied before.
    pub(crate) fn answered(&self, id: RequestId) -> Option<Bytes> {
        self.session(id.session)?.answers.get(&id.sequence).cloned()
    }

    /// True if this request was applied before and its caller has said that it has the answer: it must not be
    /// applied, and nobody waits for the reply. (A duplicate that the network kept for a while.)
    pub(crate) fn is_old(&self, id: RequestId) -> bool {
        self.session(id.session).is_some_and(|session| id.sequence < session.answered_below)
    }

    /// True if this request was applied before, whether its reply is still there or not.
    pub(crate) fn knows(&self, id: RequestId) -> bool {
        let is_known = |session: &Session| {
            id.sequence < session.answered_below || session.answers.contains_key(&id.sequence)
        };
        self.session(id.session).is_some_and(is_known)
    }

    /// Remembers a reply, as part of the record that [`Dedup::seal`] ends.
    pub(crate) fn remember(&mut self, id: RequestId, reply: Bytes) {
        self.unsealed_bytes += REQUEST_BYTES + reply.len();
        let session = self.shard_mut(id.session).entry(id.session).or_default();
        if id.answered_below > session.answered_below {
            session.answered_below = id.answered_below;
            while let Some(oldest) = session.answers.first_entry()
                && *oldest.key() < id.answered_below
            {
                oldest.remove();
            }
        }
        session.requests += 1;
        session.answers.insert(id.sequence, reply);
        let answered_below = session.answered_below;
        // The record says what the session knew by then, so that reading it again gives the same without those before.
        self.unsealed.push(RequestId { answered_below, ..id });
        self.requests += 1;
    }

    /// Ends the record of the entry at `index`, with its stamp and the group's time, and forgets what is too old.
    pub(crate) fn seal(&mut self, index: u64, stamp_ms: u64, passed_ms: u64) {
        self.end_record(index, stamp_ms, Some(passed_ms));
        if std::mem::take(&mut self.is_undated) {
            self.date(passed_ms);
        }
        while let Some(oldest) = self.first() {
            let made_ms = oldest.passed_ms.unwrap_or(passed_ms);
            if made_ms + REMEMBER_MS > passed_ms && self.requests <= REQUESTS_MAX {
                return;
            }
            let requests = Arc::clone(&oldest.requests);
            for id in requests.iter() {
                let sessions = self.shard_mut(id.session);
                let Some(session) = sessions.get_mut(&id.session) else { continue };
                session.answers.remove(&id.sequence);
                session.requests -= 1;
                if session.requests == 0 {
                    sessions.remove(&id.session);
                }
            }
            self.requests -= requests.len();
            if let Some(block) = self.blocks.front_mut() {
                let block = Arc::make_mut(block);
                block.records.pop_front();
                if block.records.is_empty() {
                    self.blocks.pop_front();
                }
            }
        }
    }

    /// Makes a record of what is not in one yet.
    fn end_record(&mut self, index: u64, stamp_ms: u64, passed_ms: Option<u64>) {
        if self.unsealed.is_empty() {
            return;
        }
        let requests = std::mem::take(&mut self.unsealed).into();
        let bytes = std::mem::take(&mut self.unsealed_bytes);
        if self.blocks.back().is_none_or(|block| block.bytes >= BLOCK_BYTES) {
            self.blocks.push_back(Arc::default());
        }
        if let Some(block) = self.blocks.back_mut() {
            let block = Arc::make_mut(block);
            block.records.push_back(Record { index, stamp_ms, passed_ms, requests });
            block.bytes += bytes;
        }
    }

    /// Records of an older release count as made now: they are remembered for longer than others may remember them, never for less.
    fn date(&mut self, passed_ms: u64) {
        for block in &mut self.blocks {
            for record in &mut Arc::make_mut(block).records {
                record.passed_ms.get_or_insert(passed_ms);
            }
        }
    }

    fn first(&self) -> Option<&Record> {
        self.blocks.front()?.records.front()
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.blocks.iter().flat_map(|block| &block.records)
    }

    /// Remembers what another group has answered, as part of the record that [`Dedup::seal`] ends. What both know was
    /// answered before one was split from the other.
    pub(crate) fn absorb(&mut self, other: &Self) {
        for &id in other.records().flat_map(|record| record.requests.iter()) {
            if !self.is_old(id) && self.answered(id).is_none() {
                self.remember(id, other.answered(id).unwrap_or_default());
            }
        }
    }

    /// Index of the oldest record; those below are forgotten.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.first().map(|record| record.index)
    }

    /// The newest record, encoded, if it is of the entry at `index`.
    pub(crate) fn newest(&self, index: u64) -> Option<Bytes> {
        let newest = self.blocks.back()?.records.back().filter(|record| record.index == index)?;
        Some(self.encode(newest).encode_to_vec().into())
    }

    /// All records, encoded, with the index of their entries.
    pub(crate) fn encoded(&self) -> impl Iterator<Item = (u64, Bytes)> {
        self.records().map(|record| (record.index, self.encode(record).encode_to_vec().into()))
    }

    fn encode(&self, record: &Record) -> state::Answered {
        let requests = record.requests.iter().map(|&id| state::AnsweredRequest {
            session: id.session,
            sequence: id.sequence,
            answered_below: id.answered_below,
            // Gone if its caller has it; then a later record says so.
            reply: self.answered(id).unwrap_or_default(),
        });
        state::Answered {
            index: record.index,
            stamp_ms: record.stamp_ms,
            requests: requests.collect(),
            passed_ms: record.passed_ms,
        }
    }

    /// How many chunks all records of a copy are, and the chunks.
    pub(crate) fn save(self) -> (usize, impl Iterator<Item = state::AnsweredChunk> + Send) {
        let count = self.blocks.len();
        let chunks = (0..count).map(move |block| {
            let records = self.blocks[block].records.iter();
            state::AnsweredChunk { records: records.map(|record| self.encode(record)).collect() }
        });
        (count, chunks)
    }

    /// Reads a record again, behind those read before.
    pub(crate) fn restore(&mut self, record: state::Answered) {
        for request in record.requests {
            let state::AnsweredRequest { session, sequence, answered_below, reply } = request;
            self.remember(RequestId { session, sequence, answered_below }, reply);
        }
        match record.passed_ms {
            Some(passed_ms) => self.seal(record.index, record.stamp_ms, passed_ms),
            None => {
                self.end_record(record.index, record.stamp_ms, None);
                self.is_undated = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    fn id(session: u64, sequence: u64, answered_below: u64) -> RequestId {
        RequestId { session, sequence, answered_below }
    }

    #[test]
    fn a_reply_is_remembered_until_the_caller_has_it() {
        let mut dedup = Dedup::default();
        dedup.remember(id(1, 1, 0), Bytes::from_static(b"one"));
        dedup.remember(id(1, 2, 0), Bytes::from_static(b"two"));
        assert_eq!(dedup.answered(id(1, 1, 0)).unwrap(), "one");
        dedup.remember(id(1, 3, 2), Bytes::from_static(b"three"));
        assert_eq!(dedup.answered(id(1, 1, 0)), None);
        assert!(dedup.is_old(id(1, 1, 0)), "a late duplicate is not applied again");
        assert_eq!(dedup.answered(id(1, 2, 0)).unwrap(), "two");
    }

    #[test]
    fn replies_are_forgotten_after_ten_minutes() {
        let mut dedup = Dedup::default();
        for minute in 0..=11 {
            dedup.remember(id(2, minute, 0), Bytes::new());
            dedup.seal(minute, 0, minute * 60_000);
        }
        assert!(dedup.answered(id(2, 1, 0)).is_none());
        assert!(dedup.answered(id(2, 2, 0)).is_some());
        assert_eq!(dedup.oldest(), Some(2));
        dedup.seal(12, 0, 60 * 60_000);
        assert!(dedup.sessions.iter().all(|shard| shard.is_empty()) && dedup.blocks.is_empty());
        assert_eq!((dedup.requests, dedup.oldest()), (0, None));
    }

    #[test]
    fn replies_of_an_older_release_are_remembered_as_long_as_those_made_now() {
        let mut dedup = Dedup::default();
        let request = state::AnsweredRequest { session: 1, sequence: 1, ..Default::default() };
        dedup.restore(state::Answered { index: 7, requests: vec![request], ..Default::default() });
        // The group has counted for long, but not where this came from.
        dedup.seal(8, 0, 50 * REMEMBER_MS);
        assert!(dedup.answered(id(1, 1, 0)).is_some());
        let kept = dedup.encoded().next().unwrap().1;
        assert_eq!(state::Answered::decode(kept).unwrap().passed_ms, Some(50 * REMEMBER_MS));
        dedup.seal(9, 0, 51 * REMEMBER_MS);
        assert!(dedup.answered(id(1, 1, 0)).is_none());
    }

    /// A copy that reads the records again, from a snapshot or from its own disk, answers every question as the
    /// first one does, now and later.
    #[test]
    fn a_copy_remembers_and_forgets_the_same() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut first = Dedup::default();
            let mut stored: VecDeque<(u64, Bytes)> = VecDeque::new();
            let mut copies: Vec<Dedup> = Vec::new();
            let mut now = 0;
            for index in 0..200 {
                now += random.random_range(0..20_000);
                for _ in 0..random.random_range(0..4) {
                    let sequence = random.random_range(index / 4..index + 4);
                    let id = id(
                        random.random_range(0..5),
                        sequence,
                        index.saturating_sub(random.random_range(0..30)),
                    );
                    if first.answered(id).is_some() || first.is_old(id) {
                        continue;
                    }
                    for dedup in copies.iter_mut().chain([&mut first]) {
                        dedup.remember(id, Bytes::from(index.to_string()));
                    }
                }
                for dedup in copies.iter_mut().chain([&mut first]) {
                    dedup.seal(index, 0, now);
                }
                stored.extend(first.newest(index).map(|record| (index, record)));
                while stored
                    .front()
                    .is_some_and(|(index, _)| first.oldest().is_none_or(|oldest| *index < oldest))
                {
                    stored.pop_front();
                }
                if index % 50 == 0 {
                    let mut from_disk = Dedup::default();
                    for (_, record) in &stored {
                        from_disk.restore(state::Answered::decode(record.clone()).unwrap());
                    }
                    let mut from_snapshot = Dedup::default();
                    for record in first.clone().save().1.flat_map(|chunk| chunk.records) {
                        from_snapshot.restore(record);
                    }
                    copies.extend([from_disk, from_snapshot]);
                }
                for copy in copies.iter().filter(|_| index % 10 == 9) {
                    for session in 0..5 {
                        for sequence in index.saturating_sub(100)..index + 4 {
                            let id = id(session, sequence, 0);
                            assert_eq!(
                                copy.is_old(id),
                                first.is_old(id),
                                "seed {seed}, index {index}, {id:?}"
                            );
                            let answered = (copy.answered(id), first.answered(id));
                            assert!(
                                copy.is_old(id) || answered.0 == answered.1,
                                "seed {seed}, index {index}, {id:?}"
                            );
                        }
                    }
                    assert_eq!((copy.requests, copy.oldest()), (first.requests, first.oldest()));
                }
            }
        }
    }
}
