// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
)

const maxLinks = 64

// linkPaths returns the files of the levels of a machine's disk from the top
// down, by names and descriptors alone: the machine may be writing to the top.
func linkPaths(d *vm.Disk, outside bool) ([]string, error) {
	if d.Raw || d.RedoLogs > 0 {
		var paths []string
		for p := d.TopPath; ; p = strings.TrimSuffix(p, redoSuffix) {
			paths = append(paths, p)
			if p == d.Path || !strings.HasSuffix(p, redoSuffix) {
				return paths, nil
			}
		}
	}
	paths := []string{d.Path}
	for len(paths) < maxLinks {
		child := paths[len(paths)-1]
		desc, err := vmdk.ReadDescriptor(child)
		if err != nil {
			return nil, err
		}
		if desc.Descriptor.ParentCID == vmdk.NoParent {
			return paths, nil
		}
		parent, err := redo.ParentPath(child, desc.Descriptor.ParentFileNameHint, outside)
		if err != nil {
			return nil, err
		}
		below, err := vmdk.ReadDescriptor(parent)
		if err != nil {
			return nil, err
		}
		if below.Descriptor.CID != desc.Descriptor.ParentCID {
			return nil, &disk.FormatError{
				File: child, Format: "redo log chain", Field: "parentCID", Offset: -1, Err: disk.ErrMismatch,
				Detail: fmt.Sprintf("is %08x, but the CID of %s is %08x", desc.Descriptor.ParentCID, parent, below.Descriptor.CID),
			}
		}
		paths = append(paths, parent)
	}
	return nil, &disk.FormatError{File: d.Path, Format: "redo log chain", Offset: -1, Err: disk.ErrUnsupported, Detail: fmt.Sprintf("it has more than %d levels", maxLinks)}
}

// findLink returns the place of a file in links, -1 if it is not one of them.
func findLink(links []string, path string) int {
	st, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return slices.IndexFunc(links, func(l string) bool {
		other, err := os.Stat(l)
		return err == nil && os.SameFile(st, other)
	})
}
