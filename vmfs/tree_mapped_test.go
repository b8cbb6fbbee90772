// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// TestTreeMapped opens mappings as their LUNs, which may have grown.
func TestTreeMapped(t *testing.T) {
	w := openWriter(t, formatTest(t, FormatOptions{Generation: VMFS5, Label: "ds"}, dataAt+peBytes))
	id := &DiskID{Type: 2, ID: []byte("0123456789abcdefdisk  ")}
	for name, size := range map[string]int64{"a-rdm.vmdk": 64 << 10, "b": 1 << 20} {
		if err := w.MapDevice(name, id, size); err != nil {
			t.Fatal(err)
		}
	}
	content := noise(3, 100<<10)
	lun := filepath.Join(t.TempDir(), "lun")
	if err := os.WriteFile(lun, content, 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := NewTree([]*FS{w.FS()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	const name = "/vmfs/volumes/ds/a-rdm.vmdk"
	if _, err := tree.Open(name); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("without LUNs: %v", err)
	}
	var asked []string
	tree.MapDevices(func(name string, s *Stat) (disk.RawFile, error) {
		if !bytes.Equal(s.RDM.ID, id.ID) {
			t.Errorf("%s has the id %x", name, s.RDM.ID)
		}
		asked = append(asked, name)
		return disk.OpenRaw(lun)
	})
	d, err := tree.OpenDir("/vmfs/volumes/ds")
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Open("a-rdm.vmdk")
	if err != nil {
		t.Fatal(err)
	}
	if f.Name() != name || !f.Device() || f.Size() != 64<<10 || len(asked) != 1 || asked[0] != name {
		t.Errorf("it is %s of %d bytes, asked for %q", f.Name(), f.Size(), asked)
	}
	if st, err := f.Stat(); err != nil || st.Name() != "a-rdm.vmdk" || st.Sys().(*Stat).Type != RawDevice {
		t.Errorf("it is %v, %v", st, err)
	}
	got := make([]byte, 70<<10)
	if n, err := f.ReadAt(got, 0); n != 64<<10 || !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], content[:n]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n, err := f.ReadAt(got[:512], 64<<10-512); n != 512 || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], content[64<<10-512:][:n]) {
		t.Errorf("at the end: %d bytes, %v", n, err)
	}
	at := int64(1000)
	for r, err := range f.Runs(at, 1<<40) {
		if err != nil || r.Offset != at {
			t.Fatalf("%+v, %v", r, err)
		}
		at = r.End()
	}
	if at != f.Size() {
		t.Errorf("runs end at %d", at)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Open("/vmfs/volumes/ds/b"); !errors.Is(err, disk.ErrMismatch) {
		t.Errorf("of a LUN that is too short: %v", err)
	}
}
