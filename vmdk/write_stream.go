// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bufio"
	"encoding/binary"
	"io"
	"io/fs"

	"github.com/vmstream/vmstream/disk"
)

// Types of metadata markers in a stream.
const (
	streamMarkerEOS    = 0
	streamMarkerGT     = 1
	streamMarkerGD     = 2
	streamMarkerFooter = 3
)

// streamVersion is the header version of current writers; recent ESXi refuses
// streams of version 1 as too old.
const streamVersion = 3

// streamWriter writes a streamOptimized extent forward only, laid out as
// VMware's stream converter does it: header with the directory "at the end",
// descriptor, compressed grains, each table behind its grains, directory,
// footer, end of stream.
type streamWriter struct {
	*grainMerger
	name    string
	out     *bufio.Writer
	deflate *deflater
	hdr     sparseHeader
	text    []byte // of the descriptor
	begun   bool
	sectors int64 // written so far

	gd    []uint32 // of the whole disk: 4 bytes per 32 MiB
	gt    [gtEntries]uint32
	table int64 // number of the table in gt
	dirty bool  // gt has entries
	done  bool
}

func newStreamWriter(w io.Writer, spec *CreateSpec) (*streamWriter, error) {
	d, err := spec.descriptor(TypeStreamOptimized, []Extent{{
		Access: AccessRW, Sectors: spec.sectors(), Type: ExtentSparse, Name: spec.Name,
	}})
	if err != nil {
		return nil, err
	}
	text, err := d.Marshal()
	if err != nil {
		return nil, err
	}
	room := max(embeddedSectors, ceilDiv(int64(len(text)), disk.SectorSize))
	s := &streamWriter{
		name: spec.Name,
		out:  bufio.NewWriterSize(w, 256<<10),
		text: text,
		gd:   make([]uint32, ceilDiv(spec.sectors(), gtEntries*GrainSectors)),
		hdr: sparseHeader{
			version: streamVersion, flags: flagNewlineTest | flagCompressed | flagMarkers,
			capacity: uint64(spec.sectors()), grainSize: GrainSectors,
			descriptorOffset: 1, descriptorSize: uint64(room),
			numGTEsPerGT: gtEntries, gdOffset: gdAtEnd,
			overHead: uint64(ceilDiv(1+room, GrainSectors) * GrainSectors),
			newline:  newlineTest, compressAlgorithm: compressDeflate,
		},
	}
	s.grainMerger = newGrainMerger(s, spec.sectors())
	s.deflate = newDeflater(spec.Workers, spec.Compression)
	return s, nil
}

func (s *streamWriter) Ordered() bool { return true }

// emit sends whole sectors; what p lacks to one is sent as zeros.
func (s *streamWriter) emit(p []byte) error {
	n := ceilDiv(int64(len(p)), disk.SectorSize)
	// Room is left for what has to follow: a table, the directory, the footer.
	tail := 1 + gtSectors + 1 + s.directorySectors() + 3
	if s.sectors+n > maxPointerSectors-tail && !s.done {
		return &disk.FormatError{File: s.name, Format: "vmdk stream", Offset: s.sectors * disk.SectorSize, Err: disk.ErrUnsupported, Detail: "the stream would exceed 2 TiB, the most its pointers can address; restore to format raw, flat, vmfs or split"}
	}
	if _, err := s.out.Write(p); err != nil {
		return err
	}
	s.sectors += n
	if over := len(p) % disk.SectorSize; over > 0 {
		_, err := s.out.Write(zeroSector[over:])
		return err
	}
	return nil
}

func (s *streamWriter) directorySectors() int64 {
	return ceilDiv(int64(len(s.gd))*4, disk.SectorSize)
}

// begin writes header and descriptor, once.
func (s *streamWriter) begin() error {
	if s.begun {
		return nil
	}
	s.begun = true
	var b [sparseHeaderSize]byte
	s.hdr.encode(&b)
	if err := s.emit(b[:]); err != nil {
		return err
	}
	region := make([]byte, (s.hdr.overHead-1)*disk.SectorSize)
	copy(region, s.text)
	return s.emit(region)
}

// writeGrains compresses the grains that are not zero.
func (s *streamWriter) writeGrains(first int64, data []byte) error {
	if err := s.begin(); err != nil {
		return err
	}
	for ; len(data) > 0; first, data = first+1, data[GrainBytes:] {
		if disk.IsZero(data[:GrainBytes]) {
			continue
		}
		if s.deflate.full() {
			if err := s.putOldest(); err != nil {
				return err
			}
		}
		s.deflate.put(first, data[:GrainBytes])
	}
	return nil
}

// putOldest writes the record of the oldest grain that is being compressed.
func (s *streamWriter) putOldest() error {
	j := s.deflate.take()
	defer s.deflate.giveBack(j)
	if j.err != nil {
		return j.err
	}
	if t := j.grain / gtEntries; t != s.table {
		if err := s.putTable(); err != nil {
			return err
		}
		s.table = t
	}
	at := s.sectors
	if err := s.emit(j.record); err != nil {
		return err
	}
	s.gt[j.grain%gtEntries] = uint32(at)
	s.dirty = true
	return nil
}

// putTable writes the table held, if it has entries, and notes where it is.
func (s *streamWriter) putTable() error {
	if !s.dirty {
		return nil
	}
	if err := s.putMarker(streamMarkerGT, gtSectors); err != nil {
		return err
	}
	s.gd[s.table] = uint32(s.sectors)
	s.dirty = false
	b := putEntries(s.gt[:])
	clear(s.gt[:])
	return s.emit(b)
}

// putMarker announces metadata of this many sectors.
func (s *streamWriter) putMarker(kind uint32, sectors int64) error {
	var b [disk.SectorSize]byte
	binary.LittleEndian.PutUint64(b[0:], uint64(sectors))
	binary.LittleEndian.PutUint32(b[12:], kind)
	return s.emit(b[:])
}

func putEntries(entries []uint32) []byte {
	b := make([]byte, 4*len(entries))
	for i, e := range entries {
		binary.LittleEndian.PutUint32(b[i*4:], e)
	}
	return b
}

// Close writes what follows the last grain.
func (s *streamWriter) Close() error {
	if s.done {
		return fs.ErrClosed
	}
	err := s.complete()
	s.Abort()
	return err
}

func (s *streamWriter) complete() error {
	if err := s.finish(); err != nil {
		return err
	}
	if err := s.begin(); err != nil {
		return err
	}
	for len(s.deflate.pending) > 0 {
		if err := s.putOldest(); err != nil {
			return err
		}
	}
	s.done = true // what was kept free for the tail may be used now
	if err := s.putTable(); err != nil {
		return err
	}
	return s.putTail()
}

// putTail writes directory, footer and end of stream.
func (s *streamWriter) putTail() error {
	if err := s.putMarker(streamMarkerGD, s.directorySectors()); err != nil {
		return err
	}
	footer := s.hdr
	footer.gdOffset = uint64(s.sectors)
	if err := s.emit(putEntries(s.gd)); err != nil {
		return err
	}
	if err := s.putMarker(streamMarkerFooter, 1); err != nil {
		return err
	}
	var b [sparseHeaderSize]byte
	footer.encode(&b)
	if err := s.emit(b[:]); err != nil {
		return err
	}
	if err := s.putMarker(streamMarkerEOS, 0); err != nil {
		return err
	}
	return s.out.Flush()
}

// Abort ends the compressors. A stream that has begun stays without its end.
func (s *streamWriter) Abort() {
	s.done = true
	if s.err == nil {
		s.err = fs.ErrClosed // for writes that come after
	}
	s.deflate.stop()
}
