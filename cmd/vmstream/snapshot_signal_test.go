// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
)

// snapshotOf returns what a stopped backup with a snapshot has left.
func snapshotOf(t *testing.T, dir string) (levels []string, entries string) {
	t.Helper()
	for _, n := range names(t, dir) {
		if strings.HasSuffix(n, ".REDO") {
			levels = append(levels, n)
		}
	}
	c := vmstream(t, "snapshot", "list", "--state-dir", filepath.Join(dir, "state"))
	var out bytes.Buffer
	c.Stdout = &out
	if code := exitCode(t, c.Run()); code != 0 {
		t.Fatalf("list: %d, %s", code, c.Stderr)
	}
	return levels, out.String()
}

// TestSnapshotStopped ends backups while their snapshot is there: nothing is
// left, but for one that ends at once, which is reaped.
func TestSnapshotStopped(t *testing.T) {
	testenv.Long(t)
	for _, how := range []string{"SIGTERM", "SIGINT twice", "SIGKILL", "reader gone"} {
		t.Run(how, func(t *testing.T) {
			disk := testDisk(t)
			dir := filepath.Dir(disk)
			c, out := slowBackup(t, "--snapshot", "redo", "--source-format", "raw", "--state-dir", filepath.Join(dir, "state"),
				"--post", "echo $VMSTREAM_HOOK_STATUS > '"+dir+"/status'; test -z '"+how[6:]+"' || sleep 2", disk)
			if levels, entries := snapshotOf(t, dir); len(levels) != 1 || !strings.Contains(entries, "pid") {
				t.Fatalf("while it runs: %q, %s", levels, entries)
			}
			want, status, left := 143, "143", false
			switch how {
			case "SIGINT twice":
				want, status = 130, "130"
				_ = c.Process.Signal(syscall.SIGINT)
				for range 100 { // until the hook at the end runs
					if slices.Contains(names(t, dir), "status") {
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
				_ = c.Process.Signal(syscall.SIGINT)
			case "SIGTERM":
				_ = c.Process.Signal(syscall.SIGTERM)
			case "SIGKILL":
				want, status, left = -1, "", true
				_ = c.Process.Kill()
			case "reader gone":
				want, status = 6, "6"
				_ = out.Close()
			}
			if code := exitCode(t, c.Wait()); code != want {
				t.Errorf("exit code %d, want %d: %s", code, want, c.Stderr)
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "status")); strings.TrimSpace(string(b)) != status {
				t.Errorf("--post was told %q, want %q", b, status)
			}
			levels, entries := snapshotOf(t, dir)
			if (len(levels) > 0) != left || (entries != "") != left {
				t.Errorf("left: %q, %s", levels, entries)
			}
			r := vmstream(t, "snapshot", "reap", "--state-dir", filepath.Join(dir, "state"))
			if code := exitCode(t, r.Run()); code != 0 {
				t.Errorf("reap: %d, %s", code, r.Stderr)
			}
			if levels, entries := snapshotOf(t, dir); len(levels) > 0 || entries != "" {
				t.Errorf("left behind the reaper: %q, %s", levels, entries)
			}
		})
	}
}

// TestSnapshotSecondSignal ends a run at once that is removing its snapshot: the
// journal keeps it, and the tool that was at work is not waited for.
func TestSnapshotSecondSignal(t *testing.T) {
	testenv.Long(t)
	dir := filepath.Dir(testDisk(t))
	config := "scsi0:0.present = \"TRUE\"\nscsi0.virtualDev = \"vmxbuslogic\"\nscsi0:0.name = \"disk.raw.vmdk\"\n"
	if err := os.Rename(filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.raw.vmdk")); err != nil {
		t.Fatal(err)
	}
	cfg := filepath.Join(dir, "vm.cfg")
	if err := os.WriteFile(cfg, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	self := testenv.Tool(t, "vmstream")
	marker := filepath.Join(dir, "removing")
	remove := self + ` redo commit --allow-in-use {config}`
	c, _ := slowBackup(t, "--exec-create", self+" redo add {config}", "--exec-remove",
		`sh -c 'test -e "$0" || { touch "$0"; sleep 30; }; exec `+strings.ReplaceAll(remove, "{config}", `"$1"`)+`' '`+marker+`' {config}`,
		"--state-dir", filepath.Join(dir, "state"), cfg)
	_ = c.Process.Signal(syscall.SIGTERM)
	for range 200 {
		if slices.Contains(names(t, dir), "removing") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	began := time.Now()
	_ = c.Process.Signal(syscall.SIGTERM)
	if code := exitCode(t, c.Wait()); code != 143 || time.Since(began) > 10*time.Second {
		t.Errorf("exit code %d after %v: %s", code, time.Since(began), c.Stderr)
	}
	if levels, entries := snapshotOf(t, dir); len(levels) != 1 || !strings.Contains(entries, "gone") {
		t.Errorf("left: %q, %s", levels, entries)
	}
	r := vmstream(t, "snapshot", "reap", "--state-dir", filepath.Join(dir, "state"))
	if code := exitCode(t, r.Run()); code != 0 {
		t.Errorf("reap: %d, %s", code, r.Stderr)
	}
	if levels, entries := snapshotOf(t, dir); len(levels) > 0 || entries != "" {
		t.Errorf("left behind the reaper: %q, %s", levels, entries)
	}
}
