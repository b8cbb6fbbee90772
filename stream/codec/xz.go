// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

const (
	xzMagic      = "\xfd7zXZ\x00" // .xz file format 1.1.0, 2.1.1.1
	xzFooterSize = 12
)

type xzEncoder struct {
	cfg xz.WriterConfig
	buf sliceWriter
}

func newXZEncoder(level int) (Encoder, error) {
	// A dictionary larger than the content of a frame would have no effect.
	cfg := xz.WriterConfig{DictCap: FrameSize, CheckSum: xz.CRC64}
	if level > 6 {
		cfg.Matcher = lzma.BinaryTree
	}
	return &xzEncoder{cfg: cfg}, cfg.Verify()
}

func (e *xzEncoder) Encode(dst, src []byte) ([]byte, error) {
	e.buf.b = dst
	w, err := e.cfg.NewWriter(&e.buf)
	if err != nil {
		return dst, err
	}
	if _, err := w.Write(src); err != nil {
		return dst, err
	}
	err = w.Close()
	return e.buf.b, err
}

type xzDecoder struct{}

func (xzDecoder) decode(dst, frame []byte) ([]byte, error) {
	r, err := xz.ReaderConfig{SingleStream: true, DictCap: FrameSize}.NewReader(bytes.NewReader(frame))
	if err != nil {
		return nil, err
	}
	return readAtMost(r, dst)
}

func newXZStream(r io.Reader) (io.ReadCloser, error) {
	d, err := xz.ReaderConfig{SingleStream: true, DictCap: FrameSize}.NewReader(r)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(d), nil
}

// xzSizes sums up the sizes of a stream's blocks, so that the index, which
// repeats them behind the blocks, can be compared without keeping them.
type xzSizes struct{ count, hash uint64 }

func (z *xzSizes) add(unpadded, content uint64) {
	const prime = 1099511628211 // FNV-1's
	z.count++
	z.hash = (z.hash*prime^unpadded)*prime ^ content
}

// scanXZ passes one stream, behind its 6-byte magic, through s. Blocks are
// LZMA2 chunks, whose headers tell how long they are. Sizes are compared with
// the stream's index: the decoder does not do that.
func scanXZ(s *scanner) error {
	b, err := s.bytes(6) // flags, CRC32
	if err != nil {
		return err
	}
	if crc32.ChecksumIEEE(b[:2]) != binary.LittleEndian.Uint32(b[2:]) || b[0] != 0 || b[1] > 15 {
		return s.bad("stream header", "checksum or flags are wrong")
	}
	checkSize := []int64{0, 4, 8, 16, 32, 64}[(int(b[1])+2)/3]
	var blocks xzSizes
	for {
		size, err := s.byte()
		if err != nil {
			return err
		}
		if size == 0 {
			return scanXZIndex(s, blocks)
		}
		start := s.length - 1
		if _, err := s.bytes((int(size)+1)*4 - 1); err != nil {
			return err
		}
		content, err := scanLZMA2(s)
		if err != nil {
			return err
		}
		unpadded := s.length - start + checkSize
		if err := s.zeros(int(-(s.length - start) & 3)); err != nil {
			return err
		}
		if _, err := s.bytes(int(checkSize)); err != nil {
			return err
		}
		blocks.add(uint64(unpadded), content)
	}
}

// scanLZMA2 passes the chunks of a block and returns the length of their content.
func scanLZMA2(s *scanner) (content uint64, err error) {
	for {
		c, err := s.byte()
		switch {
		case err != nil:
			return 0, err
		case c == 0:
			return content, nil
		case c > 2 && c < 0x80:
			return 0, s.bad("LZMA2 chunk", "unknown control byte")
		case c <= 2: // stored
			b, err := s.bytes(2)
			if err != nil {
				return 0, err
			}
			n := int64(binary.BigEndian.Uint16(b)) + 1
			content += uint64(n)
			if err := s.copy(n); err != nil {
				return 0, err
			}
		default:
			b, err := s.bytes(4)
			if err != nil {
				return 0, err
			}
			content += uint64(c&0x1f)<<16 + uint64(binary.BigEndian.Uint16(b)) + 1
			n := int64(binary.BigEndian.Uint16(b[2:])) + 1
			if c >= 0xc0 {
				n++ // new properties
			}
			if err := s.copy(n); err != nil {
				return 0, err
			}
		}
	}
}

// scanXZIndex passes the index and the footer; the index indicator is behind us.
func scanXZIndex(s *scanner, blocks xzSizes) error {
	start := s.length - 1
	records, err := s.varint()
	if err != nil {
		return err
	}
	var index xzSizes
	for range records { // bounded by the bytes there are: two are read each time
		unpadded, err := s.varint()
		if err != nil {
			return err
		}
		content, err := s.varint()
		if err != nil {
			return err
		}
		index.add(unpadded, content)
	}
	if index != blocks {
		return s.bad("index", "the sizes of the blocks are not those of the blocks before it")
	}
	if err := s.zeros(int(-(s.length - start) & 3)); err != nil {
		return err
	}
	_, err = s.bytes(4 + xzFooterSize)
	return err
}

// xzContentFits reports if the stream's index says that its content is at most
// FrameSize bytes.
func xzContentFits(frame []byte) bool {
	if len(frame) < 32 {
		return false
	}
	footer := frame[len(frame)-xzFooterSize:]
	size := (int(binary.LittleEndian.Uint32(footer[4:])) + 1) * 4
	if size > len(frame)-2*xzFooterSize {
		return false
	}
	index := frame[len(frame)-xzFooterSize-size : len(frame)-xzFooterSize]
	records, n := binary.Uvarint(index[1:])
	if n <= 0 {
		return false
	}
	index = index[1+n:]
	var total uint64
	for range records {
		var v [2]uint64
		for i := range v {
			var n int
			if v[i], n = binary.Uvarint(index); n <= 0 {
				return false
			}
			index = index[n:]
		}
		if total += v[1]; v[1] > FrameSize || total > FrameSize {
			return false
		}
	}
	return true
}
