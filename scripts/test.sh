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

# Else each of the many processes compiles every module anew.
unset PYTHONDONTWRITEBYTECODE

slow=''
if [ "$*" = --slow ]; then slow=--slow; elif [ $# -gt 0 ]; then exec python -m pytest "$@"; fi
# One command a line: in a list joined by && the shell would go on after a failure.
echo "==> ruff"
ruff check .
ruff format --check --quiet .
echo "==> tests, and beside them mypy and the import contracts"
found=$(mktemp)
{ mypy && lint-imports; } >"$found" 2>&1 &
checks=$!
trap 'kill "$checks" 2>/dev/null || true; rm -f "$found"' EXIT
failed=0
# Of a fresh clone each process would compile all modules, all at the same time.
[ -d tests/__pycache__ ] || python -m pytest --collect-only -qq >/dev/null 2>&1 || true
# Three processes a core: many tests wait for what other processes do.
python -m pytest $slow --numprocesses="${TEST_PROCESSES:-$((3 * $(nproc)))}" --dist=loadgroup || failed=$?
echo "==> mypy and import contracts"
wait "$checks" || failed=$?
cat "$found"
exit "$failed"
