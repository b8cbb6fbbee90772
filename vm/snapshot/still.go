// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vmdk"
)

// still are files that must not change while they are read.
type still []stillFile

type stillFile struct {
	tree   disk.Tree
	path   string
	was    fs.FileInfo
	device bool // which does not tell when it was written to
}

// watch notes the state of all files and block devices of the disks.
func watch(tree disk.Tree, disks []Disk) (still, error) {
	tree = disk.TreeOr(tree)
	var s still
	for i := range disks {
		d, ok := disks[i].Image.(*vmdk.Disk)
		if !ok {
			continue
		}
		for _, path := range d.Info().Files {
			st, err := tree.Stat(path)
			if err != nil {
				return nil, err
			}
			device := st.Mode().Type() == fs.ModeDevice
			if st.Mode().IsRegular() || device {
				s = append(s, stillFile{tree, path, st, device})
			}
		}
	}
	return s, nil
}

// changed returns an error about the first file that is not what it was: one
// that was replaced, has another length, or was written to.
func (s still) changed() error {
	for _, f := range s {
		if f.device {
			continue
		}
		st, err := f.tree.Stat(f.path)
		if err != nil {
			return err
		}
		var what string
		switch {
		case !f.tree.SameFile(st, f.was):
			what = "was replaced"
		case st.Size() != f.was.Size():
			what = fmt.Sprintf("had %d bytes and has %d", f.was.Size(), st.Size())
		case !st.ModTime().Equal(f.was.ModTime()):
			what = "was written to at " + st.ModTime().UTC().Format("15:04:05.000 UTC")
		default:
			continue
		}
		return &disk.FormatError{File: f.path, Offset: -1, Err: disk.ErrInUse, Detail: "changed while it was read: it " + what}
	}
	return nil
}

// checkWriters refuses files that somebody may write to, and devices with
// something that is mounted.
func (s still) checkWriters(ctx context.Context) error {
	for _, f := range s {
		check := func(path string) error { return redo.CheckWriters(path) }
		guard, guarded := f.tree.(disk.Guard)
		switch {
		case guarded:
			check = func(path string) error { return guard.CheckUse(ctx, path) }
		case f.device:
			check = disk.CheckUnclaimed
		}
		if err := check(f.path); err != nil {
			return err
		}
	}
	return nil
}
