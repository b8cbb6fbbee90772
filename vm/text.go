// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// charset is the encoding of a configuration's values.
type charset uint8

const (
	// charsetUTF8 is the declared one and what is assumed without a
	// declaration. A value that is not valid UTF-8 is read as windows-1252,
	// which is what products wrote before they had .encoding.
	charsetUTF8 charset = iota
	charset1252
	charsetOther // read like charsetUTF8, with a warning
)

func charsetOf(name string) charset {
	switch fold(strings.TrimSpace(name)) {
	case "", "utf-8", "utf8", "us-ascii", "ascii":
		return charsetUTF8
	case "windows-1252", "cp1252", "iso-8859-1":
		return charset1252
	default:
		return charsetOther
	}
}

// windows1252 has the characters of bytes 0x80 to 0x9f; all others are those of
// the same number. The five unassigned bytes stand for the control characters
// of their number, so that every byte can be written back.
const windows1252 = "\u20ac\u0081\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u008d\u017d\u008f" +
	"\u0090\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u009d\u017e\u0178"

// decode returns raw as valid UTF-8.
func (cs charset) decode(raw string) string {
	if isASCII(raw) || cs != charset1252 && utf8.ValidString(raw) {
		return raw
	}
	high := []rune(windows1252)
	var b strings.Builder
	b.Grow(len(raw) + len(raw)/2)
	for i := range len(raw) {
		r := rune(raw[i])
		if 0x80 <= r && r <= 0x9f {
			r = high[r-0x80]
		}
		b.WriteRune(r)
	}
	return b.String()
}

// encode returns UTF-8 text in the encoding of the file.
func (cs charset) encode(text string) (string, error) {
	if !utf8.ValidString(text) {
		return "", errors.New("the value is not valid UTF-8")
	}
	if cs == charsetUTF8 || isASCII(text) {
		return text, nil
	}
	if cs == charsetOther {
		return "", errors.New("only ASCII can be written in this file's encoding")
	}
	high := []rune(windows1252)
	b := make([]byte, 0, len(text))
	for _, r := range text {
		ch, ok := byte(r), r < 0x80 || 0xa0 <= r && r <= 0xff
		for i := 0; i < len(high) && !ok; i++ {
			ch, ok = byte(0x80+i), high[i] == r
		}
		if !ok {
			return "", fmt.Errorf("the character %q cannot be written in windows-1252", r)
		}
		b = append(b, ch)
	}
	return string(b), nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// unescapeBar decodes |XX. A bar without two hexadecimal digits stays.
func unescapeBar(s string) string {
	return unescape(s, '|', func(byte) bool { return true })
}

// unescapePercent decodes %XX where vCenter writes it: for %, / and \ only.
// Hosted products do not escape that way, and there "50%20" is a name.
func unescapePercent(s string) string {
	return unescape(s, '%', func(b byte) bool { return b == '%' || b == '/' || b == '\\' })
}

func unescape(s string, mark byte, wanted func(byte) bool) string {
	if strings.IndexByte(s, mark) < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == mark && i+2 < len(s) {
			high, ok1 := hexDigit(s[i+1])
			low, ok2 := hexDigit(s[i+2])
			if ch := high<<4 | low; ok1 && ok2 && wanted(ch) {
				b = append(b, ch)
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func hexDigit(ch byte) (byte, bool) {
	switch {
	case '0' <= ch && ch <= '9':
		return ch - '0', true
	case 'a' <= ch && ch <= 'f':
		return ch - 'a' + 10, true
	case 'A' <= ch && ch <= 'F':
		return ch - 'A' + 10, true
	default:
		return 0, false
	}
}

// escapeBar writes what cannot stand between quotes as |XX.
func escapeBar(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if ch := s[i]; ch < ' ' || ch == 0x7f || ch == '"' || ch == '|' {
			fmt.Fprintf(&b, "|%02X", ch)
		} else {
			b.WriteByte(ch)
		}
	}
	return b.String()
}
