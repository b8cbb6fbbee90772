// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"fmt"
	"math/bits"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// The file system's header lies at a fixed place of the volume.
const (
	headerAt  = 0x200000
	headerLen = 512
	fsMagic   = 0x2FABF15E
	fsMagicL  = 0x2FABF15F // VMFS-L, of local disks

	heartbeatsAt = 0x300000
)

// Generation is a family of versions with one layout.
type Generation int

// The generations that can be read.
const (
	VMFS3 Generation = 3
	VMFS5 Generation = 5
	VMFS6 Generation = 6
)

// String returns the name, such as VMFS-5.
func (g Generation) String() string { return fmt.Sprintf("VMFS-%d", int(g)) }

// Header is what the file system says of itself.
type Header struct {
	Generation     Generation
	MajorVersion   uint32 // as on disk: 4 for VMFS-3, 14 for VMFS-5, 24 for VMFS-6
	MinorVersion   uint8
	Local          bool // VMFS-L
	UUID           UUID
	Label          string
	Config         uint32
	BlockBytes     int64 // of a file block
	SubBlockBytes  int64
	Created        time.Time
	SnapshotID     uint32
	LVM            UUID // of the volume that it was made on
	MetadataBytes  int64
	LargeBlockBits uint // log2 of the file blocks in a large one, VMFS-6

	fdcOffset, fdcClusters uint32
}

func readHeader(v *volume) (*Header, error) {
	b := make(fields, headerLen)
	if err := v.readFull(b, headerAt, "file system header"); err != nil {
		return nil, err
	}
	h := &Header{
		MajorVersion: b.u32(0x04), MinorVersion: b.u8(0x08), UUID: b.uuid(0x09), Config: b.u32(0x19), Label: b.text(0x1D, 128),
		BlockBytes: int64(b.u64(0xA1)), Created: time.Unix(int64(b.u32(0xA9)), 0).UTC(), SnapshotID: b.u32(0xAD), LVM: b.uuid(0xB1),
		fdcOffset: b.u32(0xD1), fdcClusters: b.u32(0xD5), SubBlockBytes: int64(b.u32(0xD9)), MetadataBytes: disk.SectorSize,
	}
	bad := func(kind error, field string, off int64, format string, args ...any) error {
		return v.fail(kind, "header: "+field, headerAt+off, format, args...)
	}
	switch magic := b.u32(0); magic {
	case fsMagic:
	case fsMagicL:
		h.Local = true
	default:
		return nil, bad(disk.ErrCorrupt, "magic", 0, "is %08x", magic)
	}
	switch {
	case h.MajorVersion < 4:
		return nil, bad(disk.ErrUnsupported, "major version", 4, "is %d: VMFS-1 and VMFS-2 cannot be read", h.MajorVersion)
	case h.MajorVersion < 14:
		h.Generation = VMFS3
	case h.MajorVersion < 24:
		h.Generation = VMFS5
	case h.MajorVersion < 34:
		h.Generation = VMFS6
	default:
		return nil, bad(disk.ErrUnsupported, "major version", 4, "is %d, up to 33 are known", h.MajorVersion)
	}
	if !isPowerOf2(uint64(h.BlockBytes)) || h.BlockBytes < 1<<20 || h.BlockBytes > 8<<20 {
		return nil, bad(disk.ErrCorrupt, "file block size", 0xA1, "is %d", h.BlockBytes)
	}
	if len(v.members) > 0 && h.LVM != v.members[0].lvm.Volume {
		return nil, bad(disk.ErrMismatch, "LVM volume", 0xB1, "is %s, the devices are of %s", h.LVM, v.members[0].lvm.Volume)
	}
	if h.Generation == VMFS6 {
		h.MetadataBytes, h.LargeBlockBits = int64(b.u32(0x134)), uint(b.u16(0x138))
		if a := uint64(h.MetadataBytes); !isPowerOf2(a) || a < disk.SectorSize || a > 64<<10 {
			return nil, bad(disk.ErrCorrupt, "metadata alignment", 0x134, "is %d", h.MetadataBytes)
		}
		if h.LargeBlockBits > 13 {
			return nil, bad(disk.ErrCorrupt, "size of large blocks", 0x138, "is 2^%d file blocks", h.LargeBlockBits)
		}
	}
	return h, nil
}

// Version returns the version as VMware writes it, such as 5.61.
func (h *Header) Version() string { return fmt.Sprintf("%d.%d", int(h.Generation), h.MinorVersion) }

func (h *Header) largeBlockBytes() int64 { return h.BlockBytes << h.LargeBlockBits }
func (h *Header) blockBits() uint        { return uint(bits.TrailingZeros64(uint64(h.BlockBytes))) }
func (h *Header) wide() bool             { return h.Generation == VMFS6 }

// fdcStart is where the file of file descriptors begins in the volume.
func (h *Header) fdcStart() int64 {
	if h.wide() {
		return (h.MetadataBytes<<10 + 0x3FFFFF) &^ 0xFFFFF
	}
	return h.BlockBytes * ((h.BlockBytes + 0x3FFFFF) / h.BlockBytes)
}

// fdBytes is the length of a file descriptor.
func (h *Header) fdBytes() int64 {
	if h.wide() {
		return 2 * h.MetadataBytes
	}
	return 2048
}

// clusterHeaderBytes is the length of the header of a cluster of resources.
func (h *Header) clusterHeaderBytes() int64 { return 2 * h.MetadataBytes }
