// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"fmt"

	"github.com/vmstream/vmstream/disk"
)

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
