// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"encoding/binary"

	"github.com/vmstream/vmstream/disk"
)

// SEsparse extents, the deltas of VMFS-6. VMware has not published the format;
// the constants are the ones that independent readers agree on. All integers
// are little-endian u64, sizes and offsets in sectors.
const (
	seFormat        = "vmdk SEsparse extent"
	seMagic         = 0x00000000cafebabe
	seVolatileMagic = 0x00000000cafecafe
	seVersion       = 0x0000000200000001 // 2.1
	seHeaderSize    = 512                // bytes, of both headers
	seHeaderUsed    = 208
	seVolatileUsed  = 32

	seGrainSectors = 8
	seTableSectors = 64
	seEntries      = seTableSectors * disk.SectorSize / 8
)

// Top nibble of a grain table entry.
const (
	seUnallocated = 0
	seUnmapped    = 1 // by the guest: zeros, not the parent's
	seZero        = 2
	seAllocated   = 3
)

// seHeader is the constant header, as far as it is used.
type seHeader struct {
	magic, version, capacity, grain, table, flags uint64
	reserved                                      [4]uint64
	volatileHeader, directory, tables, grains     seRegion
}

// seRegion is a place in the file, in sectors.
type seRegion struct{ offset, size uint64 }

func parseSEHeader(b *[seHeaderSize]byte) seHeader {
	u64 := func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
	region := func(off int) seRegion { return seRegion{u64(off), u64(off + 8)} }
	return seHeader{
		magic: u64(0), version: u64(8), capacity: u64(16), grain: u64(24), table: u64(32), flags: u64(40),
		reserved:       [4]uint64{u64(48), u64(56), u64(64), u64(72)},
		volatileHeader: region(80), directory: region(128), tables: region(144), grains: region(192),
	}
}

func (h *seHeader) validate(src *source) error {
	switch {
	case h.magic != seMagic:
		return src.fail(disk.ErrCorrupt, "magic", 0, "0x%x, expected 0x%x", h.magic, uint64(seMagic))
	case h.version != seVersion:
		return src.fail(disk.ErrUnsupported, "version", 8, "0x%x, known is 0x%x", h.version, uint64(seVersion))
	case h.capacity == 0:
		return src.fail(disk.ErrCorrupt, "capacity", 16, "0 sectors")
	case h.capacity > maxDiskSectors:
		return src.fail(disk.ErrUnsupported, "capacity", 16, "%d sectors, at most %d are read", h.capacity, int64(maxDiskSectors))
	case h.grain != seGrainSectors:
		return src.fail(disk.ErrUnsupported, "grain_size", 24, "%d sectors, known is %d", h.grain, seGrainSectors)
	case h.table != seTableSectors:
		return src.fail(disk.ErrUnsupported, "grain_table_size", 32, "%d sectors, known is %d", h.table, seTableSectors)
	case h.flags != 0:
		return src.fail(disk.ErrUnsupported, "flags", 40, "0x%x, known is 0", h.flags)
	case h.reserved != [4]uint64{}:
		return src.fail(disk.ErrUnsupported, "reserved", 48, "%x, known are zeros", h.reserved)
	}
	if need := divUp(h.capacity, seGrainSectors*seEntries); h.directory.size > maxFileSectors || h.directory.size*disk.SectorSize/8 < need {
		return src.fail(disk.ErrCorrupt, "grain_dir_size", 136, "%d sectors, the capacity needs %d entries", h.directory.size, need)
	}
	return h.validateRegions(src)
}

// validateRegions checks the regions that reading needs. The others, such as
// the journal, are not looked at. Tables and grains need not be in the file to
// their full size.
func (h *seHeader) validateRegions(src *source) error {
	l := fileLayout{src: src, areas: []area{{0, 1, "constant header"}}}
	for _, r := range []struct {
		seRegion
		what  string
		field int64
		whole bool
	}{
		{h.volatileHeader, "volatile header", 80, true},
		{h.directory, "grain directory", 128, true},
		{h.tables, "grain tables", 144, false},
		{h.grains, "grains", 192, false},
	} {
		if r.offset > maxFileSectors || r.size > maxFileSectors-r.offset {
			return src.fail(disk.ErrCorrupt, r.what, r.field, "%d sectors at sector %d", r.size, r.offset)
		}
		end := r.offset + r.size
		if !r.whole {
			end = min(end, max(src.sectors(), r.offset))
		}
		if r.whole && r.size == 0 {
			return src.fail(disk.ErrCorrupt, r.what, r.field, "has no sectors")
		}
		if end > r.offset {
			l.areas = append(l.areas, area{r.offset, end, r.what})
		}
	}
	return l.checkAreas()
}

func readSEHeaders(src *source) (seHeader, error) {
	src.format = seFormat
	var b [seHeaderSize]byte
	if err := src.readFull(b[:], 0, "constant header"); err != nil {
		return seHeader{}, err
	}
	h := parseSEHeader(&b)
	if err := h.validate(src); err != nil {
		return h, err
	}
	if !disk.IsZero(b[seHeaderUsed:]) {
		return h, src.fail(disk.ErrUnsupported, "padding of the constant header", seHeaderUsed, "is not zero")
	}
	off := byteOffset(h.volatileHeader.offset)
	if err := src.readFull(b[:], uint64(off), "volatile header"); err != nil {
		return h, err
	}
	if m := binary.LittleEndian.Uint64(b[:]); m != seVolatileMagic {
		return h, src.fail(disk.ErrCorrupt, "magic of the volatile header", off, "0x%x, expected 0x%x", m, uint64(seVolatileMagic))
	}
	if n := binary.LittleEndian.Uint64(b[24:]); n != 0 {
		return h, src.fail(disk.ErrUnsupported, "replay_journal", off+24, "is %d: the journal has to be replayed first, which only ESXi can; power the VM on and off, or consolidate its disks", n)
	}
	if !disk.IsZero(b[seVolatileUsed:]) {
		return h, src.fail(disk.ErrUnsupported, "padding of the volatile header", off+seVolatileUsed, "is not zero")
	}
	return h, nil
}
