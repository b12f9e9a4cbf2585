//! The compose file as it is, in containers of this machine's engine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{skip, until};
use crate::harness::process::{binary, free_port};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Debian's, where it is: another one may come first on the PATH and lack its build plugin.
fn engine() -> &'static str {
    if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" }
}

fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Has the engine do something; `None` if it would not.
pub fn docker(arguments: &[&str]) -> Option<String> {
    run(engine(), arguments)
}

/// The image with the binary of this build, gone with this.
pub struct Image(String);

impl Image {
    /// Builds it under a name that nobody else has. `None`, with a word about it, where this machine has not what it takes.
    pub fn build() -> Option<Self> {
        if docker(&["info"]).is_none() {
            skip("no Docker engine answers");
            return None;
        }
        if docker(&["image", "inspect", "debian:bookworm-slim"]).is_none() {
            skip("there is no image debian:bookworm-slim; deploy/base-image.sh makes it");
            return None;
        }
        let image = Self(format!("trimaran-test-{}-{}:latest", std::process::id(), free_port()));
        let built = Command::new(root().join("deploy/image.sh"))
            .arg(binary())
            .env("IMAGE", &image.0)
            .env("DOCKER", engine())
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Some(image)
    }

    /// Its name and tag.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _gone = docker(&["rmi", "--force", &self.0]);
    }
}

/// Shows the end of what a container has said.
pub fn show_log(container: &str) {
    let log = Command::new(engine()).args(["logs", "--tail", "60", container]).output();
    let log = log.map(|log| [log.stdout, log.stderr].concat()).unwrap_or_default();
    println!("--- {container} ---\n{}", String::from_utf8_lossy(&log));
}

/// What was started by the compose file, gone with this.
pub struct Composed {
    /// Its name, which every container has as a label.
    pub project: String,
    image: Image,
    files: Vec<PathBuf>,
    environment: Vec<(String, String)>,
    ports: Vec<(String, u16)>,
}

impl Composed {
    /// Starts services of the compose file, all of them if none is named, with other files laid over it. `None`, with a
    /// word about it, where this machine has not what it takes.
    pub fn up(over: &[&str], services: &[&str], environment: &[(&str, &str)]) -> Option<Self> {
        let image = Image::build()?;
        if run("docker-compose", &["version"]).is_none() {
            skip("docker-compose is not here");
            return None;
        }
        let project = format!("trimaran-test-{}-{}", std::process::id(), free_port());
        let of = |kind: &'static str, count| (1..=count).map(move |at| format!("{kind}_{at}_PORT"));
        let ports = of("GRID", 3).chain(of("SHARD", 3)).chain(of("FUNCTION", 2)).chain(of("API", 2));
        let composed = Self {
            project,
            image,
            files: ["compose.yaml"].iter().chain(over).map(|file| root().join("deploy").join(file)).collect(),
            environment: environment.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            ports: ports.map(|name| (name, free_port())).collect(),
        };
        let up = composed.compose(&[&["up", "-d"], services].concat());
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        Some(composed)
    }

    fn compose(&self, arguments: &[&str]) -> Output {
        let files = self.files.iter().flat_map(|file| ["-f".into(), file.clone().into_os_string()]);
        Command::new("docker-compose")
            .args(["-p", &self.project])
            .args(files)
            .args(arguments)
            .env("TRIMARAN_IMAGE", self.image.name())
            .envs(self.ports.iter().map(|(name, port)| (name.clone(), port.to_string())))
            .envs(self.environment.iter().cloned())
            .output()
            .unwrap()
    }

    /// Fronts that this machine reaches, of a kind: "GRID", "SHARD", "FUNCTION", "API".
    pub fn addresses(&self, kind: &str) -> Vec<String> {
        let of_kind = self.ports.iter().filter(|(name, _)| name.starts_with(kind));
        of_kind.map(|(_, port)| format!("127.0.0.1:{port}")).collect()
    }

    /// The container of a service.
    pub fn container(&self, service: &str) -> String {
        let service = format!("label=com.docker.compose.service={service}");
        self.containers(&service).join(" ")
    }

    /// Containers of this project that a filter of `docker ps` takes.
    pub fn containers(&self, filter: &str) -> Vec<String> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let found = docker(&["ps", "-aq", "--filter", &project, "--filter", filter]).unwrap();
        found.split_whitespace().map(str::to_owned).collect()
    }

    /// The address of a container in the network of the project.
    pub fn ip(&self, container: &str) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        docker(&["inspect", "-f", format, container]).unwrap()
    }
}

/// Waits until the health check of a container succeeds.
pub async fn until_healthy(container: &str) {
    until("the container is healthy", async || {
        docker(&["inspect", "-f", "{{.State.Health.Status}}", container]).as_deref() == Some("healthy")
    })
    .await;
}

impl Drop for Composed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let project = format!("label=com.docker.compose.project={}", self.project);
            for container in
                docker(&["ps", "-aq", "--filter", &project]).unwrap_or_default().split_whitespace()
            {
                show_log(container);
            }
        }
        self.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "2"]);
    }
}
