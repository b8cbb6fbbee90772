// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// MapDevice makes a raw device mapping: a file that has the id of a LUN, and the size of
// the LUN as its length. Nothing of the LUN is looked at.
func (w *Writer) MapDevice(name string, id *DiskID, sizeBytes int64) error {
	return pathError("create", name, w.mapDevice(name, id, sizeBytes))
}

func (w *Writer) mapDevice(name string, id *DiskID, sizeBytes int64) error {
	content, err := id.encode()
	switch {
	case err != nil:
		return err
	case sizeBytes <= 0 || sizeBytes > maxFileBytes || sizeBytes%disk.SectorSize != 0:
		return fmt.Errorf("VMFS: a LUN of %d bytes: %w", sizeBytes, fs.ErrInvalid)
	}
	dir, base, err := w.place(name)
	if err != nil {
		return err
	}
	const mode = 0o600
	n, err := w.newInode(RawDevice, mode, sizeBytes, time.Time{})
	if err != nil {
		return err
	}
	n.layout = layout{fs: w.fs, name: n.layout.name, at: n.layout.at, unit: n.stat.UnitBytes, zla: zlaBlocks}
	x := &FileWriter{w: w, n: n}
	b := w.fs.header.newDescriptor(n, 0)
	copy(b[w.fs.header.fdPlaces().data:], content)
	if err := w.m.write(b, n.stat.Offset); err != nil {
		return errors.Join(err, x.drop())
	}
	if err := w.m.sync(); err != nil { // before anybody sees it
		return errors.Join(err, x.drop())
	}
	w.forget()
	if err := w.addEntry(dir, dirEntry{RawDevice, n.stat.Address, n.stat.Generation, path.Base(base)}); err != nil {
		return errors.Join(err, x.drop())
	}
	return nil
}

// encode is the counterpart of parseDiskID. Texts have to fit.
func (d *DiskID) encode() ([]byte, error) {
	b := make(fields, diskIDLen)
	if len(d.ID) > diskIDLen-diskIDText {
		return nil, fmt.Errorf("VMFS: an id of %d bytes, there is room for %d: %w", len(d.ID), diskIDLen-diskIDText, disk.ErrUnsupported)
	}
	b[0], b[1], b[2], b[3] = d.Type, uint8(len(d.ID)), uint8(d.LUN), uint8(d.LUN>>8) //nolint:gosec // bounded, and bytes
	b[5] = scsiLevel
	for _, f := range []struct {
		off, n int
		text   string
	}{{6, 8, d.Vendor}, {14, 16, d.Model}, {30, 4, d.Revision}} {
		copy(b[f.off:], fmt.Sprintf("%-*.*s", f.n, f.n, f.text))
	}
	copy(b[diskIDText:], d.ID)
	return b, nil
}

// scsiLevel is the level of SCSI that hosts note of LUNs.
const scsiLevel = 5
