#!/bin/sh
# Makes this machine a worker: installs Chronos (plain Python, no network), starts its monitor, and may let one user
# ask for leases with sudo. It says what it will do, and asks; run again, it changes what differs.
#
#   setup-worker.sh [MANAGER TOKEN] [--user NAME] [--prefix DIR] [--wheel FILE [--packages FILE]] [--yes] [--dry-run]
#
#   MANAGER TOKEN  join this Docker Swarm too (see join-swarm.sh); TOKEN from `cumulus cluster join-token`
#   --user NAME    let this user ask for leases as root: a sudo rule for chronos_cli's lease commands alone
#   --prefix DIR   install under DIR for the calling user alone: no root, no sudo rule, no service
#   --wheel FILE   what to install; else it is built from the source tree that this script lies in (needs setuptools)
#   --packages FILE   what copies checkpoints to s3:// needs, beside the wheel; without it that place is refused here
#   --yes          do not ask          --dry-run   say what would be done, and do nothing
#
# PYTHON names the Python to use; it must be 3.11 or newer.
set -eu
umask 022

fail() { echo "setup-worker: $1" >&2; exit 1; }
usage() { sed -n '2,14p' "$0" | cut -c3- >&2; exit 2; }

user='' prefix='' wheel='' packages='' yes='' dry='' manager='' token=''
while [ $# -gt 0 ]; do
  case $1 in
    --user) user=${2:?--user needs a name}; shift 2 ;;
    --prefix) prefix=${2:?--prefix needs a directory}; shift 2 ;;
    --wheel) wheel=${2:?--wheel needs a file}; shift 2 ;;
    --packages) packages=${2:?--packages needs a file}; shift 2 ;;
    --yes) yes=1; shift ;;
    --dry-run) dry=1; shift ;;
    -*) usage ;;
    *) if [ -z "$manager" ]; then manager=$1; elif [ -z "$token" ]; then token=$1; else usage; fi; shift ;;
  esac
done
[ -z "$manager" ] || [ -n "$token" ] || usage

here=$(dirname "$(readlink -f "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

python=''
for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
  # The program itself, not a shim that needs the caller's settings to find it.
  python=$("$candidate" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null) || python=''
  [ -z "$python" ] || break
done
[ -n "$python" ] || fail "Python 3.11 or newer is needed; install it, or name it with PYTHON=/path/to/python3.12"

if [ -n "$prefix" ]; then
  case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
  [ -z "$user" ] || fail "--user is for an installation by root; with --prefix the calling user needs no rule"
  lib=$prefix/lib/chronos bin=$prefix/bin/chronos_cli home=$prefix/var/chronos
else
  [ "$(id -u)" = 0 ] || fail "run it as root, or with --prefix DIR for yourself alone"
  lib=/opt/cumulus/chronos bin=/usr/local/bin/chronos_cli home=/var/lib/chronos
fi
if [ -n "$user" ]; then
  id "$user" >/dev/null 2>&1 || fail "there is no user $user; make it with: useradd --create-home $user"
  command -v visudo >/dev/null || fail "sudo is not installed; install it, or let the controllers log in as root"
fi
service=''
[ -n "$prefix" ] || [ ! -d /run/systemd/system ] || service=/etc/systemd/system/chronos-monitor.service

if [ -z "$wheel" ]; then
  wheel=$(cd "$here/../../.." && "$python" -m cumulus.nodes.distribution "$work") || fail "no wheel could be made here"
  [ ! -e "$work/packages.zip" ] || packages=$work/packages.zip
fi
release=$(cat "$wheel" ${packages:+"$packages"} | sha256sum | cut -c1-12)

# -I: neither the caller's directory nor their variables decide what runs as root.
cat >"$work/chronos_cli" <<LAUNCHER
#!$python -I
import os, sys
sys.path.insert(0, "$lib/current")
os.environ.setdefault("CHRONOS_HOME", "$home")
from cumulus.chronos.cli import main
sys.exit(main())
LAUNCHER

# Not exec, which runs any command, and not --home, which would let a forged ledger be acted upon.
rule=''
if [ -n "$user" ]; then
  rule=/etc/sudoers.d/chronos-$(printf %s "$user" | tr -c 'A-Za-z0-9_-' _)
  {
    printf 'Cmnd_Alias CHRONOS_LEASES ='
    for verb in devices stats list get create begin renew release prepare policy park unpark serve; do printf ' %s %s *,' "$bin" "$verb"; done
    printf ' !%s * --ho*\n' "$bin"
    printf '%s ALL=(root) NOPASSWD: CHRONOS_LEASES\n' "$user"
  } >"$work/rule"
  visudo -cqf "$work/rule" || fail "sudo does not accept the rule for $user"
fi

differs() { ! cmp -s "$1" "$2"; }
current=$(basename "$(readlink "$lib/current" 2>/dev/null || true)")
monitor_pid() { # of the monitor that runs on this ledger
  CHRONOS_HOME=${CHRONOS_HOME:-$home} "$python" -I -c "
import sys
sys.path.insert(0, '$lib/current')
from cumulus.chronos import home, monitor_control
print(monitor_control.running(home.default_home()) or '')"
}
running=''
[ -z "$current" ] || [ -n "$service" ] || running=$(monitor_pid)
steps=''
step() { steps="$steps  $1
"; }
[ "$current" = "$release" ] || step "install Chronos $release${packages:+, with boto3 for checkpoints,} in $lib${current:+, in place of $current}"
! differs "$work/chronos_cli" "$bin" || step "write the command $bin, run by $python"
[ -z "$rule" ] || ! differs "$work/rule" "$rule" || step "write the sudo rule $rule: $user may ask for leases, list and end them"
if [ -n "$service" ]; then
  ! differs "$here/chronos-monitor.service" "$service" || step "write, enable and start the service chronos-monitor"
  [ "$current" = "$release" ] || step "restart the service chronos-monitor; leases and jobs go on"
elif [ -z "$running" ]; then
  step "start the monitor, which ends leases on time"
elif [ "$current" != "$release" ]; then
  step "restart the monitor; leases and jobs go on"
fi

echo "On $(uname -n), the ledger being $home:"
printf '%s' "${steps:-  nothing is to be changed
}"
if [ -n "$dry" ]; then
  [ -z "$manager" ] || "$here/join-swarm.sh" "$manager" "$token" --dry-run
  exit 0
fi
if [ -n "$steps" ] && [ -z "$yes" ]; then
  [ -t 0 ] || fail "give --yes to have it done"
  printf 'Go on? [y/N] '
  read -r answer
  case $answer in y | Y | yes) ;; *) fail "nothing was changed" ;; esac
fi

put() { # FILE MODE PLACE: whole or not at all
  differs "$1" "$3" || return 0
  mkdir -p "$(dirname "$3")"
  cp "$1" "$3.new.$$"
  chmod "$2" "$3.new.$$"
  mv -f "$3.new.$$" "$3"
}

if [ ! -d "$lib/$release" ]; then
  mkdir -p "$lib/$release.new.$$"
  "$python" -m zipfile -e "$wheel" "$lib/$release.new.$$"
  [ -z "$packages" ] || "$python" -m zipfile -e "$packages" "$lib/$release.new.$$"
  "$python" -m compileall -q "$lib/$release.new.$$"
  mv "$lib/$release.new.$$" "$lib/$release"
fi
if [ "$current" != "$release" ]; then
  ln -sfn "$release" "$lib/current.new.$$"
  mv -fT "$lib/current.new.$$" "$lib/current"
  # What runs now may still load a module of the release before; older ones are not needed any more.
  for old in "$lib"/*; do
    case $(basename "$old") in current | "$release" | "$current") ;; *) rm -rf "$old" ;; esac
  done
fi
put "$work/chronos_cli" 755 "$bin"
[ -z "$rule" ] || put "$work/rule" 440 "$rule"

if [ -n "$service" ]; then
  if differs "$here/chronos-monitor.service" "$service"; then
    put "$here/chronos-monitor.service" 644 "$service"
    systemctl daemon-reload
  fi
  systemctl enable --quiet chronos-monitor
  if [ "$current" = "$release" ]; then systemctl start chronos-monitor; else systemctl restart chronos-monitor; fi
  systemctl is-active --quiet chronos-monitor || fail "chronos-monitor does not run; see: journalctl -u chronos-monitor"
else
  if [ -n "$running" ] && [ "$current" != "$release" ]; then
    kill "$running"
    while [ -n "$(monitor_pid)" ]; do sleep 0.1; done
  fi
  "$bin" list 2>/dev/null >&2 || "$bin" list >&2
  "$bin" monitor --detach
fi

if "$bin" stats; then echo "Chronos is ready."; else echo "Chronos is installed; it offers no device yet." >&2; fi
[ -z "$manager" ] || "$here/join-swarm.sh" "$manager" "$token" ${yes:+--yes}
