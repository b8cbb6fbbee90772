// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"fmt"

	"github.com/vmstream/vmstream/disk"
)

// duplicateWindow is how many places for a grain are looked at in one pass: 2 bytes each, 8 MiB.
const duplicateWindow = 4 << 20

// check reads every grain table and refuses grains that share bytes of the
// file, and then whatever else the format can check. Memory is bounded; a very
// large file takes several passes over its tables.
func (g *grainExtent) check(ctx context.Context) error {
	var count grainCount
	places := divUp(g.src.sectors(), g.recordSectors())
	for first := uint64(0); first < places; first += duplicateWindow {
		n, err := g.findDuplicates(ctx, first, min(duplicateWindow, places-first))
		if err != nil {
			return err
		}
		count = n
	}
	if g.verify != nil {
		return g.verify(ctx, count)
	}
	return nil
}

// checkEagerly is check at the time of opening, if it is cheap.
func (g *grainExtent) checkEagerly() error {
	cost := g.dir.tables * g.tableFileBytes
	if cost > g.shared.eagerLeft || divUp(g.src.sectors(), g.recordSectors()) > duplicateWindow {
		return nil
	}
	g.shared.eagerLeft -= cost
	return g.check(context.Background())
}

// recordSectors is the least that a grain takes in the file.
func (g *grainExtent) recordSectors() uint64 {
	if g.unzip != nil {
		return 1
	}
	return uint64(g.grainBytes / disk.SectorSize)
}

// grainCount counts the entries of all grain tables that say something.
type grainCount struct{ data, zeros int64 }

// findDuplicates looks at the grains that begin in a window of places, each
// one grain long. A place holds where in it a grain begins, plus one: two
// grains in one place overlap, and neighbours do if the first begins later.
// It counts all entries, whatever the window.
func (g *grainExtent) findDuplicates(ctx context.Context, first, count uint64) (n grainCount, err error) {
	phases := make([]uint16, count+1) // one more: the place in front of the window
	grain := g.recordSectors()
	mark := func(i, sector int64) error {
		place, phase := uint64(sector)/grain, uint16(uint64(sector)%grain)+1
		if place+1 < first || place >= first+count {
			return nil
		}
		k := place + 1 - first
		if phases[k] != 0 {
			return g.overlapError(i, sector)
		}
		phases[k] = phase
		return nil
	}
	err = g.eachTable(ctx, func(i int64, t grainTable) error {
		for _, r := range t {
			if r.sector == grainZeros {
				n.zeros += int64(r.grains)
			}
		}
		for number, sector := range g.stored(i, t) {
			n.data++
			if err := mark(number, sector); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return n, err
	}
	for k := 1; k < len(phases); k++ {
		if phases[k] != 0 && phases[k-1] > phases[k] {
			return n, g.overlapError(-1, int64((first+uint64(k)-1)*grain)+int64(phases[k])-1)
		}
	}
	return n, nil
}

func (g *grainExtent) overlapError(grain, sector int64) error {
	field := "grain tables"
	if grain >= 0 {
		field = fmt.Sprintf("grain table entry of grain %d", grain)
	}
	return g.src.fail(disk.ErrCorrupt, field, sector*disk.SectorSize, "two grains use the same bytes of the file")
}

// refuseUnreachable is for extents of which no grain is stored: if the file
// nevertheless has something behind its metadata, the directory does not lead
// to it, and what would be read as zeros may be anything.
func (g *grainExtent) refuseUnreachable(from uint64, field string) error {
	off := from * disk.SectorSize
	if off >= uint64(g.src.sizeBytes) {
		return nil
	}
	b := make([]byte, min(64<<10, uint64(g.src.sizeBytes)-off))
	if err := g.src.readFull(b, off, "first grain"); err != nil {
		return err
	}
	if disk.IsZero(b) {
		return nil
	}
	return g.src.fail(disk.ErrCorrupt, field, -1, "no grain is in the tables, but there is data at 0x%x", off)
}
