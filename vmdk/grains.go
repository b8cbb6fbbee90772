// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"cmp"
	"context"
	"io"
	"iter"
	"slices"

	"github.com/vmstream/vmstream/disk"
)

// grainTable is a grain table once it has been read and checked, as runs of
// grains that cover it: most tables have few. A nil table has no entries.
type grainTable []grainRun

// grainRun is grains of which each but the first is stored behind the one
// before it; if they are compressed, it is one. It is 16 bytes.
type grainRun struct {
	first, grains int32 // counted in the table
	sector        int64 // in the file, of the first grain, or one of the two below
}

const grainRunBytes = 16

const (
	grainNone  = 0  // not stored: the parent's
	grainZeros = -1 // zeros, whatever the parent has
)

// grainExtent is an extent with grain tables, of any format, as an image. The
// format gives the directory and a function that reads and checks one table.
type grainExtent struct {
	src     *source
	closer  io.Closer // of the file; may be nil
	shared  *shared
	id      uint32
	info    ExtentInfo
	hole    disk.Kind // what a grain that is not stored is
	dir     *directory
	unzip   *grainInflater // nil if grains are stored as they are
	entries int64          // of a table

	scattered bool // tables lie between the grains, not one behind the other

	sizeBytes, grainBytes, tableFileBytes int64

	loadTable func(i int64) (grainTable, error)
	// verify does what a format can check beyond tables and duplicates; may be nil.
	verify func(ctx context.Context, n grainCount) error
}

// Size returns the length of the extent in bytes.
func (g *grainExtent) Size() int64 { return g.sizeBytes }

// Close closes the file.
func (g *grainExtent) Close() error {
	if g.closer == nil {
		return nil
	}
	return g.closer.Close()
}

func (g *grainExtent) extentInfo() ExtentInfo { return g.info }

// coverage returns the bytes of disk that a table stands for.
func (g *grainExtent) coverage() int64 { return g.grainBytes * g.entries }

// grainLength returns the bytes of a grain that lie on the disk.
func (g *grainExtent) grainLength(index int64) int64 {
	return min(g.grainBytes, g.sizeBytes-index*g.grainBytes)
}

// table returns table i, which exists.
func (g *grainExtent) table(i int64) (grainTable, error) {
	key := cacheKey{extent: g.id, index: i}
	if t, ok := g.shared.tables.Get(key); ok {
		return t, nil
	}
	t, err := g.loadTable(i)
	if err != nil {
		return nil, err
	}
	g.keep(i, t)
	return t, nil
}

// keep puts a table into the cache. What the cache itself needs for an item
// counts too, since tables without entries take nothing else.
func (g *grainExtent) keep(i int64, t grainTable) {
	const itemBytes = 256
	g.shared.tables.Put(cacheKey{extent: g.id, index: i}, t, int64(cap(t))*grainRunBytes+itemBytes)
}

// runJoiner makes a table of the entries that are put to it in rising order. Those
// between them are grainNone.
type runJoiner struct {
	runs grainTable
	end  int32 // of the last run
	step int64 // sectors from a grain to one stored behind it; 0 if each is a run of its own
}

// scratch returns room for a table of so many bytes, with no entries yet. It is safe for
// concurrent use.
func (g *grainExtent) scratch(tableBytes int64) *tableScratch {
	t := g.shared.scratch(tableBytes)
	t.runJoiner = runJoiner{runs: t.runs[:0]}
	if g.unzip == nil {
		t.step = g.grainBytes / disk.SectorSize
	}
	return t
}

// put says that the grain at an index of the table is stored at the sector, or is grainZeros.
func (j *runJoiner) put(index int32, sector int64) {
	j.skipTo(index)
	if n := len(j.runs) - 1; n >= 0 && j.joins(j.runs[n], sector) {
		j.runs[n].grains++
	} else {
		j.runs = append(j.runs, grainRun{first: index, grains: 1, sector: sector})
	}
	j.end = index + 1
}

func (j *runJoiner) joins(r grainRun, sector int64) bool {
	switch r.sector {
	case grainNone:
		return false
	case grainZeros:
		return sector == grainZeros
	}
	return j.step > 0 && sector == r.sector+int64(r.grains)*j.step
}

func (j *runJoiner) skipTo(index int32) {
	if index > j.end {
		j.runs = append(j.runs, grainRun{first: j.end, grains: index - j.end, sector: grainNone})
		j.end = index
	}
}

// table returns a table of so many entries, in memory of its own.
func (j *runJoiner) table(entries int64) grainTable {
	j.skipTo(int32(entries))
	return slices.Clone(j.runs)
}

// stored yields the grains of table i that are stored: their numbers in the
// extent and their sectors in the file.
func (g *grainExtent) stored(i int64, t grainTable) iter.Seq2[int64, int64] {
	step := g.grainBytes / disk.SectorSize
	return func(yield func(grain, sector int64) bool) {
		for _, r := range t {
			if r.sector == grainNone || r.sector == grainZeros {
				continue
			}
			for k := range int64(r.grains) {
				if !yield(i*g.entries+int64(r.first)+k, r.sector+k*step) {
					return
				}
			}
		}
	}
}

// segment is a run and, if it is data, where in the file it begins.
type segment struct {
	disk.Run
	pos int64 // bytes
}

// walk yields the segments of [off, end). Neighbours of one kind are joined;
// with adjacent, data only where it is one piece of the file, too.
func (g *grainExtent) walk(off, end int64, adjacent bool, yield func(segment) bool) error {
	w := segmentJoiner{adjacent: adjacent, compressed: g.unzip != nil, yield: yield}
	for off < end {
		i := off / g.coverage()
		if next := g.dir.next(i); next != i {
			stop := min(next*g.coverage(), end)
			if !w.add(segment{Run: disk.Run{Offset: off, Length: stop - off, Kind: g.hole}}) {
				return nil
			}
			off = stop
			continue
		}
		t, err := g.table(i)
		if err != nil {
			w.flush()
			return err
		}
		stop := min((i+1)*g.coverage(), end)
		if t == nil {
			if !w.add(segment{Run: disk.Run{Offset: off, Length: stop - off, Kind: g.hole}}) {
				return nil
			}
			off = stop
			continue
		}
		if !g.walkTable(t, i*g.coverage(), off, stop, &w) {
			return nil
		}
		off = stop
	}
	w.flush()
	return nil
}

// walkTable adds the segments of [off, stop) from the table for what begins at
// base, and reports if more are wanted.
func (g *grainExtent) walkTable(t grainTable, base, off, stop int64, w *segmentJoiner) bool {
	index := (off - base) / g.grainBytes
	k, _ := slices.BinarySearchFunc(t, index, func(r grainRun, index int64) int {
		return cmp.Compare(int64(r.first+r.grains-1), index)
	})
	for ; off < stop; k++ {
		r := t[k]
		start := base + int64(r.first)*g.grainBytes
		next := min(start+int64(r.grains)*g.grainBytes, stop)
		s := segment{Run: disk.Run{Offset: off, Length: next - off, Kind: disk.Data}}
		switch r.sector {
		case grainNone:
			s.Kind = g.hole
		case grainZeros:
			s.Kind = disk.Zero
		default:
			s.pos = r.sector*disk.SectorSize + off - start
		}
		if !w.add(s) {
			return false
		}
		off = next
	}
	return true
}

// segmentJoiner joins segments before it yields them.
type segmentJoiner struct {
	cur                  segment
	adjacent, compressed bool
	yield                func(segment) bool
}

func (w *segmentJoiner) add(s segment) bool {
	if w.cur.Length > 0 && w.joins(s) {
		w.cur.Length += s.Length
		return true
	}
	ok := w.flush()
	w.cur = s
	return ok
}

func (w *segmentJoiner) joins(s segment) bool {
	if s.Kind != w.cur.Kind {
		return false
	}
	if !w.adjacent || s.Kind != disk.Data {
		return true
	}
	return !w.compressed && w.cur.pos+w.cur.Length == s.pos
}

func (w *segmentJoiner) flush() bool {
	s := w.cur
	w.cur = segment{}
	return s.Length == 0 || w.yield(s)
}

// Runs yields the extent's runs; see [disk.Image]. Tables that do not exist
// cost nothing; the others are read and checked.
func (g *grainExtent) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		more := true
		err := g.walk(off, clipEnd(off, n, g.sizeBytes), false, func(s segment) bool {
			more = yield(s.Run, nil)
			return more
		})
		if err != nil && more {
			yield(disk.Run{}, err)
		}
	}
}

// ReadAt reads the extent; see [disk.Image]. Data that lies in one piece in
// the file is read in one piece.
func (g *grainExtent) ReadAt(p []byte, off int64) (int, error) {
	want, eof := clipRange(len(p), off, g.sizeBytes)
	if want == 0 {
		return 0, eof
	}
	done := 0
	var readErr error
	err := g.walk(off, off+int64(want), true, func(s segment) bool {
		dst := p[s.Offset-off : s.End()-off]
		switch {
		case s.Kind != disk.Data:
			clear(dst)
		case g.unzip != nil:
			readErr = g.readCompressed(dst, s)
		default:
			readErr = g.src.readFull(dst, uint64(s.pos), "grain")
		}
		if readErr == nil {
			done += len(dst)
		}
		return readErr == nil
	})
	if readErr != nil {
		return done, readErr
	}
	if err != nil {
		return done, err
	}
	return done, eof
}

// Prefetch has the system begin to read what is stored of a range; see [disk.Prefetcher].
// How long a compressed grain is is not known before.
func (g *grainExtent) Prefetch(off, n int64) {
	if g.unzip != nil {
		return
	}
	_ = g.walk(off, clipEnd(off, n, g.sizeBytes), true, func(s segment) bool { // who reads will be told
		if s.Kind == disk.Data {
			disk.Prefetch(g.src.r, s.pos, s.Length)
		}
		return true
	})
}
