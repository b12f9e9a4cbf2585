//! Replies that a retry may still ask for. The same on every replica, because it depends on committed stamps only.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use trimaran_proto::state::log as state;

use crate::session::RequestId;

/// How long a session is remembered after its last request, in log time.
const SESSION_MS: u64 = 10 * 60 * 1000;

/// Replies remembered for all sessions of a group; beyond, the sessions that were silent longest are forgotten.
const ANSWERS_MAX: usize = 1 << 20;

#[derive(Default)]
pub(crate) struct Dedup {
    sessions: HashMap<u64, Session>,
    /// Every session by the time of its last request. Which one is forgotten next depends on nothing else, so that a
    /// replica restored from a snapshot forgets the same one as the others.
    ages: BTreeSet<(u64, u64)>,
    answers: usize,
}

#[derive(Default)]
struct Session {
    stamp_ms: u64,
    answered_below: u64,
    answers: BTreeMap<u64, Bytes>,
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

    /// Remembers a reply.
    pub(crate) fn remember(&mut self, id: RequestId, stamp_ms: u64, reply: Bytes) {
        let session = self.sessions.entry(id.session).or_default();
        if session.stamp_ms != stamp_ms || session.answers.is_empty() {
            self.ages.remove(&(session.stamp_ms, id.session));
            self.ages.insert((stamp_ms, id.session));
            session.stamp_ms = stamp_ms;
        }
        if id.answered_below > session.answered_below {
            session.answered_below = id.answered_below;
            let kept = session.answers.split_off(&id.answered_below);
            self.answers -= session.answers.len();
            session.answers = kept;
        }
        if session.answers.insert(id.sequence, reply).is_none() {
            self.answers += 1;
        }
        self.forget(stamp_ms);
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some(&(stamp_ms, id)) = self.ages.first() {
            if stamp_ms + SESSION_MS > now_ms && self.answers <= ANSWERS_MAX {
                return;
            }
            self.ages.pop_first();
            if let Some(session) = self.sessions.remove(&id) {
                self.answers -= session.answers.len();
            }
        }
    }

    pub(crate) fn save(&self) -> Vec<state::Session> {
        self.ages
            .iter()
            .filter_map(|(_, id)| self.sessions.get_key_value(id))
            .map(|(&id, session)| state::Session {
                id,
                stamp_ms: session.stamp_ms,
                answered_below: session.answered_below,
                answers: session
                    .answers
                    .iter()
                    .map(|(&sequence, reply)| state::Answered { sequence, reply: reply.clone() })
                    .collect(),
            })
            .collect()
    }

    pub(crate) fn restore(sessions: Vec<state::Session>) -> Self {
        let mut dedup = Self::default();
        for saved in sessions {
            let answers: BTreeMap<u64, Bytes> =
                saved.answers.into_iter().map(|answered| (answered.sequence, answered.reply)).collect();
            dedup.answers += answers.len();
            dedup.ages.insert((saved.stamp_ms, saved.id));
            dedup.sessions.insert(
                saved.id,
                Session { stamp_ms: saved.stamp_ms, answered_below: saved.answered_below, answers },
            );
        }
        dedup
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(session: u64, sequence: u64, answered_below: u64) -> RequestId {
        RequestId { session, sequence, answered_below }
    }

    #[test]
    fn a_reply_is_remembered_until_the_caller_has_it() {
        let mut dedup = Dedup::default();
        dedup.remember(id(1, 1, 0), 1000, Bytes::from_static(b"one"));
        dedup.remember(id(1, 2, 0), 1000, Bytes::from_static(b"two"));
        assert_eq!(dedup.answered(id(1, 1, 0)).unwrap(), "one");
        dedup.remember(id(1, 3, 2), 1000, Bytes::from_static(b"three"));
        assert_eq!(dedup.answered(id(1, 1, 0)), None);
        assert!(dedup.is_old(id(1, 1, 0)), "a late duplicate is not applied again");
        assert_eq!(dedup.answered(id(1, 2, 0)).unwrap(), "two");
    }

    #[test]
    fn silent_sessions_are_forgotten_after_ten_minutes_and_busy_ones_are_not() {
        let mut dedup = Dedup::default();
        dedup.remember(id(1, 1, 0), 1000, Bytes::new());
        for minute in 0..=11 {
            dedup.remember(id(2, minute, 0), 1000 + minute * 60_000, Bytes::new());
        }
        assert!(dedup.answered(id(1, 1, 0)).is_none());
        assert!(dedup.answered(id(2, 0, 0)).is_some());
        assert_eq!(dedup.answers, 12);
    }

    #[test]
    fn a_restored_copy_remembers_the_same() {
        let mut dedup = Dedup::default();
        for sequence in 0..5 {
            dedup.remember(id(7, sequence, 2), 5, Bytes::from(vec![sequence as u8]));
        }
        let restored = Dedup::restore(dedup.save());
        for sequence in 0..5 {
            assert_eq!(restored.answered(id(7, sequence, 0)), dedup.answered(id(7, sequence, 0)));
        }
        assert_eq!(restored.answers, dedup.answers);
    }
}
