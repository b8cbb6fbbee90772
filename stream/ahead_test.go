// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"slices"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// told is a disk that notes what it is told.
type told struct {
	disk.Image
	spans []span
}

func (d *told) Prefetch(off, n int64) { d.spans = append(d.spans, span{off, off + n}) }

// Everything that is read of a segment is told of once, in order, before it is read, and
// not too long before.
func TestAhead(t *testing.T) {
	const off, n, grain = 1 << 40, 48<<20 + 512, vmdk.GrainBytes
	s := &slot{kinds: make([]byte, vmdk.SegmentGrains(n))}
	for i := range s.kinds {
		s.kinds[i] = kindParent
		if i%5 == 1 || i > 300 && i < 700 || i == len(s.kinds)-1 {
			s.kinds[i] = kindData
		}
	}
	var d told
	var want []span
	total, a := int64(0), s.newAhead(&d, off, n)
	for from, to := range s.spans(n) {
		a.reach(from)
		want = append(want, span{off + from, off + to})
		if len(d.spans) < len(want) {
			t.Fatalf("%d is read before it is told of", from)
		}
		ahead := int64(0)
		for _, s := range d.spans[len(want)-1:] {
			ahead += s.to - s.from
		}
		if ahead >= aheadBytes+readChunk {
			t.Fatalf("%d bytes are told of at %d", ahead, from)
		}
		total = max(total, ahead)
	}
	if !slices.Equal(d.spans, want) || want[len(want)-1].to != off+n {
		t.Errorf("told of %v, read %v", d.spans, want)
	}
	if total < aheadBytes {
		t.Errorf("at most %d bytes ahead", total)
	}
	var nobody struct{ disk.Image }
	a = s.newAhead(nobody, off, n)
	a.reach(0) // has nobody to tell
}
