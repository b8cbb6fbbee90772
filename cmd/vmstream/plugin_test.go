// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/sinks"
)

// TestPlugin stores in a sink of a plugin and reads from there, with every command
// that takes targets.
func TestPlugin(t *testing.T) {
	dir, plugin := t.TempDir(), pluginDir(t)
	t.Setenv("VMSTREAM_PLUGIN_DIR", plugin)
	disk := filepath.Join(dir, "d.raw")
	if err := makeDisk(disk, 4<<20); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return "odd:good:" + filepath.ToSlash(dir) + "/" + name }
	for _, args := range [][]string{
		{"backup", "-q", "--track", "--id", "full", "--to", at("full.tar"), disk},
		{"backup", "-q", "--since", at("full.tar"), "--id", "inc", "--to", at("inc.tar"), "--to-optional", "file:" + dir + "/copy.tar", disk},
		{"merge", "-q", "--to", at("merged.tar"), at("full.tar"), at("inc.tar")},
		{"verify", "-q", "--from", at("full.tar"), "--from", at("inc.tar")},
		{"inspect", "--quick", "--from", at("inc.tar")},
		{"restore", "-q", "--from", at("merged.tar"), "--to", filepath.Join(dir, "r.raw")},
		{"sink", "describe", "odd"},
		{"sink", "rm", at("inc.tar")},
		{"sink", "orphans", at("")},
		{"sink", "verify", at("")},
	} {
		c := vmstream(t, args...)
		if code := exitCode(t, c.Run()); code != 0 {
			t.Fatalf("%v: exit code %d\n%s", args, code, c.Stderr)
		}
	}
	sameContent(t, disk, filepath.Join(dir, "r.raw"))
	ls := vmstream(t, "sink", "ls", at(""))
	out, err := ls.Output()
	if err != nil || !strings.Contains(string(out), "full.tar\n") || strings.Contains(string(out), "inc.tar\n") {
		t.Errorf("sink ls: %v\n%s%s", err, out, ls.Stderr)
	}
	out, err = vmstream(t, "sink", "list").Output()
	if want := filepath.Join(plugin, oddName); err != nil || !strings.Contains(string(out), "files, and mistakes ("+want+")") {
		t.Errorf("sink list: %v\n%s", err, out)
	}
}

func sameContent(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", a, b)
	}
}

// TestPluginGoesWrong stores in sinks whose processes go wrong, and reads from them:
// exit code 6, and nothing under the name.
func TestPluginGoesWrong(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("VMSTREAM_PLUGIN_DIR", pluginDir(t))
	disk := filepath.Join(dir, "d.raw")
	if err := makeDisk(disk, 8<<20); err != nil {
		t.Fatal(err)
	}
	for how, says := range map[string]string{
		"dies-in-open": "its process has gone: it has ended: exit status 7", "dies-in-create": "exit status 7",
		"dies-in-write": "exit status 7", "dies-in-commit": "exit status 7",
		"fails-in-write": "io: read/write on closed pipe", "lies": `it tells of "another"`,
	} {
		t.Run(how, func(t *testing.T) {
			out := t.TempDir()
			c := vmstream(t, "backup", "-q", "--to", "odd:"+how+":"+out+"/a.tar", "--to", "file:"+out+"/b.tar", disk)
			if code := exitCode(t, c.Run()); code != 6 {
				t.Errorf("exit code %d", code)
			}
			wantMessage(t, c.Stderr, says)
			for _, name := range names(t, out) {
				if !strings.HasSuffix(name, ".part") || !strings.HasPrefix(name, ".a.tar") { // of a process that died
					t.Errorf("%s is left", name)
				}
			}
		})
	}
	t.Run("dies-in-read", func(t *testing.T) {
		if err := vmstream(t, "backup", "-q", "--track", "--to", filepath.Join(dir, "a.tar"), disk).Run(); err != nil {
			t.Fatal(err)
		}
		from := "odd:dies-in-read:" + dir + "/a.tar"
		for _, args := range [][]string{
			{"verify", "--from", from},
			{"restore", "--from", from, "-C", filepath.Join(dir, "r")},
			{"merge", "--to", filepath.Join(dir, "m.tar"), from, filepath.Join(dir, "a.tar")},
			{"inspect", "--quick", "--from", from},
			{"backup", "--since", from, "--to", filepath.Join(dir, "i.tar"), disk},
		} {
			c := vmstream(t, args...)
			if code := exitCode(t, c.Run()); code != 6 {
				t.Errorf("%s: exit code %d", args[0], code)
			}
			wantMessage(t, c.Stderr, "exit status 7")
		}
		if got := names(t, dir); len(got) > 3 {
			t.Errorf("%q is left", got)
		}
	})
}

func wantMessage(t *testing.T, stderr any, says string) {
	t.Helper()
	if got := stderr.(*bytes.Buffer).String(); !strings.Contains(got, says) || len(got) > 4096 {
		t.Errorf("stderr %.5000q, want %q", got, says)
	}
}

// TestPluginLog has a plugin that says something, and sees only what it asks for.
func TestPluginLog(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("VMSTREAM_PLUGIN_DIR", pluginDir(t))
	t.Setenv("VMSTREAM_ODD_SECRET", "x")
	t.Setenv("VMSTREAM_OTHER", "x")
	for flag, want := range map[string]string{
		"-q": "vmstream: sink odd: is odd\n",
		"-v": "vmstream: sink odd: a line without a level\nvmstream: sink odd: looks other=false secret=true\nvmstream: sink odd: opens\nvmstream: sink odd: is odd\n",
	} {
		c := vmstream(t, flag, "sink", "ls", "odd:says:"+dir+"/")
		if err := c.Run(); err != nil {
			t.Errorf("%v: %s", err, c.Stderr)
		}
		if got := c.Stderr.(*bytes.Buffer).String(); got != want {
			t.Errorf("%s: stderr %q, want %q", flag, got, want)
		}
	}
	c := vmstream(t, "sink", "ls", "odd:floods:"+dir+"/")
	if err := c.Run(); err != nil {
		t.Errorf("%v: %s", err, c.Stderr)
	}
	if n := bytes.Count(c.Stderr.(*bytes.Buffer).Bytes(), []byte("\n")); n < 100 || n > 2000 {
		t.Errorf("%d lines of a flood", n)
	}
}

// TestPluginRefused has plugins that somebody else may have put there: they are not
// started, the exit code is 6.
func TestPluginRefused(t *testing.T) {
	good := pluginDir(t)
	const sum = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
	for _, c := range []struct {
		name, says string
		change     func(t *testing.T, dir, plugin string)
	}{
		{"writable file", "may be written to by others", func(t *testing.T, _, plugin string) { chmod(t, plugin, 0o757) }},
		{"file of a group", "may be written to by others", func(t *testing.T, _, plugin string) { chmod(t, plugin, 0o775) }},
		{"writable directory", "may be written to by others", func(t *testing.T, dir, _ string) { chmod(t, dir, 0o777) }},
		{"directory with a sticky bit", "may be written to by others", func(t *testing.T, dir, _ string) { chmod(t, dir, 0o777|os.ModeSticky) }},
		{"not executable", "is not executable", func(t *testing.T, _, plugin string) { chmod(t, plugin, 0o644) }},
		{"wrong checksum", "has the SHA-256", func(t *testing.T, _, _ string) { t.Setenv("VMSTREAM_PLUGIN_SHA256", "odd="+sum) }},
		{"wrong checksum beside it", "has the SHA-256", func(t *testing.T, _, plugin string) {
			if err := os.WriteFile(plugin+".sha256", []byte(sum+"  "+oddName+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"no checksum", "does not begin with a SHA-256", func(t *testing.T, _, plugin string) {
			if err := os.WriteFile(plugin+".sha256", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"link into a writable directory", "may be written to by others", func(t *testing.T, _, plugin string) {
			elsewhere := t.TempDir()
			if err := os.Rename(plugin, plugin+".moved"); err != nil {
				t.Fatal(err)
			}
			chmod(t, elsewhere, 0o777)
			if err := os.Symlink(filepath.Join(elsewhere, "x"), plugin); err != nil {
				t.Fatal(err)
			}
		}},
		{"somebody else's", "neither to root nor to you", func(t *testing.T, _, plugin string) { chown(t, plugin) }},
		{"somebody else's directory", "neither to root nor to you", func(t *testing.T, dir, _ string) { chown(t, dir) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(testenv.PrivateDir(t), "plugins")
			plugin := filepath.Join(dir, oddName)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			chmod(t, plugin, 0o755)
			t.Setenv("VMSTREAM_PLUGIN_DIR", dir)
			out := t.TempDir()
			ls := func() int {
				cmd := vmstream(t, "sink", "ls", "odd:good:"+out+"/")
				code := exitCode(t, cmd.Run())
				if code != 0 {
					wantMessage(t, cmd.Stderr, c.says)
					wantMessage(t, cmd.Stderr, "not to be trusted")
				}
				return code
			}
			if code := ls(); code != 0 {
				t.Fatalf("before: exit code %d", code)
			}
			c.change(t, dir, plugin)
			if code := ls(); code != 6 {
				t.Errorf("exit code %d", code)
			}
			list := vmstream(t, "sink", "list", "--json")
			if code := exitCode(t, list.Run()); code != 3 {
				t.Errorf("list: exit code %d", code)
			}
			wantMessage(t, list.Stderr, "not to be trusted")
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// chown gives a file to nobody.
func chown(t *testing.T, path string) {
	t.Helper()
	if err := os.Chown(path, 65534, -1); err != nil {
		t.Skipf("needs the right to give files away: %v", err)
	}
}

// TestPluginVariables has settings that cannot be meant.
func TestPluginVariables(t *testing.T) {
	for _, c := range []struct{ name, value string }{
		{"VMSTREAM_PLUGIN_DIR", "plugins"},
		{"VMSTREAM_PLUGIN_SHA256", "odd"},
		{"VMSTREAM_PLUGIN_SHA256", "odd=12"},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			t.Setenv(c.name, c.value)
			cmd := vmstream(t, "sink", "list")
			if code := exitCode(t, cmd.Run()); code != 2 {
				t.Errorf("exit code %d", code)
			}
			wantMessage(t, cmd.Stderr, c.name)
		})
	}
}

// TestPluginExecutables has the built-in sinks as programs of their own, which are
// taken where that is asked for.
func TestPluginExecutables(t *testing.T) {
	testenv.Long(t)
	plugin, dir := testenv.PrivateDir(t), t.TempDir()
	build := exec.CommandContext(t.Context(), testenv.Tool(t, "go"), "build", "-o", plugin+string(filepath.Separator), "./plugins/vmstream-sink-...")
	build.Dir = testenv.Root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	list := func() map[string]foundSink {
		c := vmstream(t, "sink", "list", "--json")
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, c.Stderr)
		}
		all := map[string]foundSink{}
		for line := range strings.Lines(string(out)) {
			var f foundSink
			if err := json.Unmarshal([]byte(line), &f); err != nil {
				t.Fatal(err)
			}
			all[f.Scheme] = f
		}
		return all
	}
	t.Setenv("VMSTREAM_PLUGIN_DIR", plugin)
	builtin := list()
	for _, f := range builtin {
		if f.Path != "" {
			t.Errorf("%s has taken the place of the built-in sink", f.Path)
		}
	}
	t.Setenv("VMSTREAM_PLUGIN_OVERRIDE", strings.Join(slices.Collect(maps.Keys(builtin)), ","))
	for scheme, f := range list() {
		want := builtin[scheme]
		want.Path = filepath.Join(plugin, "vmstream-sink-"+scheme)
		if !reflect.DeepEqual(f, want) {
			t.Errorf("%+v, want %+v", f, want)
		}
	}
	disk := filepath.Join(dir, "d.raw")
	if err := makeDisk(disk, 1<<20); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"backup", "-q", "--to", "file:" + dir + "/a.tar", "--to", "exec:cat >" + dir + "/b.tar", disk},
		{"verify", "-q", "--from", "file:" + dir + "/a.tar"},
		{"sink", "verify", "file:" + dir + "/"},
	} {
		if c := vmstream(t, args...); c.Run() != nil {
			t.Errorf("%v: %s", args, c.Stderr)
		}
	}
	sameContent(t, filepath.Join(dir, "a.tar"), filepath.Join(dir, "b.tar"))
}

// foundSink is a line of sink list --json.
type foundSink struct {
	sinks.Description
	Path, Error string
}
