# Sourced by the dev-*.sh scripts: what scripts/dev-setup.sh wrote down, as docker and cumulus want it.

[ -f .dev/settings ] || { echo "error: not set up yet; run scripts/dev-setup.sh ssh://USER@HOST" >&2; exit 1; }
. .dev/settings
export SWARM_MANAGER=$endpoint
export CUMULUS_HOME=${CUMULUS_HOME:-$PWD/.dev/cumulus} CHRONOS_HOME=${CHRONOS_HOME:-$PWD/.dev/chronos}
unset DOCKER_TLS_VERIFY DOCKER_CERT_PATH
if [ -n "$certificates" ]; then export DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=$certificates; fi

# Builds the job image on the remote engine, or takes this machine's packages where no registry is reachable, and brings
# it to the other nodes. Fails where one of them could not take it.
job_image() {
  local tag
  tag=$(containers/tag.sh)
  if ! docker --host "$endpoint" image inspect "$tag" >/dev/null 2>&1 &&
    ! docker --host "$endpoint" build -q -f containers/Dockerfile -t "$tag" . 2>.dev/build.log; then
    echo "No image could be built (see .dev/build.log): taking this machine's packages"
    tag=cumulus-job:local
    PYTHON=$VENV/bin/python containers/build-local.sh "$tag" "$endpoint" || return
  fi
  echo "Job image: $tag"
  "$VENV/bin/cumulus" cluster image push "$tag"
}
