"""The messages of gRPC, generated from proto/orchestrator.proto by scripts/proto.sh; `pieces` is written by hand."""
