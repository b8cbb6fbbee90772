// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package record defines what the guest writes and the checker reads: numbered
// records of a fixed size, whose whole content follows from their number and
// the time in their head.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
)

const (
	// Size of a record in bytes: a block of the guest's file system, so that a
	// record is never appended to a block that has been written before.
	Size = 4096
	// PerFile is the number of records of a file; the last file has fewer.
	PerFile = 256

	magic      = "VMSTREC1"
	numberAt   = 8
	diskAt     = 16
	nanosAt    = 24
	payloadAt  = 32
	checksumAt = Size - 4
)

// ErrBad is a record that is not what was written.
var ErrBad = errors.New("bad record")

// Record is what a record says.
type Record struct {
	Number uint64 // 1 is the first
	Disk   uint64 // which disk it was written to, from 0
	Nanos  int64  // of the guest's monotonic clock when it was made
}

// FileName returns the name of the file that has the record with a number.
func FileName(number uint64) string { return IndexName((number - 1) / PerFile) }

// IndexName returns the name of the file with an index, from 0.
func IndexName(index uint64) string { return fmt.Sprintf("%06d", index) }

// FileIndex is the reverse of IndexName.
func FileIndex(name string) (uint64, error) {
	index, err := strconv.ParseUint(name, 10, 32)
	if err != nil || IndexName(index) != name {
		return 0, fmt.Errorf("%q is not the name of a file of records", name)
	}
	return index, nil
}

// Put writes a record over b, which has Size bytes.
func Put(b []byte, r Record) {
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[numberAt:], r.Number)
	binary.LittleEndian.PutUint64(b[diskAt:], r.Disk)
	binary.LittleEndian.PutUint64(b[nanosAt:], uint64(r.Nanos)) //nolint:gosec // the bits are kept
	Fill(b[payloadAt:checksumAt], r.Number<<8|r.Disk)
	binary.LittleEndian.PutUint32(b[checksumAt:], sum(b))
}

// Parse returns what a record of Size bytes says, or ErrBad with what is wrong.
func Parse(b []byte) (Record, error) {
	if len(b) != Size {
		return Record{}, fmt.Errorf("%w: %d bytes of %d", ErrBad, len(b), Size)
	}
	if string(b[:len(magic)]) != magic {
		return Record{}, fmt.Errorf("%w: begins with % x", ErrBad, b[:len(magic)])
	}
	r := Record{
		Number: binary.LittleEndian.Uint64(b[numberAt:]),
		Disk:   binary.LittleEndian.Uint64(b[diskAt:]),
		Nanos:  int64(binary.LittleEndian.Uint64(b[nanosAt:])), //nolint:gosec // the bits are kept
	}
	if got, want := binary.LittleEndian.Uint32(b[checksumAt:]), sum(b); got != want {
		return Record{}, fmt.Errorf("%w: number %d has the checksum %08x, its content %08x", ErrBad, r.Number, got, want)
	}
	want := make([]byte, Size)
	Put(want, r)
	if string(want) != string(b) {
		return Record{}, fmt.Errorf("%w: number %d has another payload", ErrBad, r.Number)
	}
	return r, nil
}

func sum(b []byte) uint32 {
	return crc32.Checksum(b[:checksumAt], crc32.MakeTable(crc32.Castagnoli))
}

// Fill fills b with bytes that follow from a seed: xorshift64*, which costs an
// emulated processor little.
func Fill(b []byte, seed uint64) {
	x := seed*0x9e3779b97f4a7c15 | 1
	for len(b) >= 8 {
		x ^= x >> 12
		x ^= x << 25
		x ^= x >> 27
		binary.LittleEndian.PutUint64(b, x*0x2545f4914f6cdd1d)
		b = b[8:]
	}
	for i := range b {
		b[i] = byte(x >> (8 * i))
	}
}
