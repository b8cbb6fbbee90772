// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

func TestReadDescriptor(t *testing.T) {
	for _, format := range []Format{FormatFlat, FormatSparse, FormatSplit, FormatStream} {
		dir := t.TempDir()
		w, err := Create(CreateSpec{Format: format, Dir: dir, Name: "d.vmdk", SizeBytes: 1 << 20, CID: 0x1234abcd})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "d.vmdk")
		d, err := ReadDescriptor(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		embedded := format == FormatSparse || format == FormatStream
		if d.Descriptor.CID != 0x1234abcd || d.Embedded != embedded || (d.RoomBytes > 0) != embedded {
			t.Errorf("%s: %+v", format, d)
		}
		if !bytes.Equal(file[d.OffsetBytes:][:len(d.Text)], d.Text) || !bytes.Contains(d.Text, []byte("CID=1234abcd\n")) {
			t.Errorf("%s: the text is not where it is said to be", format)
		}
		state, err := ReadExtentState(bytes.NewReader(file))
		if embedded && (err != nil || state.Dirty() || state.Type != ExtentSparse) {
			t.Errorf("%s: state %+v, %v", format, state, err)
		}
	}
	raw := filepath.Join(t.TempDir(), "raw.vmdk")
	if err := os.WriteFile(raw, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadDescriptor(raw); !errors.Is(err, disk.ErrUnknown) {
		t.Errorf("a raw file: %v", err)
	}
}

func TestExtentState(t *testing.T) {
	f := newCOWDFile(t, filepath.Join(t.TempDir(), "x"), COWDSpec{SizeBytes: 1 << 20})
	state := func() ExtentState {
		s, err := ReadExtentState(f)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := state(); s.Type != ExtentVMFSSparse || s.Dirty() {
		t.Errorf("new: %+v", s)
	}
	u := openUpdate(t, f, nil)
	if _, err := u.WriteAt(bytes.Repeat([]byte{1}, 512), 0); err != nil {
		t.Fatal(err)
	}
	if err := u.Flush(); err != nil {
		t.Fatal(err)
	}
	if s := state(); !s.UncleanShutdown || !s.Dirty() {
		t.Errorf("being written: %+v", s)
	}
	closeUpdate(t, u)
	if s := state(); s.Dirty() {
		t.Errorf("closed: %+v", s)
	}
	if _, err := f.WriteAt([]byte{1}, cowdSavedGeneration); err != nil {
		t.Fatal(err)
	}
	if s := state(); s.SavedGeneration != 1 || !s.Dirty() {
		t.Errorf("generations differ: %+v", s)
	}
}
