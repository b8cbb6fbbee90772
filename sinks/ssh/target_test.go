// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package ssh

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/sinks"
)

func TestParse(t *testing.T) {
	for target, want := range map[string][3]string{
		"ssh://h/a/b.tar":           {"-- h", "/a/", "b.tar"},
		"ssh://me@h:2222/~/b/c/":    {"-p 2222 -l me -- h", "./b/c/", ""},
		"ssh://[::1]/b":             {"-- ::1", "/", "b"},
		"ssh://h/a%20b/c?timeout=5": {"-- h", "/a b/", "c"},
	} {
		tg, _ := sinks.ParseTarget(target)
		s, err := parse(tg)
		if err != nil || s.root != want[1] || s.key != want[2] || !strings.HasSuffix(strings.Join(s.argv, " "), want[0]) {
			t.Errorf("%s: %+v, %v", target, s, err)
		}
	}
	for _, target := range []string{
		"ssh://-oProxyCommand=x/a", "ssh://-l@h/a", "ssh://h", "ssh:///a", "ssh://u:p@h/a", "ssh://h/a/..", "ssh://h/a%0Ab/c",
		"ssh://h/a?identity=b", "ssh://h/a?identity=/b%20c", "ssh://h/a?timeout=0", "ssh://h/a?ProxyCommand=x", "ssh://h/.a.vmstream-part-b",
	} {
		tg, _ := sinks.ParseTarget(target)
		if s, err := parse(tg); !errors.Is(err, sinks.ErrTarget) {
			t.Errorf("%s: %+v, %v", target, s, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"//h/a/b", "//me@h:22/~/b?timeout=1", "//[::1]/b", "//-o/b", "//h/b?identity=/k"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		s, err := parse(sinks.Target{Scheme: "ssh", Rest: rest})
		if err != nil {
			return
		}
		i := slices.Index(s.argv, "--")
		if i != len(s.argv)-2 || !hostForm.MatchString(s.argv[i+1]) || !strings.HasSuffix(s.root, "/") || strings.HasPrefix(s.root, "-") {
			t.Errorf("%q: %+v", rest, s)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"ok 1 2 3", "got 1 2 3", "none", "exists", "short 1 2 3", "ok", "ok 1 2 -3", "file 1 2 3 /r/a b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, said string) {
		if i, err := told("k", said); err == nil && (i.SizeBytes < 0 || i.Version == "") {
			t.Errorf("%q: %+v", said, i)
		}
		_, _ = (&sink{settings: settings{root: "/r/"}}).file(said)
	})
}
