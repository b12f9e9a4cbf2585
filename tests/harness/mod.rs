//! Clusters of real processes: the `trimaran` binary of this build, ports from the system, waits for values.

pub mod compose;
pub mod http;
pub mod process;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take in a test before it counts as failed. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds` says so; panics with `what` after [`PATIENCE`].
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "did not happen in {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}
