// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package codec

import (
	"encoding/binary"
	"hash/crc32"
)

// Pointer stands at the end of a zstd or lz4 stream, in a skippable frame that
// decoders pass over. It finds the end record from the end of the stream, and
// its checksum covers every compressed byte: the codecs' own checksums cover
// the content only, and two different frames can have one content.
type Pointer struct {
	IndexFrame int64  // offset of the first frame of the end record's member
	IndexTar   int64  // offset of that member's header in the tar
	TarBytes   int64  // length of the tar
	CRC        uint32 // CRC-32C of all bytes before the pointer
}

// The pointer's layout: skippable magic, length, then the payload.
const (
	// PointerSize is the length of the pointer's frame in bytes.
	PointerSize  = 8 + pointerData
	pointerData  = 48
	pointerMagic = skippableMagic | 6 // 0x56 is 'V'
	pointerName  = "vmstream"
	pointerV1    = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// UpdateCRC adds p to the CRC-32C crc.
func UpdateCRC(crc uint32, p []byte) uint32 { return crc32.Update(crc, castagnoli, p) }

// HasPointer reports if streams of this codec end with a pointer.
func (s Spec) HasPointer() bool { return s.Name == Zstd || s.Name == LZ4 }

// Append appends the pointer's frame to dst.
func (p Pointer) Append(dst []byte) []byte {
	var b [PointerSize]byte
	le := binary.LittleEndian
	le.PutUint32(b[0:], pointerMagic)
	le.PutUint32(b[4:], pointerData)
	copy(b[8:], pointerName)
	le.PutUint32(b[16:], pointerV1)
	le.PutUint32(b[20:], p.CRC)
	le.PutUint64(b[24:], uint64(p.IndexFrame))
	le.PutUint64(b[32:], uint64(p.IndexTar))
	le.PutUint64(b[40:], uint64(p.TarBytes))
	le.PutUint32(b[52:], UpdateCRC(0, b[:52])) // 48..51 are zero
	return append(dst, b[:]...)
}

// ParsePointer reads a pointer's frame. ok is false if b is no pointer at all;
// an error means that it is a damaged one.
func ParsePointer(b []byte) (p Pointer, ok bool, err error) {
	if len(b) != PointerSize || binary.LittleEndian.Uint32(b) != pointerMagic || string(b[8:16]) != pointerName {
		return Pointer{}, false, nil
	}
	le := binary.LittleEndian
	p = Pointer{
		CRC:        le.Uint32(b[20:]),
		IndexFrame: int64(le.Uint64(b[24:])),
		IndexTar:   int64(le.Uint64(b[32:])),
		TarBytes:   int64(le.Uint64(b[40:])),
	}
	if string(p.Append(nil)) != string(b) || p.IndexFrame < 0 || p.IndexTar < 0 || p.TarBytes < p.IndexTar {
		return Pointer{}, true, corrupt("pointer", "end-of-stream pointer", -1, "its checksum or a field is wrong")
	}
	return p, true, nil
}
