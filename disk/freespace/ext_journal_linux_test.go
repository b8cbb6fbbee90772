// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/testenv"
)

// mounted mounts an image by a loop device, if that can be done here.
func mounted(tb testing.TB, image, kind string) (dir string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root")
	}
	dir = tb.TempDir()
	if out, err := exec.CommandContext(tb.Context(), testenv.Tool(tb, "mount"), "-o", "loop", "-t", kind, image, dir).CombinedOutput(); err != nil {
		tb.Skipf("nothing can be mounted here: %v: %s", err, out)
	}
	tb.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			tb.Errorf("%v: %s", err, out)
		}
	})
	return dir
}

// churn writes and removes files, and syncs now and then.
func churn(tb testing.TB, dir string, seed uint64) {
	tb.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	for i := range 400 {
		name := filepath.Join(dir, fmt.Sprintf("c%d", r.IntN(150)))
		if r.IntN(3) == 0 {
			_ = os.Remove(name) // it may not be there
			continue
		}
		b := make([]byte, r.IntN(200_000))
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			tb.Fatal(err)
		}
		if i%50 == 0 {
			unix.Sync()
		}
	}
	unix.Sync()
}

func copyImage(tb testing.TB, from string) string {
	tb.Helper()
	to := filepath.Join(tb.TempDir(), "copy.img")
	in, err := os.Open(from)
	if err != nil {
		tb.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		tb.Fatal(err)
	}
	if err := out.Close(); err != nil {
		tb.Fatal(err)
	}
	return to
}

// TestExtJournal copies file systems that are mounted and written to, whose journal has to
// be replayed: what is free then is compared with what dumpe2fs says when e2fsck has
// replayed it, and the copy with zeros in its free space is as good as the copy.
func TestExtJournal(t *testing.T) {
	for i, x := range extKinds {
		if x.kind == "ext2" || x.name == "ext4 no journal" || x.name == "ext4 lazy" {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			image, _ := makeExt(t, uint64(i), x.size, x.args...)
			dir := mounted(t, image, x.kind)
			churn(t, dir, uint64(i))
			dirty := copyImage(t, image)
			m := find(t, dirty, x.kind)
			f := &extFS{v: &volume{ctx: t.Context(), im: openImage(t, dirty), area: whole("", 0, openImage(t, dirty).Size())}, journal: map[uint64][]byte{}}
			if err := errors.Join(f.super(), f.descriptors(), f.replay()); err != nil || len(f.journal) == 0 {
				t.Errorf("the journal has %d blocks that matter, %v", len(f.journal), err)
			}
			replayed := copyImage(t, dirty)
			out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "e2fsck"), "-fy", replayed).CombinedOutput()
			if code := exitCode(err); code > 1 {
				t.Fatalf("%v: %s", err, out)
			}
			want, used := dumped(t, replayed)
			if left := without(m.spans, want); len(left) > 0 {
				t.Errorf("what is used is taken for free: %v", left)
			}
			if stored := openImage(t, dirty).Size() - m.FreeBytes; float64(stored) > 1.03*float64(used)+4096 {
				t.Errorf("%d bytes are taken for used, %d are", stored, used)
			}
			zero := zeroed(t, m, dirty)
			if out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "e2fsck"), "-fy", zero).CombinedOutput(); exitCode(err) > 1 {
				t.Fatalf("%v: %s", err, out)
			}
			run(t, "e2fsck", "-fn", zero)
			a, b := t.TempDir(), t.TempDir()
			run(t, "debugfs", "-R", "rdump / "+a, replayed)
			run(t, "debugfs", "-R", "rdump / "+b, zero)
			run(t, "diff", "-r", a, b)
			if x.name != "ext4 inline" { // which debugfs does not read as Linux does
				run(t, "diff", "-r", "-x", "lost+found", dir, b)
			}
		})
	}
}

func exitCode(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}
