//! Request ids: how a retry is applied once.
//!
//! A caller draws a session id at random and numbers its requests. With each it says below which number everything
//! is answered, so that replicas keep only the replies that may still be asked for.
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), 6.3.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// The id of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// One caller's run of requests, drawn at random.
    pub session: u64,
    /// Its number within the session.
    pub sequence: u64,
    /// Requests of this session below this number will not come again.
    pub answered_below: u64,
}

impl RequestId {
    /// An id from 128 random bits that a foreign caller chose: a session of one request.
    pub fn from_random(bits: u128) -> Self {
        // The high and the low half.
        Self { session: (bits >> 64) as u64, sequence: bits as u64, answered_below: 0 }
    }

    /// The one that follows it in its session as the `count`-th.
    #[must_use]
    pub fn following(self, count: u64) -> Self {
        Self { sequence: self.sequence.wrapping_add(count), ..self }
    }
}

/// Numbers the requests of one caller to one group. Clones share the numbering.
#[derive(Clone, Debug)]
pub struct Session {
    id: u64,
    state: Arc<Mutex<Numbers>>,
}

#[derive(Debug)]
struct Numbers {
    next: u64,
    /// First number of each run that is not answered.
    open: BTreeSet<u64>,
}

impl Session {
    /// A session with an id drawn at random by the caller.
    pub fn new(id: u64) -> Self {
        Self { id, state: Arc::new(Mutex::new(Numbers { next: 1, open: BTreeSet::new() })) }
    }

    /// Ids for `count` requests that are sent, and retried, together. They count as answered when this is dropped.
    pub fn begin(&self, count: usize) -> Requests {
        let mut numbers = self.state.lock();
        let first = numbers.next;
        numbers.next += count as u64;
        numbers.open.insert(first);
        let answered_below = numbers.open.first().copied().unwrap_or(first);
        drop(numbers);
        Requests { session: self.clone(), first, answered_below }
    }
}

/// Requests under way.
#[derive(Debug)]
pub struct Requests {
    session: Session,
    first: u64,
    answered_below: u64,
}

impl Requests {
    /// The id of the request at `position`, counted from 0.
    pub fn id(&self, position: usize) -> RequestId {
        RequestId {
            session: self.session.id,
            sequence: self.first + position as u64,
            answered_below: self.answered_below,
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.session.state.lock().open.remove(&self.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_above_the_oldest_open_request_counts_as_answered() {
        let session = Session::new(9);
        let first = session.begin(3);
        let second = session.begin(2);
        assert_eq!(second.id(1), RequestId { session: 9, sequence: 5, answered_below: 1 });
        drop(first);
        assert_eq!(session.begin(1).id(0).answered_below, 4);
        drop(second);
        assert_eq!(session.begin(1).id(0).answered_below, 7);
    }
}
