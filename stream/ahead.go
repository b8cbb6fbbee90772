// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import "github.com/vmstream/vmstream/disk"

// aheadBytes is how much of a segment the system is told of before it is read. Where
// the pieces of a disk are scattered, as in a redo log, a storage that takes long to
// answer has so much to do at a time.
const aheadBytes = 8 << 20

// span is a range of a segment that is read.
type span struct{ from, to int64 }

// ahead tells a disk what is read next of a segment.
type ahead struct {
	im         disk.Image
	off        int64 // of the segment in the disk
	spans      []span
	next, done int   // how many of the spans have been told, and read
	bytes      int64 // of those between
}

// newAhead begins with a segment of n bytes at off; the slot has looked at its runs.
func (s *slot) newAhead(im disk.Image, off, n int64) ahead {
	s.list = s.list[:0]
	for from, to := range s.spans(n) {
		s.list = append(s.list, span{from, to})
	}
	return ahead{im: im, off: off, spans: s.list}
}

// reach tells what comes, now that the segment is read from a place on.
func (a *ahead) reach(at int64) {
	for a.done < a.next && a.spans[a.done].to <= at {
		a.bytes -= a.spans[a.done].to - a.spans[a.done].from
		a.done++
	}
	for a.next < len(a.spans) && a.bytes < aheadBytes {
		s := a.spans[a.next]
		disk.Prefetch(a.im, a.off+s.from, s.to-s.from)
		a.bytes += s.to - s.from
		a.next++
	}
}
