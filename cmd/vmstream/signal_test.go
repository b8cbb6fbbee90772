// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// Pipes hold 1 MiB and the program keeps a few extents more: after so many
// bytes have gone through a pipe, the other end has long begun.
const (
	diskBytes  = 32 << 20
	beginBytes = 8 << 20
)

func testDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := makeDisk(path, diskBytes); err != nil {
		t.Fatal(err)
	}
	return path
}

// slowBackup starts a backup whose stdout is read only as far as the test
// wants, and reads its first byte. The pipe stays open behind the process.
func slowBackup(t *testing.T, args ...string) (*exec.Cmd, *os.File) {
	t.Helper()
	c := vmstream(t, append([]string{"backup", "--extent-size", "1M"}, args...)...)
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() }) // only read
	c.Stdout = w
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatalf("no stream: %v", err)
	}
	return c, out
}

// notIgnored skips a test about a signal that is ignored already, as under
// nohup: the program would inherit that and go on.
func notIgnored(t *testing.T, s syscall.Signal) {
	t.Helper()
	if signal.Ignored(s) {
		t.Skipf("%v is ignored here", s)
	}
}

// TestStopped sends signals to a backup that waits for a reader.
func TestStopped(t *testing.T) {
	testenv.Long(t)
	for _, s := range []struct {
		sig  syscall.Signal
		code int
		text string
	}{
		{syscall.SIGTERM, 143, "stopped by SIGTERM"},
		{syscall.SIGINT, 130, "stopped by SIGINT"},
		{syscall.SIGHUP, 129, "stopped by SIGHUP"},
	} {
		t.Run(s.sig.String(), func(t *testing.T) {
			notIgnored(t, s.sig)
			c, out := slowBackup(t, testDisk(t))
			if err := c.Process.Signal(s.sig); err != nil {
				t.Fatal(err)
			}
			if code := exitCode(t, c.Wait()); code != s.code {
				t.Errorf("exit code %d, want %d", code, s.code)
			}
			if got := c.Stderr.(*bytes.Buffer).String(); got != "vmstream: "+s.text+"\n" {
				t.Errorf("stderr %q, want %q", got, s.text)
			}
			v := vmstream(t, "verify", "-q")
			v.Stdin = io.MultiReader(strings.NewReader("d"), out) // the name of the disk begins the stream
			if code := exitCode(t, v.Run()); code != 4 {
				t.Errorf("verify of what came out: exit code %d, want 4", code)
			}
		})
	}
}

// restoreHalf starts a restore and gives it the first part of a stream.
func restoreHalf(t *testing.T, args ...string) (c *exec.Cmd, stdin io.WriteCloser, rest []byte) {
	t.Helper()
	b := vmstream(t, "backup", "-q", "--extent-size", "1M", testDisk(t))
	stream, err := b.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, b.Stderr)
	}
	c = vmstream(t, append([]string{"restore"}, args...)...)
	if stdin, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(stream[:beginBytes]); err != nil {
		t.Fatal(err)
	}
	return c, stdin, stream[beginBytes:]
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// TestStoppedRestore stops a restore and a conversion in their middle: nothing
// is left, under no name.
func TestStoppedRestore(t *testing.T) {
	testenv.Long(t)
	for _, format := range []string{"same", "raw", "flat", "sparse", "split", "stream"} {
		t.Run(format, func(t *testing.T) {
			dir := t.TempDir()
			c, stdin, _ := restoreHalf(t, "-C", dir, "--format", format)
			defer stdin.Close()
			if got := names(t, dir); len(got) != 1 || !strings.HasPrefix(got[0], ".vmstream-") {
				t.Errorf("%q while it runs: want a stage and nothing else", got)
			}
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code := exitCode(t, c.Wait()); code != 143 {
				t.Errorf("exit code %d, want 143\n%s", code, c.Stderr)
			}
			if got := names(t, dir); len(got) != 0 {
				t.Errorf("%q is left", got)
			}
		})
	}
}

// TestStoppedConversion stops a conversion as soon as it has begun. It may be
// too late for that: then the disk is whole.
func TestStoppedConversion(t *testing.T) {
	testenv.Long(t)
	in := testDisk(t)
	for _, format := range []string{"raw", "flat", "sparse", "split", "stream"} {
		t.Run(format, func(t *testing.T) {
			dir := t.TempDir()
			c := vmstream(t, "disk", "convert", "--format", format, in, filepath.Join(dir, "out.vmdk"))
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			for len(names(t, dir)) == 0 {
				if err := t.Context().Err(); err != nil {
					t.Fatal(err)
				}
				runtime.Gosched()
			}
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			code := exitCode(t, c.Wait())
			left := names(t, dir)
			switch {
			case code == 143 && len(left) == 0:
			case code == 0 && len(left) > 0 && !strings.HasPrefix(left[0], "."):
				v := vmstream(t, "disk", "info", "-q", filepath.Join(dir, "out.vmdk"), "--source-format", sourceFormat(format))
				if err := v.Run(); err != nil {
					t.Errorf("%v\n%s", err, v.Stderr)
				}
			default:
				t.Errorf("exit code %d, left: %q\n%s", code, left, c.Stderr)
			}
		})
	}
}

func sourceFormat(format string) string {
	if format == "raw" {
		return "raw"
	}
	return "vmdk"
}

// TestKilledWriter ends the stream in its middle, as when the producer is
// killed.
func TestKilledWriter(t *testing.T) {
	testenv.Long(t)
	dir := t.TempDir()
	c, stdin, _ := restoreHalf(t, "-C", dir)
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, c.Wait()); code != 4 {
		t.Errorf("exit code %d, want 4\n%s", code, c.Stderr)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("%q is left", got)
	}
}

// TestStatusSignal asks a run how far it is.
func TestStatusSignal(t *testing.T) {
	for _, args := range [][]string{nil, {"--json"}, {"--quiet"}} {
		c := vmstream(t, append(append([]string{"backup", "--extent-size", "1M"}, args...), testDisk(t))...)
		c.Stderr = nil
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr, err := c.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := c.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stderr).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(line, "32.0 MiB") && !strings.Contains(line, `"type":"progress"`) {
			t.Errorf("%q: no status line", line)
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait() // it was killed
	}
}

// TestIgnoredHangup has SIGHUP ignored by the parent, as nohup does it: the
// run goes on.
func TestIgnoredHangup(t *testing.T) {
	sh := testenv.Tool(t, "sh")
	c := exec.CommandContext(t.Context(), sh, "-c", `trap "" HUP; exec vmstream backup -q --extent-size 1M "$0"`, testDisk(t))
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(out, first); err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	v := vmstream(t, "verify", "-q")
	v.Stdin = io.MultiReader(bytes.NewReader(first), out)
	if err := v.Run(); err != nil {
		t.Errorf("verify: %v\n%s", err, v.Stderr)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// TestGrowingLog appends to a log while it is read: it is in the stream as it
// was, with a warning.
func TestGrowingLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "vmware.log")
	content := bytes.Repeat([]byte("a line of a log\n"), diskBytes/16)
	for path, b := range map[string][]byte{log: content, filepath.Join(dir, "vm.vmx"): []byte("config.version = \"8\"\ndisplayName = \"vm\"\n")} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, out := slowBackup(t, dir)
	begun := make([]byte, 1<<20) // of the log, which has been opened therefore
	if _, err := io.ReadFull(out, begun); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("one more line\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, c.Wait()); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if got := c.Stderr.(*bytes.Buffer).String(); !strings.Contains(got, "vmware.log: grew while it was read") {
		t.Errorf("stderr %q", got)
	}
	// A name of a directory begins with its first byte.
	stream := slices.Concat([]byte("v"), begun, rest)
	target := t.TempDir()
	r := vmstream(t, "restore", "-C", target)
	r.Stdin = bytes.NewReader(stream)
	if code := exitCode(t, r.Run()); code != 3 { // it repeats the warning of the backup
		t.Errorf("restore: exit code %d, want 3\n%s", code, r.Stderr)
	}
	got, err := os.ReadFile(filepath.Join(target, "vm", "vmware.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content) {
		t.Errorf("the log has %d bytes, want the %d it had", len(got), len(content))
	}
}
