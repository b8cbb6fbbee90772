// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"cmp"
	"slices"
)

// span is a range of bytes.
type span struct{ from, end int64 }

// maxSpans bounds the memory of a map to some tens of MiB: with more ranges, the
// shortest are not taken for free.
const maxSpans = 2 << 20

// spanSet collects ranges.
type spanSet struct {
	all   []span
	least int64 // shorter ones are left out
}

// add adds a range. It joins the last one if it follows that.
func (s *spanSet) add(from, length int64) {
	if length <= 0 {
		return
	}
	if n := len(s.all); n > 0 && s.all[n-1].end == from {
		s.all[n-1].end += length
		return
	}
	if n := len(s.all); n > 0 && s.all[n-1].end-s.all[n-1].from < s.least {
		s.all = s.all[:n-1]
	}
	if len(s.all) >= maxSpans {
		s.thin()
	}
	s.all = append(s.all, span{from, from + length})
}

// thin drops the shortest ranges.
func (s *spanSet) thin() {
	for len(s.all) > maxSpans/2 {
		s.least = max(2*s.least, 8<<10)
		s.all = slices.DeleteFunc(s.all, func(x span) bool { return x.end-x.from < s.least })
	}
}

// done returns the ranges in order, without overlaps.
func (s *spanSet) done() []span {
	slices.SortFunc(s.all, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	out := s.all[:0]
	for _, x := range s.all {
		if n := len(out); n > 0 && x.from <= out[n-1].end {
			out[n-1].end = max(out[n-1].end, x.end)
			continue
		}
		out = append(out, x)
	}
	return out
}

// without removes ranges, both ascending and without overlaps.
func without(all, remove []span) []span {
	var out []span
	k := 0
	for _, x := range all {
		for k < len(remove) && remove[k].end <= x.from {
			k++
		}
		for i := k; i < len(remove) && remove[i].from < x.end; i++ {
			if remove[i].from > x.from {
				out = append(out, span{x.from, remove[i].from})
			}
			x.from = max(x.from, remove[i].end)
		}
		if x.from < x.end {
			out = append(out, x)
		}
	}
	return out
}
