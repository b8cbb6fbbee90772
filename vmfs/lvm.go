// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"fmt"

	"github.com/vmstream/vmstream/disk"
)

// Where things of the LVM are. Offsets are in a partition.
const (
	lvmHeaderAt  = 0x100000
	lvmMagic     = 0xC001D00D
	lvmHeaderLen = 0xD6
	lvmEntryLen  = 0x114

	peTableEntries = 8192 // of a map
	peEntryLen     = 128
	peMapsAtOnce   = 8 // of a region of metadata
	maxPERegions   = 64
	maxPEs         = peTableEntries * peMapsAtOnce * maxPERegions
)

// LVM is what the header of a device says.
type LVM struct {
	MajorVersion uint32
	MinorVersion uint32
	Disk         DiskID // the LUN that the header was written to
	SizeBytes    uint64 // of the partition
	DataOffset   uint64
	Device       UUID
	LockedBy     UUID // host that holds the device's lock

	VolumeSizeBytes uint64
	Generation      uint64
	State           uint32
	Volume          UUID
	SnapshotID      uint32
	FirstPE, LastPE uint64
	PEs             uint32 // physical extents of the volume on this device
	Devices         uint32 // of the volume

	counted uint32 // physical extents that the header of the device counts
}

// member is a partition that is a part of a volume.
type member struct {
	device int // among those given
	part   Partition
	lvm    LVM
	pes    []physicalExtent
}

// physicalExtent is a range of a member that is a range of the volume, in bytes.
type physicalExtent struct{ physical, logical, length int64 }

// readLVM reads the LVM's structures of a partition.
func readLVM(d *Device, device int, p Partition) (*member, error) {
	r := &lvmReader{d: d, part: p, m: &member{device: device, part: p}}
	if err := r.header(); err != nil {
		return nil, err
	}
	if err := r.volumeEntry(); err != nil {
		return nil, err
	}
	if err := r.extents(); err != nil {
		return nil, err
	}
	return r.m, nil
}

type lvmReader struct {
	d    *Device
	part Partition
	m    *member

	align    int64 // of what LVM6 has
	maps     uint32
	extended uint64 // offset of more metadata; 0: none
	count    uint32 // of PEs on the device
}

// read fills p from an offset in the partition.
func (r *lvmReader) read(p []byte, off int64, field string) error {
	if off < 0 || off > r.part.SizeBytes || int64(len(p)) > r.part.SizeBytes-off {
		return r.bad(disk.ErrTruncated, field, off, "%d bytes are expected there, the partition has %d", len(p), r.part.SizeBytes)
	}
	return r.d.readFull(p, r.part.OffsetBytes+off, field)
}

func (r *lvmReader) bad(kind error, field string, off int64, format string, args ...any) error {
	return r.d.fail(kind, "LVM "+field, r.part.OffsetBytes+off, format, args...)
}

func (r *lvmReader) header() error {
	h := make(fields, lvmHeaderLen)
	if err := r.read(h, lvmHeaderAt, "device header"); err != nil {
		return err
	}
	l := &r.m.lvm
	l.MajorVersion, l.MinorVersion = h.u32(0x04), h.u32(0x08)
	switch {
	case h.u32(0) != lvmMagic:
		return r.bad(disk.ErrUnsupported, "device header", lvmHeaderAt, "magic %08x: a partition for VMFS without an LVM is one of VMFS-1 or VMFS-2 of ESX Server 1 and 2, or damaged. "+
			"Export its disks on such a host (vmkfstools -e), or have ESX 3 upgrade it", h.u32(0))
	case l.MajorVersion < 3 || l.MajorVersion > 6:
		return r.bad(disk.ErrUnsupported, "major version", lvmHeaderAt+4, "is %d, 3 to 6 can be read", l.MajorVersion)
	case h.u32(0x5A) != disk.SectorSize:
		return r.bad(disk.ErrUnsupported, "disk block size", lvmHeaderAt+0x5A, "is %d", h.u32(0x5A))
	}
	var err error
	if l.Disk, err = parseDiskID(h[0x0C:][:diskIDLen]); err != nil {
		l.Disk = DiskID{} // it is told, and never used
	}
	l.SizeBytes, l.DataOffset = h.u64(0x5E), h.u64(0x7A)
	l.Device, l.LockedBy = h.uuid(0x82), h.uuid(0xA2)
	r.count, r.maps, r.extended, r.align = h.u32(0x6A), max(h.u32(0xBE), 1), h.u64(0xC2), disk.SectorSize
	l.counted = r.count
	if l.MajorVersion == 6 {
		a := h.u32(0xCA)
		if !isPowerOf2(uint64(a)) || a < disk.SectorSize || a > 64<<10 {
			return r.bad(disk.ErrCorrupt, "metadata alignment", lvmHeaderAt+0xCA, "is %d", a)
		}
		r.align, r.count = int64(a), max(r.count, h.u32(0xCE))
	}
	if r.count == 0 || r.count > maxPEs {
		return r.bad(disk.ErrCorrupt, "number of physical extents", lvmHeaderAt+0x6A, "is %d", r.count)
	}
	return nil
}

func (r *lvmReader) volumeEntry() error {
	at := lvmHeaderAt + r.align
	e := make(fields, lvmEntryLen)
	if err := r.read(e, at, "volume table"); err != nil {
		return err
	}
	l := &r.m.lvm
	l.VolumeSizeBytes, l.Generation, l.State = e.u64(0x00), e.u64(0x08), e.u32(0x10)
	l.Volume, l.SnapshotID = e.uuid(0x54), e.u32(0x64)
	l.PEs, l.FirstPE, l.LastPE, l.Devices = e.u32(0x74), e.u64(0x78), e.u64(0x80), e.u32(0x90)
	bad := func(field string, off int64, format string, args ...any) error {
		return r.bad(disk.ErrCorrupt, "volume table: "+field, at+off, format, args...)
	}
	switch {
	case l.State == 0 || l.State > 3:
		return bad("state", 0x10, "is %d", l.State)
	case l.VolumeSizeBytes == 0 || l.VolumeSizeBytes > maxVolumeBytes:
		return bad("size", 0, "is %d bytes", l.VolumeSizeBytes)
	case l.Devices == 0 || l.Devices > maxDevices:
		return bad("number of devices", 0x90, "is %d", l.Devices)
	case l.LastPE < l.FirstPE || l.LastPE-l.FirstPE+1 != uint64(l.PEs) || l.LastPE >= maxPEs*maxDevices:
		return bad("physical extents", 0x74, "are %d, numbered %d to %d", l.PEs, l.FirstPE, l.LastPE)
	}
	return nil
}

// maxDevices is how many a volume can have, maxVolumeBytes how large it can be:
// twice what any product allows.
const (
	maxDevices     = 32
	maxVolumeBytes = 128 << 40
)

// extents reads the tables of physical extents.
func (r *lvmReader) extents() error {
	bitmapBytes := max(r.align, 1024)
	first := lvmHeaderAt + r.align + 0x80000 // of the maps, and as far from the start of other regions
	region, left := int64(lvmHeaderAt), r.maps
	index := uint32(0)
	for regions := 0; index < r.count; regions++ {
		if regions == maxPERegions {
			return r.bad(disk.ErrCorrupt, "extended metadata", region, "has more than %d regions", maxPERegions)
		}
		for i := range int64(min(left, peMapsAtOnce)) {
			at := region + first - lvmHeaderAt + i*(bitmapBytes+peTableEntries*peEntryLen) + bitmapBytes
			n := min(r.count-index, peTableEntries)
			if err := r.table(at, index, n); err != nil {
				return err
			}
			index += n
		}
		if index == r.count {
			break
		}
		next, n, err := r.nextRegion(region)
		if err != nil {
			return err
		}
		if next == 0 { // LVM6 may count what has no entry
			break
		}
		region, left = next, n
	}
	if len(r.m.pes) != int(r.m.lvm.PEs) {
		return r.bad(disk.ErrCorrupt, "physical extents", lvmHeaderAt, "%d are in use, the volume table says %d", len(r.m.pes), r.m.lvm.PEs)
	}
	return nil
}

// nextRegion finds the metadata behind that of a region, 0 if there is none.
func (r *lvmReader) nextRegion(region int64) (int64, uint32, error) {
	next := r.extended
	if region != lvmHeaderAt {
		var b [24]byte
		if err := r.read(b[:], region, "extended metadata"); err != nil {
			return 0, 0, err
		}
		next = fields(b[:]).u64(16)
	}
	if next == 0 {
		return 0, 0, nil
	}
	if next <= uint64(region) || next >= uint64(r.part.SizeBytes) {
		return 0, 0, r.bad(disk.ErrCorrupt, "extended metadata", region, "%d physical extents are not in the tables, and more metadata is at %d", r.count, next)
	}
	h := make(fields, 24)
	if err := r.read(h, int64(next), "extended metadata"); err != nil {
		return 0, 0, err
	}
	if h.u32(0) != lvmMagic {
		return 0, 0, r.bad(disk.ErrCorrupt, "extended metadata", int64(next), "magic %08x", h.u32(0))
	}
	return int64(next), h.u32(4), nil
}

// table reads n entries of a table; the first has the given index on the device.
func (r *lvmReader) table(at int64, index, n uint32) error {
	b := make(fields, int(n)*peEntryLen)
	if err := r.read(b, at, "table of physical extents"); err != nil {
		return err
	}
	for i := range int(n) {
		e := b[i*peEntryLen:][:peEntryLen]
		if e.u8(0) == 0 {
			continue
		}
		p, l, length := e.u64(0x09), e.u64(0x11), e.u64(0x19)
		size := uint64(r.part.SizeBytes)
		if length == 0 || length%disk.SectorSize != 0 || p%disk.SectorSize != 0 || l%disk.SectorSize != 0 ||
			p > size || length > size-p || l > r.m.lvm.VolumeSizeBytes || length > r.m.lvm.VolumeSizeBytes-l {
			return r.bad(disk.ErrCorrupt, fmt.Sprintf("physical extent %d", index+uint32(i)), at+int64(i)*peEntryLen,
				"has %d bytes at %d of the partition and %d of the volume; these have %d and %d", length, p, l, size, r.m.lvm.VolumeSizeBytes)
		}
		r.m.pes = append(r.m.pes, physicalExtent{physical: int64(p), logical: int64(l), length: int64(length)})
	}
	return nil
}
