// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/vmstream/vmstream/disk"
)

// cowdUpdate is what is particular to COWD extents: one copy of everything,
// and a header that names the first free sector.
type cowdUpdate struct {
	f         ExtentFile
	fileBytes int64
}

func (u *Updater) openCOWD(ctx context.Context) error {
	g, h, err := openCOWD(u.src, newShared(nil), u.extentSpec())
	if err != nil {
		return err
	}
	if h.version != cowdVersionESX {
		return u.src.fail(disk.ErrUnsupported, "version", 4, "%d is read only; version 1 can be written", h.version)
	}
	gdEnd := uint64(h.gdOffset) + divUp(uint64(h.gdEntries)*4, disk.SectorSize)
	l := fileLayout{
		src: u.src, firstData: cowdHeaderSize / disk.SectorSize, tableSectors: h.tableEntries() * 4 / disk.SectorSize,
		areas: []area{{0, cowdHeaderSize / disk.SectorSize, "header"}, {uint64(h.gdOffset), gdEnd, "grain directory"}},
	}
	l.addTables(g.dir)
	if err := l.sortTables(); err != nil {
		return err
	}
	if _, err := u.adopt(ctx, g, &l); err != nil {
		return err
	}
	// The free sector lies inside the file; one that does not is no reason to
	// make the file that long. It may be behind what the tables say.
	if free := uint64(h.freeSector); free < u.src.sectors() {
		u.next = max(u.next, free)
	}
	u.dirSector, u.alignSectors, u.begun = uint64(h.gdOffset), 1, h.unclean
	u.format = &cowdUpdate{f: u.f, fileBytes: u.spec.FileBytes}
	return nil
}

func (c *cowdUpdate) begin() error { return c.setUnclean(1) }

func (c *cowdUpdate) setUnclean(v uint32) error {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	_, err := c.f.WriteAt(b[:], cowdUnclean)
	return err
}

func (c *cowdUpdate) touch(int64) {}

func (c *cowdUpdate) newTable(_ int64, next uint64) uint64 { return next }

func (c *cowdUpdate) putDirectory([]int64) error { return nil }

func (c *cowdUpdate) finish(next uint64) error {
	if length := cowdFileBytes(next); length > c.fileBytes {
		if err := c.f.Truncate(length); err != nil {
			return err
		}
	}
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], uint32(min(next, maxPointerSectors-1)))
	if _, err := c.f.WriteAt(b[:], cowdFreeSector); err != nil {
		return err
	}
	if err := c.setUnclean(0); err != nil {
		return err
	}
	return c.f.Sync()
}

// hostedUpdate is what is particular to hosted sparse extents: mostly two
// copies of the tables.
type hostedUpdate struct {
	f       ExtentFile
	u       *Updater
	header  sparseHeader
	second  *directory // of the redundant copy; nil if there is none
	touched map[int64]struct{}
}

func (u *Updater) openHosted(ctx context.Context) error {
	u.src.format = sparseFormat
	h, err := loadSparseHeader(u.src, 0)
	if err != nil {
		return err
	}
	if h.compressed() {
		return u.src.fail(disk.ErrUnsupported, "flags", 8, "compressed grains cannot be overwritten; convert the disk first")
	}
	g, err := openHosted(u.src, newShared(nil), u.extentSpec())
	if err != nil {
		return err
	}
	hosted := &hostedUpdate{f: u.f, u: u, header: h, touched: map[int64]struct{}{}}
	l := fileLayout{
		src: u.src, firstData: max(h.overHead, 1), tableSectors: gtSectors,
		areas: []area{{0, 1, "header"}, {h.gdOffset, h.gdOffset + h.directorySectors(), "grain directory"}},
	}
	if h.descriptorOffset != 0 {
		l.areas = append(l.areas, area{h.descriptorOffset, h.descriptorOffset + h.descriptorSize, "embedded descriptor"})
	}
	l.addTables(g.dir)
	if h.flags&flagRedundant != 0 || u.spec.Redundant {
		if err := hosted.openSecond(&l, g.dir); err != nil {
			return err
		}
	}
	if err := l.checkAreas(); err != nil {
		return err
	}
	if err := l.sortTables(); err != nil {
		return err
	}
	grains, err := u.adopt(ctx, g, &l)
	if err != nil {
		return err
	}
	u.next = max(u.next, h.overHead)
	if grains == 0 {
		// Readers take data behind the metadata of an extent without grains
		// for a lost table. Nothing but zeros is put there before the tables say so.
		u.next += GrainSectors
	}
	u.dirSector, u.alignSectors, u.format = h.gdOffset, h.grainSize, hosted
	u.begun = h.uncleanShutdown != 0
	return nil
}

// openSecond reads the redundant directory. Its tables are going to be
// written, so that none may lie where something else is.
func (h *hostedUpdate) openSecond(l *fileLayout, first *directory) error {
	src, rgd := h.u.src, h.header.rgdOffset
	if rgd == 0 || rgd > maxFileSectors-maxDiskSectors {
		return src.fail(disk.ErrCorrupt, "rgdOffset", 48, "is said to be at sector %d", rgd)
	}
	if rgd == h.header.gdOffset {
		return nil // there is no second copy
	}
	n := int64(h.header.tables())
	d, err := readDirectory(src, newShared(nil), directorySpec{offset: rgd * disk.SectorSize, n: n, entryBytes: 4, field: "redundant grain directory"})
	if err != nil {
		return err
	}
	l.areas = append(l.areas, area{rgd, rgd + h.header.directorySectors(), "redundant grain directory"})
	for i, e := range d.all {
		if first.at(i) == 0 { // of an update that did not end
			d.set(i, 0)
			continue
		}
		if why, kind := l.tableTrouble(uint64(e)); kind != nil {
			return src.fail(kind, "redundant grain directory", int64(rgd)*disk.SectorSize+i*4, "%s", why)
		}
		l.tables = append(l.tables, e)
	}
	for i := range first.all {
		if d.at(i) == 0 {
			return src.fail(disk.ErrMismatch, "redundant grain directory", int64(rgd)*disk.SectorSize+i*4, "names no table, the first copy does")
		}
	}
	h.second = d
	return nil
}

// begin takes the flag away that says that there are two copies.
func (h *hostedUpdate) begin() error {
	header := h.header
	header.uncleanShutdown = 1
	if h.second != nil {
		header.flags &^= flagRedundant
	}
	return h.putHeader(&header)
}

// putHeader writes the fields that change and nothing else of the sector.
func (h *hostedUpdate) putHeader(header *sparseHeader) error {
	var b [sparseHeaderSize]byte
	if err := disk.ReadFull(h.f, b[:], 0); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(b[8:], header.flags)
	b[72] = header.uncleanShutdown
	_, err := h.f.WriteAt(b[:], 0)
	return err
}

func (h *hostedUpdate) touch(table int64) {
	if h.second != nil {
		h.touched[table] = struct{}{}
	}
}

func (h *hostedUpdate) newTable(table int64, next uint64) uint64 {
	if h.second == nil {
		return next
	}
	h.second.insert(table, uint32(next))
	return next + h.u.tableSectors
}

// putDirectory writes the redundant directory; the caller syncs behind it. Its
// tables are written at the end: nobody reads them before.
func (h *hostedUpdate) putDirectory(tables []int64) error {
	if h.second == nil {
		return nil
	}
	if err := putDirectoryEntries(h.f, h.second, h.header.rgdOffset, tables); err != nil {
		return err
	}
	return h.f.Sync()
}

// finish copies the tables that may have changed and says in the header that
// there are two copies again.
func (h *hostedUpdate) finish(uint64) error {
	header := h.header
	header.uncleanShutdown = 0
	if h.second != nil {
		header.flags |= flagRedundant
		if err := h.copyTables(); err != nil {
			return err
		}
	}
	if err := h.putHeader(&header); err != nil {
		return err
	}
	return h.f.Sync()
}

func (h *hostedUpdate) copyTables() error {
	var b [gtEntries * 4]byte
	for _, i := range slices.Sorted(maps.Keys(h.touched)) {
		if err := disk.ReadFull(h.f, b[:], int64(h.u.dir.at(i))*disk.SectorSize); err != nil {
			return err
		}
		if _, err := h.f.WriteAt(b[:], int64(h.second.at(i))*disk.SectorSize); err != nil {
			return err
		}
	}
	return h.f.Sync()
}
