// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

const (
	extInodeExtents = 0x80000
	extExtentMagic  = 0xF30A
	extMaxDepth     = 5
)

// inodeMap returns the blocks of an inode in order, 0 for a hole.
func (f *extFS) inodeMap(number uint32) ([]uint64, error) {
	per, size := uint64(le.Uint32(f.b[0x28:])), uint64(128)
	if le.Uint32(f.b[0x4C:]) != 0 {
		size = uint64(le.Uint16(f.b[0x58:]))
	}
	if number == 0 || per == 0 || size < 128 || size > uint64(f.bs) {
		return nil, refuse("inode %d of %d in a group, of %d bytes", number, per, size)
	}
	g, i := uint64(number-1)/per, uint64(number-1)%per
	if g >= f.groups {
		return nil, refuse("inode %d is in no group", number)
	}
	b := make([]byte, 128)
	if err := f.v.read(b, int64(f.wide(f.descriptor(g), 8, 0x28))*f.bs+int64(i*size)); err != nil {
		return nil, err
	}
	length := uint64(le.Uint32(b[4:])) | uint64(le.Uint32(b[0x6C:]))<<32
	blocks := (length + uint64(f.bs) - 1) / uint64(f.bs)
	if blocks > maxJournalBlocks {
		return nil, refuse("its journal has %d bytes", length)
	}
	m := &extMap{f: f, all: make([]uint64, blocks)}
	if le.Uint32(b[0x20:])&extInodeExtents != 0 {
		return m.all, m.extents(b[0x28:0x64], extMaxDepth)
	}
	next := uint64(0)
	for k := range 15 {
		n := uint64(le.Uint32(b[0x28+4*k:]))
		if err := m.indirect(n, max(k-11, 0), &next); err != nil {
			return nil, err
		}
	}
	return m.all, nil
}

// extMap is where the blocks of an inode are.
type extMap struct {
	f     *extFS
	all   []uint64
	reads int
}

func (m *extMap) set(logical, n uint64) error {
	if logical >= uint64(len(m.all)) { // preallocated
		return nil
	}
	if n >= m.f.blocks {
		return refuse("a block of its journal is at %d, it has %d", n, m.f.blocks)
	}
	m.all[logical] = n
	return nil
}

// block reads one of a tree.
func (m *extMap) block(n uint64) ([]byte, error) {
	if m.reads++; m.reads > maxJournalBlocks/64 {
		return nil, refuse("the tree of its journal is too large")
	}
	return m.f.block(n)
}

// extents reads a node of a tree of extents.
func (m *extMap) extents(b []byte, depth int) error {
	if len(b) < 12 || le.Uint16(b) != extExtentMagic || depth < 0 {
		return refuse("the extents of its journal are not readable")
	}
	n, levels := int(le.Uint16(b[2:])), le.Uint16(b[6:])
	if 12+12*n > len(b) || int(levels) > depth {
		return refuse("a node of the extents of its journal has %d entries, %d levels below", n, levels)
	}
	for i := range n {
		e := b[12+12*i:]
		if levels > 0 {
			child, err := m.block(uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32)
			if err != nil {
				return err
			}
			if err := m.extents(child, int(levels)-1); err != nil {
				return err
			}
			continue
		}
		first, length := uint64(le.Uint32(e)), uint64(le.Uint16(e[4:]))
		if length > 1<<15 {
			return refuse("a part of its journal was never written")
		}
		start := uint64(le.Uint16(e[6:]))<<32 | uint64(le.Uint32(e[8:]))
		for k := range length {
			if err := m.set(first+k, start+k); err != nil {
				return err
			}
		}
	}
	return nil
}

// indirect reads a block of block numbers, as ext2 and ext3 have them.
func (m *extMap) indirect(n uint64, levels int, next *uint64) error {
	if *next >= uint64(len(m.all)) {
		return nil
	}
	if levels == 0 {
		*next++
		return m.set(*next-1, n)
	}
	per := uint64(m.f.bs / 4)
	if n == 0 {
		covers := uint64(1)
		for range levels {
			covers *= per
		}
		*next += covers
		return nil
	}
	b, err := m.block(n)
	if err != nil {
		return err
	}
	for k := range per {
		if err := m.indirect(uint64(le.Uint32(b[4*k:])), levels-1, next); err != nil {
			return err
		}
	}
	return nil
}
