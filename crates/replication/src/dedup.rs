//! Replies that a retry may still ask for. The same on every replica, because it depends on the log only.
//!
//! What is remembered is a queue of records, one an entry of the log: forgetting takes whole records from its front,
//! by the group's clock or by number. So a replica that was opened again or restored from a snapshot, which has read
//! the same records in the same order, forgets and remembers exactly what the others do.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use trimaran_proto::state::log as state;

use crate::session::RequestId;

/// How long a reply is remembered, in log time.
const REMEMBER_MS: u64 = 10 * 60 * 1000;

/// Requests remembered for all sessions of a group; beyond, the oldest are forgotten.
const REQUESTS_MAX: usize = 1 << 20;

/// Bytes of records in one chunk of a snapshot.
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Clone, Default)]
pub(crate) struct Dedup {
    sessions: HashMap<u64, Session>,
    records: VecDeque<Record>,
    /// Of the entry that is being applied.
    unsealed: Vec<RequestId>,
    /// In all records and unsealed.
    requests: usize,
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
    requests: Vec<RequestId>,
}

impl Dedup {
    /// The reply, if this request was applied before.
    pub(crate) fn answered(&self, id: RequestId) -> Option<Bytes> {
        self.sessions.get(&id.session)?.answers.get(&id.sequence).cloned()
    }

    /// True if this request was applied before and its caller has said that it has the answer: it must not be
    /// applied, and nobody waits for the reply. (A duplicate that the network kept for a while.)
    pub(crate) fn is_old(&self, id: RequestId) -> bool {
        self.sessions.get(&id.session).is_some_and(|session| id.sequence < session.answered_below)
    }

    /// Remembers a reply, as part of the record that [`Dedup::seal`] ends.
    pub(crate) fn remember(&mut self, id: RequestId, reply: Bytes) {
        let session = self.sessions.entry(id.session).or_default();
        if id.answered_below > session.answered_below {
            session.answered_below = id.answered_below;
            session.answers = session.answers.split_off(&id.answered_below);
        }
        session.requests += 1;
        session.answers.insert(id.sequence, reply);
        // The record says what the session knew by then, so that reading it again gives the same without those before.
        self.unsealed.push(RequestId { answered_below: session.answered_below, ..id });
        self.requests += 1;
    }

    /// Ends the record of the entry at `index`, and forgets what is too old.
    pub(crate) fn seal(&mut self, index: u64, stamp_ms: u64) {
        if !self.unsealed.is_empty() {
            let requests = std::mem::take(&mut self.unsealed);
            self.records.push_back(Record { index, stamp_ms, requests });
        }
        while let Some(oldest) = self.records.front() {
            if oldest.stamp_ms + REMEMBER_MS > stamp_ms && self.requests <= REQUESTS_MAX {
                return;
            }
            for id in &oldest.requests {
                let Some(session) = self.sessions.get_mut(&id.session) else { continue };
                session.answers.remove(&id.sequence);
                session.requests -= 1;
                if session.requests == 0 {
                    self.sessions.remove(&id.session);
                }
            }
            self.requests -= oldest.requests.len();
            self.records.pop_front();
        }
    }

    /// Remembers what another group has answered, as part of the record that [`Dedup::seal`] ends. What both know was
    /// answered before one was split from the other.
    pub(crate) fn absorb(&mut self, other: &Self) {
        for &id in other.records.iter().flat_map(|record| &record.requests) {
            if !self.is_old(id) && self.answered(id).is_none() {
                self.remember(id, other.answered(id).unwrap_or_default());
            }
        }
    }

    /// Index of the oldest record; those below are forgotten.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.records.front().map(|record| record.index)
    }

    /// The newest record, encoded, if it is of the entry at `index`.
    pub(crate) fn newest(&self, index: u64) -> Option<Bytes> {
        let newest = self.records.back().filter(|record| record.index == index)?;
        Some(self.encode(newest).encode_to_vec().into())
    }

    /// All records, encoded, with the index of their entries.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, Bytes)> {
        self.records.iter().map(|record| (record.index, self.encode(record).encode_to_vec().into()))
    }

    fn encode(&self, record: &Record) -> state::Answered {
        let requests = record.requests.iter().map(|&id| state::AnsweredRequest {
            session: id.session,
            sequence: id.sequence,
            answered_below: id.answered_below,
            // Gone if its caller has it; then a later record says so.
            reply: self.answered(id).unwrap_or_default(),
        });
        state::Answered { index: record.index, stamp_ms: record.stamp_ms, requests: requests.collect() }
    }

    /// All records, in chunks.
    pub(crate) fn save(&self) -> Vec<state::AnsweredChunk> {
        let mut chunks = Vec::new();
        let mut chunk = state::AnsweredChunk::default();
        let mut bytes = 0;
        for record in &self.records {
            let record = self.encode(record);
            bytes += record.encoded_len();
            chunk.records.push(record);
            if bytes >= CHUNK_BYTES {
                chunks.push(std::mem::take(&mut chunk));
                bytes = 0;
            }
        }
        if !chunk.records.is_empty() {
            chunks.push(chunk);
        }
        chunks
    }

    /// Reads a record again, behind those read before.
    pub(crate) fn restore(&mut self, record: state::Answered) {
        for request in record.requests {
            let state::AnsweredRequest { session, sequence, answered_below, reply } = request;
            self.remember(RequestId { session, sequence, answered_below }, reply);
        }
        self.seal(record.index, record.stamp_ms);
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
            dedup.seal(minute, 1000 + minute * 60_000);
        }
        assert!(dedup.answered(id(2, 1, 0)).is_none());
        assert!(dedup.answered(id(2, 2, 0)).is_some());
        assert_eq!(dedup.oldest(), Some(2));
        dedup.seal(12, 1000 + 60 * 60_000);
        assert!(dedup.sessions.is_empty());
        assert_eq!((dedup.requests, dedup.oldest()), (0, None));
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
                    dedup.seal(index, now);
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
                    for record in first.save().into_iter().flat_map(|chunk| chunk.records) {
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
