#!/usr/bin/env bash
# Sets up .venv with what the tests need and passes every check: style, types, import contracts, tests.
#   scripts/test.sh                                  all but what takes very long, which the end of the run names
#   scripts/test.sh --slow                           that too
#   scripts/test.sh tests/store -k conformance       a part: other arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_python.sh
make_venv dev
PATH=$VENV/bin:$PATH

slow=''
if [ "$*" = --slow ]; then slow=--slow; elif [ $# -gt 0 ]; then exec python -m pytest "$@"; fi
# One command a line: in a list joined by && the shell would go on after a failure.
echo "==> ruff"
ruff check .
ruff format --check --quiet .
echo "==> mypy"
mypy
echo "==> import contracts"
lint-imports
echo "==> tests"
# Two processes a core: many tests wait for what other processes do.
exec python -m pytest $slow --numprocesses="${TEST_PROCESSES:-$((2 * $(nproc)))}" --dist=loadgroup
