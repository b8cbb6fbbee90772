// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"encoding/binary"
	"errors"
	"os"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/writeback"
)

// extentLayout is where things are in a hosted sparse extent that has all its
// grain tables from the start, in two copies, as VMware and QEMU lay it out:
// header, descriptor, redundant directory and tables, primary ones, padding to
// a grain, grains. Everything is in sectors.
type extentLayout struct {
	capacity    int64
	descriptor  int64 // length; 0 if the descriptor is a file of its own
	tables      int64
	rgd, rgt    int64
	gd, gt      int64
	grainsBegin int64
}

func layoutExtent(capacitySectors, descriptorSectors int64) extentLayout {
	l := extentLayout{capacity: capacitySectors, descriptor: descriptorSectors}
	l.tables = ceilDiv(capacitySectors, gtEntries*GrainSectors)
	gdSectors := ceilDiv(l.tables*4, disk.SectorSize)
	l.rgd = 1 + descriptorSectors
	l.rgt = l.rgd + gdSectors
	l.gd = l.rgt + l.tables*gtSectors
	l.gt = l.gd + gdSectors
	l.grainsBegin = ceilDiv(l.gt+l.tables*gtSectors, GrainSectors) * GrainSectors
	return l
}

// header returns the header of the extent while it is open.
func (l *extentLayout) header() sparseHeader {
	h := sparseHeader{
		version: 1, flags: flagNewlineTest | flagRedundant,
		capacity: uint64(l.capacity), grainSize: GrainSectors,
		numGTEsPerGT: gtEntries,
		rgdOffset:    uint64(l.rgd), gdOffset: uint64(l.gd), overHead: uint64(l.grainsBegin),
		uncleanShutdown: 1, newline: newlineTest,
	}
	if l.descriptor > 0 {
		h.descriptorOffset, h.descriptorSize = 1, uint64(l.descriptor)
	}
	return h
}

// maxPointerSectors is where a pointer to a grain or a table ends: 2 TiB.
const maxPointerSectors = 1 << 32

// extentFile writes one hosted sparse extent, grains in ascending order. It
// holds one grain table at a time.
type extentFile struct {
	f     *writeback.File
	lay   extentLayout
	next  int64 // sector of the next grain to be stored
	table int64 // number of the table held
	gt    [gtEntries * 4]byte
	dirty bool // gt has entries that are not in the file yet
}

// newExtentFile writes header, descriptor and directories to the new file f,
// which the caller closes if this fails. The tables are holes as yet.
func newExtentFile(f *os.File, lay extentLayout, descriptor []byte) (*extentFile, error) {
	x := &extentFile{f: writeback.New(f), lay: lay, next: lay.grainsBegin}
	if err := x.begin(descriptor); err != nil {
		return nil, err
	}
	return x, nil
}

func (x *extentFile) begin(descriptor []byte) error {
	if err := x.f.Truncate(x.lay.grainsBegin * disk.SectorSize); err != nil {
		return err
	}
	if err := x.putHeader(x.lay.header()); err != nil {
		return err
	}
	if _, err := x.f.WriteAt(descriptor, disk.SectorSize); err != nil {
		return err
	}
	if err := x.putDirectory(x.lay.rgd, x.lay.rgt); err != nil {
		return err
	}
	return x.putDirectory(x.lay.gd, x.lay.gt)
}

func (x *extentFile) putHeader(h sparseHeader) error {
	var b [sparseHeaderSize]byte
	h.encode(&b)
	_, err := x.f.WriteAt(b[:], 0)
	return err
}

// putDirectory writes a directory in pieces: that of a large disk has megabytes.
func (x *extentFile) putDirectory(at, firstTable int64) error {
	const piece = 16 << 10 // entries
	b := make([]byte, 4*min(x.lay.tables, piece))
	off := at * disk.SectorSize
	for i := int64(0); i < x.lay.tables; i += piece {
		n := min(x.lay.tables-i, piece)
		putDirectory(b, n, firstTable+i*gtSectors)
		if _, err := x.f.WriteAt(b[:n*4], off); err != nil {
			return err
		}
		off += n * 4
	}
	return nil
}

// writeGrains stores the grains that are not zero, neighbours by one write.
// first is the number of the first grain within this extent.
func (x *extentFile) writeGrains(first int64, data []byte) error {
	for len(data) > 0 {
		n := 0
		for n < len(data) && !disk.IsZero(data[n:n+GrainBytes]) {
			n += GrainBytes
		}
		if n > 0 {
			if err := x.store(first, data[:n]); err != nil {
				return err
			}
		} else {
			n = GrainBytes
		}
		first, data = first+int64(n/GrainBytes), data[n:]
	}
	return nil
}

// store appends grains to the file and enters them into their tables. The
// grains come first: an entry never points at what is not there.
func (x *extentFile) store(first int64, data []byte) error {
	sectors := int64(len(data) / disk.SectorSize)
	if x.next+sectors > maxPointerSectors {
		return &disk.FormatError{File: x.f.Name(), Format: "vmdk sparse extent", Offset: x.next * disk.SectorSize, Err: disk.ErrUnsupported, Detail: "the file would exceed 2 TiB, the most its pointers can address; restore to format raw, flat, vmfs or split"}
	}
	if _, err := x.f.WriteAt(data, x.next*disk.SectorSize); err != nil {
		return err
	}
	for g := first; g < first+sectors/GrainSectors; g++ {
		if g/gtEntries != x.table {
			if err := x.putTable(); err != nil {
				return err
			}
			x.table = g / gtEntries
		}
		binary.LittleEndian.PutUint32(x.gt[g%gtEntries*4:], uint32(x.next))
		x.dirty = true
		x.next += GrainSectors
	}
	return nil
}

// putTable writes both copies of the table held, the redundant one first.
func (x *extentFile) putTable() error {
	if !x.dirty {
		return nil
	}
	for _, first := range []int64{x.lay.rgt, x.lay.gt} {
		if _, err := x.f.WriteAt(x.gt[:], (first+x.table*gtSectors)*disk.SectorSize); err != nil {
			return err
		}
	}
	clear(x.gt[:])
	x.dirty = false
	return nil
}

// finish makes the extent durable, then says in its header that it is whole,
// and closes the file.
func (x *extentFile) finish() error {
	return errors.Join(x.complete(), x.f.Close())
}

func (x *extentFile) complete() error {
	if err := x.putTable(); err != nil {
		return err
	}
	// Without grains there is nothing that the header could be ahead of.
	if x.next > x.lay.grainsBegin {
		if err := x.f.Sync(); err != nil {
			return err
		}
	}
	h := x.lay.header()
	h.uncleanShutdown = 0
	if err := x.putHeader(h); err != nil {
		return err
	}
	return x.f.Sync()
}

// EmptyExtent returns a hosted sparse extent of a split disk that has no grain yet: header,
// directories and tables, 8 KiB for each 64 MiB. The capacity is in sectors, at most that of
// an extent of [FormatSplit], see [SplitExtentSectors].
func EmptyExtent(capacitySectors int64) []byte {
	l := layoutExtent(min(capacitySectors, SplitExtentSectors), 0)
	b := make([]byte, l.grainsBegin*disk.SectorSize)
	h := l.header()
	h.uncleanShutdown = 0
	h.encode((*[sparseHeaderSize]byte)(b))
	putDirectory(b[l.rgd*disk.SectorSize:], l.tables, l.rgt)
	putDirectory(b[l.gd*disk.SectorSize:], l.tables, l.gt)
	return b
}
