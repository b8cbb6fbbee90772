// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package gpt reads GUID partition tables (UEFI specification, chapter 5).
package gpt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/vmstream/vmstream/disk"
)

// Partition is an entry of the table that is in use.
type Partition struct {
	Number      int      // from 1
	Type        [16]byte // as it is on the disk
	OffsetBytes int64
	SizeBytes   int64
	Err         error // why it cannot be there: it is not on the disk; the rest may be sound
}

// ErrNone is returned where there is no table.
var ErrNone = errors.New("there is no GUID partition table")

// Bounds of a table. Real ones have 128 entries of 128 bytes.
const (
	signature  = "EFI PART"
	headerLen  = 92
	minEntry   = 128
	maxEntry   = 4096
	maxEntries = 1024
)

var le = binary.LittleEndian

// Read reads the table whose header is in the second sector of a disk of sizeBytes with
// sectors of sectorBytes; the copy at the end of the disk is not looked at. Partitions come
// in the order of their numbers. Without the signature the error is
// ErrNone; what is damaged gives a [disk.FormatError] without a file, of ErrCorrupt or
// ErrTruncated.
func Read(r io.ReaderAt, sizeBytes, sectorBytes int64) ([]Partition, error) {
	fault := func(format string, args ...any) error {
		return &disk.FormatError{Format: "GPT", Offset: sectorBytes, Err: disk.ErrCorrupt, Detail: fmt.Sprintf(format, args...)}
	}
	bad := func(format string, args ...any) ([]Partition, error) { return nil, fault(format, args...) }
	sectors := uint64(sizeBytes / sectorBytes)
	if sectors < 2 {
		return nil, ErrNone
	}
	h := make([]byte, sectorBytes)
	if err := disk.ReadFull(r, h, sectorBytes); err != nil {
		return nil, err
	}
	if string(h[:len(signature)]) != signature {
		return nil, ErrNone
	}
	n := le.Uint32(h[12:])
	if n < headerLen || int64(n) > sectorBytes {
		return bad("a header of %d bytes", n)
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:n]) != sum {
		return bad("the checksum of its header is wrong")
	}
	start, count, each := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if count == 0 || count > maxEntries || each < minEntry || each > maxEntry || start < 2 || start >= sectors {
		return bad("%d entries of %d bytes from sector %d on", count, each, start)
	}
	table := make([]byte, count*each)
	if int64(len(table)) > sizeBytes-int64(start)*sectorBytes {
		return nil, &disk.FormatError{Format: "GPT", Offset: int64(start) * sectorBytes, Err: disk.ErrTruncated, Detail: "its entries are behind the end of the disk"}
	}
	if err := disk.ReadFull(r, table, int64(start)*sectorBytes); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(h[88:]) {
		return bad("the checksum of its entries is wrong")
	}
	var all []Partition
	for i := range int(count) {
		e := table[uint32(i)*each:]
		p := Partition{Number: i + 1, Type: [16]byte(e)}
		if p.Type == [16]byte{} {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first < 2 || last < first || last >= sectors {
			p.Err = fault("partition %d: sectors %d to %d, the disk has %d", p.Number, first, last, sectors)
		} else {
			p.OffsetBytes, p.SizeBytes = int64(first)*sectorBytes, int64(last-first+1)*sectorBytes
		}
		all = append(all, p)
	}
	return all, nil
}
