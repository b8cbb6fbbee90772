// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"io"
	"iter"

	"github.com/vmstream/vmstream/disk"
)

// padded is an image whose last sector is filled up with zeros.
type padded struct {
	disk.Image
	size int64
}

func (p *padded) Size() int64 { return p.size }

func (p *padded) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return (&paddedRuns{Changes: p.Image, from: p.Image.Size(), size: p.size}).Runs(off, n)
}

func (p *padded) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.Image.ReadAt(b, off)
	if n == len(b) || err != io.EOF || off+int64(len(b)) > p.size { //nolint:errorlint // io.ReaderAt returns it plain
		return n, err
	}
	clear(b[n:])
	return len(b), nil
}

func (p *padded) Prefetch(off, n int64) { disk.Prefetch(p.Image, off, n) }

// paddedRuns is the same for the changes of an image: what fills up the last
// sector goes with what is before it.
type paddedRuns struct {
	Changes
	from, size int64
}

func (p *paddedRuns) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		end := min(off+n, p.size)
		for r, err := range p.Changes.Runs(off, n) {
			if err == nil && r.End() == p.from && end > r.End() {
				r.Length = end - r.Offset
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}
