// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/vmstream/vmstream/disk"
)

// writeAbsent writes the beginning of p, whose first grain is not stored.
func (u *Updater) writeAbsent(p []byte, off int64) (int, error) {
	first := off / u.grainBytes
	n, err := u.absentLength(p, off)
	if err != nil {
		return 0, err
	}
	if n == 0 { // zeros over zeros
		return int(min(int64(len(p)), (first+1)*u.grainBytes-off)), nil
	}
	p = p[:n]
	grains := ceilDiv(off+int64(n), u.grainBytes) - first
	// Before the new entries hide it: what the edges were.
	head, tail, err := u.edges(p, off, first, grains)
	if err != nil {
		return 0, err
	}
	start, err := u.allocate(first, grains)
	if err != nil {
		return 0, err
	}
	pos := int64(start) * disk.SectorSize
	middle := p
	if head != nil {
		middle = middle[min(int64(len(p)), (first+1)*u.grainBytes-off):]
	}
	if tail != nil {
		middle = middle[:int64(len(middle))/u.grainBytes*u.grainBytes]
	}
	for _, b := range [][]byte{head, middle, tail} {
		if len(b) == 0 {
			continue
		}
		if _, err := u.f.WriteAt(b, pos); err != nil {
			return 0, err
		}
		pos += int64(len(b))
	}
	return n, u.enter(first, grains, start)
}

// absentLength returns how many bytes of p go to grains that are not stored
// and have to be: 0 if the first grain needs none.
func (u *Updater) absentLength(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		grain := (off + int64(n)) / u.grainBytes
		e, err := u.entry(grain)
		if err != nil {
			return 0, err
		}
		part := p[n:min(int64(len(p)), (grain+1)*u.grainBytes-off)]
		if e > gteZero || (e == gteZero || u.spec.Fill == nil) && disk.IsZero(part) {
			break
		}
		n += len(part)
	}
	return n, nil
}

// edges returns the first and the last of some grains as whole grains, each nil
// if p has all of it.
func (u *Updater) edges(p []byte, off, first, grains int64) (head, tail []byte, err error) {
	end := off + int64(len(p))
	if off%u.grainBytes != 0 || end < (first+1)*u.grainBytes {
		if head, err = u.filled(first, p, off); err != nil {
			return nil, nil, err
		}
	}
	if last := first + grains - 1; end%u.grainBytes != 0 && (grains > 1 || head == nil) {
		tail, err = u.filled(last, p[max(last*u.grainBytes-off, 0):], max(last*u.grainBytes, off))
	}
	return head, tail, err
}

// filled returns a grain with p, which begins at off, over what is below. What
// lies behind the end of the disk is zero.
func (u *Updater) filled(grain int64, p []byte, off int64) ([]byte, error) {
	b := make([]byte, u.grainBytes)
	begin := grain * u.grainBytes
	e, err := u.entry(grain)
	if err != nil {
		return nil, err
	}
	if u.spec.Fill != nil && e != gteZero {
		if err := disk.ReadFull(u.spec.Fill, b[:min(u.grainBytes, u.sizeBytes-begin)], begin); err != nil {
			return nil, fmt.Errorf("%s: what is below grain %d: %w", u.spec.Name, grain, err)
		}
	}
	copy(b[off-begin:], p)
	return b, nil
}

// allocate returns the first sector of a place for some grains, behind which
// everything is free, and makes the tables that they need.
func (u *Updater) allocate(first, grains int64) (uint64, error) {
	next := u.next
	for i := first / u.entries; i <= (first+grains-1)/u.entries; i++ {
		if t, err := u.table(i); err != nil {
			return 0, err
		} else if t != nil {
			continue
		}
		if next+2*u.tableSectors > maxPointerSectors {
			return 0, u.full()
		}
		u.setTable(i, uint32(next))
		next = u.format.newTable(i, next+u.tableSectors)
	}
	start := (next + u.alignSectors - 1) / u.alignSectors * u.alignSectors
	end := start + uint64(grains)*u.grainSectors
	if end > maxPointerSectors {
		return 0, u.full()
	}
	u.next = end
	return start, nil
}

func (u *Updater) full() error {
	return &disk.FormatError{
		File: u.spec.Name, Field: "free space", Offset: int64(u.next) * disk.SectorSize, Err: disk.ErrUnsupported,
		Detail: "the file would exceed 2 TiB, the most its pointers can address",
	}
}

// setTable enters a new table into the directory in memory.
func (u *Updater) setTable(i int64, sector uint32) {
	u.dir.insert(i, sector)
	u.tables[i] = &updateTable{entries: make([]uint32, u.entries), isNew: true, dirty: true}
	u.format.touch(i)
}

// insert sets an entry, also one that was 0.
func (d *directory) insert(i int64, v uint32) {
	page := i / directoryPage
	if d.pages[page] == nil {
		d.pages[page] = make([]uint32, directoryPage)
	}
	if d.pages[page][i%directoryPage] == 0 {
		d.tables++
	}
	d.pages[page][i%directoryPage] = v
}

// enter enters grains that lie behind each other into their tables.
func (u *Updater) enter(first, grains int64, start uint64) error {
	for k := range grains {
		grain := first + k
		t, err := u.table(grain / u.entries)
		if err != nil {
			return err
		}
		t.entries[grain%u.entries] = uint32(start + uint64(k)*u.grainSectors)
		t.dirty = true
	}
	return nil
}

// Flush makes everything written so far durable and visible to readers.
func (u *Updater) Flush() error {
	if u.err == nil {
		u.err = u.flush()
	}
	return u.err
}

func (u *Updater) flush() error {
	dirty := slices.Sorted(maps.Keys(u.tables))
	dirty = slices.DeleteFunc(dirty, func(i int64) bool { return !u.tables[i].dirty })
	if len(dirty) > 0 && !u.begun {
		if err := u.format.begin(); err != nil {
			return err
		}
		u.begun = true
	}
	if err := u.f.Sync(); err != nil { // grains before the entries that point at them
		return err
	}
	if len(dirty) == 0 {
		return nil
	}
	var fresh []int64
	for _, i := range dirty {
		t := u.tables[i]
		if err := u.putTable(t, u.dir.at(i)); err != nil {
			return err
		}
		if t.isNew {
			fresh = append(fresh, i)
		}
	}
	if err := u.f.Sync(); err != nil { // tables before the directory
		return err
	}
	if err := u.putDirectories(fresh); err != nil {
		return err
	}
	for _, i := range dirty {
		u.tables[i].dirty, u.tables[i].isNew = false, false
	}
	return nil
}

func (u *Updater) putTable(t *updateTable, sector uint32) error {
	b := make([]byte, u.entries*4)
	for j, e := range t.entries {
		binary.LittleEndian.PutUint32(b[j*4:], e)
	}
	_, err := u.f.WriteAt(b, int64(sector)*disk.SectorSize)
	return err
}

func (u *Updater) putDirectories(tables []int64) error {
	if len(tables) == 0 {
		return nil
	}
	if err := u.format.putDirectory(tables); err != nil {
		return err
	}
	if err := putDirectoryEntries(u.f, u.dir, u.dirSector, tables); err != nil {
		return err
	}
	return u.f.Sync()
}

// putDirectoryEntries writes the sectors of a directory that have the entries
// of the given tables.
func putDirectoryEntries(f ExtentFile, d *directory, sector uint64, tables []int64) error {
	const perSector = disk.SectorSize / 4
	done := int64(-1)
	for _, i := range tables {
		if i/perSector == done {
			continue
		}
		done = i / perSector
		b := make([]byte, disk.SectorSize)
		for k := range int64(perSector) {
			if j := done*perSector + k; j < d.n {
				binary.LittleEndian.PutUint32(b[k*4:], d.at(j))
			}
		}
		if _, err := f.WriteAt(b, (int64(sector)+done)*disk.SectorSize); err != nil {
			return err
		}
	}
	return nil
}

// Close makes everything durable and completes the header. The file stays
// open. Without Close what was flushed counts, and the header tells that the
// last writer did not end.
func (u *Updater) Close() error {
	if u.closed {
		return fs.ErrClosed
	}
	u.closed = true
	err := u.Flush()
	if err == nil && u.begun {
		err = u.format.finish(u.next)
	}
	u.err = fs.ErrClosed // for writes that come after
	return err
}
