// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/vmstream/vmstream/disk"
)

// ESX Server sparse extents ("COWD"), technical note 1.1, "ESX Server Sparse
// Extents". All integers are little-endian u32.
const (
	cowdFormat     = "vmdk COWD extent"
	cowdHeaderSize = 2048 // bytes

	cowdVersionESX    = 1
	cowdVersionHosted = 3 // Workstation 2 and 3: smaller grain tables

	cowdEntries       = 4096
	cowdHostedEntries = 512

	cowdParentName = 32 // offset of the name, or of the geometry in a root
	cowdParentSize = 1024
	cowdUnclean    = 1648
)

// cowdHeader is the header of a COWD extent. Sizes and offsets are in sectors.
type cowdHeader struct {
	version, flags, sectors, grain, gdOffset, gdEntries, freeSector uint32
	cylinders, heads, spt                                           uint32 // of a root only
	parentName                                                      string // of a child only; mostly empty
	unclean                                                         bool
	linkID                                                          uint32 // see COWDSpec
}

func parseCOWDHeader(b *[cowdHeaderSize]byte) cowdHeader {
	u32 := func(off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
	h := cowdHeader{
		version: u32(4), flags: u32(8), sectors: u32(12), grain: u32(16),
		gdOffset: u32(20), gdEntries: u32(24), freeSector: u32(28),
		unclean: u32(cowdUnclean) != 0, linkID: linkID(b[:]),
	}
	// Geometry and name lie at the same place and no flag tells which it is:
	// the first byte of a name is printable. A printable low byte of the
	// cylinders is followed by zeros, so that what looks like a name is short.
	name, _, _ := bytes.Cut(b[cowdParentName:cowdParentName+cowdParentSize], []byte{0})
	cylinders, heads, spt := u32(32), u32(36), u32(40)
	switch {
	case cylinders > 0 && cylinders < 1<<24 && heads > 0 && heads <= 255 && spt > 0 && spt <= 63:
		h.cylinders, h.heads, h.spt = cylinders, heads, spt
	case len(name) > 0 && printable(name):
		h.parentName = string(name)
	}
	return h
}

func printable(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// isRoot reports if the header has a geometry, as only a disk without a parent has.
func (h *cowdHeader) isRoot() bool { return h.cylinders != 0 }

func (h *cowdHeader) tableEntries() uint64 {
	if h.version == cowdVersionHosted {
		return cowdHostedEntries
	}
	return cowdEntries
}

// tables returns the number of grain tables that the capacity needs.
func (h *cowdHeader) tables() uint64 {
	return divUp(uint64(h.sectors), h.tableEntries()*uint64(h.grain))
}

func loadCOWDHeader(src *source) (cowdHeader, error) {
	src.format = cowdFormat
	var b [cowdHeaderSize]byte
	if err := src.readFull(b[:], 0, "header"); err != nil {
		return cowdHeader{}, err
	}
	if string(b[:4]) != "COWD" {
		return cowdHeader{}, src.fail(disk.ErrCorrupt, "magic", 0, "%x, expected COWD", b[:4])
	}
	h := parseCOWDHeader(&b)
	return h, h.validate(src)
}

func (h *cowdHeader) validate(src *source) error {
	switch {
	case h.version != cowdVersionESX && h.version != cowdVersionHosted:
		return src.fail(disk.ErrUnsupported, "version", 4, "%d, known are 1 and 3", h.version)
	case h.sectors == 0:
		return src.fail(disk.ErrCorrupt, "numSectors", 12, "0")
	case h.grain == 0 || h.grain > maxGrainSectors:
		return src.fail(disk.ErrCorrupt, "grainSize", 16, "%d sectors, expected 1 to %d", h.grain, maxGrainSectors)
	case h.gdOffset < cowdHeaderSize/disk.SectorSize:
		return src.fail(disk.ErrCorrupt, "gdOffset", 20, "sector %d, inside the header", h.gdOffset)
	}
	// One entry too many has been seen to come from rounding; it must be 0.
	if n := h.tables(); uint64(h.gdEntries) != n && uint64(h.gdEntries) != n+1 {
		return src.fail(disk.ErrCorrupt, "numGDEntries", 24, "%d, the capacity needs %d", h.gdEntries, n)
	}
	return nil
}

// cowdTables reads the grain tables of a COWD extent.
type cowdTables struct {
	src    *source
	shared *shared
	header cowdHeader
	extent *grainExtent
	layout fileLayout
}

// openCOWD opens a COWD extent. The source stays the caller's.
func openCOWD(src *source, sh *shared, spec extentSpec) (*grainExtent, cowdHeader, error) {
	h, err := loadCOWDHeader(src)
	if err != nil {
		return nil, h, err
	}
	sizeBytes, err := checkCapacity(src, uint64(h.sectors), uint64(h.grain), spec, 12)
	if err != nil {
		return nil, h, err
	}
	if h.unclean {
		sh.warnf("%s: was not closed properly by its last writer", src.path)
	}
	if h.version == cowdVersionHosted {
		sh.warnf("%s: version 3 of the format (Workstation 2 and 3) has not been tried with real files", src.path)
	}
	g := &grainExtent{
		src: src, shared: sh, id: sh.nextID(), hole: spec.hole, entries: int64(h.tableEntries()), scattered: true,
		sizeBytes: sizeBytes, grainBytes: int64(h.grain) * disk.SectorSize, tableFileBytes: int64(h.tableEntries()) * 4,
		info: ExtentInfo{
			Path: src.path, Type: ExtentVMFSSparse, SizeBytes: sizeBytes,
			FileBytes: src.sizeBytes, GrainBytes: int64(h.grain) * disk.SectorSize,
		},
	}
	c := &cowdTables{src: src, shared: sh, header: h, extent: g}
	g.loadTable = c.load
	g.verify = c.refuseUnreachable
	if err := c.openDirectory(); err != nil {
		return nil, h, err
	}
	return g, h, g.checkEagerly()
}

func (c *cowdTables) openDirectory() error {
	gd := uint64(c.header.gdOffset)
	gdEnd := gd + divUp(uint64(c.header.gdEntries)*4, disk.SectorSize)
	c.layout = fileLayout{
		src: c.src, firstData: cowdHeaderSize / disk.SectorSize,
		areas:        []area{{0, cowdHeaderSize / disk.SectorSize, "header"}, {gd, gdEnd, "grain directory"}},
		tableSectors: c.header.tableEntries() * 4 / disk.SectorSize,
	}
	if err := c.layout.checkAreas(); err != nil {
		return err
	}
	d, err := readDirectory(c.src, c.shared, directorySpec{
		offset: gd * disk.SectorSize, n: int64(c.header.gdEntries), entryBytes: 4, field: "grain directory",
	})
	if err != nil {
		return err
	}
	for i, e := range d.all {
		off := int64(gd)*disk.SectorSize + i*4
		field := fmt.Sprintf("grain directory entry %d", i)
		if i >= int64(c.header.tables()) {
			return c.src.fail(disk.ErrCorrupt, field, off, "is %d, but lies behind the capacity", e)
		}
		if why, kind := c.layout.tableTrouble(uint64(e)); kind != nil {
			return c.src.fail(kind, field, off, "%s", why)
		}
	}
	c.extent.dir = d
	c.layout.addTables(d)
	return c.layout.sortTables()
}

// refuseUnreachable refuses an extent without tables that has nevertheless
// given sectors away and written to them.
func (c *cowdTables) refuseUnreachable(_ context.Context, n grainCount) error {
	end := c.layout.metadataEnd()
	if n.data+n.zeros > 0 || c.extent.dir.tables > 0 || uint64(c.header.freeSector) <= end {
		return nil
	}
	return c.extent.refuseUnreachable(end, "grain directory")
}

func (c *cowdTables) load(i int64) (grainTable, error) {
	out := c.extent.scratch(c.extent.tableFileBytes)
	defer c.shared.giveBack(out)
	b := out.raw
	at := int64(c.extent.dir.at(i)) * disk.SectorSize
	if err := c.src.readFull(b, uint64(at), "grain table"); err != nil {
		return nil, err
	}
	check := grainChecker{l: &c.layout}
	first := i * c.extent.entries
	used := min(c.extent.entries, ceilDiv(c.extent.sizeBytes, c.extent.grainBytes)-first)
	for j := nextEntry(b, 0); j < used; j = nextEntry(b, j+1) {
		grain := first + j
		e := binary.LittleEndian.Uint32(b[j*4:])
		if e == gteZero {
			// Not in the technical note, but sector 1 is the header's and can
			// hold no data, and some writers mean zeros by it.
			c.shared.warnf("%s: has grain table entries 1, which are taken as zeros", c.src.path)
			out.put(int32(j), grainZeros)
			continue
		}
		if why, kind := check.trouble(uint64(e), c.extent.grainLength(grain)); kind != nil {
			return nil, c.src.fail(kind, fmt.Sprintf("grain table entry of grain %d", grain), at+j*4, "%s", why)
		}
		out.put(int32(j), int64(e))
	}
	return out.table(c.extent.entries), nil
}

// nextEntry returns the index of the first entry from j on that is not 0, or how
// many entries there are. A redo log's tables are mostly empty.
func nextEntry(table []byte, j int64) int64 {
	const step = 8 // entries
	le := binary.LittleEndian
	for b := table[j*4:]; len(b) > 0; {
		if len(b) >= step*4 && le.Uint64(b)|le.Uint64(b[8:])|le.Uint64(b[16:])|le.Uint64(b[24:]) == 0 {
			b, j = b[step*4:], j+step
			continue
		}
		if le.Uint32(b) != 0 {
			break
		}
		b, j = b[4:], j+1
	}
	return j
}
