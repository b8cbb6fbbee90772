// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/disk"
)

// source is a file that an extent lies in.
type source struct {
	r         io.ReaderAt
	sizeBytes int64
	path      string // for messages
	format    string // for messages, such as "vmdk sparse extent"
}

// fail returns a format error about the file; off is in bytes, -1 for none.
func (s *source) fail(kind error, field string, off int64, format string, args ...any) error {
	return &disk.FormatError{
		File: s.path, Format: s.format, Field: field, Offset: off,
		Err: kind, Detail: fmt.Sprintf(format, args...),
	}
}

// readFull fills p from off. What lies behind the end of the file is an error
// that names the field, before anything is read.
func (s *source) readFull(p []byte, off uint64, field string) error {
	size := uint64(s.sizeBytes)
	if off > size || uint64(len(p)) > size-off {
		return s.fail(disk.ErrTruncated, field, int64(min(off, 1<<63-1)), "%d bytes are expected there, the file has %d", len(p), size)
	}
	err := disk.ReadFull(s.r, p, int64(off))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return s.fail(disk.ErrTruncated, field, int64(off), "the file became shorter while it was being read")
	}
	return err
}

// sectors returns the length of the file in sectors, the last one counted even
// if it is not complete.
func (s *source) sectors() uint64 { return divUp(uint64(s.sizeBytes), disk.SectorSize) }

func divUp(a, b uint64) uint64 {
	n := a / b
	if a%b != 0 {
		n++
	}
	return n
}

// clipRange returns how many of n bytes at off lie on a disk of size bytes.
// The error is io.EOF if that is not all of them, as io.ReaderAt wants it.
func clipRange(n int, off, size int64) (int, error) {
	switch {
	case off < 0:
		return 0, fmt.Errorf("negative offset %d", off)
	case off >= size:
		return 0, io.EOF
	case int64(n) > size-off:
		return int(size - off), io.EOF
	}
	return n, nil
}

// clipEnd returns the end of the runs that a caller asked for by off and n; it
// is not above off if there are none.
func clipEnd(off, n, size int64) int64 {
	switch {
	case off < 0 || off >= size || n <= 0:
		return off
	case n > size-off:
		return size
	}
	return off + n
}
