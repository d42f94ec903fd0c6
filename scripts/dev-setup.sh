#!/usr/bin/env bash
# Once: a Docker context for a remote Swarm manager, the Swarm's settings, and the job image on the nodes.
#   scripts/dev-setup.sh ssh://USER@HOST [CONTEXT]            (or tcp://HOST:2376; default context: cumulus-dev)
#   scripts/dev-setup.sh ssh://USER@HOST [CONTEXT] --no-image
# For tcp:// with TLS set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH to the directory of ca.pem, cert.pem and key.pem.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,5p' "$0" | cut -c3- >&2; exit 2; }
endpoint='' context='' image=1
for word; do
  case $word in
  --no-image) image='' ;;
  -*) usage ;;
  *) if [ -z "$endpoint" ]; then endpoint=$word; elif [ -z "$context" ]; then context=$word; else usage; fi ;;
  esac
done
[ -n "$endpoint" ] || usage
context=${context:-cumulus-dev}
command -v docker >/dev/null || { echo "error: the docker client is missing; on Debian and Ubuntu: apt install docker.io" >&2; exit 1; }
. scripts/_python.sh
make_venv

host=host=$endpoint certificates=''
if [ -n "${DOCKER_TLS_VERIFY:-}" ]; then
  certificates=$(realpath "${DOCKER_CERT_PATH:-$HOME/.docker}")
  for file in ca cert key; do
    [ -r "$certificates/$file.pem" ] || { echo "error: DOCKER_TLS_VERIFY is set, and $certificates/$file.pem cannot be read" >&2; exit 1; }
    host=$host,$file=$certificates/$file.pem
  done
fi
if docker context inspect "$context" >/dev/null 2>&1; then
  docker context update "$context" --docker "$host" >/dev/null
else
  docker context create "$context" --docker "$host" >/dev/null
fi
docker --context "$context" version --format 'Engine {{.Server.Version}} answers' ||
  { echo "error: the engine at $endpoint does not answer" >&2; exit 1; }
mkdir -p .dev
printf 'context=%q\nendpoint=%q\ncertificates=%q\n' "$context" "$endpoint" "$certificates" >.dev/settings
. scripts/_dev.sh
"$VENV/bin/cumulus" cluster init
[ -z "$image" ] || job_image || { echo "error: not every node has the job image: run this again once the above is mended, or with --no-image" >&2; exit 1; }
echo "Set up. Start the controllers with scripts/dev-start.sh"
