// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/disk"
)

// SeriesSink takes a full backup and increments that follow it in one input.
type SeriesSink interface {
	Sink
	// Next gets the opening record of an increment. What is before it has been
	// read and found good, and it fits that. From then on File and Disk are
	// about it: writers of its disks get what it stores and, as ZeroWriters,
	// what it makes zero; the rest stays as it was before. A disk that is no
	// increment begins anew. Only the files of the last stream count.
	Next(o *Opening) error
}

// ReadSeries reads a stream and any number of increments on it that follow in
// the same input, oldest first, as Read does; each may have a codec of its own.
// What they hold goes to sink, which may be nil, one after the other, so that
// it has the VM as the last one has it. A stream that does not fit the one
// before it is refused with disk.ErrMismatch before any of it goes to the sink.
// It returns the results of all streams, of those before the last without
// disks, files and index; OutBytes is the length of what was read of the input
// when each ended, or a little more.
func ReadSeries(ctx context.Context, r io.Reader, sink SeriesSink, o ReadOptions) ([]*Result, error) {
	o.prepare()
	in := newInput(r, &o)
	in.series = true
	defer in.close()
	var all []*Result
	var before *Opening
	var next Sink
	if sink != nil {
		next = sink
	}
	for {
		d := &streamReader{opt: o, input: in, sink: next, before: before}
		res, err := d.read(ctx)
		if err != nil {
			return nil, d.behind(err)
		}
		if !d.more {
			return append(all, res), nil
		}
		before, all = res.Opening, append(all, res.short())
		if sink != nil {
			next = &nextSink{sink}
		}
	}
}

// short returns what is kept of a stream that others follow: there may be
// hundreds, and an index with digests is long.
func (r *Result) short() *Result {
	o := *r.Opening
	o.Disks, o.Files = nil, nil
	return &Result{Opening: &o, OutBytes: r.OutBytes, TarBytes: r.TarBytes}
}

// nextSink is the sink of an increment that follows another stream.
type nextSink struct{ SeriesSink }

func (n *nextSink) Begin(o *Opening) error { return n.Next(o) }

// behind explains what is wrong behind a stream that was good.
func (d *streamReader) behind(err error) error {
	if d.before == nil || errors.Is(err, ErrTarget) {
		return err
	}
	if d.opening == nil {
		return fmt.Errorf("behind the end of backup %s: what follows is no increment on it: %w", d.before.ID, err)
	}
	return fmt.Errorf("backup %s, which follows %s: %w", d.opening.ID, d.before.ID, err)
}

// above reports if the level of o can be that of an increment on another backup. A
// full one may stand for a chain of any length, as that of a merge does, so the
// level of an increment on it says nothing.
func (o *Opening) above(below *Opening) bool {
	if below.Depth == 0 {
		return o.Depth > 0
	}
	return o.Depth == below.Depth+1
}

// Follows makes sure that o is an increment on the backup before it: the level,
// the id, and of each disk that is one on its parent capacity and content id.
func (o *Opening) Follows(before *Opening) error {
	if !o.above(before) || o.ParentID != before.ID {
		what := "a full backup"
		if o.Depth > 0 {
			what = fmt.Sprintf("an increment of level %d on %s", o.Depth, o.ParentID)
		}
		return fmt.Errorf("backup %s is %s: %w; what is before it is %s, of level %d", o.ID, what, disk.ErrMismatch, before.ID, before.Depth)
	}
	for i := range o.Disks {
		d := &o.Disks[i]
		if !d.Increment() {
			continue
		}
		p, err := before.parentOf(d)
		if err == nil && p.CID != d.ParentCID {
			err = fmt.Errorf("its parent's content id is %s, backup %s has %s: %w", d.ParentCID, before.ID, p.CID, disk.ErrMismatch)
		}
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	return nil
}
