//! `trimaran dev`: everything in one process. The same code as a cluster, with one copy of everything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use trimaran_grid_node::config::{Durability, Options};
use trimaran_grid_node::node::Node;
use trimaran_service::admin::{self, Readiness};
use trimaran_service::{shutdown, telemetry};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where data is kept; starting again finds it
    #[arg(long, value_name = "FOLDER", default_value = "./trimaran-data", conflicts_with = "in_memory")]
    data_folder: PathBuf,
    /// Keep nothing on disk
    #[arg(long)]
    in_memory: bool,
    /// Where Redis clients connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:6379")]
    resp_listen: SocketAddr,
    /// Where gRPC clients of the grid connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7002")]
    grid_grpc_listen: SocketAddr,
    /// Where liveness, readiness and metrics are served over HTTP
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9090")]
    admin_listen: SocketAddr,
    /// What to log, as in RUST_LOG
    #[arg(long, default_value = "warn")]
    log: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::install_logs(&args.log, telemetry::LogFormat::Text);
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    let readiness = Readiness::default();
    let admin_listener = trimaran_net::listen::listen(args.admin_listen, "--admin-listen")?;
    let options = Options {
        data_folder: (!args.in_memory).then(|| args.data_folder.join("grid")),
        resp_listen: args.resp_listen,
        grpc_listen: args.grid_grpc_listen,
        bootstrap: Some(1),
        // One copy on one machine: more groups would only make the batches of each smaller.
        partitions: 1,
        replication_factor: 1,
        durability: if args.in_memory { Durability::Memory } else { Durability::Buffered },
        ..Options::default()
    };
    let (grid, stop_grid) = grid_with_named_flags(options, &readiness, &stop).await?;
    let admin = admin::serve(admin_listener, readiness.clone(), telemetry::install_metrics(), stop_grid);
    let admin = tokio::spawn(admin);
    let kept = if args.in_memory {
        "in memory only".to_owned()
    } else {
        format!("in {}", args.data_folder.display())
    };
    println!(
        "Trimaran is ready; data is kept {kept}.\n\n  \
         grid      Redis protocol  redis-cli -p {}\n            \
                   gRPC            trimaran grid --address {} set greeting hello\n  \
         admin     HTTP            curl http://{}/metrics\n\n\
         Ctrl-C drains and stops.",
        grid.resp.port(),
        grid.grpc,
        args.admin_listen,
    );
    stop.cancelled().await;
    readiness.set(false);
    println!("Draining …");
    grid.stopped().await;
    admin.await?.context("the admin server failed")?;
    println!("Stopped.");
    Ok(ExitCode::SUCCESS)
}

async fn grid_with_named_flags(
    options: Options,
    readiness: &Readiness,
    stop: &tokio_util::sync::CancellationToken,
) -> anyhow::Result<(Node, tokio_util::sync::CancellationToken)> {
    let node = Node::start(options, readiness.clone(), stop.clone()).await.map_err(|error| {
        // The node names its own flag; here it has another name.
        let text = format!("{:#}", anyhow::Error::from(error));
        anyhow::anyhow!(text.replace("--grpc-listen", "--grid-grpc-listen"))
    })?;
    Ok((node, stop.clone()))
}
