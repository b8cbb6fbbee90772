// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/vmstream/vmstream/stream/codec"
)

// emitter writes members one after the other and keeps the books: where each
// begins, its digest, its frames. It is for one goroutine at a time.
type emitter struct {
	w       io.Writer
	spec    codec.Spec
	enc     codec.Encoder
	dir     string // the VM's name
	modTime time.Time

	tar, out int64 // bytes of tar and of output so far
	crc      uint32
	members  []*MemberRecord
	headers  hash.Hash // of the members' headers
	plain    []byte    // content for the next frame
	frame    []byte
	count    *Counters
}

func newEmitter(w io.Writer, o *Options, dir string) (*emitter, error) {
	enc, err := o.Codec.NewEncoder()
	if err != nil {
		return nil, err
	}
	return &emitter{
		w: w, spec: o.Codec, enc: enc, dir: dir, modTime: o.Created,
		headers: sha256.New(), plain: make([]byte, 0, codec.FrameSize), count: o.Counters,
	}, nil
}

// errOutput marks a failure to write the stream, so that a caller can tell it
// from trouble with a source.
var errOutput = errors.New("write the stream")

// ErrOutput reports if err is a failure to write the stream.
func ErrOutput(err error) bool { return errors.Is(err, errOutput) }

func (e *emitter) write(b []byte) error {
	n, err := e.w.Write(b)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	if e.spec.HasPointer() {
		e.crc = codec.UpdateCRC(e.crc, b)
	}
	e.out += int64(n)
	e.count.Out.Add(int64(n))
	return nil
}

// header returns the header of a member of ours.
func (e *emitter) header(name string, size, mode int64) ([]byte, error) {
	m := member{name: e.dir + "/" + name, size: size, mode: mode, modTime: e.modTime}
	return m.encode()
}

func (e *emitter) begin(name string, header []byte, size int64) *MemberRecord {
	e.headers.Write(header)
	m := &MemberRecord{Name: name, Tar: e.tar, Frame: e.out, Size: size}
	e.members = append(e.members, m)
	return m
}

// packed writes a segment that a slot has made ready. header is what precedes
// it in the tar.
func (e *emitter) packed(name string, p *packed, header []byte) error {
	m := e.begin(name, header, p.size)
	m.setDigest(p.sha[:])
	m.Frames = p.frames
	e.tar += int64(len(header)) + p.size // extents are whole blocks
	e.count.Tar.Store(e.tar)
	return e.write(p.out)
}

// bytes writes a small member.
func (e *emitter) bytes(name string, mode int64, b []byte) error {
	h, err := e.header(name, int64(len(b)), mode)
	if err != nil {
		return err
	}
	return e.stream(name, h, int64(len(b)), &sliceReader{b})
}

type sliceReader struct{ b []byte }

func (s *sliceReader) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b)
	s.b = s.b[n:]
	return n, nil
}

// stream writes a member of size bytes from r, which must have that many.
func (e *emitter) stream(name string, header []byte, size int64, r io.Reader) error {
	m := e.begin(name, header, size)
	sum := sha256.New()
	e.plain = append(e.plain[:0], header...)
	if err := e.content(m, size, r, sum); err != nil {
		return err
	}
	m.setDigest(sum.Sum(nil))
	if err := e.zeros(m, padding(size)); err != nil {
		return err
	}
	return e.flush(m)
}

func (e *emitter) content(m *MemberRecord, size int64, r io.Reader, sum hash.Hash) error {
	for size > 0 {
		if err := e.room(m); err != nil {
			return err
		}
		used := len(e.plain)
		b := e.plain[used:min(int64(cap(e.plain)), int64(used)+size)]
		n, err := io.ReadFull(r, b)
		sum.Write(b[:n])
		e.plain = e.plain[:used+n]
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, eofUnexpected(err))
		}
		size -= int64(n)
	}
	return nil
}

func (e *emitter) zeros(m *MemberRecord, n int64) error {
	for ; n > 0; n-- {
		if err := e.room(m); err != nil {
			return err
		}
		e.plain = append(e.plain, 0)
	}
	return nil
}

func (e *emitter) room(m *MemberRecord) error {
	if len(e.plain) < cap(e.plain) {
		return nil
	}
	return e.flush(m)
}

// flush writes what has been collected, as one frame if there is a codec.
func (e *emitter) flush(m *MemberRecord) error {
	if len(e.plain) == 0 {
		return nil
	}
	e.tar += int64(len(e.plain))
	e.count.Tar.Store(e.tar)
	b := e.plain
	if e.enc != nil {
		var err error
		if e.frame, err = e.enc.Encode(e.frame[:0], e.plain); err != nil {
			return err
		}
		b = e.frame
		if m != nil {
			m.Frames = append(m.Frames, int64(len(b)))
		}
	}
	e.plain = e.plain[:0]
	return e.write(b)
}

// end writes the end record, the end of the tar and the pointer. The whole of
// it is one frame in xz, which has no other way to find it from the end.
func (e *emitter) end(index []byte) error {
	indexTar, indexFrame := e.tar, e.out
	h, err := e.header(IndexName, int64(len(index)), fileMode)
	if err != nil {
		return err
	}
	b := append(append(h, index...), make([]byte, padding(int64(len(index)))+endBlocks)...)
	step := codec.FrameSize
	if e.spec.Name == codec.XZ {
		step = len(b)
	}
	for len(b) > 0 {
		n := min(step, len(b))
		e.plain = append(e.plain[:0], b[:n]...)
		b = b[n:]
		if err := e.flush(nil); err != nil {
			return err
		}
	}
	if !e.spec.HasPointer() {
		return nil
	}
	p := codec.Pointer{IndexFrame: indexFrame, IndexTar: indexTar, TarBytes: e.tar, CRC: e.crc}
	return e.write(p.Append(nil))
}
