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
	out := t.extent.scratch(0)
	defer t.shared.giveBack(out)
	check := grainChecker{l: &t.layout}
	grain := i * gtEntries
	for j := range int64(gtEntries) {
		if (grain+j)*t.extent.grainBytes >= t.extent.sizeBytes {
			break // writers may leave anything behind the capacity
		}
		ea, eb := binary.LittleEndian.Uint32(a[j*4:]), binary.LittleEndian.Uint32(b[j*4:])
		if ea == 0 && eb == 0 {
			continue
		}
		e, err := t.entry(&check, grain+j, ea, eb)
		if err != nil {
			return nil, err
		}
		out.put(int32(j), e)
	}
	return out.table(gtEntries), nil
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
