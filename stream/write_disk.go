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
	im      disk.Image
	size    int64 // whole sectors
	extents []vmdk.Extent
	total   DiskTotals

	mu   sync.Mutex // guards what follows: handing out work
	next int64      // offset of the next segment
	turn chan struct{}

	// Owned by whose turn it is: a run of segments without data that has not
	// been written yet, in bytes.
	emptyFrom, emptyTo int64
}

func (w *streamWriter) disk(ctx context.Context, rec *DiskRecord, im disk.Image) error {
	if err := w.makeSlots(); err != nil {
		return err
	}
	d := &diskWriter{
		w: w, rec: rec, im: im, size: rec.Sectors() * disk.SectorSize, turn: make(chan struct{}),
		total: DiskTotals{Key: rec.Key, File: rec.File, CapacityBytes: rec.CapacityBytes},
	}
	if d.size != rec.CapacityBytes {
		d.im = &padded{Image: im, size: d.size}
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
	return w.emit.bytes(rec.File, diskMode, b)
}

// piece is what a worker takes: a segment, or a range of them known to be zero.
type piece struct {
	off, n int64
	zero   bool
	turn   <-chan struct{} // closed when everything before has been written
	done   chan<- struct{}
}

// take hands out the next piece, in order. ok is false at the end.
func (d *diskWriter) take() (p piece, ok bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.next >= d.size {
		return piece{}, false, nil
	}
	p = piece{off: d.next, n: min(d.w.opt.ExtentBytes, d.size-d.next)}
	if n, err := d.zeroAhead(); err != nil {
		return piece{}, false, err
	} else if n > 0 {
		p.n, p.zero = n, true
	}
	d.next += p.n
	done := make(chan struct{})
	p.turn, p.done, d.turn = d.turn, done, done
	return p, true, nil
}

// zeroAhead returns the length of the whole segments from d.next on that are
// known to be zero, without reading them. It looks at one segment, and only
// while there is nothing further on, at twice as much each time: an image may
// have to walk all of its tables to tell where a run ends.
func (d *diskWriter) zeroAhead() (int64, error) {
	off, window := d.next, min(d.w.opt.ExtentBytes, d.size-d.next)
	for off < d.size {
		n, err := d.leadingZeros(off, window)
		if err != nil {
			return 0, err
		}
		off += n
		if n < window {
			break
		}
		window = min(window*2, d.size-off)
	}
	if off == d.size {
		return off - d.next, nil
	}
	return (off - d.next) / d.w.opt.ExtentBytes * d.w.opt.ExtentBytes, nil
}

func (d *diskWriter) leadingZeros(off, n int64) (int64, error) {
	var zero int64
	for r, err := range d.im.Runs(off, n) {
		if err != nil {
			return 0, err
		}
		if r.Kind != disk.Zero {
			break
		}
		zero += r.Length
	}
	return zero, nil
}

func (d *diskWriter) work(ctx context.Context, s *slot) error {
	for {
		p, ok, err := d.take()
		if err != nil || !ok {
			return err
		}
		if err := d.piece(ctx, s, p); err != nil {
			return err
		}
	}
}

func (d *diskWriter) piece(ctx context.Context, s *slot, p piece) error {
	var seg packed
	var header []byte
	if !p.zero {
		var err error
		if seg, err = s.pack(d.im, p.off, p.n); err != nil {
			return err
		}
		if seg.stored > 0 {
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
	if seg.stored == 0 {
		if d.emptyTo == d.emptyFrom {
			d.emptyFrom, d.emptyTo = p.off, p.off
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
	if err := e.stream(name, h, size, vmdk.EmptySegment(n, vmdk.GrainAbsent)); err != nil {
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
