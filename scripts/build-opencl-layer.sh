#!/usr/bin/env bash
# Builds the OpenCL layer that holds jobs to their leases, into the package or the directory given.
# Needs cmake, a C compiler and OpenCL's headers (Debian, Ubuntu: apt install cmake gcc opencl-headers).
set -euo pipefail
cd "$(dirname "$0")/.."

source_dir=cumulus/chronos/enforce/opencl
target=${1:-cumulus/chronos/enforce/lib}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

for tool in cmake cc; do
    command -v "$tool" >/dev/null || { echo "build-opencl-layer: $tool is missing (apt install cmake gcc opencl-headers)" >&2; exit 1; }
done

cmake -S "$source_dir" -B "$build" >"$build/log" || { cat "$build/log" >&2; exit 1; }
cmake --build "$build" >"$build/log" || { cat "$build/log" >&2; exit 1; }
mkdir -p "$target"
install -m 0755 "$build/libchronos_opencl_layer.so" "$target/"
echo "$target/libchronos_opencl_layer.so"
