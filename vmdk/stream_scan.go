// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"

	"github.com/vmstream/vmstream/disk"
)

// streamScan is what walking the markers of a stream found.
type streamScan struct {
	grains    int64
	directory uint64 // sector of the grain directory behind its marker, 0 for none
}

// scan walks the markers from the first record to the end-of-stream marker.
// Only markers are read, so memory does not depend on the stream.
//
// QEMU ends its streams with nothing, or with zeros, which read as the marker:
// the end of the file between two records is an end, too. Whether something is
// missing then shows in the comparison with the tables.
func (t *hostedTables) scan(ctx context.Context) (*streamScan, error) {
	s := &streamScan{}
	size := uint64(t.src.sizeBytes)
	for at := t.firstRecord(); at < t.src.sectors(); {
		if s.grains%4096 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var b [markerBytes + 4]byte
		off := at * disk.SectorSize
		if err := t.src.readFull(b[:min(uint64(len(b)), size-off)], off, "marker"); err != nil {
			return nil, err
		}
		m := parseMarker(b[:])
		sectors, err := t.recordSectors(m, at)
		if err != nil {
			return nil, err
		}
		switch {
		case m.size > 0:
			s.grains++
		case m.kind == markerEOS:
			return s, nil
		case m.kind == markerGD:
			s.directory = at + 1
		}
		at += sectors
	}
	return s, nil
}

// recordSectors returns how many sectors the record of the marker at a sector
// takes, once the marker has been checked.
func (t *hostedTables) recordSectors(m marker, at uint64) (uint64, error) {
	off := byteOffset(at)
	if m.size > 0 {
		if err := t.checkGrainMarker(m, off); err != nil {
			return 0, err
		}
		return divUp(markerBytes+uint64(m.size), disk.SectorSize), nil
	}
	want := uint64(0)
	switch m.kind {
	case markerEOS:
	case markerTable:
		want = gtSectors
	case markerGD:
		want = t.header.directorySectors()
	case markerFooter:
		want = 1
	case markerProgress:
		want = min(m.val, maxProgressSectors)
	default:
		return 0, t.src.fail(disk.ErrCorrupt, "marker", off, "type %d is not known", m.kind)
	}
	if m.val != want {
		return 0, t.src.fail(disk.ErrCorrupt, "marker", off, "type %d announces %d sectors, expected %d", m.kind, m.val, want)
	}
	if (at+1+want)*disk.SectorSize > uint64(t.src.sizeBytes) && m.kind != markerEOS {
		return 0, t.src.fail(disk.ErrTruncated, "marker", off, "type %d announces %d sectors, which the file does not have", m.kind, m.val)
	}
	return 1 + want, nil
}

// checkGrainMarker checks the marker of a grain, without knowing which grain
// is expected. What follows the marker has to be in the file.
func (t *hostedTables) checkGrainMarker(m marker, off int64) error {
	h := &t.header
	switch {
	case m.val >= h.capacity || m.val%h.grainSize != 0:
		return t.src.fail(disk.ErrCorrupt, "grain marker", off, "sector %d of the disk is no place for a grain", m.val)
	case int64(m.size) > maxCompressed(int64(h.grainSize)*disk.SectorSize):
		return t.src.fail(disk.ErrCorrupt, "grain marker", off, "%d compressed bytes for a grain of %d", m.size, h.grainSize*disk.SectorSize)
	case off+markerBytes+int64(m.size) > t.src.sizeBytes:
		return t.src.fail(disk.ErrTruncated, "grain marker", off, "%d compressed bytes are announced, the file ends before", m.size)
	}
	return nil
}

// maxCompressed bounds the compressed size of a grain: what deflate makes of
// incompressible data is a little longer than that data.
func maxCompressed(grainBytes int64) int64 { return grainBytes + grainBytes/8 + 512 }
