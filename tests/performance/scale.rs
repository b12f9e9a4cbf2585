//! A grid in containers that follows its load: the load rises, containers come and get their share of the data, the load
//! falls, they are drained and go. What is seen every second goes to standard output, and as a plot into a file.
//!
//! Requests are due at fixed times, and their time counts from when they were due.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use plotters::prelude::{BLUE, ChartBuilder, IntoDrawingArea, LineSeries, RED, RGBColor, SVGBackend, WHITE};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use trimaran_proto::api::placement::{NodeState, Table};
use trimaran_tests::harness::compose::{Composed, until_healthy};
use trimaran_tests::harness::process::status;

/// Connections; a request waits for one that is free.
const CONNECTIONS: usize = 48;
const KEYS: u64 = 50_000;
const VALUE_BYTES: usize = 256;
const TICK: Duration = Duration::from_millis(10);

/// Requests a second that a node should get; the most that are offered; the least.
const TARGET: u64 = 500;
const MOST: u64 = 2600;
const LEAST: u64 = 200;

/// Seconds: little, rising, much, falling, little again until the nodes have gone.
const QUIET: u64 = 15;
const RISE: u64 = 45;
const HOLD: u64 = 60;
const FALL: u64 = 15;
const REST: u64 = 75;

/// Requests a second at a second.
fn offered(second: u64) -> u64 {
    let between = |part: u64, whole: u64| LEAST + (MOST - LEAST) * part / whole;
    match second {
        second if second < QUIET => LEAST,
        second if second < QUIET + RISE => between(second - QUIET, RISE),
        second if second < QUIET + RISE + HOLD => MOST,
        second if second < QUIET + RISE + HOLD + FALL => between(QUIET + RISE + HOLD + FALL - second, FALL),
        _ => LEAST,
    }
}

/// What a second looked like.
struct Second {
    at: u64,
    offered: u64,
    answered: usize,
    failed: usize,
    p50_ms: f64,
    p99_ms: f64,
    /// Nodes that are up, and those that have copies.
    nodes: usize,
    holding: usize,
}

#[derive(Default)]
struct Answers {
    times_us: Vec<u64>,
    failed: usize,
}

/// Asks over one connection to one front; a new one where that has ended.
async fn connection(
    front: String,
    mut due: mpsc::Receiver<(Instant, u64, bool)>,
    answers: Arc<Mutex<Answers>>,
) {
    let mut stream: Option<BufReader<TcpStream>> = None;
    while let Some((due, key, write)) = due.recv().await {
        let asked = async {
            if stream.is_none() {
                stream = Some(BufReader::new(TcpStream::connect(&front).await?));
            }
            let Some(stream) = &mut stream else { return Ok(()) };
            let command = if write {
                format!("SET key-{key} {}\r\n", "x".repeat(VALUE_BYTES))
            } else {
                format!("GET key-{key}\r\n")
            };
            stream.write_all(command.as_bytes()).await?;
            let mut head = String::new();
            stream.read_line(&mut head).await?;
            if let Some(bytes) = head.trim_end().strip_prefix('$').and_then(|text| text.parse::<i64>().ok())
                && bytes >= 0
            {
                let mut value = vec![0; bytes as usize + 2];
                stream.read_exact(&mut value).await?;
            }
            if head.is_empty() || head.starts_with('-') { Err(std::io::Error::other(head)) } else { Ok(()) }
        };
        match asked.await {
            Ok(()) => answers.lock().times_us.push(due.elapsed().as_micros() as u64),
            Err(_failed) => {
                stream = None;
                answers.lock().failed += 1;
            }
        }
    }
}

fn holding(table: &Table) -> usize {
    let nodes: std::collections::BTreeSet<u64> =
        table.partitions.iter().flat_map(|found| &found.replicas).map(|replica| replica.node_id).collect();
    nodes.len()
}

pub(crate) async fn run(plot: &Path) {
    let target = TARGET.to_string();
    let environment = [
        ("GRID_MAX", "6"),
        ("GRID_OPERATIONS", target.as_str()),
        ("GRID_CPU_PERCENT", "100"),
        ("UP_AFTER_S", "5"),
        ("DOWN_AFTER_S", "20"),
        ("PAUSE_S", "5"),
    ];
    let services = ["grid-1", "grid-2", "grid-3"];
    let composed = Composed::up(&["compose.autoscale.yaml"], &services, &environment);
    let composed = composed.expect("what compose takes is not here");
    for service in services {
        until_healthy(&composed.container(service)).await;
    }
    let grpc = format!("{}:7002", composed.ip(&composed.container("grid-1")));
    let fronts = composed.addresses("GRID");
    let answers: Arc<Mutex<Answers>> = Arc::default();
    let connections: Vec<mpsc::Sender<(Instant, u64, bool)>> = (0..CONNECTIONS)
        .map(|at| {
            let (sender, due) = mpsc::channel(10_000);
            tokio::spawn(connection(fronts[at % fronts.len()].clone(), due, Arc::clone(&answers)));
            sender
        })
        .collect();
    let mut random = StdRng::seed_from_u64(1);
    let mut seconds = Vec::new();
    let mut next = 0;
    let mut due = Instant::now();
    println!("second,offered,answered,failed,p50_ms,p99_ms,nodes,holding");
    for second in 0..QUIET + RISE + HOLD + FALL + REST {
        let ticks = 1000 / TICK.as_millis() as u64;
        for tick in 0..ticks {
            sleep_until(due).await;
            let count = offered(second) * (tick + 1) / ticks - offered(second) * tick / ticks;
            for _ in 0..count {
                let asked = (due, random.random_range(0..KEYS), random.random_bool(0.5));
                // One that is far behind is not waited for: its requests count as failed.
                if connections[next % CONNECTIONS].try_send(asked).is_err() {
                    answers.lock().failed += 1;
                }
                next += 1;
            }
            due += TICK;
        }
        let Answers { mut times_us, failed } = std::mem::take(&mut *answers.lock());
        times_us.sort_unstable();
        let at = |percent: usize| {
            let place = (times_us.len() * percent / 100).min(times_us.len().saturating_sub(1));
            times_us.get(place).map_or(0.0, |time| *time as f64 / 1000.0)
        };
        let table = status(&grpc).await.and_then(|status| status.table).unwrap_or_default();
        let up = table.nodes.iter().filter(|node| node.state() != NodeState::Gone).count();
        let seen = Second {
            at: second,
            offered: offered(second),
            answered: times_us.len(),
            failed,
            p50_ms: at(50),
            p99_ms: at(99),
            nodes: up,
            holding: holding(&table),
        };
        println!(
            "{},{},{},{},{:.2},{:.2},{},{}",
            seen.at,
            seen.offered,
            seen.answered,
            seen.failed,
            seen.p50_ms,
            seen.p99_ms,
            seen.nodes,
            seen.holding
        );
        seconds.push(seen);
    }
    draw(plot, &seconds).expect("the plot cannot be drawn");
}

/// Three plots over the same time: requests, nodes, times.
fn draw(file: &Path, seconds: &[Second]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(file, (900, 720)).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.split_evenly((3, 1));
    let end = seconds.len() as f64;
    let grey = RGBColor(110, 110, 110);
    let most = |of: &dyn Fn(&Second) -> f64| seconds.iter().map(of).fold(1.0, f64::max) * 1.1;
    type Of<'a> = &'a dyn Fn(&Second) -> f64;
    let plots: [(&str, [(Of<'_>, RGBColor); 2]); 3] = [
        (
            "requests a second: offered (grey), answered (blue)",
            [(&|second| second.offered as f64, grey), (&|second| second.answered as f64, BLUE)],
        ),
        (
            "nodes: there (red), with copies (blue)",
            [(&|second| second.nodes as f64, RED), (&|second| second.holding as f64, BLUE)],
        ),
        (
            "milliseconds: p99 (red), p50 (blue)",
            [(&|second| second.p99_ms, RED), (&|second| second.p50_ms, BLUE)],
        ),
    ];
    for (area, (caption, lines)) in areas.iter().zip(plots) {
        let top = lines.iter().map(|(of, _)| most(*of)).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(caption, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        chart.configure_mesh().x_desc("seconds").light_line_style(WHITE).draw()?;
        for (of, colour) in lines {
            chart.draw_series(LineSeries::new(
                seconds.iter().map(|second| (second.at as f64, of(second))),
                &colour,
            ))?;
        }
    }
    root.present()?;
    Ok(())
}
