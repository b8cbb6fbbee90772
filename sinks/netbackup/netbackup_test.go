// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package netbackup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// standIn keeps what the documentation says of bpbackup: arguments, status, and that
// it reads the named pipe. What it does comes from the file mode beside it.
const standIn = `#!/bin/sh
d=${0%/*}; w=; k=
while test $# -gt 1; do case $1 in
-p|-s|-S|-L) shift 2;;
-w) w=1; shift 2;;
-k) k=$2; shift 2;;
*) echo "usage: bpbackup -p policy -s schedule file" >&2; exit 20;;
esac; done
test -p "$1" && test -n "$w" || exit 71
case $(cat "$d/mode") in
ok) cat "$1" >"$d/image.$k";;
partial) cat "$1" >/dev/null; exit 1;;
window) echo "EXIT STATUS 196" >&2; exit 196;;
broken) head -c 10 "$1" >/dev/null; exit 13;;
ignores) exit 0;;
early) head -c 10 "$1" >/dev/null; exit 0;;
hangs) exec sleep 600;;
esac
`

func create(t *testing.T, ctx context.Context, mode string) (sinks.Writer, string) { //nolint:revive // the test comes first
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"bpbackup": standIn, "mode": mode} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	tg, _ := sinks.ParseTarget("netbackup:VM/User/web01.tar?master=nb&bin=" + dir + "&dir=" + dir + "/pipes")
	s, key, err := Driver().Open(ctx, tg, nil)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(ctx, key, sinks.CreateOptions{ID: "b1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Abort(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(dir + "/pipes/web01.tar"); err == nil {
			t.Error("the pipe is left behind")
		}
	})
	return w, dir
}

func TestStandIn(t *testing.T) {
	for mode, want := range map[string]string{
		"ok": "", "partial": "partly done", "window": "window is closed", "broken": "reading the pipe failed",
		"ignores": "BACKUP_FIFO_FILES", "early": "before it had",
	} {
		t.Run(mode, func(t *testing.T) {
			w, dir := create(t, t.Context(), mode)
			n, err := w.Write(make([]byte, 1<<20))
			if err == nil {
				_, err = w.Commit(t.Context(), sinks.End{SizeBytes: int64(n)})
			}
			if want != "" {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(dir + "/image.b1"); err != nil || st.Size() != 1<<20 {
				t.Errorf("image: %v", err)
			}
		})
	}
}

func TestNeverOpened(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	w, _ := create(t, ctx, "hangs")
	time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
	if _, err := w.Write([]byte("abc")); !errors.Is(err, cause) {
		t.Errorf("Write: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"P/S/k", "P/S?master=m", "P/S/k?dir=/a&keyword=a+b", "-P/S", "P/S/../x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		s, err := parse(sinks.Target{Scheme: "netbackup", Rest: rest})
		if err != nil {
			if !errors.Is(err, sinks.ErrTarget) {
				t.Errorf("%v is no ErrTarget", err)
			}
			return
		}
		for _, v := range []string{s.policy, s.schedule, s.key, s.master, s.keyword} {
			if strings.HasPrefix(v, "-") || strings.ContainsAny(v, "\n\x00/") {
				t.Errorf("%q: %+v", rest, s)
			}
		}
	})
}
