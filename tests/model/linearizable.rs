//! Whether a history of one register can be put in an order that respects real time.
//!
//! The search of Wing and Gong (1993) with the cache of Lowe (2017): states that were reached by the same set of
//! operations are visited once. An operation without an answer may have taken effect at any time after it began, or
//! never.

use std::collections::HashSet;

/// What was asked of a register, and what it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wrote a value; acknowledged.
    Write(u64),
    /// Read; `None` = there was nothing.
    Read(Option<u64>),
}

/// One operation: when it began and when its answer came, by one clock. `ended` = `None`: no answer came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What.
    pub action: Action,
    /// When the client asked.
    pub began: u64,
    /// When it had the answer.
    pub ended: Option<u64>,
}

/// The history is right, or the longest prefix of an order that was found before it went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Violation {
        /// The operations around which it went wrong, in order of their ends.
        around: Vec<Operation>,
    },
}

/// Looks for an order. Reads without an answer say nothing and are left out.
pub fn check(history: &[Operation]) -> Verdict {
    let mut operations: Vec<&Operation> = history
        .iter()
        .filter(|operation| operation.ended.is_some() || matches!(operation.action, Action::Write(_)))
        .collect();
    operations.sort_by_key(|operation| operation.began);
    let count = operations.len();
    let end = |at: usize| operations[at].ended.unwrap_or(u64::MAX);

    let mut done = vec![false; count];
    let mut first_open = 0;
    let mut state: Option<u64> = None;
    let mut required = operations.iter().filter(|operation| operation.ended.is_some()).count();
    let mut cache: HashSet<(Vec<u64>, Option<u64>)> = HashSet::new();
    // Choices made: which operation, and the state before it.
    let mut path: Vec<(usize, Option<u64>)> = Vec::new();
    let mut deepest: (usize, usize) = (0, 0);
    // Where to go on looking among the candidates.
    let mut candidate = 0;
    loop {
        if required == 0 {
            return Verdict::Linearizable;
        }
        // An operation may come next only if it began before the first end among the open ones.
        let deadline = (first_open..count).filter(|&at| !done[at]).map(end).min().unwrap_or(u64::MAX);
        let mut chosen = None;
        for at in candidate.max(first_open)..count {
            if operations[at].began > deadline {
                break;
            }
            if done[at] {
                continue;
            }
            let next = match &operations[at].action {
                Action::Write(value) => Some(Some(*value)),
                Action::Read(value) if *value == state => Some(state),
                Action::Read(_) => None,
            };
            let Some(next) = next else { continue };
            done[at] = true;
            if cache.insert((bits(&done, first_open), next)) {
                chosen = Some((at, next));
                break;
            }
            done[at] = false;
        }
        match chosen {
            Some((at, next)) => {
                path.push((at, state));
                state = next;
                required -= usize::from(operations[at].ended.is_some());
                while first_open < count && done[first_open] {
                    first_open += 1;
                }
                if path.len() > deepest.0 {
                    deepest = (path.len(), first_open);
                }
                candidate = 0;
            }
            None => {
                let Some((at, before)) = path.pop() else {
                    let from = deepest.1.saturating_sub(3);
                    let mut around: Vec<Operation> = operations[from..count.min(deepest.1 + 8)]
                        .iter()
                        .map(|&operation| operation.clone())
                        .collect();
                    around.sort_by_key(|operation| operation.ended.unwrap_or(u64::MAX));
                    return Verdict::Violation { around };
                };
                done[at] = false;
                state = before;
                required += usize::from(operations[at].ended.is_some());
                first_open = first_open.min(at);
                candidate = at + 1;
            }
        }
    }
}

/// The set of operations done, as a key: everything before `first_open` is done.
fn bits(done: &[bool], first_open: usize) -> Vec<u64> {
    let mut first = first_open;
    while first < done.len() && done[first] {
        first += 1;
    }
    let last = done.iter().rposition(|&bit| bit).map_or(first, |last| last + 1).max(first);
    let mut words = vec![first as u64];
    for chunk in done[first..last].chunks(64) {
        words.push(chunk.iter().enumerate().fold(0, |word, (at, &bit)| word | (u64::from(bit) << at)));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, began: u64, ended: u64) -> Operation {
        Operation { action: Action::Write(value), began, ended: Some(ended) }
    }

    fn read(value: Option<u64>, began: u64, ended: u64) -> Operation {
        Operation { action: Action::Read(value), began, ended: Some(ended) }
    }

    #[test]
    fn concurrent_operations_may_be_in_any_order() {
        let history = [write(1, 0, 10), write(2, 0, 10), read(Some(1), 5, 12), read(Some(1), 13, 14)];
        assert_eq!(check(&history), Verdict::Linearizable);
    }

    #[test]
    fn a_planted_stale_read_is_caught() {
        let history = [write(1, 0, 1), write(2, 2, 3), read(Some(1), 4, 5)];
        assert!(matches!(check(&history), Verdict::Violation { .. }));
    }

    #[test]
    fn a_planted_lost_write_is_caught() {
        let history = [write(1, 0, 1), read(Some(1), 2, 3), write(2, 4, 5), read(None, 6, 7)];
        assert!(matches!(check(&history), Verdict::Violation { .. }));
    }

    #[test]
    fn a_value_that_comes_back_is_caught() {
        let history = [write(1, 0, 1), write(2, 2, 3), read(Some(2), 4, 5), read(Some(1), 6, 7)];
        assert!(matches!(check(&history), Verdict::Violation { .. }));
    }

    #[test]
    fn a_write_without_an_answer_may_happen_later_or_never() {
        let unanswered = Operation { action: Action::Write(2), began: 2, ended: None };
        let later = [write(1, 0, 1), unanswered.clone(), read(Some(1), 4, 5), read(Some(2), 6, 7)];
        assert_eq!(check(&later), Verdict::Linearizable);
        let never = [write(1, 0, 1), unanswered.clone(), read(Some(1), 4, 5)];
        assert_eq!(check(&never), Verdict::Linearizable);
        let to_and_fro = [write(1, 0, 1), unanswered, read(Some(2), 4, 5), read(Some(1), 6, 7)];
        assert!(matches!(check(&to_and_fro), Verdict::Violation { .. }));
    }

    #[test]
    fn a_long_history_of_many_clients_is_checked_in_time() {
        // Four clients in lockstep, each write read by all: wide overlaps, 8,000 operations.
        let mut history = Vec::new();
        for round in 0..2000_u64 {
            let at = round * 10;
            history.push(write(round, at, at + 4));
            for client in 0..3 {
                history.push(read(Some(round), at + 5 + client, at + 9));
            }
        }
        assert_eq!(check(&history), Verdict::Linearizable);
    }
}
