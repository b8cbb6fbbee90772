// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package freespace finds what the file systems on a disk do not use, by their own
// allocation maps, so that it need not be read or stored: it reads as zeros then.
//
// Nothing is taken for free that is not certain to be. A file system with a feature that is
// not known here, with maps that contradict themselves, or in a state that only its own
// repair can judge, has no free space; neither has what is in no file system, or in one of
// another kind. Everything read is checked before it is used.
package freespace

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/disk"
)

// Volume is a file system, or what else is in a partition or on a whole disk.
type Volume struct {
	OffsetBytes int64  // on the disk; of an LVM volume that is in pieces, of its first
	SizeBytes   int64  // of the partition or volume
	Name        string // such as "partition 1", "LVM vg0/root", "" for the whole disk
	Kind        string // such as "ext4"; "" if it is not known
	FreeBytes   int64  // that are taken for free
	Reason      string // why none are, "" if some may be
}

// Map is what is free on a disk.
type Map struct {
	Volumes   []Volume
	FreeBytes int64
	spans     []span // ascending, without overlaps
}

// maxVolumes bounds what is looked at on one disk.
const maxVolumes = 256

// Find looks for file systems on a disk and collects what they do not use. An error is one
// of reading the disk, or the context's: what is wrong with a file system is a reason in
// its Volume. Memory grows with the number of free ranges, up to some tens of MiB.
func Find(ctx context.Context, im disk.Image) (*Map, error) {
	f := &finder{ctx: ctx, im: im, m: &Map{}}
	if err := f.disk(); err != nil {
		return nil, err
	}
	f.m.spans = f.free.done()
	for _, s := range f.m.spans {
		f.m.FreeBytes += s.end - s.from
	}
	return f.m, nil
}

type finder struct {
	ctx  context.Context
	im   disk.Image
	m    *Map
	free spanSet
}

// area is where a volume lies: in one or several pieces of the disk.
type area struct {
	name   string
	pieces []piece
	inner  bool // a logical volume
}

// piece is a range of a disk that is a range of a volume.
type piece struct{ in, on, length int64 }

func whole(name string, offset, size int64) area {
	return area{name: name, pieces: []piece{{0, offset, size}}}
}

func (a *area) size() int64 {
	last := a.pieces[len(a.pieces)-1]
	return last.in + last.length
}

// disk looks at a disk.
func (f *finder) disk() error {
	areas, err := partitions(&volume{im: f.im, area: whole("", 0, f.im.Size())})
	var no *refusal
	if errors.As(err, &no) {
		f.m.Volumes = append(f.m.Volumes, Volume{SizeBytes: f.im.Size(), Reason: no.Error()})
		return nil
	}
	if err != nil {
		return err
	}
	for i := range areas {
		if err := f.volume(areas[i]); err != nil {
			return err
		}
	}
	return nil
}

// volume looks at what is in a partition.
func (f *finder) volume(a area) error {
	if err := f.ctx.Err(); err != nil {
		return context.Cause(f.ctx)
	}
	if len(f.m.Volumes) >= maxVolumes {
		return nil
	}
	out := Volume{OffsetBytes: a.pieces[0].on, SizeBytes: a.size(), Name: a.name}
	v := &volume{ctx: f.ctx, im: f.im, area: a}
	kind, err := detect(v)
	out.Kind = kind.name
	if err == nil && kind.name == lvmKind && !a.inner {
		return f.logical(v, out)
	}
	var found spanSet
	if err == nil && kind.read != nil {
		var name string
		if name, err = kind.read(v, &found); err == nil {
			f.keep(&a, found.done(), &out)
		}
		if name != "" {
			out.Kind = name
		}
	}
	var no *refusal
	switch {
	case errors.As(err, &no):
		out.Reason = no.Error()
	case err != nil:
		return err
	case kind.read == nil:
		out.Reason = "no file system that is known here"
	}
	f.m.Volumes = append(f.m.Volumes, out)
	return nil
}

// logical looks at the logical volumes on one.
func (f *finder) logical(v *volume, out Volume) error {
	areas, err := logicalVolumes(v)
	var no *refusal
	if err != nil && !errors.As(err, &no) {
		return err
	}
	out.Reason = "what is in no plain logical volume"
	if no != nil {
		out.Reason = no.Error()
	}
	f.m.Volumes = append(f.m.Volumes, out)
	for i := range areas {
		areas[i].inner = true
		if err := f.volume(areas[i]); err != nil {
			return err
		}
	}
	return nil
}

// keep notes what is free of a volume, where it is on the disk.
func (f *finder) keep(a *area, free []span, out *Volume) {
	for _, s := range free {
		for _, p := range a.pieces {
			from, end := max(s.from, p.in), min(s.end, p.in+p.length)
			if from < end {
				f.free.add(p.on+from-p.in, end-from)
				out.FreeBytes += end - from
			}
		}
	}
}

// refusal is why nothing of a file system is taken for free.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// volume reads what is in an area.
type volume struct {
	ctx  context.Context
	im   disk.Image
	area area
}

func (v *volume) size() int64 { return v.area.size() }

// ReadAt implements io.ReaderAt.
func (v *volume) ReadAt(p []byte, off int64) (int, error) {
	if err := v.read(p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// read fills p from an offset in the volume. What is behind its end is a refusal.
func (v *volume) read(p []byte, off int64) error {
	if off < 0 || off > v.size() || int64(len(p)) > v.size()-off {
		return refuse("%d bytes at %d are behind its end of %d bytes", len(p), off, v.size())
	}
	if v.ctx != nil && v.ctx.Err() != nil {
		return context.Cause(v.ctx)
	}
	for _, q := range v.area.pieces {
		for len(p) > 0 && off >= q.in && off < q.in+q.length {
			n := min(int64(len(p)), q.in+q.length-off)
			if k, err := v.im.ReadAt(p[:n], q.on+off-q.in); int64(k) < n {
				if err == nil || err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			p, off = p[n:], off+n
		}
	}
	if len(p) > 0 {
		return refuse("%d bytes at %d are on no piece of it", len(p), off)
	}
	return nil
}

// peek is read for the beginning, which may be shorter.
func (v *volume) peek(n int64) ([]byte, error) {
	b := make([]byte, min(n, v.size()))
	return b, v.read(b, 0)
}
