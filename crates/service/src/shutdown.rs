//! Stopping: the first signal drains, the second one ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Cancelled by the first SIGINT or SIGTERM; the second one ends the process.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        for round in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if round == 0 {
                info!("draining; a second signal stops at once");
                token.cancel();
            } else {
                warn!("stopped before everything was drained");
                std::process::exit(130);
            }
        }
    });
    Ok(stop)
}
