#!/usr/bin/env bash
# Makes a job image from this machine's own Python and packages: no registry, no build. For labs and tests.
#   containers/build-local.sh [TAG] [DOCKER_HOST...]   (default cumulus-job:local, on the default engine)
# PYTHON names the interpreter whose packages are taken (default: .venv/bin/python, else python3).
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-cumulus-job:local}
shift || true
python=${PYTHON:-}
[ -n "$python" ] || { [ -x .venv/bin/python ] && python=.venv/bin/python || python=python3; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
"$python" containers/local_root.py "$root/root"
tar --create --file="$root/image.tar" --directory="$root/root" .
[ $# -gt 0 ] || set -- "${DOCKER_HOST:-}"
for host in "$@"; do
  docker ${host:+--host "$host"} import \
    --change 'ENV PATH=/opt/python/bin:/usr/local/bin:/usr/bin:/bin LD_LIBRARY_PATH=/opt/lib PYTHONUNBUFFERED=1 HOME=/work' \
    --change 'USER 1000' --change 'WORKDIR /work' --change 'ENTRYPOINT ["cumulus-run"]' "$root/image.tar" "$tag"
done
