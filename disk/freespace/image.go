// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"io"
	"iter"
	"sort"

	"github.com/vmstream/vmstream/disk"
)

// Image returns the disk with zeros where it is free: these are not read. Close closes im.
// The map has to be that of im.
func (m *Map) Image(im disk.Image) disk.Image { return &image{Image: im, free: m.spans} }

type image struct {
	disk.Image
	free []span
}

// from returns the index of the first range that ends behind off.
func (i *image) from(off int64) int {
	return sort.Search(len(i.free), func(k int) bool { return i.free[k].end > off })
}

// ReadAt implements disk.Image.
func (i *image) ReadAt(p []byte, off int64) (int, error) {
	size := i.Size()
	if off < 0 || off >= size {
		return i.Image.ReadAt(p, off)
	}
	want := int(min(int64(len(p)), size-off))
	done := 0
	for k := i.from(off); done < want; {
		at := off + int64(done)
		if k < len(i.free) && i.free[k].from <= at {
			n := int(min(int64(want-done), i.free[k].end-at))
			clear(p[done : done+n])
			done += n
			k++
			continue
		}
		n := want - done
		if k < len(i.free) {
			n = int(min(int64(n), i.free[k].from-at))
		}
		got, err := i.Image.ReadAt(p[done:done+n], at)
		done += got
		if got < n {
			return done, err
		}
	}
	if want < len(p) {
		return want, io.EOF
	}
	return want, nil
}

// Runs implements disk.Image.
func (i *image) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return disk.Merge(func(yield func(disk.Run, error) bool) {
		for r, err := range i.Image.Runs(off, n) {
			if err != nil || r.Kind != disk.Data {
				if !yield(r, err) || err != nil {
					return
				}
				continue
			}
			for k := i.from(r.Offset); r.Length > 0; {
				part := disk.Run{Offset: r.Offset, Length: r.Length, Kind: disk.Data}
				switch {
				case k == len(i.free) || i.free[k].from >= r.End():
				case i.free[k].from <= r.Offset:
					part.Kind, part.Length = disk.Zero, min(r.Length, i.free[k].end-r.Offset)
					k++
				default:
					part.Length = i.free[k].from - r.Offset
				}
				if !yield(part, nil) {
					return
				}
				r.Offset, r.Length = r.Offset+part.Length, r.Length-part.Length
			}
		}
	})
}

// Prefetch implements disk.Prefetcher.
func (i *image) Prefetch(off, n int64) { disk.Prefetch(i.Image, off, n) }
