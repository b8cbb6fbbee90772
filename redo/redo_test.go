// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// background is for calls that are never cancelled.
func background() context.Context { return context.Background() }

// noise returns a disk without zero sectors.
func noise(sectors int, seed byte) []byte {
	b := make([]byte, sectors*512)
	for i := range b {
		b[i] = seed + byte(i/512)*3 | 1
	}
	return b
}

func TestAddWriteCommitDiscard(t *testing.T) {
	for _, kind := range baseKinds() {
		t.Run(string(kind), func(t *testing.T) {
			d := newTestDisk(t, t.TempDir(), kind, noise(5001, 9))
			d.add()
			d.wantContent("after add", d.top(), d.model)
			d.write(piece{0, 1, 50}, piece{700, 300, 0}, piece{4990, 11, 70})
			d.wantContent("after write", d.top(), d.model)
			d.add()
			d.write(piece{1, 2, 80}, piece{500, 600, 90})
			d.wantContent("after second write", d.top(), d.model)
			d.commit(1)
			d.wantContent("after commit of the lower", d.top(), d.model)
			d.commit(0)
			d.wantContent("after commit", d.top(), d.model)
			d.add()
			d.write(piece{10, 4000, 1})
			d.discard()
			d.wantContent("after discard", d.top(), d.model)
			if got := len(d.files()); got > 4 {
				t.Errorf("left over: %v", d.files())
			}
		})
	}
}

// TestOtherDirectory has a delta in another directory than its parent, as
// machines with a snapshot directory have it.
func TestOtherDirectory(t *testing.T) {
	for _, kind := range []baseKind{baseVMFS, baseSparse} {
		root := t.TempDir()
		for _, dir := range []string{"base", "snap"} {
			if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		d := newTestDisk(t, filepath.Join(root, "base"), kind, noise(5001, 9))
		makeLevels(d, 2)
		d.edit("disk-000001.vmdk", `Hint="disk.vmdk"`, `Hint="../base/disk.vmdk"`)
		for _, n := range d.files() {
			if strings.HasPrefix(n, "disk-00000") {
				d.must(os.Rename(d.path(n), filepath.Join(root, "snap", n)))
			}
		}
		lower := filepath.Join(root, "snap", "disk-000001.vmdk")
		if _, err := Commit(t.Context(), lower, CommitOptions{}); !errors.Is(err, disk.ErrOutside) {
			t.Errorf("%s: without permission: %v", kind, err)
		}
		// The alias is what a crash may leave: it has to lead to the base, too.
		c, err := findChain(lower, &Options{AllowOutside: true})
		d.must(err)
		text, err := alias(&c.levels[1], &c.levels[0])
		d.must(err)
		named := filepath.Join(root, "snap", "alias.vmdk")
		d.must(os.WriteFile(named, text, 0o600))
		im, err := vmdk.Open(named, vmdk.Options{AllowOutside: true})
		d.must(err)
		b := make([]byte, im.Size())
		d.must(disk.ReadFull(im, b, 0))
		if difference(b, d.below[0]) >= 0 {
			t.Errorf("%s: the alias reads something else than the base", kind)
		}
		d.must(im.Close())
		d.must(os.Remove(named))
		if _, err := Commit(t.Context(), d.path("disk.vmdk"), CommitOptions{}); err == nil {
			t.Errorf("%s: the base cannot know of children elsewhere", kind)
		}
		top := filepath.Join(root, "snap", "disk-000002.vmdk")
		o := CommitOptions{Options: Options{AllowOutside: true}, Level: 1}
		n, err := Commit(t.Context(), top, o)
		d.must(err)
		if n.Top != top {
			t.Errorf("%s: the top is %s", kind, n.Top)
		}
		d.wantContentOutside(top)
		n, err = Commit(t.Context(), top, o)
		d.must(err)
		if n.Top != d.path("disk.vmdk") {
			t.Errorf("%s: the top is %s", kind, n.Top)
		}
		d.wantContentOutside(n.Top)
		if left, err := os.ReadDir(filepath.Join(root, "snap")); err != nil || len(left) != 0 {
			t.Errorf("%s: left over: %v, %v", kind, left, err)
		}
	}
}

func (d *testDisk) wantContentOutside(path string) {
	d.t.Helper()
	im, err := vmdk.Open(path, vmdk.Options{AllowOutside: true})
	d.must(err)
	defer im.Close()
	b := make([]byte, im.Size())
	d.must(disk.ReadFull(im, b, 0))
	if i := difference(b, d.model); i >= 0 {
		d.t.Fatalf("%s differs from the model at sector %d", path, i/512)
	}
}
