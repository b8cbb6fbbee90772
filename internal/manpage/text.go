// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package manpage

import (
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// width of the text, and how far it is indented.
const (
	textWidth   = 80
	textIndent  = 7
	entryIndent = textIndent + 7
)

// Text returns the manual page of a command as plain text, for where there is no
// man or the pages are not installed. It is made from what [Roff] returns, so
// that both say the same.
func Text(c *cobra.Command) string {
	t := &text{}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(Roff(c)), "\n"), "\n") {
		t.line(line)
	}
	t.flush()
	return strings.TrimLeft(t.out.String(), "\n")
}

// text renders the requests that roff writes, and no others.
type text struct {
	out     strings.Builder
	words   []string // of the paragraph that is being filled
	indent  int
	literal bool // lines stay as they are
	tag     bool // the next line is the tag of an entry
}

func (t *text) line(l string) {
	request, arg, _ := strings.Cut(l, " ")
	switch request {
	case ".TH":
	case ".SH":
		t.flush()
		t.indent = textIndent
		t.out.WriteString("\n" + strings.Trim(arg, `"`) + "\n")
	case ".PP":
		t.flush()
		t.indent = textIndent
		t.blank()
	case ".TP":
		t.flush()
		t.blank()
		t.indent, t.tag = textIndent, true
	case ".RS":
		t.indent += 4
	case ".RE":
		t.indent -= 4
	case ".nf", ".fi":
		t.flush()
		t.literal = request == ".nf"
	default:
		t.content(plainText(l))
	}
}

func (t *text) content(s string) {
	switch {
	case t.literal:
		t.write(s)
	case t.tag:
		t.write(s)
		t.tag, t.indent = false, entryIndent
	default:
		t.words = append(t.words, strings.Fields(s)...)
	}
}

// flush writes the paragraph so far, filled.
func (t *text) flush() {
	line, length := "", 0
	for _, w := range t.words {
		n := utf8.RuneCountInString(w)
		if length > 0 && t.indent+length+1+n > textWidth {
			t.write(line)
			line, length = "", 0
		}
		if length > 0 {
			line, length = line+" ", length+1
		}
		line, length = line+w, length+n
	}
	if length > 0 {
		t.write(line)
	}
	t.words = nil
}

func (t *text) write(s string) {
	if s != "" {
		s = strings.Repeat(" ", t.indent) + s
	}
	t.out.WriteString(s + "\n")
}

// blank writes an empty line, unless a heading stands directly above.
func (t *text) blank() {
	s := t.out.String()
	last := s[strings.LastIndexByte(strings.TrimSuffix(s, "\n"), '\n')+1:]
	if strings.HasPrefix(last, " ") {
		t.out.WriteString("\n")
	}
}

// plainText undoes escape, and drops changes of the font.
var plainText = strings.NewReplacer(
	`\fB`, "", `\fI`, "", `\fR`, "", `\&`, "", `\-`, "-", `\(aq`, "'", "\\`", "`", `\(ha`, "^", `\(ti`, "~", `\e`, `\`,
).Replace
