#!/usr/bin/env bash
# Shows the controllers' log as it comes, or a job's:   scripts/dev-logs.sh [JOB [OPTION...]]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_dev.sh
[ $# -gt 0 ] || exec tail -n 50 -F .dev/serve.log
exec .venv/bin/cumulus logs "$@"
