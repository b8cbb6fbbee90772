// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/disk"
)

// scanner walks over frames without decoding them: formats tell the lengths of
// their blocks. What it passes goes to out.
type scanner struct {
	in     *bufio.Reader
	codec  string
	out    func([]byte) error // takes the bytes; must not keep them
	offset int64              // of the frame in the input
	length int64              // bytes passed in this frame
	tmp    [64]byte
}

func (s *scanner) pass(p []byte) error {
	s.length += int64(len(p))
	return s.out(p)
}

// bytes passes n bytes, 1100 at most, and returns them until the next call.
func (s *scanner) bytes(n int) ([]byte, error) {
	b := s.tmp[:]
	if n > len(b) {
		b = make([]byte, n)
	}
	b = b[:n]
	if _, err := io.ReadFull(s.in, b); err != nil {
		return nil, s.truncated(err)
	}
	return b, s.pass(b)
}

func (s *scanner) byte() (byte, error) {
	b, err := s.bytes(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// zeros passes n bytes that have to be zero.
func (s *scanner) zeros(n int) error {
	b, err := s.bytes(n)
	if err == nil && !disk.IsZero(b) {
		err = s.bad("padding", "not zero")
	}
	return err
}

// copy passes n bytes of any length.
func (s *scanner) copy(n int64) error {
	for n > 0 {
		b, err := s.in.Peek(int(min(n, int64(s.in.Size()))))
		if len(b) == 0 || int64(len(b)) < n && err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return s.truncated(err)
		}
		if err := s.pass(b); err != nil {
			return err
		}
		if _, err := s.in.Discard(len(b)); err != nil {
			return err
		}
		n -= int64(len(b))
	}
	return nil
}

func (s *scanner) varint() (uint64, error) {
	var v uint64
	for shift := 0; shift < 63; shift += 7 {
		b, err := s.byte()
		if err != nil {
			return 0, err
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, s.bad("index", "number is too long")
}

func (s *scanner) truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &disk.FormatError{Format: s.codec + " layer", Field: "frame", Offset: s.offset, Err: disk.ErrTruncated, Detail: fmt.Sprintf("the stream ends %d bytes into it", s.length)}
	}
	return err
}

func (s *scanner) bad(field, detail string) error {
	return corrupt(s.codec, field, s.offset+s.length, detail)
}

func corrupt(codec, field string, offset int64, detail string) error {
	return &disk.FormatError{Format: codec + " layer", Field: field, Offset: offset, Err: disk.ErrCorrupt, Detail: detail}
}

// frameKind tells what the next bytes of the input start.
type frameKind int

const (
	kindEnd frameKind = iota
	kindSkippable
	kindZstd
	kindLZ4
	kindXZ
	kindOther
)

func peekKind(in *bufio.Reader) (frameKind, error) {
	b, err := in.Peek(6)
	if len(b) == 0 {
		if errors.Is(err, io.EOF) {
			return kindEnd, nil
		}
		return kindEnd, err
	}
	if len(b) >= 6 && string(b) == xzMagic {
		return kindXZ, nil
	}
	if len(b) >= 4 {
		switch m := binary.LittleEndian.Uint32(b); {
		case m == zstdMagic:
			return kindZstd, nil
		case m == lz4Magic:
			return kindLZ4, nil
		case m&skippableMask == skippableMagic:
			return kindSkippable, nil
		}
	}
	return kindOther, nil
}

// frame passes the next frame, whose kind peekKind has told.
func (s *scanner) frame(kind frameKind) error {
	magic, scan := 4, scanSkippable
	switch kind {
	case kindZstd:
		scan = scanZstd
	case kindLZ4:
		scan = scanLZ4
	case kindXZ:
		magic, scan = 6, scanXZ
	}
	if _, err := s.bytes(magic); err != nil {
		return err
	}
	return scan(s)
}
