// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// MaxCOWDBytes is the largest capacity of a COWD extent: its header counts
// sectors in 32 bits.
const MaxCOWDBytes = (1<<32 - 1) * disk.SectorSize

const (
	// cowdFlags is what ESX writes; what the bits mean is not published.
	cowdFlags = 3

	cowdFreeSector      = 28
	cowdDescription     = 1124
	cowdDescriptionSize = 512
	cowdGeneration      = 1060
	cowdSavedGeneration = 1636

	// cowdLengthUnit is what the length of a file is a multiple of: a new delta of
	// 16777216 sectors uses 18432 bytes and is 20480 bytes long on ESX.
	cowdLengthUnit = 4096
)

// COWDSpec describes a new COWD extent.
type COWDSpec struct {
	SizeBytes    int64 // capacity of the disk, whole sectors, at most MaxCOWDBytes
	GrainSectors int64 // 1 to 2048; 1, what ESX uses, if 0

	// ParentName goes into the header of a redo log of ESX 2.x. Deltas with a
	// descriptor leave it empty.
	ParentName string

	// Geometry goes into the header of a disk without a parent, where the name
	// of the parent would be.
	Geometry Geometry

	// LinkID, if it is not 0, is noted in the description, a text that no product
	// reads. It is to be random, and is a content id of what is below the new
	// extent, for chains in which nothing else has one.
	LinkID uint32
}

// linkIDText is how a link id is noted.
const linkIDText = "vmstream link id "

// linkID returns the link id in a header, 0 if there is none.
func linkID(header []byte) uint32 {
	text, _, _ := bytes.Cut(header[cowdDescription:cowdDescription+cowdDescriptionSize], []byte{0})
	digits, ok := strings.CutPrefix(string(text), linkIDText)
	if !ok || len(digits) != 8 {
		return 0
	}
	id, err := strconv.ParseUint(digits, 16, 32)
	if err != nil || uint32(id) == NoParent {
		return 0
	}
	return uint32(id)
}

// ExtentFile is a file that an extent is written to. *os.File is one.
type ExtentFile interface {
	io.ReaderAt
	io.WriterAt
	// Truncate changes the length; what is added reads as zeros.
	Truncate(sizeBytes int64) error
	// Sync makes everything written so far durable.
	Sync() error
}

// CreateCOWD makes an empty COWD extent, version 1, of the empty file f and
// returns the length of the file in bytes. Nothing is stored yet: every sector
// is the parent's, or zero without a parent. It does not sync.
//
// The layout is that of VMware's technical note "Virtual Disk Format" 1.1; the
// length, which exceeds what is used, is what ESX makes of it.
func CreateCOWD(f ExtentFile, spec COWDSpec) (int64, error) {
	b, err := spec.header()
	if err != nil {
		return 0, fmt.Errorf("new COWD extent: %w", err)
	}
	length := cowdFileBytes(uint64(binary.LittleEndian.Uint32(b[cowdFreeSector:])))
	if err := f.Truncate(length); err != nil { // the directory is zero: no table
		return 0, err
	}
	_, err = f.WriteAt(b, 0)
	return length, err
}

// cowdFileBytes returns how long a file is that has given away the sectors
// below freeSector.
func cowdFileBytes(freeSector uint64) int64 {
	return (int64(freeSector)*disk.SectorSize/cowdLengthUnit + 1) * cowdLengthUnit
}

func (s *COWDSpec) header() ([]byte, error) {
	grain := s.GrainSectors
	if grain == 0 {
		grain = 1
	}
	switch {
	case s.SizeBytes <= 0 || s.SizeBytes%disk.SectorSize != 0:
		return nil, fmt.Errorf("capacity of %d bytes: it has to be whole sectors: %w", s.SizeBytes, fs.ErrInvalid)
	case s.SizeBytes > MaxCOWDBytes:
		return nil, fmt.Errorf("capacity of %d bytes: the format has at most %d: %w", s.SizeBytes, int64(MaxCOWDBytes), disk.ErrUnsupported)
	case grain < 1 || grain > maxGrainSectors:
		return nil, fmt.Errorf("grain of %d sectors: 1 to %d are possible: %w", grain, maxGrainSectors, fs.ErrInvalid)
	case len(s.ParentName) >= cowdParentSize || !printable([]byte(s.ParentName)):
		return nil, fmt.Errorf("name of the parent %s: at most %d bytes without control characters: %w", quoteName(s.ParentName), cowdParentSize-1, fs.ErrInvalid)
	case s.ParentName != "" && !s.Geometry.IsZero():
		return nil, fmt.Errorf("both a parent and a geometry, which lie at the same place: %w", fs.ErrInvalid)
	}
	sectors := s.SizeBytes / disk.SectorSize
	tables := ceilDiv(sectors, cowdEntries*grain)
	gd := int64(cowdHeaderSize / disk.SectorSize)
	b := make([]byte, cowdHeaderSize)
	copy(b, "COWD")
	for i, v := range []int64{cowdVersionESX, cowdFlags, sectors, grain, gd, tables, gd + ceilDiv(tables*4, disk.SectorSize)} {
		binary.LittleEndian.PutUint32(b[4+4*i:], uint32(v))
	}
	copy(b[cowdParentName:], s.ParentName)
	if s.LinkID != 0 {
		copy(b[cowdDescription:], fmt.Sprintf("%s%08x", linkIDText, s.LinkID))
	}
	if g := s.Geometry; !g.IsZero() {
		for i, v := range []uint32{g.Cylinders, g.Heads, g.Sectors} {
			binary.LittleEndian.PutUint32(b[cowdParentName+4*i:], v)
		}
	}
	return b, nil
}

// SetCOWDParentName changes the name of the parent in the header of a redo
// log. It writes nothing but the name, and does not sync.
func SetCOWDParentName(f ExtentFile, name string) error {
	b := make([]byte, cowdParentName+cowdParentSize)
	if err := disk.ReadFull(f, b, 0); err != nil {
		return err
	}
	if string(b[:4]) != "COWD" || len(name) >= cowdParentSize || !printable([]byte(name)) {
		return fmt.Errorf("name of the parent in the header of a COWD extent: %w", fs.ErrInvalid)
	}
	clear(b[cowdParentName:])
	copy(b[cowdParentName:], name)
	_, err := f.WriteAt(b[cowdParentName:], cowdParentName)
	return err
}

// ExtentState is what the header of a sparse extent says about its last writer.
type ExtentState struct {
	Type            string // ExtentSparse, ExtentVMFSSparse or ExtentSESparse; "" if it is none of these
	UncleanShutdown bool   // it was not closed properly
	// Generation and SavedGeneration are of COWD extents. They differ after an
	// unclean shutdown; products of ESX 3 and later leave both 0.
	Generation, SavedGeneration uint32
	LinkID                      uint32 // see [COWDSpec]; 0 if there is none
}

// Dirty reports if the metadata asks for a check.
func (s ExtentState) Dirty() bool { return s.UncleanShutdown || s.Generation != s.SavedGeneration }

// ReadExtentState reads the header of the sparse extent r. Bytes that a guest
// may have written must not be shown to it.
func ReadExtentState(r io.ReaderAt) (ExtentState, error) {
	b := make([]byte, cowdHeaderSize)
	n, err := r.ReadAt(b, 0)
	if n < disk.SectorSize {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return ExtentState{}, err
	}
	u32 := func(off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
	switch kind, _ := detect(b[:disk.SectorSize]); {
	case kind == kindHosted:
		h := parseSparseHeader((*[sparseHeaderSize]byte)(b))
		return ExtentState{Type: ExtentSparse, UncleanShutdown: h.uncleanShutdown != 0}, nil
	case kind == kindSESparse:
		return ExtentState{Type: ExtentSESparse}, nil
	case kind == kindCOWD && n == len(b):
		return ExtentState{
			Type: ExtentVMFSSparse, UncleanShutdown: u32(cowdUnclean) != 0,
			Generation: u32(cowdGeneration), SavedGeneration: u32(cowdSavedGeneration), LinkID: linkID(b),
		}, nil
	}
	return ExtentState{}, nil
}
