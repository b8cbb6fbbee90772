// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// ErrInUse says that a volume, or a device, is in use, or may be. It is [disk.ErrInUse].
var ErrInUse = disk.ErrInUse

// ErrFull says that a volume has no room.
var ErrFull = errors.New("the volume is full")

// FormatOptions say what volume Format makes.
type FormatOptions struct {
	Generation Generation // VMFS3, or VMFS5, which is what 0 means
	BlockBytes int64      // of a file block: 1, 2, 4 or 8 MiB on VMFS-3; 0 and VMFS-5: 1 MiB
	Label      string     // at most 127 bytes
	// Force formats devices that have a volume, or anything else, already. Devices of a
	// volume with heartbeats in use are refused all the same, unless Images is set.
	Force bool
	// Images says that the devices are images, which no host can use.
	Images bool
	// Time is the volume's; zero means now. The same options with the same time and the
	// same UUIDs make the same volume.
	Time time.Time
	// UUID is that of the file system, Volume that of the LVM volume, Devices those of
	// the devices. Those that are missing are made up.
	UUID, Volume UUID
	Devices      []UUID
}

// MaxLabelBytes is the length of the longest label.
const MaxLabelBytes = 127

const (
	peBytes      = 256 << 20
	peMapBytes   = 1024 + peTableEntries*peEntryLen
	peMapsAt     = 0x180200
	dataAt       = 0x1100000
	deviceNames  = 0x17E200
	deviceName   = 256
	heartbeatLen = 512
	slots        = 2048
)

// Format makes an empty volume of VMFS-3 or VMFS-5 on devices, which are the volume's in
// this order, without partition tables. What the devices had is lost, also if Format
// fails on the way; headers come last, so that what is not complete is no volume. It
// fails with ErrInUse for devices that hold something, if it is not forced. No ESX host has been asked if it accepts such volumes.
func Format(ctx context.Context, devices []WriteDevice, o FormatOptions) error {
	p, err := newPlan(devices, o)
	if err != nil {
		return err
	}
	if err := p.mayFormat(); err != nil {
		return err
	}
	for _, step := range []func() error{p.wipe, p.extents, p.volumeHeader, p.tables, p.files, p.headers} {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mayFormat refuses devices that have something, or that a host may use.
func (p *plan) mayFormat() error {
	for i := range p.m.vol.devices {
		d := &p.m.vol.devices[i]
		start := make([]byte, 64<<10)
		if err := d.readFull(start, 0, "beginning"); err != nil {
			return err
		}
		parts, err := d.partitions()
		vmfs := err == nil && len(parts) > 0 && (d.hasMagic(parts[0].OffsetBytes+lvmHeaderAt, lvmMagic) || d.hasMagic(parts[0].OffsetBytes+headerAt, fsMagic))
		switch {
		case vmfs && !p.o.Force:
			return fmt.Errorf("%s has a VMFS volume, or a part of one: %w", d.Name, ErrInUse)
		case !disk.IsZero(start) && !p.o.Force:
			return fmt.Errorf("%s is not empty: %w", d.Name, ErrInUse)
		case vmfs && !p.o.Images:
			if err := p.noHosts(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// noHosts refuses a device of a volume that a host uses, and one of which that cannot
// be told.
func (p *plan) noHosts(device int) error {
	f, err := Open(p.m.vol.devices[device:device+1], Options{})
	if errors.Is(err, ErrMissingDevice) {
		f, err = Open(p.m.vol.devices, Options{})
	}
	name := p.m.to[device].Name
	if err != nil {
		return fmt.Errorf("%s is a part of a volume that cannot be opened, so that it is not known if a host uses it: %w (%w)", name, ErrInUse, err)
	}
	return f.refuseInUse(name)
}

// refuseInUse fails if a host uses the volume, or has left it without unmounting.
func (f *FS) refuseInUse(name string) error {
	all, err := f.Heartbeats()
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.InUse {
			return fmt.Errorf("%s: host %v %s uses the volume, or has crashed while it did: %w", name, s.Owner, s.IP, ErrInUse)
		}
	}
	return nil
}

// wipe makes that there is no volume any more.
func (p *plan) wipe() error {
	zero := make([]byte, 4096)
	for _, d := range p.m.to {
		for _, at := range []int64{lvmHeaderAt, headerAt, dataAt + headerAt} {
			if _, err := d.RW.WriteAt(zero, at); err != nil {
				return fmt.Errorf("%s: %w", d.Name, err)
			}
		}
		if _, err := d.RW.WriteAt(zero[:512], 0); err != nil { // a partition table
			return fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	return p.m.sync()
}

// volumeHeader writes the slots of heartbeats, and zeros around.
func (p *plan) volumeHeader() error {
	if err := p.m.zero(0, p.h.fdcStart()); err != nil {
		return err
	}
	b := make(fields, slots*heartbeatLen)
	for i := range slots {
		s := b[i*heartbeatLen:]
		s.put32(0, slotFree)
		s.put64(4, uint64(heartbeatsAt+i*heartbeatLen))
	}
	return p.m.write(b, heartbeatsAt)
}

// descriptorOffset is where a system file's descriptor lies in the volume.
func (p *plan) descriptorOffset(number uint64) int64 {
	return p.h.fdcStart() + int64(p.fdc.offset+p.fdc.perGroup*p.fdc.headerBytes) + int64(number)*p.h.fdBytes()
}

// files writes the descriptors of the system files, and the directories.
func (p *plan) files() error {
	entries := []dirEntry{{Directory, rootAddress, 1, "."}, {Directory, rootAddress, 1, ".."}}
	system := func(number uint64, name string, n *inode) error {
		s := &n.stat
		s.Address, s.Offset, s.Generation = systemAddress(number), p.descriptorOffset(number), 1
		s.stamp(p.now)
		if name != "" {
			entries = append(entries, dirEntry{s.Type, s.Address, 1, name})
		}
		blocks := uint32(0)
		if s.AddrType == zlaPointers {
			blocks = uint32(len(n.layout.addrs))
		}
		return p.m.write(p.h.newDescriptor(n, blocks), s.Offset)
	}
	files := map[uint64]*inode{5: p.systemFile(0, uint64(p.h.fdcStart()/p.o.BlockBytes), p.h.fdcStart())}
	names := map[uint64]string{5: ".vh.sf"}
	for _, t := range p.all {
		files[t.number] = p.systemFile(t.first, (uint64(t.fileBytes())+uint64(p.o.BlockBytes)-1)/uint64(p.o.BlockBytes), t.fileBytes())
		names[t.number] = t.name
	}
	if err := p.pointers(files[numberFBB]); err != nil {
		return err
	}
	for number := uint64(1); number <= numberPB2; number++ {
		if files[number] == nil {
			continue
		}
		if err := system(number, names[number], files[number]); err != nil {
			return err
		}
	}
	if p.o.Generation == VMFS5 {
		const numberSDD = 7
		n := &inode{stat: Stat{Type: System, Links: 1, Mode: 0o40700, SizeBytes: 2 * entryLen, UnitBytes: p.h.SubBlockBytes, Units: 1, AddrType: zlaSubBlocks}}
		n.layout.addrs = []address{resourceID{}.address(kindSubBlock)}
		if err := system(numberSDD, ".sdd.sf", n); err != nil {
			return err
		}
		b := append(encodeEntry(dirEntry{Directory, n.stat.Address, 1, "."}), encodeEntry(dirEntry{Directory, rootAddress, 1, ".."})...)
		at := int64(p.sbc.first)*p.o.BlockBytes + int64(p.sbc.offset+p.sbc.perGroup*p.sbc.headerBytes)
		if err := p.m.zero(at, p.h.SubBlockBytes); err != nil {
			return err
		}
		if err := p.m.write(b, at); err != nil {
			return err
		}
	}
	root := &inode{stat: Stat{Type: Directory, Links: 2, Mode: 0o1755, SizeBytes: int64(len(entries)) * entryLen, UnitBytes: p.o.BlockBytes, Units: 1, AddrType: zlaBlocks}}
	root.layout.addrs = []address{p.h.blockAddress(p.root)}
	if err := p.m.zero(int64(p.root)*p.o.BlockBytes, p.o.BlockBytes); err != nil {
		return err
	}
	var b fields
	for _, e := range entries {
		b = append(b, encodeEntry(e)...)
	}
	if err := p.m.write(b, int64(p.root)*p.o.BlockBytes); err != nil {
		return err
	}
	return system(0, "", root)
}

// pointers puts the addresses of a file that has too many for its descriptor into pointer
// blocks, the first ones.
func (p *plan) pointers(n *inode) error {
	if p.pbc.used == 0 {
		return nil
	}
	all := n.layout.addrs
	n.layout.addrs, n.stat.AddrType = nil, zlaPointers
	for i := range p.pbc.used {
		b := make(fields, pointersOf4K*4)
		for k, a := range all[i*pointersOf4K : min((i+1)*pointersOf4K, uint64(len(all)))] {
			b.put32(k*4, uint32(a))
		}
		at := int64(p.pbc.first)*p.o.BlockBytes + int64(p.pbc.offset+p.pbc.perGroup*p.pbc.headerBytes+i*uint64(p.pbc.bytes))
		if err := p.m.write(b, at); err != nil {
			return err
		}
		n.layout.addrs = append(n.layout.addrs, resourceID{index: i}.address(kindPointers))
	}
	return nil
}

func (p *plan) systemFile(first, n uint64, size int64) *inode {
	i := &inode{stat: Stat{Type: System, Links: 1, Mode: 0o400, SizeBytes: size, UnitBytes: p.o.BlockBytes, Units: n, AddrType: zlaBlocks}}
	for k := range n {
		i.layout.addrs = append(i.layout.addrs, p.h.blockAddress(first+k))
	}
	return i
}

// headers writes what makes a volume of it: that of the file system, then the LVM's.
func (p *plan) headers() error {
	b := make(fields, headerLen)
	h := p.h
	b.put32(0x00, fsMagic)
	b.put32(0x04, h.MajorVersion)
	b[0x08] = h.MinorVersion
	b.putUUID(0x09, h.UUID)
	b.put32(0x19, h.Config)
	copy(b[0x1D:], h.Label)
	b.put32(0x9D, disk.SectorSize)
	b.put64(0xA1, uint64(h.BlockBytes))
	b.put32(0xA9, uint32(p.now.Unix()))
	b.put32(0xAD, 1)
	b.putUUID(0xB1, h.LVM)
	b.put32(0xC1, 1)
	b.put32(0xD1, uint32(p.fdc.offset))
	b.put32(0xD5, uint32(p.fdc.perGroup))
	b.put32(0xD9, uint32(h.SubBlockBytes))
	if h.Generation == VMFS5 {
		b.put64(0xE1, uint64(p.descriptorOffset(numberPB2)))
		b.put32(0xE9, systemAddress(numberPB2))
		b.put64(0x105, uint64(p.descriptorOffset(7)))
		b.put32(0x10D, systemAddress(7))
	}
	if err := p.m.sync(); err != nil {
		return err
	}
	if err := p.m.write(b, headerAt); err != nil {
		return err
	}
	if err := p.m.sync(); err != nil {
		return err
	}
	for i := len(p.m.to) - 1; i >= 0; i-- { // the first one last
		d := p.m.to[i]
		if _, err := d.RW.WriteAt(p.deviceHeader(p.m.vol.members[i], d.SizeBytes), lvmHeaderAt); err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	return p.m.sync()
}
