// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"fmt"
	"io"
	"io/fs"
	"iter"

	"github.com/vmstream/vmstream/disk"
)

// MapDevices says how the LUN of a raw device mapping is opened: name is the path of the
// mapping in the tree, s what is known of it. From then on mappings open as their LUNs do;
// without this they are refused. It has to be called before the tree is used.
func (t *Tree) MapDevices(open func(name string, s *Stat) (disk.RawFile, error)) { t.mapped = open }

// openMapped opens the LUN of a raw device mapping.
func (t *Tree) openMapped(s *spot) (disk.RawFile, error) {
	if s.inode.rdmErr != nil {
		return nil, s.inode.rdmErr
	}
	f, err := t.mapped(s.path(), &s.inode.stat)
	if err != nil {
		return nil, err
	}
	m := &mappedFile{RawFile: f, fs: s.volume.FS, inode: s.inode, path: s.path()}
	if want := m.Size(); f.Size() < want {
		_ = f.Close() // only read
		return nil, fmt.Errorf("it maps a LUN of %d bytes, and %s has %d: %w", want, f.Name(), f.Size(), disk.ErrMismatch)
	}
	return m, nil
}

// mappedFile is a LUN that goes by the name of its mapping. What the LUN has grown by
// since it was mapped is not there.
type mappedFile struct {
	disk.RawFile
	fs    *FS
	inode *inode
	path  string
}

var _ disk.Mapping = (*mappedFile)(nil)

func (m *mappedFile) MapsDevice() {}

func (m *mappedFile) Name() string { return m.path }
func (m *mappedFile) Device() bool { return true }
func (m *mappedFile) Size() int64  { return m.inode.stat.SizeBytes }

func (m *mappedFile) Stat() (fs.FileInfo, error) { return m.fs.statNow(m.inode, m.path) }

func (m *mappedFile) ReadAt(p []byte, off int64) (int, error) {
	room := max(m.Size()-off, 0)
	if int64(len(p)) <= room {
		return m.RawFile.ReadAt(p, off)
	}
	n, err := m.RawFile.ReadAt(p[:room], off)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

func (m *mappedFile) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return m.RawFile.Runs(off, min(n, max(m.Size()-off, 0)))
}
