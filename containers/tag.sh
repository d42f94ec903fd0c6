#!/usr/bin/env bash
# Prints the tag of a job image: the version, and a digest of all that goes into it. The same sources, the same tag.
#   containers/tag.sh [VARIANT]
set -euo pipefail
cd "$(dirname "$0")/.."
variant=${1:-base}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
digest=$(find containers cumulus sdk pyproject.toml README.md -type f \
  -not -name '*.pyc' -not -name '*.whl' -not -path '*/enforce/lib/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-12)
echo "${CUMULUS_IMAGE:-cumulus-job}:$version-$variant-$digest"
