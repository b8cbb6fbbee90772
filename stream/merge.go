// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// Merge reads a full backup and the increments on it, oldest first, and writes
// the full backup that the last one would have been: a synthetic full. It has
// the id and the time of the last increment, so that later increments fit it.
// Of o, Codec, Workers, MemoryBytes, Tool, Counters and Warn count.
//
// The end record is written when all streams have been read to their end and
// found right; before that, what w has got is no backup.
func Merge(ctx context.Context, w io.Writer, ins []io.Reader, o Options) (*Result, error) {
	g, ctx := errgroup.WithContext(ctx)
	m := &merger{ctx: ctx, opened: make(chan *Opening, 1), files: make(chan *File), disks: make(chan *mergedDisk), read: make(chan struct{})}
	ro := ReadOptions{Workers: o.Workers, MemoryBytes: max(o.MemoryBytes, DefaultMemoryBytes) / 2}
	g.Go(func() error {
		res, err := ReadChain(ctx, ins, m, ro)
		if err == nil {
			m.tracks = res.Index.Tracks
			close(m.read)
		}
		return err
	})
	var res *Result
	g.Go(func() error {
		var err error
		res, err = m.write(ctx, w, o)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return res, nil
}

// merger is the sink of a merge, and gives what it gets to a writer.
type merger struct {
	ctx    context.Context // of the run: a sink's methods have none
	opened chan *Opening
	files  chan *File
	disks  chan *mergedDisk
	read   chan struct{} // closed when all streams have been read
	tracks []*DiskTrack  // of the last stream, then
	disk   *mergedDisk
}

func (m *merger) Begin(o *Opening) error {
	m.opened <- o
	return nil
}

func (m *merger) File(f *FileInfo) (io.WriteCloser, error) {
	r, w := io.Pipe()
	file := &File{Record: f.Record, Mode: f.Mode, ModTime: time.Unix(f.Mtime, 0), Open: func() (io.ReadCloser, int64, error) { return r, f.Size, nil }}
	select {
	case m.files <- file:
		return w, nil
	case <-m.ctx.Done():
		return nil, context.Cause(m.ctx)
	}
}

func (m *merger) Disk(int) (disk.Writer, error) {
	m.disk = &mergedDisk{ctx: m.ctx, events: make(chan event)}
	select {
	case m.disks <- m.disk:
		return m.disk, nil
	case <-m.ctx.Done():
		return nil, context.Cause(m.ctx)
	}
}

func (m *merger) diskEnd(int) error {
	close(m.disk.events)
	return nil
}

// write writes the merged stream.
func (m *merger) write(ctx context.Context, out io.Writer, o Options) (*Result, error) {
	var top *Opening
	select {
	case top = <-m.opened:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	o.ID, o.Created, o.Name, o.Consistency, o.ExtentBytes, o.Parent = top.ID, top.Created, top.VMName(), top.Consistency, top.ExtentBytes, nil
	if err := o.prepare(); err != nil {
		return nil, err
	}
	w := &streamWriter{opt: o, opening: *top}
	w.opening.Name, w.opening.ParentID, w.opening.Depth, w.opening.Tool = o.Name, "", 0, o.Tool
	w.opening.Disks = make([]DiskRecord, len(top.Disks))
	for i := range top.Disks {
		w.opening.Disks[i] = top.Disks[i]
		w.opening.Disks[i].ParentCID, w.opening.Disks[i].ParentFile = CIDString(vmdk.NoParent), ""
		// What an increment's source had allocated says nothing about the whole.
		w.opening.Disks[i].AllocatedBytes = top.Disks[i].CapacityBytes
		o.Counters.Total.Add(top.Disks[i].CapacityBytes)
	}
	if err := w.opening.validate(); err != nil {
		return nil, err
	}
	var err error
	if w.emit, err = newEmitter(out, &w.opt, w.opening.Name); err != nil {
		return nil, err
	}
	defer w.releaseSlots()
	if err := w.begin(); err != nil {
		return nil, err
	}
	if err := m.writeMembers(ctx, w); err != nil {
		return nil, err
	}
	return w.finish()
}

// writeMembers writes files and disks as they come.
func (m *merger) writeMembers(ctx context.Context, w *streamWriter) error {
	for n := 0; ; {
		select {
		case <-m.read: // nothing follows
			w.tracks = m.tracks // of the disks as they are now
			return nil
		case f := <-m.files:
			if err := w.file(f); err != nil {
				return err
			}
		case d := <-m.disks:
			if err := w.disk(ctx, &w.opening.Disks[n], &Disk{merged: d}); err != nil {
				return err
			}
			n++
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// mergedDisk is the target of a merged disk and the source of the new one's
// segments: one side waits for the other.
type mergedDisk struct {
	ctx    context.Context
	events chan event
	cur    event
	used   int64 // of cur
	open   bool  // cur holds something
}

func (d *mergedDisk) WriteAt(p []byte, off int64) (int, error) {
	done := make(chan struct{})
	select {
	case d.events <- event{off: off, n: int64(len(p)), data: p, done: done}:
	case <-d.ctx.Done():
		return 0, context.Cause(d.ctx)
	}
	select {
	case <-done:
		return len(p), nil
	case <-d.ctx.Done():
		return 0, context.Cause(d.ctx)
	}
}

func (d *mergedDisk) Ordered() bool { return true }
func (d *mergedDisk) Close() error  { return nil }
func (d *mergedDisk) Abort()        {}

var errOrder = errors.New("merged data is out of order")

// segment puts the stored grains of [off, off+n) into the slot and returns how
// many there are. Segments are asked for in order.
func (d *mergedDisk) segment(off, n int64, s *slot) (int, error) {
	states := s.states[:vmdk.SegmentGrains(n)]
	clear(states)
	room := s.mem[s.extent+vmdk.SegmentOverhead(n):]
	used := 0
	grain := int64(-1) // being filled
	for {
		if !d.open {
			var err error
			if d.open, err = d.receive(); err != nil || !d.open {
				return d.closeGrain(room, states, grain, used), err
			}
		}
		at := d.cur.off + d.used
		if at >= off+n {
			return d.closeGrain(room, states, grain, used), nil
		}
		if at < off {
			return 0, fmt.Errorf("%w: %d before %d", errOrder, at, off)
		}
		g := (at - off) / vmdk.GrainBytes
		if g != grain {
			used = d.closeGrain(room, states, grain, used)
			grain = g
			clear(room[used*vmdk.GrainBytes:][:vmdk.GrainBytes])
		}
		in := (at - off) % vmdk.GrainBytes
		k := min(vmdk.GrainBytes-in, d.cur.n-d.used)
		copy(room[int64(used)*vmdk.GrainBytes+in:], d.cur.data[d.used:d.used+k])
		if d.used += k; d.used == d.cur.n {
			close(d.cur.done)
			d.open = false
		}
	}
}

// closeGrain keeps the grain that has been filled unless it is zero, and
// returns the number of grains kept.
func (d *mergedDisk) closeGrain(room []byte, states []vmdk.GrainState, grain int64, used int) int {
	if grain < 0 || disk.IsZero(room[used*vmdk.GrainBytes:][:vmdk.GrainBytes]) {
		return used
	}
	states[grain] = vmdk.GrainStored
	return used + 1
}

// receive waits for the next event; false is the end of the disk.
func (d *mergedDisk) receive() (bool, error) {
	select {
	case e, ok := <-d.events:
		d.cur, d.used = e, 0
		return ok, nil
	case <-d.ctx.Done():
		return false, context.Cause(d.ctx)
	}
}
