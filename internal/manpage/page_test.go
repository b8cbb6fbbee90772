// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package manpage

import "testing"

func TestEscape(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain", "plain"},
		{"--json", `\-\-json`},
		{".vmx or\n.cfg", "\\&.vmx or\n\\&.cfg"},
		{`a\b`, `a\eb`},
		{"'x", `\(aqx`},
	} {
		if got := escape(c.in); got != c.want {
			t.Errorf("escape(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestExitStatus(t *testing.T) {
	var p roff
	p.exitStatus("0 done; 130, 143 and 129 stopped by a signal.")
	want := ".SH \"EXIT STATUS\"\n.TP\n\\fB0\\fR\nDone.\n.TP\n\\fB130, 143 and 129\\fR\nStopped by a signal.\n"
	if p.String() != want {
		t.Errorf("got %q, want %q", p.String(), want)
	}
}
