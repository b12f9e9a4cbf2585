#!/usr/bin/env bash
# Builds the components that are kept in this repository from their sources:
#   examples/link-shortener/component.wasm   tests/guests/probe.wasm   tests/guests/hello.wasm
# so that nobody needs a WebAssembly toolchain to run or test Trimaran. `tests/tidy` fails when a source changed and
# this was not run.
#
# With rustup: `rustup target add wasm32-wasip2` once, and nothing else. Where rustup has no such target to give, on
# Debian: the packages rustc-web and rust-web-src are unpacked (not installed) into $TOOLS, about 700 MB, and the
# standard library is built with them; rustup's toolchain still supplies cargo and the linker.
set -euo pipefail
cd "$(dirname "$0")/.."
TOOLS=${TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/trimaran/wasm}
export CARGO_TARGET_DIR=${GUEST_TARGET_DIR:-$TOOLS/target}
BUILD=(cargo build --quiet --release --locked --target wasm32-wasip2)

if [ ! -d "$(rustc --print sysroot)/lib/rustlib/wasm32-wasip2/lib" ]; then
  if [ ! -x "$TOOLS/usr/bin/rustc" ]; then
    command -v apt-get >/dev/null || { echo "no target wasm32-wasip2: run 'rustup target add wasm32-wasip2'" >&2; exit 1; }
    echo "unpacking Debian's compiler for wasm32 into $TOOLS" >&2
    mkdir -p "$TOOLS/deb"
    (
      cd "$TOOLS/deb"
      V=$(apt-cache policy rustc-web | awk '/Candidate/{print $2}')
      apt-get -qq download rustc-web="$V" libstd-rust-web-"${V:0:4}" libstd-rust-web-dev="$V" rust-web-src="$V" wasi-libc
      apt-get -qq install -y --no-install-recommends "$(dpkg -I libstd-rust-web-"${V:0:4}"_*.deb | grep -o 'libllvm[0-9]*')"
      for package in *.deb; do dpkg -x "$package" "$TOOLS"; done
    )
  fi
  HOST=$(rustc -vV | sed -n 's/^host: //p')
  LINKERS=$(rustc --print sysroot)/lib/rustlib/$HOST/bin
  export PATH="$LINKERS:$PATH" RUSTC_BOOTSTRAP=1 RUSTC="$TOOLS/usr/bin/rustc" RUSTDOC="$TOOLS/usr/bin/rustdoc"
  export LD_LIBRARY_PATH="$TOOLS/usr/lib/$(uname -m)-linux-gnu"
  export CARGO_TARGET_WASM32_WASIP2_LINKER="$LINKERS/wasm-component-ld"
  export RUSTFLAGS="-C link-self-contained=no -L native=$TOOLS/usr/lib/wasm32-wasi --remap-path-prefix=$TOOLS=/rust --remap-path-prefix=$HOME=~ --remap-path-prefix=$PWD=."
  BUILD+=(-Zbuild-std=std,panic_abort)
fi

build() { # FOLDER NAME RESULT
  (cd "$1" && "${BUILD[@]}")
  cp "$CARGO_TARGET_DIR/wasm32-wasip2/release/$2.wasm" "$3"
  # What it was made from: tests/tidy compares.
  cat "$1"/Cargo.toml "$1"/Cargo.lock "$1"/src/lib.rs crates/wasm-host/wit/data.wit | sha256sum | cut -d' ' -f1 >"$3.source"
  echo "$3 $(stat -c %s "$3") bytes" >&2
}
build examples/link-shortener/component link_shortener examples/link-shortener/component.wasm
build tests/guests/probe probe tests/guests/probe.wasm
build tests/guests/hello hello tests/guests/hello.wasm
