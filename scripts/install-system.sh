#!/usr/bin/env bash
# Installs Cumulus for all users of this machine: the system daemon and the monitor of leases, under systemd. Run it as root,
# from a checkout. Run it again to upgrade: jobs go on meanwhile.
#   scripts/install-system.sh --dry-run    only prints what it would do; needs no root
#   scripts/install-system.sh
#   scripts/install-system.sh --no-start   installs, and starts nothing
#   scripts/install-system.sh --uninstall  removes what it installed, once no lease goes on; the state of both stays
#   scripts/install-system.sh --purge      removes that too: all jobs with their files and logs, and the group of admins
# See docs/share-a-machine.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_python.sh

PREFIX=/opt/cumulus
UNITS=/etc/systemd/system
STATE="/var/lib/cumulus /var/lib/chronos"
dry=
start=yes
remove=
purge=
for argument in "$@"; do
  case $argument in
    --dry-run) dry=yes ;;
    --no-start) start= ;;
    --uninstall) remove=yes ;;
    --purge) remove=yes purge=yes ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit ;;
    *) echo "error: $argument is no option of $0; see $0 --help" >&2; exit 2 ;;
  esac
done

run() {
  printf '+ %s\n' "$*"
  [ -n "$dry" ] || "$@"
}

# Programs of leases that go on would run without an end, and nobody could ask for them any more.
check_no_lease() {
  local ledger=/var/lib/chronos/ledger.db listed
  # Without its programs nothing is left that could tell, nor end, a lease.
  [ -e "$ledger" ] && [ -x "$PREFIX/.venv/bin/chronos_cli" ] || return 0
  listed=$(CHRONOS_HOME=/var/lib/chronos "$PREFIX/.venv/bin/chronos_cli" list --json) || {
    echo "error: the leases of this machine cannot be listed; install anew first, and remove it then" >&2
    return 1
  }
  case $listed in *'"leases": []'*) return 0 ;; esac
  echo "error: leases go on: see 'chronos_cli list'; end their jobs with 'cumulus delete', or wait until they are over" >&2
  return 1
}

uninstall() {
  local unit program
  [ -n "$dry" ] || check_no_lease || exit 1
  for unit in cumulus chronos-users chronos-monitor; do
    if [ -n "$dry" ] || { [ -d /run/systemd/system ] && [ -e "$UNITS/$unit.service" ]; }; then
      run systemctl disable --now "$unit"
    fi
    run rm -f "$UNITS/$unit.service"
  done
  if [ -n "$dry" ] || [ -d /run/systemd/system ]; then run systemctl daemon-reload; fi
  for program in cumulus chronos_cli; do
    # Not one that an administrator put there.
    if [ -n "$dry" ] || [ "$(readlink "/usr/local/bin/$program")" = "$PREFIX/.venv/bin/$program" ]; then
      run rm -f "/usr/local/bin/$program"
    fi
  done
  run rm -rf "$PREFIX"
  if [ -z "$purge" ]; then
    [ -n "$dry" ] || echo "Kept: $STATE, the user cumulus-build and the group cumulus-admin. $0 --purge removes them too."
    return
  fi
  # shellcheck disable=SC2086
  run rm -rf $STATE
  if [ -n "$dry" ] || getent passwd cumulus-build >/dev/null; then run userdel cumulus-build; fi
  if [ -n "$dry" ] || getent group cumulus-admin >/dev/null; then run groupdel cumulus-admin; fi
}

[ -n "$dry" ] || [ "$(id -u)" = 0 ] || { echo "error: run this as root; --dry-run shows what it would do" >&2; exit 1; }
if [ -n "$remove" ]; then
  uninstall
  exit
fi
# Before anything is changed.
python=$(find_python)
if [ -z "$dry" ]; then
  [ -z "$start" ] || [ -d /run/systemd/system ] || {
    echo "error: systemd does not run here; with --no-start the files are installed all the same" >&2
    exit 1
  }
fi
case $("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))') in
  /root/* | /home/*)
    # Jobs of other users get the hooks of Chronos from there, and their chronos_cli is run by it.
    echo "error: $python lies in a home directory, where other users can't start it; name another: PYTHON=/usr/bin/python3 $0" >&2
    [ -n "$dry" ] || exit 1
    ;;
esac

umask 022
run install -d -m 0755 "$PREFIX" "$PREFIX/docs"
run "$python" -m venv "$PREFIX/.venv"
VENV=$PREFIX/.venv
run "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/run.lock
run "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall .
run light_start "$VENV/bin/cumulus"
run install -m 0644 docs/share-a-machine.md "$PREFIX/docs/"
for program in cumulus chronos_cli; do
  run ln -sf "$VENV/bin/$program" "/usr/local/bin/$program"
done
# Its members are admins of Cumulus, as root is.
getent group cumulus-admin >/dev/null || run groupadd --system cumulus-admin
# Builds the Python environments that users share, from wheels alone; nobody logs in as it.
getent passwd cumulus-build >/dev/null ||
  run useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin cumulus-build
for unit in chronos-monitor chronos-users cumulus; do
  run install -m 0644 "scripts/$unit.service" "$UNITS/"
done
[ -n "$start" ] || exit 0
run systemctl daemon-reload
run systemctl enable chronos-monitor chronos-users cumulus
# What runs already is replaced: leases and jobs outlive it.
run systemctl restart chronos-monitor chronos-users cumulus
[ -n "$dry" ] || echo "Cumulus serves the users of this machine. Try it as one of them: cumulus get nodes"
