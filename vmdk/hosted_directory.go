// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"fmt"

	"github.com/vmstream/vmstream/disk"
)

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
