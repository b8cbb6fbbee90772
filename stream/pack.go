// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"crypto/sha256"
	"fmt"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// packed is a segment made ready in a slot.
type packed struct {
	stored int   // grains
	read   int64 // bytes read from the source
	size   int64 // of the extent
	sha    [sha256.Size]byte
	out    []byte  // header and extent, or the frames that hold them
	frames []int64 // lengths of the frames
}

// pack reads the segment [off, off+n) of im into the slot's extent, without
// its zero grains, and lays out the extent around it.
func (s *slot) pack(im disk.Image, off, n int64) (packed, error) {
	states := s.states[:vmdk.SegmentGrains(n)]
	clear(states)
	overhead := vmdk.SegmentOverhead(n)
	p := packed{}
	if err := s.collectRuns(im, off, n); err != nil {
		return p, err
	}
	room := s.mem[s.extent+overhead:]
	used := 0
	for from, to := range s.spans(off, n) {
		k, err := s.readSpan(im, off, from, to, n, room[used:], states)
		if err != nil {
			return p, err
		}
		used += k
		p.read += to - from
	}
	p.stored = used / vmdk.GrainBytes
	if p.stored == 0 {
		return p, nil
	}
	p.size = vmdk.PutSegment(s.mem[s.extent:s.extent+overhead], n, states)
	p.sha = sha256.Sum256(s.mem[s.extent : s.extent+int(p.size)])
	return p, nil
}

func (s *slot) collectRuns(im disk.Image, off, n int64) error {
	s.runs = s.runs[:0]
	next := off
	for r, err := range im.Runs(off, n) {
		if err != nil {
			return err
		}
		if r.Offset != next || r.Length <= 0 || r.End() > off+n {
			return fmt.Errorf("runs of the disk at %d: have run %d+%d, %w", next, r.Offset, r.Length, disk.ErrCorrupt)
		}
		next = r.End()
		s.runs = append(s.runs, r)
	}
	if next != off+n {
		return fmt.Errorf("runs of the disk end at %d, not at %d: %w", next, off+n, disk.ErrTruncated)
	}
	return nil
}

// spans yields the ranges to read, relative to off: whole grains that hold
// some data, up to readChunk at once, in order.
func (s *slot) spans(off, n int64) func(yield func(from, to int64) bool) {
	return func(yield func(from, to int64) bool) {
		var from, to int64 // the pending range
		for _, r := range s.runs {
			if r.Kind == disk.Zero {
				continue
			}
			a := (r.Offset - off) / vmdk.GrainBytes * vmdk.GrainBytes
			b := min((r.End()-off+vmdk.GrainBytes-1)/vmdk.GrainBytes*vmdk.GrainBytes, n)
			if a > to && to > from {
				if !yieldChunks(&from, to, yield) {
					return
				}
			}
			if a > to || to == from {
				from, to = max(a, to), b
			}
			to = max(to, b)
		}
		yieldChunks(&from, to, yield)
	}
}

func yieldChunks(from *int64, to int64, yield func(from, to int64) bool) bool {
	for *from < to {
		end := min(*from+readChunk, to)
		if !yield(*from, end) {
			return false
		}
		*from = end
	}
	return true
}

// readSpan reads grains into room and closes the gaps that zero grains leave.
// It returns how many bytes of room are used.
func (s *slot) readSpan(im disk.Image, off, from, to, n int64, room []byte, states []vmdk.GrainState) (int, error) {
	b := room[:to-from]
	if err := disk.ReadFull(im, b, off+from); err != nil {
		return 0, fmt.Errorf("read %d bytes at %d: %w", len(b), off+from, err)
	}
	if to == n { // the last grain is a whole one in the extent
		pad := room[len(b):roundUp(len(b), vmdk.GrainBytes)]
		clear(pad)
		b = room[:len(b)+len(pad)]
	}
	used := 0
	for i := 0; i < len(b); i += vmdk.GrainBytes {
		g := b[i : i+vmdk.GrainBytes]
		if disk.IsZero(g) {
			continue
		}
		if used != i {
			copy(b[used:], g)
		}
		states[(from+int64(i))/vmdk.GrainBytes] = vmdk.GrainStored
		used += vmdk.GrainBytes
	}
	return used, nil
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

// finish puts the header before the extent and, with a codec, turns both into
// frames. header has the length that s.extent leaves room for.
func (s *slot) finish(p *packed, header []byte) error {
	start := s.extent - len(header)
	copy(s.mem[start:], header)
	raw := s.mem[start : s.extent+int(p.size)]
	if s.enc == nil {
		p.out = raw
		return nil
	}
	done := 0
	for i := 0; i < len(raw); i += codec.FrameSize {
		end := min(i+codec.FrameSize, len(raw))
		var err error
		if s.frame, err = s.enc.Encode(s.frame[:0], raw[i:end]); err != nil {
			return err
		}
		if done+len(s.frame) > start+end {
			return fmt.Errorf("frame of %d bytes from %d: codec exceeds its bound", len(s.frame), end-i)
		}
		copy(s.mem[done:], s.frame)
		done += len(s.frame)
		p.frames = append(p.frames, int64(len(s.frame)))
	}
	p.out = s.mem[:done]
	return nil
}
