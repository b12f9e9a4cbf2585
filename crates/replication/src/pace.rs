//! How fast a node fills new copies: snapshots and entries for replicas that do not vote yet share one rate, so that what
//! clients wait for goes first.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Bytes per second that a node sends to fill copies, all of them together.
pub(crate) const FILL_BYTES_PER_SECOND: u64 = 16 << 20;

/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(50);

/// One rate for all who share it.
#[derive(Clone)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When everything that was let go so far is out.
    free_at: Arc<Mutex<Instant>>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Returns when so many bytes may go. Whoever asks first goes first.
    pub(crate) async fn let_go(&self, bytes: usize) {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let turn = {
            let mut free_at = self.free_at.lock();
            let earliest = Instant::now().checked_sub(BURST).unwrap_or(*free_at);
            let turn = (*free_at).max(earliest);
            *free_at = turn + takes;
            turn
        };
        sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_who_share_a_pace_share_its_rate() {
        let pace = Pace::new(1000);
        let began = Instant::now();
        let two = [pace.clone(), pace.clone()].map(|pace| async move {
            for _ in 0..10 {
                pace.let_go(100).await;
            }
        });
        futures::future::join_all(two).await;
        let took = began.elapsed();
        assert!(
            (1800..=2000).contains(&took.as_millis()),
            "2000 bytes, the last ones not waited for: {took:?}"
        );
        // A pause is not saved up.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        for _ in 0..10 {
            pace.let_go(100).await;
        }
        assert!(began.elapsed() >= Duration::from_millis(800), "{:?}", began.elapsed());
    }
}
