// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"encoding/binary"
	"math/bits"

	"github.com/vmstream/vmstream/disk"
)

const (
	sparseFormat = "vmdk sparse extent"
	streamFormat = "vmdk stream-optimized extent"

	// maxGrainSectors is 1 MiB, the largest grain that the technical note of
	// COWD allows and more than any hosted product writes.
	maxGrainSectors = 2048

	// maxEmbeddedSectors bounds an embedded descriptor.
	maxEmbeddedSectors = 2048

	knownFlags = flagCompressed | flagMarkers // of the incompatible half
)

// extentSpec is what an extent is opened with, from the descriptor.
type extentSpec struct {
	sectors int64     // 0 takes the capacity in the extent's own header
	hole    disk.Kind // what a grain that is not stored is
}

// loadSparseHeader reads and checks the header of a hosted sparse extent.
func loadSparseHeader(src *source, sector uint64) (sparseHeader, error) {
	var b [sparseHeaderSize]byte
	if err := src.readFull(b[:], sector*disk.SectorSize, "header"); err != nil {
		return sparseHeader{}, err
	}
	if binary.LittleEndian.Uint32(b[:]) != sparseMagic {
		return sparseHeader{}, src.fail(disk.ErrCorrupt, "magic", byteOffset(sector), "%x, expected KDMV", b[:4])
	}
	h := parseSparseHeader(&b)
	return h, h.validate(src)
}

// validate checks the header on its own: everything that sizes, loops and
// divisions depend on. Offsets are the byte offsets of the fields.
func (h *sparseHeader) validate(src *source) error {
	fail := func(kind error, field string, off int64, format string, args ...any) error {
		return src.fail(kind, field, off, format, args...)
	}
	switch {
	case h.version < 1 || h.version > 3:
		return fail(disk.ErrUnsupported, "version", 4, "%d, known are 1, 2 and 3", h.version)
	case h.flags&0xffff0000&^knownFlags != 0:
		return fail(disk.ErrUnsupported, "flags", 8, "0x%x has incompatible bits that are not known", h.flags)
	case h.flags&flagNewlineTest != 0 && h.newline != newlineTest:
		return fail(disk.ErrCorrupt, "newline test", 73, "% x, expected % x: the file went through a text-mode transfer", h.newline, newlineTest)
	case h.capacity == 0:
		return fail(disk.ErrCorrupt, "capacity", 12, "0 sectors")
	case h.capacity > maxDiskSectors:
		return fail(disk.ErrUnsupported, "capacity", 12, "%d sectors, at most %d are read", h.capacity, int64(maxDiskSectors))
	case h.grainSize == 0 || h.grainSize > maxGrainSectors || bits.OnesCount64(h.grainSize) != 1:
		return fail(disk.ErrCorrupt, "grainSize", 20, "%d sectors, expected a power of two up to %d", h.grainSize, maxGrainSectors)
	case h.numGTEsPerGT != gtEntries:
		return fail(disk.ErrCorrupt, "numGTEsPerGT", 44, "%d, expected %d", h.numGTEsPerGT, gtEntries)
	}
	return h.validateCompression(src)
}

func (h *sparseHeader) validateCompression(src *source) error {
	compressed, markers := h.flags&flagCompressed != 0, h.flags&flagMarkers != 0
	switch {
	case markers != compressed:
		return src.fail(disk.ErrUnsupported, "flags", 8, "0x%x: compressed grains and markers are read only together", h.flags)
	case compressed && h.compressAlgorithm != compressDeflate:
		return src.fail(disk.ErrUnsupported, "compressAlgorithm", 77, "%d, known is 1, deflate", h.compressAlgorithm)
	case !compressed && h.compressAlgorithm != compressNone:
		return src.fail(disk.ErrCorrupt, "compressAlgorithm", 77, "%d, but the flags say that grains are not compressed", h.compressAlgorithm)
	}
	return nil
}

func (h *sparseHeader) compressed() bool { return h.flags&flagCompressed != 0 }

// tables returns the number of grain tables, and of directory entries.
func (h *sparseHeader) tables() uint64 { return divUp(h.capacity, gtEntries*h.grainSize) }

// directorySectors returns the length of a grain directory.
func (h *sparseHeader) directorySectors() uint64 { return divUp(h.tables()*4, disk.SectorSize) }

// embeddedDescriptor returns the text inside the extent, nil if it has none.
// QEMU reserves the place also in extents of split disks and leaves it zero.
func (h *sparseHeader) embeddedDescriptor(src *source) ([]byte, error) {
	if h.descriptorOffset == 0 {
		return nil, nil
	}
	if h.descriptorOffset > maxFileSectors || h.descriptorSize == 0 {
		return nil, src.fail(disk.ErrCorrupt, "descriptorOffset", 28, "%d sectors at sector %d", h.descriptorSize, h.descriptorOffset)
	}
	b := make([]byte, min(h.descriptorSize, maxEmbeddedSectors)*disk.SectorSize)
	if err := src.readFull(b, h.descriptorOffset*disk.SectorSize, "embedded descriptor"); err != nil {
		return nil, err
	}
	if disk.IsZero(b) {
		return nil, nil
	}
	return b, nil
}

// checkCapacity compares the capacity of an extent with what its descriptor
// says and returns the bytes that the extent stands for. Writers that round
// the header up to a whole grain exist.
func checkCapacity(src *source, headerSectors, grainSectors uint64, spec extentSpec, off int64) (int64, error) {
	if spec.sectors == 0 {
		return int64(headerSectors) * disk.SectorSize, nil
	}
	want := uint64(spec.sectors)
	if headerSectors != want && headerSectors != divUp(want, grainSectors)*grainSectors {
		return 0, src.fail(disk.ErrMismatch, "capacity", off, "%d sectors, the descriptor says %d", headerSectors, want)
	}
	return spec.sectors * disk.SectorSize, nil
}

// openHosted opens a hosted sparse extent, compressed or not. The source stays
// the caller's.
func openHosted(src *source, sh *shared, spec extentSpec) (*grainExtent, error) {
	src.format = sparseFormat
	h, err := loadSparseHeader(src, 0)
	if err != nil {
		return nil, err
	}
	sizeBytes, err := checkCapacity(src, h.capacity, h.grainSize, spec, 12)
	if err != nil {
		return nil, err
	}
	g := &grainExtent{
		src: src, shared: sh, id: sh.nextID(), hole: spec.hole, entries: gtEntries,
		sizeBytes: sizeBytes, grainBytes: int64(h.grainSize) * disk.SectorSize, tableFileBytes: gtEntries * 4,
		info: ExtentInfo{
			Path: src.path, Type: ExtentSparse, SizeBytes: sizeBytes, FileBytes: src.sizeBytes,
			GrainBytes: int64(h.grainSize) * disk.SectorSize, Compressed: h.compressed(),
		},
	}
	if h.uncleanShutdown != 0 {
		sh.warnf("%s: was not closed properly by its last writer; its tables are verified", src.path)
	}
	hosted := &hostedTables{src: src, shared: sh, header: h, extent: g}
	g.loadTable = hosted.load
	if h.compressed() {
		src.format = streamFormat
		return g, hosted.openStream()
	}
	if h.gdOffset == gdAtEnd {
		return nil, src.fail(disk.ErrCorrupt, "gdOffset", 56, "says that a footer follows, but grains are not compressed")
	}
	return g, hosted.openPlain()
}

// openPlain reads the directories of an extent without compression.
func (t *hostedTables) openPlain() error {
	if err := t.openDirectories(t.header.flags&flagRedundant != 0); err != nil {
		return err
	}
	g := t.extent
	g.verify = func(_ context.Context, n grainCount) error {
		if n.data+n.zeros > 0 {
			return nil
		}
		return g.refuseUnreachable(max(t.header.overHead, t.layout.metadataEnd()), "grain tables")
	}
	if t.header.uncleanShutdown != 0 {
		return g.check(context.Background())
	}
	return g.checkEagerly()
}
