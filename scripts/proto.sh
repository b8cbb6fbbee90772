#!/usr/bin/env bash
# Generates the Go code of plugins/proto/sink.proto. Needs protoc (Debian:
# protobuf-compiler); the generators of Go code are pinned in the Makefile.
# Usage: proto.sh PROTOC-GEN-GO PROTOC-GEN-GO-GRPC
set -euo pipefail
go=$1 grpc=$2
out=plugins/internal/sinkv1
protoc --plugin=protoc-gen-go="$go" --plugin=protoc-gen-go-grpc="$grpc" \
	--go_out="$out" --go_opt=paths=source_relative \
	--go-grpc_out="$out" --go-grpc_opt=paths=source_relative \
	-I plugins/proto sink.proto
