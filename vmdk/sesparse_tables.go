// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/vmstream/vmstream/disk"
)

// seTables reads the grain tables of an SEsparse extent.
type seTables struct {
	src    *source
	header seHeader
	extent *grainExtent
}

// openSESparse opens an SEsparse extent. The source stays the caller's.
func openSESparse(src *source, sh *shared, spec extentSpec) (*grainExtent, error) {
	h, err := readSEHeaders(src)
	if err != nil {
		return nil, err
	}
	sizeBytes, err := checkCapacity(src, h.capacity, seGrainSectors, spec, 16)
	if err != nil {
		return nil, err
	}
	g := &grainExtent{
		src: src, shared: sh, id: sh.nextID(), hole: spec.hole, entries: seEntries,
		sizeBytes: sizeBytes, grainBytes: seGrainSectors * disk.SectorSize, tableFileBytes: seTableSectors * disk.SectorSize,
		info: ExtentInfo{
			Path: src.path, Type: ExtentSESparse, SizeBytes: sizeBytes,
			FileBytes: src.sizeBytes, GrainBytes: seGrainSectors * disk.SectorSize,
		},
	}
	t := &seTables{src: src, header: h, extent: g}
	g.loadTable = t.load
	g.verify = func(_ context.Context, n grainCount) error {
		if n.data+n.zeros > 0 {
			return nil
		}
		return g.refuseUnreachable(h.grains.offset, "grain directory")
	}
	if err := t.openDirectory(sh); err != nil {
		return nil, err
	}
	return g, g.checkEagerly()
}

// openDirectory reads the directory entries that the capacity needs and
// refuses tables used twice. The entry of table n is kept as n+1.
func (t *seTables) openDirectory(sh *shared) error {
	h := &t.header
	tables := h.tables.size / seTableSectors
	at := h.directory.offset * disk.SectorSize
	d, err := readDirectory(t.src, sh, directorySpec{
		offset: at, n: int64(divUp(h.capacity, seGrainSectors*seEntries)), entryBytes: 8, field: "grain directory",
		decode: func(i int64, b []byte) (uint32, error) {
			e := binary.LittleEndian.Uint64(b)
			if e == 0 {
				return 0, nil
			}
			n := uint64(uint32(e))
			field, off := fmt.Sprintf("grain directory entry %d", i), int64(at)+i*8
			switch {
			case e>>32 != 0x10000000:
				return 0, t.src.fail(disk.ErrCorrupt, field, off, "0x%016x does not name a grain table", e)
			case n >= tables || n == 1<<32-1:
				return 0, t.src.fail(disk.ErrCorrupt, field, off, "names grain table %d of %d", n, tables)
			}
			end := (h.tables.offset + (n+1)*seTableSectors) * disk.SectorSize
			if end > uint64(t.src.sizeBytes) {
				return 0, t.src.fail(disk.ErrTruncated, field, off, "grain table %d ends at 0x%x, behind the end of the file", n, end)
			}
			return uint32(n) + 1, nil
		},
	})
	if err != nil {
		return err
	}
	t.extent.dir = d
	seen := make([]uint32, 0, d.tables)
	for _, n := range d.all {
		seen = append(seen, n)
	}
	slices.Sort(seen)
	for i := 1; i < len(seen); i++ {
		if seen[i] == seen[i-1] {
			return t.src.fail(disk.ErrCorrupt, "grain directory", int64(at), "grain table %d is used twice", seen[i]-1)
		}
	}
	return nil
}

func (t *seTables) load(i int64) (grainTable, error) {
	n := uint64(t.extent.dir.at(i) - 1)
	at := (t.header.tables.offset + n*seTableSectors) * disk.SectorSize
	out := t.extent.scratch(seTableSectors * disk.SectorSize)
	defer t.extent.shared.giveBack(out)
	b := out.raw
	if err := t.src.readFull(b, at, "grain table"); err != nil {
		return nil, err
	}
	for j := range int64(seEntries) {
		grain := i*seEntries + j
		if grain*t.extent.grainBytes >= t.extent.sizeBytes {
			break
		}
		e := binary.LittleEndian.Uint64(b[j*8:])
		if e == 0 {
			continue
		}
		sector, err := t.entry(e, grain, int64(at)+j*8)
		if err != nil {
			return nil, err
		}
		out.put(int32(j), sector)
	}
	return out.table(seEntries), nil
}

// entry returns what the grain table entry e, which is not 0, says.
func (t *seTables) entry(e uint64, grain, off int64) (int64, error) {
	field := func() string { return fmt.Sprintf("grain table entry of grain %d", grain) }
	switch e >> 60 {
	case seUnmapped, seZero:
		return grainZeros, nil
	case seAllocated:
	default: // also an unallocated one with bits that are not 0
		return 0, t.src.fail(disk.ErrCorrupt, field(), off, "0x%016x is no valid entry", e)
	}
	// The grain number is rotated: its low 12 bits are in front.
	n := e>>48&0xfff | e&(1<<48-1)<<12
	if n >= t.header.grains.size/seGrainSectors {
		return 0, t.src.fail(disk.ErrCorrupt, field(), off, "names grain %d of %d", n, t.header.grains.size/seGrainSectors)
	}
	sector := t.header.grains.offset + n*seGrainSectors
	end := sector*disk.SectorSize + uint64(t.extent.grainLength(grain))
	if end > uint64(t.src.sizeBytes) {
		return 0, t.src.fail(disk.ErrTruncated, field(), off, "names grain %d, which ends at 0x%x, behind the end of the file", n, end)
	}
	return int64(sector), nil
}
