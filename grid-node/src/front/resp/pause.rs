//! CLIENT PAUSE: commands of this node's clients wait, all of them or those that may write. Another node's do not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::plan::Session;
use crate::command::arguments::{SYNTAX, integer, is};
use crate::command::table::{Run, Spec, find};
use crate::command::{Done, refuse};

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_hours(24 * 365);

/// What is paused on a node, and until when.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// For those who have nothing to wait for. Changed only with the other.
    is_on: AtomicBool,
    until: watch::Sender<Until>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Until {
    end: Option<Instant>,
    only_writes: bool,
}

impl Pause {
    /// True if somebody may have to wait.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// CLIENT PAUSE timeout [WRITE|ALL]. One that is under way becomes no shorter and lets no more through.
    pub(super) fn begin(&self, timeout: &Bytes, what: Option<&Bytes>) -> Done {
        let only_writes = match what {
            None => false,
            Some(word) if is(word, "all") => false,
            Some(word) if is(word, "write") => true,
            Some(_) => return refuse(SYNTAX),
        };
        let Ok(ms) = integer(timeout) else {
            return refuse("ERR timeout is not an integer or out of range");
        };
        let Ok(ms) = u64::try_from(ms) else { return refuse("ERR timeout is negative") };
        let now = Instant::now();
        let end = now + Duration::from_millis(ms).min(PAUSE_MAX);
        self.until.send_modify(|until| {
            let under_way = until.end.filter(|end| *end > now);
            until.only_writes = only_writes && (under_way.is_none() || until.only_writes);
            until.end = under_way.max(Some(end));
            self.is_on.store(true, Ordering::Relaxed);
        });
        Ok(())
    }

    /// CLIENT UNPAUSE.
    pub(super) fn end(&self) {
        self.until.send_modify(|until| {
            *until = Until::default();
            self.is_on.store(false, Ordering::Relaxed);
        });
    }

    /// Returns when what a client asks for need not wait (any more).
    pub(super) async fn wait(&self, session: &Session, requests: &[Vec<Bytes>]) {
        let mut changes = self.until.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            let Some(end) = until.end.filter(|end| *end > Instant::now()) else {
                return self.until.send_modify(|until| {
                    if until.end.is_none_or(|end| end <= Instant::now()) {
                        *until = Until::default();
                        self.is_on.store(false, Ordering::Relaxed);
                    }
                });
            };
            if !requests.iter().any(|arguments| is_held(session, arguments, until.only_writes)) {
                return;
            }
            tokio::select! {
                () = sleep_until(end) => {}
                // It is there as long as this.
                _changed = changes.changed() => {}
            }
        }
    }
}

/// Who has paused the others can end it, and see what they do. Source: `processCommand` of Redis 7.2 (is_may_replicate_command).
fn is_held(session: &Session, arguments: &[Bytes], only_writes: bool) -> bool {
    match arguments.first().and_then(|name| find(name)) {
        Some(spec) if spec.name == "client" => false,
        Some(spec) if only_writes => {
            may_write(spec)
                || spec.name == "exec" && session.queued.as_ref().is_some_and(|queued| queued.any(may_write))
        }
        _ => !only_writes,
    }
}

fn may_write(spec: &Spec) -> bool {
    matches!(spec.run, Run::Write(_))
        || spec.is("write")
        || ["publish", "spublish", "pfcount"].contains(&spec.name)
}
