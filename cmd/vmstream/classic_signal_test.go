// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// esx2Machine makes a VM of ESX 2.x whose disk takes a while to export.
func esx2Machine(t *testing.T, diskBytes int64) (config string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "web01")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := makeDisk(filepath.Join(dir, "web01.vmdk"), diskBytes); err != nil {
		t.Fatal(err)
	}
	config = filepath.Join(dir, "web01.cfg")
	text := "displayName = \"web01\"\nscsi0.virtualDev = \"vmxbuslogic\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.name = \"vmhba0:0:0:1:web01.vmdk\"\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

// waitFor waits until something is there.
func waitFor(t *testing.T, there func() bool) {
	t.Helper()
	for !there() {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestStoppedVmsnap sends signals to vmsnap while it exports: no redo log and no
// part of a backup is left, and what an earlier run made stays. It is killed
// too: then "snapshot reap" ends it.
func TestStoppedVmsnap(t *testing.T) {
	testenv.Long(t)
	for _, s := range []struct {
		sig  syscall.Signal
		code int
	}{{syscall.SIGTERM, 143}, {syscall.SIGINT, 130}, {syscall.SIGHUP, 129}, {syscall.SIGKILL, -1}} {
		t.Run(s.sig.String(), func(t *testing.T) {
			notIgnored(t, s.sig)
			config := esx2Machine(t, 128<<20)
			backup, state := t.TempDir(), t.TempDir()
			before := names(t, filepath.Dir(config))
			run := func() *exec.Cmd {
				return vmstream(t, "vmsnap", "-q", "--state-dir", state, "-c", config, "-d", backup)
			}
			if err := run().Run(); err != nil {
				t.Fatal(err)
			}
			c := run()
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { // it exports
				stages, err := filepath.Glob(filepath.Join(backup, ".vmstream-restore-*", "web01-s001.vmdk"))
				return err == nil && len(stages) > 0
			})
			if !exists(filepath.Join(filepath.Dir(config), "web01.vmdk.REDO")) {
				t.Error("it exports without a redo log")
			}
			if err := c.Process.Signal(s.sig); err != nil {
				t.Fatal(err)
			}
			if code := exitCode(t, c.Wait()); code != s.code {
				t.Errorf("exit code %d, want %d: %s", code, s.code, c.Stderr)
			}
			left := names(t, backup)
			if s.sig == syscall.SIGKILL {
				left = slices.DeleteFunc(left, func(n string) bool { return strings.HasPrefix(n, ".vmstream-restore-") })
				if r := vmstream(t, "snapshot", "reap", "--state-dir", state); r.Run() != nil {
					t.Fatalf("reap: %s", r.Stderr)
				}
			}
			if !slices.Equal(left, []string{"web01"}) {
				t.Errorf("left: %q", left)
			}
			if after := names(t, filepath.Dir(config)); !slices.Equal(before, after) {
				t.Errorf("the VM had %q and has %q", before, after)
			}
			sum := exec.CommandContext(t.Context(), testenv.Tool(t, "sha256sum"), "--quiet", "-c", "SHA256SUMS")
			sum.Dir = filepath.Join(backup, "web01")
			if out, err := sum.CombinedOutput(); err != nil {
				t.Errorf("the earlier backup: %v: %s", err, out)
			}
		})
	}
}

// TestStoppedSending stops vmsnap while an ssh that hangs has the backup: that of
// this host is complete, and the redo log is gone by then.
func TestStoppedSending(t *testing.T) {
	testenv.Long(t)
	config := esx2Machine(t, 4<<20)
	backup, bin := t.TempDir(), t.TempDir()
	begun := filepath.Join(bin, "begun")
	script := "#!/bin/sh\ncat > /dev/null\n: > '" + begun + "'\nwhile :; do sleep 0.1; done\n"
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c := vmstream(t, "vmsnap", "-q", "--state-dir", t.TempDir(), "-c", config, "-d", backup, "-a", "user@host")
	c.Env = append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return exists(begun) })
	if exists(filepath.Join(filepath.Dir(config), "web01.vmdk.REDO")) {
		t.Error("the redo log is there while the backup is sent")
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, c.Wait()); code != 143 {
		t.Errorf("exit code %d: %s", code, c.Stderr.(*bytes.Buffer))
	}
	if got := names(t, backup); !slices.Equal(got, []string{"web01"}) {
		t.Errorf("left: %q", got)
	}
}
