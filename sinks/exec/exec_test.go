// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package exec_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/exec"
)

func open(t *testing.T, target string) (sinks.Sink, string) {
	t.Helper()
	tg, ok := sinks.ParseTarget("exec:" + target)
	if !ok {
		t.Fatalf("%q is no target", target)
	}
	s, key, err := exec.Driver().Open(t.Context(), tg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, key
}

func TestStoreAndRestore(t *testing.T) {
	dir := t.TempDir()
	s, key := open(t, "cat > "+dir+"/$VMSTREAM_KEY.$VMSTREAM_ID?restore="+url.QueryEscape("cat "+dir+"/$VMSTREAM_KEY.b1")+"&key=web01.tar")
	data := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	w, err := s.Create(t.Context(), key, sinks.CreateOptions{ID: "b1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	info, err := w.Commit(t.Context(), sinks.End{SizeBytes: int64(len(data))})
	if err != nil || info.SizeBytes != int64(len(data)) || info.Key != "web01.tar" {
		t.Fatalf("Commit: %+v, %v", info, err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Fatalf("Abort after Commit: %v", err)
	}
	r, _, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFailures has the ways in which a command fails to store.
func TestFailures(t *testing.T) {
	for _, c := range []struct{ name, command, want string }{
		{"a status", "cat >/dev/null; echo no room >&2; exit 3", "exit status 3: no room"},
		{"a signal", "cat >/dev/null; kill -KILL $$", "signal: killed"},
		{"not found", "/nonexistent/program", "exit status 127"},
		{"an early end", "head -c 1 >/dev/null", "before it had read everything"},
		{"an end without reading", "exit 0", "before it had read everything"},
		{"stdin closed", "exec <&-; cat /dev/null; sleep 600", "reads no more"},
		{"an end that takes too long", "cat >/dev/null; sleep 600?timeout=100ms", "in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, key := open(t, c.command)
			w, err := s.Create(t.Context(), key, sinks.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			block, n := make([]byte, 256<<10), int64(0) // more than a pipe holds
			for i := 0; i < 4 && err == nil; i++ {
				var k int
				k, err = w.Write(block)
				n += int64(k)
			}
			if err == nil {
				_, err = w.Commit(t.Context(), sinks.End{SizeBytes: n})
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err := w.Abort(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLittleUnread has a command that ends well and leaves in the pipe what would
// fit into it.
func TestLittleUnread(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("needs /proc")
	}
	for _, before := range []bool{false, true} { // Commit
		dir := t.TempDir()
		s, key := open(t, "while ! test -e "+dir+"/end; do sleep 0.1; done; head -c 1")
		w, err := s.Create(t.Context(), key, sinks.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 20000)); err != nil {
			t.Fatal(err)
		}
		end := time.AfterFunc(300*time.Millisecond, func() { _ = os.WriteFile(dir+"/end", nil, 0o600) })
		if before {
			end.Reset(0)
			time.Sleep(time.Second)
		}
		if _, err := w.Commit(t.Context(), sinks.End{SizeBytes: 20000}); err == nil || !strings.Contains(err.Error(), "were left") {
			t.Errorf("ended before: %v, Commit: %v", before, err)
		}
	}
}

func TestShort(t *testing.T) {
	dir := t.TempDir()
	s, key := open(t, "cat >"+dir+"/all && touch "+dir+"/eof")
	w, err := s.Create(t.Context(), key, sinks.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context(), sinks.End{SizeBytes: 4}); !errors.Is(err, sinks.ErrShort) {
		t.Errorf("Commit: %v", err)
	}
	if _, err := os.Stat(dir + "/eof"); err == nil {
		t.Error("the command has seen the end of its input")
	}
}

// TestAbort has a command that takes the end of its input for success, and does not
// end when it is asked to: it has to be killed with its input open.
func TestAbort(t *testing.T) {
	for name, trap := range map[string]string{"willing": "", "deaf": "trap '' TERM; "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, key := open(t, fmt.Sprintf("%scd %s; sleep 600 & echo $! >pid.new; mv pid.new pid; cat >all; touch eof", trap, dir))
			w, err := s.Create(t.Context(), key, sinks.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			pid := waitPid(t, filepath.Join(dir, "pid"))
			if err := w.Abort(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "eof")); err == nil {
				t.Error("the command has seen the end of its input")
			}
			waitGone(t, pid)
		})
	}
}

func waitPid(t *testing.T, path string) int {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(path); err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("the command did not start")
	return 0
}

// waitGone waits until a process is dead. A zombie that nobody reaps counts as dead.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(b), ") Z ") {
			return
		}
	}
	t.Errorf("process %d lives on", pid)
}

func TestHungCommandAndContext(t *testing.T) {
	s, key := open(t, "sleep 600")
	cause := errors.New("the operator has had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	w, err := s.Create(ctx, key, sinks.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
	for err == nil {
		_, err = w.Write(make([]byte, 64<<10))
	}
	if !errors.Is(err, cause) {
		t.Errorf("Write: %v", err)
	}
	if err := w.Abort(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestRestoreFails(t *testing.T) {
	s, key := open(t, "cat?restore="+url.QueryEscape("echo half; exit 4"))
	r, _, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	got, err := io.ReadAll(r)
	if err == nil || string(got) != "half\n" || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("read %q, %v", got, err)
	}
}
