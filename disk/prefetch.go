// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"io"
	"time"
)

// Prefetcher is an image, or a file of one, that can be told what is read next of it.
type Prefetcher interface {
	// Prefetch has the system begin to read n bytes at off, as far as they are
	// scattered so that it would not read them ahead by itself. It does not wait, and
	// may do nothing. What cannot be read is an error when it is read. It is safe for
	// concurrent use.
	Prefetch(off, n int64)
}

// Prefetch calls r's own, if it is a [Prefetcher].
func Prefetch(r io.ReaderAt, off, n int64) {
	if p, ok := r.(Prefetcher); ok {
		p.Prefetch(off, n)
	}
}

// aheadBytes is how much is asked for after a read that had to wait. What is in memory is
// not asked for: that takes a tenth of the time that reading it takes.
const aheadBytes = 8 << 20

// waited is how long a read of n bytes takes at most if they are in memory.
func waited(n int) time.Duration { return 50*time.Microsecond + time.Duration(n/2) }

// Prefetch has the system begin to read a range of the file, if reading it has had to wait
// for the storage lately.
func (im *File) Prefetch(off, n int64) {
	if im.ahead.Load() <= 0 {
		return
	}
	if end := min(off+n, im.size); off >= 0 && off < end {
		im.ahead.Add(off - end)
		willNeed(im.f, off, end)
	}
}

// Prefetch passes on what each of the two has.
func (o *overlay) Prefetch(off, n int64) {
	for r, err := range o.top.Runs(off, n) {
		switch {
		case err != nil:
			return // who reads will be told
		case r.Kind == Data:
			Prefetch(o.top, r.Offset, r.Length)
		case r.Kind == Parent:
			Prefetch(o.base, r.Offset, r.Length)
		}
	}
}
