// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"sort"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// blockReference are the digests of blocks in an index.
type blockReference struct{ *Track }

func (b *blockReference) unitBytes() int64 { return b.BlockBytes }

func (b *blockReference) newSlot() (*slot, error) {
	return &slot{mem: make([]byte, readChunk), hash: blockHasher{sum: sha256.New()}, release: func() {}}, nil
}

func (b *blockReference) same(s *slot, src packSource, i, off, n int64) (bool, error) {
	for at := off; at < off+n; at += readChunk {
		if err := s.hashParent(new(packed), src, at, min(readChunk, off+n-at), s.mem); err != nil {
			return false, err
		}
	}
	return s.hash.digest() == b.block(i), nil
}

// extentReference are the packed extents of a disk in a full backup. Segments
// without one were zero.
type extentReference struct {
	extentBytes, size int64
	segments          []int64 // ascending
	members           []*MemberRecord
}

func newExtentReference(ix *Index, rec *DiskRecord, size int64) *extentReference {
	ref := &extentReference{extentBytes: ix.Opening.ExtentBytes, size: size}
	last, end := (*MemberRecord)(nil), int64(0) // the extent before, and its segment
	add := func(next int64) {
		// One that covers more than a segment is empty, and so is one of that length.
		covers := min(ref.extentBytes, size-end*ref.extentBytes)
		if last != nil && next-end == 1 && covers > 0 && last.Size != vmdk.EmptySegmentSize(covers) {
			ref.segments, ref.members = append(ref.segments, end), append(ref.members, last)
		}
	}
	for _, m := range ix.Members {
		if !rec.OwnsExtent(m.Name) {
			continue
		}
		digits := strings.TrimSuffix(m.Name[strings.LastIndex(m.Name, "-s")+2:], ".vmdk")
		k, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || k <= end && last != nil || k < 1 {
			continue // in no index that a writer has made
		}
		add(k - 1)
		last, end = m, k-1
	}
	add((size + ref.extentBytes - 1) / ref.extentBytes)
	return ref
}

// room returns what the largest segment covers.
func (e *extentReference) room() int64 {
	return min(e.extentBytes, (e.size+vmdk.GrainBytes-1)/vmdk.GrainBytes*vmdk.GrainBytes)
}

func (e *extentReference) unitBytes() int64 { return e.extentBytes }
func (e *extentReference) newSlot() (*slot, error) {
	return newSlot(e.room(), codec.Spec{Name: codec.None})
}

func (e *extentReference) at(segment int64) int {
	return sort.Search(len(e.segments), func(i int) bool { return e.segments[i] >= segment })
}

func (e *extentReference) nextListed(segment int64) int64 {
	if i := e.at(segment); i < len(e.segments) {
		return e.segments[i]
	}
	return math.MaxInt64
}

// same makes the extent anew.
func (e *extentReference) same(s *slot, src packSource, segment, off, n int64) (bool, error) {
	p, err := s.pack(src, off, n)
	if err != nil {
		return false, err
	}
	i := e.at(segment)
	if i == len(e.segments) || e.segments[i] != segment {
		return !p.extent, nil
	}
	return p.extent && p.size == e.members[i].Size && hex.EncodeToString(p.sha[:]) == e.members[i].SHA256, nil
}
