// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package codec

import (
	"fmt"
	"io"
)

// maxCollect is how much of a frame is collected before it counts as large.
const maxCollect = FrameSize + FrameSize>>6

// splitter cuts the input into frames and hands them on.
type splitter struct {
	d      *Reader
	work   chan<- *job
	offset int64
	crc    uint32

	pointer *Pointer // that ends the stream

	buf  []byte         // the frame so far
	pipe *io.PipeWriter // a large frame goes here
	job  *job
}

// split runs until the end of the input, an error, or Close.
func (d *Reader) split(work chan<- *job) {
	s := &splitter{d: d, work: work}
	for {
		more, err := s.one()
		if err != nil {
			d.send(work, failed(err))
			return
		}
		if !more {
			return
		}
	}
}

// one takes a frame and reports if another may follow.
func (s *splitter) one() (bool, error) {
	d := s.d
	kind, err := peekKind(d.in)
	switch {
	case err != nil:
		return false, err
	case kind == kindEnd:
		return false, s.end()
	case s.pointer != nil:
		return false, corrupt(d.codec, "end", s.offset, "bytes follow the end-of-stream pointer")
	case kind == kindOther || kind == kindSkippable && d.codec == XZ || kind != kindSkippable && codecOf(kind) != d.codec && s.offset > 0:
		if d.series && s.offset > 0 { // not ours
			return false, s.end()
		}
		return false, corrupt(d.codec, "frame magic", s.offset, "no frame where one must start")
	}
	s.buf, s.pipe = make([]byte, 0, 64<<10), nil
	s.job = &job{kind: kind, offset: s.offset, done: make(chan struct{})}
	before := s.crc
	sc := &scanner{in: d.in, codec: d.codec, offset: s.offset, out: s.take}
	err = sc.frame(kind)
	s.offset += sc.length
	if s.pipe != nil {
		// The decoder sees why its input ends; the reader reports it.
		if err != nil {
			s.pipe.CloseWithError(scanError{err})
			return false, nil
		}
		return true, s.pipe.Close()
	}
	if err != nil {
		return false, err
	}
	if kind == kindSkippable {
		if err := s.skippable(before); err != nil {
			return false, err
		}
		if s.pointer != nil && d.series { // what follows is the next reader's
			return false, s.end()
		}
		return true, nil
	}
	return s.dispatch()
}

// end tells the reader that there is no more. It is the last thing done.
func (s *splitter) end() error {
	j := &job{end: true, offset: s.offset, pointer: s.pointer, done: make(chan struct{})}
	if s.pointer != nil {
		j.offset -= PointerSize // where the last frame with content ends
	}
	close(j.done)
	s.d.send(s.work, j)
	return nil
}

// dispatch hands a collected frame to the decoders.
func (s *splitter) dispatch() (bool, error) {
	s.job.frame = s.buf
	if !fits(s.job.kind, s.buf) {
		if err := openLarge(s.job, s.buf, eofReader{}); err != nil {
			return false, decodeError(s.d.codec, s.job.offset, err)
		}
		close(s.job.done)
	}
	return s.d.send(s.work, s.job), nil
}

type eofReader struct{}

func (eofReader) Read([]byte) (int, error) { return 0, io.EOF }

// take collects a frame's bytes; a frame that becomes large goes to a decoder
// of its own while it is being scanned.
func (s *splitter) take(p []byte) error {
	s.crc = UpdateCRC(s.crc, p)
	if s.pipe != nil {
		_, err := s.pipe.Write(p)
		return err
	}
	if s.job.kind == kindSkippable {
		// Only the pointer is wanted, anything longer is not it.
		if len(s.buf)+len(p) <= PointerSize {
			s.buf = append(s.buf, p...)
		} else {
			s.buf = s.buf[:0]
		}
		return nil
	}
	s.buf = append(s.buf, p...)
	if len(s.buf) <= maxCollect {
		return nil
	}
	r, w := io.Pipe()
	j := s.job
	close(j.done)
	// The decoder reads its header at once, so it gets what there is first.
	if err := openLarge(j, s.buf, r); err != nil {
		return decodeError(s.d.codec, j.offset, err)
	}
	s.pipe = w
	stop := j.stream
	j.stream = &largeFrame{ReadCloser: stop, rest: r}
	if !s.d.send(s.work, j) {
		return fmt.Errorf("closed: %w", io.ErrClosedPipe)
	}
	go func() { // Close of the reader must free a blocked write
		<-s.d.quit
		_ = r.CloseWithError(io.ErrClosedPipe)
	}()
	return nil
}

// largeFrame reads what the decoder leaves of its frame when it closes, so that
// the scan is not held up; anything the decoder did not use is counted by the
// frame's own checksums.
type largeFrame struct {
	io.ReadCloser
	rest *io.PipeReader
}

func (l *largeFrame) Close() error {
	err := l.ReadCloser.Close()
	if _, cerr := io.Copy(io.Discard, l.rest); cerr != nil && err == nil {
		err = cerr
	}
	return err
}

// skippable looks at a skippable frame that has just been passed.
func (s *splitter) skippable(crcBefore uint32) error {
	p, ok, err := ParsePointer(s.buf)
	if err != nil || !ok {
		return err
	}
	if !s.d.tail && p.CRC != crcBefore {
		return corrupt(s.d.codec, "end-of-stream pointer", s.job.offset, fmt.Sprintf("the checksum of all compressed bytes is %08x, the pointer says %08x", crcBefore, p.CRC))
	}
	s.pointer = &p
	return nil
}
