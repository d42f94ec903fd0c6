#!/bin/sh
# Joins this machine to a Docker Swarm as a worker: the engine, the GPU's container runtime, the join, and labels.
# It says what it will do, and asks; run again, it changes what differs. setup-worker.sh calls it.
#
#   join-swarm.sh MANAGER TOKEN [--yes] [--dry-run]
#
#   MANAGER   host or host:port of a manager (port 2377 if left out); TOKEN from `cumulus cluster join-token`
#   DOCKER_HOST names the engine, if it is not this machine's usual one.
set -eu

fail() { echo "join-swarm: $1" >&2; exit 1; }

manager='' token='' yes='' dry=''
for word; do
  case $word in
    --yes) yes=1 ;;
    --dry-run) dry=1 ;;
    -*) fail "there is no option $word" ;;
    *) if [ -z "$manager" ]; then manager=$word; elif [ -z "$token" ]; then token=$word; else fail "what is $word?"; fi ;;
  esac
done
[ -n "$token" ] || { sed -n '2,8p' "$0" | cut -c3- >&2; exit 2; }
printf %s "$token" | grep -Eq '^SWMTKN-(1|2-1)-[0-9a-z]{50}-[0-9a-z]{25}$' ||
  fail "that is no join token (SWMTKN-1-, 50 letters and digits, -, 25 more); get one with: cumulus cluster join-token"
manager=${manager#tcp://}
case $manager in *:*) ;; *) manager=$manager:2377 ;; esac

steps=''
step() { steps="$steps  $1
"; }
here=$(dirname "$(readlink -f "$0")")
installed=/usr/local/lib/cumulus/chronos_runtime.py
install='' runtime='' join=''
if ! command -v docker >/dev/null 2>&1; then
  command -v apt-get >/dev/null 2>&1 || fail "there is no Docker engine; install one first"
  install=1
  step "install the engine: apt-get install docker.io"
fi
if { [ -e /dev/nvidiactl ] || command -v nvidia-smi >/dev/null 2>&1; } && command -v nvidia-ctk >/dev/null 2>&1; then
  if ! grep -qs '"default-runtime": *"nvidia"' /etc/docker/daemon.json; then
    runtime=nvidia
    step "make NVIDIA's runtime Docker's default: nvidia-ctk runtime configure --set-as-default"
  fi
elif ! docker info --format '{{.DefaultRuntime}}' 2>/dev/null | grep -qx chronos; then
  runtime=chronos
  step "make Chronos' runtime Docker's default: it gives containers the GPUs they leased, and starts none twice"
elif [ -e "$installed" ] && { ! cmp -s "$here/../../chronos/runtime.py" "$installed" ||
  ! cmp -s "$here/../../chronos/host_program.py" "$(dirname "$installed")/host_program.py" ||
  ! cmp -s "$here/../../lib/unix_user.py" "$(dirname "$installed")/unix_user.py" ||
  ! cmp -s "$here/chronos-runtime" "$(dirname "$installed")/chronos-runtime"; }; then
  runtime=newer
  step "bring Chronos' runtime up to this version"
fi
state=none
[ -n "$install" ] || state=$(docker info --format '{{.Swarm.LocalNodeState}}' 2>/dev/null) || fail "the engine does not answer: docker info"
# The Swarm that this machine is in is the one asked for where it knows that manager, or where its root certificate is
# the one that the token names (by the SHA-256 of the file, in base 36).
asked_for() {
  managers=$(docker info --format '{{range .Swarm.RemoteManagers}}{{.Addr}} {{end}}')
  host=${manager%:*}
  for address in "$host" $(getent ahosts "$host" | cut -d' ' -f1 | sort -u); do
    case " $managers " in *" $address:${manager##*:} "*) return 0 ;; esac
  done
  python3 - "$(docker info --format '{{.DockerRootDir}}')/swarm/certificates/swarm-root-ca.crt" "$token" <<'PYTHON'
import hashlib, sys
try:
    digest = hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest()
except OSError:
    sys.exit(1)
named = sys.argv[2].split("-")[-2]
sys.exit(int(digest, 16) != int(named, 36))
PYTHON
}
case $state in
  active)
    asked_for || fail "this machine is in another Swarm, whose managers are ${managers}
Leave that one first, which ends its containers here: docker swarm leave" ;;
  pending | locked | error) fail "this machine's membership is $state; leave that Swarm first: docker swarm leave" ;;
  *) join=1; step "join the Swarm at $manager as a worker" ;;
esac

echo "On $(uname -n):"
printf '%s' "${steps:-  nothing is to be changed: it is in a Swarm
}"
[ -z "$dry" ] || exit 0
[ -n "$steps" ] || exit 0
if [ -z "$yes" ]; then
  [ -t 0 ] || fail "give --yes to have it done"
  printf 'Go on? [y/N] '
  read -r answer
  case $answer in y | Y | yes) ;; *) fail "nothing was changed" ;; esac
fi
[ -z "$install" ] || apt-get install -y -q docker.io
if [ "$runtime" = chronos ] || [ "$runtime" = newer ]; then
  install -D -m 755 "$here/chronos-runtime" /usr/local/lib/cumulus/chronos-runtime
  install -m 644 "$here/../../chronos/host_program.py" "$here/../../lib/unix_user.py" "$(dirname "$installed")"
  install -m 644 "$here/../../chronos/runtime.py" "$installed"
  for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    # The program itself, not a shim that looks for it at each call.
    found=$("$python" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null) || continue
    [ -n "$found" ] || continue
    ln -sfn "$(readlink -f "$found")" "$(dirname "$installed")/python"
    break
  done
fi
if [ "$runtime" = chronos ]; then
  mkdir -p /etc/docker
  python3 - <<'PYTHON'
import json, pathlib
path = pathlib.Path("/etc/docker/daemon.json")
settings = json.loads(path.read_text()) if path.exists() else {}
settings.setdefault("runtimes", {})["chronos"] = {"path": "/usr/local/lib/cumulus/chronos-runtime"}
settings["default-runtime"] = "chronos"
path.write_text(json.dumps(settings, indent=2) + "\n")
PYTHON
elif [ "$runtime" = nvidia ]; then
  nvidia-ctk runtime configure --runtime=docker --set-as-default
fi
case $runtime in chronos | nvidia) systemctl restart docker ;; esac
[ -z "$join" ] || docker swarm join --token "$token" "$manager" >/dev/null || fail "the manager at $manager did not take this machine"
echo "This machine is a worker of the Swarm. Its labels gpu.count, gpu.0.name… come from the daemon."
