#!/usr/bin/env bash
# Writes requirements/*.lock anew: the versions, with hashes, that the set-up installs, for Linux and Python from 3.11 on.
#   scripts/lock.sh             change as little as pyproject.toml asks for
#   scripts/lock.sh --upgrade   take the newest versions that it allows
# Where a release of one package is to be taken: scripts/lock.sh --upgrade-package NAME
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_python.sh

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$(find_python)" -m venv "$tools/venv"
"$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<0.14'

lock() {
  local file=requirements/$1.lock
  shift
  "$tools/venv/bin/uv" pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --quiet --custom-compile-command scripts/lock.sh --output-file "$file" "$@"
}

lock run "$@"
# The others hold the same, and more.
lock dev --extra dev --constraint requirements/run.lock "$@"
lock intel-cpu --extra intel-cpu --constraint requirements/run.lock "$@"
