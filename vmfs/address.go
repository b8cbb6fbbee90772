// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

// address is that of a block, as it stands in a file descriptor or a pointer block: 32
// bits, or 64 on VMFS-6. Zero is nothing at all.
type address uint64

// kind is what an address is of: its low three bits.
type kind uint8

const (
	kindNone       kind = 0
	kindBlock      kind = 1
	kindSubBlock   kind = 2
	kindPointers   kind = 3
	kindDescriptor kind = 4
	kindPointers2  kind = 5
	kindJournal    kind = 6
	kindLarge      kind = 7 // VMFS-6
)

func (k kind) String() string {
	return [...]string{"no address", "file block", "sub-block", "pointer block", "file descriptor", "secondary pointer block", "journal block", "large file block"}[k]
}

func (a address) kind() kind { return kind(a & 7) }

// resource is one of a resource file: which cluster, and which in that.
type resourceID struct{ cluster, index uint64 }

// resource decodes the address of a sub-block or a pointer block.
func (h *Header) resource(a address) resourceID {
	if h.wide() {
		return resourceID{uint64(a>>6) & (1<<36 - 1), uint64(a >> 56)}
	}
	r := resourceID{uint64(a>>6) & (1<<22 - 1), uint64(a>>28) & 15}
	if a.kind() == kindSubBlock { // two more bits where sub-blocks are many
		r.index |= uint64(a>>3) & 3 << 4
	}
	return r
}

// descriptor decodes the address of a file descriptor, which has 32 bits everywhere.
func descriptorID(a uint32) resourceID {
	return resourceID{uint64(a>>6) & (1<<16 - 1), uint64(a >> 22)}
}

func descriptorAddress(r resourceID) uint32 {
	return uint32(kindDescriptor) | uint32(r.cluster)<<6 | uint32(r.index)<<22
}

// block decodes the address of a file block or a large one: where it is in the volume,
// how long it is, and if ESX has yet to zero it.
func (h *Header) block(a address) (offset, length int64, tbz bool) {
	switch {
	case !h.wide():
		return int64(a>>6&(1<<26-1)) << h.blockBits(), h.BlockBytes, a&0x20 != 0
	case a.kind() == kindLarge:
		return int64(a>>15&(1<<31-1)) << (h.blockBits() + h.LargeBlockBits), h.largeBlockBytes(), a>>7&0xFF != 0
	}
	n := int64(a>>15&(1<<31-1))<<h.LargeBlockBits + int64(a>>51)
	return n << h.blockBits(), h.BlockBytes, a>>7&0xFF != 0
}
