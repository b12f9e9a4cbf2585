//! What every node's process does around its node: logs, signals, liveness and metrics, the drain.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use trimaran_service::admin::{self, Readiness};
use trimaran_service::shutdown;
use trimaran_service::telemetry::{self, LogFormat};

/// Runs a node until a signal. `start` returns when the node takes requests, with what is to be waited for after the
/// signal.
pub(crate) async fn run<S: Future<Output = anyhow::Result<()>>>(
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
    let ended = tokio::select! {
        () = stop.cancelled() => {
            readiness.set(false);
            stopped.await
        }
        // By itself: it is not wanted any more, or cannot go on.
        ended = stopped.as_mut() => {
            stop.cancel();
            ended
        }
    };
    admin.await?.context("the admin server failed")?;
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Flags of every node that is part of a cluster with state; the same on all of its nodes.
#[derive(clap::Args, Serialize)]
pub(crate) struct Autoscale {
    /// Start and drain nodes as the load asks for: as processes on this machine, as containers beside this one, or as pods
    /// of this one's stateful set [default: off]
    #[arg(long = "autoscale", value_name = "off|process|docker|kubernetes")]
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    /// Nodes at least; never fewer than copies of a partition [default: 1]
    #[arg(long = "autoscale-min", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<usize>,
    /// Nodes at most [default: 8]
    #[arg(long = "autoscale-max", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<usize>,
    /// Use of the processors to aim at, percent [default: 60]
    #[arg(long = "autoscale-cpu", value_name = "PERCENT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<u32>,
    /// Use of the memory to aim at, percent [default: 75]
    #[arg(long = "autoscale-memory", value_name = "PERCENT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_percent: Option<u32>,
    /// Reads and writes per second and node to aim at; 0 = whatever comes [default: 0]
    #[arg(long = "autoscale-operations", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<u64>,
    /// Proposals that may wait on a node; 0 = whatever comes [default: 1000]
    #[arg(long = "autoscale-queue", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<u64>,
    /// How long more nodes must be wanted before one is started, seconds [default: 15]
    #[arg(long = "autoscale-up-after-s", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    up_after_s: Option<u64>,
    /// How long fewer nodes must do before one is drained, seconds [default: 300]
    #[arg(long = "autoscale-down-after-s", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    down_after_s: Option<u64>,
    /// Pause after each change, seconds [default: 30]
    #[arg(long = "autoscale-pause-s", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_s: Option<u64>,
}
