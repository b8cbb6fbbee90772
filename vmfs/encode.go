// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"math/bits"
	"time"
)

// newDescriptor makes a file descriptor of VMFS-3 or VMFS-5.
func (h *Header) newDescriptor(n *inode, pointerBlocks uint32) fields {
	b := make(fields, h.fdBytes())
	b.putLock(lockTypeFD, n.stat.Offset)
	h.putDescriptor(b, n, pointerBlocks)
	return b
}

// putDescriptor puts what an inode says into a file descriptor, whose lock and other
// fields stay. The pointer blocks of the file are counted in it on VMFS-5.
func (h *Header) putDescriptor(b fields, n *inode, pointerBlocks uint32) {
	s, p := &n.stat, h.fdPlaces()
	m := b[p.meta:]
	for off, v := range map[int]uint32{
		0x00: s.Address, 0x04: s.Generation, 0x08: s.Links, 0x0C: uint32(s.Type), 0x2C: uint32(s.Modified.Unix()), 0x30: uint32(s.Changed.Unix()),
		0x34: uint32(s.Accessed.Unix()), 0x38: s.UID, 0x3C: s.GID, 0x40: s.Mode, 0x44: s.AddrType, 0x48: uint32(s.TBZ),
	} {
		m.put32(off, v)
	}
	m.put64(0x14, uint64(s.SizeBytes))
	m.put64(0x1C, uint64(s.UnitBytes))
	m.put64(0x24, s.Units)
	if h.Generation == VMFS5 {
		m.put32(0x5C, pointerBlocks)
		m.put32(0x64, descriptorSignature)
		m[0x89] = uint8(bits.TrailingZeros64(uint64(s.UnitBytes)))
	}
	for i, a := range n.layout.addrs {
		b.put32(int(p.array)+4*i, uint32(a))
	}
}

const descriptorSignature = 0x66646D64

func (h *Header) blockAddress(n uint64) address { return address(kindBlock) | address(n<<6) }

// address makes that of a sub-block or a pointer block.
func (id resourceID) address(k kind) address {
	a := address(k) | address(id.cluster<<6) | address(id.index&15)<<28
	if k == kindSubBlock {
		a |= address(id.index>>4&3) << 3
	}
	return a
}

const tbzBit = address(0x20)

// encodeEntry makes an entry of a directory.
func encodeEntry(e dirEntry) fields {
	b := make(fields, entryLen)
	b.put32(0, uint32(e.kind))
	b.put32(4, e.addr)
	b.put32(8, e.generation)
	copy(b[entryName:], e.name)
	return b
}

// stamp sets all times.
func (s *Stat) stamp(t time.Time) { s.Modified, s.Changed, s.Accessed = t, t, t }
