//! Clusters of real processes: the `trimaran` binary of this build, ports from the system, waits for values.

pub mod compose;
pub mod http;
pub mod pods;
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

/// Set where no test may be skipped.
const REQUIRED: &str = "TRIMARAN_TEST_DOCKER_REQUIRED";

/// Says why a test does nothing on this machine; panics where it must run.
#[allow(clippy::disallowed_methods, reason = "how the machine that must run it says so")]
pub fn skip(why: &str) {
    assert!(std::env::var_os(REQUIRED).is_none(), "{why}");
    println!("SKIPPED: {why}");
}
