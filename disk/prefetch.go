// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"io"
	"iter"

	"github.com/vmstream/vmstream/internal/readahead"
)

// Prefetcher is an image, or a file of one, that can be told what is read next of it.
type Prefetcher interface {
	// Prefetch has the system begin to read n bytes at off, where that makes reading
	// them faster. It does not wait, and may do nothing. What cannot be read is an error
	// when it is read. It is safe for concurrent use.
	Prefetch(off, n int64)
}

// Prefetch calls r's own, if it is a [Prefetcher].
func Prefetch(r io.ReaderAt, off, n int64) {
	if p, ok := r.(Prefetcher); ok {
		p.Prefetch(off, n)
	}
}

// PrefetchNext asks r for what comes next, now that who reads it in order goes on at a byte,
// at most to an end. w is the reader's own.
func PrefetchNext(w *readahead.Window, r io.ReaderAt, at, end int64) {
	w.Reach(at, end, func(from, to int64) { Prefetch(r, from, to-from) })
}

// aheadRuns is how many runs are looked at before they are read.
const aheadRuns = 1024

// Ahead yields the runs, by which r is about to be read: those of kind Data are asked for
// ([Prefetch]) some time before they are yielded, long ones not to their ends ([Split]). An
// error comes in its place.
func Ahead(r io.ReaderAt, runs iter.Seq2[Run, error]) iter.Seq2[Run, error] {
	p, ok := r.(Prefetcher)
	if !ok {
		return runs
	}
	return func(yield func(Run, error) bool) {
		var queue []Run
		asked := int64(0) // of the queue
		for run, err := range runs {
			if err != nil {
				if yieldAll(queue, yield) {
					yield(Run{}, err)
				}
				return
			}
			if n := aheadOf(run); n > 0 {
				p.Prefetch(run.Offset, n)
				asked += n
			}
			for queue = append(queue, run); asked >= readahead.Bytes || len(queue) >= aheadRuns; {
				run, queue = queue[0], queue[1:]
				asked -= aheadOf(run)
				if !yield(run, nil) {
					return
				}
			}
		}
		yieldAll(queue, yield)
	}
}

// Split yields the runs in pieces of at most n bytes, those that are Data.
func Split(runs iter.Seq2[Run, error], n int64) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		for run, err := range runs {
			for ; run.Kind == Data && run.Length > n; run.Offset, run.Length = run.Offset+n, run.Length-n {
				if !yield(Run{Offset: run.Offset, Length: n, Kind: Data}, nil) {
					return
				}
			}
			if !yield(run, err) || err != nil {
				return
			}
		}
	}
}

// aheadOf returns how many bytes of a run are asked for.
func aheadOf(r Run) int64 {
	if r.Kind != Data {
		return 0
	}
	return min(r.Length, readahead.Bytes)
}

func yieldAll(runs []Run, yield func(Run, error) bool) bool {
	for _, r := range runs {
		if !yield(r, nil) {
			return false
		}
	}
	return true
}

// Prefetch has the system begin to read a range of the file, if reading it has had to wait
// for the storage lately.
func (im *File) Prefetch(off, n int64) {
	im.gauge.Ask(im.f, off, min(off+n, im.size))
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
