//! What every node's process does around its node: logs, signals, liveness and metrics, the drain.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use trimaran_service::admin::{self, Readiness};
use trimaran_service::shutdown;
use trimaran_service::telemetry::{self, LogFormat};

/// Runs a node until a signal. `start` returns when the node takes requests, with what is to be waited for after the
/// signal.
pub(crate) async fn run<S: Future<Output = ()>>(
    admin_listen: SocketAddr,
    (log, log_format): (&str, LogFormat),
    start: impl AsyncFnOnce(Readiness, CancellationToken) -> anyhow::Result<S>,
) -> anyhow::Result<ExitCode> {
    telemetry::install_logs(log, log_format);
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    let readiness = Readiness::default();
    let admin_listener = trimaran_net::listen::listen(admin_listen, "--admin-listen")?;
    let admin = admin::serve(admin_listener, readiness.clone(), telemetry::install_metrics(), stop.clone());
    let admin = tokio::spawn(admin);
    let mut stopped = std::pin::pin!(start(readiness.clone(), stop.clone()).await?);
    tokio::select! {
        () = stop.cancelled() => {
            readiness.set(false);
            stopped.await;
        }
        // By itself: it is not wanted any more.
        () = stopped.as_mut() => stop.cancel(),
    }
    admin.await?.context("the admin server failed")?;
    Ok(ExitCode::SUCCESS)
}
