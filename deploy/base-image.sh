#!/usr/bin/env bash
# Makes "debian:bookworm-slim" from Debian packages, where no image registry is reachable. Takes root, debootstrap and a
# minute. Does nothing if there is such an image.
set -euo pipefail
docker="${DOCKER:-docker}"
image="debian:bookworm-slim"
if "$docker" image inspect "$image" >/dev/null 2>&1; then
  echo "$image is there"
  exit 0
fi
command -v debootstrap >/dev/null || { echo "debootstrap is not here; apt-get install debootstrap" >&2; exit 1; }
# The mirror of this machine, so that a proxy or a local mirror is used.
mirror="$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
  awk '!found && /^URIs:/ { found = $2 } !found && /^deb [^[].* bookworm / { found = $2 } END { print found }')"
root="$(mktemp -d)"
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase bookworm "$root" "${mirror:-http://deb.debian.org/debian}" >/dev/null
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/*
tar -C "$root" -c . | "$docker" import -c 'CMD ["bash"]' - "$image"
