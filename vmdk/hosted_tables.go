// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/vmstream/vmstream/disk"
)

// hostedTables reads the grain tables of a hosted sparse extent. Where the
// extent has two copies, both are read and compared. An entry that is good in
// one copy only is taken from there, with a warning. Two good entries that
// differ, or a missing table or grain in one copy, cannot be decided: taking
// the wrong one would silently give wrong content.
type hostedTables struct {
	src    *source
	shared *shared
	header sparseHeader
	extent *grainExtent
	layout fileLayout
	second *directory // the redundant one; nil if there is only one copy

	lastTable atomic.Int64 // read last, to know a walk by it
}

// openDirectories reads the grain directory, both copies of it with redundant.
func (t *hostedTables) openDirectories(redundant bool) error {
	h := &t.header
	t.layout = fileLayout{src: t.src, firstData: max(h.overHead, 1), tableSectors: gtSectors}
	t.layout.areas = append(t.layout.areas, area{0, 1, "header"})
	if h.descriptorOffset != 0 {
		if h.descriptorOffset > maxFileSectors || h.descriptorSize > maxFileSectors {
			return t.src.fail(disk.ErrCorrupt, "descriptorOffset", 28, "%d sectors at sector %d", h.descriptorSize, h.descriptorOffset)
		}
		t.layout.areas = append(t.layout.areas, area{h.descriptorOffset, h.descriptorOffset + h.descriptorSize, "embedded descriptor"})
	}
	if err := t.layout.checkAreas(); err != nil {
		return err
	}
	if redundant && h.rgdOffset == h.gdOffset {
		t.shared.warnf("%s: both grain directories are at the same place, so there is no second copy to compare", t.src.path)
		redundant = false
	}
	first, firstErr := t.readDirectory("grain directory", h.gdOffset)
	if !redundant {
		if firstErr != nil {
			return firstErr
		}
		return t.adopt(first, nil)
	}
	second, secondErr := t.readDirectory("redundant grain directory", h.rgdOffset)
	switch {
	case firstErr != nil && secondErr != nil:
		return firstErr
	case firstErr != nil:
		t.shared.warnf("%v; the redundant copy is used", firstErr)
		return t.adopt(second, nil)
	case secondErr != nil:
		t.shared.warnf("%v; the first copy is used", secondErr)
		return t.adopt(first, nil)
	}
	return t.adopt(first, second)
}

func (t *hostedTables) readDirectory(field string, sector uint64) (*directory, error) {
	at := int64(56)
	if field != "grain directory" {
		at = 48
	}
	if sector == 0 || sector > maxFileSectors-maxDiskSectors {
		return nil, t.src.fail(disk.ErrCorrupt, field, at, "is said to be at sector %d", sector)
	}
	a := area{sector, sector + t.header.directorySectors(), field}
	old := t.layout.areas
	t.layout.areas = append(old[:len(old):len(old)], a)
	if err := t.layout.checkAreas(); err != nil {
		t.layout.areas = old
		return nil, err
	}
	d, err := readDirectory(t.src, t.shared, directorySpec{offset: sector * disk.SectorSize, n: int64(t.header.tables()), entryBytes: 4, field: field})
	if err != nil {
		t.layout.areas = old
	}
	return d, err
}

// adopt checks the entries of the directories and takes them into use.
func (t *hostedTables) adopt(first, second *directory) error {
	t.extent.dir, t.second = first, second
	if second != nil {
		if err := t.compareDirectories(first, second); err != nil {
			return err
		}
		// Where one copy was bad both name the same table, which is no overlap.
		for i, e := range second.all {
			if e != first.at(i) {
				t.layout.tables = append(t.layout.tables, e)
			}
		}
	} else {
		for i, e := range first.all {
			if why, kind := t.layout.tableTrouble(uint64(e)); kind != nil {
				return t.entryError(kind, i, "%s", why)
			}
		}
	}
	t.layout.addTables(first)
	return t.layout.sortTables()
}

// entryError is about entry i of the first grain directory.
func (t *hostedTables) entryError(kind error, i int64, format string, args ...any) error {
	off := byteOffset(t.header.gdOffset)
	if off >= 0 {
		off += i * 4
	}
	return t.src.fail(kind, fmt.Sprintf("grain directory entry %d", i), off, format, args...)
}

// grainError is about the entry of a grain in the first copy of its table.
func (t *hostedTables) grainError(kind error, grain int64, format string, args ...any) error {
	off := int64(t.extent.dir.at(grain/gtEntries))*disk.SectorSize + grain%gtEntries*4
	return t.src.fail(kind, fmt.Sprintf("grain table entry of grain %d", grain), off, format, args...)
}

// compareDirectories replaces bad entries of one copy by the good ones of the
// other. The copies name different tables, so only presence can be compared.
func (t *hostedTables) compareDirectories(first, second *directory) error {
	for i := int64(0); ; i++ {
		i = min(first.next(i), second.next(i))
		if i >= first.n {
			return nil
		}
		a, b := first.at(i), second.at(i)
		if a == 0 || b == 0 {
			return t.entryError(disk.ErrMismatch, i, "is %d, in the redundant copy %d: one of them has lost a grain table", a, b)
		}
		whyA, kindA := t.layout.tableTrouble(uint64(a))
		whyB, kindB := t.layout.tableTrouble(uint64(b))
		switch {
		case kindA != nil && kindB != nil:
			return t.entryError(kindA, i, "%s, and so does the redundant copy", whyA)
		case kindA != nil:
			t.shared.warnf("%s: grain directory entry %d %s; the redundant copy is used", t.src.path, i, whyA)
			first.set(i, b)
		case kindB != nil:
			t.shared.warnf("%s: redundant grain directory entry %d %s; the first copy is used", t.src.path, i, whyB)
			second.set(i, a)
		}
	}
}

// tablesAhead is how many grain tables are read at once by somebody who goes
// through them in order; they mostly lie one behind the other.
const tablesAhead = 32

const tableBytes = gtEntries * 4

// load reads grain table i, in both copies if there are two. In the course of
// a walk it reads the next ones with it and leaves them in the cache. What is
// wrong with those is told when they are asked for.
func (t *hostedTables) load(i int64) (grainTable, error) {
	n := int64(1)
	if t.lastTable.Swap(i) == i-1 {
		n = t.adjacentTables(i)
	}
	a := make([]byte, n*tableBytes)
	if err := t.src.readFull(a, uint64(t.extent.dir.at(i))*disk.SectorSize, "grain table"); err != nil {
		return nil, err
	}
	b := a
	if t.second != nil {
		b = make([]byte, n*tableBytes)
		if err := t.src.readFull(b, uint64(t.second.at(i))*disk.SectorSize, "redundant grain table"); err != nil {
			return nil, err
		}
	}
	out, err := t.decode(i, a[:tableBytes], b[:tableBytes])
	if err != nil {
		return nil, err
	}
	for k := int64(1); k < n; k++ {
		next, err := t.decode(i+k, a[k*tableBytes:][:tableBytes], b[k*tableBytes:][:tableBytes])
		if err != nil {
			break
		}
		t.extent.keep(i+k, next)
		t.lastTable.Store(i + k)
	}
	return out, nil
}

// adjacentTables returns how many tables from i on lie one behind the other,
// in both copies, up to tablesAhead.
func (t *hostedTables) adjacentTables(i int64) int64 {
	follows := func(d *directory, n int64) bool {
		return int64(d.at(i+n)) == int64(d.at(i))+n*gtSectors
	}
	n := int64(1)
	for n < tablesAhead && i+n < t.extent.dir.n && follows(t.extent.dir, n) && (t.second == nil || follows(t.second, n)) {
		n++
	}
	return n
}

// decode checks grain table i, given in both copies. The result is nil for a
// table without entries.
func (t *hostedTables) decode(i int64, a, b []byte) (grainTable, error) {
	if disk.IsZero(a) && bytes.Equal(a, b) {
		return nil, nil
	}
	out := make(grainTable, gtEntries)
	check := grainChecker{l: &t.layout}
	grain := i * gtEntries
	for j := range out {
		if (grain+int64(j))*t.extent.grainBytes >= t.extent.sizeBytes {
			break // writers may leave anything behind the capacity
		}
		ea, eb := binary.LittleEndian.Uint32(a[j*4:]), binary.LittleEndian.Uint32(b[j*4:])
		if ea == 0 && eb == 0 {
			continue
		}
		e, err := t.entry(&check, grain+int64(j), ea, eb)
		if err != nil {
			return nil, err
		}
		out[j] = e
	}
	return out, nil
}

// entry decides what a grain table entry says, given in both copies.
func (t *hostedTables) entry(c *grainChecker, grain int64, a, b uint32) (int64, error) {
	whyA, kindA := t.grainTrouble(c, grain, a)
	if a == b {
		if kindA != nil {
			return 0, t.grainError(kindA, grain, "%s", whyA)
		}
		return t.meaning(a), nil
	}
	if a == 0 || b == 0 {
		return 0, t.grainError(disk.ErrMismatch, grain, "is %d, in the redundant copy %d: one of them has lost a grain", a, b)
	}
	whyB, kindB := t.grainTrouble(c, grain, b)
	switch {
	case kindA != nil && kindB != nil:
		return 0, t.grainError(kindA, grain, "%s; the redundant copy %s", whyA, whyB)
	case kindA != nil:
		t.shared.warnf("%s: grain table entry %d %s; the redundant copy is used", t.src.path, grain, whyA)
		return t.meaning(b), nil
	case kindB != nil:
		t.shared.warnf("%s: redundant grain table entry %d %s; the first copy is used", t.src.path, grain, whyB)
		return t.meaning(a), nil
	}
	return 0, t.grainError(disk.ErrMismatch, grain, "is %d, in the redundant copy %d, and both are possible", a, b)
}

func (t *hostedTables) meaning(e uint32) int64 {
	if t.zeroEntry(e) {
		return grainZeros
	}
	return int64(e)
}

func (t *hostedTables) zeroEntry(e uint32) bool {
	return e == gteZero && t.header.flags&flagZeroGrain != 0
}

func (t *hostedTables) grainTrouble(c *grainChecker, grain int64, e uint32) (why string, kind error) {
	if t.zeroEntry(e) {
		return "", nil
	}
	if e == gteZero {
		return "says zero grain, but the flags say that there is none", disk.ErrCorrupt
	}
	length := t.extent.grainLength(grain)
	if t.header.compressed() {
		length = markerBytes + 1 // how long the record is, only the record tells
	}
	return c.trouble(uint64(e), length)
}
