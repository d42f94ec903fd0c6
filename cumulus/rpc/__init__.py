"""The messages of gRPC, generated from proto/orchestrator.proto by scripts/proto.sh: nothing is written by hand."""
