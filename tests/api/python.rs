//! Client libraries for Python as they are: programs of `tests/clients`, each in a process of its own.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;
use trimaran_tests::harness::process::Cluster;

/// Where the packages of `tests/clients/requirements.txt` are, if not where Python looks anyway.
const PACKAGES: &str = "TRIMARAN_TEST_PYTHON_PACKAGES";

/// Set where tests that need Python must not be skipped.
const REQUIRED: &str = "TRIMARAN_TEST_PYTHON_REQUIRED";

/// A whole program takes some seconds.
const PROGRAM_MAX: std::time::Duration = std::time::Duration::from_secs(300);

#[allow(clippy::disallowed_methods, reason = "how the machine that must run it says so")]
fn python() -> Command {
    let mut python = Command::new("python3");
    // Nothing is left beside the programs.
    python.kill_on_drop(true).stdin(Stdio::null()).env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(packages) = std::env::var_os(PACKAGES) {
        python.env("PYTHONPATH", packages);
    }
    python
}

/// Whether Python has a package.
#[allow(clippy::disallowed_methods, reason = "how the machine that must run it says so")]
async fn has(package: &str) -> bool {
    let found = python().args(["-c", &format!("import {package}")]).output().await;
    if found.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os(REQUIRED).is_none(), "python3 with the packages of tests/clients is not here");
    println!("SKIPPED: python3 with the packages of tests/clients is not here");
    false
}

/// Runs a program of `tests/clients` with the fronts of a cluster's nodes as its arguments; it must end well.
async fn run(program: &str, cluster: &Cluster) {
    run_with(program, cluster, &[]).await;
}

async fn run_with(program: &str, cluster: &Cluster, environment: &[(&str, &str)]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(program);
    let mut command = python();
    command.envs(environment.iter().copied());
    command.arg(program).args(cluster.nodes.iter().map(|node| &node.front));
    let output = timeout(PROGRAM_MAX, command.output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_py_finds_every_family_at_any_node_and_as_a_cluster_client() {
    if has("redis").await {
        run("redis_py.py", &Cluster::grid(3, "memory", 4).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boto3_and_the_aws_cli_find_a_database_that_they_know() {
    if has("boto3").await {
        run("boto3_dynamodb.py", &Cluster::shard(3, "fjall", 4).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boto3_hears_which_table_or_index_is_asked_too_much() {
    if has("boto3").await {
        let cluster = Cluster::shard_with(3, 4, &["--provisioned-throughput", "enforced"]).await;
        run("boto3_throttling.py", &cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_wants_signatures_takes_those_of_boto3() {
    let cluster = Cluster::shard_with(3, 2, &["--dynamodb-signatures", "required"]).await;
    let database = cluster.database_client().await;
    let (key, secret) = database.create_access_key("boto3").await.unwrap();
    assert_eq!(database.list_access_keys().await.unwrap(), std::slice::from_ref(&key));
    if has("boto3").await {
        let environment =
            [("AWS_ACCESS_KEY_ID", key.id.as_str()), ("AWS_SECRET_ACCESS_KEY", secret.as_str())];
        run_with("boto3_signatures.py", &cluster, &environment).await;
    }
    database.delete_access_key(&key.id).await.unwrap();
    assert_eq!(database.list_access_keys().await.unwrap(), []);
    let again = database.delete_access_key(&key.id).await.unwrap_err();
    assert!(matches!(again, trimaran_client::Error::NotFound(_)), "{again}");
}
