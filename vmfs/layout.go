// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"
	"math"

	"github.com/vmstream/vmstream/disk"
)

// The types of address arrays (the field zeroLevelAddrType).
const (
	zlaBlocks    = 1
	zlaSubBlocks = 2
	zlaPointers  = 3
	zlaPointers2 = 5
	zlaDouble    = 4304
	zlaResident  = 4305
)

// maxDepth bounds how many files it takes to find a byte: that of sub-blocks may lie
// behind pointer blocks, and these are in a file of their own.
const maxDepth = 6

var (
	errNoResources = errors.New("the volume has no such system file")
	errDepth       = errors.New("system files refer to each other")
)

// layout tells where the bytes of a file are.
type layout struct {
	fs    *FS
	name  string // for messages
	at    int64  // of the file descriptor in the volume, for messages
	size  int64
	unit  int64 // what an address stands for, in bytes
	zla   uint32
	addrs []address

	resident   bool
	residentAt int64 // in the volume
}

// Where says what kind of place bytes of a file are in.
type Where uint8

// The places.
const (
	Stored   Where = iota + 1 // on a device
	Hole                      // not allocated: reads as zeros
	ToBeZero                  // allocated, not zeroed yet: what is there is old, and reads as zeros
)

// String returns data, hole or tbz.
func (w Where) String() string {
	switch w {
	case Stored:
		return "data"
	case Hole:
		return "hole"
	case ToBeZero:
		return "tbz"
	}
	return "invalid"
}

// span is a range of a file in one place. offset is in the volume, for what is stored.
type span struct {
	where  Where
	offset int64
	length int64
}

func (l *layout) corrupt(field string, off int64, format string, args ...any) error {
	e := l.fs.vol.corrupt(field, l.at, format, args...)
	var f *disk.FormatError
	if errors.As(e, &f) {
		f.Detail = fmt.Sprintf("%s, byte %d: %s", l.name, off, f.Detail)
	}
	return e
}

// lookup returns the place of the byte at off, and how far it goes at least. off is in
// the room that the addresses stand for, which may go beyond the size.
func (l *layout) lookup(off int64, depth int) (span, error) {
	if depth > maxDepth {
		return span{}, l.corrupt("address", off, "%v", errDepth)
	}
	if l.resident {
		if off >= l.size {
			return span{}, l.corrupt("file length", off, "there is no more in the file descriptor")
		}
		return span{Stored, l.residentAt + off, l.size - off}, nil
	}
	index := off / l.unit
	a, covers, err := l.addressOf(index, depth)
	if err != nil {
		return span{}, err
	}
	if a == 0 {
		end := (index/covers + 1) * covers
		if end > math.MaxInt64/l.unit {
			return span{Hole, 0, math.MaxInt64 - off}, nil
		}
		return span{Hole, 0, end*l.unit - off}, nil
	}
	return l.data(a, off, depth)
}

// addressOf returns the address of a unit. A zero stands for as many units, at a
// multiple of them, as the last result says.
func (l *layout) addressOf(index int64, depth int) (address, int64, error) {
	p := l.fs.pointers
	array, levels := index, 0
	switch l.zla {
	case zlaPointers, zlaPointers2:
		array, levels = index/p, 1
	case zlaDouble:
		array, levels = index/p/p, 2
	}
	if array >= int64(len(l.addrs)) {
		return 0, 0, l.corrupt("address array", index*l.unit, "has %d addresses, number %d is needed", len(l.addrs), array)
	}
	a, covers := l.addrs[array], int64(1)
	for range levels {
		covers *= p
	}
	for ; levels > 0; levels-- {
		if a == 0 || a.kind() == kindLarge {
			return a, covers, nil
		}
		covers /= p
		block, err := l.pointerBlock(a, index*l.unit, depth)
		if err != nil {
			return 0, 0, err
		}
		a = block[index/covers%p]
	}
	return a, 1, nil
}

// pointerBlock returns the addresses in a pointer block.
func (l *layout) pointerBlock(a address, off int64, depth int) ([]address, error) {
	f := l.fs
	if b, ok := f.blocks.Get(a); ok {
		return b, nil
	}
	var r *resources
	switch a.kind() {
	case kindPointers:
		r = f.pbc
	case kindPointers2:
		r = f.pb2
	case kindSubBlock:
		if f.header.wide() {
			r = f.sbc
		}
	}
	at, err := r.position(f.header.resource(a))
	if err != nil {
		return nil, l.corrupt("address of a pointer block", off, "%x, %v: %v", uint64(a), a.kind(), err)
	}
	width := f.addressBytes()
	raw := make(fields, f.pointers*width)
	if int64(len(raw)) > r.bytes {
		return nil, l.corrupt("address of a pointer block", off, "%x: those of %s have %d bytes", uint64(a), r.name, r.bytes)
	}
	if err := r.file.read(raw, at, "pointer block", depth+1); err != nil {
		return nil, err
	}
	b := make([]address, f.pointers)
	for i := range b {
		b[i] = raw.address(i, width)
	}
	f.blocks.Put(a, b, int64(len(b))*8)
	return b, nil
}

func (f fields) address(i int, width int64) address {
	if width == 8 {
		return address(f.u64(i * 8))
	}
	return address(f.u32(i * 4))
}

// data returns the place that an address of data stands for.
func (l *layout) data(a address, off int64, depth int) (span, error) {
	f := l.fs
	bad := func(format string, args ...any) (span, error) {
		return span{}, l.corrupt("address", off, "%x, %v: %s", uint64(a), a.kind(), fmt.Sprintf(format, args...))
	}
	switch k := a.kind(); {
	case k == kindBlock && l.zla != zlaSubBlocks, k == kindLarge && f.header.wide() && l.zla != zlaSubBlocks:
		at, length, tbz := f.header.block(a)
		if at > f.vol.size || length > f.vol.size-at {
			return bad("lies at %d of the volume, which has %d bytes", at, f.vol.size)
		}
		in := off % length
		if l.unit != length && k == kindBlock {
			return bad("a unit has %d bytes", l.unit)
		}
		left := min(length, l.unit) - in%min(length, l.unit)
		if tbz {
			return span{ToBeZero, 0, left}, nil
		}
		return span{Stored, at + in, left}, nil
	case k == kindSubBlock && l.zla == zlaSubBlocks:
		at, err := f.sbc.position(f.header.resource(a))
		if err != nil {
			return bad("%v", err)
		}
		in := off % l.unit
		s, err := f.sbc.file.lookup(at+in, depth+1)
		if err != nil {
			return span{}, err
		}
		if s.where != Stored {
			return bad("its file has a hole there")
		}
		s.length = min(s.length, l.unit-in)
		return s, nil
	}
	return bad("no data is in such a place here")
}

// readFull fills p from the file.
func (l *layout) readFull(p []byte, off int64, field string) error { return l.read(p, off, field, 0) }

// readBeyond reads what blocks of the file have, also behind its end.
func (l *layout) readBeyond(p []byte, off int64, field string) error {
	if l.resident {
		return l.readFull(p, off, field)
	}
	all := *l
	all.size = math.MaxInt64
	return all.readFull(p, off, field)
}

func (l *layout) read(p []byte, off int64, field string, depth int) error {
	if off < 0 || off > l.size || int64(len(p)) > l.size-off {
		return l.corrupt(field, off, "%d bytes are expected there, there are %d in all", len(p), l.size)
	}
	for len(p) > 0 {
		s, err := l.extend(off, int64(len(p)), depth)
		if err != nil {
			return err
		}
		n := min(s.length, int64(len(p)))
		if s.where == Stored {
			err = l.fs.vol.readFull(p[:n], s.offset, l.name)
		} else {
			clear(p[:n])
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// extend is lookup for as much of n bytes as is one piece of the volume, or of one
// kind without data.
func (l *layout) extend(off, n int64, depth int) (span, error) {
	s, err := l.lookup(off, depth)
	for err == nil && s.length < n {
		var next span
		if next, err = l.lookup(off+s.length, depth); err != nil {
			return s, nil // what comes first is good; who goes on finds the error
		}
		if next.where != s.where || s.where == Stored && next.offset != s.offset+s.length {
			break
		}
		s.length += next.length
	}
	return s, err
}
