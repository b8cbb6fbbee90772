// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// dirEntry is a row of a directory.
type dirEntry struct {
	kind       Type
	addr       uint32
	generation uint32
	name       string
}

const (
	entryLen     = 0x8C
	entryAddress = 0x04
	entryName    = 0x0C
	entryNameLen = 128

	// maxDirectoryBytes bounds a directory: four times what all files of a volume
	// need that has as many as a product allows.
	maxDirectoryBytes = 256 << 20
)

// directory is what a directory holds. Entries that are no good are errors; the others
// are there all the same.
type directory struct {
	entries []dirEntry
	self    uint32 // address of what . is
	parent  uint32 // and of what .. is
	errs    []error

	// again are the names that have the same entry twice, as is left if the removal of
	// another was interrupted. It does no harm.
	again []string
}

// readDirectory reads all entries of a directory, in the order that they have there.
func (f *FS) readDirectory(n *inode) (*directory, error) {
	if n.layout.size > maxDirectoryBytes {
		return nil, n.layout.corrupt("directory", 0, "has %d bytes", n.layout.size)
	}
	d := &directory{}
	var err error
	if f.header.wide() {
		err = f.readHashed(n, d)
	} else {
		err = f.readLinear(n, d)
	}
	if err != nil {
		return nil, err
	}
	d.checkNames(&n.layout)
	return d, nil
}

// readLinear reads a directory of VMFS-3 or VMFS-5: an array of entries.
func (f *FS) readLinear(n *inode, d *directory) error {
	l := &n.layout
	if l.size%entryLen != 0 {
		d.errs = append(d.errs, l.corrupt("directory", l.size, "ends within an entry"))
	}
	const atOnce = 512
	b := make(fields, entryLen*atOnce)
	for off := int64(0); off+entryLen <= l.size; off += int64(len(b)) {
		b = b[:min(int64(cap(b)), (l.size-off)/entryLen*entryLen)]
		if err := l.readFull(b, off, "directory"); err != nil {
			return err
		}
		for i := 0; i < len(b); i += entryLen {
			e := b[i:][:entryLen]
			d.add(e, entryName, entryNameLen)
		}
	}
	return nil
}

// add takes an entry; one without an address is not in use.
func (d *directory) add(e fields, nameAt, nameLen int) {
	row := dirEntry{kind: Type(e.u32(0)), addr: e.u32(4), generation: e.u32(8), name: e.text(nameAt, nameLen)}
	switch {
	case row.addr == 0:
	case row.name == ".":
		d.self = row.addr
	case row.name == "..":
		d.parent = row.addr
	default:
		d.entries = append(d.entries, row)
	}
}

// checkNames drops entries whose names are no names, and second ones of a name.
func (d *directory) checkNames(l *layout) {
	seen := make(map[string]dirEntry, len(d.entries))
	kept := d.entries[:0]
	for _, e := range d.entries {
		other, twice := seen[e.name]
		switch {
		case e.name == "" || strings.ContainsAny(e.name, "/\x00"):
			d.errs = append(d.errs, l.corrupt("directory", 0, "an entry is called %q, which is no name", e.name))
			continue
		case twice && e == other:
			d.again = append(d.again, e.name)
			continue
		case twice:
			d.errs = append(d.errs, l.corrupt("directory", 0, "%q is there twice", e.name))
			continue
		}
		seen[e.name] = e
		kept = append(kept, e)
	}
	d.entries = kept
}

// Of a directory of VMFS-6: a header, then blocks of the size of metadata, numbered from 0.
const (
	hashedHeaderLen  = 64 << 10
	hashedVersion    = 0x00F50001
	hashedVersionDbg = 0x00FDC001
	hashedMaps       = 128 // block numbers of allocation maps in the header
	hashedEntryLen   = 288
	hashedName       = 0x18
	hashedNameLen    = 256
	hashedBlockHead  = 64
	hashedUnused     = 0xFFFFFFFF

	blockEntries = 1 // types of blocks
	blockMap     = 3
)

// readHashed reads a directory of VMFS-6. Names are found by a hash there; who wants all
// goes through the blocks.
func (f *FS) readHashed(n *inode, d *directory) error {
	l := &n.layout
	h := make(fields, 0x5F8)
	if err := l.readFull(h, 0, "directory header"); err != nil {
		return err
	}
	bad := func(format string, args ...any) error { return l.corrupt("directory header", 0, format, args...) }
	if v := h.u32(0); v != hashedVersion && v != hashedVersionDbg {
		return bad("version %08x", v)
	}
	maps := h.u32(0x0C)
	if maps > hashedMaps {
		return bad("%d allocation maps, there is room for %d", maps, hashedMaps)
	}
	d.self, d.parent = h[0x3B8:].u32(4), h[0x4D8:].u32(4)
	blocks := &hashedBlocks{l: l, bytes: f.header.MetadataBytes}
	blocks.buf = make(fields, blocks.bytes)
	var allocated uint32
	for i := range int(maps) {
		number := h.u32(0x10 + i*4)
		if number == hashedUnused {
			continue
		}
		m, err := blocks.read(number, blockMap)
		if err != nil {
			return err
		}
		m = append(fields(nil), m[hashedBlockHead:]...)
		first := uint32(i) * uint32(2*len(m))
		for k := range uint32(2 * len(m)) {
			nibble := m[k/2] >> (4 * (1 - k%2)) & 0xF // the high one first
			if nibble&3 != blockEntries || nibble&0xC != 0 {
				continue
			}
			if allocated++; int64(allocated)*blocks.bytes > maxDirectoryBytes {
				return bad("more than %d bytes of entries", maxDirectoryBytes)
			}
			if err := blocks.entries(first+k, d); err != nil {
				d.errs = append(d.errs, err)
				if len(d.errs) > maxDirectoryErrors {
					return bad("more than %d blocks are no good", maxDirectoryErrors)
				}
			}
		}
	}
	if got, want := uint32(len(d.entries))+2, h.u32(4); got != want {
		d.errs = append(d.errs, bad("says that there are %d entries, there are %d", want, got))
	}
	return nil
}

// maxDirectoryErrors is how much damage of a directory is told.
const maxDirectoryErrors = 100

type hashedBlocks struct {
	l     *layout
	bytes int64
	buf   fields
}

// read reads a block, which is good until the next call.
func (b *hashedBlocks) read(number uint32, kind uint16) (fields, error) {
	at := hashedHeaderLen + int64(number)*b.bytes
	if err := b.l.readBeyond(b.buf, at, "directory block"); err != nil {
		return nil, err
	}
	if got := b.buf.u16(2); got != kind {
		return nil, b.l.corrupt("directory block", at, "is of type %d, the directory says %d", got, kind)
	}
	return b.buf, nil
}

// entries adds those of a block.
func (b *hashedBlocks) entries(number uint32, d *directory) error {
	block, err := b.read(number, blockEntries)
	if err != nil {
		return err
	}
	slots := int(block.u16(4))
	if room := min((len(block)-hashedBlockHead)/hashedEntryLen, 56*8); slots > room {
		return b.l.corrupt("directory block", hashedHeaderLen+int64(number)*b.bytes, "has %d slots where there is room for %d", slots, room)
	}
	for i := range slots {
		if block[8+i/8]>>(i%8)&1 == 1 { // free
			continue
		}
		d.add(block[hashedBlockHead+i*hashedEntryLen:][:hashedEntryLen], hashedName, hashedNameLen)
	}
	return nil
}

// err joins what is wrong in a directory.
func (d *directory) err() error { return errors.Join(d.errs...) }

// find returns the entry of a name.
func (d *directory) find(name string) (dirEntry, bool) {
	for _, e := range d.entries {
		if e.name == name {
			return e, true
		}
	}
	return dirEntry{}, false
}

// descriptor reads what an entry leads to. parent is the directory that has it.
func (f *FS) entryDescriptor(e dirEntry, parent uint32) (*inode, error) {
	n, err := f.readDescriptor(e.addr)
	if err != nil {
		return nil, err
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("VMFS: file descriptor %08x: %s: %w", e.addr, fmt.Sprintf(format, args...), disk.ErrCorrupt)
	}
	switch {
	case e.addr == rootAddress:
		return nil, wrong("an entry leads back to the root directory")
	case n.stat.Generation != e.generation:
		return nil, wrong("is of generation %d, the directory means %d: it has become another file", n.stat.Generation, e.generation)
	case n.stat.Type != e.kind:
		return nil, wrong("is a %v, the directory means a %v", n.stat.Type, e.kind)
	}
	return n, nil
}
