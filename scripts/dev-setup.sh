#!/usr/bin/env bash
# Once: a Docker context for a remote Swarm manager, checked, and the job image on it.
#   scripts/dev-setup.sh ssh://USER@HOST [CONTEXT]     (or tcp://HOST:2376; default context: cumulus-dev)
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,3p' "$0" | cut -c3- >&2; exit 2; }
endpoint=$1 context=${2:-cumulus-dev}
. scripts/_python.sh
make_venv
if docker context inspect "$context" >/dev/null 2>&1; then
  docker context update "$context" --docker "host=$endpoint" >/dev/null
else
  docker context create "$context" --docker "host=$endpoint" >/dev/null
fi
docker --context "$context" info --format 'Engine {{.ServerVersion}} on {{.Name}}, Swarm {{.Swarm.LocalNodeState}}' ||
  { echo "error: the engine at $endpoint does not answer" >&2; exit 1; }
mkdir -p .dev
printf 'context=%s\nendpoint=%s\n' "$context" "$endpoint" >.dev/settings
SWARM_MANAGER=$endpoint "$VENV/bin/cumulus" cluster init
echo "Set up. Start the controllers with scripts/dev-start.sh"
