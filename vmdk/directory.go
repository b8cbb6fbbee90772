// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"encoding/binary"

	"github.com/vmstream/vmstream/disk"
)

// directoryPage is the number of directory entries kept together. A page
// without entries takes no memory, so an almost empty delta takes little.
const directoryPage = 512

// directory is the grain directory of an extent in memory: for each grain table where it is, 0
// for a table that does not exist. In sectors, or table number + 1 in an
// SEsparse extent. It does not change once the extent is open.
type directory struct {
	pages  [][]uint32 // nil for a page of zeros
	n      int64      // entries
	tables int64      // entries that are not 0
}

func (d *directory) at(i int64) uint32 {
	p := d.pages[i/directoryPage]
	if p == nil {
		return 0
	}
	return p[i%directoryPage]
}

// next returns the first index from i on whose table exists, n if there is none.
func (d *directory) next(i int64) int64 {
	for i < d.n {
		p := d.pages[i/directoryPage]
		if p == nil {
			i += directoryPage - i%directoryPage
			continue
		}
		if p[i%directoryPage] != 0 {
			return i
		}
		i++
	}
	return d.n
}

// set changes an entry that is not 0 into another one.
func (d *directory) set(i int64, v uint32) { d.pages[i/directoryPage][i%directoryPage] = v }

// all yields the index and entry of every table that exists.
func (d *directory) all(yield func(int64, uint32) bool) {
	for i := d.next(0); i < d.n; i = d.next(i + 1) {
		if !yield(i, d.at(i)) {
			return
		}
	}
}

// directorySpec says where a directory lies and how to read its entries.
type directorySpec struct {
	offset     uint64 // bytes
	n          int64
	entryBytes int64
	field      string
	// decode turns the entry at index i into what is kept; nil for a plain u32.
	decode func(i int64, b []byte) (uint32, error)
}

// readDirectory reads a directory piece by piece, so that a length which the
// file does not have fails before memory is taken for it.
func readDirectory(src *source, sh *shared, spec directorySpec) (*directory, error) {
	pages := int64(divUp(uint64(spec.n), directoryPage))
	d := &directory{n: spec.n}
	end := spec.offset + uint64(spec.n*spec.entryBytes)
	if end > uint64(src.sizeBytes) {
		return nil, src.fail(disk.ErrTruncated, spec.field, int64(spec.offset), "%d entries end at 0x%x, the file has 0x%x bytes", spec.n, end, src.sizeBytes)
	}
	if spec.n > maxDirectoryEntries {
		return nil, src.fail(disk.ErrUnsupported, spec.field, int64(spec.offset), "%d entries, at most %d can be held", spec.n, int64(maxDirectoryEntries))
	}
	d.pages = make([][]uint32, pages)
	buf := make([]byte, directoryPage*spec.entryBytes)
	for page := range pages {
		first := page * directoryPage
		b := buf[:min(directoryPage, spec.n-first)*spec.entryBytes]
		if err := src.readFull(b, spec.offset+uint64(first*spec.entryBytes), spec.field); err != nil {
			return nil, err
		}
		if disk.IsZero(b) {
			continue
		}
		sh.directoryEntries += directoryPage
		if sh.directoryEntries > maxDirectoryEntries {
			return nil, src.fail(disk.ErrUnsupported, spec.field, int64(spec.offset), "the grain directories of this disk have more than %d entries", int64(maxDirectoryEntries))
		}
		p, err := d.decodePage(b, first, spec)
		if err != nil {
			return nil, err
		}
		d.pages[page] = p
	}
	return d, nil
}

func (d *directory) decodePage(b []byte, first int64, spec directorySpec) ([]uint32, error) {
	p := make([]uint32, directoryPage)
	for i := range int64(len(b)) / spec.entryBytes {
		e := b[i*spec.entryBytes:][:spec.entryBytes]
		if spec.decode == nil {
			p[i] = binary.LittleEndian.Uint32(e)
		} else {
			v, err := spec.decode(first+i, e)
			if err != nil {
				return nil, err
			}
			p[i] = v
		}
		if p[i] != 0 {
			d.tables++
		}
	}
	return p, nil
}
