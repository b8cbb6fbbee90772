// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"encoding/binary"
)

// The journal of ext3 and ext4, jbd2, is described in filesystems/ext4/journal.rst of the
// documentation of the Linux kernel. Its numbers are big-endian.

var be = binary.BigEndian

const (
	jbdMagic      = 0xC03B3998
	jbdDescriptor = 1
	jbdCommit     = 2
	jbdRevoke     = 5

	jbdIncompat   = jbdRevokes | jbdWide | 0x4 | jbdSums2 | jbdSums3
	jbdRevokes    = 0x1
	jbdWide       = 0x2
	jbdAsync      = 0x4
	jbdSums2      = 0x8
	jbdSums3      = 0x10
	jbdFastCommit = 0x20

	tagEscaped  = 1
	tagSameUUID = 2
	tagLast     = 8

	maxJournalBlocks = 1 << 21
)

// jbd is a journal that is being read.
type jbd struct {
	f        *extFS
	at       []uint64 // blocks of the file system that it has, in order
	first    uint64
	end      uint64
	incompat uint32
	seed     uint32
	blocks   map[uint64]logged // by number in the file system
	revoked  map[uint64]uint32 // sequence of the transaction that revoked a block
}

// logged is a block in the journal.
type logged struct {
	at       uint64 // in the journal
	sequence uint32
	escaped  bool
}

// replay notes what the blocks in complete transactions of the journal are.
func (f *extFS) replay() error {
	inode := le.Uint32(f.b[0xE0:])
	if inode == 0 {
		return refuse("it needs its journal, which is on another device")
	}
	at, err := f.inodeMap(inode)
	if err != nil {
		return err
	}
	j := &jbd{f: f, at: at, blocks: map[uint64]logged{}, revoked: map[uint64]uint32{}}
	start, sequence, err := j.super()
	if err != nil || start == 0 {
		return err
	}
	if err := j.scan(start, sequence); err != nil {
		return err
	}
	return j.apply()
}

// block reads a block of the journal.
func (j *jbd) block(n uint64) ([]byte, error) {
	if n >= uint64(len(j.at)) || j.at[n] == 0 {
		return nil, refuse("its journal has no block %d", n)
	}
	return j.f.block(j.at[n])
}

func (j *jbd) super() (start uint64, sequence uint32, err error) {
	b, err := j.block(0)
	if err != nil {
		return 0, 0, err
	}
	kind := be.Uint32(b[4:])
	j.incompat = be.Uint32(b[0x28:])
	if kind == 3 {
		j.incompat = 0
	}
	length, reserved := uint64(be.Uint32(b[0x10:])), uint64(0)
	j.first = uint64(be.Uint32(b[0x14:]))
	switch {
	case be.Uint32(b) != jbdMagic || kind != 3 && kind != 4:
		return 0, 0, refuse("its journal has no super block")
	case int64(be.Uint32(b[0x0C:])) != j.f.bs:
		return 0, 0, refuse("its journal has blocks of %d bytes", be.Uint32(b[0x0C:]))
	case be.Uint32(b[0x20:]) != 0:
		return 0, 0, refuse("its journal is marked as having errors: check it")
	case j.incompat&^jbdIncompat != 0: // also fast commits, which say more than transactions
		return 0, 0, refuse("its journal has features that are not known (%x)", j.incompat&^jbdIncompat)
	case j.incompat&jbdSums2 != 0 && j.incompat&jbdSums3 != 0:
		return 0, 0, refuse("its journal has two kinds of checksums")
	case j.incompat&jbdAsync != 0 && !j.sums():
		return 0, 0, refuse("its journal has asynchronous commits without checksums of blocks")
	case length > uint64(len(j.at)) || j.first == 0 || j.first >= length || length-reserved > maxJournalBlocks:
		return 0, 0, refuse("its journal has %d blocks, and begins at %d", length, j.first)
	}
	j.end = length
	if j.sums() {
		sum := append([]byte{}, b[:1024]...)
		clear(sum[0xFC:0x100])
		if b[0x50] != 4 || crc32c(^uint32(0), sum) != be.Uint32(b[0xFC:]) {
			return 0, 0, refuse("the checksum of the super block of its journal is wrong")
		}
		j.seed = crc32c(^uint32(0), b[0x30:0x40])
	}
	start = uint64(be.Uint32(b[0x1C:]))
	if start >= length {
		return 0, 0, refuse("its journal starts at block %d of %d", start, length)
	}
	return start, be.Uint32(b[0x18:]), nil
}

func (j *jbd) sums() bool { return j.incompat&(jbdSums2|jbdSums3) != 0 }

// next is the block behind another.
func (j *jbd) next(n uint64) uint64 {
	if n++; n >= j.end {
		return j.first
	}
	return n
}

// transaction is what one has brought so far.
type transaction struct {
	blocks  map[uint64]logged
	revoked []uint64
}

// scan goes through complete transactions.
func (j *jbd) scan(at uint64, sequence uint32) error {
	t := transaction{blocks: map[uint64]logged{}}
	for passed := uint64(0); passed < j.end; {
		b, err := j.block(at)
		if err != nil {
			return err
		}
		if be.Uint32(b) != jbdMagic || be.Uint32(b[8:]) != sequence {
			return nil // the end; what is not committed is nothing
		}
		at, passed = j.next(at), passed+1
		switch be.Uint32(b[4:]) {
		case jbdDescriptor:
			if !j.tailSum(b) {
				return refuse("the checksum of a block of its journal is wrong")
			}
			n, err := j.tags(b, at, sequence, &t)
			if err != nil {
				return err
			}
			for range n {
				at = j.next(at)
			}
			passed += n
		case jbdRevoke:
			if !j.tailSum(b) {
				return refuse("the checksum of a block of its journal is wrong")
			}
			if err := j.revokes(b, &t); err != nil {
				return err
			}
		case jbdCommit:
			if !j.commitSum(b) {
				return nil // it was not written whole
			}
			for n, l := range t.blocks {
				j.blocks[n] = l
			}
			for _, n := range t.revoked {
				j.revoked[n] = sequence
			}
			if len(j.blocks) > maxJournalBlocks || len(j.revoked) > maxJournalBlocks {
				return refuse("its journal has too many blocks")
			}
			t = transaction{blocks: map[uint64]logged{}}
			sequence++
		default:
			return nil
		}
	}
	return nil
}

// tailSum checks the checksum at the end of a block.
func (j *jbd) tailSum(b []byte) bool {
	if !j.sums() {
		return true
	}
	n := len(b) - 4
	return crc32c(crc32c(j.seed, b[:n]), []byte{0, 0, 0, 0}) == be.Uint32(b[n:])
}

func (j *jbd) commitSum(b []byte) bool {
	if !j.sums() {
		return true
	}
	c := append([]byte{}, b...)
	clear(c[0x10:0x14])
	return crc32c(j.seed, c) == be.Uint32(b[0x10:])
}

// tags reads a descriptor block, behind which as many blocks lie as it returns.
func (j *jbd) tags(b []byte, at uint64, sequence uint32, t *transaction) (n uint64, err error) {
	room := len(b)
	if j.sums() {
		room -= 4
	}
	for off := 12; ; n++ {
		size := j.tagLen()
		if off+size > room {
			return n, nil // the last tag may not say that it is
		}
		tag := b[off:]
		number, flags := uint64(be.Uint32(tag)), uint32(be.Uint16(tag[6:]))
		high := 8
		if j.incompat&jbdSums3 != 0 {
			flags = be.Uint32(tag[4:])
		}
		if j.incompat&jbdWide != 0 {
			number |= uint64(be.Uint32(tag[high:])) << 32
		}
		if number >= j.f.blocks {
			return 0, refuse("its journal has block %d of %d", number, j.f.blocks)
		}
		if err := j.tagSum(tag, at, sequence); err != nil {
			return 0, err
		}
		t.blocks[number] = logged{at: at, sequence: sequence, escaped: flags&tagEscaped != 0}
		at = j.next(at)
		if off += size; flags&tagSameUUID == 0 {
			off += 16
		}
		if flags&tagLast != 0 {
			return n + 1, nil
		}
		if n > j.end {
			return 0, refuse("a block of its journal has too many tags")
		}
	}
}

func (j *jbd) tagLen() int {
	if j.incompat&jbdSums3 != 0 {
		return 16
	}
	n := 8
	if j.incompat&jbdWide != 0 {
		n += 4
	}
	if j.incompat&jbdSums2 != 0 {
		n += 2
	}
	return n
}

// tagSum checks the checksum of a block that was logged.
func (j *jbd) tagSum(tag []byte, at uint64, sequence uint32) error {
	if !j.sums() {
		return nil
	}
	b, err := j.block(at)
	if err != nil {
		return err
	}
	sum := crc32c(crc32c(j.seed, be.AppendUint32(nil, sequence)), b)
	if j.incompat&jbdSums3 != 0 && sum != be.Uint32(tag[12:]) || j.incompat&jbdSums2 != 0 && uint16(sum) != be.Uint16(tag[4:]) {
		return refuse("the checksum of a block in its journal is wrong")
	}
	return nil
}

// revokes reads a block of numbers that are not to be replayed.
func (j *jbd) revokes(b []byte, t *transaction) error {
	n := int(be.Uint32(b[12:]))
	if n < 16 || n > len(b) {
		return refuse("a block of its journal has %d bytes of numbers", n)
	}
	size := 4
	if j.incompat&jbdWide != 0 {
		size = 8
	}
	for off := 16; off+size <= n; off += size {
		number := uint64(be.Uint32(b[off:]))
		if size == 8 {
			number = be.Uint64(b[off:])
		}
		t.revoked = append(t.revoked, number)
	}
	return nil
}

// apply reads the blocks that matter here: those of bitmaps, descriptors and the super
// block. Others would be memory for nothing.
func (j *jbd) apply() error {
	wanted := map[uint64]bool{uint64(1024 / j.f.bs): true}
	for n := range j.f.gdt {
		wanted[j.f.descriptorBlock(n)] = true
	}
	for g := range j.f.groups {
		wanted[j.f.wide(j.f.descriptor(g), 0, 0x20)] = true
	}
	for number, l := range j.blocks {
		if s, ok := j.revoked[number]; ok && int32(s-l.sequence) >= 0 || !wanted[number] {
			continue
		}
		b, err := j.block(l.at)
		if err != nil {
			return err
		}
		if l.escaped {
			be.PutUint32(b, jbdMagic)
		}
		j.f.journal[number] = b
	}
	return nil
}
