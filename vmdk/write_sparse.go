// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vmstream/vmstream/disk"
)

// SplitExtentSectors is the capacity of an extent of a split disk: 2047 MiB, as in
// VMware's older products. A full extent adds 640 sectors of header, tables
// and padding and has 2146762752 bytes, below the 2 GiB = 2147483648 at which
// FAT and signed 32-bit offsets end; with 2048 MiB it would not be.
const SplitExtentSectors = 2047 << 20 / disk.SectorSize

// embeddedSectors is the room for an embedded descriptor, as VMware has it. A
// longer descriptor gets more.
const embeddedSectors = 20

// sparseWriter writes sparse extents one after the other: one with an embedded
// descriptor, or many with a descriptor beside them.
type sparseWriter struct {
	*grainMerger
	files    newFiles
	names    []string // of the extents
	sectors  int64    // capacity of the disk
	perFile  int64    // capacity of all extents but the last, in sectors
	embedded []byte   // descriptor for the first extent; nil if it has its own file
	desc     *descriptorFile
	descName string

	cur  *extentFile // the extent being written
	open int         // number of extents begun
	done bool
}

func createSparse(spec *CreateSpec) (Writer, error) {
	w := &sparseWriter{files: newFiles{dir: spec.Dir}, sectors: spec.sectors()}
	w.grainMerger = newGrainMerger(w, w.sectors)
	createType := TypeMonolithicSparse
	if spec.Format == FormatSparse {
		w.perFile = w.sectors
		w.names = []string{spec.Name}
	} else {
		createType = TypeTwoGbSparse
		w.perFile = SplitExtentSectors
		w.descName = spec.Name
		n := ceilDiv(w.sectors, SplitExtentSectors)
		if n > MaxExtents {
			return nil, fmt.Errorf("%s: a split disk of %d bytes would have %d files; readers take %d: %w", spec.Name, spec.SizeBytes, n, MaxExtents, disk.ErrUnsupported)
		}
		for i := range n {
			w.names = append(w.names, fmt.Sprintf("%s-s%03d.vmdk", spec.base(), i+1))
		}
	}
	d, err := spec.descriptor(createType, w.extents())
	if err != nil {
		return nil, err
	}
	text, err := d.Marshal()
	if err != nil {
		return nil, err
	}
	if err := w.begin(text); err != nil {
		w.Abort()
		return nil, err
	}
	return w, nil
}

// capacity returns the capacity of an extent in sectors.
func (w *sparseWriter) extentSectors(i int) int64 {
	return min(w.perFile, w.sectors-int64(i)*w.perFile)
}

func (w *sparseWriter) extents() []Extent {
	var out []Extent
	for i, name := range w.names {
		out = append(out, Extent{Access: AccessRW, Sectors: w.extentSectors(i), Type: ExtentSparse, Name: name})
	}
	return out
}

// begin creates the first files.
func (w *sparseWriter) begin(text []byte) (err error) {
	if err := w.files.free(w.names...); err != nil {
		return err
	}
	if w.descName == "" {
		w.embedded = text
	} else if w.desc, err = w.files.reserve(w.descName, text); err != nil {
		return err
	}
	return w.nextExtent()
}

// nextExtent completes the extent being written and begins the next.
func (w *sparseWriter) nextExtent() error {
	if err := w.endExtent(); err != nil {
		return err
	}
	f, err := w.files.create(w.names[w.open])
	if err != nil {
		return err
	}
	descriptorSectors := int64(0)
	if w.embedded != nil {
		descriptorSectors = max(embeddedSectors, ceilDiv(int64(len(w.embedded)), disk.SectorSize))
	}
	x, err := newExtentFile(f, layoutExtent(w.extentSectors(w.open), descriptorSectors), w.embedded)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.cur = x
	w.open++
	return nil
}

func (w *sparseWriter) endExtent() error {
	if w.cur == nil {
		return nil
	}
	x := w.cur
	w.cur = nil
	return x.finish()
}

// writeGrains distributes grains to the extents, whose capacities are whole
// grains except for the last.
func (w *sparseWriter) writeGrains(first int64, data []byte) error {
	for len(data) > 0 {
		perFile := ceilDiv(w.perFile, GrainSectors) // in grains
		i, inFile := first/perFile, first%perFile
		for int64(w.open) <= i {
			if err := w.nextExtent(); err != nil {
				return err
			}
		}
		n := min(int64(len(data)/GrainBytes), perFile-inFile)
		if err := w.cur.writeGrains(inFile, data[:n*GrainBytes]); err != nil {
			return err
		}
		first, data = first+n, data[n*GrainBytes:]
	}
	return nil
}

func (w *sparseWriter) Ordered() bool { return true }

func (w *sparseWriter) Files() []string {
	if w.descName == "" {
		return w.names
	}
	return append(append([]string(nil), w.names...), w.descName)
}

func (w *sparseWriter) Close() error {
	if w.done {
		return fs.ErrClosed
	}
	if err := w.complete(); err != nil {
		return errors.Join(err, w.drop())
	}
	w.done, w.err = true, fs.ErrClosed
	return nil
}

func (w *sparseWriter) complete() error {
	if err := w.finish(); err != nil {
		return err
	}
	for w.open < len(w.names) {
		if err := w.nextExtent(); err != nil {
			return err
		}
	}
	if err := w.endExtent(); err != nil {
		return err
	}
	if w.desc != nil {
		if err := w.desc.complete(); err != nil {
			return err
		}
	}
	return w.files.complete()
}

func (w *sparseWriter) Abort() {
	if !w.done {
		_ = w.drop() // nobody to tell
	}
}

// drop closes and removes everything.
func (w *sparseWriter) drop() error {
	w.done = true
	if w.err == nil {
		w.err = fs.ErrClosed // for writes that come after
	}
	if w.cur != nil {
		_ = w.cur.f.Close() // its content does not matter any more
		w.cur = nil
	}
	if w.desc != nil {
		_ = w.desc.close() // likewise
	}
	return w.files.discard()
}
