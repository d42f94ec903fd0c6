#!/usr/bin/env bash
# Builds Chronos' OpenCL layer and CUDA counter, tests them, and installs them with chronos_cli and its monitor here.
#   cumulus_core/install-quick.sh [OPTION...]              as root, for all; options are those of scripts/setup-worker.sh
#   cumulus_core/install-quick.sh --prefix DIR [--yes]     for you alone
# It asks before it installs; --yes does not, and --dry-run only says what would be done. Without cmake, a C compiler or
# OpenCL's headers it goes on without them, and says so: leases end on time all the same, but no device memory is counted.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case ${1:-} in -h | --help) sed -n '2,6p' "${BASH_SOURCE[0]}" | cut -c3-; exit ;; esac

dry=
for word; do [ "$word" != --dry-run ] || dry=yes; done
missing=
for tool in cmake cc; do command -v "$tool" >/dev/null || missing="$missing $tool"; done
if [ -n "$missing" ]; then
  echo "install-quick: neither OpenCL layer nor CUDA counter is built:$missing missing (apt install cmake gcc opencl-headers)" >&2
elif [ -z "$dry" ]; then
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  if cmake -S "$here" -B "$build" -DCMAKE_BUILD_TYPE=Release >"$build/log" 2>&1 &&
    cmake --build "$build" -j4 >"$build/log" 2>&1 && (cd "$build" && ctest --output-on-failure) >"$build/log" 2>&1; then
    # Into the package, from where the installation takes it.
    install -D -m 0755 "$build"/enforce/*/libchronos_*.so -t "$here/../cumulus/chronos/enforce/lib"
  else
    tail -n 20 "$build/log" >&2
    echo "install-quick: OpenCL layer and CUDA counter can't be built (see above); going on without" >&2
  fi
fi
"$here/../scripts/setup-worker.sh" "$@"
