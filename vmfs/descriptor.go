// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"fmt"
	"io/fs"
	"math"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// Type is that of a file.
type Type uint32

// The types of files.
const (
	Directory Type = 2
	Regular   Type = 3
	Symlink   Type = 4
	System    Type = 5 // holds the volume's own structures
	RawDevice Type = 6 // maps a LUN
)

// String returns the type's name.
func (t Type) String() string {
	switch t {
	case Directory:
		return "dir"
	case Regular:
		return "file"
	case Symlink:
		return "symlink"
	case System:
		return "system"
	case RawDevice:
		return "rdm"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// MarshalText is String.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Stat is what a file descriptor says. It is what Sys of a [fs.FileInfo] returns, as a
// pointer.
type Stat struct {
	Address    uint32 // of the file descriptor
	Offset     int64  // of the file descriptor in the volume
	Generation uint32
	Links      uint32
	Type       Type
	SizeBytes  int64
	UnitBytes  int64 // what an address stands for
	Units      uint64
	TBZ        uint64 // units that ESX has yet to zero
	Modified   time.Time
	Changed    time.Time
	Accessed   time.Time
	UID, GID   uint32
	Mode       uint32 // as on disk; the type may be missing
	AddrType   uint32 // the field zeroLevelAddrType
	Lock       Lock
	RDM        *DiskID // of a raw device mapping, nil if it is damaged; SizeBytes is that of the LUN then
}

// AllocatedBytes is what the file has on the volume.
func (s *Stat) AllocatedBytes() int64 {
	if s.UnitBytes <= 0 || s.Units > uint64(math.MaxInt64/s.UnitBytes) {
		return 0
	}
	return int64(s.Units) * s.UnitBytes
}

// inode is a file descriptor and where its bytes are.
type inode struct {
	stat   Stat
	layout layout
	rdmErr error // what is wrong with the id of a LUN
}

// fdPlaces are the offsets in a file descriptor.
type fdPlaces struct{ meta, data, dataLen, array, arrayLen int64 }

func (h *Header) fdPlaces() fdPlaces {
	if !h.wide() {
		return fdPlaces{meta: 512, data: 1024, dataLen: 1024, array: 1024, arrayLen: 256}
	}
	a := h.MetadataBytes
	if a <= 4096 {
		return fdPlaces{meta: a, data: a + 512, dataLen: a - 512, array: 2*a - 320*8, arrayLen: 320}
	}
	return fdPlaces{meta: a, data: a + 512, dataLen: a - 512, array: 2*a - a/2, arrayLen: a / 16}
}

// readDescriptor reads the file descriptor of an address.
func (f *FS) readDescriptor(addr uint32) (*inode, error) {
	if kind(addr&7) != kindDescriptor {
		return nil, fmt.Errorf("VMFS: %08x is no address of a file descriptor but of a %v: %w", addr, kind(addr&7), disk.ErrCorrupt)
	}
	at, err := f.fdc.position(descriptorID(addr))
	if err != nil {
		return nil, fmt.Errorf("VMFS: file descriptor %08x: %v: %w", addr, err, disk.ErrCorrupt)
	}
	b := make(fields, f.header.fdBytes())
	place, err := f.fdc.file.extend(at, int64(len(b)), 0)
	if err != nil {
		return nil, err
	}
	if place.where != Stored || place.length < int64(len(b)) {
		return nil, fmt.Errorf("VMFS: file descriptor %08x is not in one piece: %w", addr, disk.ErrCorrupt)
	}
	return f.descriptorAt(place.offset, addr)
}

// reread reads a file descriptor again, from the devices.
func (f *FS) reread(n *inode) (*inode, error) {
	f.vol.forget(n.stat.Offset, f.header.fdBytes())
	return f.readDescriptor(n.stat.Address)
}

// descriptorAt reads a file descriptor at an offset in the volume.
func (f *FS) descriptorAt(at int64, addr uint32) (*inode, error) {
	b := make(fields, f.header.fdBytes())
	if err := f.vol.readFull(b, at, "file descriptor"); err != nil {
		return nil, err
	}
	bad := func(field string, off int64, format string, args ...any) error {
		return f.vol.corrupt(fmt.Sprintf("file descriptor %08x: %s", addr, field), at+off, format, args...)
	}
	p := f.header.fdPlaces()
	n := &inode{}
	s := &n.stat
	s.Lock = parseLock(b[:lockLen])
	m := b[p.meta:]
	*s = Stat{
		Address: addr, Offset: at, Generation: m.u32(0x04), Links: m.u32(0x08), Type: Type(m.u32(0x0C)),
		UnitBytes: int64(m.u64(0x1C)), Units: m.u64(0x24), TBZ: uint64(m.u32(0x48)), Modified: unixTime(m.u32(0x2C)), Changed: unixTime(m.u32(0x30)),
		Accessed: unixTime(m.u32(0x34)), UID: m.u32(0x38), GID: m.u32(0x3C), Mode: m.u32(0x40), AddrType: m.u32(0x44), Lock: s.Lock,
	}
	size := m.u64(0x14)
	switch {
	case s.Lock.kind != lockTypeFD:
		return nil, bad("lock type", 0, "is %08x", s.Lock.kind)
	case s.Lock.addr != uint64(at):
		return nil, bad("lock address", 4, "says that it lies at %d of the volume", s.Lock.addr)
	case m.u32(0) != addr:
		return nil, bad("address", p.meta, "says %08x", m.u32(0))
	case s.Type < Directory || s.Type > RawDevice:
		return nil, bad("type", p.meta+0x0C, "is %d", uint32(s.Type))
	case s.Links == 0:
		return nil, bad("link count", p.meta+8, "is 0: the file was deleted, and its blocks may be another's")
	case size > maxFileBytes:
		return nil, bad("file length", p.meta+0x14, "is %d", size)
	}
	s.SizeBytes = int64(size)
	if s.Type == RawDevice {
		id, err := parseDiskID(b[p.data:][:diskIDLen])
		if err != nil {
			n.rdmErr = bad("id of the LUN", p.data, "%v", err)
			return n, nil
		}
		s.RDM = &id
		return n, nil
	}
	n.layout = layout{fs: f, name: fmt.Sprintf("file %08x", addr), at: at, size: s.SizeBytes, unit: s.UnitBytes, zla: s.AddrType}
	return n, f.fillLayout(n, b, bad)
}

// maxFileBytes is the longest a file can be.
const maxFileBytes = disk.MaxSize

func unixTime(seconds uint32) time.Time { return time.Unix(int64(seconds), 0).UTC() }

func (f *FS) fillLayout(n *inode, b fields, bad func(string, int64, string, ...any) error) error {
	p, l := f.header.fdPlaces(), &n.layout
	if l.zla == zlaResident {
		if l.size > p.dataLen {
			return bad("file length", p.meta+0x14, "is %d, in a file descriptor is room for %d", l.size, p.dataLen)
		}
		l.resident, l.residentAt = true, l.at+p.data
		return nil
	}
	blockUnit := l.unit == f.header.BlockBytes || f.header.wide() && l.unit == f.header.largeBlockBytes()
	room := float64(p.arrayLen) // of units; a float64 has room for all
	switch l.zla {
	case zlaSubBlocks:
		if f.sbc == nil || f.sbc.total == 0 || l.unit != f.sbc.bytes {
			return bad("block size", p.meta+0x1C, "is %d, sub-blocks have another size", l.unit)
		}
	case zlaBlocks, zlaPointers, zlaPointers2, zlaDouble:
		if !blockUnit {
			return bad("block size", p.meta+0x1C, "is %d, file blocks have %d bytes", l.unit, f.header.BlockBytes)
		}
		if l.zla != zlaBlocks {
			room *= float64(f.pointers)
		}
		if l.zla == zlaDouble {
			room *= float64(f.pointers)
		}
	default:
		return bad("address type", p.meta+0x44, "is %d", l.zla)
	}
	if float64(l.size) > room*float64(l.unit) {
		return bad("file length", p.meta+0x14, "is %d, its addresses stand for %.0f bytes", l.size, room*float64(l.unit))
	}
	l.addrs = make([]address, p.arrayLen)
	width := f.addressBytes()
	for i := range l.addrs {
		l.addrs[i] = b[p.array:].address(i, width)
	}
	return nil
}

// mode returns the mode as io/fs has it. The type on disk may be missing.
func (s *Stat) mode() fs.FileMode {
	m := fs.FileMode(s.Mode & 0o777)
	if s.Mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	switch {
	case s.isDir():
		m |= fs.ModeDir
	case s.Type == Symlink:
		m |= fs.ModeSymlink
	case s.Type == RawDevice:
		m |= fs.ModeDevice
	}
	return m
}

// isDir reports if the file is a directory: one of the system's own has their type.
func (s *Stat) isDir() bool {
	const formatBits, formatDir = 0o170000, 0o040000
	return s.Type == Directory || s.Type == System && s.Mode&formatBits == formatDir
}
