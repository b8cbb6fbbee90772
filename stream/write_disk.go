// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// diskWriter writes the segments of one disk. Each slot has a goroutine that
// takes the next segment, makes it ready, waits for its turn and writes it.
type diskWriter struct {
	w       *streamWriter
	rec     *DiskRecord
	src     packSource
	merged  *mergedDisk // in place of src
	size    int64       // whole sectors
	extents []vmdk.Extent
	total   DiskTotals
	track   *DiskTrack // nil if none is to be kept; owned by whose turn it is

	mu   sync.Mutex // guards what follows: handing out work
	next int64      // offset of the next segment
	turn chan struct{}

	// Owned by whose turn it is: a run of segments without data that has not
	// been written yet, in bytes.
	emptyFrom, emptyTo int64
	emptyState         vmdk.GrainState
}

func (w *streamWriter) disk(ctx context.Context, rec *DiskRecord, in *Disk) error {
	if err := w.makeSlots(); err != nil {
		return err
	}
	d := &diskWriter{
		w: w, rec: rec, src: packSource{im: in.Image, changes: in.Image}, merged: in.merged, size: rec.Sectors() * disk.SectorSize, turn: make(chan struct{}),
		total: DiskTotals{Key: rec.Key, File: rec.File, CapacityBytes: rec.CapacityBytes},
	}
	if d.size != rec.CapacityBytes && d.merged == nil {
		d.src.im = &padded{Image: in.Image, size: d.size}
		d.src.changes = d.src.im
	}
	if in.Changes != nil {
		d.src.changes = &paddedRuns{Changes: in.Changes, from: rec.CapacityBytes, size: d.size}
	}
	if d.merged == nil {
		d.src.increment = in.increment()
		d.src.track = tracking{block: in.blockBytes(), was: in.carried(), compare: in.Compare}
		if rec.TrackBytes != 0 {
			d.track = &DiskTrack{Key: rec.Key, Runs: []uint32{}, Digests: strictBase64{}}
		}
	}
	close(d.turn)
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range w.slots {
		g.Go(func() error { return d.work(ctx, s) })
	}
	if err := g.Wait(); err != nil {
		if ErrOutput(err) || ctx.Err() != nil && context.Cause(ctx) == err {
			return err
		}
		return fmt.Errorf("disk %s: %w", rec.Key, err)
	}
	if err := d.flushEmpty(); err != nil {
		return err
	}
	b, err := rec.descriptor(d.extents)
	if err != nil {
		return err
	}
	w.totals = append(w.totals, d.total)
	if d.track != nil {
		w.tracks = append(w.tracks, d.track)
	}
	return w.emit.bytes(rec.File, diskMode, b)
}

// piece is what a worker takes: a segment, or a range of them that is known to
// be of one state without reading it.
type piece struct {
	off, n int64
	empty  bool
	state  vmdk.GrainState
	stored int             // grains that are in the slot already, if the disk is merged
	turn   <-chan struct{} // closed when everything before has been written
	done   chan<- struct{}
}

// take hands out the next piece, in order. ok is false at the end.
func (d *diskWriter) take(s *slot) (p piece, ok bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.next >= d.size {
		return piece{}, false, nil
	}
	p = piece{off: d.next, n: min(d.w.opt.ExtentBytes, d.size-d.next)}
	if d.merged != nil {
		if p.stored, err = d.merged.segment(p.off, p.n, s); err != nil {
			return piece{}, false, err
		}
	} else {
		n, state, err := d.emptyAhead()
		if err != nil {
			return piece{}, false, err
		}
		if n > 0 {
			p.n, p.empty, p.state = n, true, state
		}
	}
	d.next += p.n
	done := make(chan struct{})
	p.turn, p.done, d.turn = d.turn, done, done
	return p, true, nil
}

// emptyAhead returns the length of the whole segments from d.next on that are
// known to be zero, or the parent's, without reading them. It looks at one
// segment, and only while there is nothing further on, at twice as much each
// time: an image may have to walk all of its tables to tell where a run ends.
func (d *diskWriter) emptyAhead() (int64, vmdk.GrainState, error) {
	off, window := d.next, min(d.w.opt.ExtentBytes, d.size-d.next)
	kind := disk.Kind(0) // of the first run
	for off < d.size {
		n, err := d.leading(&kind, off, window)
		if err != nil {
			return 0, 0, err
		}
		off += n
		if n < window {
			break
		}
		window = min(window*2, d.size-off)
	}
	state := vmdk.GrainAbsent
	if d.src.track.compare {
		// What is zero is the parent's where that is zero too. Where it is not,
		// blocks of a segment may differ.
		off = min(off, d.parentZero())
	} else if kind == disk.Zero && d.src.increment {
		state = vmdk.GrainZero
	}
	if off == d.size {
		return off - d.next, state, nil
	}
	return (off - d.next) / d.w.opt.ExtentBytes * d.w.opt.ExtentBytes, state, nil
}

// leading returns how much of [off, off+n) is of the given kind, if that needs
// no reading. Kind 0 becomes that of the first run.
func (d *diskWriter) leading(kind *disk.Kind, off, n int64) (int64, error) {
	var same int64
	for r, err := range d.src.changes.Runs(off, n) {
		if err != nil {
			return 0, err
		}
		if *kind == 0 {
			*kind = r.Kind
		}
		if r.Kind != *kind || r.Kind == disk.Data || r.Kind == disk.Parent && (!d.src.increment || d.src.track.readsParent()) {
			break
		}
		same += r.Length
	}
	return same, nil
}

// parentZero returns the end of the zeros that the parent has from d.next on.
func (d *diskWriter) parentZero() int64 {
	t := &d.src.track
	if next := t.was.nextListed(d.next / t.block); next < d.size/t.block+1 {
		return min(next*t.block, d.size)
	}
	return d.size
}

func (d *diskWriter) work(ctx context.Context, s *slot) error {
	for {
		p, ok, err := d.take(s)
		if err != nil || !ok {
			return err
		}
		if err := d.piece(ctx, s, p); err != nil {
			return err
		}
	}
}

func (d *diskWriter) piece(ctx context.Context, s *slot, p piece) error {
	seg := packed{state: p.state}
	var header []byte
	if !p.empty {
		var err error
		if d.merged != nil {
			s.lay(&seg, p.n, p.stored, s.states[:vmdk.SegmentGrains(p.n)])
		} else if seg, err = s.pack(d.src, p.off, p.n); err != nil {
			return err
		}
		if seg.extent {
			if header, err = d.w.emit.header(d.rec.extentName(p.off/d.w.opt.ExtentBytes), seg.size, diskMode); err != nil {
				return err
			}
			if err := s.finish(&seg, header); err != nil {
				return err
			}
		}
	}
	select {
	case <-p.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := d.write(p, &seg, header); err != nil {
		return err
	}
	close(p.done)
	return nil
}

// write is called for one piece at a time, in order.
func (d *diskWriter) write(p piece, seg *packed, header []byte) error {
	c := d.w.opt.Counters
	stored := int64(seg.stored) * vmdk.GrainBytes
	d.total.ReadBytes += seg.read
	d.total.StoredBytes += stored
	c.Zero.Add(max(p.n-stored, 0))
	c.Done.Add(p.n)
	d.keepDigests(p, seg)
	if !seg.extent {
		if d.emptyState != seg.state {
			if err := d.flushEmpty(); err != nil {
				return err
			}
		}
		if d.emptyTo == d.emptyFrom {
			d.emptyFrom, d.emptyTo, d.emptyState = p.off, p.off, seg.state
		}
		d.emptyTo += p.n
		return nil
	}
	if err := d.flushEmpty(); err != nil {
		return err
	}
	name := d.rec.extentName(p.off / d.w.opt.ExtentBytes)
	d.addExtent(name, p.n)
	d.total.OutBytes += int64(len(seg.out))
	return d.w.emit.packed(name, seg, header)
}

// keepDigests notes the digests of a piece's blocks.
func (d *diskWriter) keepDigests(p piece, seg *packed) {
	if d.track == nil {
		return
	}
	first := p.off / d.rec.TrackBytes
	if p.empty {
		if p.state == vmdk.GrainAbsent && d.src.increment {
			d.track.carry(d.src.track.was, first, (p.off+p.n+d.rec.TrackBytes-1)/d.rec.TrackBytes)
		}
		return
	}
	for i, sum := range seg.digests {
		d.track.add(first+int64(i), sum)
	}
}

// flushEmpty writes the pending run of segments without data as one extent.
// How long it is depends on what the disk holds, not on where its holes are.
func (d *diskWriter) flushEmpty() error {
	n := d.emptyTo - d.emptyFrom
	if n == 0 {
		return nil
	}
	e := d.w.emit
	name := d.rec.extentName(d.emptyFrom / d.w.opt.ExtentBytes)
	size := vmdk.EmptySegmentSize(n)
	h, err := e.header(name, size, diskMode)
	if err != nil {
		return err
	}
	d.addExtent(name, n)
	d.total.EmptyExtents++
	before := e.out
	if err := e.stream(name, h, size, vmdk.EmptySegment(n, d.emptyState)); err != nil {
		return err
	}
	d.total.OutBytes += e.out - before
	d.emptyFrom = d.emptyTo
	return nil
}

func (d *diskWriter) addExtent(name string, n int64) {
	d.total.Extents++
	d.extents = append(d.extents, extentLine(name, n))
}
