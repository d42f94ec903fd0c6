#!/usr/bin/env bash
# Shows the controllers' log as it comes, or a job's:   scripts/dev-logs.sh [JOB [OPTION...]]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f .dev/settings ] || { echo "error: not set up yet; run scripts/dev-setup.sh ssh://USER@HOST" >&2; exit 1; }
. .dev/settings
[ $# -gt 0 ] || exec tail -n 50 -F .dev/serve.log
CUMULUS_HOME=${CUMULUS_HOME:-$PWD/.dev/cumulus} SWARM_MANAGER=$endpoint exec .venv/bin/cumulus logs "$@"
