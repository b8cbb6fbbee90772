// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"slices"
	"sort"
)

// span is the range [off, end) of a disk in bytes.
type span struct{ off, end int64 }

// spans is a set of bytes, kept as ascending ranges that neither touch nor
// overlap.
type spans []span

// add puts [off, end) into the set. Adding in ascending order costs O(1).
func (s *spans) add(off, end int64) {
	if off >= end {
		return
	}
	v := *s
	// first and last: the ranges that touch the new one.
	first := len(v)
	if first > 0 && v[first-1].end >= off {
		first = sort.Search(len(v), func(i int) bool { return v[i].end >= off })
	}
	last := first
	for last < len(v) && v[last].off <= end {
		off, end = min(off, v[last].off), max(end, v[last].end)
		last++
	}
	*s = slices.Replace(v, first, last, span{off, end})
}

// gaps returns up to limit ranges of [0, size) that are not in the set, lowest
// first.
func (s spans) gaps(size int64, limit int) []span {
	var out []span
	pos := int64(0)
	for _, r := range s {
		if len(out) == limit || r.off >= size {
			break
		}
		if r.off > pos {
			out = append(out, span{pos, r.off})
		}
		pos = r.end
	}
	if len(out) < limit && pos < size {
		out = append(out, span{pos, size})
	}
	return out
}
