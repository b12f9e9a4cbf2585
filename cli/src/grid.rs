//! `trimaran grid`: keys of a grid, over gRPC.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;
use trimaran_client::grid::{Condition, Grid, SetOptions};
use trimaran_proto::api::grid::Fence;
use trimaran_proto::api::grid::watch_event::Kind;

use crate::output::Format;

mod backup;
mod lock;
mod namespace;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// gRPC address of a grid node; several separated by commas
    #[arg(
        long,
        global = true,
        value_delimiter = ',',
        default_value = "127.0.0.1:7002",
        env = "TRIMARAN_GRID_ADDRESS"
    )]
    address: Vec<String>,
    /// Ask no other addresses than those, where the ones that nodes have for each other lead nowhere from here (mapped ports)
    #[arg(long, global = true)]
    only_address: bool,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the value of a key; exit code 1 if there is none
    Get {
        /// The key
        key: String,
    },
    /// Set a key
    Set {
        /// The key
        key: String,
        /// The value
        value: String,
        /// Time to live, milliseconds
        #[arg(long)]
        ttl_ms: Option<u64>,
        /// Only if there is no such key; exit code 1 if there is
        #[arg(long, conflicts_with = "if_version")]
        if_absent: bool,
        /// Only if the key has this version; exit code 1 if it has not
        #[arg(long)]
        if_version: Option<u64>,
        #[command(flatten)]
        fenced: Fenced,
    },
    /// Delete a key; exit code 1 if there is none
    Delete {
        /// The key
        key: String,
        #[command(flatten)]
        fenced: Fenced,
    },
    /// Add to the integer that a key holds
    Increment {
        /// The key
        key: String,
        /// What to add
        #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
        #[command(flatten)]
        fenced: Fenced,
    },
    /// Print all keys
    Scan {
        /// Only keys that begin with this
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// Print changes as they happen, until Ctrl-C
    Watch {
        /// The key, or the prefix of keys
        key: String,
        /// All keys that begin with it
        #[arg(long)]
        prefix: bool,
    },
    /// Write all keys and functions to a file, each partition as it is at one moment; nobody is held up
    Backup(backup::Backup),
    /// Put the keys and functions of a backup into this grid
    Restore(backup::Restore),
    /// What the keys of a tenant may use: namespaces with quotas
    #[command(subcommand)]
    Namespace(namespace::Command),
    /// Run a command while a lock, or a permit of a semaphore, is held; its exit code is that of the command
    Lock(lock::Args),
    /// Print who holds a lock or a semaphore, and who waits for it
    Holders {
        /// Its name
        name: String,
        /// Go on as that changes, until Ctrl-C
        #[arg(long)]
        follow: bool,
    },
}

#[derive(clap::Args)]
struct Fenced {
    /// Only as long as a lock in the same slot is held, NAME:TOKEN (what `grid lock` gives its command in TRIMARAN_FENCE)
    #[arg(long, value_name = "NAME:TOKEN", value_parser = fence)]
    fence: Option<Fence>,
}

impl Fenced {
    fn of(self, grid: &Grid) -> Grid {
        self.fence.map_or_else(|| grid.clone(), |fence| grid.fenced(fence))
    }
}

fn fence(text: &str) -> Result<Fence, String> {
    let parsed = text.rsplit_once(':').and_then(|(name, token)| Some((name, token.parse().ok()?)));
    let (name, token) = parsed.ok_or("it must be the name of a lock, a colon and a fencing token")?;
    Ok(Fence { name: name.to_owned().into(), token })
}

#[derive(Serialize)]
struct Value {
    value: String,
    version: u64,
    ttl_ms: Option<u128>,
}

#[derive(Serialize)]
struct Applied {
    applied: bool,
    version: Option<u64>,
}

#[derive(Serialize)]
struct Change {
    kind: &'static str,
    key: String,
    value: Option<String>,
    partition: u64,
    version: u64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Command::Restore(restore) = &args.command
        && restore.check
    {
        return backup::check(&restore.file, args.output);
    }
    let connected = match args.only_address {
        true => Grid::connect_through(args.address.clone()).await,
        false => Grid::connect(args.address.clone()).await,
    };
    let grid = connected.with_context(|| {
        format!("no grid at {}; start one with `trimaran dev`, or give --address", args.address.join(", "))
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = |done: bool| if done { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    match args.command {
        Command::Get { key } => {
            let Some(found) = grid.get_versioned(key).await? else { return Ok(ExitCode::FAILURE) };
            let value = Value {
                value: text(&found.value),
                version: found.version,
                ttl_ms: found.ttl.map(|ttl| ttl.as_millis()),
            };
            args.output.show(&value, |value| value.value.clone())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Set { key, value, ttl_ms, if_absent, if_version, fenced } => {
            let grid = fenced.of(&grid);
            let condition = match (if_absent, if_version) {
                (true, _) => Condition::IfAbsent,
                (_, Some(version)) => Condition::IfVersion(version),
                _ => Condition::Always,
            };
            let options = SetOptions { ttl: ttl_ms.map(Duration::from_millis), condition };
            let version = grid.set_with(key, value, options).await?;
            let applied = Applied { applied: version.is_some(), version };
            args.output.show(&applied, |applied| {
                applied.version.map_or_else(
                    || "not set: the condition does not hold".to_owned(),
                    |v| format!("version {v}"),
                )
            })?;
            Ok(code(applied.applied))
        }
        Command::Delete { key, fenced } => {
            let applied = Applied { applied: fenced.of(&grid).delete(key).await?, version: None };
            args.output.show(&applied, |applied| {
                if applied.applied { "deleted" } else { "no such key" }.to_owned()
            })?;
            Ok(code(applied.applied))
        }
        Command::Increment { key, by, fenced } => {
            let sum = fenced.of(&grid).increment(key, by).await?;
            args.output.show(&sum, ToString::to_string)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Scan { prefix } => {
            let mut cursor = 0;
            loop {
                let (keys, next) = grid.scan(cursor, 1000, prefix.clone()).await?;
                let keys: Vec<String> = keys.iter().map(|key| text(key)).collect();
                if !keys.is_empty() {
                    args.output.show(&keys, |keys| keys.join("\n"))?;
                }
                cursor = next;
                if cursor == 0 {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
        Command::Backup(backup) => backup::backup(&grid, backup, args.output).await,
        Command::Restore(restore) => backup::restore(&grid, restore, args.output).await,
        Command::Namespace(command) => namespace::run(&grid, command, args.output).await,
        Command::Lock(lock) => lock::run(&grid, lock).await,
        Command::Holders { name, follow } => lock::holders(&grid, name, follow, args.output).await,
        Command::Watch { key, prefix } => {
            let mut watch = grid.watch(key, prefix, Vec::new()).await?;
            loop {
                for event in watch.next().await?.events {
                    let kind = match event.kind() {
                        Kind::Set => "set",
                        Kind::Update => "update",
                        Kind::Delete => "delete",
                        Kind::Expire => "expire",
                        Kind::Begin | Kind::Unspecified => continue,
                    };
                    let position = event.position.unwrap_or_default();
                    let change = Change {
                        kind,
                        key: text(&event.key),
                        value: event.value.as_deref().map(text),
                        partition: position.partition,
                        version: position.version,
                    };
                    args.output.show(&change, |change| {
                        format!(
                            "{} {} {}",
                            change.kind,
                            change.key,
                            change.value.as_deref().unwrap_or_default()
                        )
                    })?;
                }
            }
        }
    }
}
