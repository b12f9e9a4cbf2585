//! Logs and metrics. The only place that installs either.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Bounds of the latency histograms, seconds.
const LATENCY_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Writes logs to stderr. `filter` as in `RUST_LOG`, e.g. "info" or "info,trimaran_replication=debug". Does nothing
/// if logs are written already (tests).
pub fn install_logs(filter: &str, format: LogFormat) {
    // openraft reports as errors what we handle (a peer that is down); our own crates say what matters.
    let filter =
        EnvFilter::try_new(format!("{filter},openraft=off")).unwrap_or_else(|_bad| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if installed.is_err() {
        tracing::debug!("logs are written already");
    }
}

/// Starts to collect metrics; the handle renders them for Prometheus. `None` if they are collected already.
pub fn install_metrics() -> Option<PrometheusHandle> {
    let builder = PrometheusBuilder::new().set_buckets(&LATENCY_BUCKETS).ok()?;
    builder.install_recorder().ok()
}
