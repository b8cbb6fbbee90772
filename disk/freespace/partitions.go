// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/vmstream/vmstream/disk"
)

var le = binary.LittleEndian

const (
	mbrEntries  = 446
	mbrEntryLen = 16
	mbrTypeGPT  = 0xEE
	maxLogical  = 128 // partitions in an extended one
)

// partitions returns the partitions of a disk; the whole disk if it has no table.
func partitions(v *volume) ([]area, error) {
	if v.size() < 4*disk.SectorSize {
		return nil, nil
	}
	b, err := v.peek(2 * disk.SectorSize)
	if err != nil {
		return nil, err
	}
	if !isMBR(b) {
		return []area{whole("", 0, v.size())}, nil
	}
	if b[mbrEntries+4] == mbrTypeGPT {
		return gpt(v, b[disk.SectorSize:])
	}
	return mbr(v, b)
}

// isMBR tells a partition table from the boot sector of a file system, which may end in
// the same two bytes.
func isMBR(b []byte) bool {
	if b[510] != 0x55 || b[511] != 0xAA {
		return false
	}
	if bytes.HasPrefix(b[3:], []byte("NTFS    ")) || bytes.HasPrefix(b[54:], []byte("FAT")) || bytes.HasPrefix(b[82:], []byte("FAT32")) {
		return false
	}
	used := 0
	for i := range 4 {
		e := b[mbrEntries+i*mbrEntryLen:][:mbrEntryLen]
		if e[0]&0x7F != 0 {
			return false // neither bootable nor not
		}
		if e[4] != 0 && le.Uint32(e[12:]) != 0 {
			used++
		}
	}
	return used > 0
}

// mbr reads a table of four entries, and the chain of an extended partition.
func mbr(v *volume, b []byte) ([]area, error) {
	var all []area
	sectors := uint64(v.size() / disk.SectorSize)
	add := func(number int, first, n uint64) error {
		if first == 0 || first+n > sectors {
			return refuse("partition %d is behind the end of the disk", number)
		}
		all = append(all, whole(fmt.Sprintf("partition %d", number), int64(first)*disk.SectorSize, int64(n)*disk.SectorSize))
		return nil
	}
	for i := range 4 {
		kind, first, n := mbrEntry(b, i)
		switch {
		case n == 0 || kind == 0:
		case kind == 0x05 || kind == 0x0F || kind == 0x85:
			if err := logical(v, first, n, add); err != nil {
				return nil, err
			}
		default:
			if err := add(i+1, first, n); err != nil {
				return nil, err
			}
		}
	}
	return apart(all)
}

func mbrEntry(b []byte, i int) (kind byte, first, n uint64) {
	e := b[mbrEntries+i*mbrEntryLen:]
	return e[4], uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
}

// logical follows the chain of an extended partition.
func logical(v *volume, start, n uint64, add func(number int, first, n uint64) error) error {
	b := make([]byte, disk.SectorSize)
	at := start
	for number := 5; ; number++ {
		if number == 5+maxLogical {
			return refuse("the chain of the extended partition has more than %d links", maxLogical)
		}
		if err := v.read(b, int64(at)*disk.SectorSize); err != nil {
			return err
		}
		if b[510] != 0x55 || b[511] != 0xAA {
			return refuse("a link of the extended partition at sector %d is no table", at)
		}
		if kind, first, length := mbrEntry(b, 0); kind != 0 && length != 0 {
			if err := add(number, at+first, length); err != nil {
				return err
			}
		}
		kind, next, _ := mbrEntry(b, 1)
		if kind == 0 || next == 0 {
			return nil
		}
		if next >= n || start+next <= at {
			return refuse("the chain of the extended partition leads out of it, or back")
		}
		at = start + next
	}
}

// gpt reads a GUID partition table.
func gpt(v *volume, h []byte) ([]area, error) {
	if !bytes.HasPrefix(h, []byte("EFI PART")) {
		return nil, refuse("there is no GUID partition table where the protective MBR says")
	}
	size, count, each := le.Uint32(h[12:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if size < 92 || size > disk.SectorSize || each < 128 || each > 4096 || count == 0 || count > 1024 {
		return nil, refuse("the GUID partition table has %d entries of %d bytes", count, each)
	}
	sum := bytes.Clone(h[:size])
	clear(sum[16:20])
	if crc32.ChecksumIEEE(sum) != le.Uint32(h[16:]) {
		return nil, refuse("the checksum of the GUID partition table is wrong")
	}
	table := make([]byte, count*each)
	sectors := uint64(v.size() / disk.SectorSize)
	start := le.Uint64(h[72:])
	if start >= sectors {
		return nil, refuse("the entries of the GUID partition table are behind the end of the disk")
	}
	if err := v.read(table, int64(start)*disk.SectorSize); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(h[88:]) {
		return nil, refuse("the checksum of the partitions is wrong")
	}
	var all []area
	for i := range int(count) {
		e := table[uint32(i)*each:]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first == 0 || last < first || last >= sectors {
			return nil, refuse("partition %d is behind the end of the disk", i+1)
		}
		all = append(all, whole(fmt.Sprintf("partition %d", i+1), int64(first)*disk.SectorSize, int64(last-first+1)*disk.SectorSize))
	}
	return apart(all)
}

// apart refuses partitions that overlap: what is free in one may be used in another.
func apart(all []area) ([]area, error) {
	for i := range all {
		for j := range all[:i] {
			a, b := all[i].pieces[0], all[j].pieces[0]
			if a.on < b.on+b.length && b.on < a.on+a.length {
				return nil, refuse("%s and %s overlap", all[j].name, all[i].name)
			}
		}
	}
	return all, nil
}
