// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package plugins

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmstream/vmstream/sinks"
)

// executables returns a host of executables in a directory, which is taken to be a
// safe place, and the directory. It has the tests' own program under the names of
// schemes.
func executables(t *testing.T, schemes ...string) (*Host, string) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range schemes {
		copyFile(t, filepath.Join(dir, filePrefix+s), self)
	}
	h := NewHost(Options{Dirs: []string{dir}, Log: testLog(t)})
	h.trust.below = filepath.Dir(dir)
	return h, dir
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close() // only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestExecutable stores in a sink of an executable, which sees of the environment what
// it asks for, and of our files what it is given.
func TestExecutable(t *testing.T) {
	h, _ := executables(t, "bad")
	for _, v := range []string{"VMSTREAM_BAD_KEY", "BAD_VARIABLE", "VMSTREAM_WORSE_KEY", "ANOTHER_SECRET"} {
		t.Setenv(v, "the value of "+v)
	}
	file := filepath.Join(t.TempDir(), "inherited")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Open(file, syscall.O_RDONLY, 0) // a program that is started gets it
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	s, key := openSink(t, h, "bad:stats-environment")
	if err := store(t.Context(), s, key); err != nil {
		t.Error(err)
	}
	i, err := s.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"VMSTREAM_BAD_KEY", "BAD_VARIABLE", "PATH"} {
		if !strings.Contains(i.Version, v+"=") {
			t.Errorf("it does not see %s: %q", v, i.Version)
		}
	}
	for _, v := range []string{"VMSTREAM_WORSE_KEY", "ANOTHER_SECRET", "PLUGIN_", "VMSTREAM_SINK_"} {
		if strings.Contains(i.Version, v) {
			t.Errorf("it sees %s", v)
		}
	}
	s, key = openSink(t, h, "bad:stats-descriptors")
	if i, err = s.Stat(t.Context(), key); err != nil || !strings.Contains(i.Version, "3 pipe:") || strings.Contains(i.Version, "inherited") {
		t.Errorf("%v: it has the files %s", err, i.Version)
	}
	found := h.List(t.Context())
	if len(found) != 1 || found[0].Err != nil || found[0].Summary != "goes wrong" {
		t.Errorf("%+v", found)
	}
}

// TestReplaced replaces an executable behind the look at it: what was looked at is
// what is started.
func TestReplaced(t *testing.T) {
	h, dir := executables(t, "bad")
	path := filepath.Join(dir, filePrefix+"bad")
	start := func(replace func()) error {
		image, err := h.trust.trust(path, "")
		if err != nil {
			t.Fatal(err)
		}
		replace()
		p, err := h.start(t.Context(), launch{name: "bad", path: image.path, image: image})
		if err == nil {
			_, err = p.describe(t.Context(), nil)
			p.end(h.time.end)
		}
		return err
	}
	evil := filepath.Join(dir, "evil")
	if err := os.WriteFile(evil, []byte("#!/bin/sh\ntouch \"${0%/*}/started\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := start(func() {
		if err := os.Rename(evil, path); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Error(err)
	}
	if err := start(func() {}); !errors.Is(err, errNoStart) { // it is the other one now
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "started")); err != nil {
		t.Error("the other one would not have been noticed:", err)
	}
}

// TestWantedSum has checksums, as an option and in a file.
func TestWantedSum(t *testing.T) {
	h, dir := executables(t)
	path := filepath.Join(dir, filePrefix+"x")
	if err := os.WriteFile(path, []byte("hello\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	const right = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
	wrong := strings.Repeat("0", 64)
	for _, c := range []struct {
		name, sum, beside string
		mode              os.FileMode
		ok                bool
	}{
		{name: "none", ok: true},
		{name: "right", sum: right, ok: true},
		{name: "in capitals", sum: strings.ToUpper(right), ok: true},
		{name: "wrong", sum: wrong},
		{name: "right beside", beside: right + "  vmstream-sink-x\n", mode: 0o644, ok: true},
		{name: "wrong beside", beside: wrong + "\n", mode: 0o644},
		{name: "right, and wrong beside", sum: right, beside: wrong, mode: 0o644, ok: true},
		{name: "nonsense beside", beside: "hello", mode: 0o644},
		{name: "beside, writable", beside: right, mode: 0o666},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.beside != "" {
				if err := os.WriteFile(path+".sha256", []byte(c.beside), 0o600); err != nil {
					t.Fatal(err)
				}
				defer os.Remove(path + ".sha256")
				if err := os.Chmod(path+".sha256", c.mode); err != nil {
					t.Fatal(err)
				}
			}
			x, err := h.trust.trust(path, c.sum)
			if (err == nil) != c.ok || err != nil && (!errors.Is(err, ErrUntrustedPlugin) || !errors.Is(err, ErrPlugin)) {
				t.Errorf("got %v", err)
			}
			if err == nil {
				_ = x.file.Close() // only read
			}
		})
	}
}

// TestWalk follows paths with links.
func TestWalk(t *testing.T) {
	h, dir := executables(t)
	var w walker
	w.do(os.Mkdir(filepath.Join(dir, "safe"), 0o755))
	w.do(os.Mkdir(filepath.Join(dir, "open"), 0o755))
	w.do(os.Chmod(filepath.Join(dir, "open"), 0o777))
	w.do(os.Mkdir(filepath.Join(dir, "open", "below"), 0o755))
	w.do(os.WriteFile(filepath.Join(dir, "safe", "x"), nil, 0o755))
	w.do(os.WriteFile(filepath.Join(dir, "open", "below", "x"), nil, 0o755))
	w.do(os.Symlink("safe/../safe", filepath.Join(dir, "link")))
	w.do(os.Symlink(filepath.Join(dir, "open", "below", "x"), filepath.Join(dir, "safe", "away")))
	w.do(os.Symlink("round", filepath.Join(dir, "round")))
	w.do(os.Symlink("../open/../safe/x", filepath.Join(dir, "safe", "through")))
	if w.err != nil {
		t.Fatal(w.err)
	}
	for path, want := range map[string]error{
		"safe/x": nil, "link/x": nil, "safe/../safe/x": nil,
		"open/below/x": ErrUntrustedPlugin, "safe/away": ErrUntrustedPlugin, "safe/through": ErrUntrustedPlugin,
		"round": ErrUntrustedPlugin, "safe/none": fs.ErrNotExist, "safe/x/y": fs.ErrNotExist,
	} {
		got, err := h.trust.walk(dir + "/" + path)
		if !errors.Is(err, want) || err == nil && got != filepath.Join(dir, "safe", "x") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// walker keeps the first error.
type walker struct{ err error }

func (w *walker) do(err error) {
	if w.err == nil {
		w.err = err
	}
}

// TestDirs tells where plugins are looked for.
func TestDirs(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "bin", "vmstream")
	if err := errors.Join(os.Mkdir(filepath.Dir(program), 0o755), os.WriteFile(program, nil, 0o755), os.Symlink(program, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	want := []string{"/a", "/b", filepath.Join(dir, "bin"), filepath.Join(dir, "libexec", "vmstream")}
	if got := Dirs("/a:relative::/b/", filepath.Join(dir, "link")); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestChecksums takes lists of checksums apart.
func TestChecksums(t *testing.T) {
	sum := strings.Repeat("aB", 32)
	got, err := ParseChecksums("one=" + sum + ", two=" + sum)
	if err != nil || len(got) != 2 || got["two"] != strings.ToLower(sum) {
		t.Errorf("%v, %v", got, err)
	}
	for _, wrong := range []string{"one", "one=", "one=12", "One=" + sum, "one=" + sum + ",one=" + sum, "one=" + sum + "00"} {
		if _, err := ParseChecksums(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}

// TestOverride has executables of the names of built-in sinks: they are taken only
// where that is asked for.
func TestOverride(t *testing.T) {
	h, dir := executables(t, "bad")
	h.o.Builtin = []sinks.Driver{named("bad")}
	h.o.InProcess = true
	_, _, err := h.Open(t.Context(), sinks.Target{Scheme: "bad", Rest: "is-good"})
	if !errors.Is(err, sinks.ErrUnsupported) { // the driver's own
		t.Errorf("got %v", err)
	}
	if f, err := h.Describe(t.Context(), "bad"); err != nil || f.Path != "" || len(h.List(t.Context())) != 1 {
		t.Errorf("%+v, %v", f, err)
	}
	h.o.Override = []string{"bad", "other"}
	openSink(t, h, "bad:is-good")
	path := filepath.Join(dir, filePrefix+"bad")
	if f, err := h.Describe(t.Context(), "bad"); err != nil || f.Path != path {
		t.Errorf("%+v, %v", f, err)
	}
	if all := h.List(t.Context()); len(all) != 1 || all[0].Path != path || all[0].Err != nil {
		t.Errorf("%+v", all)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if f, err := h.Describe(t.Context(), "bad"); err != nil || f.Path != "" {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := h.Describe(t.Context(), "other"); !errors.Is(err, ErrNoSink) {
		t.Errorf("got %v", err)
	}
}

// TestFloodOfLogs has a plugin that says too much.
func TestFloodOfLogs(t *testing.T) {
	h := testHost(t)
	var said bytes.Buffer
	h.log = slog.New(slog.NewTextHandler(&said, nil))
	s, key := openSink(t, h, "bad:floods-logs")
	if err := store(t.Context(), s, key); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := said.Len(); n == 0 || n > 1<<20 {
		t.Errorf("%d bytes of logs", n)
	}
	if !strings.Contains(said.String(), "the plugin says too much") {
		t.Errorf("nothing tells that lines were dropped")
	}
}

// TestManyFiles starts executables in a process that has many files open, with gaps
// that those have left which were closed meanwhile.
func TestManyFiles(t *testing.T) {
	h, dir := executables(t, "bad")
	path := filepath.Join(dir, filePrefix+"bad")
	for count := 40; count < 80; count++ {
		var open []*os.File
		for range count {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, f)
		}
		image, err := h.trust.trust(path, "")
		if err != nil {
			t.Fatal(err)
		}
		c, _, _, err := newChild(exec.Command(path), image)
		if err != nil {
			t.Fatal(err)
		}
		closeAll(open)
		if err := c.Start(t.Context()); err != nil {
			t.Fatalf("with %d files: %v", count, err)
		}
		_ = c.Wait(t.Context()) // nobody has told it that it is a plugin
	}
}

// TestLongTemp has a directory of temporary files with a name that no socket can have.
func TestLongTemp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	s, key := openSink(t, testHost(t), "bad:is-good")
	if err := store(t.Context(), s, key); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
