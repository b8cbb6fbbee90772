// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/disk"
)

// A segment is one extent of a vmstream stream: a hosted sparse extent of a
// twoGbMaxExtentSparse disk with exactly one way to write it, so that a reader
// can check every byte of its metadata. Two shapes exist.
//
// A packed segment has 64 KiB grains, stored in ascending order without gaps.
// An empty segment stores no grain; every entry of its tables is the same. It
// may be as large as a disk, so its grains are 1 MiB and its tables small.
//
// Both have the header, both copies of the tables and zeros up to a multiple
// of 64 KiB in front. All tables are there, also those without a grain: QEMU
// overwrites the header of an extent when it has to write where the directory
// names no table.
const (
	// EmptyGrainSectors is the grain size of empty segments, the largest that
	// readers are known to take.
	EmptyGrainSectors = 2048

	// GrainBytes is the size of a grain of a packed segment.
	GrainBytes = GrainSectors * disk.SectorSize

	// MaxSegmentBytes is the largest capacity of a packed segment: its tables
	// must stay small enough to be held by a reader.
	MaxSegmentBytes = 1 << 30
)

// GrainState says what a segment has for a grain.
type GrainState byte

// The states of a grain; the first two are also the values of their entries.
const (
	GrainAbsent GrainState = 0 // zeros in a full backup, the parent's in an increment
	GrainZero   GrainState = 1 // zeros over whatever the parent has
	GrainStored GrainState = 2
)

// segmentGeometry is where things are in a segment, in sectors.
type segmentGeometry struct {
	capacity, grain      int64
	tables, gdSectors    int64
	rgd, gd, overHead    int64
	firstRGT, firstGT    int64
	metadataEndInSectors int64
}

func geometryOf(capacityBytes, grainSectors int64) segmentGeometry {
	g := segmentGeometry{grain: grainSectors}
	g.capacity = ceilDiv(capacityBytes, disk.SectorSize)
	g.tables = ceilDiv(g.capacity, gtEntries*grainSectors)
	g.gdSectors = ceilDiv(g.tables*4, disk.SectorSize)
	g.rgd = 1
	g.firstRGT = g.rgd + g.gdSectors
	g.gd = g.firstRGT + g.tables*gtSectors
	g.firstGT = g.gd + g.gdSectors
	g.metadataEndInSectors = g.firstGT + g.tables*gtSectors
	g.overHead = ceilDiv(g.metadataEndInSectors, GrainSectors) * GrainSectors
	return g
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

// SegmentOverhead returns the bytes in front of the first grain of a packed
// segment that covers capacityBytes of disk.
func SegmentOverhead(capacityBytes int64) int {
	return int(geometryOf(capacityBytes, GrainSectors).overHead * disk.SectorSize)
}

// SegmentGrains returns the number of grains of a packed segment.
func SegmentGrains(capacityBytes int64) int {
	return int(ceilDiv(capacityBytes, GrainBytes))
}

func (g *segmentGeometry) header(explicitZeros bool) sparseHeader {
	h := sparseHeader{
		version: 1, flags: flagNewlineTest | flagRedundant,
		capacity: uint64(g.capacity), grainSize: uint64(g.grain),
		numGTEsPerGT: gtEntries,
		rgdOffset:    uint64(g.rgd), gdOffset: uint64(g.gd), overHead: uint64(g.overHead),
		newline: newlineTest,
	}
	if explicitZeros {
		h.version, h.flags = 2, h.flags|flagZeroGrain
	}
	return h
}

// PutSegment writes the metadata of a packed segment to dst, whose length is
// SegmentOverhead(capacityBytes): header, tables, padding. It returns the
// length of the whole extent in bytes. The grains follow dst in ascending
// order, the last one a whole grain too.
func PutSegment(dst []byte, capacityBytes int64, grains []GrainState) int64 {
	g := geometryOf(capacityBytes, GrainSectors)
	clear(dst)
	next := uint32(g.overHead)
	explicitZeros := false
	gt := dst[g.firstGT*disk.SectorSize:]
	for i, s := range grains {
		switch s {
		case GrainStored:
			binary.LittleEndian.PutUint32(gt[i*4:], next)
			next += GrainSectors
		case GrainZero:
			binary.LittleEndian.PutUint32(gt[i*4:], gteZero)
			explicitZeros = true
		}
	}
	tableBytes := g.tables * gtSectors * disk.SectorSize
	copy(dst[g.firstRGT*disk.SectorSize:], gt[:tableBytes])
	putDirectory(dst[g.rgd*disk.SectorSize:], g.tables, g.firstRGT)
	putDirectory(dst[g.gd*disk.SectorSize:], g.tables, g.firstGT)
	h := g.header(explicitZeros)
	h.encode((*[sparseHeaderSize]byte)(dst))
	return int64(next) * disk.SectorSize
}

func putDirectory(dst []byte, tables, first int64) {
	for i := range tables {
		binary.LittleEndian.PutUint32(dst[i*4:], uint32(first+i*gtSectors))
	}
}

// EmptySegmentSize returns the length in bytes of an empty segment that covers
// capacityBytes of disk.
func EmptySegmentSize(capacityBytes int64) int64 {
	g := geometryOf(capacityBytes, EmptyGrainSectors)
	return g.overHead * disk.SectorSize
}

// EmptySegment returns the bytes of an empty segment, EmptySegmentSize of
// them. state is GrainAbsent or GrainZero, for all of it.
func EmptySegment(capacityBytes int64, state GrainState) io.Reader {
	g := geometryOf(capacityBytes, EmptyGrainSectors)
	var hb [sparseHeaderSize]byte
	h := g.header(state == GrainZero)
	h.encode(&hb)
	directory := func(first int64) io.Reader {
		b := make([]byte, g.gdSectors*disk.SectorSize)
		putDirectory(b, g.tables, first)
		return bytes.NewReader(b)
	}
	// Entries behind the capacity stay absent, as in a packed segment.
	entries := ceilDiv(g.capacity, EmptyGrainSectors)
	tables := func() io.Reader {
		return &tableReader{entry: uint32(state), entries: entries, left: g.tables * gtSectors * disk.SectorSize}
	}
	pad := (g.overHead - g.metadataEndInSectors) * disk.SectorSize
	return io.MultiReader(bytes.NewReader(hb[:]),
		directory(g.firstRGT), tables(), directory(g.firstGT), tables(),
		&tableReader{left: pad})
}

// tableReader gives entries times entry as u32 and zeros up to left bytes.
type tableReader struct {
	entry   uint32
	entries int64
	left    int64
}

func (t *tableReader) Read(p []byte) (int, error) {
	if t.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p))&^3, t.left)
	if n == 0 {
		return 0, io.ErrShortBuffer
	}
	p = p[:n]
	clear(p)
	if t.entry != 0 {
		for i := 0; i < len(p) && t.entries > 0; i += 4 {
			binary.LittleEndian.PutUint32(p[i:], t.entry)
			t.entries--
		}
	}
	t.left -= n
	return int(n), nil
}

// SegmentHeader is what the first sector of a segment tells.
type SegmentHeader struct {
	CapacityBytes int64 // of disk that the segment covers
	Empty         bool  // an empty segment
	ExplicitZeros bool  // has entries that say zero
	Overhead      int64 // bytes in front of the first grain
}

// ParseSegmentHeader reads the first sector of a segment. It accepts only what
// PutSegment and EmptySegment write.
func ParseSegmentHeader(b *[disk.SectorSize]byte) (SegmentHeader, error) {
	if binary.LittleEndian.Uint32(b[:]) != sparseMagic {
		return SegmentHeader{}, segmentError("magic", 0, "no hosted sparse extent")
	}
	in := parseSparseHeader(b)
	if in.capacity == 0 || in.capacity > disk.MaxSize/disk.SectorSize {
		return SegmentHeader{}, segmentError("capacity", 12, fmt.Sprintf("%d sectors", in.capacity))
	}
	s := SegmentHeader{
		CapacityBytes: int64(in.capacity) * disk.SectorSize,
		Empty:         in.grainSize == EmptyGrainSectors,
		ExplicitZeros: in.flags&flagZeroGrain != 0,
	}
	grain := int64(GrainSectors)
	if s.Empty {
		grain = EmptyGrainSectors
	} else if s.CapacityBytes > MaxSegmentBytes {
		return SegmentHeader{}, segmentError("capacity", 12, fmt.Sprintf("%d sectors are more than a segment with grains can have", in.capacity))
	}
	g := geometryOf(s.CapacityBytes, grain)
	s.Overhead = g.overHead * disk.SectorSize
	want := g.header(s.ExplicitZeros)
	var wb [sparseHeaderSize]byte
	want.encode(&wb)
	if i := firstDifference(b[:], wb[:]); i >= 0 {
		return SegmentHeader{}, segmentError("header", int64(i), "not as the stream format has it")
	}
	return s, nil
}

// ParseSegment checks the metadata of a packed segment, b, which is Overhead
// bytes long, and writes the state of each grain to grains, which is
// SegmentGrains long. It returns the number of grains stored.
func (s SegmentHeader) ParseSegment(b []byte, grains []GrainState) (int, error) {
	g := geometryOf(s.CapacityBytes, GrainSectors)
	gt := b[g.firstGT*disk.SectorSize:]
	next, stored, zeros := uint32(g.overHead), 0, false
	for i := range grains {
		switch e := binary.LittleEndian.Uint32(gt[i*4:]); {
		case e == uint32(GrainAbsent):
			grains[i] = GrainAbsent
		case e == gteZero && s.ExplicitZeros:
			grains[i], zeros = GrainZero, true
		case e == next:
			grains[i] = GrainStored
			next += GrainSectors
			stored++
		default:
			return 0, segmentError(fmt.Sprintf("grain table entry %d", i), g.firstGT*disk.SectorSize+int64(i)*4, fmt.Sprintf("points at sector %d, expected %d", e, next))
		}
	}
	if zeros != s.ExplicitZeros {
		return 0, segmentError("flags", 8, "announce zero grains, but there are none")
	}
	want := make([]byte, len(b))
	PutSegment(want, s.CapacityBytes, grains)
	if i := firstDifference(b, want); i >= 0 {
		return 0, segmentError("tables", int64(i), "not as the stream format has it")
	}
	return stored, nil
}

// firstDifference returns the index of the first byte that differs, and -1 if
// a and b are equal.
func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func segmentError(field string, offset int64, detail string) error {
	return &disk.FormatError{Format: "stream extent", Field: field, Offset: offset, Err: disk.ErrCorrupt, Detail: detail}
}

// PutHeader writes the first sector of the segment to dst.
func (s SegmentHeader) PutHeader(dst []byte) {
	grain := int64(GrainSectors)
	if s.Empty {
		grain = EmptyGrainSectors
	}
	g := geometryOf(s.CapacityBytes, grain)
	h := g.header(s.ExplicitZeros)
	h.encode((*[sparseHeaderSize]byte)(dst))
}
