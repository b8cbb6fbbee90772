#!/usr/bin/env bash
# Installs a Go program of a fixed version under a name that has the version,
# so that another version in the Makefile is installed and not taken for it.
# Usage: tool.sh PACKAGE VERSION FILE
set -euo pipefail
package=$1 version=$2 file=$3
dir=$(dirname "$file")
mkdir -p "$dir"
tmp=$(mktemp -d "$(cd "$dir" && pwd)/.install.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
GOBIN=$tmp "${GO:-go}" install "$package@$version"
mv "$tmp/$(basename "$package")" "$file"
