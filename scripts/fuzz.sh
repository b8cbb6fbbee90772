#!/usr/bin/env bash
# Runs every fuzz target of the tree for FUZZTIME (60s), one after the other,
# and fails if one of them finds an input. FUZZ and FUZZPKG, extended regular
# expressions, choose among the targets and the packages.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go} fuzztime=${FUZZTIME:-60s} choose=${FUZZ:-.} packages=${FUZZPKG:-.}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
ran=0 failed=()

run() { # run PACKAGE TARGET
	if "$go" test "$1" -run '^$' -fuzz "^$2\$" -fuzztime "$fuzztime" -fuzzminimizetime 20x >"$log" 2>&1; then
		grep '^fuzz: elapsed' "$log" | tail -n 1 || true
		return 0
	fi
	# Stopping its workers at the end of the time can fail in the go command
	# itself; that names no input and no crash.
	if grep -q 'context deadline exceeded' "$log" && ! grep -q -e 'Failing input' -e 'panic' "$log"; then
		echo "the go command stopped late; no input was found"
		return 0
	fi
	cat "$log"
	return 1
}

# Only packages with fuzz targets are built for listing.
mapfile -t dirs < <(grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | xargs -r -n1 dirname | sort -u)
for dir in "${dirs[@]}"; do
	[[ $dir =~ $packages ]] || continue
	list=$("$go" test "$dir" -list '^Fuzz')
	for target in $(grep '^Fuzz' <<<"$list" || true); do
		[[ $target =~ $choose ]] || continue
		echo "== $dir $target, $fuzztime"
		ran=$((ran + 1))
		run "$dir" "$target" || failed+=("$dir $target")
	done
done

if ((ran == 0)); then
	echo "no fuzz target matches" >&2
	exit 1
fi
if ((${#failed[@]})); then
	printf 'failed: %s\n' "${failed[@]}" >&2
	exit 1
fi
echo "$ran fuzz targets ran for $fuzztime each; no failure"
