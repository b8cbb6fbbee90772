// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// fileRange is a range of a file.
type fileRange struct {
	name   string
	off, n int64
}

// noted keeps what is told and read of files.
type noted struct {
	mu         sync.Mutex
	told, read []fileRange
}

func (n *noted) add(to *[]fileRange, r fileRange) {
	n.mu.Lock()
	defer n.mu.Unlock()
	*to = append(*to, r)
}

// notingTree is the operating system's files, whose reading is noted.
type notingTree struct {
	disk.Tree
	n *noted
}

func (t notingTree) Open(name string) (disk.RawFile, error) { return t.n.wrap(t.Tree.Open(name)) }

func (t notingTree) OpenDir(name string) (disk.Directory, error) {
	d, err := t.Tree.OpenDir(name)
	return notingDirectory{d, t.n}, err
}

type notingDirectory struct {
	disk.Directory
	n *noted
}

func (d notingDirectory) Open(name string) (disk.RawFile, error) {
	return d.n.wrap(d.Directory.Open(name))
}

type notingFile struct {
	disk.RawFile
	n *noted
}

func (n *noted) wrap(f disk.RawFile, err error) (disk.RawFile, error) {
	if err != nil {
		return nil, err
	}
	return notingFile{f, n}, nil
}

func (f notingFile) at(off, n int64) fileRange {
	return fileRange{filepath.Base(f.Name()), off, n}
}

func (f notingFile) Prefetch(off, n int64) { f.n.add(&f.n.told, f.at(off, n)) }

func (f notingFile) ReadAt(p []byte, off int64) (int, error) {
	f.n.add(&f.n.read, f.at(off, int64(len(p))))
	return f.RawFile.ReadAt(p, off)
}

// What a chain of redo logs over a flat base is told of is what is then read of it.
func TestPrefetch(t *testing.T) {
	const size, grain = 5*mib + 3*512, 16
	dir, _ := chainDir(t, size)
	hint := "base.vmdk"
	for i := range 2 {
		name := fmt.Sprintf("d%d", i)
		f := randomFates((size+grain*512-1)/(grain*512), true, uint64(i))
		writeFile(t, filepath.Join(dir, name+"-delta.vmdk"), genCOWD(patchwork(size, uint64(20+i)), f, grain, 1, false))
		writeFile(t, filepath.Join(dir, name+".vmdk"), []byte(descriptorText(TypeVMFSSparse, uint32(i+2), uint32(i+1), hint, fmt.Sprintf(`RW %d VMFSSPARSE "%s-delta.vmdk"`, size/512, name))))
		hint = name + ".vmdk"
	}
	var n noted
	d := openDisk(t, filepath.Join(dir, hint), Options{Tree: notingTree{disk.OS(), &n}, Warn: func(string) {}})
	if err := d.Check(t.Context()); err != nil { // and all tables are kept
		t.Fatal(err)
	}
	if len(n.told) == 0 {
		t.Error("nobody has told of the tables")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		off := rng.Int64N(size)
		p := make([]byte, 1+rng.Int64N(min(mib, size-off)))
		n.told, n.read = nil, nil
		d.Prefetch(off, int64(len(p)))
		if _, err := d.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(n.told, n.read) {
			t.Fatalf("%d bytes at %d: told of %v, read %v", len(p), off, n.told, n.read)
		}
	}
	n.told = nil
	for _, r := range [][2]int64{{-1, 5}, {size, 5}, {0, 0}, {5, -3}} {
		d.Prefetch(r[0], r[1])
	}
	if len(n.told) > 0 {
		t.Errorf("told of %v, which is not on the disk", n.told)
	}
}
