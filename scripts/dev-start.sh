#!/usr/bin/env bash
# Builds the job image on the remote engine (or takes this machine's packages where no registry is reachable), and
# starts the controllers here, against the Swarm that dev-setup.sh named.   scripts/dev-start.sh [--no-image]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f .dev/settings ] || { echo "error: not set up yet; run scripts/dev-setup.sh ssh://USER@HOST" >&2; exit 1; }
. .dev/settings
. scripts/_python.sh
make_venv
if [ -f .dev/pid ] && kill -0 "$(cat .dev/pid)" 2>/dev/null; then echo "The controllers run already, pid $(cat .dev/pid)."; exit; fi
if [ "${1:-}" != --no-image ]; then
  tag=$(containers/tag.sh)
  docker --host "$endpoint" image inspect "$tag" >/dev/null 2>&1 ||
    docker --host "$endpoint" build -q -f containers/Dockerfile -t "$tag" . 2>.dev/build.log ||
    { echo "No image could be built (see .dev/build.log): taking this machine's packages"; tag=cumulus-job:local; PYTHON=$VENV/bin/python containers/build-local.sh "$tag" "$endpoint"; }
  echo "Job image: $tag"
fi
export CUMULUS_HOME=${CUMULUS_HOME:-$PWD/.dev/cumulus} CHRONOS_HOME=${CHRONOS_HOME:-$PWD/.dev/chronos} SWARM_MANAGER=$endpoint
mkdir -p "$CUMULUS_HOME"
setsid "$VENV/bin/cumulus" serve --log-format json >>.dev/serve.log 2>&1 </dev/null &
echo $! >.dev/pid
CUMULUS_HOME=$CUMULUS_HOME "$VENV/bin/cumulus" wait node --all --for=condition=Ready --timeout=60s || true
echo "The controllers run, pid $(cat .dev/pid). export CUMULUS_HOME=$CUMULUS_HOME SWARM_MANAGER=$endpoint"
