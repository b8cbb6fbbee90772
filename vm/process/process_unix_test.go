// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func shell(script string) *Command { return &Command{Argv: []string{"/bin/sh", "-c", script}} }

func TestRun(t *testing.T) {
	var lines []string
	c := shell(`echo one; echo two >&2; printf three; cat; test -z "$GONE"`)
	t.Setenv("GONE", "x")
	c.Unset, c.Env, c.KeepBytes = []string{"GONE"}, []string{"HERE=1"}, 100
	c.Line = func(s string) { lines = append(lines, s) }
	out, err := c.Run(t.Context())
	slices.Sort(lines)
	if err != nil || string(out) != "one\nthree" || !slices.Equal(lines, []string{"one", "three", "two"}) {
		t.Fatalf("%q, %q, %v", out, lines, err)
	}
	if _, err := shell("echo it is broken >&2; exit 3").Run(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "exit status 3: it is broken") {
		t.Errorf("a command that fails: %v", err)
	}
	if _, err := (&Command{Argv: []string{"/nonexistent/x"}}).Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a command that is not there: %v", err)
	}
	if _, err := (&Command{}).Run(t.Context()); err == nil {
		t.Error("no command")
	}
	c = shell("yes")
	c.Argv, c.KeepBytes = []string{"/bin/sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x"}, 1000
	if out, err := c.Run(t.Context()); err == nil || len(out) != 1000 {
		t.Errorf("a command that says too much: %d bytes, %v", len(out), err)
	}
}

// TestRunTimeout kills a command that has children which ignore SIGTERM.
func TestRunTimeout(t *testing.T) {
	alive := filepath.Join(t.TempDir(), "alive")
	c := shell(`trap "" TERM; (trap "" TERM; while :; do date +%s%N > "` + alive + `"; sleep 0.1; done) & wait; sleep 100`)
	c.Timeout = 300 * time.Millisecond
	began := time.Now()
	_, err := c.Run(t.Context())
	if !errors.Is(err, ErrTimeout) || time.Since(began) > 10*time.Second {
		t.Fatalf("%v after %v", err, time.Since(began))
	}
	time.Sleep(grace)
	before, err := os.ReadFile(alive)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(400 * time.Millisecond)
	if after, _ := os.ReadFile(alive); string(after) != string(before) {
		t.Error("a process of the group goes on")
	}
}

func TestRunCancel(t *testing.T) {
	no := errors.New("no")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(no) })
	if _, err := shell("sleep 100").Run(ctx); !errors.Is(err, no) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := shell("true").Run(ctx); !errors.Is(err, no) {
		t.Errorf("cancelled before: %v", err)
	}
}

// TestRunDaemon leaves a process behind that keeps the pipe open.
func TestRunDaemon(t *testing.T) {
	began := time.Now()
	if _, err := shell("sleep 20 & echo done").Run(t.Context()); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// TestRunDescriptors looks for what a command could have inherited.
func TestRunDescriptors(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("needs /proc")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "ours"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := shell("ls -l /proc/self/fd")
	c.KeepBytes = 10000
	out, err := c.Run(t.Context())
	if err != nil || strings.Contains(string(out), "ours") || !strings.Contains(string(out), "/dev/null") {
		t.Errorf("%s, %v", out, err)
	}
}
