// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// corpusRow is a line of the table in the corpus' README.
var corpusRow = regexp.MustCompile("^\\| `([^`]+)` \\| [0-9]+ \\| [^|]+ \\| [^|]+ \\| `([0-9a-f]{64})` \\|$")

// corpusDigests returns the digest of the raw content of every image.
func corpusDigests(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(testenv.Corpus(t, "vmdk/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if m := corpusRow.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			digests[m[1]] = m[2]
		}
	}
	if len(digests) < 19 {
		t.Fatalf("%d digests in the README: the table is not understood", len(digests))
	}
	return digests
}

// The bounds of a run with small extents: 64 MiB beside the program itself, of
// which --memory is a part.
const (
	boundedRSSKiB = 64 << 10
	extentSize    = "8M"
	memorySize    = "64M"
)

func vmstream(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), testenv.Tool(t, "vmstream"), args...)
	c.Stderr = new(bytes.Buffer)
	return c
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatal(err)
	return -1
}

// rssKiB returns the peak of a process that has ended.
func rssKiB(t *testing.T, c *exec.Cmd) int64 {
	t.Helper()
	usage, ok := c.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		t.Fatalf("usage is %T", c.ProcessState.SysUsage())
	}
	return usage.Maxrss
}

// TestCorpus streams every image of the corpus through backup and restore: the
// raw content has the digest of the README, and neither needs much memory.
func TestCorpus(t *testing.T) {
	testenv.Long(t)
	idle := vmstream(t, "version")
	if err := idle.Run(); err != nil {
		t.Fatal(err)
	}
	base := rssKiB(t, idle)
	for name, want := range corpusDigests(t) {
		t.Run(name, func(t *testing.T) {
			path := testenv.Corpus(t, "vmdk/"+name)
			backup := vmstream(t, "backup", "-q", "--extent-size", extentSize, "--memory", memorySize, path)
			restore := vmstream(t, "restore", "-q", "--to", "-", "--memory", memorySize)
			got := pipeThrough(t, backup, restore)
			if got != want {
				t.Errorf("content has digest %s, want %s", got, want)
			}
			for _, c := range []*exec.Cmd{backup, restore} {
				if rss := rssKiB(t, c) - base; rss > boundedRSSKiB+slotsKiB {
					t.Errorf("%s: %d KiB more than at rest", c.Args[1], rss)
				}
			}
		})
	}
}

// slotsKiB is what --memory allows for buffers.
const slotsKiB = 64 << 10

// pipeThrough runs a | b and returns the digest of what b writes.
func pipeThrough(t *testing.T, a, b *exec.Cmd) string {
	t.Helper()
	pipe, err := a.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	b.Stdin, b.Stdout = pipe, h
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if err := b.Run(); err != nil {
		t.Errorf("%s: %v\n%s", b.Args[1], err, b.Stderr)
	}
	if err := a.Wait(); err != nil {
		t.Errorf("%s: %v\n%s", a.Args[1], err, a.Stderr)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestMalformed gives backup what is no whole disk: it exits with 5, and what
// it may have written does not verify.
func TestMalformed(t *testing.T) {
	digests := corpusDigests(t)
	root := testenv.Corpus(t, "vmdk")
	refused := 0
	for _, dir := range []string{"malformed", "descriptors", "native", "tools", "synthetic"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := dir + "/" + e.Name()
			if digests[name] != "" || wholeAlone[name] {
				continue
			}
			refused++
			t.Run(name, func(t *testing.T) { refuse(t, filepath.Join(root, name)) })
		}
	}
	if refused < 10 {
		t.Errorf("only %d files were tried", refused)
	}
}

// wholeAlone are extents that are a disk of their own, with or without the
// descriptor that names them.
var wholeAlone = map[string]bool{
	"native/twoGbMaxExtentSparse-s001.vmdk": true,
	"tools/tw_sparse-s001.vmdk":             true,
	"synthetic/root1-cowd.vmdk":             true,
	"synthetic/root128-cowd.vmdk":           true,
}

func refuse(t *testing.T, path string) {
	out := new(bytes.Buffer)
	c := vmstream(t, "backup", path)
	c.Stdout = out
	if code := exitCode(t, c.Run()); code != 5 {
		t.Errorf("exit code %d, want 5\n%s", code, c.Stderr)
	}
	if n := bytes.Count(c.Stderr.(*bytes.Buffer).Bytes(), []byte("\n")); n == 0 || n > 3 {
		t.Errorf("%d lines on stderr:\n%s", n, c.Stderr)
	}
	v := vmstream(t, "verify", "-q")
	v.Stdin = out
	if code := exitCode(t, v.Run()); code != 4 {
		t.Errorf("verify of what it wrote: exit code %d, want 4\n%s", code, v.Stderr)
	}
	if rss := rssKiB(t, c); rss > 2*boundedRSSKiB {
		t.Errorf("%d KiB of memory", rss)
	}
}

// TestLargeSparse has a disk of 1 TiB with little in it: time and memory go
// with what is stored.
func TestLargeSparse(t *testing.T) {
	testenv.Long(t)
	path := filepath.Join(t.TempDir(), "large.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 40
	err = f.Truncate(size)
	for _, at := range []int64{0, 5 << 30, 700<<30 + 512, size - 512} {
		if err == nil {
			_, err = f.WriteAt([]byte("data"), at)
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Skipf("no sparse file of 1 TiB here: %v", err)
	}
	stream := new(bytes.Buffer)
	b := vmstream(t, "backup", "-q", "--extent-size", extentSize, "--memory", memorySize, path)
	b.Stdout = stream
	if err := b.Run(); err != nil {
		t.Fatalf("%v\n%s", err, b.Stderr)
	}
	if stream.Len() > 32<<20 {
		t.Errorf("a stream of %d bytes", stream.Len())
	}
	if rss := rssKiB(t, b); rss > 2*boundedRSSKiB {
		t.Errorf("%d KiB of memory", rss)
	}
	r := vmstream(t, "restore", "-q", "--to", filepath.Join(filepath.Dir(path), "back.vmdk"))
	r.Stdin = io.LimitReader(stream, int64(stream.Len()))
	if err := r.Run(); err != nil {
		t.Fatalf("%v\n%s", err, r.Stderr)
	}
	m := vmstream(t, "disk", "map", filepath.Join(filepath.Dir(path), "back.vmdk"))
	out := new(bytes.Buffer)
	m.Stdout = out
	if err := m.Run(); err != nil {
		t.Fatalf("%v\n%s", err, m.Stderr)
	}
	if n := strings.Count(out.String(), "data"); n != 4 {
		t.Errorf("%d runs of data, want 4:\n%s", n, out)
	}
}
