// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import "bytes"

// FAT12, FAT16 and FAT32 are described in Microsoft's FAT specification.

// fatFS is such a file system.
type fatFS struct {
	v        *volume
	bits     uint // of an entry
	cluster  int64
	clusters uint32 // with the two that are none
	data     int64  // where cluster 2 begins
	fat      int64  // where the first table begins
	fatBytes int64
	fats     int
}

// isFAT reports if a boot sector is that of a FAT file system. It has no magic number: its
// fields have to fit together.
func isFAT(b []byte) bool {
	if len(b) < 512 || b[510] != 0x55 || b[511] != 0xAA || b[0] != 0xE9 && (b[0] != 0xEB || b[2] != 0x90) {
		return false
	}
	return bytes.HasPrefix(b[54:], []byte("FAT12   ")) || bytes.HasPrefix(b[54:], []byte("FAT16   ")) || bytes.HasPrefix(b[82:], []byte("FAT32   "))
}

func readFAT(v *volume, free *spanSet) (string, error) {
	f := &fatFS{v: v}
	if err := f.boot(); err != nil {
		return "fat", err
	}
	name := map[uint]string{12: "fat12", 16: "fat16", 32: "fat32"}[f.bits]
	table, err := f.table()
	if err != nil {
		return name, err
	}
	return name, f.collect(table, free)
}

func (f *fatFS) boot() error {
	b, err := f.v.peek(512)
	if err != nil {
		return err
	}
	sector, per, reserved := int64(le.Uint16(b[11:])), int64(b[13]), int64(le.Uint16(b[14:]))
	roots, sectors, fatSectors := int64(le.Uint16(b[17:])), int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	f.fats = int(b[16])
	wide := fatSectors == 0
	if wide {
		fatSectors = int64(le.Uint32(b[36:]))
	}
	if sectors == 0 {
		sectors = int64(le.Uint32(b[32:]))
	}
	dirty := b[37]
	if wide {
		dirty = b[65]
	}
	switch {
	case sector < 512 || sector > 4096 || sector&(sector-1) != 0 || per == 0 || per&(per-1) != 0 || reserved == 0 || f.fats < 1 || f.fats > 2 || fatSectors == 0:
		return refuse("its boot sector contradicts itself")
	case sectors > f.v.size()/sector:
		return refuse("it has %d sectors of %d bytes, which do not fit: it may be on several disks", sectors, sector)
	case dirty&3 != 0:
		return refuse("it was not unmounted: check it")
	case wide && (roots != 0 || le.Uint16(b[42:]) != 0):
		return refuse("its version is %x", le.Uint16(b[42:]))
	}
	rootSectors := (roots*32 + sector - 1) / sector
	first := reserved + int64(f.fats)*fatSectors + rootSectors
	if first >= sectors {
		return refuse("it has %d sectors, its tables take %d", sectors, first)
	}
	n := (sectors - first) / per
	switch { // which alone decides it
	case n < 4085:
		f.bits = 12
	case n < 65525:
		f.bits = 16
	default:
		f.bits = 32
	}
	if wide != (f.bits == 32) || n > 0x0FFFFFF5 {
		return refuse("it has %d clusters, and the boot sector of another kind", n)
	}
	f.clusters, f.cluster = uint32(n)+2, per*sector
	f.data, f.fat, f.fatBytes = first*sector, reserved*sector, fatSectors*sector
	if int64(f.clusters)*int64(f.bits) > f.fatBytes*8 {
		return refuse("its table has room for %d bytes, %d clusters need more", f.fatBytes, n)
	}
	return nil
}

// table reads the first table, and compares it with the second.
func (f *fatFS) table() ([]byte, error) {
	need := (int64(f.clusters)*int64(f.bits) + 7) / 8
	b := make([]byte, need) // at most 1 GiB, of a file system of 8 TiB and more
	if err := f.v.read(b, f.fat); err != nil {
		return nil, err
	}
	other := make([]byte, min(need, 1<<20))
	for off := int64(0); off < need && f.fats == 2; off += int64(len(other)) {
		other = other[:min(int64(len(other)), need-off)]
		if err := f.v.read(other, f.fat+f.fatBytes+off); err != nil {
			return nil, err
		}
		if !bytes.Equal(other, b[off:off+int64(len(other))]) {
			return nil, refuse("its two tables differ: check it")
		}
	}
	return b, nil
}

// entry is one of the table.
func (f *fatFS) entry(b []byte, n uint32) uint32 {
	switch f.bits {
	case 12:
		e := uint32(le.Uint16(b[n+n/2:]))
		if n&1 == 1 {
			return e >> 4
		}
		return e & 0xFFF
	case 16:
		return uint32(le.Uint16(b[2*n:]))
	}
	return le.Uint32(b[4*n:]) & 0x0FFFFFFF
}

func (f *fatFS) collect(b []byte, free *spanSet) error {
	if f.bits == 12 {
		b = append(b, 0) // the last entry may be read with what is behind it
	}
	switch e := f.entry(b, 1); { // it says if the volume was unmounted, and without errors
	case f.bits == 16 && e&0xC000 != 0xC000, f.bits == 32 && e&0x0C000000 != 0x0C000000:
		return refuse("it was not unmounted, or has errors: check it")
	}
	for n := uint32(2); n < f.clusters; n++ {
		if f.entry(b, n) == 0 {
			free.add(f.data+int64(n-2)*f.cluster, f.cluster)
		}
	}
	return nil
}
