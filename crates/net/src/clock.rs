//! Where time comes from. Everything below a front gets it passed in, so that the simulator runs the real code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Wall-clock time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[allow(clippy::disallowed_methods, reason = "this is the one place where wall-clock time enters")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The operating system's clock, but one that never jumps: where somebody sets that one, this one follows it slowly. Keys
/// would expire, and answers that retries may ask for be forgotten, if an hour passed in a moment.
///
/// As long as the process lives; at its start it believes what it is told. It goes on while the machine sleeps as much as
/// the monotonic clock does.
#[derive(Debug)]
pub struct SteadyClock {
    shown: Mutex<(Instant, f64)>,
}

/// How fast it follows: an eighth of the time that passes.
const CATCH_UP: f64 = 0.125;

impl Default for SteadyClock {
    fn default() -> Self {
        Self { shown: Mutex::new((Instant::now(), since_1970().as_secs_f64() * 1000.0)) }
    }
}

/// What a steady clock shows that showed `shown` before `passed`, where the other one shows `target` now; milliseconds.
fn steady(shown: f64, passed: f64, target: f64) -> f64 {
    let alone = shown + passed;
    alone + (target - alone).clamp(-passed * CATCH_UP, passed * CATCH_UP)
}

impl Clock for SteadyClock {
    fn now_ms(&self) -> u64 {
        let mut shown = self.shown.lock();
        let now = Instant::now();
        let passed = now.saturating_duration_since(shown.0).as_secs_f64() * 1000.0;
        // With fractions: whole milliseconds would be half of one behind, and a client beside it notices.
        *shown = (now, steady(shown.1, passed, since_1970().as_secs_f64() * 1000.0));
        shown.1 as u64
    }
}

/// A clock that a test moves.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that stands at `now_ms`.
    pub fn at(now_ms: u64) -> Self {
        Self(Arc::new(AtomicU64::new(now_ms)))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_followed_slowly_and_time_never_goes_back() {
        let mut shown = 1_000_000.0;
        for _ in 0..10 {
            shown = steady(shown, 100.0, shown + 100.0);
        }
        assert_eq!(shown, 1_001_000.0, "in step");
        // An hour ahead, then an hour behind.
        for target in [3_600_000.0, -3_600_000.0] {
            let before = shown;
            for _ in 0..100 {
                let next = steady(shown, 100.0, before + target);
                assert!(next > shown);
                shown = next;
            }
            assert!((shown - before - 10_000.0).abs() <= 1250.5, "{}", shown - before);
        }
        // It arrives.
        let target = shown + 1500.0;
        for step in 1..=200 {
            shown = steady(shown, 100.0, target + f64::from(step) * 100.0);
        }
        assert!((shown - target - 20_000.0).abs() < 0.5);
    }
}
