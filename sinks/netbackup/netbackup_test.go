// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package netbackup

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
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
ok) cat "$1" >"$d/image.$k" && cp "$d/image.$k" "$d/$(basename "$1").image";;
partial) cat "$1" >/dev/null; exit 1;;
window) echo "EXIT STATUS 196" >&2; exit 196;;
broken) head -c 10 "$1" >/dev/null; exit 13;;
ignores) exit 0;;
early) head -c 10 "$1" >/dev/null; exit 0;;
tail|gone) head -c 1048570 "$1" >/dev/null; exit 0;;
hangs) exec sleep 600;;
esac
`

// restoreStandIn does the same for bprestore.
const restoreStandIn = `#!/bin/sh
d=${0%/*}; w=; k=; r=
while test $# -gt 1; do case $1 in
-r) r=1; shift;;
-S|-L|-s|-e) shift 2;;
-w) w=1; shift 2;;
-k) k=$2; shift 2;;
*) echo "usage: bprestore -r file" >&2; exit 20;;
esac; done
test -p "$1" && test -n "$w$r" || exit 5
image=$d/image.$k
test -f "$image" || image=$d/$(basename "$1").image
case $(cat "$d/mode") in
ok) test -f "$image" || exit 2800; exec cat "$image" >"$1";;
broken) head -c 1000 "$image" >"$1"; exit 41;;
nothing) exit 0;;
hangs) exec sleep 600;;
esac
`

func create(t *testing.T, ctx context.Context, mode string) (sinks.Writer, string) { //nolint:revive // the test comes first
	t.Helper()
	dir := t.TempDir()
	installStandIns(t, dir, mode)
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

func installStandIns(t testing.TB, dir, mode string) {
	t.Helper()
	for name, text := range map[string]string{"bpbackup": standIn, "bprestore": restoreStandIn, "mode": mode} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestContract(t *testing.T) {
	sinktest.Run(t, sinktest.Options{Open: func(t testing.TB) (sinks.Sink, string) {
		dir := t.TempDir()
		installStandIns(t, dir, "ok")
		tg, _ := sinks.ParseTarget("netbackup:VM/User?bin=" + dir + "&dir=" + dir + "/pipes")
		s, _, err := Driver().Open(t.Context(), tg, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s, ""
	}})
}

func TestRestore(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 100_000)
	for mode, want := range map[string]string{"ok": "", "broken": "network connection timed out", "nothing": "", "hangs": "enough"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			installStandIns(t, dir, mode)
			if err := os.WriteFile(dir+"/image.b1", []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			tg, _ := sinks.ParseTarget("netbackup:VM/User/web01.tar?keyword=b1&bin=" + dir + "&dir=" + dir + "/pipes")
			said := new(strings.Builder)
			s, key, err := Driver().Open(t.Context(), tg, slog.New(slog.NewTextHandler(said, nil)))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			r, _, err := s.Open(ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			if mode == "hangs" {
				time.AfterFunc(100*time.Millisecond, func() { cancel(errors.New("enough")) })
			}
			got, err := io.ReadAll(r)
			switch {
			case mode == "nothing":
				if err != nil || len(got) > 0 || !strings.Contains(said.String(), "BACKUP_FIFO_FILES") {
					t.Errorf("%d bytes, %v; said %s", len(got), err, said.String())
				}
			case want == "" && (err != nil || string(got) != content):
				t.Errorf("%d bytes, %v", len(got), err)
			case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("got %v, want %q", err, want)
			}
			if err := errors.Join(r.Close(), r.Close()); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(dir + "/pipes/web01.tar"); err == nil {
				t.Error("the pipe is left behind")
			}
		})
	}
}

func TestStandIn(t *testing.T) {
	for mode, want := range map[string]string{
		"ok": "", "partial": "partly done", "window": "window is closed", "broken": "reading the pipe failed",
		"ignores": "BACKUP_FIFO_FILES", "early": "before it had", "tail": "6 bytes or more are left",
		"gone": "6 bytes or more are left",
	} {
		t.Run(mode, func(t *testing.T) {
			w, dir := create(t, t.Context(), mode)
			n, err := w.Write(make([]byte, 1<<20))
			if mode == "gone" {
				<-w.(*writer).p.Done() // before it could have seen the end
			}
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
