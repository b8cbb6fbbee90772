// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// splitName takes the name of an extent of a split disk apart: disk-s001.vmdk.
var splitName = regexp.MustCompile(`^(.*-[fs])([0-9]{3,})(\.[^./\\]*)$`)

// isSplit reports if a disk has extents of less than 2 GiB by its type.
func isSplit(d *vmdk.Descriptor) bool {
	return strings.EqualFold(d.CreateType, vmdk.TypeTwoGbSparse) || strings.EqualFold(d.CreateType, vmdk.TypeTwoGbFlat)
}

// refuseSplit refuses split disks that have not what the type says.
func refuseSplit(l *level) error {
	d := l.desc.Descriptor
	kind := vmdk.ExtentFlat
	if strings.EqualFold(d.CreateType, vmdk.TypeTwoGbSparse) {
		kind = vmdk.ExtentSparse
	}
	for _, e := range d.Extents {
		if e.Type != kind || e.OffsetSectors != 0 || !splitName.MatchString(e.Name) {
			return chainError(l.path, disk.ErrUnsupported, "the extent %s is none of a %s disk; make it one of another format with vmstream disk convert", e.Name, d.CreateType)
		}
	}
	last := d.Extents[len(d.Extents)-1]
	if kind == vmdk.ExtentSparse && last.Sectors%vmdk.GrainSectors != 0 {
		return chainError(l.path, disk.ErrUnsupported, "its last extent ends within a grain; make it one of another format with vmstream disk convert")
	}
	return nil
}

// splitExtension is what a split disk gets: a longer last extent, if it is flat, and new
// extents behind it.
type splitExtension struct {
	o       *ExtendOptions
	l       *level
	last    vmdk.Extent // as it is to be
	added   []vmdk.Extent
	created []string // files
}

// extendSplit makes a split disk larger. The descriptor, which is replaced last, is what
// makes new files a part of it; one that is there by that name already is left alone.
func (c *chain) extendSplit(o *ExtendOptions, e *Extended) error {
	d := c.top().desc.Descriptor
	_, was := splitLast(d.Extents)
	s := &splitExtension{o: o, l: c.top(), last: was}
	if err := s.plan((e.NewBytes - e.OldBytes) / disk.SectorSize); err != nil {
		return err
	}
	if n := len(d.Extents) + len(s.added); n > vmdk.MaxExtents {
		return chainError(s.l.path, disk.ErrUnsupported, "it would have %d extents; readers take %d", n, vmdk.MaxExtents)
	}
	text, err := extendedText(s.l, e.NewBytes, append([]vmdk.Extent{s.last}, s.added...)...)
	if err == nil {
		err = s.write(was.Sectors)
	}
	if err == nil {
		err = o.Files.Replace(s.l.path, text)
	}
	if err != nil {
		return errors.Join(err, s.undo())
	}
	return nil
}

// plan says which extents get so many sectors.
func (s *splitExtension) plan(sectors int64) error {
	if s.last.Type == vmdk.ExtentFlat {
		n := min(max(vmdk.SplitExtentSectors-s.last.Sectors, 0), sectors)
		s.last.Sectors += n
		sectors -= n
	}
	name := filepath.FromSlash(strings.ReplaceAll(s.last.Name, `\`, "/"))
	parts := splitName.FindStringSubmatch(filepath.Base(name))
	number, err := strconv.Atoi(parts[2])
	if err != nil {
		return chainError(s.l.path, disk.ErrUnsupported, "its last extent has a number that is too large")
	}
	for ; sectors > 0; sectors -= vmdk.SplitExtentSectors {
		var path string
		for path == "" || exists(path) {
			number++
			name = fmt.Sprintf("%s%03d%s", parts[1], number, parts[3])
			path = filepath.Join(filepath.Dir(s.path(s.last.Name)), name)
		}
		x := s.last
		x.Sectors = min(sectors, vmdk.SplitExtentSectors)
		x.Name = s.last.Name[:len(s.last.Name)-len(parts[0])] + name
		s.added = append(s.added, x)
	}
	return nil
}

// path is that of the file of an extent.
func (s *splitExtension) path(name string) string {
	name = filepath.FromSlash(strings.ReplaceAll(name, `\`, "/"))
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(s.l.path), name)
}

// write makes the files, and has them durable.
func (s *splitExtension) write(wasSectors int64) error {
	if s.last.Sectors > wasSectors {
		if err := s.o.lengthen(s.path(s.last.Name), wasSectors*disk.SectorSize, s.last.Sectors*disk.SectorSize, false); err != nil {
			return err
		}
	}
	for _, x := range s.added {
		path := s.path(x.Name)
		f, err := s.o.FS.Create(path, s.path(s.last.Name))
		if err != nil {
			return err
		}
		s.created = append(s.created, path)
		if x.Type == vmdk.ExtentFlat {
			err = f.Truncate(x.Sectors * disk.SectorSize)
		} else {
			err = writeAll(f, vmdk.EmptyExtent(x.Sectors))
		}
		if err == nil {
			err = f.Sync()
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if len(s.created) == 0 {
		return nil
	}
	return s.o.FS.SyncDir(filepath.Dir(s.created[0]))
}

// undo removes what nothing refers to. What cannot be removed is no part of the disk.
func (s *splitExtension) undo() error {
	var errs []error
	for _, path := range s.created {
		if refers, err := s.refers(path); err == nil && !refers {
			errs = append(errs, removeIfThere(s.o.FS, path))
		}
	}
	return errors.Join(errs...)
}

// refers reports if the descriptor as it is now has a file for an extent.
func (s *splitExtension) refers(path string) (bool, error) {
	d, err := s.o.place().descriptor(s.l.path)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(d.Descriptor.Extents, func(e vmdk.Extent) bool { return s.path(e.Name) == path }), nil
}
