//! What operators set.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::docker::Containers;
use super::kubernetes::StatefulSet;
use super::policy::Limits;
use super::process::{Processes, Template};
use super::{Actor, Autoscale};

/// Who starts and stops nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// People.
    #[default]
    Off,
    /// Each node can start processes on its machine.
    Process,
    /// Each node can start containers beside its own.
    Docker,
    /// Each node is a pod of a stateful set, and may change how many there are.
    Kubernetes,
}

/// How the number of nodes follows the load. The same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Who starts and stops nodes.
    pub actor: Kind,
    /// Nodes at least; never fewer than copies of a partition.
    pub min: usize,
    /// Nodes at most.
    pub max: usize,
    /// Use of the processors to aim at, percent of all that a node may use.
    pub cpu_percent: u32,
    /// Use of the memory to aim at, percent of what a node may use.
    pub memory_percent: u32,
    /// Reads and writes per second and node to aim at; 0 = whatever comes.
    pub operations: u64,
    /// Proposals that may wait on a node; 0 = whatever comes.
    pub queue: u64,
    /// How long more nodes must be wanted before one is started, seconds.
    pub up_after_s: u64,
    /// How long fewer nodes must do before one is drained, seconds.
    pub down_after_s: u64,
    /// Pause after each change, seconds.
    pub pause_s: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            actor: Kind::Off,
            min: 1,
            max: 8,
            cpu_percent: 60,
            memory_percent: 75,
            operations: 0,
            queue: 1000,
            up_after_s: 15,
            down_after_s: 300,
            pause_s: 30,
        }
    }
}

/// The node that other nodes are to be like.
#[derive(Debug)]
pub struct Own<'a, T> {
    /// "grid" or "shard".
    pub kind: &'static str,
    /// Environment variables that begin so are options.
    pub env_prefix: &'static str,
    /// Where it takes gRPC.
    pub grpc_port: u16,
    /// How others reach it, "host:port".
    pub address: &'a str,
    /// Options that are addresses to listen at.
    pub listens: &'a [&'a str],
    /// Where it keeps its data.
    pub data_folder: Option<&'a Path>,
    /// All of its options.
    pub options: &'a T,
}

impl Options {
    /// How nodes like this one are started and stopped. An error says what is missing for it.
    pub fn autoscale<T: Serialize>(&self, own: &Own<'_, T>) -> Result<Option<Autoscale>, &'static str> {
        let actor: Arc<dyn Actor> = match self.actor {
            Kind::Off => return Ok(None),
            Kind::Docker => Arc::new(Containers::new(own.kind, own.env_prefix, own.grpc_port)),
            Kind::Kubernetes => Arc::new(StatefulSet::of(own.address).ok_or(
                "--autoscale kubernetes needs --advertise <set>-<number>.<service>…:<port>, as pods of a stateful set are called",
            )?),
            Kind::Process => {
                let folder = own.data_folder.ok_or(
                    "--autoscale process needs --data-folder: those of the other nodes are made beside it",
                )?;
                Arc::new(Processes::new(Template {
                    program: std::env::current_exe()
                        .map_err(|_gone| "the program of this node is not found")?,
                    command: format!("{}-node", own.kind),
                    options: toml::Table::try_from(own.options)
                        .map_err(|_bad| "the options of this node cannot be handed on")?,
                    listens: own.listens.iter().map(|listen| (*listen).to_owned()).collect(),
                    env_prefix: own.env_prefix,
                    folder: folder.with_extension("nodes"),
                }))
            }
        };
        Ok(Some(Autoscale { actor, limits: self.limits() }))
    }

    /// Bounds and targets.
    pub fn limits(&self) -> Limits {
        let share = |percent: u32| f64::from(percent.clamp(1, 100)) / 100.0;
        Limits {
            min: self.min,
            max: self.max,
            cpu: share(self.cpu_percent),
            memory: share(self.memory_percent),
            operations: self.operations,
            queue: self.queue,
            up_after: Duration::from_secs(self.up_after_s),
            down_after: Duration::from_secs(self.down_after_s),
            pause: Duration::from_secs(self.pause_s),
        }
    }
}
