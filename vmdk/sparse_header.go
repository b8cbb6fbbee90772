// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import "encoding/binary"

// Hosted sparse extents ("KDMV"), technical note 5.0, "Hosted Sparse Extent
// Header". All integers are little-endian and packed.
const (
	sparseMagic      = 0x564d444b // "KDMV"
	sparseHeaderSize = 512        // bytes, one sector

	// GrainSectors is the grain size of all extents we write that hold data:
	// 64 KiB, the default of every VMware product.
	GrainSectors = 128
	gtEntries    = 512                 // entries of a grain table; the format allows no other number
	gtSectors    = gtEntries * 4 / 512 // sectors of a grain table

	gdAtEnd = ^uint64(0) // gdOffset of a stream whose footer has the real one

	gteZero = 1 // grain table entry of an explicit zero grain, with flagZeroGrain
)

// Header flags. The low 16 bits are compatible, unknown ones are ignored; the
// high 16 are not.
const (
	flagNewlineTest = 1 << 0
	flagRedundant   = 1 << 1
	flagZeroGrain   = 1 << 2
	flagCompressed  = 1 << 16
	flagMarkers     = 1 << 17
)

const (
	compressNone    = 0
	compressDeflate = 1
)

// newlineTest is what bytes 73 to 76 hold: a text-mode transfer breaks it.
var newlineTest = [4]byte{'\n', ' ', '\r', '\n'}

// sparseHeader is the header of a hosted sparse extent. Sizes and offsets are
// in sectors.
type sparseHeader struct {
	version           uint32
	flags             uint32
	capacity          uint64
	grainSize         uint64
	descriptorOffset  uint64
	descriptorSize    uint64
	numGTEsPerGT      uint32
	rgdOffset         uint64
	gdOffset          uint64
	overHead          uint64
	uncleanShutdown   byte
	newline           [4]byte
	compressAlgorithm uint16
}

// parseSparseHeader decodes b. It checks nothing, not even the magic.
func parseSparseHeader(b *[sparseHeaderSize]byte) sparseHeader {
	le := binary.LittleEndian
	return sparseHeader{
		version:           le.Uint32(b[4:]),
		flags:             le.Uint32(b[8:]),
		capacity:          le.Uint64(b[12:]),
		grainSize:         le.Uint64(b[20:]),
		descriptorOffset:  le.Uint64(b[28:]),
		descriptorSize:    le.Uint64(b[36:]),
		numGTEsPerGT:      le.Uint32(b[44:]),
		rgdOffset:         le.Uint64(b[48:]),
		gdOffset:          le.Uint64(b[56:]),
		overHead:          le.Uint64(b[64:]),
		uncleanShutdown:   b[72],
		newline:           [4]byte(b[73:77]),
		compressAlgorithm: le.Uint16(b[77:]),
	}
}

// encode writes the header, with its magic, to b.
func (h *sparseHeader) encode(b *[sparseHeaderSize]byte) {
	clear(b[:])
	le := binary.LittleEndian
	le.PutUint32(b[0:], sparseMagic)
	le.PutUint32(b[4:], h.version)
	le.PutUint32(b[8:], h.flags)
	le.PutUint64(b[12:], h.capacity)
	le.PutUint64(b[20:], h.grainSize)
	le.PutUint64(b[28:], h.descriptorOffset)
	le.PutUint64(b[36:], h.descriptorSize)
	le.PutUint32(b[44:], h.numGTEsPerGT)
	le.PutUint64(b[48:], h.rgdOffset)
	le.PutUint64(b[56:], h.gdOffset)
	le.PutUint64(b[64:], h.overHead)
	b[72] = h.uncleanShutdown
	copy(b[73:77], h.newline[:])
	le.PutUint16(b[77:], h.compressAlgorithm)
}
