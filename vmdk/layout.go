// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"fmt"
	"slices"

	"github.com/vmstream/vmstream/disk"
)

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
