// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package exec

import (
	"errors"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

func TestParse(t *testing.T) {
	for rest, want := range map[string]settings{
		"cat >x":                          {store: "cat >x", key: "stream"},
		"ls a?b":                          {store: "ls a?b", key: "stream"},
		"cat >x?restore=cat+x":            {store: "cat >x", restore: "cat x", key: "stream"},
		"cat >x?restore=cat%20x&key=v/":   {store: "cat >x", restore: "cat x", key: "v/"},
		"a?restore=b?key=k":               {store: "a?restore=b", key: "k"},
		"a?key=&timeout=90s":              {store: "a", timeout: 90 * time.Second},
		"?restore=cat":                    {restore: "cat", key: "stream"},
		"curl 'http://h/?x=1'?key=stream": {store: "curl 'http://h/?x=1'", key: "stream"},
	} {
		got, err := parse(sinks.Target{Scheme: "exec", Rest: rest})
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", rest, got, err, want)
		}
	}
	for _, rest := range []string{"", " ", "a?restore=%zz", "a?key=a&key=b", "a?key=a&nothing=1", "a?timeout=soon", "a?timeout=-1s", "a\x00b"} {
		if _, err := parse(sinks.Target{Scheme: "exec", Rest: rest}); !errors.Is(err, sinks.ErrTarget) {
			t.Errorf("%q: %v", rest, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"cat >x", "cat?restore=cat+x&key=a", "a?restore=b?key=k", "a?timeout=1h", "?"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		s, err := parse(sinks.Target{Scheme: "exec", Rest: rest})
		if err != nil {
			if !errors.Is(err, sinks.ErrTarget) {
				t.Errorf("%v is no ErrTarget", err)
			}
			return
		}
		// What is said at the end of the documentation: this keeps a command whole.
		again, err := parse(sinks.Target{Scheme: "exec", Rest: s.store + "?restore=x"})
		if err != nil || again.store != s.store {
			t.Errorf("%q became %q, %v", s.store, again.store, err)
		}
	})
}
