// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"context"
	"hash/crc32"
)

// The layout of XFS is described in the XFS Algorithms & Data Structures book. Its numbers
// are big-endian, but for checksums.

// Features of XFS that are known not to change what the tree of free space means.
const (
	xfsVersions   = 0xFDF0 // of version 4: all but shared volumes
	xfsFeatures2  = 0x2 | 0x8 | 0x10 | 0x80 | 0x100 | 0x200
	xfsROCompat   = 0x1 | 0x2 | 0x4 | 0x8                      // finobt, rmapbt, reflink, inobtcnt
	xfsIncompat   = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80 // ftype ... parent pointers; 0x10: to be repaired
	xfsLogFeature = 0x1                                        // of the log: attributes

)

// xfsFS is such a file system.
type xfsFS struct {
	v        *volume
	bs       int64
	sector   int64
	blocks   uint64
	agBlocks uint64
	ags      uint64
	agBits   uint
	crc      bool
	logStart uint64 // block, its allocation group in the upper bits
	logSize  uint64
}

func readXFS(v *volume, free *spanSet) (string, error) {
	f := &xfsFS{v: v}
	if err := f.super(); err != nil {
		return "xfs", err
	}
	if err := f.log(); err != nil {
		return "xfs", err
	}
	for ag := range f.ags {
		if v.ctx.Err() != nil {
			return "xfs", context.Cause(v.ctx)
		}
		if err := f.group(ag, free); err != nil {
			return "xfs", err
		}
	}
	return "xfs", nil
}

// summed checks the checksum of a structure that has it at an offset.
func summed(b []byte, at int) bool {
	sum := crc32.Update(0, castagnoli, b[:at])
	sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
	return crc32.Update(sum, castagnoli, b[at+4:]) == le.Uint32(b[at:])
}

func (f *xfsFS) super() error {
	b, err := f.v.peek(512)
	if err != nil {
		return err
	}
	version := be.Uint16(b[100:])
	f.bs, f.sector = int64(be.Uint32(b[4:])), int64(be.Uint16(b[102:]))
	f.blocks, f.agBlocks, f.ags = be.Uint64(b[8:]), uint64(be.Uint32(b[84:])), uint64(be.Uint32(b[88:]))
	f.agBits, f.crc = uint(b[124]), version&15 == 5
	f.logStart, f.logSize = be.Uint64(b[48:]), uint64(be.Uint32(b[96:]))
	switch {
	case version&15 != 4 && !f.crc:
		return refuse("its version is %d", version&15)
	case version&^(xfsVersions|15) != 0 || be.Uint32(b[200:])&^xfsFeatures2 != 0:
		return refuse("it has features that are not known (%x, %x)", version, be.Uint32(b[200:]))
	case f.crc && (be.Uint32(b[212:])&^xfsROCompat != 0 || be.Uint32(b[216:])&^xfsIncompat != 0 || be.Uint32(b[220:])&^xfsLogFeature != 0):
		return refuse("it has features that are not known, or is to be repaired (%x, %x, %x)", be.Uint32(b[212:]), be.Uint32(b[216:]), be.Uint32(b[220:]))
	case b[126] != 0:
		return refuse("it was not made completely")
	case be.Uint64(b[16:]) != 0:
		return refuse("it has a realtime volume")
	case f.logStart == 0:
		return refuse("its log is on another device")
	case f.sector < 512 || f.sector > 32<<10 || f.sector&(f.sector-1) != 0 || f.bs < f.sector || f.bs > 64<<10 || f.bs&(f.bs-1) != 0:
		return refuse("its blocks have %d bytes, its sectors %d", f.bs, f.sector)
	case f.blocks > uint64(f.v.size()/f.bs):
		return refuse("it has %d blocks of %d bytes, which do not fit: it may be on several disks", f.blocks, f.bs)
	case f.agBlocks < 4 || f.ags == 0 || f.ags > 1<<20 || f.agBits > 31 || f.agBlocks > 1<<f.agBits || f.blocks <= (f.ags-1)*f.agBlocks || f.blocks > f.ags*f.agBlocks:
		return refuse("it has %d blocks in %d groups of %d", f.blocks, f.ags, f.agBlocks)
	}
	if f.crc {
		whole, err := f.v.peek(f.sector)
		if err != nil {
			return err
		}
		if int64(len(whole)) < f.sector || !summed(whole, 224) {
			return refuse("the checksum of its super block is wrong")
		}
	}
	return nil
}

// groupBlocks is how many blocks a group has: the last one may have fewer.
func (f *xfsFS) groupBlocks(ag uint64) uint64 { return min(f.agBlocks, f.blocks-ag*f.agBlocks) }

// block reads one of a group.
func (f *xfsFS) block(ag, n uint64) ([]byte, error) {
	if n >= f.groupBlocks(ag) {
		return nil, refuse("block %d of group %d is behind its end", n, ag)
	}
	b := make([]byte, f.bs)
	return b, f.v.read(b, int64(ag*f.agBlocks+n)*f.bs)
}

// group adds what is free in a group.
func (f *xfsFS) group(ag uint64, free *spanSet) error {
	b := make([]byte, f.sector)
	if err := f.v.read(b, int64(ag*f.agBlocks)*f.bs+f.sector); err != nil {
		return err
	}
	size := f.groupBlocks(ag)
	switch {
	case string(b[:4]) != "XAGF" || be.Uint32(b[4:]) != 1 || uint64(be.Uint32(b[8:])) != ag || uint64(be.Uint32(b[12:])) != size:
		return refuse("the header of group %d is not its own", ag)
	case f.crc && !summed(b, 216):
		return refuse("the checksum of group %d is wrong", ag)
	}
	levels := be.Uint32(b[28:])
	if levels == 0 || levels > 8 {
		return refuse("the tree of group %d has %d levels", ag, levels)
	}
	w := &xfsWalk{f: f, ag: ag}
	if err := w.tree(uint64(be.Uint32(b[16:])), levels-1); err != nil {
		return err
	}
	if w.total != uint64(be.Uint32(b[52:])) {
		return refuse("group %d says that %d blocks are free, its tree %d: check it", ag, be.Uint32(b[52:]), w.total)
	}
	own := f.own(ag, w)
	for _, r := range w.records {
		s := []span{{int64(r[0]), int64(r[0] + r[1])}}
		if left := without(s, own); total(left) != int64(r[1]) {
			return refuse("the tree of group %d says that blocks of the file system itself are free: check it", ag)
		}
		free.add(int64(ag*f.agBlocks+r[0])*f.bs, int64(r[1])*f.bs)
	}
	return nil
}

// own are the blocks of a group that are never free: its headers, its tree, the log.
func (f *xfsFS) own(ag uint64, w *xfsWalk) []span {
	var own spanSet
	own.add(0, (4*f.sector+f.bs-1)/f.bs)
	for _, n := range w.blocks {
		own.add(int64(n), 1)
	}
	if f.logStart>>f.agBits == ag {
		own.add(int64(f.logStart&(1<<f.agBits-1)), int64(f.logSize))
	}
	return own.done()
}

// xfsWalk goes through the tree of free space of a group.
type xfsWalk struct {
	f       *xfsFS
	ag      uint64
	blocks  []uint64
	records [][2]uint64
	total   uint64
	end     uint64 // of the last record
}

func (w *xfsWalk) tree(n uint64, level uint32) error {
	f := w.f
	bad := func(what string) error {
		return refuse("a block of the tree of group %d %s", w.ag, what)
	}
	if uint64(len(w.blocks)) > f.groupBlocks(w.ag)/2+8 {
		return bad("is one too many")
	}
	b, err := f.block(w.ag, n)
	if err != nil {
		return err
	}
	w.blocks = append(w.blocks, n)
	magic, head := "ABTB", 16
	if f.crc {
		magic, head = "AB3B", 56
	}
	count := int(be.Uint16(b[6:]))
	switch {
	case string(b[:4]) != magic || uint32(be.Uint16(b[4:])) != level:
		return bad("is none of it")
	case f.crc && (!summed(b, 52) || uint64(be.Uint32(b[48:])) != w.ag):
		return bad("has a wrong checksum, or is another group's")
	}
	if level == 0 {
		if count > (len(b)-head)/8 {
			return bad("has too many records")
		}
		for i := range count {
			r := b[head+8*i:]
			start, length := uint64(be.Uint32(r)), uint64(be.Uint32(r[4:]))
			if length == 0 || start < w.end || start+length > f.groupBlocks(w.ag) {
				return bad("has ranges that overlap, or are behind the end")
			}
			w.records = append(w.records, [2]uint64{start, length})
			w.total, w.end = w.total+length, start+length
		}
		return nil
	}
	most := (len(b) - head) / 12
	if count > most {
		return bad("has too many children")
	}
	for i := range count {
		if err := w.tree(uint64(be.Uint32(b[head+8*most+4*i:])), level-1); err != nil {
			return err
		}
	}
	return nil
}
