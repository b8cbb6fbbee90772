// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"bytes"
	"slices"
)

// The layout of NTFS is described in the documentation of the Linux-NTFS project, and that
// of shadow copies in the one of libvshadow.

// Records of the master file table that every volume has.
const (
	ntfsMFT     = 0
	ntfsLogFile = 2
	ntfsVolume  = 3
	ntfsRoot    = 5
	ntfsBitmap  = 6
)

// Types of attributes.
const (
	ntfsAttributeList     = 0x20
	ntfsVolumeInformation = 0x70
	ntfsData              = 0x80
	ntfsIndexRoot         = 0x90
	ntfsIndexAllocation   = 0xA0
	ntfsEnd               = 0xFFFFFFFF
)

// ntfsFS is such a file system.
type ntfsFS struct {
	v        *volume
	cluster  int64
	clusters uint64
	record   int64 // bytes of a record of the table
	index    int64 // bytes of a block of a directory
	mft      []ntfsRun
}

// ntfsRun is a range of an attribute. One without a place is a hole.
type ntfsRun struct {
	vcn, lcn, n uint64
	hole        bool
}

func readNTFS(v *volume, free *spanSet) (string, error) {
	f := &ntfsFS{v: v}
	for _, step := range []func() error{f.boot, f.volume, f.log, f.shadows, f.hibernated} {
		if err := step(); err != nil {
			return "ntfs", err
		}
	}
	return "ntfs", f.collect(free)
}

// boot reads the boot sector and where the table is.
func (f *ntfsFS) boot() error {
	b, err := f.v.peek(512)
	if err != nil {
		return err
	}
	sector, per := int64(le.Uint16(b[0x0B:])), int64(b[0x0D])
	if per > 0x80 {
		per = 1 << min(256-per, 20)
	}
	sectors := le.Uint64(b[0x28:])
	f.cluster = sector * per
	switch {
	case b[510] != 0x55 || b[511] != 0xAA || sector < 512 || sector > 4096 || sector&(sector-1) != 0 || per == 0 || per&(per-1) != 0 || f.cluster > 2<<20:
		return refuse("its sectors have %d bytes, its clusters %d", sector, f.cluster)
	case sectors == 0 || sectors > uint64(f.v.size()/sector):
		return refuse("it has %d sectors of %d bytes, which do not fit: it may be on several disks", sectors, sector)
	}
	f.clusters = sectors / uint64(per)
	size := func(c byte) int64 {
		if n := int8(c); n < 0 {
			return 1 << min(-int(n), 20)
		}
		return int64(c) * f.cluster
	}
	f.record, f.index = size(b[0x40]), size(b[0x44])
	for _, n := range []int64{f.record, f.index} {
		if n < 512 || n > 64<<10 || n&(n-1) != 0 {
			return refuse("its records have %d bytes, its index blocks %d", f.record, f.index)
		}
	}
	f.mft = []ntfsRun{{lcn: le.Uint64(b[0x30:]), n: uint64(max(16*f.record/f.cluster, 1))}}
	r, err := f.file(ntfsMFT)
	if err != nil {
		return err
	}
	runs, _, err := f.runs(r, ntfsData)
	if err != nil {
		return err
	}
	f.mft = runs
	return nil
}

// file reads a record of the table.
func (f *ntfsFS) file(n uint64) ([]byte, error) {
	b := make([]byte, f.record)
	if err := f.read(f.mft, b, int64(n)*f.record); err != nil {
		return nil, err
	}
	if err := fixUp(b, "FILE"); err != nil {
		return nil, err
	}
	if le.Uint16(b[0x16:])&1 == 0 || le.Uint64(b[0x20:]) != 0 {
		return nil, refuse("record %d of its table is not in use, or not one of its own", n)
	}
	return b, nil
}

// fixUp checks and puts back the last two bytes of each 512: a write that was torn shows.
func fixUp(b []byte, magic string) error {
	at, n := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if string(b[:4]) != magic || n != len(b)/512+1 || at+2*n > 510 {
		return refuse("a record %q is not there, or not readable", magic)
	}
	for i := 1; i < n; i++ {
		end := b[i*512-2:]
		if end[0] != b[at] || end[1] != b[at+1] {
			return refuse("a record %q was not written whole", magic)
		}
		copy(end, b[at+2*i:][:2])
	}
	return nil
}

// attribute returns one of a record that has no name of its own (or that of a directory),
// nil if there is none.
func (f *ntfsFS) attribute(r []byte, kind uint32) ([]byte, error) {
	var found []byte
	for at, used := int(le.Uint16(r[0x14:])), min(int(le.Uint32(r[0x18:])), len(r)); ; {
		if at < 0x18 || at+4 > used {
			return nil, refuse("a record of its table has no end")
		}
		t := le.Uint32(r[at:])
		if t == ntfsEnd {
			return found, nil
		}
		if at+24 > used {
			return nil, refuse("a record of its table has no end")
		}
		n := int(le.Uint32(r[at+4:]))
		if n < 24 || n%8 != 0 || n > used-at {
			return nil, refuse("an attribute of its table has %d bytes", n)
		}
		if t == ntfsAttributeList {
			return nil, refuse("a file of its own is in so many pieces that they are listed elsewhere")
		}
		if t == kind && found == nil && (r[at+9] == 0 || kind >= ntfsIndexRoot) {
			found = r[at : at+n]
		}
		at += n
	}
}

// resident returns the value of an attribute in a record.
func resident(a []byte) ([]byte, error) {
	n, at := int(le.Uint32(a[0x10:])), int(le.Uint16(a[0x14:]))
	if a[8] != 0 || at > len(a) || n > len(a)-at {
		return nil, refuse("an attribute of its table has %d bytes at %d", n, at)
	}
	return a[at : at+n], nil
}

// runs returns where an attribute is, and how many bytes it has.
func (f *ntfsFS) runs(r []byte, kind uint32) (runs []ntfsRun, size int64, err error) {
	a, err := f.attribute(r, kind)
	if err != nil {
		return nil, 0, err
	}
	if a == nil || a[8] == 0 || len(a) < 0x40 {
		return nil, 0, refuse("an attribute of its table is not where it should be")
	}
	if le.Uint16(a[0x0C:]) != 0 || le.Uint64(a[0x10:]) != 0 {
		return nil, 0, refuse("a file of its own is compressed or in parts")
	}
	size = int64(le.Uint64(a[0x30:]))
	at := int(le.Uint16(a[0x20:]))
	vcn, lcn := uint64(0), int64(0)
	for {
		if at >= len(a) {
			return nil, 0, refuse("a list of clusters has no end")
		}
		if a[at] == 0 {
			break
		}
		lengthBytes, placeBytes := int(a[at]&15), int(a[at]>>4)
		if lengthBytes == 0 || lengthBytes > 8 || placeBytes > 8 || at+1+lengthBytes+placeBytes > len(a) {
			return nil, 0, refuse("a list of clusters is not readable")
		}
		n := signed(a[at+1:][:lengthBytes])
		run := ntfsRun{vcn: vcn, hole: placeBytes == 0}
		if placeBytes > 0 {
			lcn += signed(a[at+1+lengthBytes:][:placeBytes])
			run.lcn = uint64(lcn)
		}
		if n <= 0 || lcn < 0 || uint64(lcn) > f.clusters || uint64(n) > f.clusters-run.lcn {
			return nil, 0, refuse("a list of clusters has %d at %d, there are %d", n, lcn, f.clusters)
		}
		run.n = uint64(n)
		runs, vcn = append(runs, run), vcn+run.n
		at += 1 + lengthBytes + placeBytes
	}
	if size < 0 || uint64(size) > vcn*uint64(f.cluster) {
		return nil, 0, refuse("a file of its own has %d bytes, and clusters for fewer", size)
	}
	return runs, size, nil
}

func signed(b []byte) (n int64) {
	for i, c := range b {
		n |= int64(c) << (8 * i)
	}
	shift := 64 - 8*len(b)
	return n << shift >> shift
}

// read reads from an attribute.
func (f *ntfsFS) read(runs []ntfsRun, p []byte, off int64) error {
	for len(p) > 0 {
		vcn, in := uint64(off/f.cluster), off%f.cluster
		i := slices.IndexFunc(runs, func(r ntfsRun) bool { return vcn >= r.vcn && vcn < r.vcn+r.n })
		if i < 0 || runs[i].hole {
			return refuse("a file of its own has no cluster %d", vcn)
		}
		r := runs[i]
		n := min(int64(len(p)), int64(r.vcn+r.n-vcn)*f.cluster-in)
		if err := f.v.read(p[:n], int64(r.lcn+vcn-r.vcn)*f.cluster+in); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// volume looks at what the volume says of its state.
func (f *ntfsFS) volume() error {
	r, err := f.file(ntfsVolume)
	if err != nil {
		return err
	}
	a, err := f.attribute(r, ntfsVolumeInformation)
	if err != nil {
		return err
	}
	if a == nil {
		return refuse("it does not say in which state it is")
	}
	b, err := resident(a)
	if err != nil {
		return err
	}
	if len(b) < 12 {
		return refuse("it does not say in which state it is")
	}
	version := [2]byte{b[8], b[9]}
	const bad = 0x403F // dirty, to be resized or upgraded, to be repaired, being checked
	flags := le.Uint16(b[10:])
	switch {
	case version != [2]byte{3, 1} && version != [2]byte{3, 0} && version != [2]byte{1, 2}:
		return refuse("its version is %d.%d", version[0], version[1])
	case flags&1 != 0:
		return refuse("it is marked as dirty: check it")
	case flags&bad != 0:
		return refuse("it has work to be done first (flags %x)", flags)
	}
	return nil
}

// log refuses a volume that was not unmounted: its log may say more than its bitmap.
func (f *ntfsFS) log() error {
	r, err := f.file(ntfsLogFile)
	if err != nil {
		return err
	}
	runs, size, err := f.runs(r, ntfsData)
	if err != nil {
		return err
	}
	first := make([]byte, 4096)
	if size < int64(len(first)) {
		return refuse("its log has %d bytes", size)
	}
	if err := f.read(runs, first, 0); err != nil {
		return err
	}
	if bytes.Equal(first, bytes.Repeat([]byte{0xFF}, len(first))) {
		return nil // there is nothing in it
	}
	page := int64(le.Uint32(first[0x10:]))
	if page < 512 || page > 64<<10 || page&(page-1) != 0 || 2*page > size {
		return refuse("its log has pages of %d bytes", page)
	}
	newest := uint64(0)
	clean, seen := false, false
	for i := range int64(2) {
		b := make([]byte, page)
		if err := f.read(runs, b, i*page); err != nil {
			return err
		}
		if string(b[:4]) == "CHKD" {
			return refuse("its log says that it was being checked")
		}
		if fixUp(b, "RSTR") != nil {
			continue // one of the two is enough
		}
		at := int(le.Uint16(b[0x18:]))
		if major := le.Uint16(b[0x1C:]); major > 1 {
			return refuse("its log is of version %d: it was not unmounted", major)
		}
		if at < 0x1E || at+0x10 > len(b) {
			return refuse("its log has no restart area")
		}
		if lsn := le.Uint64(b[at:]); !seen || lsn >= newest {
			newest, seen = lsn, true
			const noClient, isClean = 0xFFFF, 2
			clean = le.Uint16(b[at+0x0C:]) == noClient || le.Uint16(b[at+0x0E:])&isClean != 0
		}
	}
	if !clean {
		return refuse("it was not unmounted: its log may have what its bitmap has not")
	}
	return nil
}

// shadows refuses a volume with shadow copies: what is free now may be in one of them.
func (f *ntfsFS) shadows() error {
	b := make([]byte, 128)
	if err := f.v.read(b, 0x1E00); err != nil {
		return err
	}
	id := []byte{0x6B, 0x87, 0x08, 0x38, 0x76, 0xC1, 0x48, 0x4E, 0xB7, 0xAE, 0x04, 0x04, 0x6E, 0x6C, 0xC7, 0x52}
	if bytes.HasPrefix(b, id) && le.Uint64(b[0x30:]) != 0 {
		return refuse("it has shadow copies (restore points), which need what is free otherwise")
	}
	return nil
}

// collect goes through the bitmap.
func (f *ntfsFS) collect(free *spanSet) error {
	r, err := f.file(ntfsBitmap)
	if err != nil {
		return err
	}
	need := int64(f.clusters+7) / 8
	a, err := f.attribute(r, ntfsData)
	if err != nil {
		return err
	}
	if a != nil && a[8] == 0 {
		b, err := resident(a)
		if err != nil {
			return err
		}
		if int64(len(b)) < need {
			return refuse("its bitmap has %d bytes, %d are needed", len(b), need)
		}
		f.bits(b, 0, free)
		return nil
	}
	runs, size, err := f.runs(r, ntfsData)
	if err != nil {
		return err
	}
	if size < need {
		return refuse("its bitmap has %d bytes, %d are needed", size, need)
	}
	b := make([]byte, 1<<20)
	for off := int64(0); off < need; off += int64(len(b)) {
		b = b[:min(int64(len(b)), need-off)]
		if err := f.read(runs, b, off); err != nil {
			return err
		}
		f.bits(b, uint64(off)*8, free)
	}
	return f.own(free)
}

// bits adds what is free in a part of the bitmap that begins with a cluster.
func (f *ntfsFS) bits(b []byte, first uint64, free *spanSet) {
	for i, c := range b {
		if c == 0xFF {
			continue
		}
		for k := range uint64(8) {
			if n := first + uint64(i)*8 + k; n < f.clusters && c>>k&1 == 0 {
				free.add(int64(n)*f.cluster, f.cluster)
			}
		}
	}
}

// own refuses a bitmap that calls the volume's own files free.
func (f *ntfsFS) own(free *spanSet) error {
	var all spanSet
	all.add(0, f.cluster)
	for n := range uint64(11) {
		r, err := f.file(n)
		if err != nil {
			return err
		}
		a, err := f.attribute(r, ntfsData)
		if err != nil {
			return err
		}
		if a == nil || a[8] == 0 {
			continue
		}
		if n == 8 { // the bad clusters: all of the volume, as a hole
			continue
		}
		runs, _, err := f.runs(r, ntfsData)
		if err != nil {
			return err
		}
		for _, x := range runs {
			if !x.hole {
				all.add(int64(x.lcn)*f.cluster, int64(x.n)*f.cluster)
			}
		}
	}
	free.all = free.done()
	if left := without(free.all, all.done()); total(left) != total(free.all) {
		return refuse("its bitmap says that its own files are free: check it")
	}
	return nil
}
