// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"fmt"
	"io"
	"io/fs"
)

// StreamTarget is a raw disk being written to something that only goes
// forward, such as a pipe. It is an ordered [Writer].
type StreamTarget struct {
	w    io.Writer
	size int64
	pos  int64 // bytes given to w
	err  error // the first error; nothing is written behind it
	done bool
}

var _ Writer = (*StreamTarget)(nil)

// NewStreamTarget returns a Writer that sends a raw disk of sizeBytes bytes to
// w, zeros for what is not written. It never closes w.
func NewStreamTarget(w io.Writer, sizeBytes int64) *StreamTarget {
	t := &StreamTarget{w: w, size: sizeBytes}
	if sizeBytes < 0 {
		t.err = fmt.Errorf("size of %d bytes: %w", sizeBytes, fs.ErrInvalid)
	}
	return t
}

// WriteAt sends zeros up to off, then p. The last write may reach to the end
// of the sector in which the disk ends, if it has zeros there.
func (t *StreamTarget) WriteAt(p []byte, off int64) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	if t.done {
		return 0, fs.ErrClosed
	}
	n, err := t.write(p, off)
	if err != nil {
		t.err = err
		return n, err
	}
	return len(p), nil
}

func (t *StreamTarget) write(p []byte, off int64) (int, error) {
	n, err := clipWrite(p, off, t.size)
	if err != nil {
		return 0, err
	}
	if off < t.pos {
		return 0, fmt.Errorf("write at %d: already %d bytes were sent, and they cannot be taken back: %w", off, t.pos, fs.ErrInvalid)
	}
	if err := t.zeros(off); err != nil {
		return 0, err
	}
	return t.send(p[:n])
}

func (t *StreamTarget) zeros(end int64) error {
	for t.pos < end {
		n := min(end-t.pos, int64(len(zeroPage)))
		if _, err := t.send(zeroPage[:n]); err != nil {
			return err
		}
	}
	return nil
}

func (t *StreamTarget) send(p []byte) (int, error) {
	n, err := t.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	t.pos += int64(n)
	return n, err
}

// Ordered returns true.
func (t *StreamTarget) Ordered() bool { return true }

// Close sends zeros up to the end of the disk.
func (t *StreamTarget) Close() error {
	if t.done {
		return fs.ErrClosed
	}
	t.done = true
	if t.err == nil {
		t.err = t.zeros(t.size)
	}
	return t.err
}

// Abort gives up: whoever reads the other end gets fewer bytes than the disk has.
func (t *StreamTarget) Abort() { t.done = true }
