// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/testenv"
)

// randomDisk writes a raw file that no codec makes smaller, with a hole.
func randomDisk(tb testing.TB, size int) string {
	tb.Helper()
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b[:size/2])
	_, _ = r.Read(b[3*size/4:])
	path := filepath.Join(tb.TempDir(), "disk.raw")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func exitCode(err error) int {
	var e *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.ExitCode()
	}
	return -2
}

// relay is a backup whose stream goes through the test to a restore. One of
// them is killed when n bytes have passed; it returns what has passed, and how
// both ended.
func relay(t *testing.T, source, dir string, n int64, killProducer bool, codec string) (passed []byte, producer, consumer error) {
	t.Helper()
	p := vmstream(t.Context(), t, "backup", "-q", "--codec", codec, "--extent-size", "1M", source)
	c := vmstream(t.Context(), t, "restore", "-q", "-C", dir)
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []*exec.Cmd{p, c} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	var kept bytes.Buffer
	if _, err := io.CopyN(io.MultiWriter(&kept, in), out, n); err != nil {
		t.Fatalf("the stream ended before byte %d: %v", n, err)
	}
	victim := c
	if killProducer {
		victim = p
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// What is in the pipe still arrives.
	_, _ = io.Copy(io.MultiWriter(&kept, in), out) // ends with EPIPE when the consumer is gone
	_ = out.Close()
	_ = in.Close()
	consumer, producer = c.Wait(), p.Wait()
	return kept.Bytes(), producer, consumer
}

// finalNames are the entries of dir that are not visibly unfinished.
func finalNames(tb testing.TB, dir string) (final, staged []string) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".vmstream-restore-") {
			staged = append(staged, e.Name())
		} else {
			final = append(final, e.Name())
		}
	}
	return final, staged
}

// A killed backup leaves a stream that verify and restore refuse; a killed
// restore leaves nothing under a final name, and its backup ends with an error.
func TestKilled(t *testing.T) {
	testenv.Long(t)
	const size, times = 12 << 20, 20
	source := randomDisk(t, size)
	r := rand.New(rand.NewPCG(5, 6))
	codecs := []string{"none", "zstd", "lz4"}
	for _, who := range []string{"producer", "consumer"} {
		t.Run(who, func(t *testing.T) {
			for i := range times {
				// The rest does not fit the pipes, which are 1 MiB each.
				n := r.Int64N(size / 2)
				what := fmt.Sprintf("killed at %d", n)
				dir := t.TempDir()
				passed, perr, cerr := relay(t, source, dir, n, who == "producer", codecs[i%len(codecs)])
				final, staged := finalNames(t, dir)
				if len(final) > 0 {
					t.Errorf("%s: %v has a final name", what, final)
				}
				if who == "producer" {
					if exitCode(cerr) != 4 || len(staged) > 0 {
						t.Errorf("%s: restore ended with %v and left %v", what, cerr, staged)
					}
					v := vmstream(t.Context(), t, "verify", "-q")
					v.Stdin = bytes.NewReader(passed)
					if err := v.Run(); exitCode(err) != 4 {
						t.Errorf("%s: verify of what arrived: %v", what, err)
					}
				} else if exitCode(perr) != 6 {
					t.Errorf("%s: backup ended with %v, want exit code 6", what, perr)
				}
			}
		})
	}
}

// What a killed restore left does not disturb the next one.
func TestRestoreAfterKill(t *testing.T) {
	testenv.Long(t)
	source := randomDisk(t, 4<<20)
	dir := t.TempDir()
	_, _, _ = relay(t, source, dir, 2<<20, false, "none")
	b := backup(t, source, streamOptions("zstd"))
	if _, err := Restore(t.Context(), bytes.NewReader(b), RestoreOptions{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "disk", "disk.raw"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("restored disk differs, or %v", err)
	}
}

// A full disk ends a restore with an error; nothing is left.
func TestDiskFull(t *testing.T) {
	testenv.Long(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		why := fmt.Sprintf("needs the right to mount a small tmpfs: %v", err)
		if testenv.Required() && os.Geteuid() == 0 && !errors.Is(err, syscall.EPERM) {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	b := backup(t, randomDisk(t, 8<<20), streamOptions("none"))
	for _, f := range restoreFormats() {
		for _, ignore := range []bool{false, true} {
			args := []string{"restore", "-q", "-C", dir, "--format", f}
			if ignore {
				args = append(args, "--ignore-space")
			}
			c := vmstream(t.Context(), t, args...)
			c.Stdin = bytes.NewReader(b)
			var errs bytes.Buffer
			c.Stderr = &errs
			if code := exitCode(c.Run()); code != 1 || strings.Count(errs.String(), "\n") > 2 {
				t.Errorf("%v: exit code %d, %s", args, code, errs.String())
			}
			nothingIn(t, dir, strings.Join(args, " "))
		}
	}
	c := vmstream(t.Context(), t, "restore", "-q", "--ignore-space", "--to", filepath.Join(dir, "x.raw"))
	c.Stdin = bytes.NewReader(b)
	if code := exitCode(c.Run()); code != 1 {
		t.Errorf("to a file: exit code %d", code)
	}
	nothingIn(t, dir, "to a file")
}

func restoreFormats() []string {
	return []string{"same", "raw", "flat", "vmfs", "sparse", "split", "stream"}
}

// A stdout that takes nothing is trouble with the stream's output.
func TestStdoutFull(t *testing.T) {
	testenv.Long(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("needs /dev/full: %v", err)
	}
	defer full.Close()
	source := randomDisk(t, 2<<20)
	for _, codec := range []string{"none", "zstd", "lz4", "xz"} {
		c := vmstream(t.Context(), t, "backup", "-q", "--codec", codec, source)
		c.Stdout = full
		if code := exitCode(c.Run()); code != 6 {
			t.Errorf("%s: exit code %d, want 6", codec, code)
		}
	}
	b := backup(t, source, streamOptions("none"))
	c := vmstream(t.Context(), t, "restore", "-q", "--to", "-")
	c.Stdin, c.Stdout = bytes.NewReader(b), full
	if code := exitCode(c.Run()); code != 1 {
		t.Errorf("restore to stdout: exit code %d, want 1", code)
	}
}
