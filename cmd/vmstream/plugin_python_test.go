// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/plugins"
	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

// sqlitePlugin installs the example of docs/plugins.md, as it says there, and
// returns the directory.
func sqlitePlugin(t *testing.T) string {
	t.Helper()
	protoc := testenv.Tool(t, "protoc")
	const python = "/usr/bin/python3" // the one that has Debian's packages
	if err := exec.CommandContext(t.Context(), python, "-c", "import grpc, google.protobuf, cryptography").Run(); err != nil {
		testenv.Missing(t, "needs python3-grpcio, python3-protobuf and python3-cryptography")
	}
	dir, root := testenv.PrivateDir(t), testenv.Root(t)
	script := filepath.Join(dir, "vmstream-sink-sqlite")
	b, err := os.ReadFile(filepath.Join(root, "plugins", "examples", "sqlite", "vmstream-sink-sqlite"))
	if err == nil {
		err = os.WriteFile(script, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), protoc, "-I", filepath.Join(root, "plugins", "proto"), "--python_out="+dir, "sink.proto").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// TestForeignPlugin has a plugin in another language: it passes the checks that all
// sinks pass, and backups go there and come back.
func TestForeignPlugin(t *testing.T) {
	testenv.Long(t)
	plugin, dir := sqlitePlugin(t), t.TempDir()
	t.Setenv("VMSTREAM_PLUGIN_DIR", plugin)
	at := func(key string) string { return "sqlite:" + filepath.ToSlash(dir) + "/vms.db:" + key }
	open := func(t testing.TB) (sinks.Sink, string) {
		target, _ := sinks.ParseTarget(at("check/"))
		s, key, err := plugins.NewHost(plugins.Options{Dirs: []string{plugin}}).Open(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s, key
	}
	t.Run("conformance", func(t *testing.T) { sinktest.Run(t, sinktest.Options{Open: open}) })
	t.Run("removed", func(t *testing.T) { testRemoved(t, open) })
	disk := testDisk(t)
	for _, args := range [][]string{
		{"sink", "verify", at("check/")},
		{"backup", "-q", "--track", "--id", "full", "--to", at("full.tar"), disk},
		{"backup", "-q", "--since", at("full.tar"), "--to", at("inc.tar"), disk},
		{"restore", "-q", "--from", at("full.tar"), "--from", at("inc.tar"), "--to", filepath.Join(dir, "r.raw")},
		{"inspect", "--quick", "--from", at("inc.tar")},
		{"sink", "rm", at("inc.tar")},
	} {
		c := vmstream(t, args...)
		if code := exitCode(t, c.Run()); code != 0 || c.Stderr.(*bytes.Buffer).Len() > 0 {
			t.Fatalf("%v: exit code %d\n%s", args, code, c.Stderr)
		}
	}
	sameContent(t, disk, filepath.Join(dir, "r.raw"))
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"backup", "-q", "--to", at("full.tar"), disk}, 6, "an object is there"},
		{[]string{"sink", "rm", at("none.tar")}, 6, "no such object"},
		{[]string{"sink", "ls", "sqlite:relative:"}, 2, "write sqlite:/PATH/OF/DATABASE:KEY"},
	} {
		cmd := vmstream(t, c.args...)
		if code := exitCode(t, cmd.Run()); code != c.code {
			t.Errorf("%v: exit code %d", c.args, code)
		}
		wantMessage(t, cmd.Stderr, c.says)
	}
	t.Run("killed", func(t *testing.T) {
		c := vmstream(t, "backup", "-q", "--limit-rate", "200K/s", "--to", at("killed.tar"), disk)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		orphans := func(flags ...string) string {
			o := vmstream(t, append([]string{"sink", "orphans", "--older-than", "0s", at("")}, flags...)...)
			out, err := o.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, o.Stderr)
			}
			return string(out)
		}
		eventually(t, "the backup begins", func() bool { return strings.Contains(orphans(), "killed.tar") })
		plugin := childNamed(c.Process.Pid, "vmstream-sink-sqlite")
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait() // it was killed
		eventually(t, "the plugin ends", func() bool { return hasGone(plugin) })
		orphans("--remove") // if the plugin did not hear of it in time
		if got := orphans(); got != "" {
			t.Errorf("orphans: %q", got)
		}
		ls := vmstream(t, "sink", "ls", at(""))
		if out, err := ls.Output(); err != nil || strings.Contains(string(out), "killed.tar") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("by hand", func(t *testing.T) {
		c := exec.CommandContext(t.Context(), filepath.Join(plugin, "vmstream-sink-sqlite"))
		if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), "starts it by itself") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// testRemoved takes an object that is being written for an orphan, and removes it.
func testRemoved(t *testing.T, open func(testing.TB) (sinks.Sink, string)) {
	s, key := open(t)
	key += "removed"
	w, err := s.Create(t.Context(), key, sinks.CreateOptions{})
	if err == nil {
		_, err = w.Write([]byte("content"))
	}
	if err != nil {
		t.Fatal(err)
	}
	removed := 0
	for o, err := range s.Orphans(t.Context(), key) {
		if err == nil {
			err = s.RemoveOrphan(t.Context(), o)
		}
		if err != nil {
			t.Fatal(err)
		}
		removed++
	}
	if removed != 1 {
		t.Errorf("%d orphans", removed)
	}
	if _, err := w.Commit(t.Context(), sinks.End{SizeBytes: 7}); err == nil {
		t.Error("committed what was removed")
	}
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, sinks.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
