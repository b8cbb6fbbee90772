// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"crypto/sha256"
	"fmt"
	"iter"
	"slices"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// packed is a segment made ready in a slot.
type packed struct {
	stored int             // grains
	extent bool            // it is an extent of its own
	state  vmdk.GrainState // of all grains, if it is not
	read   int64           // bytes read from the source
	size   int64           // of the extent
	sha    [sha256.Size]byte
	out    []byte  // header and extent, or the frames that hold them
	frames []int64 // lengths of the frames

	digests []blockDigest // of the segment's blocks, if they are tracked
}

// packSource is what a segment is made from.
type packSource struct {
	im disk.Image
	// changes tells what differs from the parent of an increment: runs of kind
	// Parent do not. It is im in a full backup.
	changes   Changes
	increment bool
	track     tracking
}

// Changes tells which ranges of a disk differ from an earlier state of it, as
// runs in the manner of [disk.Image]; those of kind Parent do not.
type Changes interface {
	Runs(off, n int64) iter.Seq2[disk.Run, error]
}

// pack reads the segment [off, off+n) into the slot's extent, without the
// grains that need no place, and lays out the extent around it.
func (s *slot) pack(src packSource, off, n int64) (packed, error) {
	states := s.states[:vmdk.SegmentGrains(n)]
	clear(states)
	overhead := vmdk.SegmentOverhead(n)
	p := packed{}
	if err := s.classify(src, off, n); err != nil {
		return p, err
	}
	if src.increment {
		for i := range states {
			if s.kinds[i] == kindZero {
				states[i] = vmdk.GrainZero
			}
		}
	}
	read := s.readAll
	if src.track.block != 0 {
		read = s.readBlocks
	}
	used, err := read(&p, src, off, n, s.mem[s.extent+overhead:], states)
	if err != nil {
		return p, err
	}
	s.lay(&p, n, used/vmdk.GrainBytes, states)
	return p, nil
}

// readAll reads what is to be stored of the segment into room, and returns how
// many bytes of room are used.
func (s *slot) readAll(p *packed, src packSource, off, n int64, room []byte, states []vmdk.GrainState) (int, error) {
	used := 0
	for r := range disk.Ahead(src.im, s.spans(off, n)) {
		k, err := s.readSpan(src, off, r.Offset-off, r.End()-off, n, room[used:], states)
		if err != nil {
			return 0, err
		}
		used += k
		p.read += r.Length
	}
	return used, nil
}

// lay puts the metadata before stored grains and hashes the extent. A segment
// whose grains are all of one state, and none stored, becomes no extent here.
func (s *slot) lay(p *packed, n int64, stored int, states []vmdk.GrainState) {
	p.stored = stored
	p.state = states[0]
	if stored == 0 && !slices.ContainsFunc(states, func(g vmdk.GrainState) bool { return g != states[0] }) {
		return
	}
	overhead := vmdk.SegmentOverhead(n)
	p.extent = true
	p.size = vmdk.PutSegment(s.mem[s.extent:s.extent+overhead], n, states)
	p.sha = sha256.Sum256(s.mem[s.extent : s.extent+int(p.size)])
}

// What a grain has in it, as a set.
const (
	kindData byte = 1 << iota
	kindZero
	kindParent
)

// classify notes for each grain of the segment what kinds of runs it has.
func (s *slot) classify(src packSource, off, n int64) error {
	kinds := s.kinds[:vmdk.SegmentGrains(n)]
	clear(kinds)
	next := off
	for r, err := range src.changes.Runs(off, n) {
		if err != nil {
			return err
		}
		if r.Offset != next || r.Length <= 0 || r.End() > off+n {
			return fmt.Errorf("runs of the disk at %d: have run %d+%d, %w", next, r.Offset, r.Length, disk.ErrCorrupt)
		}
		next = r.End()
		k := kindData
		switch {
		case r.Kind == disk.Zero:
			k = kindZero
		case r.Kind == disk.Parent && src.increment:
			k = kindParent
		}
		for i := (r.Offset - off) / vmdk.GrainBytes; i*vmdk.GrainBytes < next-off; i++ {
			kinds[i] |= k
		}
	}
	if next != off+n {
		return fmt.Errorf("runs of the disk end at %d, not at %d: %w", next, off+n, disk.ErrTruncated)
	}
	return nil
}

// spans yields the ranges to read of the segment of n bytes at off, all of them Data:
// whole grains that hold data, or more than one kind, up to readChunk at once.
func (s *slot) spans(off, n int64) iter.Seq2[disk.Run, error] {
	kinds := s.kinds[:vmdk.SegmentGrains(n)]
	read := func(i int) bool { return kinds[i] != kindZero && kinds[i] != kindParent }
	return func(yield func(disk.Run, error) bool) {
		for i := 0; i < len(kinds); {
			if !read(i) {
				i++
				continue
			}
			from := i
			for i++; i < len(kinds) && read(i) && i-from < readChunk/vmdk.GrainBytes; i++ {
			}
			at, end := int64(from)*vmdk.GrainBytes, min(int64(i)*vmdk.GrainBytes, n)
			if !yield(disk.Run{Offset: off + at, Length: end - at, Kind: disk.Data}, nil) {
				return
			}
		}
	}
}

// readSpan reads grains into room and closes the gaps that zero grains leave.
// It returns how many bytes of room are used.
func (s *slot) readSpan(src packSource, off, from, to, n int64, room []byte, states []vmdk.GrainState) (int, error) {
	b := room[:to-from]
	if err := disk.ReadFull(src.im, b, off+from); err != nil {
		return 0, fmt.Errorf("read %d bytes at %d: %w", len(b), off+from, err)
	}
	hash := src.track.block != 0
	if to == n { // the last grain is a whole one in the extent
		pad := room[len(b):roundUp(len(b), vmdk.GrainBytes)]
		clear(pad)
		b = room[:len(b)+len(pad)]
	}
	used := 0
	for i := 0; i < len(b); i += vmdk.GrainBytes {
		g := b[i : i+vmdk.GrainBytes]
		state := &states[(from+int64(i))/vmdk.GrainBytes]
		inDisk := g[:min(int64(len(g)), to-from-int64(i))]
		if disk.IsZero(g) {
			if hash {
				s.hash.zero(int64(len(inDisk)))
			}
			if src.increment {
				*state = vmdk.GrainZero
			}
			continue
		}
		if hash { // while it is in the cache, and before it moves
			s.hash.write(inDisk)
		}
		if used != i {
			copy(b[used:], g)
		}
		*state = vmdk.GrainStored
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
