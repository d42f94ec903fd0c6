#!/usr/bin/env bash
# Stops the controllers; jobs go on. With --all it deletes the jobs first, and forgets everything that was set up.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f .dev/settings ] || { echo "Nothing is set up."; exit; }
. scripts/_dev.sh
if [ "${1:-}" = --all ] && [ -d "$CUMULUS_HOME/store" ]; then
  .venv/bin/cumulus delete job --all --timeout 120s
fi
if [ -f .dev/pid ] && kill -0 "$(cat .dev/pid)" 2>/dev/null; then
  pid=$(cat .dev/pid)
  kill "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
  echo "The controllers have stopped."
fi
rm -f .dev/pid
[ "${1:-}" != --all ] || { docker context rm -f "$context" >/dev/null 2>&1 || true; rm -rf .dev; }
