// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// volume is a logical volume: ranges of devices, put together.
type volume struct {
	devices []Device
	members []*member // in the order of the volume; none without an LVM
	size    int64
	ranges  []volumeRange // ascending; there are gaps where a device is missing
	missing bool
}

// volumeRange is a range of the volume on a device, in bytes.
type volumeRange struct {
	logical, length int64
	device          int
	offset          int64 // in the device
}

// find returns the range that has a byte of the volume, and where on its device that is.
func (v *volume) find(off int64) (*volumeRange, int64, bool) {
	i, found := slices.BinarySearchFunc(v.ranges, off, func(r volumeRange, off int64) int { return cmp.Compare(r.logical, off) })
	if !found {
		i--
	}
	if i < 0 || off >= v.ranges[i].logical+v.ranges[i].length {
		return nil, 0, false
	}
	r := &v.ranges[i]
	return r, r.offset + off - r.logical, true
}

// forget has what is read next come from the devices, as far as they can be told to: hosts
// change them, and the kernel may have kept what was there.
func (v *volume) forget(off, n int64) {
	for n > 0 {
		r, at, ok := v.find(off)
		if !ok {
			return
		}
		part := min(n, r.logical+r.length-off)
		if d, ok := v.devices[r.device].R.(interface{ Forget(off, n int64) }); ok {
			d.Forget(at, part)
		}
		off, n = off+part, n-part
	}
}

// readFull fills p from an offset in the volume.
func (v *volume) readFull(p []byte, off int64, field string) error {
	if off < 0 || off > v.size || int64(len(p)) > v.size-off {
		return v.corrupt(field, -1, "%d bytes at %d are behind the end of the volume, which has %d", len(p), off, v.size)
	}
	for len(p) > 0 {
		r, at, ok := v.find(off)
		if !ok {
			return fmt.Errorf("VMFS: %s at %d of the volume: %w", field, off, ErrMissingDevice)
		}
		n := min(int64(len(p)), r.logical+r.length-off)
		if err := v.devices[r.device].readFull(p[:n], at, field); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// place returns how much of n bytes at off is in one piece on a device, and where.
func (v *volume) place(off, n int64) (device int, at, length int64, err error) {
	r, at, ok := v.find(off)
	if !ok {
		return 0, 0, 0, fmt.Errorf("VMFS: byte %d of the volume: %w", off, ErrMissingDevice)
	}
	return r.device, at, min(n, r.logical+r.length-off), nil
}

// Options say which volume is opened, and how.
type Options struct {
	// Volume is the label or the UUID of the volume to open if there are several.
	Volume string
	// AllowMissing opens a volume of which devices are missing, but not the first:
	// what lies on them gives ErrMissingDevice.
	AllowMissing bool
}

// scan finds all members on the devices.
func scan(devices []Device) (found []*member, bare []Partition, bareOn []int, err error) {
	var errs []error
	for i := range devices {
		d := &devices[i]
		parts, err := d.partitions()
		if err != nil {
			return nil, nil, nil, err
		}
		for _, p := range parts {
			if !d.hasMagic(p.OffsetBytes+lvmHeaderAt, lvmMagic) && d.hasMagic(p.OffsetBytes+headerAt, fsMagic) {
				bare, bareOn = append(bare, p), append(bareOn, i)
				continue
			}
			m, err := readLVM(d, i, p)
			if err != nil {
				if p.Table == "" && !d.hasMagic(lvmHeaderAt, lvmMagic) {
					err = d.fail(ErrNoVolume, "", -1, "there is neither a partition table with VMFS nor a volume")
				}
				errs = append(errs, err)
				continue
			}
			found = append(found, m)
		}
		if len(parts) == 0 {
			errs = append(errs, d.fail(ErrNoVolume, "", -1, "no partition is of VMFS"))
		}
	}
	if len(errs) > 0 { // also if others are good: a device that was given is a part of what is wanted
		return nil, nil, nil, errors.Join(errs...)
	}
	return found, bare, bareOn, nil
}

// volumeKey tells volumes apart.
type volumeKey struct {
	id       UUID
	snapshot uint32
}

// assemble puts members of one volume together.
func assemble(devices []Device, all []*member, allowMissing bool) (*volume, error) {
	slices.SortFunc(all, func(a, b *member) int { return cmp.Compare(a.lvm.FirstPE, b.lvm.FirstPE) })
	first := &all[0].lvm
	v := &volume{devices: devices, members: all, size: int64(first.VolumeSizeBytes)}
	next := uint64(0)
	for _, m := range all {
		l := &m.lvm
		d := &devices[m.device]
		at := m.part.OffsetBytes + lvmHeaderAt
		switch {
		case l.VolumeSizeBytes != first.VolumeSizeBytes || l.Generation != first.Generation || l.Devices != first.Devices:
			return nil, d.fail(disk.ErrMismatch, "LVM volume table", at, "size %d, generation %d and %d devices differ from those of %s: %d, %d, %d",
				l.VolumeSizeBytes, l.Generation, l.Devices, devices[all[0].device].Name, first.VolumeSizeBytes, first.Generation, first.Devices)
		case l.FirstPE < next:
			return nil, d.fail(disk.ErrMismatch, "LVM volume table", at, "its physical extents, from %d on, are those of another device, too: the same device was given twice, or a copy of it", l.FirstPE)
		}
		v.missing = v.missing || l.FirstPE != next
		next = l.LastPE + 1
	}
	v.missing = v.missing || len(all) != int(first.Devices)
	if v.missing && (!allowMissing || first.FirstPE != 0) {
		return nil, fmt.Errorf("VMFS: volume %s has %d devices, there are %s: %w", first.Volume, first.Devices, v.names(), ErrMissingDevice)
	}
	return v, v.layOut()
}

func (v *volume) names() string {
	var names []string
	for _, m := range v.members {
		names = append(names, fmt.Sprintf("%s (physical extents %d to %d)", v.devices[m.device].Name, m.lvm.FirstPE, m.lvm.LastPE))
	}
	return strings.Join(names, ", ")
}

// layOut makes the ranges from the members' extents.
func (v *volume) layOut() error {
	for _, m := range v.members {
		for _, p := range m.pes {
			v.ranges = append(v.ranges, volumeRange{logical: p.logical, length: p.length, device: m.device, offset: m.part.OffsetBytes + p.physical})
		}
	}
	slices.SortFunc(v.ranges, func(a, b volumeRange) int { return cmp.Compare(a.logical, b.logical) })
	end, joined := int64(0), v.ranges[:0]
	for _, r := range v.ranges {
		switch {
		case r.logical < end:
			return v.devices[r.device].fail(disk.ErrCorrupt, "LVM physical extents", r.offset, "two lie at %d of the volume", r.logical)
		case r.logical > end && !v.missing:
			return v.devices[r.device].fail(disk.ErrCorrupt, "LVM physical extents", -1, "none lies at %d of the volume", end)
		}
		end = r.logical + r.length
		if k := len(joined) - 1; k >= 0 {
			last := &joined[k]
			if last.device == r.device && last.logical+last.length == r.logical && last.offset+last.length == r.offset {
				last.length += r.length
				continue
			}
		}
		joined = append(joined, r)
	}
	v.ranges = joined
	if end != v.size && !v.missing {
		return fmt.Errorf("VMFS: volume %s has %d bytes, its physical extents end at %d: %w", v.members[0].lvm.Volume, v.size, end, disk.ErrCorrupt)
	}
	return nil
}

// bareVolume is a file system without an LVM.
func bareVolume(devices []Device, device int, p Partition) *volume {
	return &volume{
		devices: devices, size: p.SizeBytes,
		ranges: []volumeRange{{length: p.SizeBytes, device: device, offset: p.OffsetBytes}},
	}
}

var _ io.ReaderAt = (*File)(nil)
