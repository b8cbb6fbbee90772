// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/pierrec/lz4/v4"
)

const lz4Magic = 0x184d2204 // LZ4 frame format 1.6.1

type lz4Encoder struct {
	w    *lz4.Writer
	buf  sliceWriter
	opts []lz4.Option
}

// sliceWriter appends to a slice.
type sliceWriter struct{ b []byte }

func (s *sliceWriter) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	return len(p), nil
}

func newLZ4Encoder(level int) (Encoder, error) {
	// Level 1 is the algorithm of lz4 -1, level 2 a slower one that finds more;
	// levels 3 to 9 are HC, the chains growing with each.
	lv := lz4.CCompatFast
	switch {
	case level == 2:
		lv = lz4.Fast
	case level > 2:
		lv = lz4.CompressionLevel(1 << (8 + level))
	}
	// One checksum, over the content. One for each block would be a little
	// faster, but lz4 1.9.4 then stops behind a frame whose content is a
	// multiple of 64 KiB and reports what follows as undecodable.
	return &lz4Encoder{w: lz4.NewWriter(io.Discard), opts: []lz4.Option{
		lz4.BlockSizeOption(lz4.Block1Mb), lz4.BlockChecksumOption(false), lz4.ChecksumOption(true),
		lz4.ConcurrencyOption(1), lz4.CompressionLevelOption(lv),
	}}, nil
}

func (e *lz4Encoder) Encode(dst, src []byte) ([]byte, error) {
	e.buf.b = dst
	e.w.Reset(&e.buf)
	if err := e.w.Apply(append(e.opts, lz4.SizeOption(uint64(len(src))))...); err != nil {
		return dst, err
	}
	if _, err := e.w.Write(src); err != nil {
		return dst, err
	}
	err := e.w.Close()
	return e.buf.b, err
}

type lz4Decoder struct{ r *lz4.Reader }

func newLZ4Decoder() (frameDecoder, error) {
	r := lz4.NewReader(nil)
	return &lz4Decoder{r}, r.Apply(lz4.ConcurrencyOption(1))
}

func (d *lz4Decoder) decode(dst, frame []byte) ([]byte, error) {
	d.r.Reset(bytes.NewReader(frame))
	return readAtMost(d.r, dst)
}

// readAtMost reads r to its end into dst[:cap(dst)], which must be enough.
func readAtMost(r io.Reader, dst []byte) ([]byte, error) {
	dst = dst[:cap(dst)]
	n := 0
	for {
		if n == len(dst) { // a full frame: its end must show now
			var one [1]byte
			m, err := r.Read(one[:])
			if m != 0 {
				return nil, errors.New("more content than a frame may have")
			}
			if errors.Is(err, io.EOF) {
				return dst, nil
			}
			if err != nil {
				return nil, err
			}
			continue
		}
		m, err := r.Read(dst[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return dst[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func newLZ4Stream(r io.Reader) (io.ReadCloser, error) {
	d := lz4.NewReader(r)
	return io.NopCloser(d), d.Apply(lz4.ConcurrencyOption(1))
}

// scanLZ4 passes one frame, behind its magic, through s.
func scanLZ4(s *scanner) error {
	b, err := s.bytes(2)
	if err != nil {
		return err
	}
	flg := b[0]
	if flg>>6 != 1 {
		return s.bad("frame descriptor", "unknown version")
	}
	n := 1 // header checksum
	if flg&0x08 != 0 {
		n += 8 // content size
	}
	if flg&0x01 != 0 {
		n += 4 // dictionary id
	}
	if _, err := s.bytes(n); err != nil {
		return err
	}
	for {
		b, err := s.bytes(4)
		if err != nil {
			return err
		}
		size := int64(binary.LittleEndian.Uint32(b) &^ (1 << 31)) // high bit: stored
		if size == 0 {
			break
		}
		if size > 4<<20 {
			return s.bad("block size", "larger than any block may be")
		}
		if flg&0x10 != 0 {
			size += 4
		}
		if err := s.copy(size); err != nil {
			return err
		}
	}
	if flg&0x04 != 0 {
		_, err = s.bytes(4)
	}
	return err
}

// lz4ContentFits reports if the frame says that its content is at most
// FrameSize bytes.
func lz4ContentFits(frame []byte) bool {
	return len(frame) >= 14 && frame[4]&0x08 != 0 && binary.LittleEndian.Uint64(frame[6:]) <= FrameSize
}
