//! Compiles the .proto files to OUT_DIR with a compiler written in Rust, so that no `protoc` is needed.

use std::path::PathBuf;

use prost::Message as _;

const FILES: &[&str] = &[
    "api/error.proto",
    "api/placement.proto",
    "api/cluster.proto",
    "api/grid.proto",
    "api/coordination.proto",
    "api/backup.proto",
    "api/namespaces.proto",
    "api/database.proto",
    "api/functions.proto",
    "internal/replication.proto",
    "internal/cluster.proto",
    "internal/shard.proto",
    "state/log.proto",
    "state/meta.proto",
    "state/grid.proto",
    "state/backup.proto",
    "state/shard.proto",
    "state/functions.proto",
];

#[allow(clippy::disallowed_methods, reason = "cargo tells a build script its folder through the environment")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // `.bytes(".")`: payloads stay slices of the receive buffer, from the socket to the stored value.
    tonic_prost_build::configure().bytes(".").include_file("generated.rs").compile_fds(descriptors)?;
    Ok(())
}
