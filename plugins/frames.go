// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// The pipes carry the data of one transfer after the other, each as frames: four
// bytes for a length, big endian, and as many bytes as it says. A frame without
// bytes ends the transfer. So both sides know where one transfer ends, also one
// that was given up, without a word about it elsewhere.
const (
	frameHeaderBytes = 4
	maxFrameBytes    = 1 << 20

	// smallBytes is up to where header and content are copied together, which
	// is cheaper than another system call.
	smallBytes = 32 << 10
)

// frameWriter writes the frames of one transfer after the other. After an error it
// knows how much of a frame is owed.
type frameWriter struct {
	w      io.Writer
	header [frameHeaderBytes]byte
	size   int // of the content of the frame at hand
	done   int // bytes of it that were written, with the header; 0 between frames
	small  [frameHeaderBytes + smallBytes]byte
}

// Write writes p as frames. What it returns is how many bytes of p were written.
func (f *frameWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), maxFrameBytes)
		if err := f.frame(p[:n]); err != nil {
			return written + max(f.done-frameHeaderBytes, 0), err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

func (f *frameWriter) frame(p []byte) error {
	f.size, f.done = len(p), 0
	binary.BigEndian.PutUint32(f.header[:], uint32(len(p)))
	var err error
	if len(p) <= smallBytes {
		copy(f.small[:], f.header[:])
		copy(f.small[frameHeaderBytes:], p)
		err = f.write(f.small[:frameHeaderBytes+len(p)])
	} else if err = f.write(f.header[:]); err == nil {
		err = f.write(p)
	}
	if err == nil {
		f.done = 0
	}
	return err
}

func (f *frameWriter) write(p []byte) error {
	n, err := f.w.Write(p)
	f.done += n
	return err
}

// end ends the transfer. What is owed of a frame is paid in zeros: its reader has
// been told that the transfer was given up.
func (f *frameWriter) end() error {
	if f.done > 0 {
		if f.done < frameHeaderBytes {
			if err := f.write(f.header[f.done:]); err != nil {
				return err
			}
		}
		if f.size == 0 { // it was the frame that ends the transfer
			f.done = 0
			return nil
		}
		for owed := f.size + frameHeaderBytes - f.done; owed > 0; owed = f.size + frameHeaderBytes - f.done {
			if err := f.write(make([]byte, min(owed, smallBytes))); err != nil {
				return err
			}
		}
	}
	return f.frame(nil)
}

// frameReader reads the frames of one transfer after the other.
type frameReader struct {
	r      *bufio.Reader
	header [frameHeaderBytes]byte
	have   int // bytes of the header, when a read was interrupted
	left   int // bytes of the frame at hand
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, smallBytes)}
}

// Read reads from the transfer at hand. It ends with io.EOF, and the next Read
// begins the next transfer. After an error that is none of the pipe's own, such as
// a deadline, reading can go on.
func (f *frameReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if f.left == 0 {
		n, err := io.ReadFull(f.r, f.header[f.have:])
		f.have += n
		if err != nil {
			return 0, cut(err)
		}
		f.have = 0
		size := binary.BigEndian.Uint32(f.header[:])
		switch {
		case size == 0:
			return 0, io.EOF
		case size > maxFrameBytes:
			return 0, fmt.Errorf("%w: one of %d bytes", errFrame, size)
		}
		f.left = int(size)
	}
	n, err := f.r.Read(p[:min(len(p), f.left)])
	f.left -= n
	if n > 0 {
		err = nil
	}
	return n, cut(err)
}

// cut says that a pipe has ended where it may not.
func cut(err error) error {
	if err == io.EOF { //nolint:errorlint // io.Reader returns it as it is
		return io.ErrUnexpectedEOF
	}
	return err
}
