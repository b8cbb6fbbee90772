// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"fmt"
	"iter"
	"sort"
	"sync"

	"github.com/vmstream/vmstream/disk"
)

// statusBytes is how much one request for block status covers at most. A reply
// has what the server likes to send, which may be less.
const statusBytes = 1 << 30

// window is a part of the disk whose status is known.
type window struct {
	start, end int64
	runs       []disk.Run // without gaps from start to end, neighbours differ
}

// statusCache keeps the last windows of a context: readers walk along the disk,
// several side by side. It takes 6 MiB at most: maxWindows times maxRuns.
type statusCache struct {
	mu      sync.Mutex
	windows []window // the latest first
}

const (
	maxWindows = 4
	maxRuns    = 64 << 10
)

func (s *statusCache) find(off int64) (window, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.windows {
		if w.start <= off && off < w.end {
			return w, true
		}
	}
	return window{}, false
}

func (s *statusCache) add(w window) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.windows = append([]window{w}, s.windows[:min(len(s.windows), maxWindows-1)]...)
}

// Runs yields what is zero and what is data by base:allocation. A hole that is
// not known to be zero is data, and so is everything if the server has no such
// context.
func (im *Image) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	id, ok := im.exp.contexts[AllocationContext]
	if !ok {
		return im.clipped(off, n, func(off, end int64) (window, error) {
			return window{off, end, []disk.Run{{Offset: off, Length: end - off, Kind: disk.Data}}}, nil
		})
	}
	return im.clipped(off, n, func(off, _ int64) (window, error) { return im.window(id, off) })
}

// Dirty yields what a bitmap says has changed, as Data, and what has not, as
// Parent. The bitmap must be one of [Options].Bitmaps.
func (im *Image) Dirty(bitmap string, off, n int64) iter.Seq2[disk.Run, error] {
	id, ok := im.exp.contexts[BitmapContext(bitmap)]
	if !ok {
		return func(yield func(disk.Run, error) bool) {
			yield(disk.Run{}, fmt.Errorf("nbd: bitmap %q was not asked for: %w", bitmap, disk.ErrMismatch))
		}
	}
	return im.clipped(off, n, func(off, _ int64) (window, error) { return im.window(id, off) })
}

// clipped yields the runs of [off, off+n) from the windows that get returns.
func (im *Image) clipped(off, n int64, get func(off, end int64) (window, error)) iter.Seq2[disk.Run, error] {
	return disk.Merge(func(yield func(disk.Run, error) bool) {
		if off < 0 || off >= im.exp.size || n <= 0 {
			return
		}
		end := off + min(n, im.exp.size-off)
		for at := off; at < end; {
			w, err := get(at, end)
			if err != nil {
				yield(disk.Run{}, err)
				return
			}
			i := sort.Search(len(w.runs), func(i int) bool { return w.runs[i].End() > at })
			for _, r := range w.runs[i:] {
				if at >= end {
					break
				}
				next := min(r.End(), end)
				if !yield(disk.Run{Offset: at, Length: next - at, Kind: r.Kind}, nil) {
					return
				}
				at = next
			}
		}
	})
}

// window returns one that has the offset off.
func (im *Image) window(id uint32, off int64) (window, error) {
	if w, ok := im.cache[id].find(off); ok {
		return w, nil
	}
	start := off / im.exp.minBlock * im.exp.minBlock
	got, err := im.query(start, statusBytes)
	if err != nil {
		return window{}, err
	}
	if alloc, ok := im.exp.contexts[AllocationContext]; ok && im.confirm {
		first := got[alloc]
		second, err := im.query(start, first.end-start)
		if err != nil {
			return window{}, err
		}
		got[alloc] = bothZero(first, second[alloc])
	}
	for id, w := range got {
		im.cache[id].add(w)
	}
	if got[id].end <= off { // asking again would not end
		return window{}, broken("block status", "extents from 0x%x end at 0x%x, which is inside a block of %d bytes", start, got[id].end, im.exp.minBlock)
	}
	return got[id], nil
}

// query asks for the status of up to n bytes from start in all contexts.
func (im *Image) query(start, n int64) (map[uint32]window, error) {
	n = min(n, im.exp.size-start)
	got := map[uint32]window{}
	req := &request{kind: cmdBlockStatus, off: start, length: n}
	req.status = func(id uint32, extents []extent) error {
		if _, known := im.cache[id]; !known {
			return broken("block status", "context %d was not asked for", id)
		}
		if _, twice := got[id]; twice {
			return broken("block status", "context %d comes twice", id)
		}
		got[id] = im.toWindow(id, start, n, extents)
		return nil
	}
	err := im.use(func(c *conn) (said, fatal error) {
		said, fatal = c.do(req)
		if said == nil && fatal == nil && len(got) != len(im.cache) {
			fatal = broken("block status", "%d contexts instead of %d", len(got), len(im.cache))
		}
		return said, fatal
	})
	return got, err
}

// toWindow turns extents into runs. The last may reach beyond what was asked
// for, by the protocol; that is not looked at, nor is what exceeds maxRuns.
func (im *Image) toWindow(id uint32, start, n int64, extents []extent) window {
	alloc, has := im.exp.contexts[AllocationContext]
	w := window{start: start, end: start}
	for _, e := range extents {
		length := min(e.length, start+n-w.end)
		if length <= 0 || len(w.runs) == maxRuns {
			break
		}
		kind := disk.Data
		switch {
		case has && id == alloc:
			if e.state&stateZero != 0 {
				kind = disk.Zero
			}
		case e.state&stateDirty == 0:
			kind = disk.Parent
		}
		w.add(length, kind)
	}
	return w
}

// add appends a run at the window's end.
func (w *window) add(length int64, kind disk.Kind) {
	if k := len(w.runs) - 1; k >= 0 && w.runs[k].Kind == kind {
		w.runs[k].Length += length
	} else {
		w.runs = append(w.runs, disk.Run{Offset: w.end, Length: length, Kind: kind})
	}
	w.end += length
}

// bothZero returns a window whose zeros are zero in both of a and b, as far as
// both reach. They have the same start.
func bothZero(a, b window) window {
	w := window{start: a.start, end: a.start}
	end := min(a.end, b.end)
	for i, j := 0, 0; w.end < end; {
		ra, rb := a.runs[i], b.runs[j]
		next := min(ra.End(), rb.End(), end)
		kind := disk.Data
		if ra.Kind == disk.Zero && rb.Kind == disk.Zero {
			kind = disk.Zero
		}
		w.add(next-w.end, kind)
		if ra.End() == next {
			i++
		}
		if rb.End() == next {
			j++
		}
	}
	return w
}
