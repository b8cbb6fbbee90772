// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"context"
	"errors"
	"hash/crc32"
	"math/bits"
)

// The layout of ext2, ext3 and ext4 is described in the documentation of the Linux
// kernel, filesystems/ext4.

// Features of ext that are known not to change what a bit in a block bitmap means, by the
// field that has them. A file system with others is not touched.
const (
	extIncompat = 0x2 | // types in directories
		extRecover | extMetaBG | 0x40 | extWide | 0x100 | 0x200 | // extents; 64 bits; MMP; flex_bg
		0x400 | 0x1000 | extSeedStored | 0x4000 | 0x8000 | 0x10000 | 0x20000 // ea_inode ... casefold
	extROCompat = extSparseSuper | 0x2 | 0x4 | 0x8 | extGroupSums | 0x20 | 0x40 | // large_file ... extra_isize
		0x100 | extBigalloc | extMetadataSums | 0x1000 | 0x2000 | 0x8000 | 0x10000 // quota ... orphan_present

	extRecover    = 0x4
	extMetaBG     = 0x10
	extWide       = 0x80
	extSeedStored = 0x2000

	extSparseSuper  = 0x1
	extGroupSums    = 0x10
	extBigalloc     = 0x200
	extMetadataSums = 0x400

	extHasJournal   = 0x4 // compatible ones
	extSparseSuper2 = 0x200

	extStateValid  = 1
	extStateErrors = 2

	extBlockUninit = 2 // flag of a group: its bitmap was never written
)

// extFS is one of these file systems.
type extFS struct {
	v                    *volume
	b                    []byte // super block
	bs                   int64  // bytes of a block
	blocks               uint64
	first                uint64 // block of group 0
	perG                 uint64 // blocks of a group
	ratio                uint64 // blocks of a cluster
	groups               uint64
	desc                 []byte // of all groups
	descLen              uint64
	gdt                  uint64 // blocks of descriptors
	seed                 uint32
	compat, incompat, ro uint32
	journal              map[uint64][]byte // blocks as they are once the journal is replayed
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c is the checksum as Linux has it, which is not inverted at its end.
func crc32c(seed uint32, p []byte) uint32 { return ^crc32.Update(^seed, castagnoli, p) }

func readExt(v *volume, free *spanSet) (name string, err error) {
	f := &extFS{v: v, journal: map[uint64][]byte{}}
	err = f.super()
	switch {
	case f.incompat&0x2C0 != 0 || f.ro&^0x7 != 0: // extents, 64 bits, flex_bg, or what came with them
		name = "ext4"
	case f.compat&extHasJournal != 0:
		name = "ext3"
	default:
		name = "ext2"
	}
	if err != nil {
		return name, err
	}
	return name, f.free(free)
}

// free collects what is free.
func (f *extFS) free(free *spanSet) error {
	if err := f.descriptors(); err != nil {
		return err
	}
	if f.incompat&extRecover != 0 {
		if err := f.replay(); err != nil {
			return err
		}
		// The journal may have another super block and other descriptors.
		if err := errors.Join(f.super(), f.descriptors()); err != nil {
			return err
		}
	}
	return f.collect(free)
}

// block reads a block, as it is after a replay of the journal.
func (f *extFS) block(n uint64) ([]byte, error) {
	if b := f.journal[n]; b != nil {
		return b, nil
	}
	if n >= f.blocks {
		return nil, refuse("block %d is behind its end of %d", n, f.blocks)
	}
	b := make([]byte, f.bs)
	return b, f.v.read(b, int64(n)*f.bs)
}

// super reads and checks the super block.
func (f *extFS) super() error {
	b := make([]byte, 1024)
	if err := f.v.read(b, 1024); err != nil {
		return err
	}
	if f.bs != 0 { // a second time
		n := uint64(1024 / f.bs)
		if k := f.journal[n]; k != nil {
			copy(b, k[1024-int64(n)*f.bs:])
		}
	}
	f.b = b
	f.compat, f.incompat, f.ro = le.Uint32(b[0x5C:]), le.Uint32(b[0x60:]), le.Uint32(b[0x64:])
	if le.Uint32(b[0x4C:]) == 0 { // the first revision has no features
		f.compat, f.incompat, f.ro = 0, 0, 0
	}
	logBlock, logCluster := le.Uint32(b[0x18:]), le.Uint32(b[0x1C:])
	state := le.Uint16(b[0x3A:])
	switch {
	case f.incompat&^extIncompat != 0:
		return refuse("it has features that are not known (incompatible: %x)", f.incompat&^extIncompat)
	case f.ro&^extROCompat != 0:
		return refuse("it has features that are not known (read-only: %x)", f.ro&^extROCompat)
	case state&extStateErrors != 0:
		return refuse("it is marked as having errors: check it")
	case state&extStateValid == 0:
		return refuse("it was not unmounted, and has no journal that tells what is missing: check it")
	case f.incompat&extRecover != 0 && f.compat&extHasJournal == 0:
		return refuse("it needs its journal, and has none")
	case logBlock > 6 || logCluster > 20 || logCluster < logBlock || f.ro&extBigalloc == 0 && logCluster != logBlock:
		return refuse("its blocks have 2^%d bytes, its clusters 2^%d", 10+logBlock, 10+logCluster)
	}
	f.bs, f.ratio = 1024<<logBlock, 1<<(logCluster-logBlock)
	f.blocks, f.first, f.perG = uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[0x14:])), uint64(le.Uint32(b[0x20:]))
	f.descLen = 32
	if f.incompat&extWide != 0 {
		f.blocks |= uint64(le.Uint32(b[0x150:])) << 32
		f.descLen = uint64(le.Uint16(b[0xFE:]))
	}
	clusters := uint64(le.Uint32(b[0x24:]))
	switch {
	case f.blocks == 0 || f.blocks > uint64(f.v.size()/f.bs):
		return refuse("it has %d blocks of %d bytes, which do not fit: it may be on several disks", f.blocks, f.bs)
	case f.first > 1 || f.first >= f.blocks || f.perG == 0 || f.perG%f.ratio != 0 || clusters*f.ratio != f.perG || clusters > uint64(f.bs)*8 || clusters%8 != 0:
		return refuse("a group has %d blocks in %d clusters, beginning with block %d", f.perG, clusters, f.first)
	case f.descLen < 32 || f.descLen > 1024 || f.descLen%8 != 0 || f.descLen > uint64(f.bs) || f.incompat&extWide != 0 && f.descLen < 64:
		return refuse("descriptors of its groups have %d bytes", f.descLen)
	}
	f.groups = (f.blocks - f.first + f.perG - 1) / f.perG
	const most = 1 << 22 // groups; 64 TiB with blocks of 4 KiB have 2^19
	if f.groups > most {
		return refuse("it has %d groups", f.groups)
	}
	return f.superSum()
}

func (f *extFS) superSum() error {
	if f.ro&extMetadataSums == 0 {
		return nil
	}
	if f.b[0x175] != 1 || crc32c(^uint32(0), f.b[:0x3FC]) != le.Uint32(f.b[0x3FC:]) {
		return refuse("the checksum of its super block is wrong")
	}
	f.seed = crc32c(^uint32(0), f.b[0x68:0x78])
	if f.incompat&extSeedStored != 0 {
		f.seed = le.Uint32(f.b[0x270:])
	}
	return nil
}

// hasSuper reports if a group begins with a copy of the super block.
func (f *extFS) hasSuper(g uint64) bool {
	switch {
	case g == 0:
		return true
	case f.compat&extSparseSuper2 != 0:
		return g == uint64(le.Uint32(f.b[0x24C:])) || g == uint64(le.Uint32(f.b[0x250:]))
	case g == 1 || f.ro&extSparseSuper == 0:
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		n := base
		for n < g {
			n *= base
		}
		if n == g {
			return true
		}
	}
	return false
}

// groupStart is the first block of a group.
func (f *extFS) groupStart(g uint64) uint64 { return f.first + g*f.perG }

// descriptorBlock returns where the n-th block of descriptors is.
func (f *extFS) descriptorBlock(n uint64) uint64 {
	if f.incompat&extMetaBG == 0 || n < uint64(le.Uint32(f.b[0x104:])) {
		return uint64(1024/f.bs) + 1 + n
	}
	g := n * (uint64(f.bs) / f.descLen)
	at := f.groupStart(g)
	if f.hasSuper(g) || f.bs == 1024 && n == 0 && f.first == 0 {
		at++
	}
	return at
}

// descriptors reads those of all groups.
func (f *extFS) descriptors() error {
	per := uint64(f.bs) / f.descLen
	f.gdt = (f.groups + per - 1) / per
	f.desc = f.desc[:0]
	for n := range f.gdt {
		b, err := f.block(f.descriptorBlock(n))
		if err != nil {
			return err
		}
		f.desc = append(f.desc, b[:per*f.descLen]...)
	}
	for g := range f.groups {
		if err := f.checkDescriptor(g); err != nil {
			return err
		}
	}
	return nil
}

func (f *extFS) descriptor(g uint64) []byte { return f.desc[g*f.descLen:][:f.descLen] }

// checkDescriptor checks the checksum of a group, and where its tables are.
func (f *extFS) checkDescriptor(g uint64) error {
	d := f.descriptor(g)
	number := le.AppendUint32(nil, uint32(g))
	const sumAt = 0x1E
	want := le.Uint16(d[sumAt:])
	switch {
	case f.ro&extMetadataSums != 0:
		sum := crc32c(crc32c(crc32c(crc32c(f.seed, number), d[:sumAt]), []byte{0, 0}), d[sumAt+2:])
		if uint16(sum) != want {
			return refuse("the checksum of group %d is wrong", g)
		}
	case f.ro&extGroupSums != 0:
		sum := crc16(crc16(crc16(0xFFFF, f.b[0x68:0x78]), number), d[:sumAt])
		if f.incompat&extWide != 0 {
			sum = crc16(sum, d[sumAt+2:])
		}
		if sum != want {
			return refuse("the checksum of group %d is wrong", g)
		}
	}
	for _, at := range []int{0, 4, 8} {
		if n := f.wide(d, at, at+0x20); n == 0 || n >= f.blocks {
			return refuse("a table of group %d is at block %d", g, n)
		}
	}
	if f.wide(d, 8, 0x28)+f.inodeBlocks() > f.blocks {
		return refuse("the inodes of group %d are behind its end", g)
	}
	return nil
}

// wide is a number whose upper half is elsewhere, if there is one.
func (f *extFS) wide(d []byte, low, high int) uint64 {
	n := uint64(le.Uint32(d[low:]))
	if f.incompat&extWide != 0 {
		n |= uint64(le.Uint32(d[high:])) << 32
	}
	return n
}

// inodeBlocks is how many blocks the inodes of a group take.
func (f *extFS) inodeBlocks() uint64 {
	size := uint64(128)
	if le.Uint32(f.b[0x4C:]) != 0 {
		size = uint64(le.Uint16(f.b[0x58:]))
	}
	return (uint64(le.Uint32(f.b[0x28:]))*size + uint64(f.bs) - 1) / uint64(f.bs)
}

// crc16 is the checksum that groups had before metadata_csum.
func crc16(crc uint16, p []byte) uint16 {
	for _, c := range p {
		crc ^= uint16(c)
		for range 8 {
			low := crc & 1
			if crc >>= 1; low != 0 {
				crc ^= 0xA001
			}
		}
	}
	return crc
}

// collect goes through the bitmaps.
func (f *extFS) collect(free *spanSet) error {
	var written, never, tables spanSet
	for g := range f.groups {
		if f.v.ctx.Err() != nil {
			return context.Cause(f.v.ctx)
		}
		f.tables(g, &tables)
		uninit := f.ro&(extGroupSums|extMetadataSums) != 0 && le.Uint16(f.descriptor(g)[0x12:])&extBlockUninit != 0
		if uninit {
			f.addBlocks(&never, f.groupStart(g), f.groupBlocks(g))
			continue
		}
		if err := f.bitmap(g, &written); err != nil {
			return err
		}
	}
	own := f.clusters(tables.done())
	if w := written.done(); len(without(w, own)) != len(w) || total(without(w, own)) != total(w) {
		return refuse("its bitmaps say that its own tables are free: check it")
	} else {
		free.all = append(free.all, w...)
	}
	free.all = append(free.all, without(never.done(), own)...)
	return nil
}

func total(all []span) (n int64) {
	for _, s := range all {
		n += s.end - s.from
	}
	return n
}

func (f *extFS) groupBlocks(g uint64) uint64 { return min(f.perG, f.blocks-f.groupStart(g)) }

func (f *extFS) addBlocks(s *spanSet, first, n uint64) { s.add(int64(first)*f.bs, int64(n)*f.bs) }

// clusters widens ranges to whole clusters: a bit is for all of one.
func (f *extFS) clusters(all []span) []span {
	size := f.bs * int64(f.ratio)
	var out spanSet
	for _, s := range all {
		from := s.from / size * size
		out.add(from, (s.end+size-1)/size*size-from)
	}
	return out.done()
}

// tables adds what a group has for the file system itself. A table may be in another group.
func (f *extFS) tables(g uint64, out *spanSet) {
	d := f.descriptor(g)
	f.addBlocks(out, f.wide(d, 0, 0x20), 1)
	f.addBlocks(out, f.wide(d, 4, 0x24), 1)
	f.addBlocks(out, f.wide(d, 8, 0x28), f.inodeBlocks())
	per := uint64(f.bs) / f.descLen
	super, n := f.hasSuper(g), uint64(0)
	if super {
		n = 1
	}
	meta := uint64(le.Uint32(f.b[0x104:]))
	if f.incompat&extMetaBG == 0 || g/per < meta {
		if super {
			n += uint64(le.Uint16(f.b[0xCE:]))
			if f.incompat&extMetaBG != 0 {
				n += meta
			} else {
				n += f.gdt
			}
		}
	} else if k := g % per; k == 0 || k == 1 || k == per-1 {
		n++
	}
	if g == 0 && f.first == 0 && f.bs == 1024 {
		n++ // the boot block
	}
	f.addBlocks(out, f.groupStart(g), min(n, f.groupBlocks(g)))
}

// bitmap reads that of a group and adds what is free in it.
func (f *extFS) bitmap(g uint64, out *spanSet) error {
	d := f.descriptor(g)
	b, err := f.block(f.wide(d, 0, 0x20))
	if err != nil {
		return err
	}
	per := f.perG / f.ratio
	b = b[:per/8]
	if f.ro&extMetadataSums != 0 {
		sum := crc32c(f.seed, b)
		want := uint32(le.Uint16(d[0x18:]))
		if f.descLen >= 0x3A {
			want |= uint32(le.Uint16(d[0x38:])) << 16
		} else {
			sum &= 0xFFFF
		}
		if sum != want {
			return refuse("the checksum of the block bitmap of group %d is wrong", g)
		}
	}
	start, n := f.groupStart(g), f.groupBlocks(g)
	counted := uint64(0)
	size := (n + f.ratio - 1) / f.ratio
	for c := uint64(0); c < size; {
		end := c
		if c%64 == 0 && end+64 <= size {
			if w := le.Uint64(b[c/8:]); w == ^uint64(0) {
				c += 64
				continue
			} else if w == 0 {
				end += 64
			} else {
				end += uint64(bits.TrailingZeros64(w))
			}
		}
		for end < size && b[end/8]>>(end%8)&1 == 0 {
			end++
		}
		if end == c {
			c++
			continue
		}
		counted += end - c
		from := start + c*f.ratio
		f.addBlocks(out, from, min(start+end*f.ratio, start+n)-from)
		c = end
	}
	want := uint64(le.Uint16(d[0x0C:]))
	if f.incompat&extWide != 0 {
		want |= uint64(le.Uint16(d[0x2C:])) << 16
	}
	if counted != want {
		return refuse("group %d says that %d clusters are free, its bitmap %d: check it", g, want, counted)
	}
	return nil
}
