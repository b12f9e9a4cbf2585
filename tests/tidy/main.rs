//! The rules of the house that a compiler does not know.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Who may use whom, as in ARCHITECTURE.md. `cli` and `tests` may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("placement", &[]),
    ("storage", &[]),
    ("net", &["proto", "placement"]),
    ("replication", &["storage", "net", "proto"]),
    ("cluster", &["placement", "replication", "storage", "net", "proto"]),
    ("service", &["net", "proto"]),
    ("client", &["placement", "net", "proto"]),
    ("wasm-host", &[]),
    ("function-node", &["client", "service", "wasm-host", "net", "proto"]),
    ("grid-node", &["placement", "storage", "net", "replication", "cluster", "service", "proto"]),
    ("shard-node", &["placement", "storage", "net", "replication", "cluster", "service", "proto"]),
];

/// Libraries that one crate, or one file, has to itself.
const WALLS: &[(&str, &[&str])] = &[
    ("openraft::", &["crates/replication/src/"]),
    ("consistent_hash_ring", &["crates/placement/src/ring.rs"]),
    ("sled::Config", &["crates/storage/src/sled.rs"]),
    ("fjall::{Database", &["crates/storage/src/fjall.rs"]),
    ("wasmtime::", &["crates/wasm-host/src/"]),
    ("bollard::", &["crates/cluster/src/autoscale/docker.rs"]),
    ("kube::", &["crates/cluster/src/autoscale/kubernetes.rs"]),
    ("k8s_openapi::", &["crates/cluster/src/autoscale/kubernetes.rs"]),
    ("sysinfo::", &["crates/service/src/usage.rs"]),
    ("tracing_subscriber", &["crates/service/src/telemetry.rs"]),
    ("SystemTime::now", &["crates/net/src/clock.rs"]),
    ("from_os_rng", &["crates/service/src/entropy.rs", "client/src/route.rs"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "trimaran-data" {
                    walk(&path, found);
                }
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut found);
    let relative = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
    found.iter().map(|path| (relative(path), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn no_crate_uses_another_that_it_may_not() {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap();
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let short = |name: &str| name.strip_prefix("trimaran-").map(str::to_owned);
    for package in &metadata.packages {
        let name = short(&package.name).unwrap();
        if name == "cli" || name == "tests" {
            continue;
        }
        let allowed =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the table of arrows"));
        for dependency in
            package.dependencies.iter().filter(|found| found.kind != DependencyKind::Development)
        {
            if let Some(used) = short(&dependency.name) {
                assert!(allowed.contains(used.as_str()), "{name} must not use {used}");
            }
        }
    }
}

#[test]
fn libraries_stay_behind_their_walls() {
    for (path, text) in sources() {
        if path.starts_with("tests/") || path.contains("/tests") {
            continue;
        }
        for (library, homes) in WALLS {
            let at_home = homes.iter().any(|home| path.starts_with(home));
            let named =
                text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(library));
            assert!(at_home || !named, "{path} names {library}, which belongs to {homes:?}");
        }
    }
}

#[test]
fn every_module_says_what_it_is_and_none_is_too_long() {
    const LINES_MAX: usize = 750;
    for (path, text) in sources() {
        if !path.ends_with("tests.rs") && !path.ends_with("build.rs") {
            assert!(text.starts_with("//!"), "{path} does not begin with a module doc");
        }
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{path} has {lines} lines, more than {LINES_MAX}: it is two files");
    }
}

#[test]
fn every_error_code_has_a_page() {
    let pages = root().join("docs/errors");
    let mut codes = BTreeSet::new();
    for (path, text) in sources() {
        if !path.ends_with("error.rs") {
            continue;
        }
        for line in text.lines().filter(|line| line.contains("=> \"")) {
            let code = line.split('"').nth(1).unwrap();
            if code.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_') {
                codes.insert(code.to_owned());
            }
        }
    }
    assert!(codes.len() > 10, "{codes:?}");
    for code in &codes {
        assert!(pages.join(format!("{code}.md")).exists(), "docs/errors/{code}.md is missing");
    }
    for page in std::fs::read_dir(pages).unwrap() {
        let name = page.unwrap().file_name().to_string_lossy().into_owned();
        let code = name.strip_suffix(".md").unwrap();
        assert!(code == "README" || codes.contains(code), "docs/errors/{name} belongs to no error");
    }
}

/// Components are kept as they were built, so that nobody needs a compiler for them; they must be of today's sources.
#[test]
fn components_are_built_from_their_sources() {
    use sha2::{Digest as _, Sha256};
    for (sources, component) in [
        ("examples/link-shortener/component", "examples/link-shortener/component.wasm"),
        ("tests/guests/probe", "tests/guests/probe.wasm"),
        ("tests/guests/hello", "tests/guests/hello.wasm"),
    ] {
        let mut hasher = Sha256::new();
        for file in ["Cargo.toml", "Cargo.lock", "src/lib.rs"] {
            hasher.update(std::fs::read(root().join(sources).join(file)).unwrap());
        }
        hasher.update(std::fs::read(root().join("crates/wasm-host/wit/data.wit")).unwrap());
        let now: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let built = std::fs::read_to_string(root().join(format!("{component}.source"))).unwrap();
        assert_eq!(built.trim(), now, "{component} is older than {sources}: run examples/build-guests.sh");
    }
}

#[test]
fn nothing_is_left_undone_in_the_code() {
    for (path, text) in sources() {
        if path == "tests/tidy/main.rs" {
            continue;
        }
        for word in ["todo!(", "unimplemented!(", "#[ignore", "dbg!("] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}
