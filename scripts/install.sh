#!/usr/bin/env bash
# Installs bin/vmstream, the sinks as programs of their own, man pages and shell
# completions under $DESTDIR$PREFIX. With CLASSIC=1 also links by the names of the classic tools:
# see docs/classic.md.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${DESTDIR:-}${PREFIX:-/usr/local}

install -D -m 755 bin/vmstream "$prefix/bin/vmstream"
for sink in bin/vmstream-sink-*; do
	install -D -m 755 "$sink" "$prefix/libexec/vmstream/$(basename "$sink")"
done

docs=$(mktemp -d)
trap 'rm -rf "$docs"' EXIT
"${GO:-go}" run ./internal/gendocs "$docs"

for page in "$docs"/man/*.1; do
	install -D -m 644 "$page" "$prefix/share/man/man1/$(basename "$page")"
done
completion() { # completion FILE TARGET
	install -D -m 644 "$docs/completions/$1" "$prefix/share/$2"
}
completion vmstream.bash bash-completion/completions/vmstream
completion vmstream.zsh zsh/site-functions/_vmstream
completion vmstream.fish fish/vendor_completions.d/vmstream.fish
if [ "${CLASSIC:-0}" = 1 ]; then
	for name in vmsnap vmres addredo vmkfstools; do
		ln -sf vmstream "$prefix/bin/$name"
		ln -sf "vmstream-$name.1" "$prefix/share/man/man1/$name.1"
	done
fi
echo "installed under $prefix"
