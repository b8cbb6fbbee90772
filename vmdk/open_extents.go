// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
)

// openExtents opens what the extent lines name. The caller closes the link if
// there is an error.
func (op *opener) openExtents(l *Link, dir *directoryOf) error {
	d := l.descriptor
	sparse := map[string]bool{}
	for _, e := range d.Extents {
		if e.Type == ExtentZero {
			l.add(zeroExtent{sizeBytes: e.Sectors * disk.SectorSize})
			continue
		}
		if e.Type != ExtentFlat && e.Type != ExtentVMFS && e.Type != ExtentVMFSRDM {
			key := filepath.Clean(e.Name)
			if sparse[key] {
				return &disk.FormatError{
					File: dir.referrer, Format: descriptorFormat, Field: "extent " + quoteName(e.Name), Offset: -1,
					Err: disk.ErrCorrupt, Detail: "the file is named twice",
				}
			}
			sparse[key] = true
		}
		f, err := dir.open(e.Name)
		if err != nil {
			return err
		}
		x, err := op.openExtent(l, f, e)
		if err != nil {
			return errors.Join(err, f.Close())
		}
		l.add(x)
	}
	return nil
}

// hasCOWDMagic reports if a SPARSE extent is a COWD file, which it was in
// hosted products before Workstation 4. No guest writes these bytes.
func hasCOWDMagic(f disk.RawFile) bool {
	var b [4]byte
	return disk.ReadFull(f, b[:], 0) == nil && string(b[:]) == "COWD"
}

// openExtent makes an extent of a file, as the keyword of its line says. The
// file is the extent's, unless there is an error.
func (op *opener) openExtent(l *Link, f disk.RawFile, e Extent) (extent, error) {
	spec := extentSpec{sectors: e.Sectors, hole: holeOf(l.descriptor)}
	var x *grainExtent
	var err error
	if _, ok := f.(disk.Mapping); ok && e.Type != ExtentVMFSRDM {
		return nil, &disk.FormatError{
			File: l.info.Path, Format: descriptorFormat, Field: "extent " + quoteName(e.Name), Offset: -1, Err: disk.ErrCorrupt,
			Detail: "a raw device mapping, where the descriptor says " + e.Type,
		}
	}
	switch e.Type {
	case ExtentVMFSRDM:
		// The file that a mapping names has nothing but an id: what lies in the tree in its
		// place has to be the device.
		if _, ok := f.(disk.Mapping); !ok {
			return nil, &disk.FormatError{
				File: l.info.Path, Format: descriptorFormat, Field: "extent " + quoteName(e.Name), Offset: -1, Err: disk.ErrUnsupported,
				Detail: "a raw device mapping: the content is on the mapped LUN; say with --rdm " + filepath.Base(l.info.Path) + "=DEVICE which device or image of it that is",
			}
		}
		return openFlat(f, op.shared, e, false)
	case ExtentFlat, ExtentVMFS:
		if len(l.descriptor.Extents) == 1 && f.Size() > (e.OffsetSectors+e.Sectors)*disk.SectorSize {
			op.shared.warnf("%s: is longer than the descriptor says; the rest is not read", f.Name())
		}
		return openFlat(f, op.shared, e, op.options.PadShort)
	case ExtentSESparse:
		x, err = openSESparse(sourceOf(f), op.shared, spec)
	case ExtentSparse:
		if !hasCOWDMagic(f) {
			x, err = openHosted(sourceOf(f), op.shared, spec)
			break
		}
		fallthrough
	default:
		var h cowdHeader
		if x, h, err = openCOWD(sourceOf(f), op.shared, spec); err == nil && l.cowd == nil {
			l.cowd = &h
		}
	}
	if err != nil {
		return nil, err
	}
	x.closer = f
	return x, nil
}
