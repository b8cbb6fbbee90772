// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// TestLinkID follows the ids that levels have: they are told before there is
// anything, stay with their level when it is renamed, and stand for what is
// below it.
func TestLinkID(t *testing.T) {
	for _, kind := range []baseKind{baseESX2, baseVMFS} {
		d := newTestDisk(t, t.TempDir(), kind, noise(100, 1))
		no := errors.New("no")
		_, err := Add(background(), d.named(), AddOptions{Options: d.options(), Announce: func(path string, id uint32) error {
			if exists(path) || id == 0 {
				t.Errorf("%s: announced %s (%08x) when it is there", kind, path, id)
			}
			return no
		}})
		if !errors.Is(err, no) || d.top() != d.named() {
			t.Fatalf("%s: an addition that is refused: %v", kind, err)
		}
		first := d.add()
		d.write(piece{at: 3, n: 2, fill: 9})
		second := d.add()
		d.write(piece{at: 7, n: 2, fill: 8})
		ids := func(want ...uint32) {
			t.Helper()
			c, err := List(background(), d.named(), d.options())
			if err != nil || len(c.Levels) != len(want) {
				t.Fatalf("%s: %+v, %v", kind, c, err)
			}
			for i, l := range c.Levels {
				if l.LinkID != want[i] {
					t.Errorf("%s: level %d has the id %08x, want %08x", kind, i, l.LinkID, want[i])
				}
			}
		}
		ids(0, first.LinkID, second.LinkID)
		if kind == baseESX2 {
			wantCIDs(t, d, 0, second.LinkID, first.LinkID)
		}
		d.commit(1)
		ids(0, second.LinkID)
		if kind == baseESX2 { // the base is now what the second one was put over
			wantCIDs(t, d, 0, second.LinkID)
		}
	}
}

// wantCIDs compares the content ids of the links from the top down.
func wantCIDs(t *testing.T, d *testDisk, want ...uint32) {
	t.Helper()
	im, err := d.open(d.top())
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	for i, l := range im.Info().Links {
		if l.CID != want[i] || l.HasContentID() != (want[i] != 0) {
			t.Errorf("link %d has the content id %08x, want %08x", i, l.CID, want[i])
		}
	}
}

// TestContentID looks through links that nothing was written to.
func TestContentID(t *testing.T) {
	d := newTestDisk(t, t.TempDir(), baseVMFS, noise(100, 1))
	id := func(want uint32) {
		t.Helper()
		im, err := d.open(d.top())
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		if got, err := im.ContentID(); err != nil || got != want {
			t.Errorf("content id %08x (%v), want %08x", got, err, want)
		}
		if l := im.Info().Links[0]; l.CID == vmdk.Unwritten && l.HasContentID() {
			t.Error("a link that was never written has a content id")
		}
	}
	id(0x1000)
	d.add()
	id(0x1000)
	a := d.add()
	id(0x1000)
	// Somebody who does not know about content ids writes to it.
	u := openExtent(t, a.Files[0], d.model)
	if _, err := u.WriteAt(make([]byte, disk.SectorSize), 0); err != nil {
		t.Fatal(err)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	id(0)
}

// openExtent opens an extent for writing past its descriptor.
func openExtent(t *testing.T, path string, below []byte) *vmdk.Updater {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // the updater has synced
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	u, err := vmdk.OpenUpdate(background(), f, vmdk.UpdateSpec{Name: path, FileBytes: st.Size(), Fill: bytes.NewReader(below)})
	if err != nil {
		t.Fatal(err)
	}
	return u
}
