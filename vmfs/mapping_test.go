// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"io/fs"
	"reflect"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// TestMapDevice makes mappings, reads and removes them.
func TestMapDevice(t *testing.T) {
	for _, g := range []Generation{VMFS3, VMFS5} {
		w := openWriter(t, formatTest(t, FormatOptions{Generation: g}, dataAt+peBytes))
		id := &DiskID{Type: 2, LUN: 9, Vendor: "LIO-ORG", Model: "disk", Revision: "4.0", ID: []byte("0123456789abcdefdisk  ")}
		if err := w.MapDevice("lun-rdm.vmdk", id, 3<<40); err != nil {
			t.Fatal(err)
		}
		st, err := w.FS().Lstat("lun-rdm.vmdk")
		if err != nil {
			t.Fatal(err)
		}
		s := st.Sys().(*Stat)
		if s.Type != RawDevice || s.SizeBytes != 3<<40 || !reflect.DeepEqual(s.RDM, id) || s.AllocatedBytes() != 0 {
			t.Errorf("it is %+v, %+v", s, s.RDM)
		}
		f, err := w.FS().OpenFile("lun-rdm.vmdk")
		if err == nil {
			err = f.Readable()
		}
		if !errors.Is(err, disk.ErrUnsupported) {
			t.Errorf("reading it: %v", err)
		}
		for _, c := range []struct {
			name string
			id   DiskID
			size int64
			want error
		}{
			{"lun-rdm.vmdk", *id, 512, fs.ErrExist},
			{"no/x", *id, 512, fs.ErrNotExist},
			{"x", *id, 0, fs.ErrInvalid},
			{"x", *id, 513, fs.ErrInvalid},
			{"x", *id, 65 << 40, fs.ErrInvalid},
			{"x", DiskID{ID: make([]byte, 45)}, 512, disk.ErrUnsupported},
		} {
			if err := w.MapDevice(c.name, &c.id, c.size); !errors.Is(err, c.want) {
				t.Errorf("%s, %d: %v, want %v", c.name, c.size, err, c.want)
			}
		}
		checkClean(t, w, 1)
		if err := w.Remove("lun-rdm.vmdk"); err != nil {
			t.Fatal(err)
		}
		checkClean(t, w, 0)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func checkClean(t *testing.T, w *Writer, mappings int) {
	t.Helper()
	problems, _, sum := checkAll(t, w.FS())
	if len(problems) > 0 || sum.Mappings != mappings {
		t.Errorf("check finds %v, %+v", problems, sum)
	}
}
