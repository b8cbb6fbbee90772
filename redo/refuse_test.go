// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// tree returns the content of every file of a directory.
func (d *testDisk) tree() map[string]string {
	d.t.Helper()
	m := map[string]string{}
	for _, n := range d.files() {
		b, err := os.ReadFile(d.path(n))
		d.must(err)
		m[n] = string(b)
	}
	return m
}

// edit changes a file of the disk.
func (d *testDisk) edit(name, from, to string) {
	d.t.Helper()
	b, err := os.ReadFile(d.path(name))
	d.must(err)
	if !strings.Contains(string(b), from) {
		d.t.Fatalf("%s has no %q", name, from)
	}
	d.must(os.WriteFile(d.path(name), []byte(strings.Replace(string(b), from, to, 1)), 0o600))
}

// TestCommitRefused has chains that a commit must not touch: nothing may
// change, not even a journal may come.
func TestCommitRefused(t *testing.T) {
	copyDescriptor := func(d *testDisk, from, to string) {
		b, err := os.ReadFile(d.path(from))
		d.must(err)
		d.must(os.WriteFile(d.path(to), b, 0o600))
	}
	for name, c := range map[string]struct {
		level   int
		prepare func(d *testDisk)
		want    error
		says    string
	}{
		"second child of the parent": {0, func(d *testDisk) { copyDescriptor(d, "disk-000002.vmdk", "other.vmdk") }, disk.ErrUnsupported, "children"},
		"snapshot list names the parent": {0, func(d *testDisk) {
			d.must(os.WriteFile(d.path("web.vmsd"), []byte("snapshot0.disk0.fileName = \"disk-000001.vmdk\"\n"), 0o600))
		}, disk.ErrUnsupported, "web.vmsd names it"},
		"another machine names the child": {1, func(d *testDisk) {
			d.must(os.WriteFile(d.path("clone.vmx"), []byte("scsi0:0.fileName = \"/vmfs/volumes/x/disk-000001.vmdk\"\n"), 0o600))
		}, disk.ErrUnsupported, "clone.vmx names it"},
		"wrong parentCID": {0, func(d *testDisk) { d.edit("disk-000002.vmdk", "parentCID=", "parentCID=1") }, disk.ErrCorrupt, ""},
		"parent changed":  {0, func(d *testDisk) { d.edit("disk-000001.vmdk", "\nCID=", "\nCID=00000009\nwas=") }, disk.ErrMismatch, "changed after"},
		"changed blocks are tracked": {1, func(d *testDisk) {
			d.edit("disk.vmdk", "\n# The Disk", "\nchangeTrackPath=\"disk-ctk.vmdk\"\n# The Disk")
		}, disk.ErrUnsupported, "changed block tracking"},
		"read-only parent": {1, func(d *testDisk) { d.edit("disk.vmdk", "RW ", "RDONLY ") }, disk.ErrUnsupported, "read only"},
		"locked": {0, func(d *testDisk) {
			d.must(os.MkdirAll(d.path("disk-000001.vmdk.lck"), 0o700))
			d.must(os.WriteFile(d.path("disk-000001.vmdk.lck/M1.lck"), nil, 0o600))
		}, disk.ErrInUse, "there is a lock"},
		"damaged child": {0, func(d *testDisk) { d.edit("disk-000002-delta.vmdk", "COWD", "COWX") }, disk.ErrCorrupt, ""},
		"no such level": {7, func(*testDisk) {}, disk.ErrUnsupported, "no level 7"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTestDisk(t, t.TempDir(), baseVMFS, noise(2000, 1))
			makeLevels(d, 2)
			c.prepare(d)
			lock := d.path("disk-000001.vmdk.lck")
			tree := func() map[string]string {
				if exists(lock) {
					d.must(os.Rename(lock, d.dir+".lck"))
					defer func() { d.must(os.Rename(d.dir+".lck", lock)) }()
				}
				return d.tree()
			}
			before := tree()
			_, err := Commit(t.Context(), d.named(), CommitOptions{Options: d.options(), Level: c.level})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; expected %v and %q", err, c.want, c.says)
			}
			for n, b := range tree() {
				if before[n] != b {
					t.Errorf("%s has changed", n)
				}
			}
		})
	}
}

// TestOpenFiles has disks that somebody has open.
func TestOpenFiles(t *testing.T) {
	d := newTestDisk(t, t.TempDir(), baseVMFS, noise(100, 1))
	open := func(name string, flag int) func() {
		f, err := os.OpenFile(d.path(name), flag, 0)
		d.must(err)
		return func() { d.must(f.Close()) }
	}
	add := func() error {
		_, err := Add(t.Context(), d.named(), AddOptions{Options: d.options()})
		return err
	}
	closed := open("disk-flat.vmdk", os.O_RDWR)
	if err := add(); !errors.Is(err, disk.ErrInUse) {
		t.Skipf("this file system cannot tell who has a file open: %v", err)
	}
	closed()
	closed = open("disk-flat.vmdk", os.O_RDONLY) // a backup may go on
	d.add()
	d.write(piece{3, 4, 5})
	if _, err := Commit(t.Context(), d.named(), CommitOptions{Options: d.options()}); !errors.Is(err, disk.ErrInUse) {
		t.Errorf("commit into a file that is being read: %v", err)
	}
	closed()
	closed = open("disk-000001-delta.vmdk", os.O_RDONLY)
	if _, err := Discard(t.Context(), d.named(), DiscardOptions{Options: d.options()}); !errors.Is(err, disk.ErrInUse) {
		t.Errorf("discard of a file that is being read: %v", err)
	}
	closed()
	unlock, err := lockDir(d.dir)
	d.must(err)
	if err := add(); !errors.Is(err, disk.ErrInUse) {
		t.Errorf("two commands in one directory: %v", err)
	}
	unlock()
	d.commit(0)
	d.wantContent("after all", d.top(), d.model)
}

func TestAddRefused(t *testing.T) {
	rdm := func(d *testDisk, createType, extent string) {
		d.edit("disk.vmdk", `createType="vmfs"`, `createType="`+createType+`"`)
		d.edit("disk.vmdk", `VMFS "disk-flat.vmdk"`, `VMFSRDM "`+extent+`"`)
	}
	d := newTestDisk(t, t.TempDir(), baseVMFS, noise(100, 1))
	rdm(d, "vmfsPassthroughRawDeviceMap", "disk-rdmp.vmdk")
	if _, err := Add(t.Context(), d.named(), AddOptions{Options: d.options()}); !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), "physical") {
		t.Errorf("physical mapping: %v", err)
	}
	d = newTestDisk(t, t.TempDir(), baseVMFS, noise(100, 1))
	rdm(d, "vmfsRawDeviceMap", "disk-rdm.vmdk")
	if a, err := Add(t.Context(), d.named(), AddOptions{Options: d.options()}); err != nil || a.Level != 1 {
		t.Errorf("virtual mapping: %v", err)
	}

	d = newTestDisk(t, t.TempDir(), baseESX2, noise(100, 1))
	d.add()
	d.add()
	if _, err := Add(t.Context(), d.named(), AddOptions{Options: d.options()}); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("third redo log: %v", err)
	}
	d.must(os.Remove(d.path("disk.vmdk.REDO")))
	if _, err := List(t.Context(), d.named(), d.options()); !errors.Is(err, disk.ErrCorrupt) {
		t.Errorf("a gap: %v", err)
	}

	d = newTestDisk(t, t.TempDir(), baseVMFS, noise(100, 1))
	for range MaxDeltas {
		d.add()
	}
	if _, err := Add(t.Context(), d.named(), AddOptions{Options: d.options()}); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("delta %d: %v", MaxDeltas+1, err)
	}
	if _, err := Add(t.Context(), d.path("disk-000003.vmdk"), AddOptions{}); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("over a level in the middle: %v", err)
	}
	if _, err := Discard(t.Context(), d.path("disk-000003.vmdk"), DiscardOptions{}); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("discard in the middle: %v", err)
	}
	d.wantContent("with many levels", d.top(), d.model)
	for i := range MaxDeltas {
		d.commit(1 + i*7%len(d.below))
	}
	d.wantContent("with none", d.top(), d.model)
}

// TestNumbers has names of deltas.
func TestNumbers(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ exists, top, want string }{
		{"", "web.vmdk", "web-000001"},
		{"web-000001.vmdk", "web-000001.vmdk", "web-000002"},
		{"web-000002-delta.vmdk", "web-000001.vmdk", "web-000003"}, // left over: not to be overwritten
		{"web-000003-sesparse.vmdk", "web.vmdk", "web-000004"},
		{"web-0000045.vmdk", "web.VMDK", "web-000004"},
		{"", "other-000009.vmdk", "other-000001"},
	} {
		if c.exists != "" {
			if err := os.WriteFile(filepath.Join(dir, c.exists), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := freeDelta(filepath.Join(dir, c.top)); err != nil || filepath.Base(got) != c.want {
			t.Errorf("%s: %s, %v; expected %s", c.top, got, err, c.want)
		}
	}
}

// TestUnwritable has parents that a commit cannot go into.
func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	w, err := vmdk.Create(vmdk.CreateSpec{Format: vmdk.FormatStream, Dir: dir, Name: "disk.vmdk", SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "disk.vmdk")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Add(t.Context(), path, AddOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Commit(t.Context(), path, CommitOptions{}); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("commit into a compressed disk: %v", err)
	}
	if after, _ := os.ReadFile(path); !slices.Equal(before, after) {
		t.Error("the compressed disk has changed")
	}
	if _, err := Discard(t.Context(), path, DiscardOptions{}); err != nil {
		t.Errorf("discard after a commit that was refused: %v", err)
	}
}
