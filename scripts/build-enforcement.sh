#!/usr/bin/env bash
# Builds the libraries that hold jobs to their leases, the OpenCL layer and the CUDA counter, into the package or the
# directory given. Needs cmake, a C compiler and OpenCL's headers (Debian, Ubuntu: apt install cmake gcc opencl-headers).
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-cumulus/chronos/enforce/lib}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

for tool in cmake cc; do
    command -v "$tool" >/dev/null || { echo "build-enforcement: $tool is missing (apt install cmake gcc opencl-headers)" >&2; exit 1; }
done

cmake -S cumulus/chronos/enforce -B "$build" >"$build/log" || { cat "$build/log" >&2; exit 1; }
cmake --build "$build" >"$build/log" || { cat "$build/log" >&2; exit 1; }
mkdir -p "$target"
for library in "$build"/opencl/lib*.so "$build"/cuda/lib*.so; do
    install -m 0755 "$library" "$target/"
    echo "$target/${library##*/}"
done
