// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"iter"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// tracking says which digests of blocks a segment is to get.
type tracking struct {
	block int64 // size of the blocks; 0: none
	// was has the digests of the parent's blocks, nil if they are not known.
	was *DiskTrack
	// compare makes the digests the source of changes: a block that has the
	// parent's digest is the parent's.
	compare bool
}

// readsParent reports if what an increment takes from its parent has to be read
// to know its digest.
func (t *tracking) readsParent() bool { return t.block != 0 && t.was == nil }

// blockHasher computes the digest of one block after the other. Zeros cost
// nothing before a block has anything else.
type blockHasher struct {
	sum   hash.Hash
	zeros int64 // that have not been hashed yet
	data  bool  // the block has something else
}

var zeroGrain [vmdk.GrainBytes]byte // never written

func (h *blockHasher) zero(n int64) { h.zeros += n }

func (h *blockHasher) write(b []byte) {
	h.flush()
	h.data = true
	h.sum.Write(b)
}

func (h *blockHasher) flush() {
	for h.zeros > 0 {
		n := min(h.zeros, int64(len(zeroGrain)))
		h.sum.Write(zeroGrain[:n])
		h.zeros -= n
	}
}

// grains takes what has been read of the disk, beginning with a whole grain.
func (h *blockHasher) grains(b []byte) {
	for len(b) > 0 {
		g := b[:min(len(b), vmdk.GrainBytes)]
		if disk.IsZero(g) {
			h.zero(int64(len(g)))
		} else {
			h.write(g)
		}
		b = b[len(g):]
	}
}

// digest ends a block.
func (h *blockHasher) digest() blockDigest {
	if !h.data {
		h.zeros = 0
		return blockDigest{}
	}
	h.flush()
	var sum [sha256.Size]byte
	d := blockDigest(h.sum.Sum(sum[:0]))
	h.sum.Reset()
	h.data = false
	return d
}

// readBlocks is readAll block by block: it also fills in p.digests.
func (s *slot) readBlocks(p *packed, src packSource, off, n int64, room []byte, states []vmdk.GrainState) (int, error) {
	if s.hash.sum == nil {
		s.hash.sum = sha256.New()
	}
	p.digests = s.digests[:0]
	used := 0
	for r := range disk.Ahead(src.im, s.blocks(src, off, n)) {
		from, to := r.Offset-off, r.End()-off
		number := r.Offset / src.track.block
		if r.Kind == disk.Parent {
			p.digests = append(p.digests, src.track.was.block(number))
			continue
		}
		k, err := s.readBlock(p, src, off, from, to, n, room[used:], states)
		if err != nil {
			return 0, err
		}
		d := s.hash.digest()
		p.digests = append(p.digests, d)
		if src.track.compare && d == src.track.was.block(number) {
			clear(states[from/vmdk.GrainBytes : (to+vmdk.GrainBytes-1)/vmdk.GrainBytes])
			continue // what has been read is the parent's
		}
		used += k
	}
	s.digests = p.digests
	return used, nil
}

// blocks yields the blocks of a segment: Zero if there is nothing to read, Parent if
// the digest is known, or else Data.
func (s *slot) blocks(src packSource, off, n int64) iter.Seq2[disk.Run, error] {
	known := src.increment && !src.track.compare && src.track.was != nil
	return func(yield func(disk.Run, error) bool) {
		for from := int64(0); from < n; from += src.track.block {
			r := disk.Run{Offset: off + from, Length: min(src.track.block, n-from), Kind: disk.Data}
			switch s.kindsIn(from, from+r.Length) {
			case kindZero:
				r.Kind = disk.Zero
			case kindParent:
				if known {
					r.Kind = disk.Parent
				}
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// kindsIn returns what kinds of runs the grains of [from, to) of the segment have.
func (s *slot) kindsIn(from, to int64) byte {
	var all byte
	for i := from / vmdk.GrainBytes; i*vmdk.GrainBytes < to; i++ {
		all |= s.kinds[i]
	}
	return all
}

// readBlock reads and hashes the block [from, to) of a segment of n bytes.
// Grains to be stored stay in room; it returns how many bytes they take.
func (s *slot) readBlock(p *packed, src packSource, off, from, to, n int64, room []byte, states []vmdk.GrainState) (int, error) {
	used := 0
	for from < to {
		kind, end := s.kinds[from/vmdk.GrainBytes], from
		stored := kind != kindZero && kind != kindParent
		for end < to && end-from < readChunk {
			k := s.kinds[end/vmdk.GrainBytes]
			if stored && (k == kindZero || k == kindParent) || !stored && k != kind {
				break
			}
			end = min(end+vmdk.GrainBytes, to)
		}
		switch {
		case kind == kindZero:
			s.hash.zero(end - from)
		case kind == kindParent:
			if err := s.hashParent(p, src, off+from, end-from, room[used:]); err != nil {
				return 0, err
			}
		default:
			k, err := s.readSpan(src, off, from, end, n, room[used:], states)
			if err != nil {
				return 0, err
			}
			used += k
			p.read += end - from
		}
		from = end
	}
	return used, nil
}

// hashParent hashes n bytes at off of the disk that an increment does not
// store. Holes are not read.
func (s *slot) hashParent(p *packed, src packSource, off, n int64, scratch []byte) error {
	for r, err := range src.im.Runs(off, n) {
		if err != nil {
			return err
		}
		if r.Kind == disk.Zero {
			s.hash.zero(r.Length)
			continue
		}
		b := scratch[:r.Length]
		if err := disk.ReadFull(src.im, b, r.Offset); err != nil {
			return fmt.Errorf("read %d bytes at %d: %w", len(b), r.Offset, err)
		}
		p.read += r.Length
		s.hash.grains(b)
	}
	return nil
}
