// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync"
)

const (
	inputBuffer = 256 << 10
	// maxFrames bounds the record of frame offsets: 64 MiB of memory, 8 TiB of
	// content. Of longer streams the offsets are not recorded.
	maxFrames = 8 << 20
)

// Reader gives the content of a stream, whatever its codec. Frames are decoded
// by several goroutines. It is for one goroutine.
//
// Another program may have compressed the stream anew: frames of any size are
// read, large ones by one core.
type Reader struct {
	codec string
	in    *bufio.Reader
	rest  io.Reader // codec none: everything

	jobs   chan *job
	quit   chan struct{}
	closed sync.Once
	cur    *job
	left   []byte // decoded and not yet read
	pushed []byte // read ahead by Boundary, before left
	err    error
	pool   sync.Pool
	series bool // more may follow the end
	tail   bool // the input begins in the middle of a stream

	now, ended scanResult // of the stream being read, and of the one before
	base       int64      // offset of the present stream
	mixed      bool       // a frame has the end of a stream and the next one
}

// scanResult is what the layer below a stream has been found to be.
type scanResult struct {
	frames   []int64 // offset of each frame, and of the end of the last
	overflow bool    // there are more than were recorded
	pointer  *Pointer
}

// record notes the offset of a frame or, last, of the end.
func (s *scanResult) record(offset int64) {
	if len(s.frames) >= maxFrames {
		s.overflow, s.frames = true, nil
	}
	if !s.overflow {
		s.frames = append(s.frames, offset)
	}
}

// job is a frame on its way: encoded bytes in, content out.
type job struct {
	kind   frameKind
	offset int64
	frame  []byte
	out    []byte
	stream io.ReadCloser // a large frame is decoded while it is read
	err    error
	done   chan struct{}

	end     bool // no frame, but the end of the input or of a stream
	pointer *Pointer
}

type frameDecoder interface {
	decode(dst, frame []byte) ([]byte, error)
}

// NewReader returns the content of r. It reads a few bytes to find the codec;
// what has no magic is taken as not compressed. workers is the number of
// decoding goroutines, at least 1.
func NewReader(r io.Reader, workers int) (*Reader, error) {
	return open(&Reader{in: bufio.NewReaderSize(r, inputBuffer), codec: None}, workers)
}

// NewSeriesReader is NewReader for an input that may hold more than one stream.
// The content ends behind a pointer, and where a frame of another codec or
// anything else begins; r then stands there.
func NewSeriesReader(r *bufio.Reader, workers int) (*Reader, error) {
	return open(&Reader{in: r, codec: None, series: true}, workers)
}

// NewTailReader is NewSeriesReader for the end of a stream, from any of its frames on:
// a checksum of all bytes that came before its pointer is not compared.
func NewTailReader(r *bufio.Reader, workers int) (*Reader, error) {
	return open(&Reader{in: r, codec: None, series: true, tail: true}, workers)
}

func open(d *Reader, workers int) (*Reader, error) {
	kind, err := peekKind(d.in)
	if err != nil {
		return nil, err
	}
	if kind == kindEnd || kind == kindOther {
		d.rest = d.in
		return d, nil
	}
	d.codec = codecOf(kind)
	d.start(max(workers, 1))
	return d, nil
}

func codecOf(kind frameKind) string {
	switch kind {
	case kindLZ4:
		return LZ4
	case kindXZ:
		return XZ
	default: // a skippable frame in front is zstd's (pzstd) more than lz4's habit
		return Zstd
	}
}

// Codec returns the name of the codec found.
func (d *Reader) Codec() string { return d.codec }

// Raw returns the reader below if there is no codec, and nil otherwise. Who
// takes it reads from it instead of from d.
func (d *Reader) Raw() *bufio.Reader {
	if d.rest == nil {
		return nil
	}
	return d.in
}

// Frames returns the offset of every frame with content and, last, where the
// last one ends, counted from the first byte of the stream. ok is false if
// there were too many to record, or if they are not the stream's alone. It is
// valid after Boundary.
func (d *Reader) Frames() (offsets []int64, ok bool) {
	return d.ended.frames, !d.ended.overflow && !d.mixed
}

// Pointer returns the pointer at the end of the stream, or nil if there is
// none. It is valid after Boundary.
func (d *Reader) Pointer() *Pointer { return d.ended.pointer }

// Boundary says that the content of a stream ends here. It reports if content
// follows. What Frames and Pointer return is about the stream that has ended.
func (d *Reader) Boundary() (more bool, err error) {
	frames, overflow := len(d.now.frames), d.now.overflow
	var one [1]byte
	n, err := d.Read(one[:])
	if n == 0 {
		if !errors.Is(err, io.EOF) {
			return false, err
		}
		d.ended, d.now = d.now, scanResult{}
		return false, nil
	}
	d.pushed = one[:]
	d.ended, d.now = d.now, scanResult{overflow: overflow}
	if d.mixed = d.mixed || overflow || len(d.ended.frames) <= frames; d.mixed {
		return true, nil
	}
	// The frame that was opened is the next stream's first, and our end.
	begins := d.ended.frames[frames] + d.base
	d.now.frames = []int64{0}
	d.ended.frames = d.ended.frames[:frames+1]
	d.base = begins
	return true, nil
}

// Read gives content. It returns io.EOF only when the last frame was whole,
// every checksum was right, and nothing followed.
func (d *Reader) Read(p []byte) (int, error) {
	if d.rest != nil {
		return d.rest.Read(p)
	}
	if n := copy(p, d.pushed); n > 0 {
		d.pushed = nil // a single byte
		return n, nil
	}
	for d.err == nil {
		if len(d.left) > 0 {
			n := copy(p, d.left)
			d.left = d.left[n:]
			return n, nil
		}
		if d.cur != nil && d.cur.stream != nil {
			n, err := d.cur.stream.Read(p)
			if errors.Is(err, io.EOF) {
				err = d.finish(d.cur)
			} else if err != nil {
				err = d.large(d.cur, err)
			}
			d.err = err
			if n > 0 {
				return n, nil
			}
			continue
		}
		d.err = d.next()
	}
	return 0, d.err
}

// next waits for the next frame.
func (d *Reader) next() error {
	if d.cur != nil && d.cur.out != nil {
		d.pool.Put(&d.cur.out)
	}
	d.cur = nil
	j, ok := <-d.jobs
	if !ok {
		return io.EOF
	}
	<-j.done
	if j.err != nil {
		return j.err
	}
	d.now.record(j.offset - d.base)
	if j.end {
		d.now.pointer = j.pointer
		return io.EOF
	}
	d.cur, d.left = j, j.out
	return nil
}

// finish ends a large frame: its decoder must not have stopped before the
// frame does, or content would be missing unseen.
func (d *Reader) finish(j *job) error {
	err := j.stream.Close()
	j.stream = nil
	if err != nil {
		return d.large(j, err)
	}
	return nil
}

func (d *Reader) large(j *job, err error) error {
	var scan scanError
	if errors.As(err, &scan) {
		return scan.err
	}
	return decodeError(d.codec, j.offset, err)
}

// Close releases the goroutines. A read of the input that blocks keeps one of
// them until it returns.
func (d *Reader) Close() error {
	if d.jobs == nil {
		return nil
	}
	d.closed.Do(func() { close(d.quit) })
	return nil
}

func (d *Reader) start(workers int) {
	d.jobs = make(chan *job, workers+1)
	d.quit = make(chan struct{})
	d.pool.New = func() any { b := make([]byte, 0, FrameSize); return &b }
	work := make(chan *job, workers+1)
	for range workers {
		go d.decodeAll(work)
	}
	go func() {
		defer close(d.jobs)
		defer close(work)
		d.split(work)
	}()
}

// send hands j to the reader, in order, and to a decoder.
func (d *Reader) send(work chan<- *job, j *job) bool {
	decode := j.err == nil && j.stream == nil && !j.end // the reader owns j once it has it
	select {
	case d.jobs <- j:
	case <-d.quit:
		return false
	}
	if decode {
		select {
		case work <- j:
		case <-d.quit:
			return false
		}
	}
	return true
}

func (d *Reader) decodeAll(work <-chan *job) {
	decoders := map[frameKind]frameDecoder{}
	for j := range work {
		dec, err := decoders[j.kind], error(nil)
		if dec == nil {
			if dec, err = newDecoder(j.kind); err != nil {
				j.err = err
				close(j.done)
				continue
			}
			decoders[j.kind] = dec
		}
		buf := *d.pool.Get().(*[]byte)
		if cap(buf) != FrameSize {
			buf = make([]byte, 0, FrameSize)
		}
		if j.out, err = dec.decode(buf, j.frame); err != nil {
			j.err = decodeError(d.codec, j.offset, err)
		}
		j.frame = nil
		close(j.done)
	}
}

func newDecoder(kind frameKind) (frameDecoder, error) {
	switch kind {
	case kindLZ4:
		return newLZ4Decoder()
	case kindXZ:
		return xzDecoder{}, nil
	default:
		return newZstdDecoder()
	}
}

func newStreamDecoder(kind frameKind, r io.Reader) (io.ReadCloser, error) {
	switch kind {
	case kindLZ4:
		return newLZ4Stream(r)
	case kindXZ:
		return newXZStream(r)
	default:
		return newZstdStream(r)
	}
}

func failed(err error) *job {
	j := &job{err: err, done: make(chan struct{})}
	close(j.done)
	return j
}

// fits reports if a frame may be decoded into a buffer of FrameSize bytes.
func fits(kind frameKind, frame []byte) bool {
	switch kind {
	case kindLZ4:
		return lz4ContentFits(frame)
	case kindXZ:
		return xzContentFits(frame)
	default:
		return zstdContentFits(frame)
	}
}

// scanError is why the input of a large frame's decoder ended early.
type scanError struct{ err error }

func (e scanError) Error() string { return e.err.Error() }

func openLarge(j *job, head []byte, rest io.Reader) error {
	var err error
	j.stream, err = newStreamDecoder(j.kind, io.MultiReader(bytes.NewReader(head), rest))
	return err
}
