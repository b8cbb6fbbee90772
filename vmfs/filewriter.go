// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// Provisioning says what blocks a new file has.
type Provisioning int

// The kinds of vmkfstools.
const (
	Thin             Provisioning = iota // those that something is written to
	ZeroedThick                          // all, to be zeroed when they are written to
	EagerZeroedThick                     // all, and zeroed
)

// CreateOptions say what a new file is.
type CreateOptions struct {
	SizeBytes    int64 // see [Writer.Resize]
	Provisioning Provisioning
	Mode         fs.FileMode // 0 means 0600
	Modified     time.Time   // zero means now
}

// FileWriter is a new file, which is in its directory from Close on. It is a disk.Writer;
// offsets need not be multiples of anything, and ranges may be written again.
type FileWriter struct {
	w        *Writer
	n        *inode
	name     string
	old      *inode   // what it takes the place of, nil if it has a name of its own
	pointers uint32   // pointer blocks that it has
	spare    []uint64 // file blocks that are taken already
	dense    bool     // zeros take blocks, too
	done     bool
}

var _ disk.Writer = (*FileWriter)(nil)

// Create makes a file of a given length. Nobody sees it before it is closed; Abort drops
// it.
func (w *Writer) Create(name string, o CreateOptions) (*FileWriter, error) {
	if o.Mode == 0 {
		o.Mode = 0o600
	}
	x, err := w.create(name, Regular, o)
	return x, pathError("create", name, err)
}

func (w *Writer) create(name string, t Type, o CreateOptions) (*FileWriter, error) {
	if _, _, err := w.place(name); err != nil {
		return nil, err
	}
	x, err := w.newFile(name, t, o)
	if err != nil {
		return nil, err
	}
	if err := x.start(o.Provisioning, 0); err != nil {
		return nil, errors.Join(err, x.abort())
	}
	return x, nil
}

// newFile takes a file descriptor for a file, and says by what addresses it has its bytes.
func (w *Writer) newFile(name string, t Type, o CreateOptions) (*FileWriter, error) {
	h := w.fs.header
	p := h.fdPlaces()
	array := float64(p.arrayLen)
	most := array * float64(w.fs.pointers) * float64(h.BlockBytes)
	if h.Generation == VMFS5 {
		most *= float64(w.fs.pointers)
	}
	if o.SizeBytes < 0 || float64(o.SizeBytes) > min(most, maxFileBytes) {
		return nil, fmt.Errorf("VMFS: a file of %v has at most %.0f bytes, not %d: %w", h.Generation, min(most, maxFileBytes), o.SizeBytes, disk.ErrUnsupported)
	}
	const regular = 0o100000
	mode := uint32(o.Mode.Perm())
	if t == Regular {
		mode |= regular
	}
	n, err := w.newInode(t, mode, o.SizeBytes, o.Modified)
	if err != nil {
		return nil, err
	}
	s, l := &n.stat, &n.layout
	blocks := (o.SizeBytes + h.BlockBytes - 1) / h.BlockBytes
	switch {
	case o.Provisioning == Thin && h.Generation == VMFS5 && o.SizeBytes <= p.dataLen:
		s.UnitBytes, s.AddrType = w.fs.sbc.bytes, zlaResident
		l.resident, l.residentAt, l.addrs = true, l.at+p.data, nil
	case o.Provisioning == Thin && o.SizeBytes <= w.fs.sbc.bytes:
		s.UnitBytes, s.AddrType = w.fs.sbc.bytes, zlaSubBlocks
	case blocks <= p.arrayLen:
	case blocks <= p.arrayLen*w.fs.pointers:
		s.AddrType = zlaPointers
	default:
		s.AddrType = zlaDouble
	}
	l.unit, l.zla = s.UnitBytes, s.AddrType
	w.open++
	return &FileWriter{w: w, n: n, name: name}, nil
}

// start writes the descriptor, whose content a resident file needs, and takes the blocks
// of thick files from one on.
func (x *FileWriter) start(p Provisioning, from int64) error {
	if x.n.layout.resident && from == 0 {
		if err := x.w.m.zero(x.n.layout.at, x.w.fs.header.fdBytes()); err != nil {
			return err
		}
	}
	if p == Thin {
		return nil
	}
	blocks := x.units(x.Size())
	for index := from; index < blocks; index++ {
		number, err := x.takeBlock(blocks - index)
		if err != nil {
			return err
		}
		a := x.w.fs.header.blockAddress(number)
		if p == ZeroedThick {
			a |= tbzBit
			x.n.stat.TBZ++
		} else if err := x.w.m.zero(int64(number)*x.n.layout.unit, x.n.layout.unit); err != nil {
			return err
		}
		x.n.stat.Units++
		if err := x.set(index, a); err != nil {
			return err
		}
	}
	return nil
}

// takeBlock takes a file block; more says how many will be wanted.
func (x *FileWriter) takeBlock(more int64) (uint64, error) {
	if len(x.spare) == 0 {
		const most = 200
		var err error
		x.spare, err = x.w.blocks.take(int(min(more, most)))
		if errors.Is(err, ErrFull) && more > 1 {
			x.spare, err = x.w.blocks.take(1)
		}
		if err != nil {
			return 0, err
		}
	}
	n := x.spare[0]
	x.spare = x.spare[1:]
	return n, nil
}

// Ordered implements disk.Writer: calls come one at a time.
func (x *FileWriter) Ordered() bool { return true }

// Size is the length of the file.
func (x *FileWriter) Size() int64 { return x.n.stat.SizeBytes }

// WriteAt writes p. Zeros into what reads as zeros take no blocks. Zeros behind the end,
// which fill the last sector of a disk, are dropped.
func (x *FileWriter) WriteAt(p []byte, off int64) (int, error) {
	if x.done {
		return 0, pathError("write", x.name, fs.ErrClosed)
	}
	n := len(p)
	if end := off + int64(n); off >= 0 && off <= x.Size() && end > x.Size() && end-x.Size() < disk.SectorSize && disk.IsZero(p[x.Size()-off:]) {
		p = p[:x.Size()-off]
	}
	if off < 0 || off > x.Size() || int64(len(p)) > x.Size()-off {
		return 0, pathError("write", x.name, fmt.Errorf("%d bytes at %d are behind the end of %d bytes: %w", len(p), off, x.Size(), fs.ErrInvalid))
	}
	if err := x.write(p, off); err != nil {
		return 0, pathError("write", x.name, err)
	}
	return n, nil
}

// SetName gives the file another name than the one it was created with, until Close. That
// has to be free then, in a directory that is there.
func (x *FileWriter) SetName(name string) { x.name = name }

// ZeroAt makes n bytes at off zero; they keep the blocks they have. A last part of a
// sector may be counted whole.
func (x *FileWriter) ZeroAt(off, n int64) error {
	b := make([]byte, min(n, x.n.layout.unit))
	for n > 0 {
		part := min(n, x.n.layout.unit-off%x.n.layout.unit)
		if _, err := x.WriteAt(b[:part], off); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

func (x *FileWriter) write(p []byte, off int64) error {
	l := &x.n.layout
	if l.resident {
		return x.w.m.write(p, l.residentAt+off)
	}
	for len(p) > 0 {
		in := off % l.unit
		n := min(int64(len(p)), l.unit-in)
		if err := x.writeUnit(off/l.unit, in, p[:n], (int64(len(p))+l.unit-1)/l.unit); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// writeUnit writes into a block or a sub-block; more says how many will be written to.
func (x *FileWriter) writeUnit(index, in int64, p []byte, more int64) error {
	l := &x.n.layout
	a, _, err := l.addressOf(index, 0)
	if err != nil {
		return err
	}
	if a != 0 && (a&tbzBit == 0 || a.kind() != kindBlock) {
		s, err := l.data(a, 0, 0)
		if err != nil {
			return err
		}
		return x.w.m.write(p, s.offset+in)
	}
	if !x.dense && disk.IsZero(p) {
		return nil
	}
	at := int64(0)
	fresh := a == 0
	switch {
	case !fresh:
		a &^= tbzBit
		at, _, _ = x.w.fs.header.block(a)
	case l.zla == zlaSubBlocks:
		numbers, err := x.w.sbc.take(1)
		if err != nil {
			return err
		}
		id := x.w.sbc.id(numbers[0])
		a = id.address(kindSubBlock)
		if at, err = x.w.offset(x.w.fs.sbc, id); err != nil {
			return errors.Join(err, x.w.sbc.release(numbers))
		}
	default:
		number, err := x.takeBlock(more)
		if err != nil {
			return err
		}
		a = x.w.fs.header.blockAddress(number)
		at = int64(number) * l.unit
	}
	if err := x.fill(at, in, p); err != nil {
		return err
	}
	if fresh {
		x.n.stat.Units++
	} else {
		x.n.stat.TBZ--
	}
	return x.set(index, a)
}

// fill writes a block that has had anything so far: p into it, and zeros around.
func (x *FileWriter) fill(at, in int64, p []byte) error {
	if err := x.w.m.zero(at, in); err != nil {
		return err
	}
	if err := x.w.m.write(p, at+in); err != nil {
		return err
	}
	end := in + int64(len(p))
	return x.w.m.zero(at+end, x.n.layout.unit-end)
}

// set puts the address of a unit in its place, and takes pointer blocks that are needed.
func (x *FileWriter) set(index int64, a address) error {
	l, p := &x.n.layout, x.w.fs.pointers
	switch l.zla {
	case zlaPointers:
		at, err := x.pointerBlock(&l.addrs[index/p], kindPointers)
		if err != nil {
			return err
		}
		return x.setIn(at, l.addrs[index/p], index%p, a)
	case zlaDouble:
		second, _, err := l.pointersAt(index)
		if err != nil {
			return err
		}
		fresh := second == 0
		at, err := x.pointerBlock(&second, kindPointers)
		if err != nil {
			return err
		}
		if err := x.setIn(at, second, index%p, a); err != nil || !fresh {
			return err
		}
		return x.setPointers(index, second)
	}
	l.addrs[index] = a
	return nil
}

// setPointers puts the address of a pointer block in its place: that of the addresses of a
// unit and its neighbours.
func (x *FileWriter) setPointers(index int64, a address) error {
	l, p := &x.n.layout, x.w.fs.pointers
	if l.zla == zlaPointers {
		l.addrs[index/p] = a
		return nil
	}
	first := &l.addrs[index/p/p]
	at, err := x.pointerBlock(first, kindPointers2)
	if err != nil {
		return err
	}
	return x.setIn(at, *first, index/p%p, a)
}

// pointerBlock returns where in the volume a pointer block is; if there is none, it is
// made.
func (x *FileWriter) pointerBlock(a *address, k kind) (int64, error) {
	al := x.w.pbc
	if k == kindPointers2 {
		al = x.w.pb2
	}
	if *a != 0 {
		if a.kind() != k {
			return 0, x.n.layout.corrupt("address of a pointer block", 0, "%x, %v", uint64(*a), a.kind())
		}
		return x.w.offset(al.res, x.w.fs.header.resource(*a))
	}
	numbers, err := al.take(1)
	if err != nil {
		return 0, err
	}
	id := al.id(numbers[0])
	at, err := x.w.offset(al.res, id)
	if err == nil {
		err = x.w.m.zero(at, x.w.fs.pointers*4)
	}
	if err != nil {
		return 0, errors.Join(err, al.release(numbers))
	}
	x.pointers++
	*a = id.address(k)
	x.w.fs.blocks.Put(*a, make([]address, x.w.fs.pointers), x.w.fs.pointers*8) // what was there before may be known still
	return at, nil
}

// setIn writes an address into a pointer block, and into what the reader knows of it.
func (x *FileWriter) setIn(at int64, block address, index int64, a address) error {
	known, err := x.n.layout.pointerBlock(block, 0, 0)
	if err != nil {
		return err
	}
	b := make(fields, 4)
	b.put32(0, uint32(a))
	if err := x.w.m.write(b, at+4*index); err != nil {
		return err
	}
	known[index] = a
	return nil
}

// countPointers counts the pointer blocks of a file that was there before.
func (x *FileWriter) countPointers() error {
	o, err := x.w.owned(&x.n.layout)
	if err == nil {
		x.pointers = uint32(len(o.pointers) + len(o.pointers2))
	}
	return err
}

// flush writes the descriptor, but of a resident file not its content. Fields that are not
// known here stay as they are, or as they were in the file whose place it takes.
func (x *FileWriter) flush() error {
	h := x.w.fs.header
	b := h.newDescriptor(x.n, x.pointers)
	from := x.old
	if x.n.stat.Lock.kind == lockTypeFD { // of a file that was there before
		from = x.n
	}
	if from != nil {
		if err := x.w.fs.vol.readFull(b, from.stat.Offset, "file descriptor"); err != nil {
			return err
		}
		if from == x.old {
			clear(b[:lockLen])
			b.putLock(lockTypeFD, x.n.stat.Offset)
		}
		h.putDescriptor(b, x.n, x.pointers)
	}
	if x.n.layout.resident {
		b = b[:h.fdPlaces().data]
	}
	return x.w.m.write(b, x.n.stat.Offset)
}

// Close has the file appear in its directory.
func (x *FileWriter) Close() error {
	if x.done {
		return pathError("close", x.name, fs.ErrClosed)
	}
	committed, err := x.finish()
	if err != nil && !committed {
		return pathError("close", x.name, errors.Join(err, x.abort()))
	}
	x.done = true
	x.w.open--
	return pathError("close", x.name, err)
}

// finish writes what is left to be written. What is committed has to stay, even if there
// is an error.
func (x *FileWriter) finish() (committed bool, err error) {
	if err := x.w.blocks.release(x.spare); err != nil {
		return false, err
	}
	x.spare = nil
	x.w.forget()
	if x.old != nil {
		return x.replace()
	}
	dir, base, err := x.w.place(x.name)
	if err != nil {
		return false, err
	}
	if err := x.flush(); err != nil {
		return false, err
	}
	if err := x.w.m.sync(); err != nil { // before anybody sees it
		return false, err
	}
	return false, x.w.addEntry(dir, dirEntry{x.n.stat.Type, x.n.stat.Address, x.n.stat.Generation, path.Base(base)})
}

// Abort drops the file. After Close it does nothing. What cannot be given back is lost:
// Check finds it.
func (x *FileWriter) Abort() { _ = x.abort() }

func (x *FileWriter) abort() error {
	if x.done {
		return nil
	}
	x.done = true
	x.w.open--
	return x.drop()
}

// drop gives back all that the file has, but what is the old one's.
func (x *FileWriter) drop() error {
	err := x.w.blocks.release(x.spare)
	x.spare = nil
	return errors.Join(err, x.w.drop(x.n, x.old))
}
