// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package networker

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

// The stand-ins keep what the documentation says of arguments and status. What they do
// comes from the file mode beside them.
const (
	saveStandIn = `#!/bin/sh
d=${0%/*}; args=$*
while test $# -gt 1; do case $1 in
-q) shift;;
-s|-c|-b|-g|-l|-y) shift 2;;
*) echo "save: illegal option $1" >&2; exit 1;;
esac; done
echo "$args" >>"$d/args"
case $(cat "$d/mode") in
ok) test -f "$1" && cp "$1" "$d/saved.$(basename "$1")";;
fails) echo "save: RPC error: server is busy" >&2; exit 1;;
hangs) exec sleep 600;;
esac
`
	recoverStandIn = `#!/bin/sh
d=${0%/*}; to=
while test $# -gt 1; do case $1 in
-a|-q) shift;;
-s|-c) shift 2;;
-d) to=$2; shift 2;;
*) echo "recover: illegal option $1" >&2; exit 1;;
esac; done
case $(cat "$d/mode") in
ok) cp "$d/saved.$(basename "$1")" "$to/$(basename "$1")";;
fails) echo "recover: no such file" >&2; exit 1;;
nothing) ;;
link) ln -s /etc/passwd "$to/$(basename "$1")";;
esac
`
)

func openWith(t testing.TB, mode, more string) (sinks.Sink, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"save": saveStandIn, "recover": recoverStandIn, "mode": mode} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	tg, _ := sinks.ParseTarget("networker:web01.tar?bin=" + dir + "&dir=" + dir + "/staging" + more)
	s, key, err := Driver().Open(t.Context(), tg, nil)
	if err != nil || key != "web01.tar" {
		t.Fatal(key, err)
	}
	t.Cleanup(func() {
		names, _ := os.ReadDir(dir + "/staging")
		for _, n := range names {
			t.Errorf("%s is left", n.Name())
		}
	})
	return s, dir
}

func TestContract(t *testing.T) {
	sinktest.Run(t, sinktest.Options{Open: func(t testing.TB) (sinks.Sink, string) {
		s, _ := openWith(t, "ok", "")
		return s, ""
	}})
}

func TestSave(t *testing.T) {
	for mode, want := range map[string]string{"ok": "", "fails": "server is busy", "hangs": "enough"} {
		t.Run(mode, func(t *testing.T) {
			s, dir := openWith(t, mode, "&server=nw&pool=VM+pool&group=g&retention=1+Year")
			w, err := s.Create(t.Context(), "web01.tar", sinks.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Create(t.Context(), "web01.tar", sinks.CreateOptions{}); err == nil {
				t.Error("two runs have the same staging file")
			}
			if _, err := w.Write(make([]byte, 100_000)); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if mode == "hangs" {
				time.AfterFunc(100*time.Millisecond, func() { cancel(errors.New("enough")) })
			}
			_, err = w.Commit(ctx, sinks.End{SizeBytes: 100_000})
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
			if errors.Is(err, sinks.ErrUnknown) != (mode == "hangs") {
				t.Errorf("not known if it was stored: %v", err)
			}
			args, _ := os.ReadFile(dir + "/args")
			if want := "-q -s nw -b VM pool -g g -l full -y 1 Year " + dir + "/staging/web01.tar\n"; string(args) != want {
				t.Errorf("arguments %q, want %q", args, want)
			}
		})
	}
}

func TestRecover(t *testing.T) {
	for mode, want := range map[string]string{"ok": "", "fails": "no such file", "nothing": "is not there", "link": "too many levels"} {
		t.Run(mode, func(t *testing.T) {
			s, dir := openWith(t, mode, "&server=nw&client=c")
			if err := os.WriteFile(dir+"/saved.web01.tar", []byte("content"), 0o600); err != nil {
				t.Fatal(err)
			}
			r, info, err := s.Open(t.Context(), "web01.tar")
			if want != "" {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || string(got) != "content" || info.SizeBytes != 7 {
				t.Errorf("%q, %+v, %v", got, info, err)
			}
			if err := errors.Join(r.Close(), r.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"k", "k?dir=/a&pool=a+b", "-k", "k?server=-x", "../x", "k?retention=1+Year"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		s, err := parse(sinks.Target{Scheme: "networker", Rest: rest})
		if err != nil {
			if !errors.Is(err, sinks.ErrTarget) {
				t.Errorf("%v is no ErrTarget", err)
			}
			return
		}
		for _, v := range []string{s.key, s.server, s.client, s.pool, s.group, s.level, s.retention} {
			if strings.HasPrefix(v, "-") || strings.ContainsAny(v, "\n\x00") {
				t.Errorf("%q: %+v", rest, s)
			}
		}
	})
}
