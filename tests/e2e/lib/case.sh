#!/usr/bin/env bash
# Runs one case file in the work directory WORK. Called by `run` only.
set -euo pipefail

lib=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
E2E=$(dirname "$lib")
CONTEXTS=$E2E/contexts
export E2E CONTEXTS
for part in common s3 larder base toolchain builder steps cache proxy balancer issuer guide docker; do
  # shellcheck source=/dev/null
  . "$lib/$part.sh"
done

export DOCKER_CONFIG=$WORK/docker
mkdir -p "$DOCKER_CONFIG"
cd "$WORK"

trap 'echo "stopped at ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR
trap 'reap "$WORK"' EXIT
trap 'exit 130' INT TERM
set -E

# shellcheck source=/dev/null
. "$1"
larder_check_all || fail "the store is not sound"
