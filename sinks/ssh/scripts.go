// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package ssh

import "strings"

// The scripts run in the other end's sh and need nothing but POSIX tools and stat.
// Each gets its arguments behind the word: what it says to us begins with that
// word, a random one, since a login may print what it likes.

// common has functions of the scripts. info prints size, time and inode of a file.
const common = `set -u; umask 077; LC_ALL=C; export LC_ALL
w=$1; r=$2; k=$3; f=$r$k; t=${4-}; d=${f%/*}/
info() { stat -Lc "%s %Y %i" -- "$1" 2>/dev/null || stat -Lf "%z %m %i" -- "$1"; }
fail() { echo "$w $1"; exit 0; }
flush() { sync "$1" 2>/dev/null || sync; }
`

// putScript collects what arrives in a file beside the object.
const putScript = common + `mkdir -p -- "$d" || exit 1
if test -n "$5" && { test -e "$f" || test -L "$f"; }; then fail exists; fi
set -C; exec 3>"$t" || exit 1
echo "$w ready"; cat >&3 || { echo "$w bad"; exit 1; }
exec 3>&-; flush "$t"; i=$(info "$t") || exit 1; echo "$w got $i"`

// commitScript gives it its name if it is as long as it has to be. $5 is empty
// to replace what is there, $6 the size.
const commitScript = common + `i=$(info "$t") || fail gone
test "${i%% *}" = "$6" || fail "short $i"
if test -d "$f"; then fail exists; fi
if test -z "$5"; then mv -f -- "$t" "$f" || exit 1
elif ln -- "$t" "$f" 2>/dev/null; then rm -f -- "$t"
elif test -e "$f" || test -L "$f"; then fail exists
else mv -n -- "$t" "$f" && test ! -e "$t" || fail exists; fi
flush "$d"; echo "$w ok $i"`

const getScript = common + `test -f "$f" || fail none
exec <"$f" || exit 1; i=$(info "$f") || exit 1; echo "$w ok $i"; exec cat`

// rangeScript sends $5 blocks of 64 KiB from block $4 on.
const rangeScript = common + `test -f "$f" || fail none
i=$(info "$f") || exit 1; echo "$w ok $i"; exec dd if="$f" bs=65536 skip="$4" count="$5" 2>/dev/null`

const statScript = common + `test -f "$f" || fail none; i=$(info "$f") || exit 1; echo "$w ok $i"`

const deleteScript = common + `test -f "$f" || test -L "$f" || fail none
rm -f -- "$f" || exit 1; flush "$d"; echo "$w ok"`

// listScript prints size, time, inode and path of all files below a directory.
const listScript = common + `if test -d "$f"; then find "$f" -type f -exec sh -c '
w=$1; shift; for f; do case $f in *"
"*) continue;; esac
i=$(stat -Lc "%s %Y %i" -- "$f" 2>/dev/null || stat -Lf "%z %m %i" -- "$f" 2>/dev/null) && echo "$w file $i $f"; done; true' sh "$w" {} + || exit 1; fi; echo "$w ok"`

// quote makes one word for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// remoteCommand is what the login shell of the other end runs.
func remoteCommand(script string, args ...string) string {
	var b strings.Builder
	b.WriteString("exec sh -c " + quote(script) + " sh")
	for _, a := range args {
		b.WriteString(" " + quote(a))
	}
	return b.String()
}
