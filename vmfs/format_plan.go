// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// plan is a volume that is to be made.
type plan struct {
	o FormatOptions
	m *medium
	h *Header

	all    []*newTable // in the order of their blocks
	fdc    *newTable
	fbb    *newTable
	pbc    *newTable
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

// Most resources of system files, as those of hosts.
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
	p.pbc = table(".pbc.sf", numberPBC, lockTypePBC, 16, 4096, min(64+nBlocks/512, maxFormatPointers))
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
		if direct := uint64(p.h.fdPlaces().arrayLen); t == p.fbb && n > direct {
			p.pbc.used = (n + pointersOf4K - 1) / pointersOf4K
		}
		if n > uint64(p.h.fdPlaces().arrayLen) && (t != p.fbb || p.pbc.used > p.pbc.perCluster) {
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

// pointersOf4K is how many addresses a pointer block has.
const pointersOf4K = 4096 / 4

// groups is how many groups of clusters a table has, clusters how many clusters.
func (t *newTable) clusters() uint64 { return (t.total + t.perCluster - 1) / t.perCluster }
func (t *newTable) groups() uint64   { return (t.clusters() + t.perGroup - 1) / t.perGroup }

// fileBytes is the length of the file, which ends behind the last resource.
func (t *newTable) fileBytes() int64 {
	full := t.groups() - 1
	rest := t.total - full*t.perGroup*t.perCluster
	return int64(t.offset + full*t.groupBytes + t.perGroup*t.headerBytes + rest*uint64(t.bytes))
}
