// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package codec

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

const (
	zstdMagic = 0xfd2fb528 // RFC 8878, 3.1.1
	// Skippable frames have 16 magics; RFC 8878, 3.1.2. lz4 knows the same.
	skippableMagic = 0x184d2a50
	skippableMask  = 0xfffffff0

	zstdDefaultLevel = 3
	// maxWindow is the largest window accepted from a stream that another
	// program compressed: what zstd --long=27 makes.
	maxWindow = 128 << 20
)

type zstdEncoder struct{ enc *zstd.Encoder }

func newZstdEncoder(level int) (Encoder, error) {
	if level == 0 {
		level = zstdDefaultLevel
	}
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(true),
		zstd.WithWindowSize(FrameSize),
		zstd.WithZeroFrames(true))
	if err != nil {
		return nil, err
	}
	return &zstdEncoder{enc}, nil
}

func (e *zstdEncoder) Encode(dst, src []byte) ([]byte, error) {
	return e.enc.EncodeAll(src, dst), nil
}

type zstdDecoder struct{ dec *zstd.Decoder }

func newZstdDecoder() (frameDecoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return &zstdDecoder{dec}, nil
}

// decode fills dst, which has room for FrameSize bytes and no more.
func (d *zstdDecoder) decode(dst, frame []byte) ([]byte, error) {
	return d.dec.DecodeAll(frame, dst[:0])
}

func newZstdStream(r io.Reader) (io.ReadCloser, error) {
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return dec.IOReadCloser(), nil
}

// scanZstd passes one frame, behind its magic, through s.
func scanZstd(s *scanner) error {
	fhd, err := s.byte()
	if err != nil {
		return err
	}
	if fhd&0x08 != 0 {
		return s.bad("frame header", "the reserved bit is set")
	}
	single := fhd&0x20 != 0
	n := []int{0, 1, 2, 4}[fhd&3]         // dictionary id
	n += []int{0, 2, 4, 8}[fhd>>6]        // content size
	if single && fhd>>6 == 0 || !single { // a one-byte size, or the window byte
		n++
	}
	if _, err := s.bytes(n); err != nil {
		return err
	}
	for {
		b, err := s.bytes(3)
		if err != nil {
			return err
		}
		h := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		size := int64(h >> 3)
		switch h >> 1 & 3 {
		case 1:
			size = 1 // one byte, repeated
		case 3:
			return s.bad("block header", "reserved block type")
		}
		if err := s.copy(size); err != nil {
			return err
		}
		if h&1 != 0 {
			break
		}
	}
	if fhd&4 != 0 {
		_, err = s.bytes(4)
	}
	return err
}

// zstdContentFits reports if the frame says that its content is at most
// FrameSize bytes.
func zstdContentFits(frame []byte) bool {
	var h zstd.Header
	return h.Decode(frame) == nil && h.HasFCS && h.FrameContentSize <= FrameSize
}

// scanSkippable passes a skippable frame, behind its magic.
func scanSkippable(s *scanner) error {
	b, err := s.bytes(4)
	if err != nil {
		return err
	}
	return s.copy(int64(binary.LittleEndian.Uint32(b)))
}

func decodeError(codec string, offset int64, err error) error {
	return corrupt(codec, "frame", offset, fmt.Sprint(err))
}
