//! Nodes as processes on this machine: for development and tests.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Actor, Failed};

/// Where a started node wrote how it is reached, within its folder.
const ADDRESS: &str = "address";

/// The process that has the folder.
const PROCESS: &str = "pid";

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Template {
    /// The program, this one as a rule.
    pub program: PathBuf,
    /// Its subcommand, "grid-node" say.
    pub command: String,
    /// Options as in a node's file; what follows is set anew for each node.
    pub options: toml::Table,
    /// Options that are addresses to listen at; `grpc_listen` is how others reach the node.
    pub listens: Vec<String>,
    /// Environment variables that begin so are options, and not handed on.
    pub env_prefix: &'static str,
    /// Where folders of nodes are made.
    pub folder: PathBuf,
}

/// Starts processes.
#[derive(Debug)]
pub struct Processes(Template);

impl Processes {
    /// Starts them by this template.
    pub fn new(template: Template) -> Self {
        Self(template)
    }

    /// Folders of nodes with their addresses.
    fn folders(&self) -> Result<Vec<(PathBuf, String)>, Failed> {
        let unread = |error: std::io::Error| Failed::new("the folder of started nodes cannot be read", error);
        let entries = match std::fs::read_dir(&self.0.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(unread)?,
        };
        let mut folders = Vec::new();
        for entry in entries {
            let folder = entry.map_err(unread)?.path();
            if let Ok(address) = std::fs::read_to_string(folder.join(ADDRESS)) {
                folders.push((folder, address));
            }
        }
        Ok(folders)
    }

    fn start(&self, members: &[String]) -> std::io::Result<()> {
        let template = &self.0;
        let folder = (1..)
            .map(|number| template.folder.join(format!("auto-{number}")))
            .find(|folder| !folder.exists())
            .unwrap_or_else(|| template.folder.join("auto"));
        std::fs::create_dir_all(&folder)?;
        let mut options = template.options.clone();
        // All held at once, so that no port is given twice.
        let mut held = Vec::new();
        for listen in &template.listens {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            options.insert(listen.clone(), listener.local_addr()?.to_string().into());
            held.push(listener);
        }
        drop(held);
        for fresh in ["bootstrap", "advertise", "resp_advertise"] {
            options.remove(fresh);
        }
        options.insert("join".to_owned(), members.to_vec().into());
        options.insert("data_folder".to_owned(), folder.join("data").display().to_string().into());
        let file = folder.join("node.toml");
        std::fs::write(&file, options.to_string())?;
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = Command::new(&template.program);
        command.arg(&template.command).arg("--config").arg(&file);
        #[allow(
            clippy::disallowed_methods,
            reason = "what the node would take for its options is not handed on"
        )]
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with(template.env_prefix)) {
            command.env_remove(name);
        }
        let mut child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        std::fs::write(folder.join(PROCESS), child.id().to_string())?;
        let address = options.get("grpc_listen").and_then(toml::Value::as_str).unwrap_or_default();
        std::fs::write(folder.join(ADDRESS), address)?;
        // It outlives this process if need be; as long as this one lives, its end is noticed.
        std::thread::spawn(move || child.wait());
        Ok(())
    }
}

fn lives(folder: &Path) -> bool {
    let process = std::fs::read_to_string(folder.join(PROCESS)).unwrap_or_default();
    !process.is_empty() && Path::new("/proc").join(process).exists()
}

#[async_trait::async_trait]
impl Actor for Processes {
    async fn start(&self, members: &[String]) -> Result<(), Failed> {
        Self::start(self, members).map_err(|error| Failed::new("a node cannot be started", error))
    }

    async fn started(&self) -> Result<BTreeSet<String>, Failed> {
        Ok(self.folders()?.into_iter().map(|(_, address)| address).collect())
    }

    async fn clear(&self, address: &str) -> Result<(), Failed> {
        for (folder, _) in self.folders()?.iter().filter(|(_, known)| known == address) {
            if lives(folder) {
                return Err(Failed::new("a node that is gone has not ended yet", address));
            }
            std::fs::remove_dir_all(folder)
                .map_err(|error| Failed::new("the folder of a node cannot be removed", error))?;
        }
        Ok(())
    }
}
