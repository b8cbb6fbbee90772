// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"encoding/binary"

	"github.com/vmstream/vmstream/disk"
)

// Markers of stream-optimized extents, technical note 5.0, "Stream-Optimized
// Compressed Sparse Extents". A marker begins a sector:
//
//	0  u64  grain: its first sector on the disk; otherwise sectors that follow
//	8  u32  grain: bytes of compressed data that follow at 12; otherwise 0
//	12 u32  type, if it is not a grain
const (
	markerBytes = 12

	markerEOS      = 0
	markerTable    = 1
	markerGD       = 2
	markerFooter   = 3
	markerProgress = 4

	// maxProgressSectors bounds what a progress marker can make us skip; its
	// payload is not documented.
	maxProgressSectors = maxGrainSectors

	// footerSearchBytes is how many zeros behind the footer are looked through.
	footerSearchBytes = 1 << 20

	// eagerStreamBytes is the size up to which Open compares every marker with
	// the tables. Beyond, Check does.
	eagerStreamBytes = 64 << 20
)

// marker is a marker, decoded.
type marker struct {
	val  uint64
	size uint32
	kind uint32 // meaningless for a grain
}

func parseMarker(b []byte) marker {
	le := binary.LittleEndian
	return marker{val: le.Uint64(b), size: le.Uint32(b[8:]), kind: le.Uint32(b[12:])}
}

// openStream reads the tables of a compressed extent wherever they are: behind
// the header, behind the grains with a footer that says so, or behind the
// grains and to be found by walking the markers.
func (t *hostedTables) openStream() error {
	g := t.extent
	g.unzip = &grainInflater{}
	footer, found, err := t.findFooter()
	if err != nil {
		return err
	}
	atEnd := t.header.gdOffset == gdAtEnd
	var scanned *streamScan
	switch {
	case found && atEnd:
		t.header.gdOffset, t.header.rgdOffset = footer.gdOffset, footer.rgdOffset
		t.header.flags = footer.flags
	case found && footer.gdOffset != t.header.gdOffset:
		return t.src.fail(disk.ErrMismatch, "gdOffset", 56, "%d, the footer says %d", t.header.gdOffset, footer.gdOffset)
	case atEnd:
		if scanned, err = t.scan(context.Background()); err != nil {
			return err
		}
		if scanned.directory == 0 {
			return t.src.fail(disk.ErrTruncated, "footer", -1, "there is neither a footer nor a grain directory: the end of the stream is missing")
		}
		t.shared.warnf("%s: has no footer; its grain directory was found by reading it all", t.src.path)
		t.header.gdOffset = scanned.directory
		t.header.flags &^= flagRedundant // only the footer could say where it is
	}
	if err := t.openDirectories(t.header.flags&flagRedundant != 0 && t.header.rgdOffset != 0); err != nil {
		return err
	}
	g.verify = t.compareWithMarkers
	if scanned != nil || t.src.sizeBytes <= eagerStreamBytes || t.header.uncleanShutdown != 0 {
		return g.check(context.Background())
	}
	if g.dir.tables == 0 {
		return t.refuseEmptyStream()
	}
	return nil
}

// findFooter looks for the footer: the last sector that is not zero, with a
// footer marker in front of it. The end-of-stream marker is a sector of zeros.
func (t *hostedTables) findFooter() (footer sparseHeader, found bool, err error) {
	last, ok, err := t.lastSector()
	if err != nil || !ok || last < 2 {
		return footer, false, err
	}
	var b [2 * sparseHeaderSize]byte
	if (last+1)*disk.SectorSize > uint64(t.src.sizeBytes) {
		return footer, false, nil
	}
	if err := t.src.readFull(b[:], (last-1)*disk.SectorSize, "footer"); err != nil {
		return footer, false, err
	}
	m := parseMarker(b[:])
	if m.val != 1 || m.size != 0 || m.kind != markerFooter || binary.LittleEndian.Uint32(b[sparseHeaderSize:]) != sparseMagic {
		return footer, false, nil
	}
	footer = parseSparseHeader((*[sparseHeaderSize]byte)(b[sparseHeaderSize:]))
	if err := footer.validate(t.src); err != nil {
		return footer, false, err
	}
	h := &t.header
	if footer.capacity != h.capacity || footer.grainSize != h.grainSize || !footer.compressed() || footer.gdOffset == gdAtEnd {
		return footer, false, t.src.fail(disk.ErrMismatch, "footer", byteOffset(last), "does not belong to the header: capacity %d and %d, grain size %d and %d, gdOffset 0x%x",
			footer.capacity, h.capacity, footer.grainSize, h.grainSize, footer.gdOffset)
	}
	if (last+2)*disk.SectorSize > uint64(t.src.sizeBytes) {
		t.shared.warnf("%s: the end-of-stream marker is missing behind the footer", t.src.path)
	}
	return footer, true, nil
}

// lastSector returns the number of the last sector that is not all zero.
func (t *hostedTables) lastSector() (sector uint64, ok bool, err error) {
	end := uint64(t.src.sizeBytes)
	limit := end - min(end, footerSearchBytes)
	buf := make([]byte, 64<<10)
	for end > limit {
		start := (end - 1) / disk.SectorSize * disk.SectorSize
		start -= min(start, uint64(len(buf))-disk.SectorSize)
		b := buf[:end-start]
		if err := t.src.readFull(b, start, "end of the stream"); err != nil {
			return 0, false, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != 0 {
				return (start + uint64(i)) / disk.SectorSize, true, nil
			}
		}
		end = start
	}
	return 0, false, nil
}

// firstRecord returns the sector where the markers begin.
func (t *hostedTables) firstRecord() uint64 {
	first := max(t.header.overHead, 1)
	if t.header.descriptorOffset != 0 {
		first = max(first, t.header.descriptorOffset+t.header.descriptorSize)
	}
	return first
}

// refuseEmptyStream is for a stream whose tables hold no grain at all.
func (t *hostedTables) refuseEmptyStream() error {
	var b [16]byte
	at := t.firstRecord()
	if at >= t.src.sectors() || at*disk.SectorSize+uint64(len(b)) > uint64(t.src.sizeBytes) {
		return nil
	}
	if err := t.src.readFull(b[:], at*disk.SectorSize, "first marker"); err != nil {
		return err
	}
	if parseMarker(b[:]).size == 0 {
		return nil
	}
	return t.src.fail(disk.ErrCorrupt, "grain tables", -1, "no grain is in the tables, but there is one at sector %d", at)
}

// compareWithMarkers walks all markers and demands as many grains as the
// tables have. Each entry's own marker is compared when the grain is read.
func (t *hostedTables) compareWithMarkers(ctx context.Context, n grainCount) error {
	s, err := t.scan(ctx)
	if err != nil {
		return err
	}
	if s.grains != n.data {
		return t.src.fail(disk.ErrCorrupt, "grain tables", -1, "they have %d grains, the stream has %d", n.data, s.grains)
	}
	return nil
}
