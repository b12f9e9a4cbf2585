//! The compose file as it is, in containers: clients write without pause while each container in turn is killed with
//! -9 and started again. Where there is no Docker engine, or no image to build on, it says so and does nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use trimaran_client::functions::Functions;
use trimaran_tests::harness::process::{binary, free_port};
use trimaran_tests::harness::until;
use trimaran_tests::workload::foreign::{OverDynamoDb, OverFunction, OverResp};
use trimaran_tests::workload::registers::{Load, Registers};

use crate::trio_kill::deploy_probe;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Debian's, where it is: another one may come first on the PATH and lack its build plugin.
fn docker() -> &'static str {
    if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" }
}

fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What was started by the compose file, gone with this.
struct Composed {
    project: String,
    image: String,
    ports: Vec<(String, u16)>,
}

impl Composed {
    fn compose(&self, arguments: &[&str]) -> std::process::Output {
        Command::new("docker-compose")
            .args(["-p", &self.project, "-f"])
            .arg(root().join("deploy/compose.yaml"))
            .args(arguments)
            .env("TRIMARAN_IMAGE", &self.image)
            .envs(self.ports.iter().map(|(name, port)| (name.clone(), port.to_string())))
            .output()
            .unwrap()
    }

    fn addresses(&self, kind: &str) -> Vec<String> {
        let of_kind = self.ports.iter().filter(|(name, _)| name.starts_with(kind));
        of_kind.map(|(_, port)| format!("127.0.0.1:{port}")).collect()
    }

    fn container(&self, service: &str) -> String {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let service = format!("label=com.docker.compose.service={service}");
        run(docker(), &["ps", "-aq", "--filter", &project, "--filter", &service]).unwrap()
    }
}

impl Drop for Composed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.compose(&["logs", "--no-color", "--tail", "60"]);
            println!("{}", String::from_utf8_lossy(&logs.stdout));
        }
        self.compose(&["down", "--volumes", "--timeout", "2"]);
        let _gone = run(docker(), &["rmi", "--force", &self.image]);
    }
}

/// Set where the test must not be skipped.
const REQUIRED: &str = "TRIMARAN_TEST_DOCKER_REQUIRED";

/// `None`, with a word about it, where this machine has not what it takes.
#[allow(clippy::disallowed_methods, reason = "how the machine that must run it says so")]
fn compose_up() -> Option<Composed> {
    let skipped = |why: &str| {
        assert!(std::env::var_os(REQUIRED).is_none(), "{why}");
        println!("SKIPPED: {why}");
        None
    };
    if run(docker(), &["info"]).is_none() {
        return skipped("no Docker engine answers");
    }
    if run("docker-compose", &["version"]).is_none() {
        return skipped("docker-compose is not here");
    }
    if run(docker(), &["image", "inspect", "debian:bookworm-slim"]).is_none() {
        return skipped("there is no image debian:bookworm-slim; deploy/base-image.sh makes it");
    }
    let project = format!("trimaran-test-{}", std::process::id());
    let image = format!("{project}:latest");
    let built = Command::new(root().join("deploy/image.sh"))
        .arg(binary())
        .env("IMAGE", &image)
        .env("DOCKER", docker())
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let of = |kind: &'static str, count| (1..=count).map(move |at| format!("{kind}_{at}_PORT"));
    let ports = of("GRID", 3).chain(of("SHARD", 3)).chain(of("FUNCTION", 2)).chain(of("API", 2));
    let composed = Composed { project, image, ports: ports.map(|name| (name, free_port())).collect() };
    let up = composed.compose(&["up", "-d"]);
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    Some(composed)
}

async fn until_healthy(container: &str) {
    until("the container is healthy", async || {
        run(docker(), &["inspect", "-f", "{{.State.Health.Status}}", container]).as_deref() == Some("healthy")
    })
    .await;
}

async fn every_container_is_killed_in_turn<R: Registers>(
    composed: &Composed,
    kind: &str,
    count: usize,
    registers: &R,
) {
    let load = Load::start(registers, 6, 1);
    let acknowledged = || load.acknowledged.load(Ordering::Acquire);
    until("clients write", async || acknowledged() > 100).await;
    for number in 1..=count {
        let container = composed.container(&format!("{kind}-{number}"));
        let before = acknowledged();
        run(docker(), &["kill", "--signal", "KILL", &container]).unwrap();
        let died = Instant::now();
        until("writes go on", async || acknowledged() > before + 50).await;
        println!("{kind}-{number} killed, 50 more writes after {:?}", died.elapsed());
        run(docker(), &["start", &container]).unwrap();
        until_healthy(&container).await;
        let now = acknowledged();
        until("clients write with all nodes back", async || acknowledged() > now + 100).await;
    }
    println!("{kind}: {:?}", load.finish().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_each_container_of_the_compose_file_is_killed_in_turn() {
    let Some(composed) = compose_up() else { return };
    for (kind, count) in [("grid", 3), ("shard", 3), ("function", 2)] {
        for number in 1..=count {
            until_healthy(&composed.container(&format!("{kind}-{number}"))).await;
        }
    }
    every_container_is_killed_in_turn(&composed, "grid", 3, &OverResp::new(composed.addresses("GRID"))).await;
    let registers = OverDynamoDb::new(composed.addresses("SHARD"));
    registers.create().await.unwrap();
    every_container_is_killed_in_turn(&composed, "shard", 3, &registers).await;
    // An empty table again: whoever comes next must find nothing.
    registers.delete().await.unwrap();
    until("the table is made again", async || registers.create().await.is_ok()).await;
    // A function on top of both, deployed through one node and called through both.
    deploy_probe(&Functions::connect(composed.addresses("API").into_iter().take(1)).unwrap()).await;
    let registers = OverFunction::new(composed.addresses("FUNCTION"));
    every_container_is_killed_in_turn(&composed, "function", 2, &registers).await;
}
