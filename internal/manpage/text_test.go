// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package manpage_test

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/command"
	"github.com/vmstream/vmstream/internal/manpage"
	"github.com/vmstream/vmstream/internal/testenv"
)

func pages(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, pages(sub)...)
	}
	return all
}

func tree() []*cobra.Command {
	return pages(command.New(command.Streams{In: bytes.NewReader(nil), Out: io.Discard, Err: io.Discard}))
}

func TestText(t *testing.T) {
	for _, c := range tree() {
		s := manpage.Text(c)
		for line := range strings.Lines(s) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
				t.Errorf("%s: a line of %d characters: %q", c.Name(), n, line)
			}
			if strings.HasPrefix(line, ".") || strings.Contains(line, `\f`) || strings.Contains(line, `\-`) {
				t.Errorf("%s: roff is left in %q", c.Name(), line)
			}
		}
		if !strings.HasPrefix(s, "NAME\n") || !strings.Contains(s, "\nSEE ALSO\n") || strings.Contains(s, "\n\n\n") {
			t.Errorf("%s: not a page:\n%s", c.Name(), s)
		}
	}
}

// TestTextIsPage compares the text with what groff makes of the page, letter by
// letter but for blanks.
func TestTextIsPage(t *testing.T) {
	groff := testenv.Tool(t, "groff")
	for _, c := range tree() {
		cmd := exec.CommandContext(t.Context(), groff, "-man", "-Tutf8", "-P-cbou", "-rHY=0")
		cmd.Stdin = bytes.NewReader(manpage.Roff(c))
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		want := letters(strings.Join(lines[1:len(lines)-1], "\n")) // without header and footer
		if got := letters(manpage.Text(c)); got != want {
			t.Errorf("%s:\ntext  %s\ngroff %s", c.Name(), got, want)
		}
	}
}

func letters(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return -1
		case r == '−': // groff's minus
			return '-'
		}
		return r
	}, s)
}
