// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"fmt"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vmfs"
)

// VolumeFiles changes files of a volume, by their paths in Tree, which has the volume that
// W writes.
type VolumeFiles struct {
	W    *vmfs.Writer
	Tree *vmfs.Tree
}

var _ redo.Files = (*VolumeFiles)(nil)

// find returns the path of a file in the volume, and what its descriptor says.
func (v *VolumeFiles) find(path string) (string, *vmfs.Stat, error) {
	f, name, err := v.Tree.InVolume(path)
	if err == nil && f != v.W.FS() {
		err = fmt.Errorf("%s is on another volume: %w", path, disk.ErrUnsupported)
	}
	if err != nil {
		return "", nil, err
	}
	fi, err := f.Lstat(name)
	if err != nil {
		return "", nil, err
	}
	return name, fi.Sys().(*vmfs.Stat), nil
}

// Lengthen implements redo.Files. A file that is not thin and has all of its blocks gets
// those that are added, to be zeroed when they are written to.
func (v *VolumeFiles) Lengthen(path string, sizeBytes int64, thin bool) error {
	name, s, err := v.find(path)
	if err != nil {
		return err
	}
	p := vmfs.Thin
	if !thin && s.AllocatedBytes() >= s.SizeBytes {
		p = vmfs.ZeroedThick
	}
	return v.W.Resize(name, sizeBytes, p)
}

// Replace implements redo.Files.
func (v *VolumeFiles) Replace(path string, content []byte) error {
	name, _, err := v.find(path)
	if err != nil {
		return err
	}
	x, err := v.W.Replace(name, vmfs.CreateOptions{SizeBytes: int64(len(content))})
	if err != nil {
		return err
	}
	if _, err := x.WriteAt(content, 0); err != nil {
		x.Abort()
		return err
	}
	return x.Close()
}
