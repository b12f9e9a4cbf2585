//! `trimaran health`: whether a node takes requests, for health checks of containers and for scripts.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use trimaran_net::dial::{Dial, TcpDial, channel};

/// Asks a node by gRPC's health protocol. Exit code 0 if it takes requests, 1 if it does not or does not answer.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// gRPC address of the node
    #[arg(long)]
    address: String,
    /// How long to wait for the answer, milliseconds
    #[arg(long, default_value_t = 1500)]
    timeout_ms: u64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    let mut client = HealthClient::new(channel(&dial, &args.address)?);
    let asked = client.check(HealthCheckRequest::default());
    let answer = tokio::time::timeout(Duration::from_millis(args.timeout_ms), asked).await;
    let text = match &answer {
        Ok(Ok(reply)) if reply.get_ref().status() == ServingStatus::Serving => "takes requests".to_owned(),
        Ok(Ok(_)) => "does not take requests yet".to_owned(),
        Ok(Err(status)) => format!("does not answer: {}", status.message()),
        Err(_elapsed) => format!("does not answer in {} ms", args.timeout_ms),
    };
    println!("{} {text}", args.address);
    Ok(if text == "takes requests" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
