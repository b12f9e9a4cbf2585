//! `trimaran grid namespace`: what the keys of a tenant may use.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use trimaran_client::grid::Grid;
use trimaran_client::namespaces::{Namespace, Quotas};
use trimaran_grid_node::memory::parse_bytes;

use crate::output::Format;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a namespace, or give it other quotas: of keys that begin with NAME: or {NAME:
    Put {
        /// Its name
        name: String,
        /// Memory of its keys and values, each counted once, e.g. 256mb; without it any
        #[arg(long, value_parser = bytes)]
        memory: Option<u64>,
        /// Keys asked for or written to per second, over all nodes; without it any
        #[arg(long)]
        operations: Option<u64>,
    },
    /// Take the quotas of a namespace away; its keys stay. Exit code 1 if there is none
    Delete {
        /// Its name
        name: String,
    },
    /// Print all namespaces, what they may use and what they use
    List,
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text)
        .ok_or_else(|| "it must be a number of bytes, or one with kb, mb or gb behind it".to_owned())
}

#[derive(Serialize)]
struct Listed {
    name: String,
    keys: u64,
    bytes: u64,
    memory_quota: Option<u64>,
    operations_per_second: u64,
    operations_quota: Option<u64>,
}

impl From<Namespace> for Listed {
    fn from(namespace: Namespace) -> Self {
        let quotas = namespace.quotas.unwrap_or_default();
        Self {
            name: namespace.name,
            keys: namespace.keys,
            bytes: namespace.bytes,
            memory_quota: quotas.memory_bytes,
            operations_per_second: namespace.operations,
            operations_quota: quotas.operations,
        }
    }
}

pub(crate) async fn run(grid: &Grid, command: Command, output: Format) -> anyhow::Result<ExitCode> {
    match command {
        Command::Put { name, memory, operations } => {
            grid.put_namespace(name, Quotas { memory_bytes: memory, operations }).await?;
        }
        Command::Delete { name } => {
            if !grid.delete_namespace(name).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::List => {
            let namespaces: Vec<Listed> = grid.namespaces().await?.into_iter().map(Listed::from).collect();
            output.show(&namespaces, |namespaces| table(namespaces))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(namespaces: &[Listed]) -> String {
    if namespaces.is_empty() {
        return "no namespaces".to_owned();
    }
    let of = |quota: Option<u64>| quota.map_or_else(|| "any".to_owned(), |quota| quota.to_string());
    let row = |one: &Listed| {
        format!(
            "{:<24} {:>12} {:>16} of {:<16} {:>12} of {}",
            one.name,
            one.keys,
            one.bytes,
            of(one.memory_quota),
            one.operations_per_second,
            of(one.operations_quota)
        )
    };
    let head = format!(
        "{:<24} {:>12} {:>16}    {:<16} {:>12}",
        "NAMESPACE", "KEYS", "BYTES", "QUOTA", "OPERATIONS/S"
    );
    std::iter::once(head).chain(namespaces.iter().map(row)).collect::<Vec<_>>().join("\n")
}
