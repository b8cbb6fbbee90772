// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"io"
	"iter"
)

// Overlay returns the disk that a reader of the chain sees: top, and base
// wherever top says Parent. Both must have the same size. Closing the result
// closes both. Runs of the result are of kind Parent only where base's are.
func Overlay(top, base Image) (Image, error) {
	if top.Size() != base.Size() {
		return nil, fmt.Errorf("capacity of the link is %d bytes, of its parent %d bytes: %w", top.Size(), base.Size(), ErrMismatch)
	}
	return &overlay{top: top, base: base}, nil
}

type overlay struct{ top, base Image }

func (o *overlay) Size() int64  { return o.top.Size() }
func (o *overlay) Close() error { return errors.Join(o.top.Close(), o.base.Close()) }

func (o *overlay) Runs(off, n int64) iter.Seq2[Run, error] {
	return Merge(func(yield func(Run, error) bool) {
		for r, err := range o.top.Runs(off, n) {
			if err != nil {
				yield(Run{}, err)
				return
			}
			if r.Kind != Parent {
				if !yield(r, nil) {
					return
				}
				continue
			}
			for b, err := range o.base.Runs(r.Offset, r.Length) {
				if !yield(b, err) || err != nil {
					return
				}
			}
		}
	})
}

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	return readRuns(o.top, p, off, func(r Run, dst []byte) error {
		src := o.top
		if r.Kind == Parent {
			src = o.base
		}
		return ReadFull(src, dst, r.Offset)
	})
}

// readRuns fills p from off by its runs: zeros are cleared here, everything
// else goes to read.
func readRuns(im Image, p []byte, off int64, read func(Run, []byte) error) (int, error) {
	want, eof := clip(len(p), off, im.Size())
	p = p[:want]
	for r, err := range im.Runs(off, int64(len(p))) {
		if err != nil {
			return 0, err
		}
		dst := p[r.Offset-off : r.End()-off]
		if r.Kind == Zero {
			clear(dst)
			continue
		}
		if err := read(r, dst); err != nil {
			return int(r.Offset - off), err
		}
	}
	return len(p), eof
}

// clip returns how many of n bytes at off lie inside a disk of size bytes, and
// io.EOF if not all of them do.
func clip(n int, off, size int64) (int, error) {
	if off < 0 || off >= size {
		return 0, io.EOF
	}
	if int64(n) > size-off {
		return int(size - off), io.EOF
	}
	return n, nil
}

// ReadFull fills p from off. Fewer bytes than that are io.ErrUnexpectedEOF.
func ReadFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Merge joins neighbouring runs of one kind.
func Merge(runs iter.Seq2[Run, error]) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		var cur Run
		for r, err := range runs {
			if err != nil {
				if cur.Length > 0 && !yield(cur, nil) {
					return
				}
				yield(Run{}, err)
				return
			}
			if cur.Length > 0 && r.Kind == cur.Kind && r.Offset == cur.End() {
				cur.Length += r.Length
				continue
			}
			if cur.Length > 0 && !yield(cur, nil) {
				return
			}
			cur = r
		}
		if cur.Length > 0 {
			yield(cur, nil)
		}
	}
}
