// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import "strings"

const blanks = " \t\r\v\f"

// lineParts is a line taken apart. Neither key nor why: blank or a comment.
// Offsets are into the line.
type lineParts struct {
	key        string
	raw        string // the value without quotes
	valueStart int    // of the value with its quotes
	valueEnd   int
	why        string // what keeps the line from being read
}

// scanLine takes a line without its newline apart. A quoted value ends at the
// next quote, since a quote inside is written |22; an unquoted one, as old files
// and hand edits have it, goes to the end of the line.
func scanLine(line string) lineParts {
	pos := skipBlanks(line, 0)
	if pos == len(line) || line[pos] == '#' {
		return lineParts{}
	}
	keyEnd := pos
	for keyEnd < len(line) && isKeyByte(line[keyEnd], keyEnd == pos) {
		keyEnd++
	}
	p := lineParts{key: line[pos:keyEnd]}
	pos = skipBlanks(line, keyEnd)
	if p.key == "" || pos == len(line) || line[pos] != '=' {
		p.why = `it does not read key = "value"`
		return p
	}
	pos = skipBlanks(line, pos+1)
	p.valueStart = pos
	if pos == len(line) || line[pos] != '"' {
		p.raw = strings.TrimRight(line[pos:], blanks)
		p.valueEnd = pos + len(p.raw)
		return p
	}
	n := strings.IndexByte(line[pos+1:], '"')
	if n < 0 {
		p.why = "its value has no closing quote"
		return p
	}
	p.raw = line[pos+1 : pos+1+n]
	p.valueEnd = pos + 1 + n + 1
	if rest := skipBlanks(line, p.valueEnd); rest < len(line) && line[rest] != '#' {
		p.why = "text follows its value (a quote inside a value is written |22)"
	}
	return p
}

func skipBlanks(s string, pos int) int {
	for pos < len(s) && strings.IndexByte(blanks, s[pos]) >= 0 {
		pos++
	}
	return pos
}

// isKeyByte says what a key is made of: a letter or a dot first.
func isKeyByte(b byte, first bool) bool {
	switch {
	case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', b == '.':
		return true
	case '0' <= b && b <= '9', b == '_', b == ':', b == '-':
		return !first
	default:
		return false
	}
}

func isKey(s string) bool {
	for i := range len(s) {
		if !isKeyByte(s[i], i == 0) {
			return false
		}
	}
	return s != ""
}

// fold makes keys comparable. Keys are ASCII, and so is what is compared to
// them: folding by Unicode rules would make a Kelvin sign a k.
func fold(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return foldUpper(s)
		}
	}
	return s
}

func foldUpper(s string) string {
	b := []byte(s)
	for i, ch := range b {
		if 'A' <= ch && ch <= 'Z' {
			b[i] = ch + ('a' - 'A')
		}
	}
	return string(b)
}
