// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bufio"
	"errors"
	"io"
	"math"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/readahead"
)

// fileReader reads a file from an offset on, without moving the file's own.
type fileReader struct {
	r      io.ReaderAt
	pos    int64
	window readahead.Window
}

func (f *fileReader) Read(p []byte) (int, error) {
	disk.PrefetchNext(&f.window, f.r, f.pos, math.MaxInt64)
	n, err := f.r.ReadAt(p[:min(len(p), readahead.AtOnce)], f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil // the next read finds it
	}
	return n, err
}

// skipper passes over content of the input that somebody else reads.
type skipper struct {
	file     *fileReader
	buffered *bufio.Reader // over file
	count    interface{ Add(int64) int64 }
}

// skip passes over the next n bytes and returns them as a feed that reads into
// buf. That they are there shows when they are read.
func (s *skipper) skip(n int64, buf []byte) feed {
	at := s.file.pos - int64(s.buffered.Buffered())
	have := min(n, int64(s.buffered.Buffered()))
	_, _ = s.buffered.Discard(int(have)) // that much is buffered
	s.file.pos += n - have
	s.count.Add(n - have)
	return &section{r: s.file.r, off: at, left: n, buf: buf}
}

// section is the content of an extent in a file.
type section struct {
	r      io.ReaderAt
	off    int64
	left   int64
	buf    []byte
	window readahead.Window
}

func (f *section) take(n int) ([]byte, error) {
	if int64(n) > f.left {
		return nil, errExtentEnds
	}
	if n > len(f.buf) {
		f.buf = make([]byte, n)
	}
	b := f.buf[:n]
	disk.PrefetchNext(&f.window, f.r, f.off, f.off+f.left)
	if err := disk.ReadFull(f.r, b, f.off); err != nil {
		return nil, err
	}
	f.off += int64(n)
	f.left -= int64(n)
	return b, nil
}
