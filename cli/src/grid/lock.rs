//! `trimaran grid lock` and `holders`.

use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use trimaran_client::coordination::{Guard, Holders};
use trimaran_client::grid::Grid;
use trimaran_service::shutdown;

use crate::output::Format;

/// How long a command may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// Exit code when the lease was lost: try again (EX_TEMPFAIL of sysexits.h).
const LEASE_LOST: u8 = 75;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Name of the lock; a key in the same braces is in the same slot: {order-17}/lock for {order-17}/state
    name: String,
    /// How many may hold it at once; everybody must name the same number
    #[arg(long, default_value_t = 1)]
    permits: u32,
    /// How long it stays held by somebody who is not heard of any more, milliseconds
    #[arg(long, default_value_t = 10_000)]
    lease_ms: u64,
    /// Give up after so many milliseconds (exit code 1); 0 = do not wait at all
    #[arg(long, default_value_t = 86_400_000)]
    wait_ms: u64,
    /// What others are told about the holder
    #[arg(long, default_value = "")]
    value: String,
    /// The command, which finds TRIMARAN_FENCING_TOKEN and TRIMARAN_FENCE in its environment. It is ended if the lease is lost
    /// (exit code 75)
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(super) async fn run(grid: &Grid, args: Args) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    let lock = grid.semaphore(args.name.clone(), args.permits);
    let lock = lock.lease(Duration::from_millis(args.lease_ms)).value(args.value);
    let acquired = tokio::select! {
        acquired = lock.acquire(Duration::from_millis(args.wait_ms)) => acquired?,
        // Its place in the queue is given up.
        () = stop.cancelled() => None,
    };
    let Some(guard) = acquired else {
        eprintln!("{} is held by others; `trimaran grid holders {0}` says by whom", args.name);
        return Ok(ExitCode::FAILURE);
    };
    let (program, arguments) = args.command.split_first().context("no command is given")?;
    let mut command = Command::new(program);
    command.args(arguments);
    command.env("TRIMARAN_FENCING_TOKEN", guard.token().to_string());
    command.env("TRIMARAN_FENCE", format!("{}:{}", args.name, guard.token()));
    // With all that it starts, but who sits at a terminal goes on reading from it.
    let is_group = !std::io::stdin().is_terminal();
    if is_group {
        command.process_group(0);
    }
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let ended = tokio::select! {
        ended = child.wait() => ended?,
        () = guard.lost() => {
            eprintln!("the lease of {} is lost: the command is ended", args.name);
            end(&mut child, is_group).await?;
            return Ok(ExitCode::from(LEASE_LOST));
        }
        () = stop.cancelled() => end(&mut child, is_group).await?,
    };
    let was_held = released(guard).await;
    if !was_held {
        eprintln!("the lease of {} was lost before the command came to its end", args.name);
        return Ok(ExitCode::from(LEASE_LOST));
    }
    Ok(code(ended))
}

/// Gives the lock back; false if it was lost before.
async fn released(guard: Guard) -> bool {
    match guard.release().await {
        Ok(was_held) => was_held,
        Err(error) => {
            // It was held until now, and ends with its lease.
            eprintln!("the lock could not be given back: {error}");
            true
        }
    }
}

/// Asks a command to end, and ends it if it does not.
async fn end(child: &mut Child, is_group: bool) -> anyhow::Result<ExitStatus> {
    for signal in [Signal::TERM, Signal::KILL] {
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            let sent = if is_group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
            sent.context("cannot signal the command")?;
        }
        if let Ok(ended) = timeout(GRACE, child.wait()).await {
            return Ok(ended?);
        }
    }
    anyhow::bail!("the command does not end")
}

/// As a shell says it.
fn code(ended: ExitStatus) -> ExitCode {
    let code = ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

#[derive(Serialize)]
struct Shown {
    permits: u32,
    holdings: Vec<Holding>,
    queue: Vec<Waiting>,
}

#[derive(Serialize)]
struct Holding {
    holder: String,
    token: u64,
    taken: u32,
    lease_ms: u64,
    value: String,
}

#[derive(Serialize)]
struct Waiting {
    holder: String,
    take: u32,
    value: String,
}

impl From<Holders> for Shown {
    fn from(holders: Holders) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let holding = |held: &trimaran_proto::api::coordination::Holding| Holding {
            holder: text(&held.holder),
            token: held.token,
            taken: held.taken,
            lease_ms: held.lease_ms,
            value: text(&held.value),
        };
        let waiting = |waits: &trimaran_proto::api::coordination::Waiting| Waiting {
            holder: text(&waits.holder),
            take: waits.take,
            value: text(&waits.value),
        };
        Self {
            permits: holders.permits,
            holdings: holders.holdings.iter().map(holding).collect(),
            queue: holders.queue.iter().map(waiting).collect(),
        }
    }
}

fn table(shown: &Shown) -> String {
    if shown.permits == 0 {
        return "nobody holds it".to_owned();
    }
    let holding = |held: &Holding| {
        let Holding { holder, token, taken, lease_ms, value } = held;
        format!("{holder} holds {taken} of {} with token {token}, {lease_ms} ms left  {value}", shown.permits)
    };
    let waiting = |waits: &Waiting| format!("{} waits for {}  {}", waits.holder, waits.take, waits.value);
    let lines = shown.holdings.iter().map(holding).chain(shown.queue.iter().map(waiting));
    lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

pub(super) async fn holders(
    grid: &Grid,
    name: String,
    follow: bool,
    output: Format,
) -> anyhow::Result<ExitCode> {
    let semaphore = grid.lock(name);
    if !follow {
        output.show(&Shown::from(semaphore.describe().await?), table)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut observed = semaphore.observe();
    loop {
        output.show(&Shown::from(observed.next().await?), table)?;
    }
}
