//! SLOWLOG: what took this node long to answer, from when it was read until its answer was ready, the round to the other copies
//! included. Of commands that were sent together the first is kept, with the time of all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Front;
use super::plan::{Session, Step, said};
use crate::command::arguments::{integer, is, lower};
use crate::command::reply::Answer;
use crate::command::{Done, refuse};

/// Arguments of a command that are kept, and bytes of each. Source: `SLOWLOG_ENTRY_MAX_ARGC`, `…_MAX_STRING` of Redis.
const ARGUMENTS_MAX: usize = 32;
const ARGUMENT_BYTES_MAX: usize = 128;

/// From which time on a command is slow, microseconds, if nothing is told (`slowlog-log-slower-than`).
pub(super) const SLOWER_THAN_DEFAULT: i64 = 10_000;

/// Entries that are kept, if nothing is told (`slowlog-max-len`), and at most.
pub(super) const ENTRIES_DEFAULT: u64 = 128;
const ENTRIES_MAX: u64 = 65_536;

/// Entries that SLOWLOG GET tells where no number is named.
const TOLD_DEFAULT: usize = 10;

#[derive(Debug)]
struct Entry {
    id: u64,
    at_s: u64,
    took_us: u64,
    arguments: Vec<Bytes>,
    address: String,
    name: Bytes,
}

/// A command that may turn out to be slow. It has room for the next one.
#[derive(Debug, Default)]
pub(super) struct Candidate {
    /// The first of them.
    arguments: Vec<Bytes>,
    /// How many there are.
    count: usize,
}

impl Candidate {
    /// It waited because it was asked to.
    pub(super) fn forget(&mut self) {
        self.arguments.clear();
    }
}

/// What was slow at this node.
#[derive(Debug)]
pub(super) struct SlowLog {
    slower_than_us: AtomicI64,
    most: AtomicU64,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// Newest first.
    held: VecDeque<Entry>,
    next: u64,
}

impl Default for SlowLog {
    fn default() -> Self {
        Self {
            slower_than_us: AtomicI64::new(SLOWER_THAN_DEFAULT),
            most: AtomicU64::new(ENTRIES_DEFAULT),
            entries: Mutex::default(),
        }
    }
}

impl SlowLog {
    /// Takes over what was told; negative = nothing is slow.
    pub(super) fn set(&self, slower_than_us: Option<i64>, most: Option<u64>) {
        if let Some(slower_than_us) = slower_than_us {
            self.slower_than_us.store(slower_than_us, Ordering::Relaxed);
        }
        if let Some(most) = most {
            self.most.store(most.min(ENTRIES_MAX), Ordering::Relaxed);
        }
    }

    /// Has the first of some commands ready, to be kept if it turns out to be slow, if anything is.
    pub(super) fn begin(&self, requests: &[Vec<Bytes>], candidate: &mut Candidate) {
        let is_on = self.slower_than_us.load(Ordering::Relaxed) >= 0;
        if let Some(first) = requests.first().filter(|_| is_on) {
            candidate.count = first.len();
            candidate.arguments.extend(first.iter().take(ARGUMENTS_MAX).cloned());
        }
    }

    /// Keeps it if it was slow.
    pub(super) fn end(&self, front: &Front, session: &mut Session, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let most = self.most.load(Ordering::Relaxed);
        let is_slow =
            u64::try_from(self.slower_than_us.load(Ordering::Relaxed)).is_ok_and(|us| took_us >= us);
        let candidate = &mut session.slow;
        if !is_slow || most == 0 || candidate.arguments.is_empty() {
            candidate.arguments.clear();
            return;
        }
        let arguments = kept(candidate.arguments.drain(..).collect(), candidate.count);
        let (address, name) = session.client.address_and_name();
        let mut entries = self.entries.lock();
        let id = entries.next;
        entries.next += 1;
        entries.held.push_front(Entry {
            id,
            at_s: front.router.clock_ms() / 1000,
            took_us,
            arguments,
            address,
            name,
        });
        entries.held.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    }
}

/// What is kept of a command: not all of a long one, and no password.
fn kept(arguments: Vec<Bytes>, count: usize) -> Vec<Bytes> {
    let hidden = hides(&arguments);
    let shown = if count > ARGUMENTS_MAX { ARGUMENTS_MAX - 1 } else { count };
    let cut = |(at, argument): (usize, Bytes)| {
        if hidden.contains(&at) {
            return Bytes::from_static(b"(redacted)");
        }
        match argument.len().checked_sub(ARGUMENT_BYTES_MAX) {
            Some(more @ 1..) => {
                let mut text = argument[..ARGUMENT_BYTES_MAX].to_vec();
                text.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
                text.into()
            }
            // A copy of its own: it would keep the whole request in memory.
            _ => Bytes::copy_from_slice(&argument),
        }
    };
    let mut kept: Vec<Bytes> = arguments.into_iter().take(shown).enumerate().map(cut).collect();
    if shown < count {
        kept.push(format!("... ({} more arguments)", count - shown).into());
    }
    kept
}

/// Which arguments are, or may be, passwords.
fn hides(arguments: &[Bytes]) -> Vec<usize> {
    let name = lower(&arguments[0]);
    let word = |at: usize| arguments.get(at).map(|word| lower(word)).unwrap_or_default();
    let all = 1..arguments.len();
    match name.as_str() {
        "auth" => all.collect(),
        "acl" if ["setuser", "deluser", "getuser"].contains(&word(1).as_str()) => all.skip(1).collect(),
        "config" if word(1) == "set" => {
            let is_secret =
                |at: &usize| ["requirepass", "masterauth", "masteruser"].contains(&word(*at).as_str());
            (2..arguments.len()).step_by(2).filter(is_secret).map(|at| at + 1).collect()
        }
        "hello" => {
            let auth = arguments.iter().position(|word| is(word, "auth"));
            auth.into_iter().flat_map(|at| [at + 1, at + 2]).collect()
        }
        _ => Vec::new(),
    }
}

/// SLOWLOG.
pub(super) fn plan(front: &Front, arguments: &[Bytes]) -> Done<Step> {
    let log = &front.slow_log;
    Ok(match (lower(&arguments[1]).as_str(), &arguments[2..]) {
        ("len", []) => {
            let count = log.entries.lock().held.len();
            said(|out| out.count(count))
        }
        ("reset", []) => {
            log.entries.lock().held.clear();
            said(Answer::ok)
        }
        ("get", rest @ ([] | [_])) => {
            let count = match rest {
                [count, ..] => match integer(count)? {
                    -1 => usize::MAX,
                    count => match usize::try_from(count) {
                        Ok(count) => count,
                        Err(_) => return refuse("ERR count should be greater than or equal to -1"),
                    },
                },
                [] => TOLD_DEFAULT,
            };
            said(|out| {
                let entries = log.entries.lock();
                out.counted(entries.held.iter().take(count), |out, entry| {
                    out.array(6);
                    for number in [entry.id, entry.at_s, entry.took_us] {
                        out.integer(i64::try_from(number).unwrap_or(i64::MAX));
                    }
                    out.array(entry.arguments.len());
                    entry.arguments.iter().for_each(|argument| out.bulk(argument));
                    out.bulk(entry.address.as_bytes());
                    out.bulk(&entry.name);
                });
            })
        }
        _ => {
            return refuse(
                "ERR unknown subcommand or wrong number of arguments for 'slowlog'. Try SLOWLOG HELP.",
            );
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Vec<Bytes> {
        words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    #[test]
    fn passwords_are_not_kept_and_long_commands_not_whole() {
        let shown = |words: &[&str]| -> Vec<String> {
            kept(command(words), words.len())
                .iter()
                .map(|word| String::from_utf8(word.to_vec()).unwrap())
                .collect()
        };
        assert_eq!(shown(&["AUTH", "me", "secret"]), ["AUTH", "(redacted)", "(redacted)"]);
        assert_eq!(
            shown(&["hello", "3", "AUTH", "me", "secret", "SETNAME", "x"]),
            ["hello", "3", "AUTH", "(redacted)", "(redacted)", "SETNAME", "x"]
        );
        assert_eq!(
            shown(&["config", "set", "requirepass", "secret", "hz", "10"]),
            ["config", "set", "requirepass", "(redacted)", "hz", "10"]
        );
        assert_eq!(
            shown(&["acl", "setuser", "me", ">secret"]),
            ["acl", "setuser", "(redacted)", "(redacted)"]
        );
        let long = "x".repeat(130);
        assert_eq!(shown(&["get", &long])[1], format!("{}... (2 more bytes)", "x".repeat(128)));
        let many: Vec<&str> = std::iter::repeat_n("k", 40).collect();
        let shown = shown(&many);
        assert_eq!((shown.len(), shown[31].as_str()), (32, "... (9 more arguments)"));
    }
}
