#!/usr/bin/env bash
# Runs the tests with real backup software: e2e.sh 1, or e2e.sh all for those
# that take long, too. On Debian it installs what is missing, as root or with
# sudo; elsewhere tests whose programs are missing are skipped. VMSTREAM_E2E_PROGRAM
# is the program under test; further arguments are for go test.
set -euo pipefail
cd "$(dirname "$0")/.."
which=${1:-1}
shift || true
sudo=()
((EUID == 0)) || sudo=(sudo -n)

missing=()
if command -v apt-get >/dev/null; then
	while read -r package; do
		[[ -z $package || $package == \#* ]] && continue
		[[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) == installed ]] || missing+=("$package")
	done <scripts/e2e-packages
fi
if ((${#missing[@]} > 0)); then
	echo "e2e: installing ${missing[*]}"
	"${sudo[@]}" apt-get update -q </dev/null
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null
fi

# Amanda wants a mount namespace of its own, so the tests run as root; they are
# built as whoever calls this.
environment=(VMSTREAM_E2E="$which")
for name in VMSTREAM_E2E_PROGRAM VMSTREAM_REQUIRE_TOOLS TMPDIR; do
	[[ -z ${!name:-} ]] || environment+=("$name=${!name}")
done
exec ${GO:-go} test -count=1 -timeout 30m -exec "${sudo[*]} env ${environment[*]}" "$@" ./internal/e2e/...
