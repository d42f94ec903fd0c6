#!/usr/bin/env bash
# Brings the job image up to date on the nodes, and starts the controllers here, against the Swarm that
# dev-setup.sh named.   scripts/dev-start.sh [--no-image]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_dev.sh
. scripts/_python.sh
make_venv
if [ -f .dev/pid ] && kill -0 "$(cat .dev/pid)" 2>/dev/null; then echo "The controllers run already, pid $(cat .dev/pid)."; exit; fi
[ "${1:-}" = --no-image ] || job_image || echo "warning: not every node has the job image; jobs on the others wait for a registry" >&2
mkdir -p "$CUMULUS_HOME"
setsid "$VENV/bin/cumulus" serve --log-format json >>.dev/serve.log 2>&1 </dev/null &
echo $! >.dev/pid
"$VENV/bin/cumulus" wait node --all --for=condition=Ready --timeout=60s || {
  echo "error: no node became Ready; .dev/serve.log says why" >&2
  exit 1
}
echo "The controllers run, pid $(cat .dev/pid). export CUMULUS_HOME=$CUMULUS_HOME SWARM_MANAGER=$endpoint"
