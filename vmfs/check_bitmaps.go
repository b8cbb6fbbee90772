// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import "fmt"

// Types of the locks of clusters. That of file descriptors themselves is lockTypeFD.
const (
	lockTypeFBB = 0x10C00002
	lockTypeSBC = 0x10C00003
	lockTypePBC = 0x10C00004
	lockTypeFDC = 0x10C00005
	lockTypePB2 = 0x10C00006
)

// Of the header of a cluster of VMFS-3 and VMFS-5: a lock, then this.
const (
	clusterMeta      = 512
	clusterBitmap    = 0x10
	clusterBitmapLen = 64
)

// bitmaps compares the headers of all clusters with what files have. File descriptors
// come first: blocks of files that are in no directory are not lost.
func (c *check) bitmaps() {
	for _, t := range []*checkTable{c.fdc, c.blocks, c.sbc, c.pbc, c.pb2} {
		switch {
		case t == nil, t == c.blocks && c.fs.header.wide():
			continue
		case !c.fs.header.wide() && t.res.perCluster > clusterBitmapLen*8:
			c.tell(BadHeader, false, t.res.name, t.res.file.at, "%d resources in a cluster, its bitmap has room for %d", t.res.perCluster, clusterBitmapLen*8)
			continue
		}
		for n := uint64(0); n < t.clusters() && c.ctx.Err() == nil; n++ {
			c.cluster(t, n)
		}
		if t == c.fdc {
			for _, addr := range c.orphans {
				c.orphan(addr)
			}
		}
	}
}

// cluster looks at the header of a cluster.
func (c *check) cluster(t *checkTable, n uint64) {
	b := make(fields, t.res.headerBytes)
	off := int64(t.res.clusterHeader(n))
	if err := t.res.file.readFull(b, off, "cluster header"); err != nil {
		c.damage(Unreadable, t.res.name, err)
		return
	}
	at := int64(-1)
	if s, err := t.res.file.lookup(off, 0); err == nil && s.where == Stored {
		at = s.offset
	}
	bad := func(kind ProblemKind, field int64, format string, args ...any) {
		where := at
		if at >= 0 {
			where = at + field
		}
		c.tell(kind, false, t.res.name, where, "cluster %d: %s", n, fmt.Sprintf(format, args...))
	}
	lock := parseLock(b[:lockLen])
	if lock.kind != t.lock {
		bad(BadCluster, 0, "lock type %08x, it should be %08x", lock.kind, t.lock)
	}
	if lock.addr != uint64(at) {
		bad(BadCluster, 4, "its lock says that it lies at %d of the volume, and lies at %d", lock.addr, at)
	}
	c.lock(fmt.Sprintf("%s, cluster %d", t.res.name, n), &lock, at)
	size := min(t.res.perCluster, t.total-n*t.res.perCluster)
	if c.fs.header.wide() {
		c.wideCluster(t, n, size, b[c.fs.header.MetadataBytes:], bad)
		return
	}
	m := b[clusterMeta:]
	if got := m.u32(0); uint64(got) != n {
		bad(BadCluster, clusterMeta, "says that it is cluster %d", got)
	}
	if got := m.u32(4); uint64(got) != size {
		bad(BadCluster, clusterMeta+4, "says that it has %d of %d %ss", got, size, t.noun)
	}
	c.clusterBits(t, n*t.res.perCluster, size, m, bad)
}

type badCluster func(kind ProblemKind, field int64, format string, args ...any)

// clusterBits compares the bitmap of a cluster with what files have; a bit that is set is
// a resource that is free. size is how many there are, first the first of them.
func (c *check) clusterBits(t *checkTable, first, size uint64, m fields, bad badCluster) {
	bitmap := m[clusterBitmap:][:clusterBitmapLen]
	free, behind := 0, 0
	for i := range uint64(clusterBitmapLen * 8) {
		if bitmap[i/8]>>(i%8)&1 == 0 {
			continue
		}
		if i < size {
			free++
		} else {
			behind++
		}
	}
	t.sum.Free += uint64(m.u32(8))
	if got := m.u32(8); int(got) != free {
		bad(BadCount, clusterMeta+8, "says that %d %ss are free, the bitmap says %d", got, t.noun, free)
	}
	if behind > 0 {
		bad(BadCluster, clusterMeta+clusterBitmap, "the bitmap says that %d %ss are free behind the last one", behind, t.noun)
	}
	var lost, unallocated []uint64
	for i := range size {
		isFree, used := bitmap[i/8]>>(i%8)&1 == 1, t.used.has(first+i)
		switch {
		case isFree && used:
			unallocated = append(unallocated, first+i)
		case isFree || used:
		case t == c.fdc && c.isOrphan(first+i):
		default:
			lost = append(lost, first+i)
		}
	}
	t.sum.Lost += uint64(len(lost))
	t.sum.Unallocated += uint64(len(unallocated))
	if len(unallocated) > 0 {
		bad(Unallocated, clusterMeta+clusterBitmap, "in use and said to be free: %s", describeNumbers(t.noun, unallocated))
	}
	switch {
	case len(lost) == 0:
	case c.sum.Unread > 0:
		c.tell(Lost, true, t.res.name, -1, "no file that can be read has %s", describeNumbers(t.noun, lost))
	default:
		bad(Lost, clusterMeta+clusterBitmap, "said to be in use, and no file has it: %s", describeNumbers(t.noun, lost))
	}
}

// isOrphan reports if a descriptor that is in no directory is that of a file.
func (c *check) isOrphan(number uint64) bool {
	addr := descriptorAddress(resourceID{number / c.fdc.res.perCluster, number % c.fdc.res.perCluster})
	n, err := c.fs.readDescriptor(addr)
	if err != nil {
		return false
	}
	c.tell(Orphan, c.sum.Unread > 0, fmt.Sprintf("descriptor %08x", addr), n.stat.Offset, "a %v of %d bytes is in no directory that can be read", n.stat.Type, n.stat.SizeBytes)
	if len(c.orphans) < maxOrphans {
		c.orphans = append(c.orphans, addr)
	}
	return true
}

// orphan takes what a file has that is in no directory.
func (c *check) orphan(addr uint32) {
	n, err := c.fs.readDescriptor(addr)
	if err != nil {
		return // it has been read before
	}
	name := fmt.Sprintf("descriptor %08x", addr)
	c.claimDescriptor(addr, name)
	c.file(n, name)
}

// wideCluster looks at the counters of a cluster of VMFS-6. Where its bits are is not
// public, and no volume of an ESX host was at hand: what does not fit is a note.
func (c *check) wideCluster(t *checkTable, n, size uint64, m fields, bad badCluster) {
	if got := m.u64(0x18); got != n {
		bad(BadCluster, c.fs.header.MetadataBytes+0x18, "says that it is cluster %d", got)
	}
	used := uint64(0)
	for i := range size {
		if t.used.has(n*t.res.perCluster + i) {
			used++
		}
	}
	total, free := uint64(m.u16(0x20)), uint64(m.u16(0x22))
	t.sum.Free += free
	if total != size || free+used != size {
		c.tell(BadCount, true, t.res.name, -1, "cluster %d: says that %d of %d %ss are free; it has %d, and files have %d of them", n, free, total, t.noun, size, used)
	}
}
