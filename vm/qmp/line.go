// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/disk"
)

// LineReader splits what a peer sends into lines, for one goroutine. Replies
// and events arrive in one packet, so a line reader must not be put aside for
// another while the connection is in use.
type LineReader struct {
	r   *bufio.Reader
	max int
	buf []byte
}

// NewLineReader returns a reader of lines of up to maxBytes.
func NewLineReader(r io.Reader, maxBytes int) *LineReader {
	return &LineReader{r: bufio.NewReaderSize(r, 64<<10), max: maxBytes}
}

// Line returns the next line without its end (LF or CR LF). It is valid until
// the next call. A line above the limit is disk.ErrUnsupported, the end of the
// input inside a line io.ErrUnexpectedEOF.
func (l *LineReader) Line() ([]byte, error) {
	if cap(l.buf) > 1<<20 { // one long reply must not be paid for ever after
		l.buf = nil
	}
	l.buf = l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.buf)+len(part) > l.max {
			return nil, fmt.Errorf("a line of more than %d bytes: %w", l.max, disk.ErrUnsupported)
		}
		l.buf = append(l.buf, part...)
		switch {
		case err == nil:
			return bytes.TrimSuffix(l.buf[:len(l.buf)-1], []byte("\r")), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(l.buf) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}

// SkipPast drops bytes up to and including the byte b, about maxBytes of them at most.
func (l *LineReader) SkipPast(b byte, maxBytes int) error {
	for skipped := 0; skipped < maxBytes; {
		part, err := l.r.ReadSlice(b)
		if err == nil {
			return nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		skipped += len(part)
	}
	return fmt.Errorf("no byte 0x%02x in %d bytes: %w", b, maxBytes, disk.ErrCorrupt)
}
