// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"encoding/binary"
	"fmt"
	"slices"

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

// area is a piece of metadata, in sectors, end exclusive.
type area struct {
	start, end uint64
	what       string
}

// fileLayout says where an extent with sector pointers (KDMV, COWD) has its
// metadata, so that no pointer to data can lead there.
type fileLayout struct {
	src          *source
	firstData    uint64 // sectors
	areas        []area
	tables       []uint32 // first sectors, ascending
	tableSectors uint64
}

// checkAreas refuses areas that overlap or leave the file.
func (l *fileLayout) checkAreas() error {
	sorted := slices.SortedFunc(slices.Values(l.areas), func(a, b area) int {
		if a.start < b.start {
			return -1
		}
		return 1
	})
	for i, a := range sorted {
		if a.end > l.src.sectors() {
			return l.src.fail(disk.ErrTruncated, a.what, byteOffset(a.start), "it ends at sector %d, the file has %d", a.end, l.src.sectors())
		}
		if i > 0 && a.start < sorted[i-1].end {
			return l.src.fail(disk.ErrCorrupt, a.what, byteOffset(a.start), "overlaps the %s", sorted[i-1].what)
		}
	}
	return nil
}

// byteOffset is for messages: sectors beyond any file give -1, no offset.
func byteOffset(sector uint64) int64 {
	if sector > maxFileSectors {
		return -1
	}
	return int64(sector) * disk.SectorSize
}

// tableTrouble says why there cannot be a grain table at the sector, "" if
// there can. Whether tables overlap each other is another question.
func (l *fileLayout) tableTrouble(sector uint64) (why string, kind error) {
	if (sector+l.tableSectors)*disk.SectorSize > uint64(l.src.sizeBytes) {
		return fmt.Sprintf("names sector %d, the file has %d", sector, l.src.sectors()), disk.ErrTruncated
	}
	for _, a := range l.areas {
		if sector < a.end && sector+l.tableSectors > a.start {
			return fmt.Sprintf("names sector %d, inside the %s", sector, a.what), disk.ErrCorrupt
		}
	}
	return "", nil
}

// addTables puts the tables of a directory on the list; sortTables ends that.
func (l *fileLayout) addTables(d *directory) {
	l.tables = slices.Grow(l.tables, int(d.tables))
	for _, t := range d.all {
		l.tables = append(l.tables, t)
	}
}

// sortTables refuses tables that overlap: a table used for two places, or at
// the wrong place, would give wrong content for one of them.
func (l *fileLayout) sortTables() error {
	slices.Sort(l.tables)
	for i := 1; i < len(l.tables); i++ {
		if a, b := uint64(l.tables[i-1]), uint64(l.tables[i]); b-a < l.tableSectors {
			return l.src.fail(disk.ErrCorrupt, "grain directory", byteOffset(b), "two grain tables overlap, at sectors %d and %d", a, b)
		}
	}
	return nil
}

// metadataEnd returns the sector behind all metadata.
func (l *fileLayout) metadataEnd() uint64 {
	end := uint64(0)
	for _, a := range l.areas {
		end = max(end, a.end)
	}
	if n := len(l.tables); n > 0 {
		end = max(end, uint64(l.tables[n-1])+l.tableSectors)
	}
	return end
}

// grainChecker checks pointers to data. It remembers the gap between metadata
// that the last one fell into: neighbours mostly fall into the same.
type grainChecker struct {
	l      *fileLayout
	lo, hi uint64 // sectors
}

// trouble says why there cannot be data of a length in bytes at the sector; kind is nil if there can.
func (c *grainChecker) trouble(sector uint64, lengthBytes int64) (why string, kind error) {
	if sector*disk.SectorSize+uint64(lengthBytes) > uint64(c.l.src.sizeBytes) {
		return fmt.Sprintf("names sector %d, but the file has %d bytes", sector, c.l.src.sizeBytes), disk.ErrTruncated
	}
	if sector < c.lo || sector >= c.hi {
		if what := c.findGap(sector); what != "" {
			return fmt.Sprintf("names sector %d, inside the %s", sector, what), disk.ErrCorrupt
		}
	}
	if sector+divUp(uint64(lengthBytes), disk.SectorSize) > c.hi {
		return fmt.Sprintf("names sector %d, but metadata begins at sector %d", sector, c.hi), disk.ErrCorrupt
	}
	return "", nil
}

func (c *grainChecker) findGap(sector uint64) (inside string) {
	lo, hi := c.l.firstData, uint64(1)<<63
	if sector < lo {
		return "metadata in front of the first grain"
	}
	for _, a := range c.l.areas {
		switch {
		case sector < a.start:
			hi = min(hi, a.start)
		case sector >= a.end:
			lo = max(lo, a.end)
		default:
			return a.what
		}
	}
	// Tables are below 2^32 sectors, as are all pointers that are checked here.
	i, found := slices.BinarySearch(c.l.tables, uint32(sector))
	if found {
		return "grain table"
	}
	if i > 0 {
		end := uint64(c.l.tables[i-1]) + c.l.tableSectors
		if sector < end {
			return "grain table"
		}
		lo = max(lo, end)
	}
	if i < len(c.l.tables) {
		hi = min(hi, uint64(c.l.tables[i]))
	}
	c.lo, c.hi = lo, hi
	return ""
}
