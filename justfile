# `just verify` never writes; `just fix` does.

default:
    @just --list

# Everything that CI checks
verify:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    cargo deny check bans licenses sources

# Mends what a machine can
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty

test *args:
    cargo test --workspace {{args}}

# Side by side with redis-server, etcd, PostgreSQL and wasmtime serve (tests/performance says what each needs); `just bench shard` is one
bench *args:
    cargo build --profile dist --package trimaran-cli
    cargo run --profile dist --package trimaran-tests --bin performance -- {{args}}
