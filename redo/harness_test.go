// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// failer is what *testing.T and *rapid.T have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// baseKind is a way to have a base disk.
type baseKind string

// The kinds of bases. All but the first have a descriptor.
const (
	baseESX2   baseKind = "raw of ESX 2.x"
	baseFlat   baseKind = "monolithicFlat"
	baseVMFS   baseKind = "vmfs"
	baseSparse baseKind = "monolithicSparse"
	baseSplit  baseKind = "twoGbMaxExtentSparse"
	baseCOWD   baseKind = "COWD"
)

func baseKinds() []baseKind {
	return []baseKind{baseESX2, baseFlat, baseVMFS, baseSparse, baseSplit, baseCOWD}
}

const configName = "vm.conf"

// testDisk is a disk in a directory, and what it ought to hold. A file of one
// line plays the configuration.
type testDisk struct {
	t    failer
	dir  string
	kind baseKind
	fs   FS

	model []byte
	below [][]byte // the model when each level was added

	zeroed []bool // for each level: it has grain table entries 1
	hosted int    // how many hosted deltas there have been
}

func (d *testDisk) path(name string) string { return filepath.Join(d.dir, name) }

// newTestDisk makes a base with content in dir.
func newTestDisk(t failer, dir string, kind baseKind, content []byte) *testDisk {
	t.Helper()
	d := &testDisk{t: t, dir: dir, kind: kind, fs: OS(), model: slices.Clone(content)}
	size := int64(len(content))
	switch kind {
	case baseESX2:
		d.must(os.WriteFile(d.path("disk.vmdk"), content, 0o600))
	case baseCOWD:
		d.makeRootCOWD(content)
	default:
		format := map[baseKind]vmdk.Format{baseFlat: vmdk.FormatFlat, baseVMFS: vmdk.FormatVMFS, baseSparse: vmdk.FormatSparse, baseSplit: vmdk.FormatSplit}[kind]
		w, err := vmdk.Create(vmdk.CreateSpec{Format: format, Dir: dir, Name: "disk.vmdk", SizeBytes: size, CID: 0x1000})
		d.must(err)
		_, err = w.WriteAt(content, 0)
		d.must(err)
		d.must(w.Close())
	}
	d.must(os.WriteFile(d.path(configName), []byte("disk.vmdk"), 0o600))
	return d
}

func (d *testDisk) makeRootCOWD(content []byte) {
	d.t.Helper()
	f, err := os.Create(d.path("disk-data.vmdk"))
	d.must(err)
	n, err := vmdk.CreateCOWD(f, vmdk.COWDSpec{SizeBytes: int64(len(content)), GrainSectors: 4, Geometry: vmdk.Geometry{Cylinders: 10, Heads: 16, Sectors: 63}})
	d.must(err)
	u, err := vmdk.OpenUpdate(background(), f, vmdk.UpdateSpec{Name: f.Name(), FileBytes: n})
	d.must(err)
	_, err = u.WriteAt(content, 0)
	d.must(err)
	d.must(u.Close())
	d.must(f.Close())
	text, err := (&vmdk.Descriptor{
		Version: 1, CID: 0x1000, ParentCID: vmdk.NoParent, CreateType: vmdk.TypeVMFSSparse,
		Extents: []vmdk.Extent{{Access: vmdk.AccessRW, Sectors: int64(len(content)) / 512, Type: vmdk.ExtentVMFSSparse, Name: "disk-data.vmdk"}},
		DDB:     []vmdk.Entry{{Key: "ddb.adapterType", Value: "lsilogic"}},
	}).Marshal()
	d.must(err)
	d.must(os.WriteFile(d.path("disk.vmdk"), text, 0o600))
}

func (d *testDisk) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatalf("%s: %v", d.kind, err)
	}
}

func (d *testDisk) options() Options {
	o := Options{FS: d.fs, Config: d.path(configName)}
	if d.kind == baseESX2 {
		o.Format = vmdk.SourceRaw
		return o // the configuration always names the base
	}
	o.Switch = func(from, to string) error {
		now, err := os.ReadFile(d.path(configName))
		if err != nil {
			return err
		}
		if s := string(now); s != filepath.Base(from) && s != filepath.Base(to) {
			return fmt.Errorf("the configuration names %s: neither %s nor %s", s, from, to)
		}
		return ReplaceFile(d.fs, d.path(configName), []byte(filepath.Base(to)))
	}
	return o
}

// top returns what the configuration leads to.
func (d *testDisk) top() string {
	d.t.Helper()
	b, err := os.ReadFile(d.path(configName))
	d.must(err)
	top := d.path(string(b))
	for d.kind == baseESX2 && exists(top+redoSuffix) {
		top += redoSuffix
	}
	return top
}

// named returns what the configuration names.
func (d *testDisk) named() string {
	b, err := os.ReadFile(d.path(configName))
	d.must(err)
	return d.path(string(b))
}

// open opens what is at path with everything below it.
func (d *testDisk) open(path string) (*vmdk.Disk, error) {
	if d.kind != baseESX2 {
		return vmdk.Open(path, vmdk.Options{Format: vmdk.SourceVMDK})
	}
	if strings.HasSuffix(path, redoSuffix) {
		return vmdk.OpenRedo(path, vmdk.Options{})
	}
	return vmdk.Open(path, vmdk.Options{Format: vmdk.SourceRaw})
}

// content reads the disk through path, after checking every table.
func (d *testDisk) content(path string) ([]byte, error) {
	im, err := d.open(path)
	if err != nil {
		return nil, err
	}
	defer im.Close()
	if err := im.Check(background()); err != nil {
		return nil, err
	}
	b := make([]byte, im.Size())
	return b, disk.ReadFull(im, b, 0)
}

// wantContent compares the disk at path with a model.
func (d *testDisk) wantContent(what, path string, want []byte) {
	d.t.Helper()
	got, err := d.content(path)
	if err != nil {
		d.t.Fatalf("%s: %s: %v", d.kind, what, err)
	}
	if i := difference(got, want); i >= 0 {
		d.t.Fatalf("%s: %s: %s differs from the model at sector %d", d.kind, what, filepath.Base(path), i/512)
	}
}

func difference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// add adds a level.
func (d *testDisk) add() *Added {
	d.t.Helper()
	a, err := Add(background(), d.named(), AddOptions{Options: d.options()})
	d.must(err)
	d.below, d.zeroed = append(d.below, slices.Clone(d.model)), append(d.zeroed, false)
	return a
}

// write plays the guest: it writes to the top, which has to be a redo log.
func (d *testDisk) write(pieces ...piece) {
	d.t.Helper()
	top := d.top()
	extent := top
	if d.kind != baseESX2 {
		// A guest's first write gives the link another content id.
		desc, err := vmdk.ReadDescriptor(top)
		d.must(err)
		extent = d.path(desc.Descriptor.Extents[0].Name)
		text, err := editDescriptor(top, desc.Text, map[string]string{keyCID: cidString(newCID())})
		d.must(err)
		d.must(os.WriteFile(top, text, 0o600))
	}
	f, err := os.OpenFile(extent, os.O_RDWR, 0)
	d.must(err)
	st, err := f.Stat()
	d.must(err)
	u, err := vmdk.OpenUpdate(background(), f, vmdk.UpdateSpec{Name: extent, FileBytes: st.Size(), Fill: bytes.NewReader(d.below[len(d.below)-1])})
	d.must(err)
	for _, p := range pieces {
		b := p.bytes()
		_, err := u.WriteAt(b, int64(p.at)*512)
		d.must(err)
		copy(d.model[p.at*512:], b)
	}
	d.must(u.Close())
	d.must(f.Close())
}

// piece is a write of a guest, in sectors. fill 0 writes zeros.
type piece struct {
	at, n int
	fill  byte
}

func (p piece) bytes() []byte {
	b := make([]byte, p.n*512)
	for i := range b {
		if p.fill != 0 {
			b[i] = p.fill + byte(i/512)
		}
	}
	return b
}

// commit merges a level, 0 for the top.
func (d *testDisk) commit(level int) *Committed {
	d.t.Helper()
	c, err := Commit(background(), d.named(), CommitOptions{Options: d.options(), Level: level})
	d.must(err)
	if level == 0 {
		level = len(d.below)
	}
	d.below = slices.Delete(d.below, level-1, level)
	if len(d.zeroed) > 0 {
		d.zeroed = slices.Delete(d.zeroed, level-1, level)
	}
	return c
}

// discard drops the top.
func (d *testDisk) discard() {
	d.t.Helper()
	_, err := Discard(background(), d.named(), DiscardOptions{Options: d.options()})
	d.must(err)
	n := len(d.below) - 1
	d.model, d.below = d.below[n], d.below[:n]
	if len(d.zeroed) > 0 {
		d.zeroed = d.zeroed[:n]
	}
}

// files returns the names of the directory.
func (d *testDisk) files() []string {
	entries, err := os.ReadDir(d.dir)
	d.must(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
