// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

// TestRealVolume backs the disks of a volume up that an ESX host has made, and restores
// them: each has 200 MiB of zeros, in blocks of another kind.
func TestRealVolume(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volume.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	size := testenv.RealVMFS(t, f)
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := vmfs.Open([]vmfs.Device{{Name: path, R: f, SizeBytes: size}}, vmfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := vmfs.NewTree([]*vmfs.FS{v}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, allocated := range map[string]int64{"thin": 1 << 20, "thick": 200 << 20, "zeroedthick": 1 << 20, "eagerzeroedthick": 200 << 20} {
		src, err := OpenSource(t.Context(), "/vmfs/volumes/toto/"+name+".vmdk", SourceOptions{Tree: tree})
		if err != nil {
			t.Fatal(err)
		}
		if n, _, err := Allocated(t.Context(), src.Disks[0].Image); err != nil || n != allocated {
			t.Errorf("%s: %d bytes are not known to be zero, want %d, %v", name, n, allocated, err)
		}
		var b bytes.Buffer
		if _, err := Backup(t.Context(), &b, src, streamOptions("none")); err != nil {
			t.Fatal(err)
		}
		if err := src.Close(); err != nil {
			t.Fatal(err)
		}
		raw := filepath.Join(t.TempDir(), "disk.raw")
		if _, err := Restore(t.Context(), &b, RestoreOptions{To: raw, Read: stream.ReadOptions{}}); err != nil {
			t.Fatal(err)
		}
		im, err := vmdk.Open(raw, vmdk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 200<<20)
		if err := disk.ReadFull(im, got, 0); err != nil || im.Size() != int64(len(got)) || !disk.IsZero(got) {
			t.Errorf("%s: %d bytes, which are not all zero, or %v", name, im.Size(), err)
		}
		_ = im.Close()
	}
}
