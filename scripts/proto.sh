#!/usr/bin/env bash
# Generates cumulus/rpc from proto/orchestrator.proto. The result is committed, so that users need no compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_python.sh
make_venv dev

generated=$(mktemp -d)
trap 'rm -rf "$generated"' EXIT
mkdir -p "$generated/cumulus/rpc"
cp proto/orchestrator.proto "$generated/cumulus/rpc/"
PATH=$VENV/bin:$PATH python -m grpc_tools.protoc --proto_path="$generated" --python_out="$generated" \
  --grpc_python_out="$generated" --mypy_out=quiet:"$generated" --mypy_grpc_out=quiet:"$generated" cumulus/rpc/orchestrator.proto
cp "$generated"/cumulus/rpc/orchestrator_pb2*.py* cumulus/rpc/
