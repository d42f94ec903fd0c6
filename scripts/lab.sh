#!/usr/bin/env bash
# A real Docker Swarm of three nodes on this machine, with the daemon on it, and a tour. Needs root on Linux and
# Debian's docker.io, openssh-server, iproute2 and busybox-static. All of it is gone when this ends, however it ends.
#
#   scripts/lab.sh                the playground with its tour; it stays until Ctrl-C
#   scripts/lab.sh --once         the tour alone
#   scripts/lab.sh cut worker1    while it is up, in another terminal: take a node's network away (heal gives it back)
#   scripts/lab.sh kill worker1   end its engine (start starts it again)
#   scripts/lab.sh docker manager node ls          scripts/lab.sh on worker1 chronos_cli list
#   eval "$(scripts/lab.sh env)"  variables for cumulus and docker
#
# CUMULUS_LAB names its directory (/tmp/cumulus-lab), VENV an environment that has Cumulus with [dev] already.
set -euo pipefail
case ${1:-} in help | -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."
given=${VENV:-}
. scripts/_python.sh
if [ -n "$given" ]; then VENV=$given; else make_venv dev; fi
export PATH=$VENV/bin:$PATH CUMULUS_LAB=${CUMULUS_LAB:-/tmp/cumulus-lab}
case ${1:-} in
'' | --once) ;;
*) exec python -m tests.lab "$@" ;;
esac

[ "$(id -u)" = 0 ] || { echo "error: a lab needs root; run: sudo $0" >&2; exit 1; }
lab='' daemon='' step=''
finish() {
  code=$?
  # Nothing may keep it from its end: neither a terminal or reader that is gone, nor a second signal.
  set +e
  trap - EXIT
  trap '' HUP INT TERM PIPE
  [ -z "$lab" ] || echo "==> Ending the lab" 2>/dev/null
  for child in $step $daemon $lab; do kill "$child" 2>/dev/null && wait "$child" 2>/dev/null; done
  exit "$code"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM

say() { printf '\n==> %s\n' "$1"; }
# In the background, so that a signal is heeded at once; without a terminal, so that the lab's sweeper knows it as ours.
quietly() { setsid "$@" & step=$!; wait "$step"; step=''; }
run() { printf '$ %s\n' "$*"; quietly "$@"; }

say "Starting a manager and two workers, each with its own kernel namespaces, network, sshd and Docker engine"
CUMULUS_LAB_PARENT=$$ python -m tests.lab up 2 &
lab=$!
until grep -qs "\"owner\": $lab," "$CUMULUS_LAB/lab.json"; do
  kill -0 "$lab" 2>/dev/null || { wait "$lab" || code=$?; lab=''; exit "${code:-1}"; }
  sleep 0.2
done
eval "$(python -m tests.lab env)"
unset DOCKER_HOST
export CUMULUS_HOME=$CUMULUS_LAB/cumulus CHRONOS_HOME=$CUMULUS_LAB/cumulus/chronos CHRONOS_MONITOR_IDLE=2
mkdir -p "$CUMULUS_HOME"
cp "$KNOWN_HOSTS" "$CUMULUS_HOME/known_hosts"

say "Making a job image from this machine's own Python, and bringing it to the workers: no registry is needed"
PYTHON=$VENV/bin/python quietly containers/build-local.sh cumulus-job:local "unix://$CUMULUS_LAB/manager/docker.sock"
run cumulus cluster image push cumulus-job:local

say "Starting the controllers (cumulus serve)"
setsid cumulus serve >"$CUMULUS_HOME/serve.log" 2>&1 &
daemon=$!
until cumulus get node/manager node/worker1 node/worker2 >/dev/null 2>&1; do
  kill -0 "$daemon" 2>/dev/null || { tail -n 5 "$CUMULUS_HOME/serve.log" >&2; exit 1; }
  sleep 0.3
done
run cumulus wait node/manager node/worker1 node/worker2 --for=condition=ContainersReady --timeout=200s
run cumulus wait node/manager node/worker1 node/worker2 --for=condition=Ready --timeout=200s
run cumulus cluster status

say "A job in a container, and a gang of three"
run cumulus apply -f manifests/swarm/
run cumulus wait gpujob/container --for=condition=Succeeded --timeout=200s
run cumulus logs container
run cumulus wait gpujob/gang --for=condition=Succeeded --timeout=200s
run cumulus logs gang --replica 2

say "A job whose lease ends before it is done: it keeps its state, and goes on where there is room"
run cumulus wait gpujob/checkpoint --for=condition=Succeeded --timeout=300s
run cumulus get job checkpoint -o 'jsonpath={.status.attempts[*].reason}'
printf '\n'
run cumulus logs checkpoint

say "What is there now"
run cumulus get nodes,jobs,partitions
[ "${1:-}" != --once ] || exit 0
say "Yours until Ctrl-C. In another terminal:"
cat <<EOT
  eval "\$(scripts/lab.sh env)"; unset DOCKER_HOST; export CUMULUS_HOME=$CUMULUS_HOME PATH=$VENV/bin:\$PATH
  cumulus apply -f manifests/swarm/container.yaml; cumulus get jobs -w
  scripts/lab.sh cut worker1; cumulus get nodes; scripts/lab.sh heal worker1
EOT
wait "$lab"
