// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxNameBytes is how long a name made by [SafeName] can be. It leaves room for
// a suffix in the 255 bytes that file systems allow.
const MaxNameBytes = 200

// SafeName turns any text into one component of a path, the same for the same
// text:
//
//   - /, \, NUL and other control characters, characters that show nothing or
//     change the direction of text, and bytes that are not UTF-8 become "_";
//   - dots, dashes and blanks at the beginning go, and dots and blanks at the
//     end, so that the result is no option, no hidden file, and never "." or "..";
//   - the rest is cut to 200 bytes between two characters;
//   - if nothing is left the name is "vm".
//
// Different texts can give the same name.
func SafeName(s string) string {
	var b strings.Builder
	for _, r := range strings.TrimLeftFunc(s, isLeadingJunk) {
		if r == '/' || r == '\\' || r == utf8.RuneError || !unicode.IsGraphic(r) {
			r = '_'
		}
		if b.Len()+utf8.RuneLen(r) > MaxNameBytes {
			break
		}
		b.WriteRune(r)
	}
	name := strings.TrimRightFunc(b.String(), func(r rune) bool { return r == '.' || unicode.IsSpace(r) })
	if name == "" {
		return "vm"
	}
	return name
}

func isLeadingJunk(r rune) bool { return r == '.' || r == '-' || unicode.IsSpace(r) }

// oneLine makes text from files fit for messages: no line breaks, no escape
// sequences for a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return '?'
	}, s)
}
