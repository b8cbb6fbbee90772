// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/vmstream/vmstream/disk"
)

// ReadChain reads a full backup and the increments on it, oldest first, side
// by side, and gives sink the VM as the last one has it: its files, and each
// disk put together from all of them. Targets get ascending writes, one at a
// time. All streams are checked as Read does it, and that they belong together:
// in the wrong order, with one missing or of another chain they are refused
// with ErrMismatch. The result is that of the last stream.
func ReadChain(ctx context.Context, ins []io.Reader, sink Sink, o ReadOptions) (*Result, error) {
	switch len(ins) {
	case 0:
		return nil, fmt.Errorf("no stream is given: %w", disk.ErrMismatch)
	case 1:
		return Read(ctx, ins[0], &fullOnly{sink}, o)
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = DefaultMemoryBytes
	}
	// A merge copies extents of the full backup as they are if they are in
	// memory; of increments it takes grains.
	_, merging := sink.(*merger)
	each := max(o.MemoryBytes/int64(len(ins)), 1)
	c := &chain{sink: sink}
	g, ctx := errgroup.WithContext(ctx)
	for i := range ins {
		l := &layer{ctx: ctx, top: i == len(ins)-1, chain: c, opened: make(chan *Opening, 1), ready: make(chan struct{}), events: make(chan event)}
		c.layers = append(c.layers, l)
	}
	for i, l := range c.layers {
		lo := o
		if lo.MemoryBytes = each; merging {
			if lo.MemoryBytes = 1; i == 0 {
				lo.MemoryBytes = o.MemoryBytes
			}
		}
		if !l.top {
			lo.Counters = new(Counters)
		}
		g.Go(func() error {
			defer close(l.events)
			var err error
			if l.result, err = Read(ctx, ins[i], l, lo); err != nil && ctx.Err() == nil {
				return fmt.Errorf("stream %d: %w", i+1, err)
			}
			return err
		})
	}
	g.Go(func() error { return c.run(ctx) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return c.layers[len(c.layers)-1].result, nil
}

// fullOnly refuses an increment without its parents.
type fullOnly struct{ Sink }

func (f *fullOnly) Begin(o *Opening) error {
	if o.Depth > 0 {
		return fmt.Errorf("backup %s is an increment on %s: it takes all streams of its chain: %w", o.ID, o.ParentID, disk.ErrMismatch)
	}
	return f.Sink.Begin(o)
}

func (f *fullOnly) diskEnd(i int) error {
	if e, ok := f.Sink.(diskEnder); ok {
		return e.diskEnd(i)
	}
	return nil
}

// chain puts layers together.
type chain struct {
	sink   Sink
	layers []*layer // the full backup first
}

// event is what a layer has at a range of a disk.
type event struct {
	off, n int64
	data   []byte       // nil: zeros
	whole  *wholeExtent // in place of data: an extent that can be taken as it is
	taken  *bool        // if it was
	end    bool         // the disk has no more
	done   chan<- struct{}
}

// layer is the sink of one stream of a chain.
type layer struct {
	ctx    context.Context // of the run: a sink's methods have none
	top    bool
	chain  *chain
	opened chan *Opening
	ready  chan struct{} // closed when the chain has been checked
	events chan event
	result *Result

	opening *Opening
	wanted  []bool // by disk: it takes part
	cur     event  // being used by the merger
	ended   bool
}

func (l *layer) Begin(o *Opening) error {
	l.opened <- o
	select {
	case <-l.ready:
		return nil
	case <-l.ctx.Done():
		return context.Cause(l.ctx)
	}
}

func (l *layer) File(f *FileInfo) (io.WriteCloser, error) {
	if !l.top {
		return nil, nil
	}
	return l.chain.sink.File(f)
}

func (l *layer) Disk(i int) (disk.Writer, error) {
	if !l.wanted[i] {
		return nil, nil
	}
	return &layerDisk{l}, nil
}

func (l *layer) diskEnd(i int) error {
	if !l.wanted[i] {
		return nil
	}
	return l.send(event{end: true})
}

// send hands an event to the merger and waits until it has been used up.
func (l *layer) send(e event) error {
	done := make(chan struct{})
	e.done = done
	select {
	case l.events <- e:
	case <-l.ctx.Done():
		return context.Cause(l.ctx)
	}
	select {
	case <-done:
		return nil
	case <-l.ctx.Done():
		return context.Cause(l.ctx)
	}
}

// layerDisk is a disk of a layer.
type layerDisk struct{ l *layer }

func (d *layerDisk) WriteAt(p []byte, off int64) (int, error) {
	return len(p), d.l.send(event{off: off, n: int64(len(p)), data: p})
}
func (d *layerDisk) ZeroAt(off, n int64) error { return d.l.send(event{off: off, n: n}) }
func (d *layerDisk) Ordered() bool             { return true }
func (d *layerDisk) Close() error              { return nil }
func (d *layerDisk) Abort()                    {}

// run merges the disks of the last stream one after the other.
func (c *chain) run(ctx context.Context) error {
	for _, l := range c.layers {
		select {
		case l.opening = <-l.opened:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := c.check(); err != nil {
		return err
	}
	top := c.layers[len(c.layers)-1].opening
	if err := target(c.sink.Begin(top)); err != nil {
		return err
	}
	for _, l := range c.layers {
		close(l.ready)
	}
	for i := range top.Disks {
		if err := c.disk(ctx, top.Disks[i].Key, i); err != nil {
			return fmt.Errorf("disk %s: %w", top.Disks[i].Key, err)
		}
	}
	return nil
}

// check makes sure that the streams are a chain, and decides for each disk of
// each of them if it takes part.
func (c *chain) check() error {
	for i, l := range c.layers {
		o := l.opening
		switch {
		case !c.inPlace(i):
			return fmt.Errorf("stream %d is backup %s, level %d of its chain: %w; the full backup comes first, then the increments in order", i+1, o.ID, o.Depth, disk.ErrMismatch)
		case i > 0 && o.ParentID != c.layers[i-1].opening.ID:
			return fmt.Errorf("stream %d is an increment of level %d on backup %s, the stream before it is %s: %w", i+1, o.Depth, o.ParentID, c.layers[i-1].opening.ID, disk.ErrMismatch)
		}
		l.wanted = make([]bool, len(o.Disks))
	}
	top := c.layers[len(c.layers)-1].opening
	last := make([]int, len(c.layers)) // place of the last disk taken, by layer
	for i := range top.Disks {
		if err := c.checkDisk(&top.Disks[i], last); err != nil {
			return fmt.Errorf("disk %s: %w", top.Disks[i].Key, err)
		}
	}
	return nil
}

// inPlace reports if the level of stream i fits its place: the full backup comes
// first.
func (c *chain) inPlace(i int) bool {
	o := c.layers[i].opening
	if i == 0 {
		return o.Depth == 0
	}
	return o.above(c.layers[i-1].opening)
}

// checkDisk follows a disk down to where it is stored whole.
func (c *chain) checkDisk(d *DiskRecord, last []int) error {
	for i, l := range slices.Backward(c.layers) {
		at := slices.IndexFunc(l.opening.Disks, func(x DiskRecord) bool { return x.Key == d.Key })
		if at < 0 {
			return fmt.Errorf("backup %s does not have it: %w", l.opening.ID, disk.ErrMismatch)
		}
		if at < last[i] {
			return fmt.Errorf("the disks of backup %s are in another order: %w", l.opening.ID, disk.ErrUnsupported)
		}
		last[i] = at
		x := &l.opening.Disks[at]
		if x.CapacityBytes != d.CapacityBytes {
			return fmt.Errorf("its capacity in backup %s is %d bytes: %w", l.opening.ID, x.CapacityBytes, disk.ErrMismatch)
		}
		l.wanted[at] = true
		if !x.Increment() {
			return nil
		}
		if i == 0 {
			break
		}
		below := c.layers[i-1].opening
		p, err := below.parentOf(x)
		if err != nil {
			return err
		}
		if p.CID != x.ParentCID {
			return fmt.Errorf("its parent's content id is %s, backup %s has %s: %w", x.ParentCID, below.ID, p.CID, disk.ErrMismatch)
		}
	}
	return fmt.Errorf("the full backup has an increment of it: %w", disk.ErrMismatch)
}

// disk merges one disk. Of the layers that have something at an offset the
// topmost counts.
func (c *chain) disk(ctx context.Context, key string, i int) error {
	var layers []*layer // that take part, the lowest first
	for _, l := range c.layers {
		for at := range l.wanted {
			if l.wanted[at] && l.opening.Disks[at].Key == key {
				layers = append(layers, l)
				l.ended = false
				if err := l.next(ctx); err != nil {
					return err
				}
			}
		}
	}
	// The last stream has got to its disks, so its files are through.
	w, err := c.sink.Disk(i)
	if err != nil {
		return target(err)
	}
	for pos := int64(0); ; {
		l, stop := at(layers, pos)
		if stop < 0 {
			return c.endDisk(i)
		}
		if l != nil && l.cur.whole != nil {
			taken, err := l.offer(w, pos, stop)
			if err != nil {
				return err
			}
			if !taken { // its grains follow
				stop = pos
				close(l.cur.done)
				if err := l.next(ctx); err != nil {
					return err
				}
			}
		} else if l != nil && l.cur.data != nil && w != nil {
			if _, err := w.WriteAt(l.cur.data[pos-l.cur.off:stop-l.cur.off], pos); err != nil {
				return target(err)
			}
		}
		pos = stop
		for _, l := range layers {
			for !l.ended && l.cur.off+l.cur.n <= pos {
				close(l.cur.done)
				if err := l.next(ctx); err != nil {
					return err
				}
			}
		}
	}
}

func (c *chain) endDisk(i int) error {
	if e, ok := c.sink.(diskEnder); ok {
		return target(e.diskEnd(i))
	}
	return nil
}

// next takes the next event of a layer.
func (l *layer) next(ctx context.Context) error {
	select {
	case e, ok := <-l.events:
		if !ok { // the stream has failed, and says why itself
			<-ctx.Done()
			return context.Cause(ctx)
		}
		l.cur = e
		if e.end {
			l.ended = true
			close(e.done)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// at returns the topmost layer with something at pos, or nil, and how far that
// holds. stop is -1 if there is nothing from pos on.
func at(layers []*layer, pos int64) (top *layer, stop int64) {
	stop = -1
	for _, l := range slices.Backward(layers) {
		if l.ended {
			continue
		}
		if l.cur.off <= pos {
			if end := l.cur.off + l.cur.n; stop < 0 || end < stop {
				stop = end
			}
			return l, stop
		}
		if stop < 0 || l.cur.off < stop {
			stop = l.cur.off
		}
	}
	return nil, stop
}
