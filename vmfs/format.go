// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// ErrInUse says that a volume, or a device, is in use, or may be.
var ErrInUse = errors.New("in use")

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

// plan is a volume that is to be made.
type plan struct {
	o FormatOptions
	m *medium
	h *Header

	all    []*newTable // in the order of their blocks
	fdc    *newTable
	fbb    *newTable
	sbc    *newTable
	root   uint64 // its file block
	blocks uint64 // file blocks that are in use
	now    time.Time
}

// newTable is a system file with resources.
type newTable struct {
	resources
	number uint64 // of its descriptor
	lock   uint32
	first  uint64 // file block
	used   uint64 // resources, the first ones
}

func newPlan(devices []WriteDevice, o FormatOptions) (*plan, error) {
	invalid := func(format string, args ...any) (*plan, error) {
		return nil, fmt.Errorf("VMFS: %s: %w", fmt.Sprintf(format, args...), disk.ErrUnsupported)
	}
	if o.Generation == 0 {
		o.Generation = VMFS5
	}
	if o.BlockBytes == 0 {
		o.BlockBytes = 1 << 20
	}
	switch {
	case o.Generation != VMFS3 && o.Generation != VMFS5:
		return invalid("%v cannot be made, its structures are not public", o.Generation)
	case !isPowerOf2(uint64(o.BlockBytes)) || o.BlockBytes < 1<<20 || o.BlockBytes > 8<<20 || o.Generation == VMFS5 && o.BlockBytes != 1<<20:
		return invalid("%v has no file blocks of %d bytes", o.Generation, o.BlockBytes)
	case len(o.Label) > MaxLabelBytes || strings.ContainsAny(o.Label, "/\x00"):
		return invalid("%q is no label", o.Label)
	case len(devices) == 0 || len(devices) > maxDevices:
		return invalid("%d devices, a volume has 1 to %d", len(devices), maxDevices)
	}
	if o.Time.IsZero() {
		o.Time = time.Now()
	}
	for _, id := range []*UUID{&o.Volume, &o.UUID} {
		if id.IsZero() {
			*id = newUUID(o.Time)
		}
	}
	for len(o.Devices) < len(devices) {
		o.Devices = append(o.Devices, newUUID(o.Time))
	}
	v := &volume{devices: readers(devices)}
	next := uint64(0)
	for i, d := range devices {
		n := uint64(max(d.SizeBytes-dataAt, 0)) / peBytes
		if n == 0 || n > peTableEntries*peMapsAtOnce {
			return invalid("%s has %d bytes, a device has %d to %d", d.Name, d.SizeBytes, int64(dataAt+peBytes), int64(dataAt+peBytes*peTableEntries*peMapsAtOnce))
		}
		m := &member{device: i, part: Partition{SizeBytes: d.SizeBytes}}
		m.lvm = LVM{Device: o.Devices[i], FirstPE: next, LastPE: next + n - 1, PEs: uint32(n)}
		v.members = append(v.members, m)
		v.ranges = append(v.ranges, volumeRange{logical: int64(next) * peBytes, length: int64(n) * peBytes, device: i, offset: dataAt})
		next += n
	}
	v.size = int64(next) * peBytes
	p := &plan{o: o, m: &medium{v, devices}, now: o.Time.UTC()}
	p.h = &Header{
		Generation: o.Generation, MajorVersion: 4, MinorVersion: 31, UUID: o.UUID, Label: o.Label, Config: 2, BlockBytes: o.BlockBytes,
		SubBlockBytes: 64 << 10, LVM: o.Volume, MetadataBytes: disk.SectorSize,
	}
	if o.Generation == VMFS5 {
		p.h.MajorVersion, p.h.MinorVersion, p.h.Config, p.h.SubBlockBytes = 14, 61, 2|4, 8<<10
	}
	return p, p.layOut()
}

// newUUID makes one as hosts do: a time, and what tells it from others.
func newUUID(t time.Time) UUID {
	var u UUID
	_, _ = rand.Read(u[:])
	binary.LittleEndian.PutUint32(u[:], uint32(t.Unix()))
	u[10] = u[10]&^1 | 2 // no hardware has such an address
	return u
}

// Most resources of system files that have no pointer blocks, as those of hosts.
const (
	maxFormatFiles     = 128000
	maxFormatPointers  = 64000
	maxFormatSubBlocks = 30720 // VMFS-5
	maxFormatSub3      = 3584  // VMFS-3
)

// layOut decides how many resources there are, and in which blocks.
func (p *plan) layOut() error {
	size, bs := p.m.vol.size, p.o.BlockBytes
	nBlocks := uint64(size / bs)
	gib := uint64(size >> 30)
	table := func(name string, number uint64, lock uint32, perCluster uint64, bytes int64, total uint64) *newTable {
		t := &newTable{number: number, lock: lock}
		t.resources = resources{name: name, perCluster: perCluster, perGroup: 32, offset: 0x10000, bytes: bytes, total: total, headerBytes: 1024}
		t.groupBytes = t.perGroup * (t.headerBytes + perCluster*uint64(bytes))
		p.all = append(p.all, t)
		return t
	}
	p.fdc = table(".fdc.sf", numberFDC, lockTypeFDC, 32, p.h.fdBytes(), min(1024+gib*32, maxFormatFiles))
	p.fbb = table(".fbb.sf", numberFBB, lockTypeFBB, 200, 0, nBlocks)
	table(".pbc.sf", numberPBC, lockTypePBC, 16, 4096, min(64+nBlocks/512, maxFormatPointers))
	subs, perCluster := min(1024+gib*16, maxFormatSub3), uint64(16)
	if p.o.Generation == VMFS5 {
		subs, perCluster = min(2048+gib*64, maxFormatSubBlocks), 64
	}
	p.sbc = table(".sbc.sf", numberSBC, lockTypeSBC, perCluster, p.h.SubBlockBytes, subs)
	p.fdc.used = 6
	if p.o.Generation == VMFS5 {
		table(".pb2.sf", numberPB2, lockTypePB2, 16, 4096, 256)
		p.fdc.used, p.sbc.used = 8, 1
	}
	next := uint64(p.h.fdcStart() / bs)
	for _, t := range p.all {
		t.first = next
		n := (uint64(t.fileBytes()) + uint64(bs) - 1) / uint64(bs)
		if n > uint64(p.h.fdPlaces().arrayLen) {
			return fmt.Errorf("VMFS: a volume of %d bytes with blocks of %d needs a %s of %d bytes, which is too long: take larger blocks, or a smaller volume: %w", size, bs, t.name, t.fileBytes(), disk.ErrUnsupported)
		}
		next += n
		if t == p.fdc {
			p.root = next
			next++
		}
	}
	p.blocks, p.fbb.used = next, next
	if first := p.m.vol.ranges[0].length; int64(next)*bs > first {
		return fmt.Errorf("VMFS: the system files of a volume of %d bytes need %d bytes on the first device, %s, which has %d: name a larger one first: %w", size, int64(next)*bs, p.m.to[0].Name, first, ErrFull)
	}
	return nil
}

// groups is how many groups of clusters a table has, clusters how many clusters.
func (t *newTable) clusters() uint64 { return (t.total + t.perCluster - 1) / t.perCluster }
func (t *newTable) groups() uint64   { return (t.clusters() + t.perGroup - 1) / t.perGroup }

// fileBytes is the length of the file, which ends behind the last resource.
func (t *newTable) fileBytes() int64 {
	full := t.groups() - 1
	rest := t.total - full*t.perGroup*t.perCluster
	return int64(t.offset + full*t.groupBytes + t.perGroup*t.headerBytes + rest*uint64(t.bytes))
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

// extents writes the tables of physical extents, and what else is there but the headers.
func (p *plan) extents() error {
	for i, m := range p.m.vol.members {
		d := p.m.to[i]
		write := func(b []byte, at int64) error {
			if _, err := d.RW.WriteAt(b, at); err != nil {
				return fmt.Errorf("%s: %w", d.Name, err)
			}
			return nil
		}
		if err := write(p.volumeEntry(m), lvmHeaderAt+disk.SectorSize); err != nil {
			return err
		}
		names := make(fields, maxDevices*deviceName)
		if i == 0 && p.o.Generation == VMFS5 {
			for k := range p.m.to {
				copy(names[k*deviceName:], p.o.Devices[k].String())
			}
		}
		if err := write(names, deviceNames); err != nil {
			return err
		}
		for first := uint32(0); first < m.lvm.PEs; first += peTableEntries {
			b := p.peMap(m, first)
			if err := write(b, peMapsAt+int64(first/peTableEntries)*peMapBytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// peMap makes a bitmap and the table behind it.
func (p *plan) peMap(m *member, first uint32) fields {
	b := make(fields, peMapBytes)
	for k := range min(m.lvm.PEs-first, peTableEntries) {
		b[k/8] |= 1 << (k % 8)
		e := b[1024+k*peEntryLen:]
		n := int64(first + k)
		e[0] = 1
		e.put32(0x01, uint32(n))
		e.put64(0x09, uint64(dataAt+n*peBytes))
		e.put64(0x11, (m.lvm.FirstPE+uint64(n))*peBytes)
		e.put64(0x19, peBytes)
	}
	return b
}

func (p *plan) volumeEntry(m *member) fields {
	b := make(fields, disk.SectorSize)
	pes := uint64(p.m.vol.size / peBytes)
	b.put64(0x00, uint64(p.m.vol.size))
	b.put64(0x08, pes+uint64(len(p.m.to)))
	b.put32(0x10, 1)
	copy(b[0x14:], p.o.Volume.String())
	b.putUUID(0x54, p.o.Volume)
	b.put32(0x64, 1)
	b.put64(0x68, uint64(p.now.UnixMicro()))
	b.put32(0x74, m.lvm.PEs)
	b.put64(0x78, m.lvm.FirstPE)
	b.put64(0x80, m.lvm.LastPE)
	b.put64(0x88, uint64(p.now.UnixMicro()))
	b.put32(0x90, uint32(len(p.m.to)))
	return b
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

// tables writes the resource files: headers, and the headers of the clusters.
func (p *plan) tables() error {
	for _, t := range p.all {
		base := int64(t.first) * p.o.BlockBytes
		n := t.fileBytes()
		if t == p.sbc { // what sub-blocks have is nobody's
			n = int64(t.offset)
		}
		if err := p.m.zero(base, n); err != nil {
			return err
		}
		if err := p.m.write(t.header(), base); err != nil {
			return err
		}
		for g := range t.groups() {
			at := base + int64(t.offset+g*t.groupBytes)
			if err := p.m.write(t.group(g, at), at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *newTable) header() fields {
	b := make(fields, resourceHeaderLen)
	for i, v := range []uint64{t.perCluster, t.perGroup, t.offset, uint64(t.bytes), t.groupBytes, t.total, t.groups()} {
		b.put32(i*4, uint32(v))
	}
	return b
}

// group makes the headers of a group's clusters; at is where they lie in the volume.
func (t *newTable) group(g uint64, at int64) fields {
	b := make(fields, t.perGroup*t.headerBytes)
	for i := range t.perGroup {
		n := g*t.perGroup + i
		if n >= t.clusters() {
			break
		}
		c := b[i*t.headerBytes:]
		c.putLock(t.lock, at+int64(i*t.headerBytes))
		size := min(t.perCluster, t.total-n*t.perCluster)
		used := min(max(t.used, n*t.perCluster)-n*t.perCluster, size)
		m := c[clusterMeta:]
		m.put32(0, uint32(n))
		m.put32(4, uint32(size))
		m.put32(8, uint32(size-used))
		m.put32(12, uint32(used%t.perCluster))
		for k := used; k < size; k++ {
			m[clusterBitmap+k/8] |= 1 << (k % 8)
		}
	}
	return b
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
		return p.m.write(p.h.newDescriptor(n, 0), s.Offset)
	}
	files := map[uint64]*inode{5: p.systemFile(0, uint64(p.h.fdcStart()/p.o.BlockBytes), p.h.fdcStart())}
	names := map[uint64]string{5: ".vh.sf"}
	for _, t := range p.all {
		files[t.number] = p.systemFile(t.first, (uint64(t.fileBytes())+uint64(p.o.BlockBytes)-1)/uint64(p.o.BlockBytes), t.fileBytes())
		names[t.number] = t.name
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

func (p *plan) deviceHeader(m *member, size int64) fields {
	b := make(fields, disk.SectorSize)
	major, maps := uint32(3), uint32(0)
	if p.o.Generation == VMFS5 {
		major = 5
	}
	if m.lvm.PEs > peTableEntries || major == 5 {
		maps = (m.lvm.PEs + peTableEntries - 1) / peTableEntries
	}
	b.put32(0x00, lvmMagic)
	b.put32(0x04, major)
	b.put32(0x08, 0x10)
	id := "vmstream"
	b[0x0D], b[0x11] = uint8(len(id)), 3
	copy(b[0x0C+6:], fmt.Sprintf("%-8s%-16s%-4s%s", "VMSTREAM", "IMAGE", "1.0", id))
	b.put32(0x5A, disk.SectorSize)
	b.put64(0x5E, uint64(size))
	b.put32(0x66, 1)
	b.put32(0x6A, m.lvm.PEs)
	b.put32(0x6E, m.lvm.PEs-1)
	b.put64(0x72, uint64(m.lvm.PEs)+2)
	b.put64(0x7A, dataAt)
	b.putUUID(0x82, m.lvm.Device)
	b.put64(0x92, uint64(p.now.UnixMicro()))
	b.put64(0x9A, uint64(p.now.UnixMicro()))
	b.put32(0xBE, maps)
	return b
}
