// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"context"
	"io/fs"
	"iter"
	"slices"
	"strings"
)

// Tree is where disks and the files around them lie: the operating system's files, see
// [OS], or volumes that it knows nothing of. Names are paths as package path/filepath has
// them; those of other trees are absolute. All methods are safe for concurrent use.
// Files that are not there give errors that wrap fs.ErrNotExist.
type Tree interface {
	// Open opens a file or a block device to be read.
	Open(name string) (RawFile, error)

	// OpenDir opens a directory to be read.
	OpenDir(name string) (Directory, error)

	// Stat tells of a file, and follows symbolic links; Lstat does not follow the last.
	Stat(name string) (fs.FileInfo, error)
	Lstat(name string) (fs.FileInfo, error)

	// RealPath returns the path of a file without symbolic links, as filepath.EvalSymlinks
	// does.
	RealPath(name string) (string, error)

	// SameFile reports if both, which come from this tree, are of one file.
	SameFile(a, b fs.FileInfo) bool
}

// RawFile is a file that disks are made of, open to be read. Its content is never
// looked at; see [Image] for its methods.
type RawFile interface {
	Image

	Name() string               // what it was opened by
	Device() bool               // it is a block device
	Stat() (fs.FileInfo, error) // what it is now
}

// Mapping is a RawFile that is the device which a raw device mapping stands for, and not
// a device that somebody has put where a file should be.
type Mapping interface {
	RawFile
	MapsDevice()
}

// Directory is an open directory. Names in it may have several components; none leads
// out of it, not by ".." and not by a symbolic link: that is an error.
type Directory interface {
	Open(name string) (RawFile, error)
	Stat(name string) (fs.FileInfo, error)
	Lstat(name string) (fs.FileInfo, error)

	// Entries yields what is in the directory, in no order. An error is yielded once
	// and ends the sequence.
	Entries() iter.Seq2[fs.DirEntry, error]

	Close() error
}

// Guard is a Tree that knows by itself who uses a file.
type Guard interface {
	// CheckUse returns an error that wraps ErrInUse if somebody has the file open. It may
	// take some time to find out if they are still there.
	CheckUse(ctx context.Context, name string) error

	// Holder returns who has the file open, or had it when they were last heard of, in a
	// few words; "" for nobody.
	Holder(name string) (string, error)
}

// ReadDir returns what is in a directory, in the order of names.
func ReadDir(t Tree, name string) ([]fs.DirEntry, error) {
	d, err := t.OpenDir(name)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // it was only read
	var all []fs.DirEntry
	for e, err := range d.Entries() {
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all, nil
}

// TreeOr returns t, or the operating system's if it is nil.
func TreeOr(t Tree) Tree {
	if t == nil {
		return OS()
	}
	return t
}
