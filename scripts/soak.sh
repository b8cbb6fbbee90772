#!/usr/bin/env bash
# Runs the property tests with many more random histories than the test suite
# does: RAPID_CHECKS (20000) for each property. ARGS go to go test.
set -euo pipefail
cd "$(dirname "$0")/.."
export RAPID_CHECKS=${RAPID_CHECKS:-20000}

mapfile -t files < <(grep -rl --include='*_test.go' '"pgregory.net/rapid"' . | sort)
if ((${#files[@]} == 0)); then
	echo "the tree has no property tests" >&2
	exit 1
fi
mapfile -t dirs < <(printf '%s\n' "${files[@]}" | xargs -n1 dirname | sort -u)
# The tests that use rapid, by the names of the functions that call it.
names=$(awk '/^func Test/{sub(/^func /,""); sub(/\(.*/,""); name=$0} /rapid\.(Check|MakeCheck)\(/{if (name != "") print name}' "${files[@]}" | sort -u | paste -sd '|')
if [[ -z $names ]]; then
	echo "no test calls rapid.Check" >&2
	exit 1
fi
echo "$RAPID_CHECKS histories for each of: ${names//|/ }"
# shellcheck disable=SC2086 # ARGS are several words
exec "${GO:-go}" test -count=1 -timeout 12h -v ${ARGS:-} -run "^($names)\$" "${dirs[@]}"
