#!/usr/bin/env bash
# Checks the manifests against the schemas of the Kubernetes API, unknown fields included. Takes python3 with venv and PyPI.
set -euo pipefail
cd "$(dirname "$0")"
tools="${TRIMARAN_TOOLS:-${TMPDIR:-/tmp}/trimaran-kubernetes-validate}"
if [ ! -x "$tools/bin/kubernetes-validate" ]; then
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet 'kubernetes-validate==1.37.0'
fi
for version in 1.33 1.37; do
  "$tools/bin/kubernetes-validate" --strict --quiet -k "$version" ./*.yaml
done
