#!/usr/bin/env bash
# Builds the trimaran binary of the release before this one and prints its path, for the tests that run both together.
# It is built once for a machine, into a folder beside the build's own. Ends with 3 where it cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."

# The last commit that knows commands of format 2 and no newer ones.
commit=25d5cb930b30882a8df1e95a16d99a732d5c0213

target=${CARGO_TARGET_DIR:-$PWD/target}
folder=$target/release-before/$commit
if [ ! -x "$folder/trimaran" ]; then
  if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
    echo "this checkout does not have the history that the release before is in: git fetch --unshallow" >&2
    exit 3
  fi
  mkdir -p "$folder/source"
  git archive "$commit" | tar -x -C "$folder/source"
  # In a folder of its own: by their names and times, cargo takes its crates for those of this checkout.
  (cd "$folder/source" && CARGO_PROFILE_DEV_DEBUG=false CARGO_PROFILE_DEV_OPT_LEVEL=0 \
    cargo build --package trimaran-cli --bin trimaran --quiet --target-dir "$folder/target")
  mv "$folder/target/debug/trimaran" "$folder/trimaran"
  rm -rf "$folder/source" "$folder/target"
fi
echo "$folder/trimaran"
