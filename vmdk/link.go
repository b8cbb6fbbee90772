// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"errors"
	"iter"
	"sort"

	"github.com/vmstream/vmstream/disk"
)

// Link is one link of a chain alone, as an image: what the link does not store
// is a run of kind Parent, or Zero if the link has no parent. It is safe for
// concurrent use, except that Close must come last.
type Link struct {
	info       LinkInfo
	descriptor *Descriptor // nil for raw disks and for COWD files without one
	extents    []extent
	ends       []int64 // end of each extent in bytes of the disk
	cowd       *cowdHeader
}

var _ disk.Image = (*Link)(nil)

// add appends an extent.
func (l *Link) add(x extent) {
	l.extents = append(l.extents, x)
	l.ends = append(l.ends, l.Size()+x.Size())
	l.info.Extents = append(l.info.Extents, x.extentInfo())
	l.info.SizeBytes = l.Size()
}

// Info returns what is known about the link.
func (l *Link) Info() LinkInfo { return l.info }

// Descriptor returns the link's descriptor, nil if it has none. It must not be
// changed.
func (l *Link) Descriptor() *Descriptor { return l.descriptor }

// Size returns the capacity in bytes.
func (l *Link) Size() int64 {
	if len(l.ends) == 0 {
		return 0
	}
	return l.ends[len(l.ends)-1]
}

// Close closes the files of the link.
func (l *Link) Close() error {
	var errs []error
	for _, x := range l.extents {
		errs = append(errs, x.Close())
	}
	return errors.Join(errs...)
}

// Check reads all tables of all extents. It finds damage that reading single
// places cannot show, such as two grains stored in the same bytes. Data is not
// read. The memory it takes does not depend on the disk.
func (l *Link) Check(ctx context.Context) error {
	for _, x := range l.extents {
		if err := x.check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// part is what of a range of the link lies in one extent.
type part struct {
	extent extent
	start  int64 // of the extent on the disk
	off, n int64 // in the extent
}

// parts yields the parts of what the link has of a range, in order.
func (l *Link) parts(off, n int64) iter.Seq[part] {
	return func(yield func(part) bool) {
		end := clipEnd(off, n, l.Size())
		i := sort.Search(len(l.ends), func(i int) bool { return l.ends[i] > off })
		for ; off < end; i++ {
			start, stop := int64(0), min(end, l.ends[i])
			if i > 0 {
				start = l.ends[i-1]
			}
			if off < stop && !yield(part{l.extents[i], start, off - start, stop - off}) {
				return
			}
			off = stop
		}
	}
}

// ReadAt reads the link; see [disk.Image].
func (l *Link) ReadAt(p []byte, off int64) (int, error) {
	want, eof := clipRange(len(p), off, l.Size())
	done := 0
	for x := range l.parts(off, int64(want)) {
		n, err := x.extent.ReadAt(p[done:done+int(x.n)], x.off)
		done += n
		if int64(n) < x.n {
			return done, err
		}
	}
	return want, eof
}

// Runs yields the link's runs; see [disk.Image].
func (l *Link) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return disk.Merge(func(yield func(disk.Run, error) bool) {
		for p := range l.parts(off, n) {
			for r, err := range p.extent.Runs(p.off, p.n) {
				if err == nil {
					r.Offset += p.start
				}
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	})
}

// Prefetch tells the extents; see [disk.Prefetcher].
func (l *Link) Prefetch(off, n int64) {
	for p := range l.parts(off, n) {
		disk.Prefetch(p.extent, p.off, p.n)
	}
}
