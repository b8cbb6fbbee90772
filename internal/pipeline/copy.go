// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// copyBytes is how much of a disk a worker of a copy has at once.
const copyBytes = 1 << 20

// copier copies the content of a disk: the dispatcher looks for data, workers
// read it and drop grains of zeros, and write the rest one after the other, in
// ascending order. That also suits targets that take any order: with ext4, two
// writers to one file spend a third of a copy's time waiting for each other.
type copier struct {
	im      disk.Image
	w       disk.Writer
	workers int // 0: one more than there are processors
	count   *stream.Counters
}

// extent is the range [from, to) of a disk in bytes.
type extent struct{ from, to int64 }

// copyPiece is what a worker takes: data within one copyBytes of the disk.
type copyPiece struct {
	off  int64
	data []extent      // whole grains, ascending
	turn chan struct{} // closed when everything before has been written
	done chan struct{}
}

func (c *copier) run(ctx context.Context) error {
	n := c.workers
	if n <= 0 {
		n = runtime.GOMAXPROCS(0) + 1
	}
	g, ctx := errgroup.WithContext(ctx)
	pieces := make(chan *copyPiece, n)
	g.Go(func() error {
		defer close(pieces)
		return c.dispatch(ctx, pieces)
	})
	for range n {
		g.Go(func() error { return c.work(ctx, pieces) })
	}
	return g.Wait()
}

// dispatch hands out the data of the disk. Runs are widened to whole grains,
// since that is what is tested for zeros and stored.
func (c *copier) dispatch(ctx context.Context, out chan<- *copyPiece) error {
	q := &pieceQueue{ctx: ctx, out: out, turn: make(chan struct{})}
	close(q.turn)
	size := c.im.Size()
	pos := int64(0) // everything before has been handed out or is zero
	for r, err := range disk.Ahead(c.im, disk.Split(c.im.Runs(0, size), copyBytes)) {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if r.Kind == disk.Zero {
			continue
		}
		from := max(pos, r.Offset/vmdk.GrainBytes*vmdk.GrainBytes)
		end := min(size, (r.End()+vmdk.GrainBytes-1)/vmdk.GrainBytes*vmdk.GrainBytes)
		c.skipped(from - pos)
		for pos = from; pos < end; {
			to := min(end, pos/copyBytes*copyBytes+copyBytes)
			if err := q.add(pos, to); err != nil {
				return err
			}
			pos = to
		}
	}
	c.skipped(size - pos)
	return q.flush()
}

// pieceQueue puts data together to pieces and hands them out in order.
type pieceQueue struct {
	ctx   context.Context // of the call of dispatch that made it
	out   chan<- *copyPiece
	turn  chan struct{} // of the next piece
	piece *copyPiece    // being put together, or nil
}

// add adds data that lies within one copyBytes of the disk.
func (q *pieceQueue) add(from, to int64) error {
	off := from / copyBytes * copyBytes
	if q.piece != nil && q.piece.off != off {
		if err := q.flush(); err != nil {
			return err
		}
	}
	if q.piece == nil {
		q.piece = &copyPiece{off: off}
	}
	q.piece.add(from, to)
	return nil
}

func (q *pieceQueue) flush() error {
	p := q.piece
	if p == nil {
		return nil
	}
	q.piece = nil
	p.turn, p.done = q.turn, make(chan struct{})
	q.turn = p.done
	select {
	case q.out <- p:
		return nil
	case <-q.ctx.Done():
		return context.Cause(q.ctx)
	}
}

func (p *copyPiece) add(from, to int64) {
	if n := len(p.data); n > 0 && p.data[n-1].to == from {
		p.data[n-1].to = to
		return
	}
	p.data = append(p.data, extent{from, to})
}

// skipped counts zeros that are not even read.
func (c *copier) skipped(n int64) {
	c.count.Done.Add(n)
	c.count.Zero.Add(n)
}

func (c *copier) work(ctx context.Context, in <-chan *copyPiece) error {
	buf := make([]byte, copyBytes)
	var stored []extent
	for p := range in {
		var err error
		if stored, err = c.read(p, buf, stored[:0]); err != nil {
			return err
		}
		select {
		case <-p.turn:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, x := range stored {
			if _, err := c.w.WriteAt(buf[x.from-p.off:x.to-p.off], x.from); err != nil {
				return fmt.Errorf("%w: %w", stream.ErrTarget, err)
			}
		}
		close(p.done)
		for _, x := range p.data {
			c.count.Done.Add(x.to - x.from)
		}
	}
	return nil
}

// read fills buf with a piece and appends the ranges that are not zero, whole
// sectors, to stored.
func (c *copier) read(p *copyPiece, buf []byte, stored []extent) ([]extent, error) {
	for _, x := range p.data {
		b := buf[x.from-p.off : x.to-p.off]
		if err := disk.ReadFull(c.im, b, x.from); err != nil {
			return nil, fmt.Errorf("read %d bytes at %d: %w", len(b), x.from, err)
		}
		// A disk may end inside a sector; writes do not.
		end := (x.to + disk.SectorSize - 1) / disk.SectorSize * disk.SectorSize
		clear(buf[x.to-p.off : end-p.off])
		for at := x.from; at < end; {
			to := min(end, at/vmdk.GrainBytes*vmdk.GrainBytes+vmdk.GrainBytes)
			switch n := len(stored); {
			case disk.IsZero(buf[at-p.off : to-p.off]):
				c.count.Zero.Add(min(to, x.to) - at)
			case n > 0 && stored[n-1].to == at:
				stored[n-1].to = to
			default:
				stored = append(stored, extent{at, to})
			}
			at = to
		}
	}
	return stored, nil
}
