// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// readPiece is how much of an extent is hashed, checked and written at once.
// It fits a second level cache.
const readPiece = 512 << 10

// extentReader is what the workers that read disks share. Who holds d.mu owns
// the input.
type extentReader struct {
	d     *streamReader
	first *pending
	hold  bool // extents fit a worker's buffer
	err   error
}

// task is an extent on its way to its disk.
type task struct {
	member *MemberRecord
	off    int64 // in the disk
	head   vmdk.SegmentHeader
	disk   *diskState
	feed   feed
	sum    hash.Hash // of what has been taken; nil: no digests
	hashed bool      // sum has all of it already
	turn   <-chan struct{}
	done   chan<- struct{}
}

// errExtentEnds is what a feed gives behind the end of an extent.
var errExtentEnds = recordError("extent", "is shorter than its tables say")

// feed gives the content of an extent in order; a slice is good until the next
// call.
type feed interface {
	take(n int) ([]byte, error)
}

// held is the content of an extent in memory.
type held struct{ b []byte }

func (h *held) take(n int) ([]byte, error) {
	if n > len(h.b) {
		return nil, errExtentEnds
	}
	b := h.b[:n]
	h.b = h.b[n:]
	return b, nil
}

// direct is the content of an extent still in the input.
type direct struct {
	r    io.Reader
	left int64
	buf  []byte
}

func (f *direct) take(n int) ([]byte, error) {
	if int64(n) > f.left {
		return nil, errExtentEnds
	}
	if n > len(f.buf) {
		f.buf = make([]byte, n)
	}
	f.left -= int64(n)
	if _, err := io.ReadFull(f.r, f.buf[:n]); err != nil {
		return nil, eofUnexpected(err)
	}
	return f.buf[:n], nil
}

func (x *extentReader) work(ctx context.Context, room int) (err error) {
	var buf []byte
	var release func()
	defer func() {
		// When a run fails nobody waits for those who have been handed content: they
		// may be reading it still, so the memory stays.
		if release != nil && err == nil {
			release()
		}
	}()
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if x.hold && buf == nil {
			if buf, release, err = allocate(room); err != nil {
				return err
			}
		}
		t, err := x.next(ctx, buf)
		if err != nil || t == nil {
			return err
		}
		if err := t.run(ctx, x.d.count); err != nil {
			return err
		}
	}
}

// next takes members from the input until there is an extent to be worked on
// outside the lock. A nil task is the end of the disks. Behind an error there
// is nothing: the input stands anywhere.
func (x *extentReader) next(ctx context.Context, buf []byte) (*task, error) {
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	if x.err != nil {
		return nil, x.err
	}
	t, err := x.advance(ctx, buf)
	x.err = err
	return t, err
}

func (x *extentReader) advance(ctx context.Context, buf []byte) (*task, error) {
	d := x.d
	for !d.ended {
		if ctx.Err() != nil { // somebody else has failed: do not wait for input
			return nil, context.Cause(ctx)
		}
		if passed, err := x.passOver(); err != nil {
			return nil, err
		} else if passed {
			continue
		}
		p, err := x.header()
		if err != nil {
			return nil, err
		}
		s := &d.disks[d.current]
		switch {
		case p.m.name == s.rec.File:
			if err := d.descriptor(s, p); err != nil {
				return nil, err
			}
			if err := d.endDisk(ctx); err != nil {
				return nil, err
			}
			if d.current++; d.current == len(d.disks) {
				d.ended = true
			}
		case s.next < s.size && p.m.name == s.rec.extentName(s.next/d.opening.ExtentBytes):
			t, err := x.extent(ctx, s, p, buf)
			if t != nil || err != nil {
				return t, err
			}
		default:
			return nil, recordError(p.m.name, "is not the member that follows here")
		}
	}
	return nil, nil
}

func (x *extentReader) header() (*pending, error) {
	if p := x.first; p != nil {
		x.first = nil
		x.d.where = p.m.name
		return p, nil
	}
	m, n, err := x.d.header()
	if err == nil && m == nil {
		err = recordError("stream", "the tar ends before its end record")
	}
	return &pending{m, n}, err
}

// leftOver is the state behind the disks: a VM without any has its next header
// read already.
func (x *extentReader) leftOver() error {
	if x.first == nil {
		return nil
	}
	// Give the header back to the next stage.
	b, err := (&member{name: x.d.opening.Name + "/" + x.first.m.name, size: x.first.m.size, mode: x.first.m.mode, modTime: x.first.m.modTime}).encode()
	x.d.in = io.MultiReader(bytes.NewReader(b), x.d.in)
	return err
}

// extent starts on an extent: its header tells what it covers.
func (x *extentReader) extent(ctx context.Context, s *diskState, p *pending, buf []byte) (*task, error) {
	d := x.d
	if err := d.openTarget(s); err != nil {
		return nil, err
	}
	var hb [disk.SectorSize]byte
	if p.m.size < disk.SectorSize {
		return nil, recordError(p.m.name, "is %d bytes long", p.m.size)
	}
	if _, err := io.ReadFull(d.in, hb[:]); err != nil {
		return nil, eofUnexpected(err)
	}
	head, err := vmdk.ParseSegmentHeader(&hb)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.m.name, err)
	}
	if err := d.fits(s, p.m, head); err != nil {
		return nil, err
	}
	t := &task{member: d.begin(p.m, d.tar, nil), off: s.next, head: head, disk: s}
	if !d.opt.NoDigests {
		t.sum = sha256.New()
		t.sum.Write(hb[:])
	}
	done := make(chan struct{})
	t.turn, t.done, d.turn = d.turn, done, done
	s.add(p.m, head)
	d.passed(p.n + p.m.size)
	ordered := s.target != nil && s.target.Ordered()
	if d.seek != nil && !head.Empty && !ordered {
		t.feed = d.seek.skip(p.m.size-disk.SectorSize, buf)
		return t, nil
	}
	if x.hold && !head.Empty {
		b := buf[:p.m.size-disk.SectorSize]
		if _, err := io.ReadFull(d.in, b); err != nil {
			return nil, eofUnexpected(err)
		}
		t.feed = &held{b}
		return t, nil
	}
	// Nobody else may read meanwhile: all of it here, under the lock.
	t.feed = &direct{r: d.in, left: p.m.size - disk.SectorSize}
	return nil, t.run(ctx, d.count)
}

// fits checks an extent's place and length before anything is done with it.
func (d *streamReader) fits(s *diskState, m *member, h vmdk.SegmentHeader) error {
	left := s.size - s.next
	ext := d.opening.ExtentBytes
	switch {
	case h.CapacityBytes > left || h.CapacityBytes < left && h.CapacityBytes%ext != 0:
		return recordError(m.name, "covers %d bytes of disk where %d are left", h.CapacityBytes, left)
	case h.Empty:
		if m.size != vmdk.EmptySegmentSize(h.CapacityBytes) {
			return recordError(m.name, "is %d bytes long", m.size)
		}
	case h.CapacityBytes > ext || m.size < h.Overhead || m.size == h.Overhead && !s.rec.Increment() || m.size > extentRoom(h.CapacityBytes) || (m.size-h.Overhead)%vmdk.GrainBytes != 0:
		return recordError(m.name, "is %d bytes long and covers %d bytes of disk", m.size, h.CapacityBytes)
	}
	return nil
}

func (s *diskState) add(m *member, h vmdk.SegmentHeader) {
	s.extents = append(s.extents, extentLine(m.name, h.CapacityBytes))
	s.next += h.CapacityBytes
	s.total.Extents++
	if h.Empty {
		s.total.EmptyExtents++
	} else {
		s.total.StoredBytes += m.size - h.Overhead
	}
}

func (d *streamReader) openTarget(s *diskState) error {
	if s.opened || d.sink == nil {
		return nil
	}
	s.opened = true
	var err error
	if s.target, err = d.sink.Disk(d.current); err != nil {
		return target(err)
	}
	return nil
}

// descriptor reads and checks the descriptor that ends a disk.
func (d *streamReader) descriptor(s *diskState, p *pending) error {
	if s.next != s.size {
		return recordError(s.rec.File, "its extents cover %d of %d bytes", s.next, s.size)
	}
	want, err := s.rec.descriptor(s.extents)
	if err != nil {
		return err
	}
	if p.m.size != int64(len(want)) {
		return recordError(s.rec.File, "is %d bytes long, not %d as its extents have it", p.m.size, len(want))
	}
	at := d.tar
	b, err := d.content(p.m, p.n)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, want) {
		return recordError(s.rec.File, "does not describe the extents before it")
	}
	d.begin(p.m, at, b)
	s.extents = nil
	return nil
}

// diskEnder is a sink that wants to know when an ordered disk is complete.
type diskEnder interface{ diskEnd(i int) error }

func (d *streamReader) endDisk(ctx context.Context) error {
	e, ok := d.sink.(diskEnder)
	if !ok {
		return nil
	}
	select { // the last extent taken is behind all others
	case <-d.turn:
		return target(e.diskEnd(d.current))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run checks an extent behind its first sector and writes its grains.
func (t *task) run(ctx context.Context, c *Counters) error {
	w := t.disk.target
	if w != nil && w.Ordered() {
		// The digest need not wait for its turn, only the writing has to.
		if h, ok := t.feed.(*held); ok && t.sum != nil {
			t.sum.Write(h.b)
			t.hashed = true
		}
		select {
		case <-t.turn:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := t.body(w); err != nil {
		return fmt.Errorf("%s: %w", t.member.Name, err)
	}
	if t.sum != nil {
		t.member.setDigest(t.sum.Sum(nil))
	}
	c.Done.Add(t.head.CapacityBytes)
	close(t.done)
	return nil
}

func (t *task) body(w disk.Writer) error {
	if t.head.Empty {
		return t.empty(w)
	}
	b, err := t.take(int(t.head.Overhead) - disk.SectorSize)
	if err != nil {
		return err
	}
	meta := make([]byte, t.head.Overhead)
	t.head.PutHeader(meta)
	copy(meta[disk.SectorSize:], b)
	grains := make([]vmdk.GrainState, vmdk.SegmentGrains(t.head.CapacityBytes))
	stored, err := t.head.ParseSegment(meta, grains)
	if err != nil {
		return err
	}
	if stored == 0 && t.disk.rec.Increment() && !slices.ContainsFunc(grains, func(g vmdk.GrainState) bool { return g != grains[0] }) {
		return recordError("extent", "stores nothing, so it should be an empty one")
	}
	if x, ok := w.(wholeTaker); ok {
		if taken, err := t.whole(x, meta, stored); taken || err != nil {
			return target(err)
		}
	}
	for i := 0; i < len(grains); {
		n := 1
		for i+n < len(grains) && grains[i+n] == grains[i] && (grains[i] != vmdk.GrainStored || n < readPiece/vmdk.GrainBytes) {
			n++
		}
		var err error
		switch grains[i] {
		case vmdk.GrainStored:
			err = t.grains(w, i, n)
		case vmdk.GrainZero:
			err = t.zeros(w, int64(i)*vmdk.GrainBytes, int64(n)*vmdk.GrainBytes)
		}
		if err != nil {
			return err
		}
		i += n
	}
	if _, err := t.feed.take(1); !errors.Is(err, errExtentEnds) {
		return recordError("extent", "is longer than its tables say")
	}
	return nil
}

func (t *task) take(n int) ([]byte, error) {
	b, err := t.feed.take(n)
	if err == nil && t.sum != nil && !t.hashed {
		t.sum.Write(b)
	}
	return b, err
}

// grains takes n grains, the first of which is grain i of the segment.
func (t *task) grains(w disk.Writer, i, n int) error {
	b, err := t.take(n * vmdk.GrainBytes)
	if err != nil {
		return err
	}
	off := int64(i) * vmdk.GrainBytes
	if over := off + int64(len(b)) - t.head.CapacityBytes; over > 0 {
		keep := len(b) - int(over)
		if !disk.IsZero(b[keep:]) {
			return recordError("last grain", "is not zero behind the end of the disk")
		}
		b = b[:keep]
	}
	if w == nil {
		return nil
	}
	if _, err := w.WriteAt(b, t.off+off); err != nil {
		return target(err)
	}
	return nil
}

// ZeroWriter is a target that can take what an increment makes zero.
type ZeroWriter interface {
	disk.Writer
	// ZeroAt makes n bytes at off zero, in the order of WriteAt.
	ZeroAt(off, n int64) error
}

// zeros passes on n bytes of explicit zeros at off of the segment.
func (t *task) zeros(w disk.Writer, off, n int64) error {
	if w == nil || !t.disk.rec.Increment() { // without a parent all that is not stored is zero
		return nil
	}
	z, ok := w.(ZeroWriter)
	if !ok {
		return target(fmt.Errorf("an increment alone is no disk: %w", disk.ErrUnsupported))
	}
	return target(z.ZeroAt(t.off+off, min(n, t.head.CapacityBytes-off)))
}

// empty compares an empty extent with the only way to write one.
func (t *task) empty(w disk.Writer) error {
	state := vmdk.GrainAbsent
	if t.head.ExplicitZeros {
		state = vmdk.GrainZero
	}
	if state == vmdk.GrainZero {
		if err := t.zeros(w, 0, t.head.CapacityBytes); err != nil {
			return err
		}
	}
	want := vmdk.EmptySegment(t.head.CapacityBytes, state)
	left := vmdk.EmptySegmentSize(t.head.CapacityBytes)
	wb := make([]byte, min(left, readPiece))
	if _, err := io.ReadFull(want, wb[:disk.SectorSize]); err != nil {
		return err
	}
	for left -= disk.SectorSize; left > 0; {
		w := wb[:min(left, readPiece)]
		b, err := t.take(len(w))
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(want, w); err != nil {
			return err
		}
		if !bytes.Equal(b, w) {
			return recordError("extent", "its tables are not those of an empty extent")
		}
		left -= int64(len(w))
	}
	return nil
}
