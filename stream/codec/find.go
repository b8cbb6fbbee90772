// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/vmstream/vmstream/disk"
)

// Detect returns the codec of a stream that begins with b, 6 bytes or more.
func Detect(b []byte) string {
	kind, err := peekKind(bufio.NewReader(bytes.NewReader(b)))
	if err != nil || kind == kindEnd || kind == kindOther {
		return None
	}
	return codecOf(kind)
}

// FindIndexFrame returns where, in a compressed stream of size bytes, the
// frames with the end record begin, by looking at the stream's end.
func FindIndexFrame(r io.ReaderAt, size int64, codec string) (int64, error) {
	if codec == XZ {
		return lastXZStream(r, size)
	}
	b := make([]byte, PointerSize)
	if size < PointerSize {
		return 0, corrupt(codec, "end-of-stream pointer", 0, "the stream is too short to have one")
	}
	if err := disk.ReadFull(r, b, size-PointerSize); err != nil {
		return 0, err
	}
	p, ok, err := ParsePointer(b)
	if err != nil {
		return 0, err
	}
	if !ok || p.IndexFrame > size-PointerSize {
		return 0, corrupt(codec, "end-of-stream pointer", size-PointerSize, "there is none: the stream is cut, or another program compressed it")
	}
	return p.IndexFrame, nil
}

// maxXZIndex bounds the index of an xz stream that is looked at: blocks of the
// end record's stream are few.
const maxXZIndex = 1 << 20

// lastXZStream returns the offset of the last of several concatenated streams,
// which holds the end record: .xz 1.1.0, 2.1.2 and 4.
func lastXZStream(r io.ReaderAt, size int64) (int64, error) {
	bad := func(what string) (int64, error) { return 0, corrupt(XZ, "last stream", size-xzFooterSize, what) }
	if size < 32 {
		return bad("the file is too short")
	}
	var f [xzFooterSize]byte
	if err := disk.ReadFull(r, f[:], size-xzFooterSize); err != nil {
		return 0, err
	}
	if string(f[10:]) != "YZ" || crc32.ChecksumIEEE(f[4:10]) != binary.LittleEndian.Uint32(f[:]) {
		return bad("its footer is damaged")
	}
	length := (int64(binary.LittleEndian.Uint32(f[4:])) + 1) * 4
	if length > maxXZIndex || length > size-2*xzFooterSize {
		return bad("its index is too long")
	}
	index := make([]byte, length)
	if err := disk.ReadFull(r, index, size-xzFooterSize-length); err != nil {
		return 0, err
	}
	if index[0] != 0 || crc32.ChecksumIEEE(index[:length-4]) != binary.LittleEndian.Uint32(index[length-4:]) {
		return bad("its index is damaged")
	}
	blocks, ok := blockBytes(index[1 : length-4])
	start := size - 2*xzFooterSize - length - blocks
	if !ok || start < 0 {
		return bad("its index does not fit the file")
	}
	return start, nil
}

// blockBytes sums up the blocks that an index lists, padding included.
func blockBytes(index []byte) (int64, bool) {
	records, n := binary.Uvarint(index)
	if n <= 0 {
		return 0, false
	}
	index = index[n:]
	var total int64
	for range records {
		unpadded, n := binary.Uvarint(index)
		if n <= 0 || unpadded > 1<<62 {
			return 0, false
		}
		_, m := binary.Uvarint(index[n:])
		if m <= 0 {
			return 0, false
		}
		index = index[n+m:]
		if total += int64(unpadded+3) &^ 3; total < 0 {
			return 0, false
		}
	}
	return total, true
}
