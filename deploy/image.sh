#!/usr/bin/env bash
# Builds the image "trimaran": deploy/image.sh [BINARY]
#
# Without BINARY it is built first, as it is shipped (profile `dist`). BASE_IMAGE names another base (its glibc must not be older than the
# one of the machine that builds); where no registry is reachable, deploy/base-image.sh makes the default one.
set -euo pipefail
cd "$(dirname "$0")/.."
binary="${1:-}"
if [ -z "$binary" ]; then
  cargo build --profile dist --package trimaran-cli
  binary="$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/dist/trimaran"
fi
context="$(mktemp -d)"
trap 'rm -rf "$context"' EXIT
cp deploy/Dockerfile "$context/"
# Symbols are half of the size and of no use without the sources.
if command -v strip >/dev/null; then
  strip -o "$context/trimaran" "$binary"
else
  cp "$binary" "$context/trimaran"
fi
"${DOCKER:-docker}" build --quiet --tag "${IMAGE:-trimaran:latest}" \
  --build-arg "BASE_IMAGE=${BASE_IMAGE:-debian:bookworm-slim}" "$context"
