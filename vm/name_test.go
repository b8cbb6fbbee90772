// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/vmstream/vmstream/vm"
)

func TestSafeName(t *testing.T) {
	for in, want := range map[string]string{
		"web01":                         "web01",
		"Windows Server (2003) ü €":     "Windows Server (2003) ü €",
		"":                              "vm",
		".":                             "vm",
		"..":                            "vm",
		" .-. -":                        "vm",
		"../../etc/passwd":              "_.._etc_passwd",
		"/":                             "_",
		`a\b`:                           "a_b",
		"-rf":                           "rf",
		".hidden":                       "hidden",
		"a. ":                           "a",
		"a\x00b\nc\x1b[2J\x7f":          "a_b_c_[2J_",
		"a\xffb":                        "a_b",
		"a\u202eb\u2028c\u200bd":        "a_b_c_d",
		strings.Repeat("x", 300):        strings.Repeat("x", 200),
		strings.Repeat("€", 100):        strings.Repeat("€", 66),
		strings.Repeat("x", 199) + ".y": strings.Repeat("x", 199),
		"\U0001f600":                    "\U0001f600",
	} {
		if got := vm.SafeName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func checkSafeName(tb interface{ Errorf(string, ...any) }, name string) {
	if name == "" || name == "." || name == ".." || len(name) > vm.MaxNameBytes || !utf8.ValidString(name) ||
		strings.ContainsAny(name, "/\\\x00") || strings.IndexFunc(name, unicode.IsControl) >= 0 ||
		name[0] == '.' || name[0] == '-' || !filepath.IsLocal(name) || filepath.Base(name) != name {
		tb.Errorf("%q is not safe", name)
	}
}

func TestSafeNameProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.String(), rapid.StringMatching(`[./\\ \-a]{0,8}`), rapid.Custom(func(t *rapid.T) string {
			return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		})).Draw(t, "in")
		name := vm.SafeName(in)
		checkSafeName(t, name)
		if again := vm.SafeName(name); again != name {
			t.Errorf("%q becomes %q", name, again)
		}
	})
}
