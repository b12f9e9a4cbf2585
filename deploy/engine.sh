#!/usr/bin/env bash
# Makes sure that a Docker engine answers on this Debian machine, installing and starting one if need be. For fresh
# machines without systemd, such as those that run the tests; takes root. Anywhere else, start Docker as usual.
set -euo pipefail
docker="${DOCKER:-docker}"
"$docker" info >/dev/null 2>&1 && exit 0
if ! command -v dockerd >/dev/null || ! command -v docker-compose >/dev/null || ! command -v debootstrap >/dev/null; then
  # RUNLEVEL=1: no service is started by its package.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    docker.io docker-compose iptables iproute2 debootstrap >/dev/null
fi
nohup setsid dockerd >/var/log/dockerd.log 2>&1 &
for _ in $(seq 100); do
  "$docker" info >/dev/null 2>&1 && exit 0
  sleep 0.1
done
echo "dockerd does not answer; see /var/log/dockerd.log" >&2
exit 1
