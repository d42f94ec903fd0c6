#!/usr/bin/env bash
# Sets Cumulus up in .venv and runs the quickstart on embedded defaults: no root, no Docker, no GPU needed.
# All state goes to .quickstart (wiped at each start); what was started is stopped at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_python.sh
make_venv
PATH=$VENV/bin:$PATH

export CUMULUS_HOME=$PWD/.quickstart CHRONOS_HOME=$PWD/.quickstart/chronos
# The monitor of leases stops by itself this many seconds after the last lease.
export CHRONOS_MONITOR_IDLE=2
daemon=
finish() {
  code=$?
  trap - EXIT
  if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
    echo "==> Stopping the daemon"
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
  fi
  [ "$code" = 0 ] || echo "error: the quickstart failed; the daemon's log is in $CUMULUS_HOME/serve.log" >&2
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n==> %s\n' "$1"; }
run() { printf '$ %s\n' "$*"; "$@"; }

rm -rf "$CUMULUS_HOME"
mkdir -p "$CUMULUS_HOME"

say "Starting the controllers (cumulus serve), state in .quickstart"
cumulus serve >"$CUMULUS_HOME/serve.log" 2>&1 &
daemon=$!
run cumulus wait node --all --for=condition=Ready --timeout=60s

say "Two jobs: one checks a matrix product on its share of the device, one overruns its lease"
# Jobs start in directories of their own: the path of their Python must be a whole one.
manifest=$(<manifests/quickstart.yaml)
printf '%s\n' "${manifest//"[.venv/bin/python,"/"[\"$VENV/bin/python\","}" >"$CUMULUS_HOME/quickstart.yaml"
run cumulus apply -f .quickstart/quickstart.yaml
run cumulus wait gpujob/matmul --for=condition=Succeeded --timeout=120s
run cumulus wait gpujob/overrun --for=condition=Failed --timeout=60s

say "What is there now"
run cumulus get nodes,jobs,partitions

say "What the matrix product printed"
run cumulus logs matmul

say "How the other one ended"
run cumulus logs overrun
run cumulus get job overrun -o "jsonpath={.status.attempts[0].reason}: {.status.attempts[0].message}"
printf '\n'

say "Done. Look around: CUMULUS_HOME=$CUMULUS_HOME .venv/bin/cumulus describe job overrun"
