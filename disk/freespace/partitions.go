// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/disk/gpt"
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
	b, err := v.peek(disk.SectorSize)
	if err != nil {
		return nil, err
	}
	if !isMBR(b) {
		return []area{whole("", 0, v.size())}, nil
	}
	if b[mbrEntries+4] == mbrTypeGPT {
		return guid(v)
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

// guid reads a GUID partition table.
func guid(v *volume) ([]area, error) {
	found, err := gpt.Read(v, v.size(), disk.SectorSize)
	if errors.Is(err, gpt.ErrNone) {
		return nil, refuse("there is no GUID partition table where the protective MBR says")
	}
	var all []area
	for _, p := range found {
		err = errors.Join(err, p.Err)
		all = append(all, whole(fmt.Sprintf("partition %d", p.Number), p.OffsetBytes, p.SizeBytes))
	}
	if fe, ok := errors.AsType[*disk.FormatError](err); ok {
		return nil, refuse("the GUID partition table: %s", fe.Detail)
	}
	if err != nil {
		return nil, err
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
