// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"errors"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// place is where levels are looked for.
type place struct{ disk.Tree }

// here is where they can be changed, too.
func here() place { return place{disk.OS()} }

// realPath returns the absolute path without symbolic links.
func (p place) realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return p.RealPath(abs)
}

func realPath(path string) (string, error) { return here().realPath(path) }

// exists reports if there is anything of this name. What cannot be looked at exists.
func (p place) exists(path string) bool {
	_, err := p.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func exists(path string) bool { return here().exists(path) }

func (p place) descriptor(path string) (*vmdk.DescriptorFile, error) {
	return vmdk.ReadDescriptorIn(p.Tree, path)
}

func (p place) extentState(path string) (s vmdk.ExtentState, err error) {
	f, err := p.Open(path)
	if err != nil {
		return s, err
	}
	if f.Size() >= disk.SectorSize {
		s, err = vmdk.ReadExtentState(f)
	}
	return s, errors.Join(err, f.Close())
}

func extentState(path string) (vmdk.ExtentState, error) { return here().extentState(path) }

// extentName matches files that are no descriptors by their names. A flat one
// has a guest's bytes, which must not be taken for a child.
var extentName = regexp.MustCompile(`(?i)-(flat|delta|sesparse|rdmp?|ctk|[sf][0-9]{3,})\.vmdk$`)

// children returns the descriptors in the directory of path, a level with a
// descriptor, that name it as their parent, in the order of names.
func children(path string) ([]string, error) { return here().childrenIn(filepath.Dir(path), path) }

// childrenIn is children for another directory.
func childrenIn(dir, path string) ([]string, error) { return here().childrenIn(dir, path) }

func (p place) childrenIn(dir, path string) ([]string, error) {
	entries, err := disk.ReadDir(p.Tree, dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if !e.Type().IsRegular() || name == path || extentName.MatchString(e.Name()) || !strings.EqualFold(filepath.Ext(e.Name()), vmdkSuffix) {
			continue
		}
		d, err := p.descriptor(name)
		if err != nil {
			continue // no descriptor, or one that no reader would take
		}
		if d.Descriptor.ParentCID == vmdk.NoParent {
			continue
		}
		parent, err := p.parentPath(name, d.Descriptor.ParentFileNameHint, true)
		if err == nil && parent == path {
			found = append(found, name)
		}
	}
	return found, nil
}
