// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/scsilab"
	"github.com/vmstream/vmstream/scsi"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// TestUnmappedLab has TestUnmappedInGuest run in a guest with a thin LUN.
func TestUnmappedLab(t *testing.T) {
	scsilab.RunLUNTests(t, "internal/pipeline", "^TestUnmappedInGuest$", scsilab.Options{})
}

// sectorsRead is how much was read from a disk so far, as the kernel counts it.
func sectorsRead(t *testing.T, node string) (n int64) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(node), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	var reads, merged int64
	if _, err := fmt.Sscan(string(b), &reads, &merged, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// dropPages has a disk be read from the LUN again.
func dropPages(t *testing.T, node string) {
	t.Helper()
	f, err := os.Open(node)
	if err == nil {
		err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestUnmappedInGuest copies a disk to a thin LUN, which is told what holds nothing, and
// backs the LUN up, of which that is not read.
func TestUnmappedInGuest(t *testing.T) {
	node := os.Getenv("LUN_THIN")
	if node == "" {
		t.Skip("runs in the guest of TestUnmappedLab")
	}
	const size, unit = 64 << 20, 1 << 20
	content := make([]byte, size)
	for _, at := range []int{0, 3, 4, 5, 40, 63} {
		r := rand.NewChaCha8([32]byte{byte(at)})
		if _, err := r.Read(content[at*unit : (at+1)*unit-7*4096]); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(node, bytes.Repeat([]byte{0xa5}, size), 0); err != nil { // what was there before
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(source, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Convert(t.Context(), source, ConvertOptions{To: node, Format: vmdk.FormatRaw, Counters: new(stream.Counters)}); err != nil {
		t.Fatal(err)
	}
	dropPages(t, node)
	if got, err := os.ReadFile(node); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("the LUN has something else: %v", err)
	}
	dropPages(t, node)
	mapped := mappedBytes(t, node)
	t.Logf("%d of %d bytes are mapped", mapped, size)
	if mapped > 7*unit {
		t.Error("what holds nothing has not been unmapped")
	}
	for _, all := range []bool{false, true} {
		before := sectorsRead(t, node)
		s, err := OpenDisk(t.Context(), node, SourceOptions{ReadUnmapped: all, Warn: func(w string) { t.Error(w) }})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, size)
		for r, err := range s.Disks[0].Image.Runs(0, size) {
			if err == nil && r.Kind != disk.Zero {
				_, err = s.Disks[0].Image.ReadAt(got[r.Offset:r.End()], r.Offset)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, content) {
			t.Error("it has read something else")
		}
		n := (sectorsRead(t, node) - before) * 512
		t.Logf("all of it: %v; %d bytes were read", all, n)
		if all != (n >= size) || !all && n > 8*unit {
			t.Errorf("all of it: %v; %d bytes were read", all, n)
		}
		dropPages(t, node)
	}
}

// mappedBytes is how much of a LUN holds something.
func mappedBytes(t *testing.T, node string) (n int64) {
	t.Helper()
	thin, err := scsi.OpenThin(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range thin.Ranges(t.Context(), 0, thin.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if !r.Unmapped {
			n += r.Length
		}
	}
	if err := thin.Close(); err != nil {
		t.Fatal(err)
	}
	return n
}
